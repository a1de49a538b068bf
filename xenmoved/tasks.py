"""Small helpers for structured concurrency."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_AGAIN_AFTER: Final = 10.0
"""Seconds until what is done for ever is begun again after it failed."""


class TookTooLong(Exception):
    """Something was waited for in vain. The message says what, where, and for how long."""


@asynccontextmanager
async def at_most(
    seconds: float, what: str, kind: type[Exception] = TookTooLong
) -> AsyncIterator[None]:
    """Give what is done in the context so many seconds; raise a `kind` that says so when it ends.

    `what` is a sentence but for its end: after "host-b did not answer" follows " within 5 s".
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():  # that of a system call
            raise
        raise kind(f"{what} within {seconds:g} s") from error


async def result_within(awaitable: Awaitable[T], seconds: float | None) -> T | None:
    """Return what an awaitable gives, None when it takes longer than so many seconds."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        return None


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so long; return whether it has come."""
    return await result_within(event.wait(), seconds) is not None


async def unless(work: Coroutine[Any, Any, T], stop: Coroutine[Any, Any, object]) -> T | None:
    """Await `work`; return None when `stop` has ended before it, and `work` is given up."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop)
    both: tuple[asyncio.Task[Any], ...] = (working, stopping)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in both:
            task.add_done_callback(retrieve)
            task.cancel()
        await asyncio.wait(both)


async def all_done(tasks: Iterable[asyncio.Future[Any]], seconds: float) -> bool:
    """Wait for tasks, at most so long, whatever comes of them; return whether all have ended."""
    waiting = list(tasks)
    return not waiting or not (await asyncio.wait(waiting, timeout=seconds))[1]


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


class Guarded(asyncio.TaskGroup):
    """A group of tasks that end alone: what one of them raises is logged, and disturbs no other.

    Everything that the daemon does at the same time as something else is run in one.
    """

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Run something in a task, which gives None when it fails."""
        return super().create_task(_guarded(coro), name=name, context=context)  # type: ignore[arg-type]


async def _guarded(work: Generator[Any, None, T] | Coroutine[Any, Any, T]) -> T | None:
    assert isinstance(work, Coroutine)
    try:
        return await work
    except Exception:
        name = getattr(work, "__qualname__", work)
        log.exception("internal error in %s; everything else goes on", name)
        return None


async def keep_doing(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something that has no end, again some seconds after it failed, whatever it raised."""
    while True:
        await _guarded(work())
        await asyncio.sleep(_AGAIN_AFTER)


def retrieve(future: asyncio.Future[T]) -> None:
    """Keep asyncio from complaining of a failure that nobody awaits: the first one is told."""
    if not future.cancelled():
        future.exception()


async def wait_through(awaitable: Awaitable[T], hurry: Callable[[], None] = lambda: None) -> T:
    """Await something that must not be left behind: a cancellation shows only when it is over.

    `hurry` is called then, for what is awaited to come to an end.
    """
    future = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
            hurry()
    if cancelled is not None:
        retrieve(future)
        raise cancelled
    return future.result()
