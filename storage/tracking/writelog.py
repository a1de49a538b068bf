"""Which parts of a volume were written, told from events of its block device.

An event when a write is queued says that old data may still be read for a while; the event when it
has ended may come much later, in another order, and for other pieces than were queued (the kernel
merges and splits). So this is the rule: *a write is reported by every report from when it is queued
up to and including the first one after it has ended*. A reader who reads what a report names, after
asking for it, has the data of every write that had ended by then, and will be told again of all
others. Nothing rests on how long a write takes.

How the end of a write is recognised:

- A request of a driver with request queues (disks, loop devices) reports exactly the sectors that
  ended. Those are reported, whatever is known of their queueing.
- A driver that takes bios (device mapper, md, zvols) ends the bio that was queued, but its first
  sector may have moved forward meanwhile, as pieces of it were split off and served. Its last one
  stays. So queued writes are looked up by where they end, and the whole of the queued range is
  reported; where the queueing was not seen, `LARGEST_BIO` before the end.
- A request may have been merged from several queued writes; they lie next to each other.
- What nobody recognises stays in every report: that costs time and loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from storage.contracts import Extent
from storage.tracking.ringpages import Batch

BLOCK: Final = 64 << 10
"""Smallest unit of reports in bytes."""
MOST_BLOCKS: Final = 16 << 20
"""A larger volume (over 1 TiB) is reported in larger units: one takes a byte of memory."""
MOST_EXTENTS: Final = 1 << 18
"""Reports of more ranges than this have their smallest gaps filled."""
MOST_PENDING: Final = 1 << 16
"""More writes than this at once are not under way; their ends are not being seen."""
LARGEST_BIO: Final = (1 << 20) // 512
"""Sectors that a write of a guest has at most: blkback takes 256 pages."""


class WriteLog:
    """Writes to the `size` bytes of a volume that begin at byte `first` of a device.

    `first` is negative where the device begins within the volume, as a loop device may in its file.
    """

    def __init__(self, size: int, first: int) -> None:
        self._size = size
        self._first = first
        self._block = BLOCK
        while self._block * MOST_BLOCKS < size:
            self._block *= 2
        self._blocks = -(-size // self._block)
        self._written = bytearray(self._blocks)
        self._pending: dict[int, list[int]] = {}  # starts of queued writes, by their end
        self._unmatched: list[tuple[int, int, bool]] = []

    @property
    def pending(self) -> Collection[int]:
        """First sectors after the queued writes that were not seen to end yet."""
        return self._pending.keys()

    def take(self, batch: Batch) -> None:
        """Note what was read from the buffers of all CPUs, one CPU after the other.

        An end may be read before its queueing, if that happened on a CPU whose turn was over. It
        has then been read with the next complete batch.
        """
        mark, pending = self._mark, self._pending
        for start, end in batch.queued:
            mark(start, end)
            if end in pending:
                pending[end].append(start)
            else:
                pending[end] = [start]
        unmatched = [item for item in self._unmatched if not self._settle(*item)]
        if batch.complete:
            self._mark_fronts(unmatched)
            unmatched = []
        for ended, bio in ((batch.requests_ended, False), (batch.bios_ended, True)):
            for start, end in ended:
                mark(start, end)
                if not self._settle(start, end, bio):
                    unmatched.append((start, end, bio))
        self._unmatched = unmatched

    def report(self) -> list[Extent]:
        """Say what was written since the last report or is being written, sorted and merged."""
        for end, starts in self._pending.items():
            self._mark(min(starts), end)
        self._mark_fronts(self._unmatched)
        written, self._written = self._written, bytearray(self._blocks)
        return self._extents(_simplified(written))

    def clear(self) -> None:
        """Forget everything, also which writes are under way."""
        self._written = bytearray(self._blocks)
        self._pending.clear()
        self._unmatched.clear()

    def _settle(self, start: int, end: int, bio: bool) -> bool:
        """Report the queued writes that ended with ``[start, end)``. False if there are none."""
        found = False
        while (starts := self._pending.get(end)) is not None:
            found = True
            self._mark(min(starts), end)
            # Of several writes up to one sector, nobody can tell which this was: keep the longest.
            first = max(starts)
            starts.remove(first)
            if not starts:
                del self._pending[end]
            if bio or first <= start:
                break
            end = first
        return found

    def _mark_fronts(self, unmatched: Iterable[tuple[int, int, bool]]) -> None:
        for _, end, bio in unmatched:
            if bio:
                self._mark(max(0, end - LARGEST_BIO), end)

    def _mark(self, start: int, end: int) -> None:
        first = (start * 512 - self._first) // self._block
        last = (end * 512 - self._first - 1) // self._block
        if first == last:
            if 0 <= first < self._blocks:
                self._written[first] = 1
            return
        first, last = max(first, 0), min(last, self._blocks - 1)
        if first <= last:
            self._written[first : last + 1] = b"\1" * (last + 1 - first)

    def _extents(self, written: bytearray) -> list[Extent]:
        extents = []
        start = written.find(1)
        while start >= 0:
            end = written.find(0, start)
            if end < 0:
                end = self._blocks
            offset = start * self._block
            extents.append(Extent(offset, min(end * self._block, self._size) - offset))
            start = written.find(1, end)
        return extents


def _simplified(written: bytearray) -> bytearray:
    gap = 1
    while written.count(b"\0\1") > MOST_EXTENTS:
        hole, filled = b"\1" + bytes(gap) + b"\1", b"\1" * (gap + 2)
        # Neighbouring holes share a block, of which each pass sees every second one.
        written = written.replace(hole, filled).replace(hole, filled)
        gap += 1
    return written
