"""The daemon with faults that a test arms: ``python -m tests.support.faulty_daemon --config FILE``.

The environment variable XENMOVED_FAULT names a file, so that a running daemon can be armed, too.
Each line of it is ACTION@POINT; only the first line is armed, and it is removed before its action
is carried out. So a fault comes once, also when the daemon is started again.

Actions:
    kill        this process, by SIGKILL
    kill=PID    another process, and wait for its end
    term        this process, by SIGTERM, as when it is stopped in order
    term=PID    another process
    cut         every SSH connection of this process, without a word
    freeze=SECONDS    nothing happens in this process for a while
    hang=SECONDS      what is at this point takes so long; everything else goes on
    raise=KIND        this step fails with a built-in exception, such as RecursionError
    unwritable=SECONDS    nothing can be written to the journal for a while, from here on
    unanswered=SECONDS    likewise, and what was written just now is said to have failed
    await=NUMBER      after so many more awaits of the job's own coroutine, one of them raises

Points, each with `:before` and `:after` unless said otherwise:
    outbound:STATE, inbound:STATE        the journal's write of a state of the hand-over
    outbound:settled, inbound:settled    its write that nothing is left to do
    job                                  a migration's coroutine begins (no suffix)
    outbound:phase-PHASE, inbound:phase-PHASE    a job enters a phase (no suffix)
    ask:MESSAGE                          a question of the source and its answer
    answer:MESSAGE                       the target's work for an answer; `:sent` when it was sent
    landing:make                         a volume is made
    landing:noted, landing:in-place      the journal's note of it before and after that
    outgoing:start, suspended, stream, rollback, discard    as in `OutgoingImage`; `stream:middle`
    disk:read                            a thread reads a piece of a disk (no suffix)
    hooks:kept, owed, forgotten          what a job tells its hooks is written down, or removed
    hooks:EVENT                          the hooks of an event are run
    holder:start, ready, done, back      a word to the process that holds the pipes of `xl migrate`
    incoming:start, write, build, commit, settle, abort     as in `IncomingImage`

XENMOVED_LIMITS has other values for constants, as in
``xenmoved.migration.target.channels.PROBE_LIMIT=9 …``, so that no test has to wait
for what takes minutes.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import importlib
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from storage.devices.volume import BlockDevice
from storage.files.volume import RawFile
from xenmoved.hooks.hooks import Hooks
from xenmoved.hooks.owed import OwedStore
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.journal.records import MadeVolume
from xenmoved.link.client import PeerLink
from xenmoved.link.server import LinkServer
from xenmoved.main import main
from xenmoved.migration.source.dialogue import Dialogue
from xenmoved.migration.source.migration import OutboundMigration
from xenmoved.migration.target.dialogue import ControlSession
from xenmoved.migration.target.volumes import Landing
from xenmoved.toolstack.cold import ColdOutgoing
from xenmoved.toolstack.created import CreatedIncoming
from xenmoved.toolstack.paused import PausedIncoming
from xenmoved.toolstack.restart import RestartOutgoing
from xenmoved.toolstack.xl.incoming import XlIncoming
from xenmoved.toolstack.xl.live import HolderConnection, XlLive
from xenmoved.toolstack.xl.outgoing import XlOutgoing
from xenmoved.toolstack.xm.incoming import XmIncoming
from xenmoved.toolstack.xm.outgoing import XmOutgoing

VARIABLE = "XENMOVED_FAULT"
LIMITS = "XENMOVED_LIMITS"

_ARRIVES = 0.1
"""Seconds in which what was sent on the loopback has certainly arrived."""


class Faults:
    """What is armed, and the connections that there are to cut."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._taking = threading.Lock()
        self.unwritable_until = 0.0
        self.awaits = 0
        self._links: list[PeerLink] = []
        self._servers: list[LinkServer] = []

    async def passed(self, point: str) -> None:
        """Do what is armed for this point, where it may take a while."""
        await asyncio.sleep(self.at(point))

    def _take(self, point: str) -> str:
        """Return the action that is armed for this point, "" without one; it comes once.

        Threads that read disks pass their point at the same time.
        """
        with self._taking:
            try:
                lines = self._file.read_text().splitlines()
            except FileNotFoundError:
                return ""
            action, _, wanted = lines[0].partition("@") if lines else ("", "", "")
            if wanted != point:
                return ""
            partial = self._file.with_name(f"{self._file.name}.new")
            partial.write_text("".join(f"{line}\n" for line in lines[1:]))
            partial.replace(self._file)
            return action

    def at(self, point: str) -> float:
        """Do what is armed for this point; returns for how many seconds it hangs."""
        name, _, number = self._take(point).partition("=")
        if name == "kill":
            kill(int(number or os.getpid()))
        elif name == "term":
            os.kill(int(number or os.getpid()), signal.SIGTERM)
        elif name == "freeze":
            time.sleep(float(number))
        elif name == "hang":
            return float(number)
        elif name == "cut":
            self._cut()
        elif name == "raise":
            raise getattr(builtins, number)(f"raised at {point}")
        elif name == "unwritable":
            self.unwritable_until = time.monotonic() + float(number)
        elif name == "unanswered":
            self.unwritable_until = time.monotonic() + float(number)
            raise JournalFailed("the journal cannot be written: disk I/O error")
        elif name == "await":
            self.awaits = int(number)
        elif name:
            raise ValueError(f"unknown action {name}")
        return 0

    def watch_connections(self) -> None:
        """Take note of every connection that is made from now on."""
        faults = self

        def note(owner: type, noted: list[Any]) -> None:
            real = owner.__init__  # type: ignore[misc]

            @functools.wraps(real)
            def wrapped(self: Any, *args: Any, **options: Any) -> None:
                real(self, *args, **options)
                noted.append(self)

            owner.__init__ = wrapped  # type: ignore[misc]

        note(PeerLink, faults._links)
        note(LinkServer, faults._servers)

    def _cut(self) -> None:
        for link in self._links:
            link.abort()
        for server in self._servers:
            for visitor in list(server.visitors):
                visitor.connection.abort()


