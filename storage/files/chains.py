"""What lies beneath an image: its backing file or parent, that one's, and files with its data.

Whoever opens an image opens all of them. They are told by their names, whether anything is there or
not: what is missing now may be put there, and is opened then. Of each file on the way only the
header is read, without a lock, so that nobody is kept from it meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from storage.devices.volume import BlockDevice
from storage.errors import StorageError
from storage.files.headers import named_in
from storage.files.volume import RawFile
from storage.syscalls import device_size, sector_size

_MOST_OPENED: Final = 256
"""Images of one chain. QEMU has no more than 200 of its own accord."""
_MOST_NAMED: Final = 2048

_Seen: TypeAlias = tuple[int, int, str]
"""A file, and the folder in which it was found, from which what it names is looked for."""


def beneath(path: str, *, images: bool = False) -> tuple[str, ...]:
    """Return where the files beneath an image may be, none for what is no image. Blocks.

    With `images` only those that whoever opens it may take for images in their turn. A relative
    name is one from the folder of the image, and after a protocol from where its reader happens to
    be. What cannot be looked at names nothing. Raises nothing.
    """
    found: dict[str, bool] = {}
    seen: set[_Seen] = set()
    waiting = deque([path])
    while waiting and len(seen) < _MOST_OPENED and len(found) < _MOST_NAMED:
        image = waiting.popleft()
        for name, may_be_image in _named(image, seen):
            for place in _places(image, name):
                if may_be_image and not found.get(place):
                    waiting.append(place)
                found[place] = found.get(place, False) or may_be_image
    return tuple(place for place, may_be_image in found.items() if may_be_image or not images)


def with_beneath(paths: Iterable[str], *, images: bool = False) -> list[str]:
    """Return paths of images, and behind them what lies beneath, as `beneath` does. Blocks."""
    whole = list(paths)
    below = (one for path in whole for one in beneath(path, images=images))
    return list(dict.fromkeys([*whole, *below]))


def _places(image: str, name: str) -> Iterator[str]:
    """Return what a name may stand for: QEMU does not follow a link to the image, blktap does."""
    for folder in dict.fromkeys((os.path.dirname(image), os.path.dirname(os.path.realpath(image)))):  # noqa: PTH120
        yield os.path.join(folder, name)  # noqa: PTH118 - ".." behind a link is for whoever opens it
    if not name.startswith("/"):
        yield f"/{name}"


def _named(path: str, seen: set[_Seen]) -> list[tuple[str, bool]]:
    """Return what a file names that was not seen before, and whether that may be an image."""
    try:
        volume = _look_at(path, seen)
    except (OSError, ValueError, StorageError):
        return []
    if volume is None:
        return []
    try:
        return [(one.name, one.image) for one in named_in(volume)]
    except StorageError:
        return []
    finally:
        volume.close()


def _look_at(path: str, seen: set[_Seen]) -> RawFile | BlockDevice | None:
    """Open a file or device without a lock. Raises OSError, ValueError, StorageError."""
    # Before it is opened: that can have effects on other devices than disks.
    mode = os.stat(path).st_mode  # noqa: PTH116
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return None
    direct = os.O_DIRECT if stat.S_ISBLK(mode) else 0
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | direct)
    try:
        status = os.fstat(fd)
        folder = os.path.realpath(os.path.dirname(path))  # noqa: PTH120
        if (key := (status.st_dev, status.st_ino, folder)) in seen:
            os.close(fd)
            return None
        seen.add(key)
        if stat.S_ISREG(status.st_mode):
            return RawFile(fd, name=path, size=status.st_size, alignment=1, writable=False)
        size, sector = device_size(fd), sector_size(fd)
        return BlockDevice(fd, name=path, size=size, alignment=sector, writable=False)
    except BaseException:
        os.close(fd)
        raise
