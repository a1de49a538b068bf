"""Buffers and threads: cancellation at any moment leaves the pool whole, and no buffer in use."""

import asyncio
import random
import threading
import time
from contextlib import aclosing

import pytest

from protocol.fingerprints import fingerprints
from protocol.messages import BLOCK_SIZE
from storage.errors import VolumeError
from xenmoved.sync.devices import SEGMENT_SIZE, Buffers, DeviceThreads
from xenmoved.sync.examine import examine
from xenmoved.sync.segments import Segment
from xenmoved.tasks import wait_through

pytestmark = pytest.mark.long


async def whole(buffers, count):
    """Assert that all buffers can be taken, and none more."""
    async with asyncio.timeout(2):
        taken = [await buffers.acquire() for _ in range(count)]
    assert len({id(buffer) for buffer in taken}) == count
    assert buffers.try_acquire() is None
    for buffer in taken:
        buffers.release(buffer)


async def test_buffers_are_given_in_the_order_of_asking():
    buffers = Buffers(2)
    held = [await buffers.acquire(), await buffers.acquire()]
    order = []

    async def ask(number):
        buffer = await buffers.acquire()
        order.append(number)
        buffers.release(buffer)

    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert buffers.try_acquire() is None
    assert order == []
    buffers.release(held.pop())
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    buffers.release(held.pop())
    await whole(buffers, 2)


async def test_a_waiter_that_is_cancelled_passes_its_turn_on():
    for after_the_turn in (False, True):
        buffers = Buffers(1)
        held = await buffers.acquire()
        first = asyncio.create_task(buffers.acquire())
        second = asyncio.create_task(buffers.acquire())
        await asyncio.sleep(0)
        if after_the_turn:
            buffers.release(held)
            first.cancel()
        else:
            first.cancel()
            buffers.release(held)
        got = await asyncio.wait_for(second, 1)
        with pytest.raises(asyncio.CancelledError):
            await first
        buffers.release(got)
        await whole(buffers, 1)


async def test_a_storm_of_cancellations_leaves_all_buffers():
    rng = random.Random(7)
    buffers = Buffers(4)
    lent = set()

    async def use():
        buffer = await buffers.acquire()
        assert id(buffer) not in lent
        lent.add(id(buffer))
        try:
            await asyncio.sleep(rng.random() * 0.002)
        finally:
            lent.discard(id(buffer))
            buffers.release(buffer)

    for _ in range(20):
        tasks = [asyncio.create_task(use()) for _ in range(50)]
        for _ in range(40):
            await asyncio.sleep(rng.random() * 0.001)
            rng.choice(tasks).cancel()
        for task in rng.sample(tasks, 30):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await whole(buffers, 4)


async def test_leaving_the_threads_waits_for_what_they_do():
    done = threading.Event()

    def work():
        time.sleep(0.15)
        done.set()

    async with DeviceThreads("disk", 1) as threads:
        future = threads.submit(work)
        queued = threads.submit(work)
        await asyncio.sleep(0.02)
    assert done.is_set()
    assert future.done()
    assert queued.cancelled()


async def test_leaving_waits_however_often_it_is_cancelled():
    running, done = threading.Event(), threading.Event()

    def work():
        running.set()
        time.sleep(0.2)
        done.set()

    async def use():
        async with DeviceThreads("disk", 1) as threads:
            await threads.run(work)

    task = asyncio.create_task(use())
    await asyncio.to_thread(running.wait, 5)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.01)
    assert done.is_set()
    assert task.cancelled()


async def test_wait_through_gives_result_error_or_the_cancellation_afterwards():
    async def later(result):
        await asyncio.sleep(0.05)
        if isinstance(result, Exception):
            raise result
        return result

    assert await wait_through(later(3)) == 3
    with pytest.raises(KeyError):
        await wait_through(later(KeyError("x")))
    for result in (3, KeyError("x")):
        inner = asyncio.ensure_future(later(result))
        outer = asyncio.create_task(wait_through(inner))
        for _ in range(3):
            await asyncio.sleep(0.005)
            outer.cancel()
        assert not inner.done()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert inner.done()
        assert not inner.cancelled()


class SlowVolume:
    """A volume whose reads take a while, and know which buffers they write into."""

    alignment = 1
    name = "slow"

    def __init__(self, segments, delay=0.003, fails_at=None):
        self.size = segments * SEGMENT_SIZE
        self.delay = delay
        self.fails_at = fails_at
        self.writing = set()
        self.lock = threading.Lock()
        self.trouble = []

    def read_into(self, offset, buffer):
        number = offset // SEGMENT_SIZE
        mark = bytes([number % 251 + 1]) * 8
        with self.lock:
            self.writing.add(id(buffer.obj))
        for at in range(0, len(buffer), BLOCK_SIZE):
            buffer[at : at + 8] = mark
        time.sleep(self.delay)
        if any(buffer[at : at + 8] != mark for at in range(0, len(buffer), BLOCK_SIZE)):
            self.trouble.append(f"segment {number} was written by somebody else")
        with self.lock:
            self.writing.discard(id(buffer.obj))
        if number == self.fails_at:
            raise VolumeError("slow: read failed")


