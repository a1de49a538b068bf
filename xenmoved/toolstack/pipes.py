"""Our ends of the pipes to and from toolstack processes.

Plain descriptors under the event loop's readiness calls. A transport would read ahead of us, and
here a byte that is read or written is a promise; and the streams that asyncio makes for a child
are sockets, which `xl` cannot open again by way of /proc/self/fd.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from typing import Final, Self

from xenmoved.toolstack.interface import ToolstackError

PIPE_SIZE: Final = 1 << 20
PIECE: Final = 512 << 10


def enlarged_pipe() -> tuple[int, int]:
    """Make a pipe (read end, write end), 1 MiB large where the host permits."""
    read, write = os.pipe()
    enlarge(write)
    return read, write


def enlarge(descriptor: int) -> None:
    """Make a pipe 1 MiB large where the host permits."""
    with contextlib.suppress(OSError):  # a limit on unprivileged pipes: slower, not wrong
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


class PipeClosed(ToolstackError):
    """The other process closed its end, or this end was closed while somebody waited."""


class _End:
    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwatch(self, descriptor: int) -> None:
        raise NotImplementedError

    def _watch(self, descriptor: int) -> None:
        raise NotImplementedError

    def _ready(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        descriptor = self._descriptor
        self._watch(descriptor)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._descriptor == descriptor:
                self._unwatch(descriptor)

    def close(self) -> None:
        """Close this end and fail whoever waits on it. Idempotent."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        if self._waiter is not None:
            self._unwatch(descriptor)
            if not self._waiter.done():
                self._waiter.set_exception(PipeClosed("the pipe was closed"))
        os.close(descriptor)


async def readable(descriptor: int) -> None:
    """Wait until a descriptor that stays the caller's is readable."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


class ReadEnd(_End):
    """The end of a pipe that we read. Owns the descriptor."""

    def _watch(self, descriptor: int) -> None:
        asyncio.get_running_loop().add_reader(descriptor, self._ready)

    def _unwatch(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)

    def enlarge(self) -> None:
        """Make a pipe that another process made hold as much as `enlarged_pipe`."""
        enlarge(self._descriptor)

    async def read(self, limit: int = PIECE) -> bytes:
        """Read some bytes, at most `limit`; b"" at the end of the file."""
        while True:
            if self._descriptor < 0:
                raise PipeClosed("the pipe was closed")
            try:
                return os.read(self._descriptor, limit)
            except BlockingIOError:
                await self._wait()

    async def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes, fewer only at the end of the file."""
        data = bytearray()
        while len(data) < count:
            piece = await self.read(count - len(data))
            if not piece:
                break
            data += piece
        return bytes(data)


class WriteEnd(_End):
    """The end of a pipe that we write. Owns the descriptor."""

    def _watch(self, descriptor: int) -> None:
        asyncio.get_running_loop().add_writer(descriptor, self._ready)

    def _unwatch(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_writer(descriptor)

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of it. Raises PipeClosed when the reader is gone."""
        rest = memoryview(data)
        while rest:
            if self._descriptor < 0:
                raise PipeClosed("the pipe was closed")
            try:
                rest = rest[os.write(self._descriptor, rest[:PIECE]) :]
            except BlockingIOError:
                await self._wait()
            except BrokenPipeError as error:
                raise PipeClosed("the process closed its end of the pipe") from error
