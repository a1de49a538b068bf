"""A stream becomes a domain: `xl migrate-receive`, spoken to as `xl migrate` would.

The handshake is in tools/xl/xl_migrate.c. The receiver builds the domain paused as
`NAME--incoming`; at the word it renames it and lets it run, and reports. Without the word (end of
file) it reports failure and destroys its copy, unless the report cannot be written: then it just
exits and leaves the copy behind. It says each step on stderr, which goes to a file here, so that
a later daemon can read what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from xenmoved.tasks import at_most
from xenmoved.toolstack.commands import Process, TaggedProcess, read_tail, working_on
from xenmoved.toolstack.domains import config_uuid, load_list, normal_uuid
from xenmoved.toolstack.durable import Ledger, check_migration, remove_files
from xenmoved.toolstack.interface import (
    STALL,
    Arrival,
    DomainState,
    DomainStatus,
    Settled,
    StartFailed,
    ToolstackError,
    ToolstackStalled,
    named,
)
from xenmoved.toolstack.lookup import Lookup
from xenmoved.toolstack.pipes import PipeClosed, ReadEnd, WriteEnd, enlarged_pipe
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xl.holder import BANNER, GO, READY, REPORT
from xenmoved.toolstack.xl.savefile import ImageFilter

INCOMING: Final = "--incoming"

COMMITTING: Final = "committing"
REFUSED: Final = "refused"

_BANNER_TIMEOUT: Final = 60.0
_BUILD_TIMEOUT: Final = 300.0
_COMMIT_TIMEOUT: Final = 120.0
_EXIT_TIMEOUT: Final = 30.0
_SETTLE_TIMEOUT: Final = 60.0
_DEATH_GRACE: Final = 5.0
_POLL: Final = 0.1

_HEARD: Final = "migration target: Ready to receive"
_PERMITTED: Final = "migration target: Got permission"
_STARTED: Final = "migration target: Domain started"
_DESTROYING: Final = "migration target: Failure, destroying our copy"


class XlIncoming:
    """`IncomingImage` of `xl`."""

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        arrival: Arrival,
        spool: Path,
        boot_folders: Readable,
    ) -> None:
        self._lookup = lookup
        self._migration = check_migration(migration)
        self._arrival = arrival
        self._spool = spool
        self._log = spool / f"{migration}.receive.log"
        self._ledger = Ledger(spool / f"{migration}.commit")
        self._filter = ImageFilter(arrival, boot_folders)
        self._process: Process | None = None
        self._aborted = False
        self._stdin: WriteEnd | None = None
        self._stdout: ReadEnd | None = None
        self._built = False
        self._before: frozenset[int] = frozenset()
        self._domid: int | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the guest comes without."""
        return tuple(self._filter.left_out)

    async def start(self) -> None:
        """Begin to receive."""
        if self._process is not None:
            raise ToolstackError(f"receiving domain {self._arrival.name} was started already.")
        domains = await self._lookup.all()
        for name in (self._arrival.name, self._arrival.name + INCOMING):
            if named(name, domains) is not None:
                raise ToolstackError(f"there is a domain {name} on this host already.")
        self._before = frozenset(domain.domid for domain in domains)
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        await remove_files(self._log, self._ledger.path)
        if self._aborted:  # nothing is awaited from here until the process is known to `abort`
            raise ToolstackError(f"domain {self._arrival.name} was given up already.")
        theirs_in, ours_out = enlarged_pipe()
        ours_in, theirs_out = os.pipe()
        stdin, stdout = WriteEnd(ours_out), ReadEnd(ours_in)
        try:
            self._process = self._lookup.commands.spawn(
                "migrate-receive",
                migration=self._migration,
                log=self._log,
                stdin=theirs_in,
                stdout=theirs_out,
            )
        except BaseException:
            stdin.close()
            stdout.close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._stdin, self._stdout = stdin, stdout
        await self._expect(BANNER, _BANNER_TIMEOUT, "its banner")

    def _started(self) -> tuple[Process, WriteEnd, ReadEnd]:
        if self._process is None or self._stdin is None or self._stdout is None:
            raise ToolstackError(f"receiving domain {self._arrival.name} was not started.")
        return self._process, self._stdin, self._stdout

    async def _died(self, what: str) -> ToolstackError:
        process, _, _ = self._started()
        await process.wait(_DEATH_GRACE)
        return process.error(f"Domain {self._arrival.name} could not be received ({what}).")

    async def _read(self, count: int, timeout: float, what: str) -> bytes:
        _, _, stdout = self._started()
        text = f"`xl migrate-receive` of domain {self._arrival.name} did not give {what}"
        async with at_most(timeout, text, ToolstackError):
            return await stdout.read_exactly(count)

    async def _expect(self, message: bytes, timeout: float, what: str) -> None:
        found = await self._read(len(message), timeout, what)
        if len(found) < len(message):
            raise await self._died(f"it ended before {what}")
        if found != message:
            raise ToolstackError(
                f"`xl migrate-receive` answered {found!r} where {what} was expected. "
                "Is it the `xl` of this Xen version?"
            )

    async def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the image."""
        _, stdin, _ = self._started()
        if self._filter.configured:
            pieces = self._filter.feed(data)
        else:  # reading a large configuration takes longer than the event loop may stand still
            pieces = await asyncio.to_thread(self._filter.feed, data)
        try:
            for piece in pieces:
                text = f"`xl migrate-receive` of domain {self._arrival.name} took no more of it"
                async with at_most(STALL, text, ToolstackStalled):
                    await stdin.write(piece)
        except PipeClosed as error:
            raise await self._died("it ended while its memory arrived") from error

    async def build(self) -> None:
        """Build the domain, paused."""
        _, stdin, _ = self._started()
        end = self._filter.finish()
        if self._built:
            return
        await asyncio.to_thread(self._filter.judge_again)
        try:
            await stdin.write(end)
        except PipeClosed as error:
            raise await self._died("it ended before it was complete") from error
        await self._look_around()  # while the domain is being built: its guest is suspended
        await self._expect(READY, _BUILD_TIMEOUT, "that the domain is built")
        if self._domid is None:
            await self._look_around()
        if self._domid is None:
            raise ToolstackError(
                f"`xl migrate-receive` has built domain {self._arrival.name}, and there is no "
                f"{self._arrival.name}{INCOMING} on this host. Was it destroyed, or renamed?"
            )
        self._built = True

    async def _look_around(self) -> None:
        """Note which domain is ours, and see that none of its name or uuid was started beside it.

        Raises ToolstackError.
        """
        name, domains = self._arrival.name, await self._lookup.all()
        ours = named(name + INCOMING, domains)
        for domain in domains:
            new = domain is not ours and domain.domid not in self._before
            if new and (domain.name == name or await self._has_uuid(domain)):
                raise ToolstackError(
                    f"domain {domain.name} (id {domain.domid}), started meanwhile, has the uuid or "
                    f"name of {name}."
                )
        self._domid = ours.domid if ours is not None else None

    async def commit(self) -> None:
        """Let the domain run."""
        process, stdin, _ = self._started()
        if not self._built:
            raise ToolstackError(f"domain {self._arrival.name} is not built yet.")
        await self._ledger.write(f"{COMMITTING}:{self._domid}")
        answer = b""
        with contextlib.suppress(ToolstackError):  # whatever went wrong, the host itself tells
            await stdin.write(GO)
            answer = await self._read(len(REPORT) + 1, _COMMIT_TIMEOUT, "its report")
        if answer == REPORT + b"\0":
            await process.wait(_DEATH_GRACE)
            self._close()
            return
        if answer.startswith(REPORT) and len(answer) > len(REPORT):
            with contextlib.suppress(ToolstackError):
                await self._read(len(GO), _COMMIT_TIMEOUT, "that its copy is destroyed")
        if await self.settle() is Settled.ABSENT:
            raise StartFailed(
                f"domain {self._arrival.name} could not be started here and its copy is destroyed. "
                f"`xl migrate-receive` said: {self._said()}"
            )

    def _said(self) -> str:
        lines = [line for line in read_tail(self._log, 4096).splitlines() if line.strip()]
        return " | ".join(lines[-6:]) or "nothing"

    def _close(self) -> None:
        for end in (self._stdin, self._stdout):
            if end is not None:
                end.close()

    async def _receiving(self) -> list[TaggedProcess]:
        return await working_on(self._migration, ("migrate-receive",), self._process)

    async def _find_ours(self) -> tuple[DomainStatus | None, DomainStatus | None]:
        """Find the arriving domain under its own name and under that of a copy, unless dying."""
        alive = {d.name: d for d in await self._lookup.all() if d.state is not DomainState.DYING}
        return (
            await self._if_ours(alive.get(self._arrival.name)),
            await self._if_ours(alive.get(self._arrival.name + INCOMING)),
        )

    async def _if_ours(self, domain: DomainStatus | None) -> DomainStatus | None:
        if domain is None:
            return None
        _, domid, _ = self._ledger.read_with_domain()
        known = domid is None or domid == domain.domid
        return domain if known and await self._has_uuid(domain) else None

    async def _has_uuid(self, domain: DomainStatus) -> bool:
        """Whether a domain has the uuid of ours, False when it is gone. Raises ToolstackError."""
        result = await self._lookup.commands.run("list", "-l", str(domain.domid), check=False)
        if result.status != 0:
            left = [one.domid for one in await self._lookup.all()]
            if domain.domid in left:
                raise result.error(f"Domain {domain.name} cannot be told from a stranger.")
            return False
        uuids = [config_uuid(entry) for entry in load_list(result.stdout)]
        if not uuids:
            # Its receiver was killed while it built it.
            uuids = await self._lookup.uuids(domain)
        return normal_uuid(self._arrival.uuid) in uuids

    async def settle(self) -> Settled:
        """Wait until it is decided whether the domain lives here, and tell.

        Raises ToolstackError when that cannot be known: the word to go was given, and neither the
        domain nor the receiver's own account of what it did is left.
        """
        if self._stdin is not None:
            self._stdin.close()
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        while True:
            # In this order: with no receiver left, nothing but us changes the domains any more.
            receiving = await self._receiving()
            domain, copy = await self._find_ours()
            if domain is not None and domain.state is not DomainState.PAUSED:
                break
            if not receiving:
                if domain is not None:
                    await self._lookup.unpause(domain)  # the receiver died on its last step
                elif copy is not None:
                    # Renaming comes first: under this name it has never run.
                    await self._ledger.write(REFUSED)
                    await self._lookup.destroy_stopped(copy)
                else:
                    settled = self._account()
                    self._close()
                    return settled
            if time.monotonic() > deadline:
                raise self._undecided(receiving)
            await asyncio.sleep(_POLL)
        if self._process is not None:
            await self._process.wait(_DEATH_GRACE)
        self._close()
        return Settled.RUNNING

    def _account(self) -> Settled:
        """Decide by what was written down, when neither domain nor receiver is left."""
        word, _, this_boot = self._ledger.read_with_domain()
        said = read_tail(self._log)
        if word != COMMITTING or _DESTROYING in said:
            return Settled.ABSENT
        if _STARTED in said:
            return Settled.RUNNING
        if not this_boot:
            return Settled.ENDED
        if _HEARD in said and _PERMITTED not in said:
            return Settled.ABSENT
        raise ToolstackError(
            f"domain {self._arrival.name} was cleared to start here, is not here now, and nothing "
            "tells whether it ever ran. Look at /var/log/xen and at its disks here. If it did run, "
            "its disks here are the newer ones: start it here from its configuration; otherwise "
            "let the source resume it."
        )

    def _undecided(self, receiving: list[TaggedProcess]) -> ToolstackError:
        pids = ", ".join(str(process.pid) for process in receiving) or "none"
        return ToolstackError(
            f"it is not decided after {_SETTLE_TIMEOUT:g} s whether domain {self._arrival.name} "
            f"starts here: `xl migrate-receive` still runs (process {pids}) or the domain stays "
            f"paused. It last said: {self._said()}"
        )

    async def declare_never_started(self) -> None:
        """Let `abort` destroy the copy although it may have been started, unless it runs."""
        word, domid, _ = self._ledger.read_with_domain()
        if word == COMMITTING:
            await self._ledger.write(REFUSED if domid is None else f"{REFUSED}:{domid}")

    async def abort(self) -> None:
        """Destroy what was built and remove spool files, unless the domain was committed.

        Nothing is started after that.
        """
        self._aborted = True
        word, _, _ = self._ledger.read_with_domain()
        if word == COMMITTING and await self.settle() is not Settled.ABSENT:
            return
        if self._stdin is not None:
            self._stdin.close()
        await self._end_receivers()
        deadline = time.monotonic() + _EXIT_TIMEOUT
        while (copy := (await self._find_ours())[1]) is not None:
            if time.monotonic() > deadline:
                raise ToolstackError(
                    f"domain {copy.name} (id {copy.domid}) cannot be removed; destroy it by hand."
                )
            await self._lookup.destroy_stopped(copy)
        self._close()
        await remove_files(self._log, self._ledger.path)

    async def _end_receivers(self) -> None:
        """Wait for the receiver to notice the end of its input, then insist."""
        deadline = time.monotonic() + _EXIT_TIMEOUT
        insist = False
        while receiving := await self._receiving():
            if time.monotonic() > deadline:
                if insist:
                    raise self._undecided(receiving)
                insist = True
                deadline = time.monotonic() + _DEATH_GRACE
                if self._process is not None:
                    self._process.kill()
                for process in receiving:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            await asyncio.sleep(_POLL)
