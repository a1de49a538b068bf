"""Small helpers for structured concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
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
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher) for watcher in watchers]
        result = await work
        for task in tasks:
            task.cancel()
    return result
