"""What must be done in the end, however often it fails: tried again with growing pauses.

Meanwhile the job lives, so that its guest is left alone, and `status` shows an alarm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from protocol.messages import Problem
from xenmoved.jobs.job import Job
from xenmoved.migration.host import Host
from xenmoved.problems import is_expected, problem, problems_of

log = logging.getLogger(__name__)

_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds before each further attempt, the last before all that follow."""


def pause_after(attempts: int) -> float:
    """Return how many seconds are waited after so many attempts that failed."""
    return _PAUSES[min(attempts, len(_PAUSES)) - 1]


def raise_alarm(host: Host, job: Job, what: str, error: BaseException, attempts: int) -> Problem:
    """Tell that something failed so often, and when it is tried again. `what` is still not done."""
    pause = pause_after(attempts)
    log.error(
        "%s: %s; it is tried again in %g s",
        *(what, problems_of(error)[0].text, pause),
        exc_info=None if is_expected(error) else error,
    )
    when = time.strftime("%H:%M:%S", time.localtime(time.time() + pause))
    tried = f"tried {attempts} times" if attempts > 1 else "tried once"
    text = f"{what}: {problems_of(error)[0].text}; {tried}, and again at {when}"
    hint = f"remove the cause: xenmoved goes on by itself; see: xenmovectl show {job.job}"
    found = problem("unfinished", text, hint)
    host.alarms[job.job] = found
    job.persisting = True
    job.note(text[:4000])
    return found


def end_alarm(host: Host, job: Job) -> None:
    """Take the alarm of a job back, if there is one."""
    if host.alarms.pop(job.job, None) is not None:
        job.note("")
    job.persisting = False


async def until_done(
    host: Host, job: Job, what: str, work: Callable[[], Awaitable[None]], *, attempts: int = 0
) -> None:
    """Do something that may be done twice until it succeeds, after so many failed `attempts`."""
    if attempts:
        await asyncio.sleep(pause_after(attempts))
    while True:
        try:
            await work()
            break
        except Exception as error:
            attempts += 1
            raise_alarm(host, job, what, error, attempts)
        await asyncio.sleep(pause_after(attempts))
    if attempts:
        log.warning("done after %d attempts: %s", attempts, what)
    end_alarm(host, job)
