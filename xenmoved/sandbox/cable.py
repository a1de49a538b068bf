"""A cable between two hosts of this machine: a port that passes connections on to another one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Cable:
    """Passes connections on to `port` of this machine, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._plugged = asyncio.Event()
        self._plugged.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = self._call(self._listen())

    def cut(self) -> None:
        """End all connections, and refuse new ones until it is healed: the other host is down."""
        self._call(self._set_open(False))

    def heal(self) -> None:
        """Let connections through again."""
        self._call(self._set_open(True))

    def pull(self) -> None:
        """Let nothing through until it is plugged in; nobody is told."""
        self._loop.call_soon_threadsafe(self._plugged.clear)

    def plug(self) -> None:
        """Let everything through that waits."""
        self._loop.call_soon_threadsafe(self._plugged.set)

    def close(self) -> None:
        """End all of it."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _set_open(self, passes: bool) -> None:
        self._open = passes
        if not passes:
            for writer in self._writers:
                writer.transport.abort()

    async def _end(self) -> None:
        self._plugged.set()
        await self._set_open(False)
        self._server.close()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            await self._plugged.wait()
            if self._open:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
                ends.add(back)
                self._writers |= ends
                await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        except OSError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            await self._plugged.wait()
            writer.write(data)
            await writer.drain()
        await self._plugged.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()
