"""For how long a guest may stand still."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast

import pytest

from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.migration.source.rounds import Outlook
from xenmoved.migration.source.standstill import Standstill
from xenmoved.problems import JobError

pytestmark = pytest.mark.long

GIB = 2**30
MIB = 2**20
NOTHING_LEFT = Outlook(0, 0.0, 0.0)


@dataclass
class FakeDisks:
    """Disks of which this is known."""

    size: int = 0
    least_rate: float = MIB
    outlook: Outlook = NOTHING_LEFT


async def code_of(job: Job, disks: FakeDisks, stood: float, *, verify: bool = False) -> str:
    """Return the code of the problem of a guest that has stood still for so long, "" for none."""
    job.suspended_at = monotonic() - stood
    watched = Standstill(job, cast(Any, disks), stall=60, tolerance=3, verify=verify)
    try:
        async with asyncio.timeout(0.2):
            await watched.watch()
    except TimeoutError:
        return ""
    except JobError as error:
        return error.problems[0].code
    raise AssertionError("a watch has no end")


def job(memory: int = 0) -> Job:
    return Job(JobKind.MIGRATE, "web", "host-b", memory_total=memory)


@pytest.mark.parametrize(
    ("memory", "disks", "verify", "limit"),
    [
        (0, FakeDisks(), False, 600),
        (GIB, FakeDisks(), False, 600 + 1024),
        (GIB, FakeDisks(least_rate=4 * MIB), False, 600 + 256),
        (0, FakeDisks(outlook=Outlook(512 * MIB, 1.0, 0.0)), False, 600 + 512),
        (0, FakeDisks(size=8 * GIB), False, 600),
        (0, FakeDisks(size=8 * GIB), True, 600 + 1024),
        (0, FakeDisks(size=8 * GIB, outlook=Outlook(0, 9.0, 9.0)), False, 600 + 1024),
    ],
)
async def test_what_explains_it(memory: int, disks: FakeDisks, verify: bool, limit: float) -> None:
    assert await code_of(job(memory), disks, limit - 5, verify=verify) == ""
    assert await code_of(job(memory), disks, limit + 5, verify=verify) == "stalled"


async def test_what_an_operator_allows_goes_before_it() -> None:
    allowed = job(GIB)
    allowed.steering.change(rate_limit=None, max_downtime=2.0, hold=None)
    assert await code_of(allowed, FakeDisks(), 5.5) == ""
    assert await code_of(allowed, FakeDisks(), 6.5) == "downtime"
    allowed.steering.change(rate_limit=None, max_downtime=10_000.0, hold=None)
    assert await code_of(allowed, FakeDisks(), 20_000) == ""
