"""Which chunks of a thin volume are mapped, asked of the metadata of its pool.

The metadata changes all the time, so a snapshot of it is reserved for as long as it is read. A pool
has room for one such snapshot. One that a crash left behind is recognised by a mark, a file that is
written before the snapshot is reserved, and released; one without is somebody else's, who may be
reading it, and is left alone.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.commands import lines, run
from storage.contracts import Extent
from storage.errors import VolumeError, reason
from storage.lvm.devmapper import join_name

MARKS: Final = Path("/var/lib/xenmoved/thin")
"""Where the marks are: a snapshot outlives a reboot, and so do they."""

TIMEOUT: Final = 30.0
"""Seconds to read the metadata. Meanwhile a migration makes no visible progress, which ends it
after a while; reading what is not mapped only takes longer."""

_MARKED: Final = b"reserved\n"
_SECTOR: Final = 512
_ATTRIBUTE: Final = re.compile(r'(\w+)="(\d*)"')
_ELEMENT: Final = re.compile(r"<(?P<end>/?)(?P<name>\w+)")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Chunks of a thin volume: each byte of `chunks` says whether one is mapped."""

    chunk_size: int
    chunks: bytearray

    def extents(self, size: int) -> Iterator[Extent]:
        """Yield the mapped ranges of a volume of `size` bytes, in order."""
        start = self.chunks.find(1)
        while start >= 0:
            end = self.chunks.find(0, start)
            if end < 0:
                end = len(self.chunks)
            offset = start * self.chunk_size
            yield Extent(offset, min(end * self.chunk_size, size) - offset)
            start = self.chunks.find(1, end)


def read_mapping(group: str, pool: str, thin_id: int, size: int) -> Mapping:
    """Find which chunks of the thin volume of that id and size are mapped when this is called.

    Raises `VolumeError`, also when somebody else has the metadata of the pool reserved.
    """
    with _reserved(join_name(group, pool, "tpool")):
        metadata = f"/dev/mapper/{join_name(group, f'{pool}_tmeta')}"
        command = ["thin_dump", "--metadata-snap", "--dev-id", str(thin_id), metadata]
        with closing(lines(command, timeout=TIMEOUT)) as dump:
            return parse_dump(dump, thin_id, size)


def release_leftovers() -> list[str]:
    """Release what processes that were killed have reserved. Return the pools' device names."""
    released = []
    for mark in sorted(MARKS.glob("*")):
        try:
            with _turn(mark.name) as descriptor:
                if _release_leftover(mark.name, descriptor):
                    released.append(mark.name)
        except VolumeError:  # the pool may be gone, or not active yet
            continue
    return released


def parse_dump(dump: Iterable[str], thin_id: int, size: int) -> Mapping:
    """Read what `thin_dump` prints of one volume. Raises `VolumeError` if it makes no sense."""
    mapping: Mapping | None = None
    promised, found, complete = -1, 0, False
    for line in dump:
        element = _ELEMENT.search(line)
        if element is None:
            continue
        values = {key: int(value or "0") for key, value in _ATTRIBUTE.findall(line)}
        try:
            match element["end"], element["name"]:
                case "", "superblock":
                    chunk_size = values["data_block_size"] * _SECTOR
                    mapping = Mapping(chunk_size, bytearray(-(-size // chunk_size)))
                case "", "device" if values["dev_id"] == thin_id:
                    promised = values["mapped_blocks"]
                case "", "single_mapping" if mapping is not None:
                    found += _mark(mapping, values["origin_block"], 1)
                case "", "range_mapping" if mapping is not None:
                    found += _mark(mapping, values["origin_begin"], values["length"])
                case "/", name:
                    complete = name == "superblock"
                case _:
                    raise _nonsense(thin_id, f"{line.strip()!r}")
        except (KeyError, ZeroDivisionError) as error:
            raise _nonsense(thin_id, f"{line.strip()!r}") from error
    if mapping is None or not complete:
        raise _nonsense(thin_id, "it is not complete")
    if found != promised:
        raise _nonsense(thin_id, f"it has {found} chunks and promises {promised}")
    return mapping


def _mark(mapping: Mapping, first: int, count: int) -> int:
    if first + count > len(mapping.chunks):  # the volume was made smaller, and larger again
        raise VolumeError(f"the metadata has a chunk {first + count - 1} beyond the volume's end")
    mapping.chunks[first : first + count] = b"\1" * count
    return count


def _nonsense(thin_id: int, why: str) -> VolumeError:
    return VolumeError(f"thin_dump of volume {thin_id} cannot be understood: {why}")


@contextmanager
def _reserved(device: str) -> Iterator[None]:
    """Keep a snapshot of the metadata of the pool of that device."""
    with _turn(device) as descriptor:
        _release_leftover(device, descriptor)
        if _is_reserved(device):
            raise VolumeError(
                f"somebody else has reserved the metadata of {device}; if nobody is reading it: "
                f"dmsetup message {device} 0 release_metadata_snap"
            )
        _set_mark(descriptor)
        try:
            _message(device, "reserve_metadata_snap")
        except VolumeError:  # somebody else was quicker: what is reserved is not ours
            os.ftruncate(descriptor, 0)
            raise
        try:
            yield
        finally:
            _release_leftover(device, descriptor)


@contextmanager
def _turn(device: str) -> Iterator[int]:
    """Wait until no other thread or process of this program reads the metadata; lend the mark."""
    mark = MARKS / device
    try:
        MARKS.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise VolumeError(f"cannot use {mark}: {reason(error)}") from error


def _set_mark(descriptor: int) -> None:
    os.pwrite(descriptor, _MARKED, 0)
    os.fsync(descriptor)


def _release_leftover(device: str, descriptor: int) -> bool:
    """Release the snapshot if the mark says that it is ours."""
    if not os.fstat(descriptor).st_size:
        return False
    if reserved := _is_reserved(device):
        _message(device, "release_metadata_snap")
    os.ftruncate(descriptor, 0)
    return reserved


def _is_reserved(device: str) -> bool:
    # 0 4194304 thin-pool TRANSACTION USED/TOTAL USED/TOTAL HELD rw ..., HELD being - or a block
    status = run(["dmsetup", "status", "--target", "thin-pool", device]).split()
    if len(status) < 7 or status[2] != "thin-pool" or not (status[6] == "-" or status[6].isdigit()):
        raise VolumeError(f"dmsetup says of {device}: {' '.join(status)!r}, which is no thin pool")
    return status[6] != "-"


def _message(device: str, text: str) -> None:
    run(["dmsetup", "message", device, "0", text])
