"""Block devices, with O_DIRECT.

blkback reads and writes beneath dom0's page cache, so that a buffered read of a guest's device may
return what it held long ago. Direct reads see the device, and after `flush` no stale page is left
for anybody who opens it later.

No write is better than the device's word for it. Linux's loop driver (seen in 6.18) reports success
for a request of which only the first part fitted on a full file system, and so does the fsync that
follows: on a loop device only reading back tells.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from ctypes import addressof, c_char
from typing import Final, Self

from storage import usage
from storage.buffers import AlignedBuffer
from storage.claiming import closing_on_error, lock, open_path, patiently
from storage.contracts import BUFFER_ALIGNMENT, Extent
from storage.descriptor import DescriptorVolume, make_zero, read_up_to_end, write_all
from storage.errors import UnsupportedVolume, VolumeInUse
from storage.syscalls import (
    device_size,
    drop_device_cache,
    punch_hole,
    sector_size,
    zero_device,
)

_BOUNCE_SIZE: Final = 1 << 20


class BlockDevice(DescriptorVolume):
    """An open block device. `alignment` is its logical sector size."""

    _claimed = -1  # the descriptor that keeps others off a device which was opened to be read

    @classmethod
    def open(cls, path: str, *, name: str, writable: bool) -> Self:
        """Open the device at `path` (symbolic links followed) under the name that errors show.

        A writable one is claimed in the kernel as a mount claims it. Raises `VolumeInUse`,
        `VolumeNotFound`, `UnsupportedVolume` when it is no block device or its size is no whole
        number of sectors, and `VolumeError`.
        """
        fd = patiently(lambda: _open_locked(path, name, writable=writable), path)
        with closing_on_error(fd, path, name):
            size, sector = device_size(fd), sector_size(fd)
            if size % sector:
                raise UnsupportedVolume(
                    f"volume {name}: {path} has {size} bytes, which is no whole number of its "
                    f"sectors of {sector} bytes"
                )
            return cls(fd, name=name, size=size, alignment=sector, writable=writable)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from what the device holds now. Raises `VolumeError`."""
        with self.using("read", offset, len(buffer)) as fd:
            if is_aligned(buffer):
                count = read_up_to_end(fd, buffer, offset)
            else:
                count = _read_bounced(fd, buffer, offset)
            if count < len(buffer):
                raise self.error(
                    "read", offset, len(buffer), f"the device ends at {offset + count}"
                )

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`. Raises `VolumeFull` (thin devices) or `VolumeError`."""
        with self.using("write", offset, len(buffer)) as fd:
            self.changing("write", offset, len(buffer))
            if is_aligned(buffer):
                write_all(fd, buffer, offset)
            else:
                _write_bounced(fd, buffer, offset)

    def zero(self, offset: int, length: int) -> None:
        """Discard the range where that gives zeros, else have them written.

        Raises `VolumeFull` (thin devices) or `VolumeError`.
        """
        with self.using("zero", offset, length) as fd:
            self.changing("zero", offset, length)
            make_zero(fd, offset, length, punch_hole, zero_device)

    def data_extents(self) -> Iterator[Extent]:
        """One extent that covers the device: what it holds cannot be asked of it."""
        if self.size:
            yield Extent(0, self.size)

    def close(self) -> None:
        """Release the volume, claimed or not; see `DescriptorVolume.close`."""
        super().close()
        if self._claimed >= 0:
            os.close(self._claimed)
            self._claimed = -1

    def _claim(self, fd: int, path: str) -> None:
        if self._claimed < 0:
            # Not to be written: udev looks at what was open for that, and others see it, too.
            flags = os.O_RDONLY | os.O_EXCL
            claimed = patiently(lambda: open_path(path, flags, self.name), path)
            with closing_on_error(claimed, path, self.name):
                if (why := usage.held(path)) is not None:
                    raise VolumeInUse(f"volume {self.name} ({path}) is in use: {why}")
                lock(fd, path, self.name, exclusive=True)
            self._claimed = claimed

    def _persist(self, fd: int) -> None:
        os.fsync(fd)
        drop_device_cache(fd)


def is_aligned(buffer: memoryview) -> bool:
    """Tell whether the buffer's memory can be used for direct I/O on any device."""
    if buffer.readonly or not buffer:  # the address of read-only memory is not to be had
        return False
    return addressof(c_char.from_buffer(buffer)) % BUFFER_ALIGNMENT == 0


class _Bounce(threading.local):
    """One aligned buffer a thread, for bytes that come in memory which is not."""

    def __init__(self) -> None:
        self.view = AlignedBuffer(_BOUNCE_SIZE).view


_bounce = _Bounce()


def _write_bounced(fd: int, buffer: memoryview, offset: int) -> None:
    for start in range(0, len(buffer), _BOUNCE_SIZE):
        piece = buffer[start : start + _BOUNCE_SIZE]
        aligned = _bounce.view[: len(piece)]
        aligned[:] = piece
        write_all(fd, aligned, offset + start)


def _read_bounced(fd: int, buffer: memoryview, offset: int) -> int:
    for start in range(0, len(buffer), _BOUNCE_SIZE):
        piece = buffer[start : start + _BOUNCE_SIZE]
        aligned = _bounce.view[: len(piece)]
        count = read_up_to_end(fd, aligned, offset + start)
        piece[:count] = aligned[:count]
        if count < len(piece):
            return start + count
    return len(buffer)


def _open_locked(path: str, name: str, *, writable: bool) -> int:
    flags = os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY
    fd = open_path(path, flags | os.O_DIRECT, name)
    with closing_on_error(fd, path, name):
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise UnsupportedVolume(f"volume {name}: {path} is not a block device")
        if writable and (why := usage.held(path)) is not None:  # loop devices claim nothing
            raise VolumeInUse(f"volume {name} ({path}) is in use: {why}")
        lock(fd, path, name, exclusive=writable)
    return fd
