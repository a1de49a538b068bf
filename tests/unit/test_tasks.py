"""Structured concurrency."""

import asyncio

import pytest

from xenmoved.tasks import (
    TookTooLong,
    all_done,
    alongside,
    at_most,
    result_within,
    unless,
    within,
)


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


async def test_what_takes_too_long_is_said_with_its_limit():
    with pytest.raises(TookTooLong, match=r"^host-b did not answer within 0\.01 s$"):
        async with at_most(0.01, "host-b did not answer"):
            await for_ever()


async def test_it_is_of_the_kind_that_the_caller_raises():
    with pytest.raises(LookupError, match=r"it is not there within 0\.01 s"):
        async with at_most(0.01, "it is not there", LookupError):
            await for_ever()


async def test_a_system_call_that_timed_out_is_not_taken_for_it():
    with pytest.raises(TimeoutError, match="Connection timed out"):
        async with at_most(5, "host-b did not answer"):
            raise TimeoutError(110, "Connection timed out")

    async def fails():
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await result_within(fails(), 5)


async def test_a_result_that_does_not_come_is_none():
    assert await result_within(for_ever(), 0.01) is None
    assert await result_within(asyncio.sleep(0, 7), 5) == 7


async def test_tasks_are_waited_for_whatever_comes_of_them():
    failed, slow = asyncio.create_task(fail()), asyncio.create_task(for_ever())
    assert await all_done([], 0.01)
    assert await all_done([failed], 5)
    assert not await all_done([failed, slow], 0.01)
    assert isinstance(failed.exception(), KeyError)
    slow.cancel()


async def give(value, seconds=0.0):
    await asyncio.sleep(seconds)
    return value


async def test_work_that_ends_first_is_returned():
    assert await unless(give(3), for_ever()) == 3


async def test_work_is_given_up_when_something_else_comes_first():
    ended = []

    async def work():
        try:
            await for_ever()
        finally:
            ended.append("work")

    assert await unless(work(), give(3, 0.01)) is None
    assert ended == ["work"]


async def test_work_that_fails_first_raises():
    with pytest.raises(KeyError):
        await unless(fail(), for_ever())


async def test_a_cancellation_ends_the_work_and_what_would_stop_it():
    task = asyncio.create_task(unless(for_ever(), for_ever()))
    await asyncio.sleep(0.01)
    others = asyncio.all_tasks() - {task, asyncio.current_task()}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(one.cancelled() for one in others)
