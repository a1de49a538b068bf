"""A running domain becomes a stream: `xl save -p` into a pipe.

`xl save -p` suspends the domain, writes it, and leaves it paused: unpausing takes everything back
and destroying completes it. When the write fails, `xl` resumes the domain by itself
(tools/xl/xl_saverestore.c, save_domain). It opens the file that it is given, so the pipe is named
by way of /proc/self/fd.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from storage.contracts import Backing
from xenmoved.tasks import at_most
from xenmoved.toolstack.commands import Process, TaggedProcess, working_on
from xenmoved.toolstack.durable import check_migration, remove_files
from xenmoved.toolstack.interface import (
    STALL,
    SUSPEND_PATIENCE,
    DomainState,
    DomainStatus,
    ToolstackError,
    ToolstackStalled,
)
from xenmoved.toolstack.lookup import STOPPED, Lookup, require_named
from xenmoved.toolstack.pipes import ReadEnd, enlarged_pipe

_POLL: Final = 0.05
_EXIT_TIMEOUT: Final = 60.0
# libxl waits 60 s for a guest to acknowledge a suspend request before it takes it back.
_ROLLBACK_TIMEOUT: Final = 150.0
_ENDED: Final = (
    DomainState.SHUTDOWN,
    DomainState.REBOOTING,
    DomainState.CRASHED,
    DomainState.DYING,
)


class XlOutgoing:
    """`OutgoingImage` of `xl`, with `xl save`."""

    verb = "save"
    stopped: tuple[DomainState, ...] = STOPPED

    def __init__(self, lookup: Lookup, migration: str, name: str, spool: Path) -> None:
        self._lookup = lookup
        self._migration = check_migration(migration)
        self._name = name
        self._spool = spool
        self._log = spool / f"{migration}.{self.verb}.log"
        self._process: Process | None = None
        self._stands = False
        self._pipe: ReadEnd | None = None

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Begin to suspend and save the domain."""
        self._require_running(await self._lookup.all())
        read, write = enlarged_pipe()
        pipe = ReadEnd(read)
        try:
            self._process = self._lookup.commands.spawn(
                "save",
                "-p",
                self._name,
                f"/proc/self/fd/{write}",
                migration=self._migration,
                log=self._log,
                pass_fds=(write,),
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write)
        self._pipe = pipe

    def _require_running(self, domains: Sequence[DomainStatus]) -> DomainStatus:
        """Return the one of the `domains` that is to be saved, if it can be; make the spool."""
        if self._process is not None:
            raise ToolstackError(f"the save of domain {self._name} was started already.")
        domain = require_named(self._name, domains)
        if domain.state is not DomainState.RUNNING:
            raise ToolstackError(
                f"domain {self._name} is {domain.state}, only a running one can be moved with its "
                "memory. Unpause it, or move it while it is shut down."
            )
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return domain

    def _started(self) -> tuple[Process, ReadEnd]:
        if self._process is None or self._pipe is None:
            raise ToolstackError(f"the save of domain {self._name} was not started.")
        return self._process, self._pipe

    async def suspended(self) -> None:
        """Wait until the domain no longer executes."""
        process, _ = self._started()
        while True:
            status = process.status()
            domain = await self._find()
            if status is not None and status != 0:
                raise process.error(f"Domain {self._name} was not saved.")
            if domain is None or domain.state in _ENDED:
                state = "gone" if domain is None else domain.state
                raise ToolstackError(f"domain {self._name} is {state}: it ended by itself.")
            if domain.state in self.stopped:
                self._stands = True
                return
            if status == 0:
                raise ToolstackError(
                    f"`xl {self.verb}` of domain {self._name} is done, yet the domain is "
                    f"{domain.state}. Somebody resumed it."
                )
            await self._wait_a_little()

    async def _wait_a_little(self) -> None:
        """Wait until it is worth while to look at the domain again."""
        await asyncio.sleep(_POLL)

    async def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield the image in pieces of at most 512 KiB, to its end."""
        process, _ = self._started()
        while piece := await self._next_piece(patience):
            yield piece
        status = await process.wait(_EXIT_TIMEOUT)
        if status != 0:
            raise process.error(f"The image of domain {self._name} is incomplete.")
        self._require_stopped(await self._find())

    async def _next_piece(self, patience: float) -> bytes:
        """Read from the image. Raises ToolstackStalled when nothing comes for too long."""
        process, pipe = self._started()
        seconds = max(patience, SUSPEND_PATIENCE) if self._may_be_suspending else patience
        text = (
            f"`xl {self.verb}` of domain {self._name} (process {process.pid}) gave nothing of its "
            "memory"
        )
        async with at_most(seconds, text, ToolstackStalled):
            return await pipe.read()

    @property
    def _may_be_suspending(self) -> bool:
        """Whether `xl` may be waiting for the guest, and give nothing meanwhile."""
        return not self._stands

    def _require_stopped(self, domain: DomainStatus | None) -> None:
        """Raise unless the domain that was saved is still as its image has it."""
        state = "gone" if domain is None else domain.state
        if state not in self.stopped:
            raise ToolstackError(
                f"domain {self._name} is {state} after it was saved, expected paused or suspended. "
                "Somebody resumed or destroyed it: its image is out of date."
            )

    async def _find(self) -> DomainStatus | None:
        """Find the domain by the name that it may have now."""
        return await self._lookup.find(self._name)

    async def _saving(self) -> list[TaggedProcess]:
        return await working_on(self._migration, (self.verb,), self._process)

    async def _take_back(self) -> None:
        """Have the process that saves end, and let the domain run."""
        if self._pipe is not None:
            self._pipe.close()

    async def _give_away(self) -> None:
        """Have the process that saves end, with the domain gone or stopped."""

    async def rollback(self) -> None:
        """Make the domain run here again, whatever step was reached."""
        deadline = time.monotonic() + _ROLLBACK_TIMEOUT
        tried_resume = False
        while True:
            await self._take_back()
            # In this order: with no process left, nothing but us changes the state any more.
            saving = await self._saving()
            domain = await self._find()
            if not saving:
                if domain is None or domain.state in _ENDED:
                    break
                if domain.name != self._name:
                    await self._lookup.rename(domain, self._name)
                elif domain.state is DomainState.RUNNING:
                    break
                elif domain.state is DomainState.SUSPENDED:
                    if tried_resume:
                        raise self._unresumable(domain)
                    tried_resume = True
                    await self._lookup.commands.run("resume", str(domain.domid), check=False)
                else:
                    await self._lookup.unpause(domain)
            if time.monotonic() > deadline:
                raise self._stuck(saving, domain)
            await asyncio.sleep(_POLL)
        await self._clean_up()

    async def _clean_up(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        await remove_files(self._log)

    def _unresumable(self, domain: DomainStatus) -> ToolstackError:
        return ToolstackError(
            f"domain {self._name} (id {domain.domid}) is suspended and the `xl {self.verb}` that "
            "could resume it was killed; this host's `xl` has no working `resume` (Xen 4.20 "
            "brought it). "
            f"What is left is `xl destroy {domain.domid}` and starting it from its configuration: "
            "its disks are here as after a power failure, its memory is lost."
        )

    def _stuck(self, saving: list[TaggedProcess], domain: DomainStatus | None) -> ToolstackError:
        state = "gone" if domain is None else domain.state
        if saving:
            pids = ", ".join(str(process.pid) for process in saving)
            return ToolstackError(
                f"`xl {self.verb}` of domain {self._name} (process {pids}) has not ended within "
                f"{_ROLLBACK_TIMEOUT:g} s, the domain is {state}. Do not kill it with -9: it is "
                "what resumes the domain. Look at /var/log/xen and at the guest's console."
            )
        return ToolstackError(
            f"domain {self._name} is still {state} after {_ROLLBACK_TIMEOUT:g} s of trying to let "
            f"it run. Try `xl unpause {self._name}`."
        )

    async def discard(self) -> None:
        """Remove the suspended domain: it now lives elsewhere."""
        deadline = time.monotonic() + _EXIT_TIMEOUT
        while saving := await self._saving():
            if time.monotonic() > deadline:
                raise self._stuck(saving, await self._find())
            await self._give_away()
            await asyncio.sleep(_POLL)
        domain = await self._find()
        if domain is not None and domain.state is not DomainState.DYING:
            await self._lookup.destroy_stopped(domain)
        await self._clean_up()
