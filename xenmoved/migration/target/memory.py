"""The saved memory of a guest as it comes: fed to the toolstack, counted and hashed."""

from __future__ import annotations

import asyncio
from typing import Final

from protocol.errors import Code, ProtocolError
from protocol.frames import Kind
from protocol.messages import Seal
from xenmoved.jobs.job import Job
from xenmoved.link.framed import Framed
from xenmoved.migration.memory_digest import MemoryDigest
from xenmoved.tasks import within
from xenmoved.toolstack.interface import IncomingImage

_PATIENCE: Final = 60.0
_MEMORY: Final = frozenset({Kind.MEMORY})


class IncomingMemory:
    """The memory channel of one guest. One that comes by its file has none: `ended` at once."""

    def __init__(self, image: IncomingImage, job: Job, *, ended: bool) -> None:
        self._image = image
        self._job = job
        self._digest = MemoryDigest()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if ended:
            self._ended.set()

    async def serve(self, framed: Framed) -> None:
        """Feed what comes to the toolstack, to the channel's end. Raises ProtocolError."""
        if self._task is not None:
            raise ProtocolError(Code.UNEXPECTED, "no memory is expected now")
        self._task = asyncio.current_task()
        while (frame := await framed.frame(_MEMORY)) is not None:
            await self._digest.add(frame.untrusted_body)
            self._job.memory_sent = self._digest.size
            await self._image.write(memoryview(frame.untrusted_body))
        if framed.pending:
            raise ProtocolError(Code.BAD_FRAME, "the memory channel ends within a frame")
        self._ended.set()

    async def require_whole(self, seal: Seal) -> None:
        """Wait for the end, and see that all came as it was sent. Raises ProtocolError."""
        if not await within(self._ended, _PATIENCE):
            text = (
                "the source says that it has sent all, and its memory channel did not end within "
                f"{_PATIENCE:g} s"
            )
            raise ProtocolError(Code.UNEXPECTED, text)
        size = self._digest.size
        if size != seal.memory_size or await self._digest.value() != seal.memory_digest:
            raise ProtocolError(
                Code.DIGEST,
                f"the saved memory of {self._job.guest} was damaged on the way: {size} bytes "
                f"arrived of {seal.memory_size}, and their digest is not the source's",
            )

    async def stop(self) -> None:
        """End the channel, if it still goes on."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
