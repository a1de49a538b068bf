"""Opening the paths of volumes, and keeping others off those that are written."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from storage import usage
from storage.errors import StorageError, VolumeError, VolumeInUse, VolumeNotFound, reason

PASSING_USE_SECONDS: Final = 0.5
"""How long to wait for somebody who has a volume for a moment, as probes for its use do."""
PROBE_SECONDS: Final = 10.0
"""How long to wait for udev, which reads a device to tell what it holds, on a busy disk slowly."""


def open_path(path: str, flags: int, name: str) -> int:
    """Open `path` without waiting for it.

    Raises `VolumeNotFound`, `VolumeInUse` for a device that is claimed, `VolumeError`.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeNotFound(f"volume {name}: {path}: {reason(error)}") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise in_use(path, name) from error
        raise VolumeError(f"volume {name}: cannot open {path}: {reason(error)}") from error


def lock(fd: int, path: str, name: str, *, exclusive: bool) -> None:
    """Lock an open volume against others of this program, in this process or another.

    Writers need the lock and raise `VolumeInUse` without it. Readers take it if they can, so that
    a writer sees them, and do without otherwise: a source is read while somebody else has it.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if exclusive:
            raise in_use(path, name) from error
    except OSError as error:  # a file system without locks
        if exclusive:
            raise VolumeError(f"volume {name}: cannot lock {path}: {reason(error)}") from error


def in_use(path: str, name: str) -> VolumeInUse:
    """Make the error that says who has the volume in use."""
    return VolumeInUse(f"volume {name} ({path}) is in use: {usage.in_use(path) or 'just now'}")


def patiently(attempt: Callable[[], int], path: str) -> int:
    """Repeat an attempt to open while it fails for a use that may pass in a moment.

    Raises what the attempt raises: at once when the kernel itself holds the device, as with a
    mount, after `PROBE_SECONDS` in any case, and `PASSING_USE_SECONDS` after udev's looking at it.
    """
    began = probed = time.monotonic()
    while True:
        try:
            return attempt()
        except VolumeInUse:
            now = time.monotonic()
            probed = now if usage.probed(path) else probed
            deadline = min(began + PROBE_SECONDS, probed + PASSING_USE_SECONDS)
            if now > deadline or usage.held(path) is not None:
                raise
            time.sleep(0.02)


@contextmanager
def closing_on_error(fd: int, path: str, name: str) -> Iterator[None]:
    """Close the descriptor when what is done with it next fails; put its `OSError` in words."""
    try:
        yield
    except StorageError:
        os.close(fd)
        raise
    except OSError as error:
        os.close(fd)
        raise VolumeError(f"volume {name}: cannot use {path}: {reason(error)}") from error
    except BaseException:
        os.close(fd)
        raise
