"""What every storage backend provides.

The rest of the program knows volumes only through these contracts. All calls block, may be made
from any thread, and may run at the same time on different ranges of one volume. Offsets and lengths
are in bytes everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

OWN_NAME: Final = re.compile(
    r"xenmoved-(?P<peer>.+)-(?P<migration>[0-9a-f]{32})-(?P<round>\d{1,10})"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of one zvol. `name` is what comes after the @."""

    name: str
    guid: int

    @property
    def ours(self) -> bool:
        """Whether this program made it."""
        return OWN_NAME.fullmatch(self.name) is not None

    def is_for(self, peer: str) -> bool:
        """Whether this program made it in a migration to or from the peer."""
        match = OWN_NAME.fullmatch(self.name)
        return match is not None and match["peer"] == peer


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """How far an interrupted stream came: the guids of both its ends, and what to go on with.

    `base` is None for a full stream.
    """

    token: str
    snapshot: int
    base: int | None


def own_name(peer: str, migration: str, number: int) -> str:
    """Name of the snapshot of a round of a migration."""
    return f"xenmoved-{peer}-{migration}-{number}"


FILE_SECTOR: Final = 512
"""Bytes of the sectors in which backends show a file to a guest: the default of losetup and QEMU,
whatever the disk beneath the file has."""


@dataclass(frozen=True, slots=True)
class Backing:
    """A file or block device as it is now.

    `thing` with the kernel's `sequence` number of a device tells it from everything else on this
    host. For a loop device it names the very file behind it, which `file` is alone, "" where there
    is none. `size` and the logical `sector` are in bytes.
    """

    thing: str
    size: int
    sector: int
    file: str = ""
    sequence: str = ""

    @property
    def what(self) -> str:
        """All that tells it from everything else."""
        return f"{self.thing} sequence {self.sequence}" if self.sequence else self.thing

    def is_resized(self, earlier: Backing) -> bool:
        """Whether it is what was seen earlier, with another size.

        A device counts by its number alone: ZFS gives a zvol another sequence number then, as to
        a drive whose medium was changed.
        """
        return self.thing == earlier.thing and self.size != earlier.size

    def serves(self, other: Backing) -> bool:
        """Whether who has this open has the other: the same thing, or its file by a loop device."""
        return self.what == other.what or (self.file != "" and self.file == other.what)


AND_HANDLE: Final = " and handle "
_HANDLE: Final = re.compile(rf"{AND_HANDLE}\S+")


class VolumeIdentity:
    """The identity of a volume. One that is not known is false, and equal to none, not to itself.

    So nothing that compares identities can take two volumes for one because it knows neither. Files
    were noted without their handles by earlier releases: such an identity is that of each file that
    has the rest.
    """

    __slots__ = ("_text", "without_handle")

    def __init__(self, text: str = "") -> None:
        self._text = text
        self.without_handle = _HANDLE.sub("", text)
        """The same as earlier releases noted it."""

    def __bool__(self) -> bool:
        return self._text != ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VolumeIdentity) or not self or not other:
            return False
        either = self.without_handle, other.without_handle
        return self._text == other._text or (
            either[0] == either[1] and (self._text in either or other._text in either)
        )

    def __hash__(self) -> int:
        return hash(self.without_handle)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"VolumeIdentity({self._text!r})"


UNKNOWN: Final = VolumeIdentity()


class Entry(NamedTuple):
    """What is in a pool under a name, whether it is a volume now or not."""

    identity: VolumeIdentity
    name: str
    path: str


class PoolFolder(NamedTuple):
    """The folder that a pool is: another one when the file system that belongs there is away."""

    path: str
    identity: VolumeIdentity
    """UNKNOWN where there is no folder, or nothing tells it from others."""
    bare: bool
    """Whether it is empty and nothing is mounted there."""


class LastWrite(NamedTuple):
    """When a volume was written to last, as one clock or count tells it, which is its `course`.

    That of files is "", of moments in nanoseconds since 1970.
    """

    course: str
    moment: str

    def __str__(self) -> str:
        return f"{self.course} {self.moment}".lstrip()

    @classmethod
    def parse(cls, text: str) -> LastWrite:
        """Read what `str` made."""
        course, _, moment = text.rpartition(" ")
        return cls(course, moment)

    def is_before(self, now: LastWrite | None) -> bool | None:
        """Whether anything was written between this and what is found now; None: nothing tells."""
        if now is None or now.course != self.course:
            return None
        return now.moment != self.moment


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
    `written` is when it was last written to, None where nothing tells. `identity` is the same by
    whatever kind of pool the volume is reached.
    """

    pool: str
    name: str
    path: str
    size: int
    allocated: int | None
    in_use: str | None
    identity: VolumeIdentity = UNKNOWN
    sector: int = FILE_SECTOR
    alignment: int = 1
    written: LastWrite | None = None


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


class Watching(Protocol):
    """Watches for others who open a volume, until it is closed."""

    def require_alone(self) -> None:
        """See that nobody else has it open for writing, nor had it since this was asked before.

        Raises `VolumeInUse`, or `VolumeWritten` when it was open for writing and is not any more.
        """

    def close(self) -> None:
        """Watch no more. Idempotent."""


class PoolVolume(Volume, Protocol):
    """An open volume of a pool."""

    def watch(self) -> Watching:
        """Begin to watch for others who open it. The caller's to close."""

    def claim(self) -> None:
        """Have one that was opened to be read as if to be written. Raises `VolumeInUse`."""

    def unlock(self) -> None:
        """Let programs that lock what they open have it too, while it stays open here."""


