"""Reading and fingerprinting a volume, ahead of whoever uses it and in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from protocol.fingerprints import fingerprints
from storage.buffers import AlignedBuffer
from storage.contracts import Volume
from xenmoved.sync.devices import Buffers, DeviceThreads, wait_through
from xenmoved.sync.segments import Segment

_DEPTH: Final = 4
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Examined:
    """A segment as it was read. For a hole `data` and `fingerprints` are empty."""

    segment: Segment
    data: memoryview
    fingerprints: bytes


@dataclass(slots=True)
class _Reading:
    segment: Segment
    buffer: AlignedBuffer
    fingerprints: asyncio.Future[bytes]


async def examine(
    volume: Volume, segments: Iterator[Segment], threads: DeviceThreads, buffers: Buffers
) -> AsyncGenerator[Examined, None]:
    """Yield every segment, read and fingerprinted in threads, a few segments ahead.

    What is yielded is valid until the next one is asked for. Use with `contextlib.aclosing`, so
    that buffers are given back as soon as the user stops. Raises StorageError.
    """
    ahead: deque[Segment | _Reading] = deque()
    source = _in_batches(segments, threads)
    upcoming = await anext(source, None)
    try:
        while upcoming is not None or ahead:
            while upcoming is not None and len(ahead) < _DEPTH:
                reading = await _begin(volume, upcoming, threads, buffers, wait=not ahead)
                if reading is None:
                    break
                ahead.append(reading)
                upcoming = await anext(source, None)
            match ahead[0]:
                case _Reading(segment, buffer, found):
                    await asyncio.wait([found])  # unlike a plain await, leaves it be if cancelled
                    yield Examined(segment, buffer.view[: segment.length], found.result())
                    buffers.release(buffer)
                case Segment() as hole:
                    yield Examined(hole, memoryview(b""), b"")
            ahead.popleft()
    finally:
        if ahead:
            await wait_through(_give_back(ahead, buffers))


async def _give_back(ahead: deque[Segment | _Reading], buffers: Buffers) -> None:
    """Release the buffers of what is left, each when its thread is done with it."""
    for left in ahead:
        if isinstance(left, _Reading):
            await asyncio.wait([left.fingerprints])
            if not left.fingerprints.cancelled():
                left.fingerprints.exception()  # retrieved: it was another one that ended the work
            buffers.release(left.buffer)


async def _begin(
    volume: Volume, segment: Segment, threads: DeviceThreads, buffers: Buffers, *, wait: bool
) -> Segment | _Reading | None:
    """Start to read a segment; None when no buffer is free and the caller has some to finish.

    Whoever holds buffers must never wait for another one: all might.
    """
    if segment.hole:
        return segment
    buffer = await buffers.acquire() if wait else buffers.try_acquire()
    if buffer is None:
        return None
    view = buffer.view[: segment.length]
    return _Reading(segment, buffer, threads.submit(_read, volume, segment.offset, view))


def _read(volume: Volume, offset: int, view: memoryview) -> bytes:
    volume.read_into(offset, view)
    return fingerprints(view)


async def _in_batches(
    segments: Iterator[Segment], threads: DeviceThreads
) -> AsyncIterator[Segment]:
    """Yield segments that are found in a thread: finding them asks the file system."""
    while batch := await threads.run(lambda: list(islice(segments, _BATCH))):
        for segment in batch:
            yield segment
