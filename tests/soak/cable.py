"""A cable that can be cut: a port that passes connections on to another one."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Cable:
    """Passes connections on to `port` of this machine, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._call(self._listen())

    def cut(self) -> None:
        """End all connections, and refuse new ones until it is healed."""
        self._call(self._set(False))

    def heal(self) -> None:
        """Let connections through again."""
        self._call(self._set(True))

    def close(self) -> None:
        """End all of it."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _set(self, passes: bool) -> None:
        self._open = passes
        if not passes:
            for writer in self._writers:
                writer.transport.abort()

    async def _end(self) -> None:
        await self._set(False)
        self._server.close()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if self._open:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
                ends.add(back)
                self._writers |= ends
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
