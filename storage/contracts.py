"""What every storage backend provides.

The rest of the program knows volumes only through these contracts. All calls block, may be made
from any thread, and may run at the same time on different ranges of one volume. Offsets and lengths
are in bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from storage.backing import FILE_SECTOR, Backing
from storage.identity import UNKNOWN, Identity
from storage.watching import Watch
from storage.zfs_history import History

BUFFER_ALIGNMENT: Final = 4096
"""Memory alignment that `Volume.read_into` and `Volume.write` may require of a buffer."""


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A range of bytes in a volume: ``[offset, offset + length)``."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """First byte after the extent."""
        return self.offset + self.length


class Everything(Enum):
    """A tracker's answer when it cannot tell what was written: assume all of it."""

    EVERYTHING = "everything"


EVERYTHING: Final = Everything.EVERYTHING


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What a pool knows of one volume without opening it.

    `path` is what a toolstack is given as the guest's disk. `allocated` is the space that the
    volume takes in bytes, None where the backend cannot tell. `in_use` says who has it open in
    words for an operator, None when it is free. `sector` is the logical sector size in bytes that a
    guest sees, and `alignment` what the size of whatever is copied to it must be a multiple of.
    `written` is when it was last written to, in nanoseconds since 1970, None where nothing tells.
    """

    pool: str
    name: str
    path: str
    size: int
    allocated: int | None
    in_use: str | None
    identity: Identity = UNKNOWN
    sector: int = FILE_SECTOR
    alignment: int = 1
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Space of a pool in bytes. `free` is what new data can take now.

    With `overcommit`, volumes may be made that are larger than what is free.
    """

    total: int
    free: int
    overcommit: bool = False


class Volume(Protocol):
    """An open volume.

    `alignment` is the number of bytes that offsets and lengths of reads and writes must be
    multiples of (1 for files, the logical sector size for block devices); the size is always a
    multiple of it. Buffers start at a multiple of `BUFFER_ALIGNMENT` (see `storage.buffers`).
    Every method raises `VolumeError` with the volume's name, the range and the system's reason.
    """

    name: str
    size: int
    alignment: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` with what the guest's backend would read there now."""

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`. Durable only after `flush`."""

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, giving the space back where the backend can."""

    def flush(self) -> None:
        """Make all that was written durable, and drop it from dom0's page cache.

        After it returns, a reader beneath or above the page cache sees the same bytes.
        """

    def data_extents(self) -> Iterator[Extent]:
        """Ranges that may hold data, in order, not overlapping; all else reads as zeros.

        A backend that cannot tell yields one extent that covers the volume.
        """

    def backing(self) -> Backing:
        """Tell what is open, as it is now: see `storage.backing`."""

    def close(self) -> None:
        """Release the volume. Idempotent. Does not flush."""


class PoolVolume(Volume, Protocol):
    """An open volume of a pool."""

    def watch(self) -> Watch:
        """Begin to watch for others who open it. The caller's to close."""

    def unlock(self) -> None:
        """Let programs that lock what they open have it too, while it stays open here."""


class Pool(Protocol):
    """A place where volumes live on this host, under names that a peer may use.

    A name that a peer sends is resolved only inside a pool: no name escapes it. Names that the
    pool does not accept raise `InvalidVolumeName`.
    """

    name: str
    kind: str
    makes_zeros: bool
    """Whether what `create` makes reads as zeros. If not, it holds what was there before."""
    reserves: bool
    """Whether a volume has all of its space when it is made, rather than as it is written."""

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the volume, or None when there is none of that name."""

    def volumes(self) -> list[VolumeInfo]:
        """Describe every volume of the pool, sorted by name."""

    def locate(self, path: str) -> str | None:
        """Name of the volume that a disk path of a domain denotes (symlinks followed), or None."""

    def path(self, volume: str) -> str:
        """Path that the volume has, or would have, as a guest's disk."""

    def prospect(self, volume: str, size: int) -> VolumeInfo | None:
        """Describe what `create` would make, or None where volumes cannot be created.

        Whether there is space for it, or one of that name, is not looked at.
        """

    def create(self, volume: str, size: int) -> VolumeInfo:
        """Make a volume of `size` bytes, or of the least more that the backend can make.

        It reads as zeros if the pool `makes_zeros`, and beyond `size` in any case. Raises
        `VolumeExists`, `PoolFull`, or `VolumeError`; nothing is left behind then.
        """

    def remove(self, volume: str) -> None:
        """Remove a volume. One that does not exist is not an error."""

    def capacity(self) -> Capacity | None:
        """Space, or None where volumes cannot be created."""

    def open(self, volume: str, *, writable: bool) -> PoolVolume:
        """Open a volume. Writable is exclusive: raises `VolumeInUse` when anyone has it open."""

    def history(self, volume: str) -> History | None:
        """Snapshots of a volume and streams between them, None where the kind knows of none."""


class Tracker(Protocol):
    """Knows what was written to a volume since it was last asked."""

    def start(self) -> None:
        """Begin; writes that complete after this returns are seen by `drain`."""

    def drain(self) -> list[Extent] | Everything:
        """Ranges written since `start` or the last drain, sorted and merged, or `EVERYTHING`."""

    def stop(self) -> None:
        """End tracking and free what it took. Idempotent."""