class StreamOut(Protocol):
    """A stream that a tool gives out."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end and none after it.

        Raises `VolumeError` when the tool fails.
        """

    def end(self) -> None:
        """End the tool if it still runs. Idempotent."""


class StreamIn(Protocol):
    """A stream that a tool takes in."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Give it all of `data`. Raises `VolumeError`, as when it has ended."""

    def finish(self) -> None:
        """Close its input and wait until it has ended. Raises `VolumeError` when it failed."""

    def end(self) -> None:
        """End the tool if it still runs. Idempotent."""


class History(Protocol):
    """Snapshots of one volume, and streams between them. All methods raise `VolumeError`."""

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, the oldest first."""

    def take(self, name: str, size: int) -> Snapshot:
        """Make a snapshot of what the zvol holds now, dom0's page cache included.

        A backend that writes through it, as QEMU does for emulated disks, is told that a write is
        done when ZFS has not seen it yet. Raises VolumeResized when the zvol has not that size.
        """

    def destroy(self, snapshots: Iterable[Snapshot]) -> None:
        """Destroy snapshots, all of them ours. Fails for those that have clones or holds."""

    def roll_back(self, snapshot: Snapshot) -> None:
        """Undo what was written since the snapshot. Fails when there is a newer one."""

    def written_since(self, snapshot: Snapshot) -> int:
        """Bytes of space that was written since. What is a few seconds old may be missing."""

    def guid_and_size(self, name: str) -> tuple[int, int]:
        """Guid of a snapshot, and the size of the volume in bytes when it was made."""

    def is_encrypted(self) -> bool:
        """Tell whether the dataset is encrypted.

        It is sent in clear then, and the target encrypts it with a key of its own if it has one:
        one that was sent as it is could not be opened there.
        """

    def features(self) -> frozenset[str]:
        """Those of `COMPRESSION_FEATURES` that the pool can take blocks of."""

    def needed_features(self) -> frozenset[str]:
        """Those of `COMPRESSION_FEATURES` that the pool may have blocks of."""

    def end_receiving(self) -> None:
        """End what an earlier process may have left that still receives into the volume."""

    def resume_point(self) -> ResumePoint | None:
        """How far a stream of ours came that was interrupted here, None when there is none.

        Raises `VolumeError` when it is the stream of somebody else.
        """

    def read_token(self, untrusted_token: str) -> ResumePoint | None:
        """Tell what a token says, None when it is none, or not of a snapshot of ours."""

    def forget_partial(self) -> None:
        """Drop what arrived of an interrupted stream. There must be some."""

    def clear(self) -> None:
        """Drop what could bring back what the zvol held before: snapshots, half of a stream.

        Raises `VolumeInUse` for snapshots that others made: those are theirs to destroy.
        """

    def stream_size(self, snapshot: Snapshot, base: Snapshot | None) -> int:
        """Bytes that `send` would give, about."""

    def send(self, snapshot: Snapshot, base: Snapshot | None, *, compressed: bool) -> StreamOut:
        """Start to stream the difference between two snapshots, or all of one."""

    def send_rest(self, point: ResumePoint) -> StreamOut:
        """Start to stream what is missing of an interrupted stream."""

    def receive(self, name: str, *, full: bool) -> StreamIn:
        """Start to take in a stream, whose snapshot gets the name.

        What arrives of one that is interrupted is kept. A full one needs a volume without any
        snapshot, and replaces all of it.
        """


class Pool(Protocol):
    """A place where volumes live on this host, under names that a peer may use.

    A name that a peer sends is resolved only inside a pool: no name escapes it. Names that the
    pool does not accept raise `InvalidVolumeName`.
    """

    name: str
    kind: str
    makes_zeros: bool
    """Whether what `create` makes reads as zeros. If not, it holds what was there before."""
    holds_files: bool
    """Whether its volumes are files, which may be images in a format of their own."""
    disk_format: str
    """Format of a guest's disk in a volume that is made for it: raw where there are no files."""
    reserves: bool
    """Whether a volume has all of its space when it is made, rather than as it is written."""

    def folder(self) -> PoolFolder | None:
        """Which folder its volumes are in, None for a kind that looks empty only when it is.

        Where what the volumes of such a kind are on is away, `find` raises.
        """

    def expect(self, folder: VolumeIdentity) -> None:
        """Say which folder it was with something in it.

        While it is another one, and bare, everything that is asked raises `VolumeError`.
        """

    def find(self, volume: str) -> VolumeInfo | None:
        """Describe the volume, or None when there is none of that name."""

    def volumes(self) -> list[VolumeInfo]:
        """Describe every volume of the pool, sorted by name."""

    def everything(self) -> list[Entry]:
        """Tell of all that is there and has an identity.

        Also of what is no volume now: is not active, or has a name that no volume can have.
        """

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

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        """Remove a volume if it has that identity, `UNKNOWN` for one that has none.

        It is compared right before each step that takes something away. Raises `VolumeReplaced`
        for another volume. One that does not exist is not an error.
        """

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
