"""What volumes that are one file descriptor have in common.

Errors in words, transfers of whole buffers, and a close that waits: a thread cannot
be cancelled, so one may still be writing when its migration is given up. Were the descriptor closed
under it, its number could be given to the next volume opened, and the write would land there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from storage.backing import backing_of_descriptor
from storage.buffers import AlignedBuffer
from storage.contracts import Backing
from storage.errors import VolumeError, VolumeFull, reason
from storage.ranges import Ranged
from storage.syscalls import UNSUPPORTED, discard_device, zero_device
from storage.watching import Watch

_ZEROS: Final = AlignedBuffer(1 << 20).view.toreadonly()


class DescriptorVolume(Ranged):
    """Base of volumes on one file descriptor, which it owns from construction on."""

    def __init__(self, fd: int, *, name: str, size: int, alignment: int, writable: bool) -> None:
        self.name = name
        self.size = size
        self.alignment = alignment
        self.writable = writable
        self._fd = fd
        self._uses = 0
        self._closed = False
        self._lost: str | None = None
        self._state = threading.Condition()

    def flush(self) -> None:
        """Make what was written durable and drop it from the page cache; see `Volume.flush`.

        Raises `VolumeError`. Once it did, it always will for this open volume: the kernel forgets
        pages that it failed to write, so that a second flush would succeed without them.
        """
        with self.using("flush", 0, self.size) as fd:
            if self._lost is not None:
                raise VolumeError(
                    f"volume {self.name}: an earlier flush failed ({self._lost}); "
                    "what was written before it may be lost"
                )
            try:
                self._persist(fd)
            except OSError as error:
                self._lost = reason(error)
                raise

    def backing(self) -> Backing:
        """Tell what is open, as it is now. Raises `VolumeError`."""
        with self.using("look at", 0, 0) as fd:
            return backing_of_descriptor(fd)

    def watch(self) -> Watch:
        """Begin to watch for others who open it. Raises `VolumeError`."""
        with self.using("watch", 0, 0) as fd:
            return Watch(fd, self.name)

    def claim(self) -> None:
        """Have it alone from now on; see `PoolVolume.claim`.

        Raises `VolumeInUse` or `VolumeError`.
        """
        with self.using("claim", 0, 0) as fd:
            self._claim(fd, f"/proc/self/fd/{fd}")

    def unlock(self) -> None:
        """Let programs that lock what they open have it too. Raises `VolumeError`."""
        with self.using("unlock", 0, 0) as fd:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the volume once calls under way have ended. Idempotent. Does not flush."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._uses == 0)
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _persist(self, fd: int) -> None:
        raise NotImplementedError

    def _claim(self, fd: int, path: str) -> None:
        raise NotImplementedError

    @contextmanager
    def using(self, verb: str, offset: int, length: int) -> Iterator[int]:
        """Lend the descriptor for one call on a range, and put its errors in words.

        Raises `VolumeError` for a range that is not in the volume or not aligned, on a closed
        volume, and for any `OSError` within (`VolumeFull` when no space is left).
        """
        self.require_range(verb, offset, length)
        with self._state:
            if self._closed:
                raise self.error(verb, offset, length, "it is closed")
            self._uses += 1
        try:
            yield self._fd
        except OSError as error:
            kind = VolumeFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else VolumeError
            raise self.error(verb, offset, length, reason(error), kind) from error
        finally:
            with self._state:
                self._uses -= 1
                self._state.notify_all()


def make_durable(path: str | os.PathLike[str]) -> None:
    """Write out what this host has in memory of a file or device. Raises `VolumeError`.

    A guest's writes through a loop device are in the page cache of its file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise VolumeError(f"volume {os.fspath(path)}: cannot flush it: {reason(error)}") from error


def read_up_to_end(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset`; return how many bytes came before the end of the file."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_all(fd: int, buffer: memoryview, offset: int) -> None:
    """Write the whole buffer at `offset`, however many calls that takes."""
    done = 0
    while done < len(buffer):
        count = os.pwrite(fd, buffer[done:], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        done += count


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write zeros from aligned memory, for where nothing better makes a range zero."""
    end = offset + length
    while offset < end:
        count = min(len(_ZEROS), end - offset)
        write_all(fd, _ZEROS[:count], offset)
        offset += count


def zero_by_unit(fd: int, offset: int, length: int, unit: int) -> None:
    """Zero a range of a device that frees whole units of `unit` bytes, which it zeroes so.

    Whole units are discarded; a device may ignore it for a part of one, so that gets zeros.
    """
    end = offset + length
    first = min(-(-offset // unit) * unit, end)
    last = max(end // unit * unit, first)
    make_zero(fd, offset, first - offset, zero_device)
    # Where discards are refused, all of them are; others give zeros for whole units.
    make_zero(fd, first, last - first, discard_device, zero_device)
    make_zero(fd, last, end - last, zero_device)


def make_zero(
    fd: int, offset: int, length: int, *attempts: Callable[[int, int, int], None]
) -> None:
    """Zero a range by the first attempt that the system supports, or else write zeros."""
    if length == 0:  # the system calls refuse it
        return
    for attempt in attempts:
        try:
            attempt(fd, offset, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
    write_zeros(fd, offset, length)
