"""How long a migration will take, and for how long the guest will stand still: told beforehand.

Two rates are measured for a moment: that of the link, and that of reading and hashing the guest's
largest disk. Everything else is assumed:

- Sources are read where they may hold data. Disks are read one after the other, as if they shared
  one device.
- A volume that is new there, or emptied first (which counts for nothing), is sent in full. Of
  one that the target has, nothing is: it is only read and compared, at the target as fast as here.
- A volume whose writes are tracked costs its first round and, under suspension, what pre-copy aims
  to leave. One that nothing tracks is read again in every round: in a second one unless the first
  has next to nothing to send, and in the final one, under suspension.
- In live mode the memory is sent once while the guest runs, in save mode while it is suspended.
- In restart mode no memory is sent. How long the guest takes to shut down and to boot is its own.
- The toolstacks take a while of their own, always the same.
- What the guest writes meanwhile is not known and counts for nothing.

A page cache that holds the start of a disk makes reading look faster than it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.fingerprints import fingerprints
from protocol.messages import BLOCK_SIZE, Mode
from storage.buffers import AlignedBuffer
from storage.contracts import Volume
from xenmoved.migration.source.rounds import DISK_GOAL, FIXED_COST
from xenmoved.sync.devices import SEGMENT_SIZE
from xenmoved.sync.segments import whole_volume

PROBE_SECONDS: Final = 0.3
_SMALL: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second. `send` respects a rate limit."""

    send: float
    read: float


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a disk that may hold data. `fresh`: the target has none of it."""

    data: int
    fresh: bool
    tracked: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds for all of it, and those of them in which the guest stands still."""

    total: float
    blackout: float


def estimate(disks: Sequence[Content], memory: int, rates: Rates, mode: Mode) -> Estimate:
    """Return how long it will take, under the assumptions above."""
    reading = sum(disk.data for disk in disks) / rates.read
    again = sum(disk.data for disk in disks if not disk.tracked) / rates.read
    sent = sum(disk.data for disk in disks if disk.fresh)
    first = max(reading, sent / rates.send)
    if mode is Mode.COLD:
        return Estimate(first, first)
    second = again if sent > _SMALL else 0.0
    copied = 0.0 if mode is Mode.RESTART else memory / rates.send
    running, suspended = (copied, 0.0) if mode is Mode.LIVE else (0.0, copied)
    left = DISK_GOAL if any(disk.tracked for disk in disks) else 0.0
    blackout = max(again + left, suspended) + FIXED_COST
    return Estimate(first + second + running + blackout, blackout)


def look(paths: Iterable[str], opener: Callable[[str], Volume]) -> tuple[list[int], float]:
    """Return the bytes that may hold data in each source, and the rate of reading the fullest.

    The sources are opened with `opener`. Blocks for `PROBE_SECONDS` and what it takes to find the
    data. Raises StorageError.
    """
    data: list[int] = []
    fullest = ""
    for path in paths:
        volume = opener(path)
        try:
            data.append(sum(extent.length for extent in volume.data_extents()))
        finally:
            volume.close()
        if data[-1] == max(data):
            fullest = path
    return data, _read_rate(opener(fullest)) if data else float("inf")


def _read_rate(volume: Volume) -> float:
    buffer = AlignedBuffer(SEGMENT_SIZE)
    try:
        began = time.monotonic()
        count = 0
        for segment in whole_volume(volume.data_extents(), volume.size):
            if segment.hole:
                continue
            view = buffer.view[: segment.length]
            volume.read_into(segment.offset, view)
            fingerprints(view)
            count += segment.length
            if time.monotonic() - began > PROBE_SECONDS:
                break
        return max(count, BLOCK_SIZE) / max(time.monotonic() - began, 1e-6)
    finally:
        volume.close()
