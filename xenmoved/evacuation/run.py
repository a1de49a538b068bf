"""Moving every guest away: the plan, and carrying it out a few at a time.

The daemon owns the work; clients watch it. Nothing of it is kept over a restart of the daemon, as a
new evacuation moves just the guests that are left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.messages import Mode, Ping, Pong, Problem, Remark
from xenmoved.evacuation.plan import Need, Space, by_room
from xenmoved.evacuation.report import Evacuation, EvacuationState, GuestFate, GuestToMove
from xenmoved.jobs.job import Job
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.migration.host import Host
from xenmoved.migration.report import GuestRow
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.migration.source.guests import guest_rows
from xenmoved.migration.source.preflight import choose, preflight
from xenmoved.migration.source.start import Starter
from xenmoved.migration.source.warnings import warnings
from xenmoved.problems import Obstructed, is_expected, problem, problems_of
from xenmoved.tasks import within

log = logging.getLogger(__name__)

_DOUBT_PATIENCE: Final = 30.0
"""Seconds after which a guest in doubt no longer keeps the next one from its turn."""
_LOOK_EVERY: Final = 1.0
_ARRIVING: Final = "--incoming"


@dataclass(slots=True)
class _Guest:
    """A guest that is to move."""

    name: str
    memory: int
    size: int
    peer: str | None = None
    fate: GuestFate = GuestFate.WAITING
    job: Job | None = None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Remark, ...] = ()

    def report(self) -> GuestToMove:
        job = self.job.report() if self.job is not None else None
        moving = job is not None and self.fate in (GuestFate.MOVING, GuestFate.IN_DOUBT)
        return GuestToMove(
            *(self.name, self.peer, self.memory, self.size, self.fate),
            job=job.job if job is not None else None,
            progress=_latest(job) if job is not None and moving else None,
            sent=job.wire_bytes if job is not None else 0,
            seconds=job.ended - job.started if job is not None and job.ended is not None else 0.0,
            problems=self.problems[:512],
            remarks=self.remarks,
        )


@dataclass(slots=True, eq=False)
class _Run:
    """One evacuation."""

    guests: list[_Guest]
    concurrency: int
    mode: Mode | None
    options: TransferOptions
    problems: list[Problem] = field(default_factory=list)
    state: EvacuationState = EvacuationState.RUNNING
    started: float = field(default_factory=time.time)
    ended: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self) -> Evacuation:
        guests = tuple(guest.report() for guest in self.guests[:1000])
        return Evacuation(
            *(self.state, self.concurrency, self.started, self.ended, guests),
            problems=tuple(self.problems[:512]),
        )


class Evacuations:
    """The evacuation of this host: one at a time, the last one to be looked at."""

    def __init__(self, host: Host, starter: Starter, tasks: asyncio.TaskGroup) -> None:
        self._host = host
        self._starter = starter
        self._tasks = tasks
        self._run: _Run | None = None
        self._planning = asyncio.Lock()
        self._called_off = False

    async def plan(
        self, peers: Sequence[str], mode: Mode | None, options: TransferOptions
    ) -> Evacuation:
        """Return what an evacuation would be. Raises Obstructed, ToolstackError or LinkError."""
        options = replace(options, several=True)
        guests, problems = await self._plan(peers, mode, options)
        return _Run(guests, 1, mode, options, problems, EvacuationState.PLANNED).report()

    async def start(
        self, peers: Sequence[str], mode: Mode | None, options: TransferOptions, *, concurrency: int
    ) -> Evacuation:
        """Begin to move every guest that runs here to `peers`, `concurrency` at a time.

        Raises Obstructed when an evacuation is under way or no guest can move.
        """
        async with self._planning:
            if self._run is not None and not self._run.over.is_set():
                hint = "follow it with 'xenmovectl evacuate', end it with 'evacuate --stop'"
                raise Obstructed([problem("busy", "an evacuation is under way", hint)])
            self._called_off = False
            options = replace(options, several=True)
            guests, problems = await self._plan(peers, mode, options)
            if self._called_off:
                raise Obstructed([problem("stopped", "the evacuation was stopped before it began")])
            blocked = [guest for guest in guests if guest.fate is GuestFate.BLOCKED]
            if blocked and len(blocked) == len(guests):
                raise Obstructed([each for guest in blocked for each in guest.problems][:512])
            run = _Run(guests, concurrency, mode, options, problems)
            self._run = run
            self._tasks.create_task(self._carry_out(run))
        log.info("%d guests are to move, %d cannot", len(guests) - len(blocked), len(blocked))
        return run.report()

    async def watch(self, interval: float) -> AsyncIterator[Evacuation]:
        """Yield how it stands, every `interval` seconds, to its end.

        Raises Obstructed when there has been none.
        """
        if (run := self._run) is None:
            text = "no evacuation was begun since xenmoved was started"
            raise Obstructed(
                [problem("no-evacuation", text, "xenmovectl evacuate PEER begins one")]
            )
        while not run.over.is_set():
            yield run.report()
            await within(run.over, interval)
        yield run.report()

    def stop(self) -> str:
        """Begin no more; return what becomes of it. Raises Obstructed when none is under way."""
        if self._planning.locked():
            self._called_off = True
            return "no guest is moved"
        run = self._run
        if run is None or run.over.is_set():
            raise Obstructed([problem("no-evacuation", "no evacuation is under way")])
        run.state = EvacuationState.STOPPING
        moving = [guest.name for guest in run.guests if guest.fate is GuestFate.MOVING]
        going = f"; still moving: {', '.join(moving)}" if moving else ""
        return f"no further guest is moved{going}"[:4000]

    def end(self) -> None:
        """Begin no more, as the daemon ends."""
        self._called_off = True
        if self._run is not None:
            self._run.state = EvacuationState.STOPPING

    async def _carry_out(self, run: _Run) -> None:
        waiting = deque(guest for guest in run.guests if guest.fate is GuestFate.WAITING)
        async with asyncio.TaskGroup() as group:
            for _ in range(run.concurrency):
                group.create_task(self._work(run, waiting))
        for guest in waiting:
            guest.fate = GuestFate.LEFT
        run.state, run.ended = EvacuationState.ENDED, time.time()
        run.over.set()
        left = sum(guest.fate is not GuestFate.MOVED for guest in run.guests)
        log.info("the evacuation has ended: %d moved, %d not", len(run.guests) - left, left)

    async def _work(self, run: _Run, waiting: deque[_Guest]) -> None:
        """Move one guest after the other."""
        while waiting and run.state is EvacuationState.RUNNING:
            guest = waiting.popleft()
            guest.fate = GuestFate.MOVING
            try:
                await self._move(run, guest)
            except Exception as error:
                if not is_expected(error):
                    log.exception("internal error")
                guest.fate, guest.problems = GuestFate.FAILED, problems_of(error)

    async def _move(self, run: _Run, guest: _Guest) -> None:
        assert guest.peer is not None
        move = await choose(self._host, guest.name, guest.peer, run.mode)
        guest.job = job = await self._starter.migrate(move, run.options)
        doubtful_since: float | None = None
        while not await within(job.finished, _LOOK_EVERY):
            if not job.stuck:
                doubtful_since = None
            elif doubtful_since is None:
                doubtful_since = time.monotonic()
            elif time.monotonic() - doubtful_since > _DOUBT_PATIENCE:
                break
        alarm = self._host.alarms.get(job.job) or job.problem
        guest.problems = (alarm,) if alarm is not None else ()
        guest.remarks = job.remarks
        fates = {JobState.DONE: GuestFate.MOVED, JobState.IN_DOUBT: GuestFate.IN_DOUBT}
        guest.fate = fates.get(job.state, GuestFate.FAILED)

    async def _plan(
        self, peers: Iterable[str], mode: Mode | None, options: TransferOptions
    ) -> tuple[list[_Guest], list[Problem]]:
        """Find a place for every guest: those without one first, then the largest.

        Returns them, and why peers are left out.
        """
        spaces, problems = await self._spaces(peers)
        rows = [row for row in await guest_rows(self._host) if not row.name.endswith(_ARRIVING)]
        rows.sort(key=lambda row: -(row.memory + _size(row)))
        guests = []
        for row in rows:
            guest = _Guest(row.name, row.memory, _size(row))
            await self._place(guest, spaces, mode, options)
            guests.append(guest)
        return sorted(guests, key=lambda guest: guest.fate is not GuestFate.BLOCKED), problems

    async def _spaces(self, peers: Iterable[str]) -> tuple[list[Space], list[Problem]]:
        """Ask every peer what it has room for; return that, and why some could not be asked.

        Raises Obstructed when there is no such peer, or none could be asked.
        """
        spaces: list[Space] = []
        problems: list[Problem] = []
        for name in dict.fromkeys(peers):
            try:
                async with open_dialogue(self._host, name) as dialogue:
                    spaces.append(Space.of(name, await dialogue.ask(Ping(), Pong)))
            except Obstructed:
                raise
            except Exception as error:
                if not is_expected(error):
                    raise
                problems += problems_of(error)
        if problems and not spaces:
            raise Obstructed(problems[:512])
        for one in problems:
            log.warning("%s; %s", one.text, one.hint)
        return spaces, problems

    async def _place(
        self, guest: _Guest, spaces: list[Space], mode: Mode | None, options: TransferOptions
    ) -> None:
        """Find the peer that takes a guest, and set aside what it needs there."""
        against: list[Problem] = []
        for space in by_room(spaces):
            move = await choose(self._host, guest.name, space.peer, mode)
            found = await preflight(self._host, move, options)
            lack = None
            if found.sending is not None and not found.problems:
                need = Need.of(found.sending.memory, found.placements)
                if (lack := space.lack(need)) is None:
                    space.take(need, guest.name)
                    guest.peer, guest.remarks = space.peer, warnings(found)
                    return
            against += [lack] if lack is not None else found.problems
        guest.fate, guest.problems = GuestFate.BLOCKED, tuple(dict.fromkeys(against))


def _size(row: GuestRow) -> int:
    return sum(disk.size or 0 for disk in row.disks)


def _latest(report: JobReport) -> JobReport:
    """Leave out all of a job but what it is doing now."""
    volumes = tuple(replace(volume, rounds=volume.rounds[-1:]) for volume in report.volumes)
    return replace(report, volumes=volumes, phases=(), blackout_parts=())
