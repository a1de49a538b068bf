"""Which loop devices are no volumes of a pool of devices: those that do not show all of a file.

What a part of a file, or a loop device on another device, has in common with other volumes is seen
by nothing for certain: neither who writes there, nor what was noted of it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from storage.errors import reason
from storage.loops import behind, beneath, is_loop, node_of, reached
from storage.sysfs import SYSFS, device_folder


def why_not_whole(path: str | os.PathLike[str], sysfs: Path = SYSFS) -> str | None:
    """Say which loop device a block device is made of, or is, that does not show all of a file.

    And what to do about it. None where there is none, or nothing.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISBLK(status.st_mode):
            return None
        device = device_folder(status.st_rdev, sysfs)
    except OSError:
        return None
    for one in sorted({device, *reached([device], beneath)}):
        node = os.fspath(path) if one == device else node_of(one)
        if is_loop(one) and (why := _why_not(one, node)) is not None:
            made_of = "is" if one == device else f"is made of {node},"
            return f"{path} {made_of} a loop device {why}"
    return None


def _why_not(device: Path, node: str) -> str | None:
    try:
        shown = behind(device, node)
    except OSError as error:
        return f"whose file is not certain ({reason(error)}): attach the file that it is to show"
    if not shown.is_file:
        return f"on {shown.path}: list the device that it is on"
    if not shown.is_whole:
        end = f"{shown.offset + shown.limit}" if shown.limit else "its end"
        return (
            f"that shows only a part of {shown.path}, from {shown.offset} to {end}: list "
            f"{shown.path.parent} as a pool of kind dir instead, where a volume is all of a file"
        )
    return None
