"""Reading and fingerprinting a volume, ahead of whoever uses it and in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from protocol.fingerprints import fingerprints
from storage.buffers import AlignedBuffer
from storage.contracts import Volume
from xenmoved.sync.devices import SEGMENT_SIZE, Buffers, DeviceThreads
from xenmoved.sync.segments import Segment

_DEPTH: Final = 4
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Examined:
    """A segment as it was read. For a hole `data` and `fingerprints` are empty."""

    segment: Segment
    data: memoryview
    fingerprints: bytes


@dataclass(frozen=True, slots=True)
class _Reading:
    """Segments that a thread reads into a buffer, one after the other."""

    buffer: AlignedBuffer
    found: asyncio.Future[list[Examined]]


async def examine(
    volume: Volume, segments: Iterator[Segment], threads: DeviceThreads, buffers: Buffers
) -> AsyncGenerator[list[Examined], None]:
    """Yield all segments, read and fingerprinted in threads, a few buffers ahead.

    Those come together whose data fits a buffer. What is yielded is valid until more is asked for.
    Use with `contextlib.aclosing`, so that buffers are given back as soon as the user stops. Raises
    StorageError.
    """
    ahead: deque[_Reading] = deque()
    stretches = _stretches(segments, threads)
    upcoming = await anext(stretches, None)
    try:
        while upcoming is not None or ahead:
            while upcoming is not None and len(ahead) < _DEPTH:
                # Whoever holds buffers must never wait for another one: all might.
                buffer = buffers.try_acquire() if ahead else await buffers.acquire()
                if buffer is None:
                    break
                found = threads.submit(_read, volume, upcoming, buffer.view)
                ahead.append(_Reading(buffer, found))
                upcoming = await anext(stretches, None)
            await asyncio.wait([ahead[0].found])  # unlike a plain await, leaves it be if cancelled
            yield ahead[0].found.result()
            buffers.release(ahead.popleft().buffer)
    finally:
        # Each is given back when its thread is done with it. That is not waited for: a disk that
        # hangs must not keep others from learning what went wrong.
        for left in ahead:
            left.found.add_done_callback(partial(_give_back, buffers, left.buffer))


def _give_back(buffers: Buffers, buffer: AlignedBuffer, _: asyncio.Future[list[Examined]]) -> None:
    buffers.release(buffer)


def _read(volume: Volume, segments: list[Segment], view: memoryview) -> list[Examined]:
    examined, used = [], 0
    for segment in segments:
        data = view[used : used + _data_in(segment)]
        used += len(data)
        if data:
            volume.read_into(segment.offset, data)
        examined.append(Examined(segment, data, fingerprints(data)))
    return examined


async def _stretches(
    segments: Iterator[Segment], threads: DeviceThreads
) -> AsyncIterator[list[Segment]]:
    """Yield segments in lists, the data of each of which fits a buffer.

    A change of threads is dear, and what a guest has written may lie about in single blocks. They
    are also found in a thread: that asks the file system.
    """
    while batch := await threads.run(lambda: list(islice(segments, _BATCH))):
        stretch: list[Segment] = []
        size = 0
        for segment in batch:
            if stretch and size + _data_in(segment) > SEGMENT_SIZE:
                yield stretch
                stretch, size = [], 0
            stretch.append(segment)
            size += _data_in(segment)
        yield stretch


def _data_in(segment: Segment) -> int:
    return 0 if segment.hole else segment.length
