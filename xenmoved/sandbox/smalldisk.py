"""Small disks that can be filled up, without root: file systems that only the playground sees."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_APART: Final = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")
_INSIDE: Final = "XENMOVED_PLAYGROUND_APART"
_DETACH: Final = 2  # MNT_DETACH of umount2(2)
_FILLER: Final = ".full"
_LEFT: Final = 1 << 20
_PIECE: Final = 16 << 20
_SMALLEST: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def step_aside(arguments: list[str]) -> None:
    """Start this program anew where it may mount file systems that nobody else sees.

    Returns there, and also where the kernel does not let it: no disk is small then.
    """
    if _INSIDE in os.environ:
        return
    try:
        done = subprocess.run([*_APART, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return
    if done.returncode == 0:
        command = [*_APART, sys.executable, *arguments]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


class SmallDisk:
    """A file system of its own in a folder, where there can be one."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._mounted = _INSIDE in os.environ and _mount(folder, size)

    def fill(self) -> int | None:
        """Leave next to nothing free; returns how many bytes that took, None if it has no end."""
        if not self._mounted:
            return None
        taken, piece = 0, _PIECE
        with (self._folder / _FILLER).open("ab") as file:
            begin = file.tell()
            while piece >= _SMALLEST and (excess := self._free() - _LEFT) > 0:
                more = min(piece, excess)
                try:
                    os.posix_fallocate(file.fileno(), begin + taken, more)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2  # somebody else writes, too, and was faster
                else:
                    taken += more
        return taken

    def _free(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def empty(self) -> None:
        """Give back what `fill` took."""
        (self._folder / _FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        """Drop the file system with all that is on it."""
        if self._mounted:
            _libc.umount2(os.fsencode(self._folder), _DETACH)


def _mount(folder: Path, size: int) -> bool:
    options = f"size={size},mode=700".encode()
    done: int = _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options)
    return done == 0
