"""A guest that does not run, on its way: its configuration is what there is of it.

The sender's `NAME.cfg` is disabled before its disks are read, so that neither an operator nor the
next boot starts the guest from disks that are being copied, or that are the other host's already.
Taking the guest back puts back just what was taken. A word in the spool tells that it was begun.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from storage.contracts import Backing
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.durable import Ledger, check_migration, remove_files
from xenmoved.toolstack.interface import STALL, Arrival, Settled, ToolstackError
from xenmoved.toolstack.lookup import Lookup

_SET_ASIDE: Final = "set-aside"
_AT_BOOT: Final = "at-boot"
"""What releases before version 5 of the protocol wrote of a domain that is started at boot.

They had "by-hand" for others, and set the configuration aside for good at once.
"""


async def _require_absent(lookup: Lookup, name: str) -> None:
    if (domain := await lookup.find(name)) is not None:
        raise ToolstackError(
            f"domain {name} is {domain.state} on this host, and was to be moved while it does not "
            "run. Shut it down, or move it with its memory."
        )


class ColdOutgoing:
    """`OutgoingImage` without memory, of a domain that does not run."""

    def __init__(
        self, lookup: Lookup, configs: ConfigFolder, name: str, uuid: str, ledger: Path
    ) -> None:
        self._lookup = lookup
        self._configs = configs
        self._name = name
        self._uuid = uuid
        self._ledger = Ledger(ledger)

    @staticmethod
    def ledger(migration: str, spool: Path) -> Path:
        """Path of what is remembered of a migration."""
        return spool / f"{check_migration(migration)}.cold"

    @classmethod
    def was_begun(cls, migration: str, spool: Path) -> bool:
        """Whether a migration was begun in this way, maybe by an earlier process."""
        return cls.ledger(migration, spool).exists()

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Disable the configuration of the domain, which must not run."""
        await _require_absent(self._lookup, self._name)
        self._ledger.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._ledger.write(_SET_ASIDE)
        await self._configs.set_aside(self._name, self._uuid)

    async def suspended(self) -> None:
        """See that nobody started the domain. Raises ToolstackError."""
        await _require_absent(self._lookup, self._name)

    async def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield nothing: there is no memory."""
        return
        yield

    async def rollback(self) -> None:
        """Enable the configuration again."""
        word, _ = self._ledger.read()
        if word == _SET_ASIDE:
            await self._configs.release_autostart(self._name)
        elif word:
            at_boot = word == _AT_BOOT
            await self._configs.bring_back(self._name, self._uuid, at_boot=at_boot)
        await remove_files(self._ledger.path)

    async def discard(self) -> None:
        """Leave the configuration disabled: the domain lives elsewhere."""
        await remove_files(self._ledger.path)


class ColdIncoming:
    """`IncomingImage` without memory: whoever has its configuration has the domain."""

    def __init__(self, lookup: Lookup, arrival: Arrival) -> None:
        self._lookup = lookup
        self._arrival = arrival

    @property
    def left_out(self) -> tuple[str, ...]:
        """Nothing: only a file comes."""
        return ()

    async def start(self) -> None:
        """See that there is no such domain here."""
        await _require_absent(self._lookup, self._arrival.name)

    async def write(self, data: bytes | memoryview) -> None:
        """Refuse memory."""
        raise ToolstackError(
            f"domain {self._arrival.name} was announced as not running, and memory of it came."
        )

    async def build(self) -> None:
        """Do nothing: it is not started."""

    async def commit(self) -> None:
        """Do nothing: it is not started."""

    async def declare_never_started(self) -> None:
        """Do nothing: it is not started."""

    async def abort(self) -> None:
        """Do nothing: nothing was built."""

    async def settle(self) -> Settled:
        """Tell that the domain lives here: nothing about it can have failed."""
        return Settled.RUNNING
