"""Small helpers for structured concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so long; return whether it has come."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def alongside(work: Coroutine[Any, Any, T], *watchers: Coroutine[Any, Any, None]) -> T:
    """Await `work` while the watchers run; a watcher that raises ends it with that exception.

    A watcher that returns is done watching. Watchers are cancelled when the work is over. Errors
    come in an ExceptionGroup, as from a TaskGroup.

    All of it is in a task of its own. Where something fails while a TaskGroup is being left, the
    task around it stays marked as cancelled (`Task.cancelling`, CPython before 3.13), and with
    Python 3.11.2 no timeout in that task ends as one any more: so it must not be that of the
    caller, who has to deal with the failure.
    """
    return await asyncio.create_task(_alongside(work, watchers))


async def _alongside(
    work: Coroutine[Any, Any, T], watchers: Iterable[Coroutine[Any, Any, None]]
) -> T:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher) for watcher in watchers]
        result = await work
        for task in tasks:
            task.cancel()
    return result


def retrieve(future: asyncio.Future[T]) -> None:
    """Keep asyncio from complaining of a failure that nobody awaits: the first one is told."""
    if not future.cancelled():
        future.exception()


async def wait_through(awaitable: Awaitable[T]) -> T:
    """Await something that must not be left behind: a cancellation shows only when it is over."""
    future = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        retrieve(future)
        raise cancelled
    return future.result()
