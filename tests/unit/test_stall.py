"""What is done about a transfer that makes no progress."""

import asyncio
import itertools

import pytest

from xenmoved.migration.disks import watch_for_stall
from xenmoved.problems import JobError


async def test_no_progress_ends_the_job():
    with pytest.raises(JobError) as caught:
        await watch_for_stall(lambda: 7, "host-b", lambda: 0.05)
    (found,) = caught.value.problems
    assert found.code == "stalled"
    assert "for 0.05 s" in found.text
    assert "host-b" in found.text


async def test_progress_does_not():
    counted = itertools.count()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await watch_for_stall(lambda: next(counted), "host-b", lambda: 0.05)


async def test_nor_does_work_that_may_take_longer():
    limits = itertools.chain([0.02], itertools.repeat(10.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await watch_for_stall(lambda: 7, "host-b", lambda: next(limits))
