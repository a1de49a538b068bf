"""A running domain becomes a stream, with xend: `xm save` to a file that is read as it grows.

`xm save` destroys the domain, and from then on the file is its only copy. It is written as
`….xmsave.part` and renamed to `….xmsave` when the command has succeeded and the file is durable.
A crash in between leaves the copy in the `.part`. As soon as the domain is restored from it the
file is out of date, and is renamed to `….xmsave.restored` before the domain may run: restoring
the same memory twice, onto disks that have moved on, would destroy them.

`xm` only asks: it is xend that saves, under the name `migrating-NAME`, and goes on when `xm` is
killed (xen.git before 4.5, XendCheckpoint.py).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from storage.contracts import Backing
from xenmoved.files import sync_file
from xenmoved.toolstack.commands import Process, TaggedProcess, working_on
from xenmoved.toolstack.durable import check_migration, in_thread, remove_files
from xenmoved.toolstack.interface import (
    STALL,
    SUSPEND_PATIENCE,
    DomainState,
    DomainStatus,
    ToolstackError,
    ToolstackStalled,
)
from xenmoved.toolstack.lookup import Lookup
from xenmoved.toolstack.pipes import PIECE
from xenmoved.toolstack.xm.saved_disks import SavedDisks

SAVING_PREFIX: Final = "migrating-"

_POLL: Final = 0.05
_RESTORE_TIMEOUT: Final = 1800.0
_ROLLBACK_TIMEOUT: Final = 3600.0
_XEND_TIMEOUT: Final = 120.0
_MARGIN: Final = 64 << 20


class XmOutgoing:
    """`OutgoingImage` of `xm`."""

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        name: str,
        spool: Path,
    ) -> None:
        self._lookup = lookup
        self._migration = check_migration(migration)
        self._name = name
        # xend, another process with another working folder, opens these.
        self._spool = spool.absolute()
        self._file = self._spool / f"{name}.{migration}.xmsave"
        self._part = self._file.with_name(self._file.name + ".part")
        self._restored = self._file.with_name(self._file.name + ".restored")
        self._disks = SavedDisks(self._file.with_name(self._file.name + ".disks"))
        self._log = self._spool / f"{migration}.save.log"
        self._process: Process | None = None
        self._stands = False

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Begin to suspend and save the domain."""
        if self._process is not None:
            raise ToolstackError(f"the save of domain {self._name} was started already.")
        domain = await self._lookup.get(self._name)
        if domain.state is not DomainState.RUNNING:
            raise ToolstackError(
                f"domain {self._name} is {domain.state}, only a running one can be moved with its "
                "memory. Unpause it, or move it while it is shut down."
            )
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(self._spool).free
        if free < domain.memory + _MARGIN:
            raise ToolstackError(
                f"{self._spool} has {free >> 20} MiB free, saving domain {self._name} takes "
                f"{(domain.memory + _MARGIN) >> 20} MiB. Make room there."
            )
        if self._file.exists() or self._part.exists():
            raise ToolstackError(
                f"{self._spool} holds an image of domain {self._name} of this very migration. "
                "Roll it back first."
            )
        await self._disks.note(disks)
        if (difference := await self._disks.difference()) is not None:
            raise ToolstackError(
                f"domain {self._name} is not saved, which would end it: {difference}, and it could "
                "be restored with that only. Put back what was there, then migrate it again."
            )
        self._process = self._lookup.commands.spawn(
            "save", self._name, str(self._part), migration=self._migration, log=self._log
        )

    def _started(self) -> Process:
        if self._process is None:
            raise ToolstackError(f"the save of domain {self._name} was not started.")
        return self._process

    async def _find(self) -> DomainStatus | None:
        """Find the domain, under the name that it has while it is saved or its own."""
        domains = {domain.name: domain for domain in await self._lookup.all()}
        return domains.get(SAVING_PREFIX + self._name) or domains.get(self._name)

    async def suspended(self) -> None:
        """Wait until the domain no longer executes."""
        process = self._started()
        while True:
            status = process.status()
            domain = await self._find()
            if status is not None and status != 0:
                raise process.error(f"Domain {self._name} was not saved.")
            if domain is not None and domain.state is not DomainState.RUNNING:
                self._stands = True
                return
            if status == 0:
                if domain is None:
                    return
                raise ToolstackError(
                    f"`xm save` of domain {self._name} is done, yet the domain is {domain.state}."
                )
            await asyncio.sleep(_POLL)

    async def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield the image as it grows, to its end."""
        process = self._started()
        descriptor, grown = -1, time.monotonic()
        try:
            while True:
                status = process.status()  # before reading: what follows an exit is the rest
                if descriptor < 0 and self._part.exists():
                    descriptor = os.open(self._part, os.O_RDONLY | os.O_CLOEXEC)
                piece = await in_thread(os.read, descriptor, PIECE) if descriptor >= 0 else b""
                if piece:
                    yield piece
                    grown = time.monotonic()
                elif status is None:
                    self._check_growth(process, grown, patience)
                    await asyncio.sleep(_POLL)
                else:
                    break
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if status != 0 or descriptor < 0:
            raise process.error(f"The image of domain {self._name} is incomplete.")
        await in_thread(sync_file, self._part)
        await in_thread(self._rename, self._part, self._file)
        domain = await self._find()
        if domain is not None and domain.state is not DomainState.DYING:
            raise ToolstackError(
                f"domain {self._name} is {domain.state} after `xm save`, expected it to be gone."
            )

    def _check_growth(self, process: Process, grown: float, patience: float) -> None:
        """Raise ToolstackStalled when the file of the image has not grown for too long."""
        seconds = patience if self._stands else max(patience, SUSPEND_PATIENCE)
        if time.monotonic() - grown > seconds:
            raise ToolstackStalled(
                f"`xm save` of domain {self._name} (process {process.pid}) wrote nothing to "
                f"{self._part} within {seconds:g} s."
            )

    def _rename(self, old: Path, new: Path) -> None:
        old.replace(new)
        sync_file(new)

    async def _working(self) -> list[TaggedProcess]:
        return await working_on(self._migration, ("save", "restore"), self._process)

    async def rollback(self) -> None:
        """Make the domain run here again, whatever step was reached.

        A save that is under way cannot be taken back: it is waited for, then restored.
        """
        deadline = time.monotonic() + _ROLLBACK_TIMEOUT
        xend_deadline = time.monotonic() + _XEND_TIMEOUT
        restored = False
        while True:
            # In this order: with no process left, only xend changes the state any more.
            working = await self._working()
            domain = await self._find()
            if working:
                xend_deadline = time.monotonic() + _XEND_TIMEOUT
                if time.monotonic() > deadline:
                    pids = ", ".join(str(process.pid) for process in working)
                    raise ToolstackError(f"process {pids} has not ended; look at xend's log.")
            elif domain is None or domain.state is DomainState.DYING:
                if not await self._restore(once=restored):
                    self._require_ended_by_itself()
                    break
                restored = True
                xend_deadline = time.monotonic() + _XEND_TIMEOUT
            elif domain.name != self._name and domain.state is not DomainState.RUNNING:
                pass  # xend is at work on it
            elif domain.state is DomainState.RUNNING:
                if domain.name != self._name:
                    await self._lookup.commands.run("rename", str(domain.domid), self._name)
                break
            elif domain.state is DomainState.PAUSED:
                await self._require_disks_of_restored(domain)
                await self._retire_image()
                await self._lookup.unpause(domain)
            if not working and time.monotonic() > xend_deadline:
                state = "gone" if domain is None else domain.state
                raise ToolstackError(
                    f"domain {self._name} is {state} and nothing happens to it. Look at "
                    f"/var/log/xen/xend.log, and for its image in {self._spool}."
                )
            await asyncio.sleep(_POLL)
        await self._retire_image()
        await remove_files(self._restored, self._disks.file, self._log)

    def _require_ended_by_itself(self) -> None:
        """See that a domain that is gone was not saved before. Raises ToolstackError."""
        if self._stands or (self._process is not None and self._process.status() == 0):
            raise ToolstackError(
                f"domain {self._name} was saved, and neither it nor its image {self._file} is "
                "there any more. Start it anew from its configuration."
            )

    async def _retire_image(self) -> None:
        """Mark the image as used, so that it is never restored again. The domain is there."""
        for file in (self._part, self._file):
            if file.exists():
                await in_thread(self._rename, file, self._restored)

    async def _restore(self, *, once: bool) -> bool:
        """Restore the domain, paused, from its image. False when there is none."""
        # With the domain gone and nobody writing, the part is all that there is.
        image = self._file if self._file.exists() else self._part
        if not image.exists():
            return False
        if once:
            raise ToolstackError(
                f"domain {self._name} was restored from {image} and is gone again. The file is "
                "kept. Look at /var/log/xen/xend.log, then use `xm restore` by hand."
            )
        await self._require_same_disks(image)
        process = self._lookup.commands.spawn(
            "restore", "-p", str(image), migration=self._migration, log=self._log
        )
        if await process.wait(_RESTORE_TIMEOUT) != 0:
            raise process.error(
                f"Domain {self._name} is saved in {image}, which is its only copy; it is kept. "
                f"Use `xm restore {image}` when the cause is gone."
            )
        try:
            await self._require_same_disks(image)
        except ToolstackError:
            # It is paused, and has what came to be there meanwhile; the image is still good.
            if (domain := await self._find()) is not None and domain.state is DomainState.PAUSED:
                await self._lookup.commands.run("destroy", str(domain.domid))
            raise
        return True

    async def _require_same_disks(self, image: Path) -> None:
        """See that the domain gets the disks that it had. Raises ToolstackError."""
        if (difference := await self._disks.difference()) is not None:
            raise ToolstackError(
                f"domain {self._name} is saved in {image}, and not restored: {difference}. Put "
                "back what was there: it is tried again. If it is the disk that the domain had, "
                "and only came back as another device (a volume that was activated again), "
                f"restore it by hand: xm restore {image}"
            )

    async def _require_disks_of_restored(self, domain: DomainStatus) -> None:
        """See the same of one that is paused, and may be restored. Raises ToolstackError.

        Who restored it was perhaps killed before they looked, or is an operator.
        """
        image = self._file if self._file.exists() else self._part
        if not image.exists():  # retired after such a look
            return
        if (difference := await self._disks.difference()) is not None:
            raise ToolstackError(
                f"domain {self._name} (id {domain.domid}) is paused, its image {image} is there, "
                f"and it is not let run: {difference}. If it was restored and has another disk "
                f"now, xm destroy {domain.domid}, and put back what was there: it is restored once "
                f"more. If it has the disk that it had, let it run: xm unpause {domain.domid}"
            )

    async def discard(self) -> None:
        """Remove the image file: the domain now lives elsewhere."""
        deadline = time.monotonic() + _XEND_TIMEOUT
        while working := await self._working():
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in working)
                raise ToolstackError(f"process {pids} still works on domain {self._name}.")
            await asyncio.sleep(_POLL)
        domain = await self._find()
        if domain is not None and domain.state is not DomainState.DYING:
            raise ToolstackError(
                f"domain {self._name} (id {domain.domid}) is {domain.state} on this host, where "
                "only its image was left; it and the image are kept. Find out who restored it."
            )
        await remove_files(self._file, self._part, self._restored, self._disks.file, self._log)
