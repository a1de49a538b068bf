"""Jobs: which there are, how they stand, and what an operator changes about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from xenmoved.control.api import AbortJob, Done, GetJob, Jobs, ListJobs, SetJob, WatchJob
from xenmoved.handlers.dispatch import Services, answers, streams
from xenmoved.jobs.job import Job
from xenmoved.jobs.leftover import leftover
from xenmoved.jobs.report import ENDED, JobKind, JobReport, JobState
from xenmoved.migration.host import Host
from xenmoved.problems import Obstructed, problem
from xenmoved.tasks import within


@answers(ListJobs)
async def list_jobs(services: Services, request: ListJobs) -> Jobs:
    """Describe jobs, newest first."""
    reports = await services.host.jobs.reports()
    wanted = [one for one in reports if request.ended or one.state not in ENDED]
    return Jobs(tuple(_brief(one) if one.state in ENDED else one for one in wanted[:1000]))


@answers(GetJob)
async def get_job(services: Services, request: GetJob) -> JobReport:
    """Describe one job, with its course."""
    host = services.host
    return await host.jobs.with_samples(await _find(host, request.job))


@streams(WatchJob)
async def watch(services: Services, request: WatchJob) -> AsyncIterator[JobReport]:
    """Describe one job over and over, to its end."""
    jobs = services.host.jobs
    first = await _find(services.host, request.job)
    live = jobs.find_live(first.job)
    while live is not None and not live.finished.is_set():
        yield live.report()
        await within(live.finished, request.interval)
    yield live.report() if live is not None else first


@answers(SetJob)
async def change(services: Services, request: SetJob) -> Done:
    """Change a running job."""
    live = await _find_ours(services.host, request.job)
    if live.kind is not JobKind.MIGRATE and (request.hold or request.max_downtime):
        text = f"job {live.job} moves no guest: only its rate limit can be set"
        raise Obstructed([problem("usage", text)])
    if request.hold is not None and live.suspending:
        text = f"job {live.job} is in phase {live.phase}: {live.guest} is being moved already"
        raise Obstructed([problem("too-late", text)])
    live.steering.change(
        rate_limit=request.rate_limit, max_downtime=request.max_downtime, hold=request.hold
    )
    if request.hold is False:
        limit = live.steering.max_downtime
        unless = "" if limit is None else f", unless it would stand still for over {limit:g} s"
        text = f"job {live.job}: {live.guest} moves as soon as its disks are close{unless}"
        return Done(text)
    return Done(f"job {live.job} was changed")


@answers(AbortJob)
async def abort(services: Services, request: AbortJob) -> Done:
    """End a job before its commit, on whichever of its hosts."""
    live = await _find_live(services.host, request.job)
    _require_no_doubt(live)
    comes = live.kind is JobKind.RECEIVE
    here = services.host.config.node
    live.request_abort(f"aborted by the operator of {here}" if comes else "aborted by the operator")
    if not await live.over():
        _require_no_doubt(live)
        return Done(f"job {live.job} is given up; not finished yet: {live.doing}"[:4000])
    if live.state is JobState.DONE:
        text = f"job {live.job} could not be aborted any more: it is done"
        raise Obstructed([problem("too-late", text)])
    where = f"on {live.peer}" if comes else "here"
    stays = f": {live.guest} stays {where}" if live.guest else ""
    if comes:
        return Done(f"job {live.job} is {live.state}{stays}")
    return Done(f"job {live.job} is {live.state}{stays}; {leftover(live.report())}")


def _require_no_doubt(job: Job) -> None:
    """Raise Obstructed for a job that is in doubt, and cannot be aborted."""
    if job.state is JobState.IN_DOUBT:
        where = "here" if job.kind is JobKind.RECEIVE else f"on {job.peer}"
        text = f"job {job.job} is in doubt: {job.guest} may run {where} already"
        hint = "it is decided as soon as the peer can be reached; see: xenmovectl recover"
        raise Obstructed([problem("in-doubt", text, hint)])


async def _find(host: Host, wanted: str) -> JobReport:
    if (report := await host.jobs.find(wanted)) is None:
        hint = "xenmovectl jobs --all shows them"
        raise Obstructed([problem("job-unknown", f"no job is called {wanted}", hint)])
    return report


async def _find_live(host: Host, wanted: str) -> Job:
    """Return a job that has not ended."""
    report = await _find(host, wanted)
    live = host.jobs.find_live(report.job)
    if live is None:
        raise Obstructed([problem("ended", f"job {report.job} has ended: it is {report.state}")])
    return live


async def _find_ours(host: Host, wanted: str) -> Job:
    """Return a job that was begun here and has not ended."""
    live = await _find_live(host, wanted)
    if live.kind is JobKind.RECEIVE:
        text = f"job {live.job} is {live.peer}'s"
        raise Obstructed([problem("not-ours", text, f"say it on {live.peer}")])
    return live


def _brief(report: JobReport) -> JobReport:
    """Leave out the course of a job, so that one message holds all jobs that are kept."""
    volumes = tuple(replace(volume, rounds=()) for volume in report.volumes)
    return replace(report, volumes=volumes, phases=(), blackout_parts=())
