"""Structured concurrency."""

import asyncio

import pytest

from xenmoved.tasks import alongside, within


async def fail(seconds=0.0):
    await asyncio.sleep(seconds)
    raise KeyError("x")


async def fail_while_a_group_is_left():
    async with asyncio.TaskGroup() as group:
        group.create_task(fail(0.01))


async def for_ever():
    await asyncio.Event().wait()


async def test_the_work_ends_the_watchers_and_is_returned():
    async def work():
        return 3

    assert await alongside(work(), for_ever(), asyncio.sleep(0)) == 3


async def test_a_watcher_that_fails_ends_the_work():
    with pytest.raises(ExceptionGroup) as caught:
        await alongside(for_ever(), fail())
    assert caught.group_contains(KeyError)


@pytest.mark.parametrize("failing", [fail_while_a_group_is_left, fail])
async def test_whoever_deals_with_a_failure_is_not_taken_for_cancelled(failing):
    task = asyncio.current_task()
    with pytest.raises(ExceptionGroup) as caught:
        await alongside(failing(), for_ever())
    assert caught.group_contains(KeyError)
    assert task.cancelling() == 0
    assert not await within(asyncio.Event(), 0.01)


async def test_a_cancellation_reaches_the_work():
    ended = []

    async def work():
        try:
            await for_ever()
        finally:
            ended.append("work")

    task = asyncio.create_task(alongside(work(), for_ever()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]
