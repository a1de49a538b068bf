"""A zvol that goes by `zfs send` from one volume to another, both ends of it, without a network."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.volumes import BLOCK, aligned, only_where_possible, read, run
from tests.support.zfs import Tank
from xenmoved.link.framed import Framed
from xenmoved.sync.devices import DeviceThreads
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import VolumeProgress
from xenmoved.sync.snapshots import MOST_PASSED
from xenmoved.sync.stream_source import StreamSource
from xenmoved.sync.stream_target import StreamTarget

pytestmark = only_where_possible("zfs")

SIZE = 64 * BLOCK


class Wire:
    """One end of a channel. `limit`: after so many bytes the line is dead."""

    def __init__(self) -> None:
        self.peer = "the other end"
        self.sent_bytes = 0
        self.limit: int | None = None
        self.other: Wire = self
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        if self.limit is not None and self.sent_bytes > self.limit:
            await self.other._pieces.put(b"")
            raise ConnectionError("the line is dead")
        await self.other._pieces.put(bytes(data))

    async def receive(self) -> bytes:
        return await self._pieces.get()

    def end(self) -> None:
        """Have this end find that the other is gone."""
        self._pieces.put_nowait(b"")

    async def finish(self) -> None:
        await self.other._pieces.put(b"")


@dataclass
class Job:
    """A source and a target that is served."""

    source: StreamSource
    target: StreamTarget
    near: Wire
    fresh: bool
    failed: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def job(
    tank: Tank, there: str, here: str, number: int, *, fresh: bool = False, back: bool = False
) -> AsyncIterator[Job]:
    """Have a job from volume `there` to volume `here`, which is held open as a landing does."""
    pool = tank.pool()
    async with AsyncExitStack() as stack:
        near, far = Wire(), Wire()
        near.other, far.other = far, near
        threads = [await stack.enter_async_context(DeviceThreads(n, 2)) for n in ("near", "far")]
        volume = pool.open(here, writable=True)
        stack.callback(volume.close)
        names: dict[str, Any] = {"migration": f"{number:032x}"}
        peers = ("near", "far") if back else ("far", "near")
        source = StreamSource(
            pool.history(there),
            Framed(near),  # type: ignore[arg-type]
            threads[0],
            RateLimiter(None),
            VolumeProgress(there, SIZE),
            peer=peers[0],
            **names,
        )
        target = StreamTarget(
            pool.history(here),
            volume,
            Framed(far),  # type: ignore[arg-type]
            threads[1],
            VolumeProgress(here, SIZE, fresh=fresh),
            peer=peers[1],
            **names,
        )
        one = Job(source, target, near, fresh)
        serving = asyncio.create_task(target.serve())
        serving.add_done_callback(lambda _: near.end())
        try:
            yield one
        finally:
            await near.finish()
            one.failed += [
                e
                for e in await asyncio.gather(serving, return_exceptions=True)
                if isinstance(e, BaseException)
            ]


def volumes(tank: Tank, *names: str) -> None:
    for name in names:
        tank.pool(sparse=True).create(name, SIZE)


def write(tank: Tank, name: str, block: int, count: int = 1) -> None:
    volume = tank.pool().open(name, writable=True)
    volume.write(block * BLOCK, aligned(os.urandom(count * BLOCK)))
    volume.flush()
    volume.close()


def content(tank: Tank, name: str) -> bytes:
    volume = tank.pool().open(name, writable=False)
    try:
        return read(volume, 0, SIZE)
    finally:
        volume.close()


def guids(tank: Tank, name: str) -> list[int]:
    return [one.guid for one in tank.pool().history(name).snapshots()]


def test_rounds_and_the_way_back(tank: Tank) -> None:
    volumes(tank, "one", "two")
    write(tank, "one", 0, 32)

    async def move(there: str, here: str, number: int, *, back: bool) -> list[int]:
        async with job(tank, there, here, number, fresh=not back, back=back) as one:
            assert await one.source.agree()
            rounds = [await one.source.run_round()]
            for block in (40, 50):
                write(tank, there, block)
                rounds.append(await one.source.run_round(0))
        assert one.failed == []
        assert one.target.idle
        assert one.target.rounds == 3
        one.source.settle(keep=True)
        one.target.settle()
        assert content(tank, here) == content(tank, there)
        assert guids(tank, here) == guids(tank, there)
        assert len(guids(tank, here)) == 1
        return [each.wire_bytes for each in rounds]

    there = asyncio.run(move("one", "two", 1, back=False))
    assert 32 * BLOCK < there[0] < 34 * BLOCK
    assert all(BLOCK < size < 2 * BLOCK for size in there[1:])
    write(tank, "two", 3)
    back = asyncio.run(move("two", "one", 2, back=True))
    assert all(BLOCK < size < 2 * BLOCK for size in back)


def test_what_was_interrupted_is_gone_on_with(tank: Tank) -> None:
    volumes(tank, "from", "to")
    write(tank, "from", 0, 48)

    async def broken() -> None:
        async with job(tank, "from", "to", 3, fresh=True) as one:
            assert await one.source.agree()
            one.near.limit = 30 * BLOCK
            with pytest.raises(ConnectionError):
                await one.source.run_round()
        assert one.failed
        one.source.settle(keep=True)

    async def gone_on_with() -> int:
        async with job(tank, "from", "to", 4) as one:
            assert await one.source.agree()
            first = await one.source.run_round()
            write(tank, "from", 60)
            await one.source.run_round(0)
        assert one.failed == []
        one.source.settle(keep=True)
        one.target.settle()
        return first.wire_bytes

    asyncio.run(broken())
    assert tank.pool().history("to").resume_point() is not None
    assert asyncio.run(gone_on_with()) < 30 * BLOCK
    assert content(tank, "from") == content(tank, "to")
    assert guids(tank, "from") == guids(tank, "to")


def test_nothing_is_lost_that_somebody_else_made(tank: Tank) -> None:
    volumes(tank, "mine", "theirs")
    write(tank, "mine", 0)

    async def agree(number: int, *, fresh: bool) -> bool:
        async with job(tank, "mine", "theirs", number, fresh=fresh) as one:
            if agreed := await one.source.agree():
                await one.source.run_round()
        assert one.failed == []
        return agreed

    assert asyncio.run(agree(5, fresh=True))
    write(tank, "theirs", 9)
    run("zfs", "snapshot", f"{tank.dataset}/theirs@daily")
    before = content(tank, "theirs"), guids(tank, "theirs")
    assert not asyncio.run(agree(6, fresh=False))
    assert (content(tank, "theirs"), guids(tank, "theirs")) == before
    run("zfs", "destroy", f"{tank.dataset}/theirs@daily")
    assert asyncio.run(agree(7, fresh=False))
    assert content(tank, "theirs") == content(tank, "mine")


def test_a_volume_without_a_common_snapshot_goes_by_blocks(tank: Tank) -> None:
    volumes(tank, "old", "older")
    write(tank, "older", 1)
    before = content(tank, "older")

    async def agree() -> bool:
        async with job(tank, "old", "older", 8) as one:
            return await one.source.agree()

    assert not asyncio.run(agree())
    assert content(tank, "older") == before


def test_snapshots_of_many_rounds_do_not_gather(tank: Tank) -> None:
    volumes(tank, "held", "close")
    most = []

    async def hold() -> None:
        async with job(tank, "held", "close", 9, fresh=True) as one:
            assert await one.source.agree()
            for _ in range(MOST_PASSED + 3):
                await one.source.run_round(0)
                await one.source.written()
                most.append(max(len(guids(tank, "held")), len(guids(tank, "close"))))
        assert one.failed == []

    asyncio.run(hold())
    assert max(most) <= MOST_PASSED + 1
    assert guids(tank, "held")[-1] == guids(tank, "close")[-1]


def test_a_snapshot_has_what_is_in_the_page_cache(tank: Tank) -> None:
    path = tank.made("cached", SIZE)
    backend = os.open(path, os.O_RDWR)
    try:
        os.pwrite(backend, b"told to be done", 4096)
        taken = tank.pool().history("cached").take(f"xenmoved-b-{'0' * 32}-1", SIZE)
    finally:
        os.close(backend)
    run("zfs", "clone", f"{tank.dataset}/cached@{taken.name}", f"{tank.dataset}/clone")
    try:
        while not Path(tank.pool().path("clone")).exists():
            time.sleep(0.1)
        volume = tank.pool().open("clone", writable=False)
        assert b"told to be done" in read(volume, 0, BLOCK)
        volume.close()
    finally:
        run("zfs", "destroy", f"{tank.dataset}/clone")