def kill(pid: int) -> None:
    """Kill a process, which has let go of everything when this returns."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        waiter.poll(10_000)
    finally:
        os.close(descriptor)


Label = Callable[..., str]


def _around(faults: Faults, owner: type, method: str, label: str | Label) -> None:
    """Make a coroutine method pass the points `LABEL:before` and `LABEL:after`."""
    real: Callable[..., Awaitable[Any]] = getattr(owner, method)

    @functools.wraps(real)
    async def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        point = label if isinstance(label, str) else label(*args, **options)
        await faults.passed(f"{point}:before")
        result = await real(self, *args, **options)
        await faults.passed(f"{point}:after")
        return result

    setattr(owner, method, wrapped)


def _around_stream(faults: Faults, owner: type) -> None:
    real: Callable[..., Any] = owner.stream  # type: ignore[attr-defined]

    @functools.wraps(real)
    async def stream(self: Any, *args: Any) -> AsyncIterator[bytes]:
        await faults.passed("outgoing:stream:before")
        async with aclosing(real(self, *args)) as pieces:
            async for piece in pieces:
                yield piece
                await faults.passed("outgoing:stream:middle")
        await faults.passed("outgoing:stream:after")

    owner.stream = stream  # type: ignore[attr-defined]


def _after_sending(faults: Faults) -> None:
    real = ControlSession._reply

    @functools.wraps(real)
    async def reply(self: ControlSession, message: object) -> None:
        await real(self, message)
        await asyncio.sleep(_ARRIVES)
        faults.at(f"answer:{type(message).__name__}:sent")

    ControlSession._reply = reply  # type: ignore[method-assign]


def _before_phases(faults: Faults) -> None:
    real = Job.enter

    @functools.wraps(real)
    def enter(self: Job, phase: Any) -> None:
        real(self, phase)
        role = "inbound" if self.kind is JobKind.RECEIVE else "outbound"
        faults.at(f"{role}:phase-{phase}")

    Job.enter = enter  # type: ignore[method-assign]


def _before_writes(faults: Faults) -> None:
    real = Journal._run

    async def run(self: Journal, work: Callable[[], Any], done: str) -> Any:
        if done == "written" and time.monotonic() < faults.unwritable_until:
            raise JournalFailed("the journal cannot be written: disk I/O error")
        return await real(self, work, done)

    Journal._run = run  # type: ignore[method-assign,assignment]


class _Walk:
    """A coroutine of which one await raises, when its turn has come."""

    def __init__(self, faults: Faults, work: Any) -> None:
        self._faults = faults
        self._work = work

    def __await__(self) -> Any:
        steps, error = self._work.__await__(), None
        while True:
            try:
                waited = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            if self._faults.awaits > 0:
                self._faults.awaits -= 1
                if self._faults.awaits == 0:
                    if waited is not None:
                        waited._asyncio_future_blocking = False
                    error = RecursionError("an await that raises")
                    continue
            try:
                yield waited
            except BaseException as raised:
                error = raised


def _along_awaits(faults: Faults) -> None:
    real = OutboundMigration.run

    async def run(self: OutboundMigration) -> None:
        faults.at("job")
        await _Walk(faults, real(self))

    OutboundMigration.run = run  # type: ignore[method-assign]


def _around_reading(faults: Faults) -> None:
    for owner in (RawFile, BlockDevice):
        real = owner.read_into

        def read_into(
            self: Any, offset: int, buffer: memoryview, real: Callable[..., None] = real
        ) -> None:
            time.sleep(faults.at("disk:read"))
            real(self, offset, buffer)

        owner.read_into = read_into  # type: ignore[assignment,method-assign]


def install(faults: Faults) -> None:
    """Lead everything that matters past its points."""

    def state(role: str) -> Label:
        def label(entry: Any, *, settled: bool = False) -> str:
            return f"{role}:{'settled' if settled else entry.state}"

        return label

    def message(verb: str) -> Label:
        def label(message: object, *_: object) -> str:
            return f"{verb}:{type(message).__name__}"

        return label

    def noted(volume: MadeVolume) -> str:
        return "landing:in-place" if volume.identity else "landing:noted"

    faults.watch_connections()
    _before_phases(faults)
    _before_writes(faults)
    _along_awaits(faults)
    _around_reading(faults)
    _around(faults, Journal, "record_outbound", state("outbound"))
    _around(faults, Journal, "record_inbound", state("inbound"))
    _around(faults, Dialogue, "ask", message("ask"))
    _around(faults, ControlSession, "_answer", message("answer"))
    _after_sending(faults)
    _around(faults, Landing, "_make", "landing:make")
    _around(faults, Journal, "record_made", noted)
    for outgoing in (XlOutgoing, XlLive, XmOutgoing, ColdOutgoing, RestartOutgoing):
        _around_stream(faults, outgoing)
        for step in ("start", "suspended", "rollback", "discard"):
            if step in vars(outgoing):
                _around(faults, outgoing, step, f"outgoing:{step}")
    _around(
        faults, OwedStore, "keep", lambda _, owed, __: f"hooks:{'owed' if owed.owed else 'kept'}"
    )
    _around(faults, OwedStore, "forget", "hooks:forgotten")
    _around(faults, Hooks, "_run", lambda about: f"hooks:{about.event}")
    _around(faults, HolderConnection, "tell", lambda command: f"holder:{command}")
    for incoming, steps in (
        (XlIncoming, ("start", "write", "build", "commit", "settle", "abort")),
        (XmIncoming, ("start", "write", "build")),
        (CreatedIncoming, ("start", "build")),
        (PausedIncoming, ("commit", "settle", "abort")),
    ):
        for step in steps:
            _around(faults, incoming, step, f"incoming:{step}")


def set_limits(written: str) -> None:
    """Give constants other values. Raises AttributeError for one that is not there."""
    for one in written.split():
        place, _, value = one.partition("=")
        module, _, name = place.rpartition(".")
        owner = importlib.import_module(module)
        getattr(owner, name)
        setattr(owner, name, float(value))


if __name__ == "__main__":
    set_limits(os.environ.get(LIMITS, ""))
    if VARIABLE in os.environ:
        install(Faults(Path(os.environ[VARIABLE])))
    main()
