"""The sending end of one volume, round by round."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from protocol.blocksync import HashesArrived, ReceiptArrived, VolumeSender, ZerosArrived
from protocol.fingerprints import ZERO_FINGERPRINT
from protocol.frames import HASH_SIZE, MAX_PAYLOAD, Bytes
from protocol.messages import BLOCK_SIZE
from storage.contracts import Everything, Extent, Volume
from storage.extents import align, total
from xenmoved.link.errors import LinkLost
from xenmoved.link.framed import Framed
from xenmoved.sync.compression import Compressor
from xenmoved.sync.devices import Buffers, DeviceThreads
from xenmoved.sync.examine import Examined, examine
from xenmoved.sync.index import TargetIndex
from xenmoved.sync.limiter import RateLimiter
from xenmoved.sync.progress import RoundProgress, VolumeProgress
from xenmoved.sync.segments import Segment, whole_volume, written_ranges

_CREDIT: Final = 64
"""Comparison frames that the target may be ahead: of 8 MiB of volume each, of 2 by older ones."""
_CREDIT_STEP: Final = 8
"""So many frames are paid for at once."""
_BLOCKS_IN_FRAME: Final = MAX_PAYLOAD // BLOCK_SIZE


class VerificationFailed(Exception):
    """After the copy the two hosts do not hold the same bytes. The message says where."""


@dataclass(frozen=True, slots=True)
class SyncTools:
    """What all volumes of a job share. `index_folder` is where tables of fingerprints live."""

    buffers: Buffers
    limiter: RateLimiter
    index_folder: Path


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one frame carries."""

    offset: int
    data: memoryview
    fingerprints: bytes

    @property
    def blocks(self) -> int:
        return len(self.fingerprints) // HASH_SIZE


