"""System calls and ioctls of Linux that Python has no binding for.

All release the interpreter lock and raise `OSError` with the system's reason.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import Final

UNSUPPORTED: Final = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EINVAL,
        errno.ENODEV,  # fallocate on a block device before Linux 4.9
        errno.EREMOTEIO,  # a disk that promises to write zeros and then refuses the command
    }
)
"""Error numbers by which kernels and disks say that they cannot do an optional operation."""

_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02

_SYNC_FILE_RANGE_WAIT_BEFORE: Final = 1
_SYNC_FILE_RANGE_WRITE: Final = 2
_SYNC_FILE_RANGE_WAIT_AFTER: Final = 4

_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_INFO64_SIZE: Final = 232

_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_SIZE: Final = 256
_STATX_BTIME_OFFSET: Final = 80
_AT_SYMLINK_FOLLOW: Final = 0x400
_MAX_HANDLE: Final = 128
_STATFS_SIZE: Final = 256

_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8

_BLKFLSBUF: Final = 0x1261
_BLKSSZGET: Final = 0x1268
_BLKDISCARD: Final = 0x1277
_BLKZEROOUT: Final = 0x127F
_BLKGETSIZE64: Final = 0x80001272 | ctypes.sizeof(ctypes.c_size_t) << 16

INOTIFY_CLOSE_WRITE: Final = 0x08
INOTIFY_OPEN: Final = 0x20
_INOTIFY_EVENT: Final = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)
# The plain name takes 32-bit offsets on 32-bit glibc; other systems have only the plain name.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_statx = getattr(_libc, "statx", None)  # glibc 2.28
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start_writeback(fd: int) -> None:
    """Have the kernel begin to write a file's dirty pages, mostly without waiting for it.

    A hint: nothing is durable after it, and where it cannot be taken nothing happens.
    """
    _libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def write_back(fd: int) -> None:
    """Write what the page cache holds of a file or block device, and wait for it.

    It may still be in the disk's own cache then.
    """
    flags = _SYNC_FILE_RANGE_WAIT_BEFORE | _SYNC_FILE_RANGE_WRITE | _SYNC_FILE_RANGE_WAIT_AFTER
    while _libc.sync_file_range(fd, 0, 0, flags) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def inotify_watch(path: str, events: int) -> int:
    """Return a descriptor that tells of events of one path (links followed), from now on."""
    descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), events) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number))
    return descriptor


def inotify_events(descriptor: int) -> int:
    """Return which events happened since this was asked before, as one mask."""
    happened = 0
    while True:
        try:
            data = os.read(descriptor, 4096)
        except BlockingIOError:
            return happened
        offset = 0
        while offset < len(data):
            _, mask, _, length = _INOTIFY_EVENT.unpack_from(data, offset)
            happened |= mask
            offset += _INOTIFY_EVENT.size + length


def loop_backing(fd: int) -> tuple[int, int, int, int]:
    """Device and inode of the file behind a loop device, and which part of it is shown.

    That is the byte at which it begins, and how many bytes it has at most, 0 for all that follow.
    Fails with ENXIO for a loop device that has no file.
    """
    status = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64_SIZE))
    device, inode, _, offset, limit = struct.unpack_from("QQQQQ", status)
    return device, inode, offset, limit


def birth_time(path: str | os.PathLike[str]) -> int | None:
    """Moment at which a file was made, in nanoseconds since 1970, symbolic links followed.

    None where the file system does not know.
    """
    if _statx is None:
        return None
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return None
        raise OSError(number, os.strerror(number))
    (known,) = struct.unpack_from("I", buffer)
    if not known & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", buffer, _STATX_BTIME_OFFSET)
    return int(seconds) * 10**9 + int(nanoseconds)


def file_handle(path: str | os.PathLike[str]) -> str:
    """Handle by which a file system, of a server too, finds a file again; symbolic links followed.

    Fails with EOPNOTSUPP where there are none.
    """
    buffer = ctypes.create_string_buffer(8 + _MAX_HANDLE)
    struct.pack_into("Ii", buffer, 0, _MAX_HANDLE, 0)
    mount = ctypes.c_int()
    name = os.fsencode(path)
    flags = _AT_SYMLINK_FOLLOW
    if _libc.name_to_handle_at(_AT_FDCWD, name, buffer, ctypes.byref(mount), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    length, kind = struct.unpack_from("Ii", buffer)
    return f"{kind}:{buffer.raw[8 : 8 + length].hex()}"


def file_system(path: str | os.PathLike[str]) -> int:
    """Kind of the file system that a file is on, as numbered by statfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    kind: int = ctypes.c_long.from_buffer(buffer).value
    return kind & 0xFFFFFFFF


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make a range of a file or block device read as zeros and give its space back.

    Block devices that do not promise zeros after a discard answer EOPNOTSUPP.
    """
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    while _fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def discard_device(fd: int, offset: int, length: int) -> None:
    """Tell a block device that a range is not needed. Only the device knows what it reads as."""
    fcntl.ioctl(fd, _BLKDISCARD, struct.pack("QQ", offset, length))


def zero_device(fd: int, offset: int, length: int) -> None:
    """Write zeros to a range of a block device, in the device itself where it can."""
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", offset, length))


def device_size(fd: int) -> int:
    """Size of a block device in bytes."""
    size: int = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    return size


def sector_size(fd: int) -> int:
    """Logical sector size of a block device in bytes."""
    size: int = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    return size


def mount(kind: str, place: str) -> None:
    """Mount a file system of the kernel's own, without devices, set-uid and programs. Needs root.

    Fails with EBUSY where the same one is mounted already.
    """
    name = kind.encode()
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _libc.mount(name, os.fsencode(place), name, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unmount(place: str) -> None:
    """Unmount what was mounted last at a place. Needs root."""
    if _libc.umount2(os.fsencode(place), 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def drop_device_cache(fd: int) -> None:
    """Write back what the page cache holds of a block device, then drop it. Needs root."""
    fcntl.ioctl(fd, _BLKFLSBUF)
