"""Self-describing blocks, and the disks that hold them.

The content of a block follows from guest, disk, place and sequence number, so that a block read
back tells whether it is the right one, an older one (a lost write), one of a later copy, or none.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import struct

UNIT = 4096  # bytes; the smallest thing written and checked
CHUNK_UNITS = 16  # the largest write is one chunk
CHUNK = UNIT * CHUNK_UNITS

_HEADER = struct.Struct("<8s16sIIQ")  # magic, guest, disk, unit, sequence number
_MAGIC = b"XMVBLOCK"
_BLKZEROOUT = 0x127F
_ZEROES = bytes(UNIT)


def make(guest: bytes, disk: int, unit: int, sequence: int) -> bytes:
    """Content of one unit. `unit` counts units from the start of the disk."""
    import hashlib

    header = _HEADER.pack(_MAGIC, guest, disk, unit, sequence)
    return header + hashlib.shake_128(header).digest(UNIT - _HEADER.size)


def diagnose(found: bytes, guest: bytes, disk: int, unit: int, sequence: int) -> str:
    """Say in what way `found` is not the content that was written last."""
    if found == _ZEROES:
        return f"missing: zeroes instead of write {sequence}"
    magic, owner, at_disk, at_unit, written = _HEADER.unpack_from(found)
    if magic != _MAGIC:
        return f"wrong: foreign data instead of write {sequence}"
    if (owner, at_disk, at_unit) != (guest, disk, unit):
        import uuid as uuids

        whose = uuids.UUID(bytes=owner)
        return f"wrong: block of guest {whose} disk {at_disk} unit {at_unit} (write {written})"
    if found != make(guest, disk, unit, written):
        return f"wrong: damaged content of write {written}, expected write {sequence}"
    if written < sequence:
        return f"stale: write {written} instead of write {sequence}"
    return f"wrong: write {written} of another copy instead of write {sequence}"


def number_of(vdev: str) -> int:
    """Return the number that Xen has for a virtual disk such as xvda, hdb or sda1."""
    letters = vdev.rstrip("0123456789")
    disk, partition = ord(letters[-1]) - ord("a"), int(vdev[len(letters) :] or 0)
    if letters[:-1] == "xvd":
        return 202 << 8 | disk << 4 | partition
    if letters[:-1] == "hd":
        return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition
    return 8 << 8 | disk << 4 | partition


class Disk:
    """An open disk: past the page cache for a block device, through the file for an image.

    A `cached` one goes through the page cache of a device too, as QEMU does for emulated disks.
    """

    def __init__(self, path: str, writable: bool, *, cached: bool = False) -> None:
        self.number = os.stat(path).st_rdev  # noqa: PTH116 - a guest's own name
        self.writable = writable
        self.is_block = stat.S_ISBLK(os.stat(path).st_mode)  # noqa: PTH116
        flags = os.O_RDWR if writable else os.O_RDONLY
        if self.is_block and not cached:
            flags |= os.O_DIRECT
        self._descriptor = os.open(path, flags | os.O_CLOEXEC)
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)
        # An anonymous mapping is aligned to a page, as direct I/O wants.
        self._buffer = memoryview(mmap.mmap(-1, CHUNK))

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes (at most a chunk)."""
        target = self._buffer[:length]
        if os.preadv(self._descriptor, [target], offset) != length:
            raise OSError(f"short read at {offset}")
        return bytes(target)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` (at most a chunk)."""
        source = self._buffer[: len(data)]
        source[:] = data
        if os.pwritev(self._descriptor, [source], offset) != len(data):
            raise OSError(f"short write at {offset}")

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes, on a block device without sending any data."""
        if self.is_block:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("QQ", offset, length))
                return
        self.write(offset, bytes(length))

    def close(self) -> None:
        """Let go of the disk."""
        os.close(self._descriptor)