class VolumeSource:
    """The sending end of one volume over all rounds of a copy.

    `volume`, `framed` and `threads` are the caller's to close. A failure in a round (LinkLost,
    ProtocolError, StorageError) leaves the channel unusable; whole blocks that arrived stay on the
    target, so that another copy finds them there.
    """

    def __init__(
        self,
        volume: Volume,
        framed: Framed,
        threads: DeviceThreads,
        *,
        compressor: Compressor,
        tools: SyncTools,
        progress: VolumeProgress,
    ) -> None:
        self._volume = volume
        self._framed = framed
        self._channel = framed.channel
        self._threads = threads
        self._compressor = compressor
        self._tools = tools
        self.progress = progress
        self._sender = VolumeSender(volume.size, framed.messages)
        self._index = self._new_index()
        self._coverage = asyncio.Condition()

    def close(self) -> None:
        """Forget what is known of the target."""
        self._index.close()

    async def run_round(
        self, written: list[Extent] | Everything, *, compare: bool
    ) -> RoundProgress:
        """Bring the target up to date in the given ranges; durable there when this returns.

        `compare` first learns what the target has; without it, what earlier rounds learned is
        relied on (for a fresh volume: that all of it is zero).
        """
        size = self._volume.size
        if isinstance(written, Everything):
            segments, extent = whole_volume(self._volume.data_extents(), size), size
        else:
            segments = written_ranges(written, size)
            extent = total(align(written, BLOCK_SIZE, size))
        return await self._round(segments, extent, compare=compare, verify=False)

    async def verify(self) -> RoundProgress:
        """Read both sides in full and compare. Raises VerificationFailed at the first difference.

        Meaningful only while nobody writes to the volume.
        """
        self._index.close()
        self._index = self._new_index()
        segments = whole_volume(self._volume.data_extents(), self._volume.size)
        return await self._round(segments, self._volume.size, compare=True, verify=True)

    def _new_index(self) -> TargetIndex:
        return TargetIndex(-(-self._volume.size // BLOCK_SIZE), self._tools.index_folder)

    async def _round(
        self, segments: Iterator[Segment], extent: int, *, compare: bool, verify: bool
    ) -> RoundProgress:
        number = self.progress.next_number
        progress = RoundProgress(number, extent, verify=verify)
        self.progress.add(progress)
        sent = self._channel.sent_bytes
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                await self._send(self._sender.begin_round(number, compare=compare))
                if compare:
                    await self._send(self._sender.grant(_CREDIT))
                await self._examine_all(segments, progress, verify)
                await self._covered(self._volume.size)
                await self._send(self._sender.end_round())
        finally:
            progress.seconds = monotonic() - progress.started
            progress.wire_bytes = self._channel.sent_bytes - sent
        return progress

    async def _examine_all(
        self, segments: Iterator[Segment], progress: RoundProgress, verify: bool
    ) -> None:
        sent = self._channel.sent_bytes
        reading = examine(self._volume, segments, self._threads, self._tools.buffers)
        async with aclosing(reading):
            async for stretch in reading:
                await self._covered(stretch[-1].segment.end)
                if verify:
                    for examined in stretch:
                        self._check(examined)
                        progress.same += examined.segment.blocks
                else:
                    await self._update(stretch, progress)
                progress.examined += sum(examined.segment.length for examined in stretch)
                progress.seconds = monotonic() - progress.started
                progress.wire_bytes = self._channel.sent_bytes - sent

    async def _listen(self) -> None:
        """Take what the target sends in a round, to its receipt."""
        kinds = self._sender.kinds
        owed = 0
        while (frame := await self._framed.frame(kinds)) is not None:
            before = owed
            while frame is not None:  # as many as have come
                match self._sender.take(frame):
                    case HashesArrived(first_block, hashes):
                        self._index.put(first_block, hashes)
                        owed += 1
                    case ZerosArrived():
                        owed += 1  # what a new index says already
                    case ReceiptArrived():
                        return
                frame = self._framed.frame_at_hand(kinds)
            if owed > before:
                async with self._coverage:
                    self._coverage.notify_all()
                # After the last of it no credit may follow: the round may end before it is sent.
                if owed >= _CREDIT_STEP and self._sender.covered < self._volume.size:
                    await self._send(self._sender.grant(owed))
                    owed = 0
        raise LinkLost(f"{self._channel.peer} closed the channel of {self._volume.name}")

    async def _covered(self, end: int) -> None:
        """Wait until the target's comparison has come to `end`."""
        if self._sender.covered < end:
            async with self._coverage:
                await self._coverage.wait_for(lambda: self._sender.covered >= end)

    async def _update(self, stretch: list[Examined], progress: RoundProgress) -> None:
        pieces: list[_Piece] = []
        for examined in stretch:
            if examined.segment.hole:
                await self._update_hole(examined.segment, progress)
            else:
                pieces += await self._update_data(examined, progress)
        await self._send_data(pieces, progress)

    async def _update_data(self, examined: Examined, progress: RoundProgress) -> list[_Piece]:
        """Send what has become zero; return what differs."""
        segment = examined.segment
        known = self._index.get(segment.first_block, segment.blocks)
        if examined.fingerprints == known:
            progress.same += segment.blocks
            return []
        pieces: list[_Piece] = []
        for start, count, kind in _runs(examined.fingerprints, known):
            if kind == "same":
                progress.same += count
            elif kind == "zero":
                await self._send_zero(segment.first_block + start, count, progress)
            else:
                pieces += _pieces(examined, start, count)
        self._index.put(segment.first_block, examined.fingerprints)
        return pieces

    async def _update_hole(self, segment: Segment, progress: RoundProgress) -> None:
        zeroed = 0
        for first_block, count in self._index.nonzero_runs(segment.first_block, segment.blocks):
            await self._send_zero(first_block, count, progress)
            self._index.put(first_block, ZERO_FINGERPRINT * count)
            zeroed += count
        progress.same += segment.blocks - zeroed

    async def _send_zero(self, first_block: int, count: int, progress: RoundProgress) -> None:
        offset = first_block * BLOCK_SIZE
        length = min(count * BLOCK_SIZE, self._volume.size - offset)
        await self._send(self._sender.zero(offset, length))
        progress.zero += count
        progress.zero_bytes += length

    async def _send_data(self, pieces: list[_Piece], progress: RoundProgress) -> None:
        packed: list[bytes | None] = [None] * len(pieces)
        if self._compressor.active:
            packed = await self._threads.run(_pack, self._compressor, pieces)
        for piece, smaller in zip(pieces, packed, strict=True):
            frame = self._sender.data(piece.offset, piece.data, piece.fingerprints, smaller)
            began = monotonic()
            await self._send(*frame)
            self._compressor.observe(sum(map(len, frame)), monotonic() - began)
            progress.diff += piece.blocks
            progress.data_bytes += len(piece.data)

    def _check(self, examined: Examined) -> None:
        segment = examined.segment
        if segment.hole:
            wrong = next(self._index.nonzero_runs(segment.first_block, segment.blocks), None)
        else:
            known = self._index.get(segment.first_block, segment.blocks)
            differing = (run for run in _runs(examined.fingerprints, known) if run[2] != "same")
            wrong = next(((segment.first_block + s, n) for s, n, _ in differing), None)
        if wrong is not None:
            raise VerificationFailed(
                f"{self._volume.name}: the target holds other bytes at offset "
                f"{wrong[0] * BLOCK_SIZE} ({wrong[1]} blocks) than the source"
            )

    async def _send(self, *pieces: Bytes) -> None:
        await self._tools.limiter.take(sum(map(len, pieces)))
        await self._channel.send(*pieces)


def _pieces(examined: Examined, start: int, count: int) -> Iterator[_Piece]:
    """Cut a run of blocks into what fits a frame."""
    for first in range(start, start + count, _BLOCKS_IN_FRAME):
        blocks = slice(first, min(first + _BLOCKS_IN_FRAME, start + count))
        yield _Piece(
            examined.segment.offset + first * BLOCK_SIZE,
            examined.data[blocks.start * BLOCK_SIZE : blocks.stop * BLOCK_SIZE],
            examined.fingerprints[blocks.start * HASH_SIZE : blocks.stop * HASH_SIZE],
        )


def _pack(compressor: Compressor, pieces: list[_Piece]) -> list[bytes | None]:
    return [compressor.pack(piece.data) for piece in pieces]


def _runs(ours: bytes, theirs: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield (first, blocks, kind) of runs of blocks that are the "same", "zero" or "diff"."""
    if len(ours) != len(theirs):
        raise ValueError("fingerprints of different ranges cannot be compared")
    start, kind = 0, ""
    count = len(ours) // HASH_SIZE
    for number in range(count):
        here = slice(number * HASH_SIZE, (number + 1) * HASH_SIZE)
        mine = ours[here]
        this = "same" if mine == theirs[here] else "zero" if mine == ZERO_FINGERPRINT else "diff"
        if this != kind:
            if kind:
                yield start, number - start, kind
            start, kind = number, this
    if kind:
        yield start, count - start, kind
