"""What a next release may have more: the present source is changed so, and its daemon run.

It has a version more, with a message, and fields in messages of every kind of channel, which all
are said unless the codec leaves them out; a capability; and more in the journal. A far one is two
versions on, when nothing of the present is spoken any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.messages import OLDEST, VERSION
from xenmoved.journal.file import LAYOUT


@dataclass(frozen=True)
class Change:
    """A text in a file that is replaced by another one."""

    file: str
    old: str
    new: str

    def apply(self, folder: Path) -> None:
        """Change the file in a copy of the source. Raises AssertionError unless it fits."""
        path = folder / self.file
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        assert count == 1, (
            f"the next release does not fit: {count} times in {self.file}: {self.old}"
        )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def _field(file: str, after: str, declared: str) -> Change:
    """Return the change by which a message has a field more, behind another one."""
    return Change(f"protocol/messages/{file}.py", after, f"{after}    {declared}\n")


_SINCE: Final = f"Since({VERSION + 1})"
_GREETING: Final = "protocol/messages/greeting.py"
_OFFER: Final = "protocol/messages/offer.py"
_ROUNDS: Final = "protocol/messages/rounds.py"
_NAMES: Final = "protocol/messages/__init__.py"
_TABLE: Final = "protocol/conversation.py"
_TARGET: Final = "xenmoved/migration/target/dialogue.py"
_PEERS: Final = "xenmoved/handlers/peers.py"
_EXPECTED: Final = "xenmoved/migration/target/expected.py"


def _behind(file: str, old: str, new: str) -> Change:
    """Return the change that puts something behind a text."""
    return Change(file, old, f"{old}{new}")


def _field(file: str, last: str, name: str, kind: str, value: str) -> Change:
    """Return the change by which a message has one more field, behind the last one."""
    return _behind(file, last, f"    {name}: Annotated[{kind}, {_SINCE}] = {value}\n")


_MESSAGES: Final = f'''
@PEER.since({VERSION + 1})
@dataclass(frozen=True, slots=True)
class Census:
    """How many."""


@PEER.since({VERSION + 1})
@dataclass(frozen=True, slots=True)
class Counted:
    """So many."""

    guests: U32


'''
_ASKED: Final = f"""
        if (dialogue.version or 0) > {VERSION}:
            assert (await dialogue.ask(Census(), Counted)).guests == 41
"""
_ANSWERED: Final = """            case Census():
                return Counted(41)
"""
_END_OF_ROUND: Final = """    frames: U32
    digest: Digest


@PEER.add
@dataclass(frozen=True, slots=True)
class Receipt"""
_RECEIPT: Final = """all of it written and durable.\"""

    number: U32
    data_bytes: U63
    zero_bytes: U63
    frames: U32
    digest: Digest
"""
_VOLUMES: Final = "    volumes: Annotated[tuple[VolumeOffer, ...], Length(0, 64)]\n"
_ROOM: Final = "    room: Annotated[tuple[Room, ...], Length(0, 256)]\n"
_JOURNAL: Final = "xenmoved/journal/file.py"
_SAID_AT_THE_END: Final = f"    took: Annotated[U32, {_SINCE}] = 3\n"

NEXT_CHANGES: Final = (
    Change("xenmoved/__init__.py", '__version__ = "', '__version__ = "9.'),
    Change(_GREETING, f"VERSION: Final = {VERSION}\n", f"VERSION: Final = {VERSION + 1}\n"),
    # A capability.
    Change(_GREETING, '"zstd", "zfs-stream")', '"zstd", "zfs-stream", "sparse-map")'),
    # A message, with its answer, that a newer host asks when it pings.
    Change(_GREETING, "def greeting(", f"{_MESSAGES.lstrip()}def greeting("),
    _behind(
        "protocol/messages/__init__.py", "    Ping,\n    Room,\n", "    Census,\n    Counted,\n"
    ),
    _behind(_TABLE, "    Ping,\n", "    Census,\n    Counted,\n"),
    _behind(
        _TABLE,
        "    (Stage.IDLE, Ping): {Pong: Stage.IDLE},\n",
        "    (Stage.IDLE, Census): {Counted: Stage.IDLE},\n",
    ),
    _behind(_TARGET, "    Ping,\n", "    Census,\n    Counted,\n"),
    Change(_TARGET, "            case Ping():\n", f"{_ANSWERED}            case Ping():\n"),
    Change(_PEERS, "import Ping, Pong, newest\n", "import Census, Counted, Ping, Pong, newest\n"),
    _behind(_PEERS, "        round_trip = (monotonic() - began) / 2", _ASKED.rstrip()),
    # Fields: of a message and in another one, of an answer, of structures, of volume channels.
    _field(_OFFER, _VOLUMES, "why", "Text", '"to see"'),
    _field(_OFFER, "    moved_by: MigrationId | None\n", "sparse", "bool", "True"),
    _field(_GREETING, _ROOM, "load", "U32", "7"),
    _field(_GREETING, "    free: U63 | None\n", "fast", "bool", "True"),
    _field(_ROUNDS, "    compare: bool\n", "sparse", "bool", "True"),
    Change(
        _ROUNDS,
        _END_OF_ROUND,
        _END_OF_ROUND.replace("digest: Digest\n", f"digest: Digest\n{_SAID_AT_THE_END}"),
    ),
    _field(_ROUNDS, _RECEIPT, "took", "U32", "3"),
    Change(_ROUNDS, "from typing import Final\n", "from typing import Annotated, Final\n"),
    Change(_ROUNDS, "import U8, U16, U32, U63\n", "import U8, U16, U32, U63, Since\n"),
    Change(_GREETING, "Length, Name, Text\n", "Length, Name, Since, Text\n"),
    # The journal: what the present release could not read.
    Change(_JOURNAL, f"LAYOUT: Final = {LAYOUT}\n", f"LAYOUT: Final = {LAYOUT + 1}\n"),
    _behind(_EXPECTED, '    """Disks that were not copied."""\n', "    sparse: bool = True\n"),
    _behind("xenmoved/jobs/report.py", '    doing: Text = ""\n', '    mood: Text = "calm"\n'),
)

FAR_CHANGES: Final = (
    *NEXT_CHANGES,
    Change(_GREETING, f"VERSION: Final = {VERSION + 1}\n", f"VERSION: Final = {VERSION + 2}\n"),
    Change(_GREETING, f"OLDEST: Final = {OLDEST}\n", f"OLDEST: Final = {VERSION + 1}\n"),
)
