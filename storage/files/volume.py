"""Raw image files.

Everything goes through the file itself. Loop devices and QEMU use the file's page cache or keep it
coherent, so buffered reads of the file see what a guest wrote; the cache of a loop device on top of
it would not be seen by anybody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, Self

from storage import usage
from storage.claiming import closing_on_error, lock, open_path
from storage.contracts import Extent
from storage.descriptor import DescriptorVolume, make_zero, read_up_to_end, write_all
from storage.errors import UnsupportedVolume, VolumeError, VolumeInUse
from storage.syscalls import UNSUPPORTED, punch_hole, start_writeback

_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_WRITEBACK_EVERY: Final = 16 << 20


class RawFile(DescriptorVolume):
    """An open raw image file. `alignment` is 1."""

    _dirty = 0  # bytes written since writeback was last started; threads may miss a few

    @classmethod
    def open(cls, path: str, *, name: str, writable: bool) -> Self:
        """Open the file at `path` (symbolic links followed) under the name that errors show.

        A writable one is locked, and nobody else may use it: not as the backing file of a loop
        device, as swap, nor under anybody's lock. Raises `VolumeInUse`, `VolumeNotFound`,
        `UnsupportedVolume` when it is no regular file, and `VolumeError`.
        """
        fd = open_path(path, os.O_RDWR if writable else os.O_RDONLY, name)
        with closing_on_error(fd, path, name):
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UnsupportedVolume(f"volume {name}: {path} is not a regular file")
            lock(fd, path, name, exclusive=writable)
            if writable:
                _refuse_other_users(fd, path, name)
            return cls(fd, name=name, size=status.st_size, alignment=1, writable=writable)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`. Raises `VolumeError`, also when the file was truncated."""
        with self.using("read", offset, len(buffer)) as fd:
            count = read_up_to_end(fd, buffer, offset)
            if count < len(buffer):
                raise self._truncated("read", offset, len(buffer), fd)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`. Raises `VolumeFull` or `VolumeError`."""
        with self.using("write", offset, len(buffer)) as fd:
            self.changing("write", offset, len(buffer))
            write_all(fd, buffer, offset)
            # Left alone the kernel piles up dirty pages by the gigabyte, and the flush that a
            # suspended guest waits for has them all to write.
            self._dirty += len(buffer)
            if self._dirty >= _WRITEBACK_EVERY:
                self._dirty = 0
                start_writeback(fd)

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole, or write zeros where the file system has no holes.

        Raises `VolumeFull` or `VolumeError`.
        """
        with self.using("zero", offset, length) as fd:
            self.changing("zero", offset, length)
            make_zero(fd, offset, length, punch_hole)

    def data_extents(self) -> Iterator[Extent]:
        """Ranges that the file system has data for, as of when each is asked for.

        One extent covers the file where holes cannot be told. Raises `VolumeError`, also when the
        file was truncated: what is gone must not pass for a hole.
        """
        offset = 0
        while offset < self.size:
            extent = self._next_data(offset)
            if extent is None:
                return
            yield extent
            offset = extent.end

    def _next_data(self, offset: int) -> Extent | None:
        rest = self.size - offset
        with self.using("find data in", offset, rest) as fd:
            if os.fstat(fd).st_size < self.size:
                raise self._truncated("find data in", offset, rest, fd)
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
                end = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return None
                if error.errno in UNSUPPORTED:
                    return Extent(offset, rest)
                raise
            end = min(end, self.size)
            return Extent(start, end - start) if start < end else None

    def _persist(self, fd: int) -> None:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _claim(self, fd: int, path: str) -> None:
        lock(fd, path, self.name, exclusive=True)
        _refuse_other_users(fd, path, self.name)

    def _truncated(self, verb: str, offset: int, length: int, fd: int) -> VolumeError:
        now = os.fstat(fd).st_size
        return self.error(
            verb, offset, length, f"the file had {self.size} bytes when opened and has {now} now"
        )


def _refuse_other_users(fd: int, path: str, name: str) -> None:
    why = usage.held(path)
    if why is None:
        # QEMU locks single bytes of its images with locks that flock does not see.
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
        if struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK:
            why = "locked by another process, as QEMU locks its images"
    if why is not None:
        raise VolumeInUse(f"volume {name} ({path}) is in use: {why}")
