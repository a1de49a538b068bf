"""Where paths lead: what all paths of one file or device, or of one free place, have in common.

Two paths are one place by symbolic and hard links, by file systems that are mounted twice, and by
the loop devices on a file. So nobody who asks whether two paths are the same compares their text.
Places may have bytes in common nevertheless, as a disk and its partitions have: see `around`.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

from storage.loops import beneath, is_loop, reached
from storage.sysfs import SYSFS, backing_file, device_folder, read_attribute

Place: TypeAlias = tuple[str | int, ...]

_LOOPS: Final = "7:*"
"""Numbers of loop devices, in sysfs."""


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
    return _place_of(status.st_rdev, sysfs)


def places_at(paths: Iterable[str]) -> frozenset[Place]:
    """Return the places of several paths."""
    return frozenset(map(place_at, paths))


def around(path: str | os.PathLike[str], sysfs: Path = SYSFS) -> frozenset[Place]:
    """Return the places of all devices that are made of what a path leads to, or that it is of.

    Those are a disk and its partitions, and what the device mapper and others made of them, with
    loop devices on any of these, as far as the kernel has it now. What is on another loop device
    on the same file counts, too. None for files: who uses one for a device has it in use. Raises
    nothing.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISBLK(status.st_mode):
            return frozenset()
        device = device_folder(status.st_rdev, sysfs)
    except OSError:
        return frozenset()
    lower = reached([device], lambda one: beneath(one, sysfs))
    loops = _loops(sysfs)
    twins = {twin for one in (device, *lower) for twin in _twins(one, loops, sysfs)}
    upper = reached([device, *twins], _above(loops))
    places = (
        _place_of(number, sysfs)
        for one in lower | twins | upper
        if (number := _number(one)) is not None
    )
    return frozenset(places) - {_place_of(status.st_rdev, sysfs)}


_Loops: TypeAlias = dict[Place, list[Path]]


def _loops(sysfs: Path) -> _Loops:
    """Return all loop devices by the place of what is behind them, which a device has, too."""
    found: _Loops = defaultdict(list)
    for mark in sysfs.glob(f"{_LOOPS}/loop"):
        if (number := _number(device := mark.parent.resolve())) is not None:
            found[_place_of(number, sysfs)].append(device)
    return found


def _twins(device: Path, loops: _Loops, sysfs: Path) -> list[Path]:
    """Return the other loop devices on the file that a loop device is on."""
    if not is_loop(device) or (number := _number(device)) is None:
        return []
    return [one for one in loops.get(_place_of(number, sysfs), ()) if one != device]


def _above(loops: _Loops) -> Callable[[Path], Iterable[Path]]:
    def above(device: Path) -> Iterable[Path]:
        parts = [mark.parent for mark in device.glob("*/partition")]
        # Those on a loop device are at the place of its file: they are among its twins.
        on_it = loops.get(("device", _number(device) or 0), ())
        return [*parts, *(device / "holders").glob("*"), *on_it]

    return above


def _number(device: Path) -> int | None:
    major, _, minor = read_attribute(device / "dev").partition(":")
    return os.makedev(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _free_place(real: str) -> Place:
    folder, name = os.path.split(real)
    try:
        status = Path(folder).stat()
    except OSError:
        return ("path", real)
    return ("in", status.st_dev, status.st_ino, name)


def _place_of(device: int, sysfs: Path) -> Place:
    return _behind_loop(device, sysfs) or ("device", device)


def _behind_loop(device: int, sysfs: Path) -> Place | None:
    """Return where the file or device behind a loop device is, None for what is none."""
    try:
        backing = backing_file(device_folder(device, sysfs))
        backing.stat()
    except OSError:
        return None
    return place_at(backing, sysfs)
