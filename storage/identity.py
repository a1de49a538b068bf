"""What tells a volume that two hosts see from another one of its size: for shared storage."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys/dev/block")
_MOST: Final = 200


def identity(path: str, sysfs: Path = SYSFS) -> str | None:
    """Return what every host that sees this file or device says of it, None where nothing does.

    Of a file that is its number in its file system, which NFS and cluster file systems have in
    common; of a SCSI or NVMe disk its world-wide name, of a logical volume its uuid.
    """
    try:
        found = Path(path).stat()
        if stat.S_ISREG(found.st_mode):
            return f"inode {found.st_ino}"
        if not stat.S_ISBLK(found.st_mode):
            return None
        device = sysfs / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        return _of_device(device.resolve(strict=True))
    except OSError:
        return None


def _of_device(device: Path) -> str | None:
    if number := _read(device / "partition"):
        disk = _of_device(device.parent)
        return f"{disk} partition {number}" if disk is not None else None
    uuid = _read(device / "dm/uuid")
    if uuid.startswith("mpath-"):
        # The host on the other side may have but one path to it, and no multipath.
        paths = sorted((device / "slaves").iterdir())
        return _of_device(paths[0].resolve()) if paths else None
    if uuid:
        return uuid if uuid.startswith("LVM-") else None
    return _read(device / "wwid") or _read(device / "device/wwid") or None


def _read(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace").split())[:_MOST]
    except OSError:
        return ""
