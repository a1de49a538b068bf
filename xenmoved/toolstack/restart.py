"""A guest that is shut down here to be started on another host: its disks travel, no memory does.

What starts it is disabled before it is asked to shut down, so that nobody starts it from disks that
are the other host's already. Taken back, it is started here again from the file that it has, or
from a text that was composed while it ran. A word in the spool tells how far it had come.

A request to shut down cannot be taken back: a guest may follow it minutes later. So whoever takes
the guest back waits for its end as long as whoever shut it down would have.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn

from storage.contracts import Backing
from xenmoved.files import sync_folder, write_file
from xenmoved.toolstack.commands import Process, working_on
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.durable import Ledger, check_migration, in_thread, remove_files
from xenmoved.toolstack.interface import (
    STALL,
    DomainState,
    DomainStatus,
    StartedAnew,
    StaysOn,
    ToolstackError,
    named,
)
from xenmoved.toolstack.lookup import Lookup, require_named

log = logging.getLogger(__name__)

ASIDE: Final = "aside"
ASKED: Final = "asked"
"""Words of the ledger, with the id of the domain: what starts it is about to be disabled, and it
was not asked for anything; it is about to be asked to shut down."""

ANEW_WITHIN: Final = 6.0
"""Seconds within which a toolstack has a guest back that reboots. `xl` waits 2 s before it builds
it (tools/xl/xl_vmcontrol.c, create_domain)."""
_LEFT_WITHIN: Final = 10.0
"""Seconds after which nobody is there who destroys a domain that has powered off."""
_CREATE_TIMEOUT: Final = 300.0
_STUCK: Final = 60.0
_POLL: Final = 0.15

Compose = Callable[[str], Awaitable[str | None]]


class RestartOutgoing:
    """`OutgoingImage` without memory, of a domain that runs and is shut down.

    It has `patience` seconds for that. `tells`: the table of domains shows why one has shut down.
    `compose` makes the text of a file for a domain that has none.
    """

    def __init__(
        self,
        lookup: Lookup,
        configs: ConfigFolder,
        migration: str,
        name: str,
        uuid: str,
        *,
        spool: Path,
        patience: float,
        tells: bool,
        compose: Compose,
    ) -> None:
        self._lookup = lookup
        self._configs = configs
        self._migration = check_migration(migration)
        self._name = name
        self._uuid = uuid
        self._spool = spool.absolute()
        self._patience = patience
        self._tells = tells
        self._compose = compose
        self._ledger = Ledger(self.ledger(migration, self._spool))
        self._file = self._spool / f"{migration}.from"
        self._composed = self._spool / f"{migration}.cfg"
        self._log = self._spool / f"{migration}.create.log"
        self._domid: int | None = None
        self._deadline: float | None = None
        self._off_since: float | None = None
        self._gone_at: float | None = None
        self._process: Process | None = None

    @staticmethod
    def ledger(migration: str, spool: Path) -> Path:
        """Path of what is remembered of a migration."""
        return spool / f"{check_migration(migration)}.restart"

    @classmethod
    def was_begun(cls, migration: str, spool: Path) -> bool:
        """Whether a migration was begun in this way, maybe by an earlier process."""
        return cls.ledger(migration, spool).exists()

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Disable what starts the domain, and ask it to shut down."""
        domain = require_named(self._name, await self._lookup.all())
        if domain.state is not DomainState.RUNNING:
            raise ToolstackError(
                f"domain {self._name} is {domain.state}, only a running one can be shut down."
            )
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._note_file()
        self._domid = domain.domid
        await self._ledger.write(f"{ASIDE}:{domain.domid}")
        await self._configs.set_aside(self._name, self._uuid)
        await self._ledger.write(f"{ASKED}:{domain.domid}")
        self._deadline = monotonic() + self._patience
        await self._ask(domain)

    async def _note_file(self) -> None:
        """Note from what the domain is started again, while it can be seen which file is its own.

        Raises ToolstackError where there is nothing.
        """
        files = await self._configs.files(self._name, self._uuid)
        mine = [file for file in files if file.is_of(self._name, self._uuid) is not False]
        if mine:
            await in_thread(_link, self._file, mine[0].path)
            return
        text = await self._compose(self._name)
        if text is None:
            raise ToolstackError(f"domain {self._name} has no file from which it can be started.")
        await in_thread(write_file, self._composed, text)

    async def _ask(self, domain: DomainStatus) -> None:
        """Ask it to shut down; one that listens to nothing of Xen's, by its power button."""
        result = await self._lookup.commands.run("shutdown", str(domain.domid), check=False)
        if result.status != 0 and "-F" in result.stderr:
            log.warning("%s has no drivers for Xen: its power button is pressed", self._name)
            result = await self._lookup.commands.run(
                "shutdown", "-F", str(domain.domid), check=False
            )
        if result.status != 0:
            await self._ledger.write(f"{ASIDE}:{domain.domid}")
            raise result.error(f"Domain {self._name} was not asked to shut down, and runs on.")

    async def suspended(self) -> None:
        """Wait until the domain has shut down and is gone, for good.

        Raises StaysOn when it does not, StartedAnew when it was started again or reboots, or
        ToolstackError.
        """
        while not self._is_gone_for_good:
            await asyncio.sleep(_POLL)
            domains = await self._alive()
            ours = self._asked(domains)
            if (other := named(self._name, domains)) is not None and other is not ours:
                raise StartedAnew(
                    f"domain {self._name} (id {other.domid}) is here in place of the one that was "
                    f"asked to shut down (id {self._domid}): it rebooted, or somebody started it."
                )
            self._note_gone(ours is None)
            if ours is not None:
                await self._require_on_its_way(ours)

    def _note_gone(self, gone: bool) -> None:
        self._gone_at = (self._gone_at or monotonic()) if gone else None

    @property
    def _is_gone_for_good(self) -> bool:
        """Whether nobody builds it again: it was seen to power off, or time enough has passed."""
        if self._gone_at is None:
            return False
        sure = self._tells and self._off_since is not None
        return sure or monotonic() > self._gone_at + ANEW_WITHIN

    async def _alive(self) -> list[DomainStatus]:
        domains = await self._lookup.all()
        return [domain for domain in domains if domain.state is not DomainState.DYING]

    def _asked(self, domains: Sequence[DomainStatus]) -> DomainStatus | None:
        return next((domain for domain in domains if domain.domid == self._domid), None)

    async def _require_on_its_way(self, ours: DomainStatus) -> None:
        """See that the domain still may become one that is gone, and have it go when it is off."""
        name = self._name
        if ours.state is DomainState.REBOOTING:
            raise StartedAnew(f"domain {name} reboots, where it was asked to shut down.")
        if ours.state is DomainState.CRASHED:
            raise ToolstackError(f"domain {name} crashed, where it was asked to shut down.")
        if ours.state is DomainState.SHUTDOWN:
            await self._see_it_go(ours)
        assert self._deadline is not None
        more = _STUCK if ours.state is DomainState.SHUTDOWN else 0.0
        if monotonic() > self._deadline + more:
            raise StaysOn(
                f"domain {name} (id {ours.domid}) is {ours.state} {self._patience:g} s after it "
                "was asked to shut down."
            )

    async def _see_it_go(self, ours: DomainStatus) -> None:
        """Destroy what has powered off, if nobody else does: it executes nothing any more."""
        self._off_since = self._off_since or monotonic()
        if self._tells and monotonic() > self._off_since + _LEFT_WITHIN:
            log.warning("%s has powered off, and nobody destroys its domain", self._name)
            await self._lookup.destroy_stopped(ours, (DomainState.SHUTDOWN,))

    async def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield nothing: there is no memory."""
        return
        yield

    async def rollback(self) -> None:
        """Enable what was disabled, and have the domain run, if it was asked to shut down."""
        word, self._domid, _ = self._ledger.read_with_domain()
        if not word:
            return
        await self._configs.release_autostart(self._name)
        if word == ASKED:
            await self._have_it_run()
        await self._clean_up()

    async def _have_it_run(self) -> None:
        """Wait for the end of a domain that was asked, and start it anew.

        One that has not ended when its time is over runs on.
        """
        deadline = self._deadline = self._deadline or monotonic() + self._patience
        while True:
            creating = await working_on(self._migration, ("create",), self._process)
            domains = await self._alive()
            there = self._asked(domains) or named(self._name, domains)
            self._note_gone(there is None)
            if self._is_gone_for_good and not creating:
                return await self._create()  # what it does from now on is its own
            if there is not None and there.state is DomainState.RUNNING:
                if there.domid != self._domid or monotonic() > deadline:
                    return None
            elif there is not None and there.state is DomainState.SHUTDOWN:
                await self._see_it_go(there)
            elif there is not None:
                self._off_since = None  # it may be built again
            if monotonic() > deadline + _STUCK:
                self._raise_stuck(there)
            await asyncio.sleep(_POLL)

    async def _create(self) -> None:
        file, what = self._composed, f"`{self._lookup.commands.prefix[-1]} create`"
        if self._file.is_symlink():
            file = self._file.readlink()
        if not os.path.lexists(file):
            raise ToolstackError(
                f"domain {self._name} was shut down, and {file}, from which it is to be started "
                f"again, is not there: put it back. Its disks are as it left them."
            )
        log.warning("%s is started again from %s", self._name, file)
        self._process = self._lookup.commands.spawn(
            "create", str(file), migration=self._migration, log=self._log
        )
        if await self._process.wait(_CREATE_TIMEOUT) != 0:
            raise self._process.error(
                f"Domain {self._name} was shut down and is not running again; when the cause is "
                f"gone, {what} does it with {file}, here or by hand. Its disks are as it left them."
            )

    def _raise_stuck(self, there: DomainStatus | None) -> NoReturn:
        state = "not there" if there is None else f"{there.state} (id {there.domid})"
        raise ToolstackError(
            f"domain {self._name} is {state}, and is to run here. Have it run: unpause it, or "
            "destroy what is left of it, so that it is started from its configuration."
        )

    async def _clean_up(self) -> None:
        # The word goes last: without it nothing is done.
        await remove_files(self._file, self._composed, self._log, self._ledger.path)

    async def discard(self) -> None:
        """Leave what starts it disabled: the domain lives elsewhere."""
        await self._clean_up()


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    sync_folder(link.parent)
