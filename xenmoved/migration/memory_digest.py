"""The digest of a saved image as it goes by, in a thread: else it would be a third of the work."""

from __future__ import annotations

import asyncio
from typing import Final

from blake3 import blake3

from protocol.frames import Bytes

_BATCH: Final = 2 * 1024 * 1024
"""Bytes that are hashed at once: a change of threads is dear."""
_MOST_PIECES: Final = 256


class MemoryDigest:
    """BLAKE3 of all pieces in their order, and their `size`. Used by one task at a time."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = blake3()
        self._gathered: list[Bytes] = []
        self._gathered_size = 0
        self._hashing: asyncio.Future[None] | None = None

    async def add(self, piece: Bytes) -> None:
        """Add the next piece, which must not change any more. Waits while two batches are kept."""
        self.size += len(piece)
        self._gathered.append(piece)
        self._gathered_size += len(piece)
        if self._gathered_size >= _BATCH or len(self._gathered) >= _MOST_PIECES:
            await self._hash_gathered()

    async def value(self) -> bytes:
        """Return the digest of all that was added."""
        await self._hash_gathered()
        await self._settle()
        return self._digest.digest()

    async def _hash_gathered(self) -> None:
        await self._settle()
        pieces, self._gathered, self._gathered_size = self._gathered, [], 0
        loop = asyncio.get_running_loop()
        self._hashing = loop.run_in_executor(None, self._update, pieces)

    async def _settle(self) -> None:
        if self._hashing is not None:
            await self._hashing
            self._hashing = None

    def _update(self, pieces: list[Bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)
