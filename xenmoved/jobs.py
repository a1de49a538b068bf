"""Jobs: what the daemon is busy with, and what every view of it is made from."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import asdict, dataclass, field, replace

from protocol.messages import Mode, Problem
from protocol.schema import build, plain
from xenmoved.control.api import (
    ENDED,
    JobKind,
    JobReport,
    JobState,
    Phase,
    RoundReport,
    VolumeReport,
)
from xenmoved.journal import Journal
from xenmoved.steering import Steering
from xenmoved.sync.progress import VolumeProgress

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work. Its owner updates the fields; `report` is a picture of the moment."""

    kind: JobKind
    guest: str
    peer: str
    mode: Mode = Mode.SAVE
    job: str = field(default_factory=lambda: secrets.token_hex(4))
    state: JobState = JobState.RUNNING
    phase: Phase = Phase.PREFLIGHT
    started: float = field(default_factory=time.time)
    ended: float | None = None
    volumes: list[VolumeProgress] = field(default_factory=list)
    memory_sent: int = 0
    memory_total: int = 0
    blackout: float | None = None
    left: int = 0
    problem: Problem | None = None
    steering: Steering = field(default_factory=Steering)
    looks: int = 0
    task: asyncio.Task[None] | None = None
    abort_reason: str = ""
    abort_requested: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def request_abort(self, why: str) -> None:
        """Have the job end before its commit, if it still can; `why` is told to the operator."""
        self.abort_reason = why
        self.abort_requested.set()

    def enter(self, phase: Phase) -> None:
        """Go on to a phase."""
        if phase is not self.phase:
            self.phase = phase
            log.info("phase %s", phase)

    @property
    def suspending(self) -> bool:
        """Whether it is too late to hold the guest here."""
        return self.phase not in (
            Phase.PREFLIGHT,
            Phase.PROVISION,
            Phase.PRE_COPY,
            Phase.HOLD,
        )

    def look(self, left: int) -> None:
        """Note the bytes that the guest wrote and that are not sent yet."""
        self.left = left
        self.looks += 1

    def activity(self) -> int:
        """Return a number that changes whenever the job makes progress."""
        rounds = [r for volume in self.volumes for r in volume.rounds]
        return self.looks + self.memory_sent + sum(r.examined + r.wire_bytes + 1 for r in rounds)

    def report(self) -> JobReport:
        """Return everything there is to know at this moment."""
        volumes = tuple(
            VolumeReport(
                volume.name,
                volume.size,
                volume.target,
                volume.fresh,
                tuple(RoundReport(**asdict(one)) for one in volume.rounds),
            )
            for volume in self.volumes
        )
        wire = sum(one.wire_bytes for volume in self.volumes for one in volume.rounds)
        return JobReport(
            job=self.job,
            kind=self.kind,
            state=self.state,
            phase=self.phase,
            guest=self.guest,
            peer=self.peer,
            mode=self.mode,
            started=self.started,
            ended=self.ended,
            volumes=volumes,
            memory_sent=self.memory_sent,
            memory_total=self.memory_total,
            wire_bytes=wire + self.memory_sent,
            blackout=self.blackout,
            left=self.left,
            rate_limit=self.steering.limiter.rate,
            max_downtime=self.steering.max_downtime,
            hold=self.steering.hold,
            problem=self.problem,
        )


class JobBoard:
    """All jobs of this daemon: the live ones here, the ended ones in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._live: dict[str, Job] = {}

    @property
    def live(self) -> list[Job]:
        """Jobs that have not ended, oldest first."""
        return list(self._live.values())

    async def add(self, job: Job) -> None:
        """Take in a job that begins, or that an earlier process began."""
        self._live[job.job] = job
        await self.save(job)

    async def save(self, job: Job) -> None:
        """Write down how a job stands."""
        report = plain(job.report())
        await self._journal.record_job(job.job, job.started, job.state in ENDED, report)

    async def end(self, job: Job, state: JobState, problem: Problem | None = None) -> None:
        """Note how a job ended, and wake who waits for it."""
        job.state, job.problem, job.ended = state, problem, time.time()
        job.phase = Phase.ENDED if state is JobState.DONE else job.phase
        await self.save(job)
        self._live.pop(job.job, None)
        job.finished.set()

    async def amend(self, job: str, state: JobState, problem: Problem) -> None:
        """Change what became of a job that has ended, when more is known of it."""
        reports = {report.job: report for report in await self.reports()}
        if (report := reports.get(job)) is not None:
            amended = replace(report, state=state, problem=problem)
            await self._journal.record_job(job, report.started, True, plain(amended))

    def busy_with(self, guest: str) -> Job | None:
        """Return the live job that moves a guest away from or to this host."""
        return next((job for job in self._live.values() if guest and job.guest == guest), None)

    def find_live(self, wanted: str) -> Job | None:
        """Return a live job by its id, the start of its id, or its guest (the newest)."""
        exact = [j for j in self._live.values() if wanted in (j.job, j.guest)]
        starting = [j for j in self._live.values() if j.job.startswith(wanted)]
        found = exact or (starting if len(starting) == 1 else [])
        return found[-1] if found else None

    async def reports(self) -> list[JobReport]:
        """Every job that is known, newest first."""
        live = {job.job: job.report() for job in self._live.values()}
        kept = [build(JobReport, data) for data in await self._journal.jobs()]
        return [live.get(report.job, report) for report in kept]

    async def find(self, wanted: str) -> JobReport | None:
        """Return a job by its id, the start of its id, or its guest (the newest)."""
        if (job := self.find_live(wanted)) is not None:
            return job.report()
        reports = await self.reports()
        exact = [r for r in reports if r.job == wanted or (r.guest and r.guest == wanted)]
        starting = [r for r in reports if r.job.startswith(wanted)]
        found = exact or (starting if len(starting) == 1 else [])
        return found[0] if found else None
