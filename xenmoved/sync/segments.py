"""How a volume is cut into units of work.

A segment starts at a block and ends at a block or at the end of the volume. A segment that may
hold data is at most `SEGMENT_SIZE` long; one that is known to read as zeros may be of any length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocol.messages import BLOCK_SIZE
from storage.contracts import Extent
from storage.extents import align, pieces
from xenmoved.sync.devices import SEGMENT_SIZE


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of a volume. `hole`: it reads as zeros."""

    offset: int
    length: int
    hole: bool

    @property
    def end(self) -> int:
        """First byte after the segment."""
        return self.offset + self.length

    @property
    def first_block(self) -> int:
        """Number of the first block."""
        return self.offset // BLOCK_SIZE

    @property
    def blocks(self) -> int:
        """Number of blocks, the last of which may be short."""
        return -(-self.length // BLOCK_SIZE)


def whole_volume(data: Iterable[Extent], size: int) -> Iterator[Segment]:
    """Cover a volume without a gap, given the ranges that may hold data, in order."""
    position = 0
    for extent in data:
        start = max(position, extent.offset // BLOCK_SIZE * BLOCK_SIZE)
        end = min(size, -(-extent.end // BLOCK_SIZE) * BLOCK_SIZE)
        if start >= end:
            continue
        if start > position:
            yield Segment(position, start - position, hole=True)
        for piece in pieces([Extent(start, end - start)], SEGMENT_SIZE, BLOCK_SIZE):
            yield Segment(piece.offset, piece.length, hole=False)
        position = end
    if position < size:
        yield Segment(position, size - position, hole=True)


def written_ranges(written: Iterable[Extent], size: int) -> Iterator[Segment]:
    """Cover what a tracker says was written."""
    for piece in pieces(align(written, BLOCK_SIZE, size), SEGMENT_SIZE, BLOCK_SIZE):
        yield Segment(piece.offset, piece.length, hole=False)
