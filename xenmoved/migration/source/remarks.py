"""What the target has to remark on a guest that has moved: asked for until the source has it.

Remarks decide nothing, so the job does not wait for them for long. One that had to end without
says so, with a remark of its own, and they are still asked for then, also by a later daemon.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final

from protocol.errors import ProtocolError
from protocol.messages import Recall, Remark, Remarks
from xenmoved.codes import UNHEARD
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobReport
from xenmoved.link.errors import LinkError
from xenmoved.migration.host import Host
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.problems import JobError
from xenmoved.remarks import from_peer, to_look_at, together
from xenmoved.tasks import TookTooLong, at_most

log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
"""Seconds that the end of a job waits for the target's remarks."""
_AGAIN_AFTER: Final = 0.3
_LATER_AFTER: Final = (1.0, 5.0, 15.0, 60.0)
"""Seconds before each further attempt when the job has ended, the last for all that follow."""


def is_unheard(report: JobReport) -> bool:
    """Whether a guest has moved, and its target has not said what there is to remark."""
    return any(one.code == UNHEARD for one in report.remarks)


async def hear(host: Host, job: Job, migration: str) -> None:
    """Add the target's remarks to those of a job, or that they are not known. Takes seconds."""
    give_up = monotonic() + _PATIENCE
    told = await _ask(host, job.peer, migration)
    while told is None and monotonic() < give_up:
        await asyncio.sleep(_AGAIN_AFTER)
        told = await _ask(host, job.peer, migration)
    if told is None:
        note_unheard(job)
    else:
        job.remarks = together(job.remarks, _noted(told))


def note_unheard(job: Job) -> None:
    """Add to the remarks of a job that those of its target are not known."""
    job.remarks = together(job.remarks, [_unheard(job)])


async def hear_later(host: Host, report: JobReport, migration: str) -> None:
    """Ask until the remarks are known that a job has ended without, as long as there is the peer.

    Returns at once where nothing is missing.
    """
    attempt, unheard = 0, is_unheard(report)
    while unheard and host.roster.get(report.peer) is not None:
        await asyncio.sleep(_LATER_AFTER[min(attempt, len(_LATER_AFTER) - 1)])
        attempt += 1
        if (told := await _ask(host, report.peer, migration)) is not None:
            await host.jobs.remark(report.job, _noted(told), instead_of=UNHEARD)
            unheard = False


async def _ask(host: Host, peer: str, migration: str) -> tuple[Remark, ...] | None:
    try:
        limit = at_most(_PATIENCE, f"{peer} did not say what there is to remark")
        async with limit, open_dialogue(host, peer, settling=True) as dialogue:
            answer = await dialogue.ask(Recall(migration), Remarks)
    except (TookTooLong, LinkError, ProtocolError, JobError) as error:
        log.debug("the remarks of %s are not known yet: %s", peer, error)
        return None
    return from_peer(answer.remarks) if answer.complete else None


def _noted(told: tuple[Remark, ...]) -> tuple[Remark, ...]:
    for remark in told:
        log.warning("%s; %s", remark.text, remark.hint)
    return told


def _unheard(job: Job) -> Remark:
    there = job.other_name or job.guest
    text = f"{job.peer} has not said yet whether there is anything to remark on {there} there"
    see = f"see later: xenmovectl show {job.job}; or, on {job.peer}: xenmovectl show {there}"
    return to_look_at(UNHEARD, text, f"it is asked until it does; {see}")
