"""A stream becomes a domain, with xend: a spool file, then `xm restore -p`.

xend opens the disks while it restores, so the file is complete before it starts, which is gate
enough. The domain appears under its own name, paused. An operator's may look the same: which one is
ours is written down.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from xenmoved.toolstack.commands import Process, working_on
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.durable import (
    Ledger,
    check_migration,
    in_thread,
    remove_files,
    sync_folder,
)
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
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xm.savefile import XmImageFilter, image_limit
from xenmoved.toolstack.xm.sexpr import child_value, parse_all
from xenmoved.units import format_size

RESTORING: Final = "restoring"
BUILT: Final = "built"
COMMITTING: Final = "committing"
STARTED: Final = "started"
REFUSED: Final = "refused"
"""Words of the ledger: `xm restore` is about to run; the domain was built, with its id; it may run
from here on; it has run; there is none of ours, and there was none that ran."""

_RESTORE_TIMEOUT: Final = 1800.0
_SETTLE_TIMEOUT: Final = 60.0
_POLL: Final = 0.1


class XmIncoming:
    """`IncomingImage` of `xm`."""

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        arrival: Arrival,
        spool: Path,
        *,
        boot_folders: Readable,
        is_block: Callable[[str], bool],
    ) -> None:
        self._lookup = lookup
        self._migration = check_migration(migration)
        self._arrival = arrival
        self._spool = spool.absolute()
        self._file = self._spool / f"{arrival.name}.{migration}.xmrestore"
        self._log = self._spool / f"{migration}.receive.log"
        self._ledger = Ledger(self._spool / f"{migration}.commit")
        self._filter = XmImageFilter(arrival, boot_folders, is_block)
        self._descriptor = -1
        self._written = 0
        self._process: Process | None = None
        self._aborted = False
        self._built = False

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the guest comes without."""
        return tuple(self._filter.left_out)

    async def start(self) -> None:
        """Begin to receive."""
        if self._descriptor >= 0:
            raise ToolstackError(f"receiving domain {self._arrival.name} was started already.")
        if await self._lookup.find(self._arrival.name) is not None:
            raise ToolstackError(f"there is a domain {self._arrival.name} on this host already.")
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        await remove_files(self._log, self._ledger.path)
        if self._aborted:
            raise ToolstackError(f"domain {self._arrival.name} was given up already.")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._file, flags, 0o600)
        except OSError as error:
            raise ToolstackError(f"cannot write {self._file}: {error.strerror}.") from error

    def _write(self, data: bytes | memoryview) -> None:
        rest = [memoryview(piece) for piece in self._filter.feed(data)]
        self._written += sum(piece.nbytes for piece in rest)
        self._require_room()
        for piece in rest:
            while piece:
                piece = piece[os.write(self._descriptor, piece) :]  # noqa: PLW2901

    def _require_room(self) -> None:
        """See that no more comes than was announced: it lies in a file here. ToolstackError."""
        announced = self._arrival.announced
        size = announced.size if announced is not None else self._filter.size
        if size is not None and self._written > (limit := image_limit(size)):
            raise ToolstackError(
                f"the image of domain {self._arrival.name} has more than {format_size(limit)}, and "
                f"the domain {format_size(size.memory)} of memory."
            )

    async def _on_file(self, function: Callable[..., None], *arguments: object) -> None:
        if self._descriptor < 0:
            raise ToolstackError(f"receiving domain {self._arrival.name} was not started.")
        try:
            await in_thread(function, *arguments)
        except OSError as error:
            raise ToolstackError(
                f"cannot write {self._file}: {error.strerror}. It takes as much room as the "
                "domain has memory."
            ) from error

    async def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the image."""
        await self._on_file(self._write, data)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        sync_folder(self._spool)

    async def build(self) -> None:
        """Restore the domain, paused."""
        if self._built:
            return
        if not self._filter.configured:
            raise ToolstackError(f"the image of domain {self._arrival.name} is incomplete.")
        await in_thread(self._filter.judge_again)
        await self._on_file(self._sync)
        await self._restore()
        domain = await self._find_ours()
        await self._ledger.write(REFUSED if domain is None else f"{BUILT}:{domain.domid}")
        if domain is None or domain.state is not DomainState.PAUSED:
            state = "gone" if domain is None else domain.state
            raise ToolstackError(
                f"domain {self._arrival.name} is {state} after `xm restore -p`, expected paused."
            )
        self._built = True

    async def _restore(self) -> None:
        await self._require_alone()
        await self._ledger.write(RESTORING)
        self._process = self._lookup.commands.spawn(
            "restore", "-p", str(self._file), migration=self._migration, log=self._log
        )
        if (status := await self._process.wait(_RESTORE_TIMEOUT)) == 0:
            return
        if status is not None and status > 0:
            # xend has removed what it began. One that is there now is what was in its way.
            await self._ledger.write(REFUSED)
        raise self._process.error(f"Domain {self._arrival.name} could not be built.")

    async def _require_alone(self) -> None:
        """See that no domain here has the name or uuid of ours. Raises ToolstackError."""
        name, uuid = self._arrival.name, normal_uuid(self._arrival.uuid)
        result = await self._lookup.commands.run("list", "-l")
        for one in parse_all(result.stdout):
            if child_value(one, "name") == name or normal_uuid(child_value(one, "uuid")) == uuid:
                raise ToolstackError(
                    f"domain {child_value(one, 'name')} (id {child_value(one, 'domid')}), started "
                    f"meanwhile, has the uuid or name of {name}."
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
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        await remove_files(self._file, self._log)

    async def _find_ours(self) -> DomainStatus | None:
        """Find the arriving domain, unless it is dying: by the id that was written down.

        By its name only where it was about to be built, as whoever did it may have died in that,
        and where an earlier release wrote no id. What was built has ended with its boot.
        """
        word, domid, this_boot = self._word()
        if not this_boot or (domid is None and word not in {RESTORING, COMMITTING}):
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
                uuids = [normal_uuid(child_value(e, "uuid")) for e in parse_all(result.stdout)]
                return domain if normal_uuid(self._arrival.uuid) in uuids else None
        return None

    def _word(self) -> tuple[str, int | None, bool]:
        """Read what was written down: the word, the id of our domain, if it is of this boot.

        Earlier releases wrote nothing before they let the domain run: that they were about to build
        it, the log of `xm restore` tells.
        """
        word, domid, this_boot = self._ledger.read_with_domain()
        if not word and self._log.exists():
            word = RESTORING
        return word, domid, this_boot

    async def _restoring(self) -> bool:
        return bool(await working_on(self._migration, ("restore",), self._process))

    def _undecided(self) -> ToolstackError:
        return ToolstackError(
            f"domain {self._arrival.name} was cleared to start here, is not here now, and nothing "
            "tells whether it ever ran. Look at /var/log/xen/xend.log and at its disks here. If "
            "it did run, its disks here are the newer ones: start it here from its configuration; "
            "otherwise let the source resume it."
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
            restoring = await self._restoring()
            domain = await self._find_ours()
            if domain is not None and domain.state is not DomainState.PAUSED:
                await self._ledger.write(STARTED)
                await self._clean()
                return Settled.RUNNING
            if not restoring:
                if domain is not None:
                    await self._ledger.write(f"{COMMITTING}:{domain.domid}")
                    await self._lookup.unpause(domain)
                else:
                    settled = await self._account()
                    await self._clean()
                    return settled
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"domain {self._arrival.name} stays paused or is still being restored after "
                    f"{_SETTLE_TIMEOUT:g} s; see /var/log/xen/xend.log."
                )
            await asyncio.sleep(_POLL)

    async def _account(self) -> Settled:
        """Decide by what was written down, when neither domain nor `xm restore` is left."""
        word, _, this_boot = self._word()
        if word != COMMITTING:
            return Settled.ABSENT
        if this_boot:
            raise self._undecided()
        domain = await self._find(None)  # started anew since then, if it is there
        runs = domain is not None and domain.state is not DomainState.PAUSED
        return Settled.RUNNING if runs else Settled.ENDED

    async def declare_never_started(self) -> None:
        """Let `abort` destroy it although it may have been started, unless it runs."""
        word, domid, this_boot = self._word()
        if word in {COMMITTING, STARTED}:
            by_name = RESTORING if word == COMMITTING and this_boot else REFUSED
            await self._ledger.write(by_name if domid is None else f"{BUILT}:{domid}")

    async def abort(self) -> None:
        """Destroy what was built and remove spool files, unless the domain was committed.

        Nothing is started after that.
        """
        self._aborted = True
        word, _, _ = self._word()
        if word in {COMMITTING, STARTED} and await self.settle() is not Settled.ABSENT:
            return
        deadline = time.monotonic() + _RESTORE_TIMEOUT
        while await self._restoring():  # xend would go on without `xm`, so wait for it
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"`xm restore` of domain {self._arrival.name} does not end; "
                    "see /var/log/xen/xend.log."
                )
            await asyncio.sleep(_POLL)
        domain = await self._find_ours()
        if domain is not None and domain.state is DomainState.PAUSED:
            await self._lookup.destroy_stopped(domain)
        await self._clean()
        await remove_files(self._ledger.path)
