"""Threads and buffers for device I/O, so that nothing blocks the event loop.

One `Buffers` for the whole daemon bounds the memory of everything that is in flight. Each volume
has `DeviceThreads` of its own, so that a slow disk holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from storage.buffers import AlignedBuffer, BufferPool
from xenmoved.tasks import retrieve, wait_through

T = TypeVar("T")

SEGMENT_SIZE: Final = 2 * 1024 * 1024
"""Bytes that are read and hashed in one piece of work: large enough to keep a disk busy, and to
make the cost of a change of threads small."""


class Buffers:
    """Page-aligned buffers of `SEGMENT_SIZE` that tasks wait for, first come first served."""

    def __init__(self, count: int) -> None:
        self._pool = BufferPool(count, SEGMENT_SIZE)
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> AlignedBuffer | None:
        """Return a buffer if one is free and nobody waits for it."""
        if self._free == 0:
            return None
        self._free -= 1
        return self._pool.acquire()

    async def acquire(self) -> AlignedBuffer:
        """Wait for a buffer. Give it back with `release` when no thread touches it any more."""
        if (buffer := self.try_acquire()) is not None:
            return buffer
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise
        return self._pool.acquire()

    def release(self, buffer: AlignedBuffer) -> None:
        """Give a buffer back."""
        self._pool.release(buffer)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class DeviceThreads:
    """A few threads for one volume. Leaving the context waits for all that they still do.

    So that a volume may be closed after the context, and a buffer is never touched after it was
    given back, also when the tasks that started the work were cancelled.
    """

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name[-12:])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await wait_through(asyncio.to_thread(self._executor.shutdown, cancel_futures=True))

    def submit(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Start `work` in a thread. What it uses must live until the context is left."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        future.add_done_callback(retrieve)
        return future

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Run `work` in a thread and return its result."""
        return await self.submit(work, *args)
