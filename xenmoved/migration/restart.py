"""What an earlier daemon left: every migration that its journal does not call settled."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from protocol.handover import (
    SOURCE_UNCOMMITTED,
    SOURCE_UNCONFIRMED,
    SourceEvent,
    SourceState,
    TargetState,
)
from protocol.messages import Mode
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import ENDED, JobKind, JobReport, JobState, Phase
from xenmoved.journal.records import Inbound, Outbound, Standing
from xenmoved.logs import log_context
from xenmoved.migration.host import Host
from xenmoved.migration.retrying import until_done
from xenmoved.migration.source.handover import SourceHandover
from xenmoved.migration.source.migration import conclude
from xenmoved.migration.source.remarks import hear_later, is_unheard, note_unheard
from xenmoved.migration.target.arrivals import Arrivals, job_of
from xenmoved.migration.target.at_boot import as_here
from xenmoved.migration.target.expected import Expected
from xenmoved.migration.target.presence import runs_here
from xenmoved.problems import problem
from xenmoved.remarks import together
from xenmoved.tasks import all_done

log = logging.getLogger(__name__)

_RECOVER_PATIENCE: Final = 30.0
"""Seconds that what came to this host may take to be settled before others are heard."""
_RESTARTED = problem("restarted", "the daemon was restarted meanwhile", "start it again")


async def recover(host: Host, arrivals: Arrivals, tasks: asyncio.TaskGroup) -> None:
    """Begin to settle everything. What needs no peer is settled when this returns.

    A migration in doubt goes on in `tasks` until the target's word is known.
    """
    reports = {report.job: report for report in await host.jobs.reports()}
    inbound = await host.journal.unsettled_inbound()
    outbound = await host.journal.unsettled_outbound()
    unconfirmed = [one for one in await host.journal.standing() if _waits_for_word(one)]
    taken_up = {entry.job for entry in inbound} | {entry.job for entry in outbound}
    await host.hooks.take_up(taken_up)
    for report in list(reports.values()):
        if report.state not in ENDED and report.job not in taken_up:
            reports[report.job] = await _end_job(host, report)
    coming = [
        tasks.create_task(_recover_inbound(host, arrivals, entry, reports.get(entry.job)))
        for entry in inbound
    ]
    if not await all_done(coming, _RECOVER_PATIENCE):
        log.error("what an earlier daemon left is not settled yet; it is gone on with")
    for leaving in outbound:
        tasks.create_task(_recover_outbound(host, leaving, reports.get(leaving.job)))
    for decided in unconfirmed:
        tasks.create_task(_confirm(host, decided, reports.get(decided.job)))
    for report in filter(is_unheard, reports.values()):
        moved = await host.journal.outbound_of(report.job)
        if moved is not None and moved.state is SourceState.DONE and report.state in ENDED:
            tasks.create_task(hear_later(host, report, moved.migration))


async def _end_job(host: Host, report: JobReport) -> JobReport:
    """End a job that nothing is left of but its report, with what became of its guest."""
    job = await host.jobs.restored(report)
    came, left = await host.journal.inbound_of(job.job), await host.journal.outbound_of(job.job)
    if came is not None and came.state is TargetState.STARTED:
        expected = Expected.of(came)
        job.remarks = together(as_here(expected, expected.all_remarks), job.remarks)
        await host.jobs.end(job, JobState.DONE)
    elif left is not None and left.state is SourceState.DONE:
        note_unheard(job)
        await host.jobs.end(job, JobState.DONE)
    else:
        await host.jobs.end(job, JobState.FAILED, _RESTARTED)
    return job.report()


async def _recover_inbound(
    host: Host, arrivals: Arrivals, entry: Inbound, report: JobReport | None
) -> None:
    job = await host.jobs.restored(report) if report is not None else job_of(entry)
    with log_context(job=job.job, domain=job.guest, peer=entry.peer):
        log.warning("found %s on its way here, %s", job.guest, entry.state)
        await host.jobs.add(job)
        await arrivals.recover(entry, job)


async def _recover_outbound(host: Host, entry: Outbound, report: JobReport | None) -> None:
    anew = Job(JobKind.MIGRATE, entry.guest, entry.peer, job=entry.job)
    job = await host.jobs.restored(report) if report is not None else anew
    with log_context(job=job.job, domain=entry.guest, peer=entry.peer):
        log.warning("found %s on its way to %s, %s", entry.guest, entry.peer, entry.state)
        job.problem = _RESTARTED
        job.enter(Phase.COMMIT)
        await host.jobs.add(job)
        handover = _handover(host, job, entry.migration, entry.uuid)
        handover.restore(entry.state)

        async def again() -> None:
            begun = handover.state is not entry.state
            event = SourceEvent.RESTARTED if begun else await _event(host, entry, handover)
            await handover.happen(event)

        what = f"{entry.guest}, which was {entry.state}, is not taken up again"
        await until_done(host, job, what, again)
        await conclude(host, job, handover)


async def _event(host: Host, entry: Outbound, handover: SourceHandover) -> SourceEvent:
    """Return what has happened: a restart, if nothing contradicts what the journal says.

    What the target does not tell at once contradicts nothing, nor does what it says of a guest that
    runs here. Of one that is suspended its word counts, as it does at the commit. Raises
    ToolstackError where it cannot be seen whether a guest runs here: to a target that is ready,
    Commit would be sent.
    """
    if entry.state in SOURCE_UNCOMMITTED and await handover.was_committed():
        if await runs_here(host.toolstack, entry.uuid, entry.guest):
            log.error("%s says that it started %s, which runs here", entry.peer, entry.guest)
            return SourceEvent.RESTARTED
        log.error("%s was told to start %s: this journal was set back", entry.peer, entry.guest)
        return SourceEvent.TARGET_STARTED
    if entry.state is SourceState.COMMIT_SENT and await runs_here(
        host.toolstack, entry.uuid, entry.guest
    ):
        log.error("%s runs here, and was to be suspended: it is kept", entry.guest)
        return SourceEvent.GUEST_RUNS
    return SourceEvent.RESTARTED


def _waits_for_word(one: Standing) -> bool:
    return one.settled and one.state in SOURCE_UNCONFIRMED


async def _confirm(host: Host, one: Standing, report: JobReport | None) -> None:
    """Go on telling the target what an operator decided."""
    job = Job(JobKind.MIGRATE, one.guest, one.peer, job=one.job, other_name=one.other_name)
    with log_context(job=one.job, domain=one.guest, peer=one.peer):
        handover = _handover(host, job, one.migration, "")
        handover.restore(SourceState(one.state), settled=True)
        await handover.confirm()
        if report is not None and handover.state is SourceState.DONE:
            await hear_later(host, report, one.migration)


def _handover(host: Host, job: Job, migration: str, uuid: str) -> SourceHandover:
    # The journal knows the mode, where a file system that failed may have lost what the toolstack
    # left in the spool.
    live = job.mode is Mode.LIVE
    image = host.toolstack.outgoing(migration, job.guest, host.spool_of(migration), live=live)
    return SourceHandover(host, job, migration, image, uuid)
