"""A domain that one command builds, paused, from a file: which one is ours is written down.

That is `restore -p` of `xm`, and `create -p` of either toolstack. The command opens the disks, so
it begins only when all is complete: this is gate enough. The domain appears under its own name,
paused, and an operator's may look the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final, NoReturn

from xenmoved.toolstack.commands import Process, working_on
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.durable import Ledger, check_migration, remove_files
from xenmoved.toolstack.interface import (
    Arrival,
    DomainState,
    DomainStatus,
    Settled,
    StartFailed,
    ToolstackError,
    named,
)
from xenmoved.toolstack.lookup import Lookup

BUILDING: Final = "restoring"
BUILT: Final = "built"
COMMITTING: Final = "committing"
STARTED: Final = "started"
REFUSED: Final = "refused"
"""Words of the ledger: the command is about to run; the domain was built, with its id; it may run
from here on; it has run; there is none of ours, and there was none that ran."""

_SETTLE_TIMEOUT: Final = 60.0
_POLL: Final = 0.1

Read = Callable[[str], Sequence[tuple[str, str, str]]]
"""Reads `list -l`: names, ids and uuids of domains."""


class PausedIncoming:
    """What images have in common that become a domain by one command. Construction does nothing.

    `file` is the name of the file in the spool, `read` what reads the list of domains.
    """

    verb: ClassVar[str]
    """The command of the toolstack that builds the domain."""
    build_timeout: ClassVar[float]
    logs: ClassVar[str] = "/var/log/xen"

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        arrival: Arrival,
        spool: Path,
        *,
        file: str,
        read: Read,
    ) -> None:
        self._lookup = lookup
        self._migration = check_migration(migration)
        self._arrival = arrival
        self._spool = spool.absolute()
        self._file = self._spool / file
        self._log = self._spool / f"{migration}.receive.log"
        self._ledger = Ledger(self._spool / f"{migration}.commit")
        self._read = read
        self._process: Process | None = None
        self._aborted = False
        self._built = False

    @property
    def _command(self) -> str:
        return f"{self._lookup.commands.prefix[-1].rpartition('/')[2]} {self.verb}"

    async def _get_ready(self) -> None:
        """See that no domain has its name, and that it was not given up. Raises ToolstackError."""
        if await self._lookup.find(self._arrival.name) is not None:
            raise ToolstackError(f"there is a domain {self._arrival.name} on this host already.")
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        await remove_files(self._log, self._ledger.path)
        if self._aborted:
            raise ToolstackError(f"domain {self._arrival.name} was given up already.")

    async def _build(self) -> None:
        """Run the command, and write down which domain it has built. Raises ToolstackError."""
        await self._run_command()
        domain = await self._find_ours()
        await self._ledger.write(REFUSED if domain is None else f"{BUILT}:{domain.domid}")
        if domain is None or domain.state is not DomainState.PAUSED:
            state = "gone" if domain is None else domain.state
            raise ToolstackError(
                f"domain {self._arrival.name} is {state} after `{self._command} -p`, expected "
                "paused."
            )
        self._built = True

    async def _run_command(self) -> None:
        await self._require_alone()
        await self._ledger.write(BUILDING)
        self._process = self._lookup.commands.spawn(
            self.verb, "-p", str(self._file), migration=self._migration, log=self._log
        )
        if (status := await self._process.wait(self.build_timeout)) == 0:
            return
        if status is not None and status > 0:
            # The toolstack has removed what it began. One that is there now was in its way.
            await self._ledger.write(REFUSED)
        raise self._process.error(f"Domain {self._arrival.name} could not be built.")

    async def _require_alone(self) -> None:
        """See that no domain here has the name or uuid of ours. Raises ToolstackError."""
        result = await self._lookup.commands.run("list", "-l")
        for name, domid, uuid in self._read(result.stdout):
            if name == self._arrival.name or uuid == normal_uuid(self._arrival.uuid):
                raise ToolstackError(
                    f"domain {name} (id {domid}), started meanwhile, has the uuid or name of "
                    f"{self._arrival.name}."
                )

    async def commit(self) -> None:
        """Let the domain run."""
        if not self._built:
            raise ToolstackError(f"domain {self._arrival.name} is not built yet.")
        _, domid, _ = self._word()
        await self._ledger.write(f"{COMMITTING}:{domid}")
        domain = await self._find_ours()
        if domain is None:  # somebody destroyed it before it could run
            await self._refuse("it is not there any more")
        elif domain.state is DomainState.PAUSED:
            try:
                await self._lookup.unpause(domain)
            except ToolstackError as error:
                left = await self._find_ours()
                if left is None:
                    raise self._undecided() from error
                if left.state is DomainState.PAUSED:  # as it was built: it has never run
                    await self._lookup.destroy_stopped(left)
                    await self._refuse(str(error))
        await self._ledger.write(STARTED)
        await self._clean()

    async def _refuse(self, why: str) -> NoReturn:
        await self._ledger.write(REFUSED)
        await self._clean()
        raise StartFailed(
            f"domain {self._arrival.name} could not be started here and its copy is destroyed: "
            f"{why}"
        )

    async def _clean(self) -> None:
        await remove_files(self._file, self._log)

    async def _find_ours(self) -> DomainStatus | None:
        """Find the arriving domain, unless it is dying: by the id that was written down.

        By its name only where it was about to be built, as whoever did it may have died in that,
        and where an earlier release wrote no id. What was built has ended with its boot.
        """
        word, domid, this_boot = self._word()
        if not this_boot or (domid is None and word not in {BUILDING, COMMITTING}):
            return None
        return await self._find(domid)

    async def _find(self, domid: int | None) -> DomainStatus | None:
        """Find a domain with the uuid of ours, by its id, else by our name, unless it is dying."""
        for last in (False, False, True):
            domains = await self._lookup.all()
            if domid is None:
                domain = named(self._arrival.name, domains)
            else:
                domain = next((one for one in domains if one.domid == domid), None)
            if domain is None or domain.state is DomainState.DYING:
                return None
            result = await self._lookup.commands.run("list", "-l", str(domain.domid), check=last)
            if result.status == 0:  # otherwise it went away in between
                uuids = [uuid for _, _, uuid in self._read(result.stdout)]
                if not uuids:
                    # Whoever built it was killed in that.
                    uuids = await self._lookup.uuids(domain)
                return domain if normal_uuid(self._arrival.uuid) in uuids else None
        return None

    def _word(self) -> tuple[str, int | None, bool]:
        """Read what was written down: the word, the id of our domain, if it is of this boot.

        Earlier releases wrote nothing before they let the domain run: that they were about to build
        it, the log of what builds it tells.
        """
        word, domid, this_boot = self._ledger.read_with_domain()
        if not word and self._log.exists():
            word = BUILDING
        return word, domid, this_boot

    async def _building(self) -> bool:
        return bool(await working_on(self._migration, (self.verb,), self._process))

    def _undecided(self) -> ToolstackError:
        return ToolstackError(
            f"domain {self._arrival.name} was cleared to start here, is not here now, and nothing "
            f"tells whether it ever ran. Look at {self.logs} and at its disks here. If it did run, "
            "its disks here are the newer ones: start it here from its configuration; otherwise "
            "let the source have it."
        )

    async def settle(self) -> Settled:
        """Wait until it is decided whether the domain lives here, and tell.

        Raises ToolstackError when it was cleared to go and is not here any more.
        """
        if self._word()[0] == STARTED:
            await self._clean()
            return Settled.RUNNING
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        while True:
            building = await self._building()
            domain = await self._find_ours()
            if domain is not None and domain.state is not DomainState.PAUSED:
                await self._ledger.write(STARTED)
                await self._clean()
                return Settled.RUNNING
            if not building:
                if domain is not None:
                    await self._ledger.write(f"{COMMITTING}:{domain.domid}")
                    await self._lookup.unpause(domain)
                else:
                    settled = await self._account()
                    await self._clean()
                    return settled
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"domain {self._arrival.name} stays paused or is still being built after "
                    f"{_SETTLE_TIMEOUT:g} s; see {self.logs}."
                )
            await asyncio.sleep(_POLL)

    async def _account(self) -> Settled:
        """Decide by what was written down, when neither is left."""
        word, _, this_boot = self._word()
        if word != COMMITTING:
            return Settled.ABSENT
        domain = await self._find(None)  # started anew since then, if it is there
        if domain is not None and domain.state is not DomainState.PAUSED:
            return Settled.RUNNING
        if this_boot:
            raise self._undecided()
        return Settled.ENDED

    async def declare_never_started(self) -> None:
        """Let `abort` destroy it although it may have been started, unless it runs."""
        word, domid, this_boot = self._word()
        if word in {COMMITTING, STARTED}:
            by_name = BUILDING if word == COMMITTING and this_boot else REFUSED
            await self._ledger.write(by_name if domid is None else f"{BUILT}:{domid}")

    async def abort(self) -> None:
        """Destroy what was built and remove spool files, unless the domain was committed.

        Nothing is started after that.
        """
        self._aborted = True
        word, _, _ = self._word()
        if word in {COMMITTING, STARTED} and await self.settle() is not Settled.ABSENT:
            return
        deadline = time.monotonic() + self.build_timeout
        while await self._building():  # xend would go on without `xm`, so wait for it
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"`{self._command}` of domain {self._arrival.name} does not end; see "
                    f"{self.logs}."
                )
            await asyncio.sleep(_POLL)
        domain = await self._find_ours()
        if domain is not None and domain.state is DomainState.PAUSED:
            await self._lookup.destroy_stopped(domain)
        await self._clean()
        await remove_files(self._ledger.path)