class WatchedBuffers(Buffers):
    """Buffers that note when one is given back while a thread writes it."""

    def __init__(self, count, volume):
        super().__init__(count)
        self.volume = volume

    def release(self, buffer):
        if id(buffer.view.obj) in self.volume.writing:
            self.volume.trouble.append("a buffer was given back while it was written")
        super().release(buffer)


def segments_of(volume, hole_every=0):
    for number in range(volume.size // SEGMENT_SIZE):
        hole = bool(hole_every) and number % hole_every == 0
        yield Segment(number * SEGMENT_SIZE, SEGMENT_SIZE, hole=hole)


async def one_by_one(*arguments):
    async with aclosing(examine(*arguments)) as reading:
        async for stretch in reading:
            for examined in stretch:
                yield examined


async def test_segments_come_in_order_with_their_fingerprints():
    volume = SlowVolume(12)
    buffers = WatchedBuffers(3, volume)
    seen = []
    async with DeviceThreads("disk", 3) as threads:
        async for examined in one_by_one(volume, segments_of(volume, 4), threads, buffers):
            seen.append(examined.segment.offset // SEGMENT_SIZE)
            if examined.segment.hole:
                assert (len(examined.data), examined.fingerprints) == (0, b"")
            else:
                assert examined.data[0] == seen[-1] + 1
                assert examined.fingerprints == fingerprints(examined.data)
    assert seen == list(range(12))
    assert volume.trouble == []
    await whole(buffers, 3)


async def test_what_lies_about_is_read_in_few_changes_of_threads():
    """One block of each segment, holes between them, as a guest's writes are."""
    volume = SlowVolume(200, delay=0)
    scattered = [
        Segment(number * SEGMENT_SIZE + at, length, hole=hole)
        for number in range(200)
        for at, length, hole in ((0, BLOCK_SIZE, False), (BLOCK_SIZE, SEGMENT_SIZE // 2, True))
    ]
    buffers = WatchedBuffers(3, volume)
    reads = 0
    async with DeviceThreads("disk", 2) as threads:
        submit = threads.submit

        def counted(work, *args):
            nonlocal reads
            reads += 1
            return submit(work, *args)

        threads.submit = counted
        seen = []
        async for examined in one_by_one(volume, iter(scattered), threads, buffers):
            seen.append(examined.segment)
            if not examined.segment.hole:
                mark = examined.segment.offset // SEGMENT_SIZE % 251 + 1
                assert examined.data[0] == mark
                assert len(examined.data) == BLOCK_SIZE
            assert examined.fingerprints == fingerprints(examined.data)
    assert seen == scattered
    assert reads < 20
    assert volume.trouble == []
    await whole(buffers, 3)


async def test_many_volumes_share_few_buffers_without_waiting_for_each_other_for_ever():
    volumes = [SlowVolume(6, 0.001) for _ in range(6)]
    buffers = Buffers(2)

    async def read(volume):
        async with DeviceThreads("disk", 2) as threads:
            reading = one_by_one(volume, segments_of(volume), threads, buffers)
            return [examined.segment async for examined in reading]

    async with asyncio.timeout(10):
        found = await asyncio.gather(*(read(volume) for volume in volumes))
    assert [len(segments) for segments in found] == [6] * 6
    await whole(buffers, 2)


async def test_a_read_error_comes_in_its_turn_and_gives_everything_back():
    volume = SlowVolume(8, fails_at=3)
    buffers = WatchedBuffers(4, volume)
    seen = []
    async with DeviceThreads("disk", 2) as threads:
        with pytest.raises(VolumeError, match="read failed"):
            reading = one_by_one(volume, segments_of(volume), threads, buffers)
            async with aclosing(reading):
                async for examined in reading:
                    seen.append(examined.segment.offset // SEGMENT_SIZE)
        assert seen == [0, 1, 2]
        await whole(buffers, 4)
    assert volume.trouble == []


async def test_a_user_that_stops_gives_everything_back_at_once():
    volume = SlowVolume(8, 0.05)
    buffers = WatchedBuffers(4, volume)
    async with DeviceThreads("disk", 2) as threads:
        async with aclosing(examine(volume, segments_of(volume), threads, buffers)) as reading:
            await anext(reading)
        await whole(buffers, 4)
    assert volume.trouble == []


@pytest.mark.parametrize("seed", range(4))
async def test_no_buffer_is_used_twice_in_a_storm_of_cancellations(seed):
    """Tasks are cancelled again and again, also while they clean up."""
    rng = random.Random(seed)
    volume = SlowVolume(10, 0.002)
    buffers = WatchedBuffers(4, volume)

    async def read():
        async with DeviceThreads("disk", 2) as threads:
            reading = examine(volume, segments_of(volume, 3), threads, buffers)
            async with aclosing(reading):
                async for _ in reading:
                    await asyncio.sleep(rng.random() * 0.001)

    cancelled = 0
    for _ in range(12):
        tasks = [asyncio.create_task(read()) for _ in range(3)]
        for task in tasks:
            await asyncio.sleep(rng.random() * 0.01)
            while not task.done():
                task.cancel()
                await asyncio.sleep(rng.choice((0, 0, 0.0005, 0.002)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
        cancelled += sum(r is not None for r in results)
        assert volume.trouble == []
        await whole(buffers, 4)
    assert cancelled > 12
