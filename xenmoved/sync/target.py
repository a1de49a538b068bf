"""The receiving end of one volume."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from protocol.blocksync import (
    CreditArrived,
    DataArrived,
    ReceiverEvent,
    RoundBegun,
    RoundDigest,
    RoundEnded,
    VolumeReceiver,
    ZeroArrived,
)
from protocol.fingerprints import fingerprints
from protocol.frames import HASH_SIZE
from protocol.messages import BLOCK_SIZE, BeginRound
from storage.contracts import Volume
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.sync.compression import unpack
from xenmoved.sync.devices import Buffers, DeviceThreads
from xenmoved.sync.examine import examine
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.segments import whole_volume

_BATCH_SIZE: Final = 2 * 1024 * 1024
_BATCH_FRAMES: Final = 256
_BATCHES: Final = 3
"""Batches of one volume that may be on their way to the disk."""
_TOLD_HASHES: Final = 8 * 1024 * 1024 // BLOCK_SIZE
"""Fingerprints that are told together: each frame costs far more than what is in it."""

_Change = DataArrived | ZeroArrived


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames on their way to the disk, and the fingerprints of what each of them wrote."""

    changes: list[_Change]
    written: asyncio.Future[list[bytes]]


class VolumeTarget:
    """The receiving end of one volume over all rounds of a copy.

    `volume`, `framed` and `threads` are the caller's to close. `rounds` counts rounds whose
    receipt was sent: all of their bytes are durable.
    """

    def __init__(
        self,
        volume: Volume,
        framed: Framed,
        threads: DeviceThreads,
        buffers: Buffers,
        progress: VolumeProgress,
    ) -> None:
        self._volume = volume
        self._framed = framed
        self._channel = framed.channel
        self._threads = threads
        self._buffers = buffers
        self._progress = progress
        self._receiver = VolumeReceiver(volume.size, framed.messages)
        self._digest = RoundDigest()
        self._gathered: list[_Change] = []
        self._gathered_size = 0
        self._batches: deque[_Batch] = deque()
        self._comparison: asyncio.Task[None] | None = None
        self._credit = asyncio.Event()
        self.rounds = 0

    @property
    def idle(self) -> bool:
        """Whether everything that was sent is written, durable and receipted."""
        return self._receiver.idle and not self._framed.pending

    async def serve(self, begun: BeginRound | None = None) -> None:
        """Take part in rounds until the source ends the channel; one may have `begun` already.

        Raises ProtocolError, StorageError, or LinkLost when the channel ends within a round.
        """
        async with asyncio.TaskGroup() as group:
            if begun is not None:
                await self._handle(self._receiver.take_message(begun), group)
            while (frame := await self._framed.frame(self._receiver.kinds)) is not None:
                await self._handle(self._receiver.take(frame), group)
                if self._progress.rounds:
                    self._progress.rounds[-1].wire_bytes += frame.wire_size
            if not self.idle:
                raise LinkLost(f"{self._channel.peer} ended {self._volume.name} within a round")

    async def _handle(self, event: ReceiverEvent, group: asyncio.TaskGroup) -> None:
        match event:
            case RoundBegun(number, compare):
                self._digest = RoundDigest()
                self._progress.add(RoundProgress(number, self._volume.size))
                self._credit.clear()
                self._comparison = group.create_task(self._compare()) if compare else None
            case CreditArrived():
                self._credit.set()
            case DataArrived() | ZeroArrived():
                self._gathered.append(event)
                self._gathered_size += event.length if isinstance(event, DataArrived) else 0
                if self._gathered_size >= _BATCH_SIZE or len(self._gathered) >= _BATCH_FRAMES:
                    await self._write_gathered()
            case RoundEnded(claim):
                await self._write_gathered()
                while self._batches:
                    await self._settle_oldest()
                if self._comparison is not None:
                    await self._comparison
                await self._threads.run(self._volume.flush)
                receipt = self._receiver.receipt(claim, self._digest)
                self._progress.rounds[-1].arrived_whole()
                self.rounds += 1
                await self._channel.send(receipt)

    async def _write_gathered(self) -> None:
        """Send what was gathered to the disk; a change of threads is dear, so several at once."""
        while len(self._batches) >= _BATCHES:
            await self._settle_oldest()
        if changes := self._gathered:
            written = self._threads.submit(_apply, self._volume, changes)
            self._batches.append(_Batch(changes, written))
            self._gathered, self._gathered_size = [], 0

    async def _settle_oldest(self) -> None:
        """Add the oldest batch to the digest, which is over frames in the order of arrival."""
        batch = self._batches.popleft()
        for change, hashes in zip(batch.changes, await batch.written, strict=True):
            if isinstance(change, DataArrived):
                self._digest.add_data(change.offset, change.length, hashes)
            else:
                self._digest.add_zero(change.offset, change.length)
        written = batch.changes[-1]
        self._progress.rounds[-1].arrived(
            self._digest.data_bytes, self._digest.zero_bytes, written.offset + written.length
        )

    async def _compare(self) -> None:
        """Stream the fingerprints of what the volume holds, as far as the source allows."""
        segments = whole_volume(self._volume.data_extents(), self._volume.size)
        reading = examine(self._volume, segments, self._threads, self._buffers)
        first_block, hashes = 0, bytearray()
        async with aclosing(reading):
            async for stretch in reading:
                for examined in stretch:
                    segment = examined.segment
                    if segment.hole or len(hashes) >= _TOLD_HASHES * HASH_SIZE:
                        await self._tell_hashes(first_block, hashes)
                        hashes.clear()
                    if segment.hole:
                        await self._have_credit()
                        await self._channel.send(
                            self._receiver.zeros(segment.offset, segment.length)
                        )
                        continue
                    if not hashes:
                        first_block = segment.first_block
                    hashes += examined.fingerprints
        await self._tell_hashes(first_block, hashes)

    async def _tell_hashes(self, first_block: int, hashes: bytearray) -> None:
        if hashes:
            await self._have_credit()
            await self._channel.send(self._receiver.hashes(first_block, bytes(hashes)))

    async def _have_credit(self) -> None:
        while self._receiver.credit == 0:
            self._credit.clear()
            await self._credit.wait()


def _apply(volume: Volume, changes: list[_Change]) -> list[bytes]:
    """Write the changes in order; return the fingerprints of each, none for zeros."""
    written = []
    for change in changes:
        if isinstance(change, ZeroArrived):
            volume.zero(change.offset, change.length)
            written.append(b"")
            continue
        payload = change.untrusted_payload
        if change.packed:
            payload = memoryview(unpack(payload, change.length))
        volume.write(change.offset, payload)
        written.append(fingerprints(payload))
    return written
