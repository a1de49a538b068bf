"""Where paths lead: what all paths of one file or device, or of one free place, have in common.

Two paths are one place by symbolic and hard links, by file systems that are mounted twice, and by
the loop device on a file. So nobody who asks whether two paths are the same compares their text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from storage.sysfs import SYSFS, backing_file, device_folder

Place: TypeAlias = tuple[str | int, ...]


def place_at(path: str | os.PathLike[str], sysfs: Path = SYSFS) -> Place:
    """Return what is equal for all paths that lead to one place. Blocks.

    Where nothing is, that is the folder and the name in it; of a loop device, what is behind it.
    What cannot be looked at is known by its path, links followed. Raises nothing.
    """
    real = os.path.realpath(path)
    try:
        status = Path(real).stat()
    except OSError:
        return _free_place(real)
    if not stat.S_ISBLK(status.st_mode):
        return ("file", status.st_dev, status.st_ino)
    return _behind_loop(status.st_rdev, sysfs) or ("device", status.st_rdev)


def places_at(paths: Iterable[str]) -> frozenset[Place]:
    """Return the places of several paths."""
    return frozenset(map(place_at, paths))


def _free_place(real: str) -> Place:
    folder, name = os.path.split(real)
    try:
        status = Path(folder).stat()
    except OSError:
        return ("path", real)
    return ("in", status.st_dev, status.st_ino, name)


def _behind_loop(device: int, sysfs: Path) -> Place | None:
    """Return where the file or device behind a loop device is, None for what is none."""
    try:
        backing = backing_file(device_folder(device, sysfs))
        backing.stat()
    except OSError:
        return None
    return place_at(backing, sysfs)
