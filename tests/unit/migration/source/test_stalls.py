"""What is done about a transfer that stands still."""

import asyncio
import itertools

import pytest

from xenmoved.migration.source.stalls import Stalls
from xenmoved.problems import problems_of

STALLS = Stalls("host-b", 0.05)


async def test_what_stands_still_ends_the_job():
    with pytest.raises(ExceptionGroup) as caught:
        await STALLS.watch(asyncio.sleep(10), lambda: 7, lambda: "the copy of web-root")
    (found,) = problems_of(caught.value)
    assert found.code == "stalled"
    assert found.text == (
        "the copy of web-root: nothing has moved for 0.05 s, and host-b is connected"
    )
    assert "host-b" in found.hint


async def test_what_moves_does_not():
    counted = itertools.count()
    await STALLS.watch(asyncio.sleep(0.3), lambda: next(counted), lambda: "it")


async def test_nor_what_may_take_longer():
    await STALLS.watch(asyncio.sleep(0.3), lambda: 7, lambda: "it", extra=5)


async def test_one_thing_is_given_the_same_time():
    await STALLS.limit(asyncio.sleep(0), "it")
    with pytest.raises(Exception, match="the memory of web: nothing has moved"):
        await STALLS.limit(asyncio.sleep(10), "the memory of web")
