"""All jobs of this host: those that run, and those that the journal keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from protocol.errors import SchemaError
from protocol.messages import Problem, Remark
from protocol.schema import build, plain
from xenmoved.jobs.job import Job, log
from xenmoved.jobs.report import (
    ENDED,
    JobKind,
    JobReport,
    JobState,
    Phase,
    Sample,
)
from xenmoved.jobs.timeline import FIRST_INTERVAL, Samples
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.problems import Obstructed, problem
from xenmoved.remarks import together

T = TypeVar("T")


class JobWatcher(Protocol):
    """Is told of every job that the board takes in, and of its end. Must not raise."""

    def begun(self, job: Job) -> None:
        """Learn of a job that begins here, or that an earlier process began."""

    def ended(self, job: Job) -> None:
        """Learn that a job has ended, as its fields say."""


class JobBoard:
    """All jobs of this daemon: the live ones here, the ended ones in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._live: dict[str, Job] = {}
        self._unsaved: dict[str, Job] = {}
        self._busy = asyncio.Event()
        self._amending = asyncio.Lock()
        self._ending = False
        self.watchers: list[JobWatcher] = []

    @property
    def live(self) -> list[Job]:
        """Jobs that have not ended, oldest first."""
        return list(self._live.values())

    def begin_no_more(self) -> None:
        """Have nothing begin from now on, as the daemon ends."""
        self._ending = True

    def require_open(self) -> None:
        """Raise Obstructed when the daemon ends."""
        if self._ending:
            text, hint = "xenmoved is being stopped: nothing begins", "try again when it runs"
            raise Obstructed([problem("stopping", text, hint)])

    async def begin(
        self, job: Job, tasks: asyncio.TaskGroup, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Take in a job of this daemon's, which `work` does in `tasks`. Raises Obstructed."""
        # Whoever ends the daemon waits for the tasks of all jobs: none may be here without its own.
        self.require_open()
        job.task = tasks.create_task(work())
        await self.add(job)

    async def add(self, job: Job) -> None:
        """Take in a job that begins, or that an earlier process began."""
        self._live[job.job] = job
        self._busy.set()
        for watcher in self.watchers:
            watcher.begun(job)
        await self.save(job)

    async def save(self, job: Job) -> None:
        """Write down how a job stands, and what it had sent by when; later, if it cannot be now."""
        try:
            await self._record(job.report())
            await self._journal.record_samples(job.job, plain(job.samples.kept))
        except JournalFailed as error:
            log.warning("the report of job %s is not written down now: %s", job.job, error)
            self._unsaved[job.job] = job
        else:
            self._unsaved.pop(job.job, None)

    async def _record(self, report: JobReport) -> None:
        """Write down a report. What a peer sent in vain counts apart: it may be any number.

        Raises JournalFailed.
        """
        ended = report.state in ENDED
        vain = ended and report.kind is JobKind.RECEIVE and report.state is not JobState.DONE
        await self._journal.record_job(
            *(report.job, report.started, ended, plain(report)), apart=report.peer if vain else ""
        )

    async def save_rest(self) -> None:
        """Write down what could not be when it was to be."""
        for job in list(self._unsaved.values()):
            await self.save(job)

    async def observe(self) -> None:
        """Sample all live jobs, for ever."""
        while True:
            if not self._live:
                self._busy.clear()
            await self._busy.wait()
            for job in self.live:
                if job.samples.due(job.elapsed()):
                    job.take_sample()
            await asyncio.sleep(FIRST_INTERVAL)

    async def restored(self, report: JobReport) -> Job:
        """Return a job of an earlier process, to be added or ended."""
        return Job.restored(report, Samples(await self._samples(report.job)))

    async def end(self, job: Job, state: JobState, problem: Problem | None = None) -> None:
        """Note how a job ended, and wake who waits for it."""
        job.state, job.problem, job.ended = state, problem, job.started + job.elapsed()
        job.phase = Phase.ENDED if state is JobState.DONE else job.phase
        try:
            job.take_sample()
            await self.save(job)
        finally:
            self._live.pop(job.job, None)
            job.finished.set()
            for watcher in self.watchers:
                watcher.ended(job)

    async def amend(self, job: str, **changes: Any) -> None:
        """Change fields of the report of a job that has ended, when more is known of it."""
        async with self._amending:
            await self._amend(job, lambda report: replace(report, **changes))

    async def remark(self, job: str, found: Collection[Remark], *, instead_of: str = "") -> None:
        """Add to the remarks of a job, ended or not; those with the code `instead_of` go."""

        def more(remarks: tuple[Remark, ...]) -> tuple[Remark, ...]:
            return together((one for one in remarks if one.code != instead_of), found)

        if not found and not instead_of:
            return
        async with self._amending:
            if (known := self._live.get(job) or self._unsaved.get(job)) is not None:
                known.remarks = more(known.remarks)
                await self.save(known)
            else:
                await self._amend(job, lambda one: replace(one, remarks=more(one.remarks)))

    async def _amend(self, job: str, change: Callable[[JobReport], JobReport]) -> None:
        reports = {report.job: report for report in await self.reports()}
        if (report := reports.get(job)) is not None:
            try:
                await self._record(change(report))
            except JournalFailed as error:
                log.warning("what became of job %s is not written down: %s", job, error)

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
        known = {job.job: job.report() for job in (self._unsaved | self._live).values()}
        kept = list(_readable(JobReport, await self._journal.jobs()))
        there = {report.job for report in kept}
        unknown = [report for job, report in known.items() if job not in there]
        return [*reversed(unknown), *(known.get(report.job, report) for report in kept)]

    async def find(self, wanted: str) -> JobReport | None:
        """Return a job by its id, the start of its id, or its guest (the newest)."""
        if (job := self.find_live(wanted)) is not None:
            return job.report()
        reports = await self.reports()
        exact = [r for r in reports if r.job == wanted or (r.guest and r.guest == wanted)]
        starting = [r for r in reports if r.job.startswith(wanted)]
        found = exact or (starting if len(starting) == 1 else [])
        return found[0] if found else None

    async def with_samples(self, report: JobReport) -> JobReport:
        """Return the report of a job together with what it had sent by when."""
        job = self._live.get(report.job)
        kept = job.samples.kept if job is not None else await self._samples(report.job)
        return replace(report, samples=kept)

    async def _samples(self, job: str) -> tuple[Sample, ...]:
        if (unsaved := self._unsaved.get(job)) is not None:
            return unsaved.samples.kept
        return tuple(_readable(Sample, await self._journal.samples(job)))


def _readable(kind: type[T], kept: Iterable[object]) -> Iterator[T]:
    """Yield what the journal has, but for what this release cannot read: it decides nothing."""
    for data in kept:
        try:
            yield build(kind, data)
        except SchemaError as error:
            log.warning("a %s in the journal cannot be read: %s", kind.__name__, error)
