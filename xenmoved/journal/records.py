"""What the journal has of guests and volumes, and how that is read from its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Any, Final

from protocol.handover import SourceState, TargetState
from storage.contracts import UNKNOWN, LastWrite, VolumeIdentity

NOBODY: Final = ""
"""Owner of what is being emptied for the peer `place` of the holding."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """A migration that leaves this host. `uuid` is the guest's, "" in records of old releases."""

    migration: str
    state: SourceState
    guest: str
    peer: str
    job: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class NotedKey:
    """The public key that a peer had proven by a certificate when a migration began.

    With it what is in doubt is settled, whatever becomes of the certificate. `address` and `port`
    are where the peer was reached, "" and 0 where it came from there.
    """

    migration: str
    peer: str
    key: str
    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Inbound:
    """A migration that comes to this host. `details` is what is known of its guest, as plain data.

    What they are is known to `migration.target.expected`, but for the three that others ask for.
    """

    migration: str
    state: TargetState
    peer: str
    reason: str
    job: str
    details: dict[str, Any]

    @property
    def guest(self) -> str:
        """Name of the guest on this host."""
        return str(self.details["name"])

    @property
    def uuid(self) -> str:
        """Uuid of the guest."""
        return str(self.details["uuid"])

    @property
    def other_name(self) -> str:
        """Name of the guest at the source, "" for the same."""
        return str(self.details.get("source_name", ""))


@dataclass(frozen=True, slots=True)
class Standing:
    """A migration that may need an operator, at the source or the target.

    `since`: the moment (seconds since 1970) at which it came into its state. `other_name`: what the
    other host calls the guest, "" for the same.
    """

    migration: str
    state: SourceState | TargetState
    guest: str
    peer: str
    job: str
    settled: bool
    since: float
    other_name: str = ""


@dataclass(frozen=True, slots=True)
class MadeVolume:
    """A volume that was made for a peer. `size` in bytes; it may grow to `disk_size` in use.

    `identity` is not known until the volume is known to be there.
    """

    migration: str
    pool: str
    name: str
    size: int
    peer: str
    identity: VolumeIdentity = UNKNOWN
    disk_size: int = 0


class Form(StrEnum):
    """In what form a volume has the data of its guest, and in what form they went from here."""

    RAW = ""
    IMAGE = "image"
    """An image, which went as it is, or in which content came."""
    CONTENT = "content"
    """An image of which only the content went: no other host has the image itself."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Whose data a volume holds: `owner` is a guest's uuid, a sync's source, or `NOBODY`.

    `identity` is the volume's. `migration` is the last one that read or wrote it, `moved_by` the
    last one with which its guest came or went. A copy that is retained is so `since` that moment
    (seconds since 1970, by a clock that may have been wrong), and its guest went to, or never came
    from, the peer `place`, and it was seen to be `kept` for so many seconds. It was `written` last
    when it was left as it is to be; None while it is being written, and where nothing tells. An
    image (`form`) is a copy of what its guest sees if its `format` is known, which is one of
    `ImageFormat`: it is "" for what is raw, and in records of old releases.
    """

    pool: str
    name: str
    owner: str
    guest: str = ""
    identity: VolumeIdentity = UNKNOWN
    migration: str = ""
    since: float | None = None
    place: str = ""
    written: LastWrite | None = None
    kept: float = 0.0
    moved_by: str = ""
    form: Form = Form.RAW
    format: str = ""


def without_what_is_done(state: TargetState, details: str = "?") -> str:
    """Return the SQL for the details of a settled migration in this state, as small as they may be.

    Its guest is installed or gone: what was to be done with it is read no more. The rest is: the
    name, the uuid, whether it was ready, and of one that has come its disks and remarks.
    """
    emptied = ", ".join(f"'$.{key}', {nothing}" for key, nothing in _DONE_WITH_GUEST.items())
    fewer = f"json_replace({details}, {emptied})"
    if state is not TargetState.ABORTED:
        return fewer
    return f"json_remove(json_replace({fewer}, '$.disks', json('{{}}')), {_NOT_OF_A_WORD})"


_DONE_WITH_GUEST: Final = {
    **dict.fromkeys(("config", "announced", "wiring"), "NULL"),
    **dict.fromkeys(("sources", "formats", "bridges"), "json('{}')"),
    **{"left_out": "json('[]')", "boot_order": "''"},
}
"""Details that are not read once a guest is settled here, and what stands for each instead."""
_NOT_OF_A_WORD: Final = ", ".join(
    f"'$.{key}'"
    for key in (
        *("announced", "wiring", "sources", "formats", "bridges", "left_out", "boot_order"),
        *("read_only", "remarks", "stayed", "shared", "unweighed"),
    )
)
"""Details that a record may be without, and that are not read of one that does not come."""


def read_standing(kind: type[SourceState] | type[TargetState], row: Iterable[Any]) -> Standing:
    """Read a row of either table."""
    migration, state, guest, peer, job, settled, since, other_name = row
    return Standing(
        migration, kind(state), guest, peer, job, bool(settled), since, other_name or ""
    )


def row_of(record: MadeVolume | Holding) -> list[object]:
    """Return the values of a row, in the order of the fields."""
    values: tuple[object, ...] = astuple(record)
    told = VolumeIdentity | LastWrite
    return [str(value) if isinstance(value, told) else value for value in values]


def _identity(text: str | None) -> VolumeIdentity:
    return VolumeIdentity(text) if text else UNKNOWN


def read_made(row: Iterable[Any]) -> MadeVolume:
    """Read a row of `made`."""
    migration, pool, name, size, peer, identity, disk_size = row
    return MadeVolume(migration, pool, name, size, peer, _identity(identity), disk_size)


def read_holding(row: Iterable[Any]) -> Holding:
    """Read a row of `owners`."""
    pool, name, owner, guest, identity, migration, since, place, written, *rest = row
    last = LastWrite.parse(str(written)) if written is not None else None
    known = pool, name, owner, guest, _identity(identity), migration
    kept, moved_by, form, image_format = rest
    return Holding(*known, since, place, last, kept, moved_by, Form(form), image_format)


def read_outbound(row: Iterable[Any]) -> Outbound:
    """Read a row of `outbound`."""
    migration, state, *rest = row
    return Outbound(migration, SourceState(state), *rest)


def read_inbound(row: Iterable[Any]) -> Inbound:
    """Read a row of `inbound`."""
    migration, state, peer, reason, job, details = row
    return Inbound(migration, TargetState(state), peer, reason, job, json.loads(details))
