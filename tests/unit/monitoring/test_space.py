"""Pools are asked now and then, one look at a time, and one that hangs holds up no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from storage.contracts import Capacity
from storage.errors import VolumeError
from xenmoved.monitoring.space import RecentLook, StorageSpace
from xenmoved.tasks import Guarded


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with Guarded() as group:
        yield group


class Looked:
    """Counts looks, which last as long as `hold` is not set."""

    def __init__(self) -> None:
        self.count = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self) -> int:
        self.count += 1
        await self.hold.wait()
        return self.count


async def test_it_is_looked_again_only_when_what_is_known_is_too_old(
    tasks: asyncio.TaskGroup,
) -> None:
    look = Looked()
    recent = RecentLook(look, tasks)
    assert [await recent.get(60, 1) for _ in range(3)] == [1, 1, 1]
    await asyncio.sleep(0.02)
    assert await recent.get(0.01, 1) == 2
    assert await recent.get(60, 1) == 2


async def test_a_look_that_takes_long_is_waited_for_once(tasks: asyncio.TaskGroup) -> None:
    look = Looked()
    look.hold.clear()
    recent = RecentLook(look, tasks)
    assert await asyncio.gather(*(recent.get(60, 0.05) for _ in range(5))) == [None] * 5
    assert await recent.get(60, 0.05) is None
    assert look.count == 1
    look.hold.set()
    assert await recent.get(60, 1) == 1
    assert look.count == 1


async def test_after_a_look_that_failed_there_is_another(tasks: asyncio.TaskGroup) -> None:
    results: list[Any] = [ZeroDivisionError("a mistake"), 7]

    async def look() -> int:
        found = results.pop(0)
        if isinstance(found, Exception):
            raise found
        return int(found)

    recent = RecentLook(look, tasks)
    assert await recent.get(60, 1) is None
    assert await recent.get(60, 1) == 7


def pool(name: str, answer: Any) -> Any:
    def capacity() -> Any:
        found = answer() if callable(answer) else answer
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(name=name, kind="dir", capacity=capacity)


async def test_a_pool_that_hangs_or_fails_has_a_problem_and_others_tell(
    tasks: asyncio.TaskGroup,
) -> None:
    release = threading.Event()
    pools = {
        "good": pool("good", Capacity(100, 40)),
        "block": pool("block", None),
        "bad": pool("bad", VolumeError("no such folder")),
        "hung": pool("hung", lambda: release.wait(10) and Capacity(1, 1)),
    }
    host: Any = SimpleNamespace(pools=pools)
    space = StorageSpace(host, tasks)
    try:
        good, bad, hung = await space.pools(60, 0.3)
    finally:
        release.set()
    assert (good.name, good.total, good.free, good.problem) == ("good", 100, 40, None)
    assert bad.problem is not None
    assert "no such folder" in bad.problem.text
    assert hung.problem is not None
    assert hung.problem.text == "pool hung did not answer within 0.3 s"
