"""What tells a volume that two hosts see from another one of its size: for shared storage.

Unlike `VolumeIdentity` it is compared with what another host says.
"""

from __future__ import annotations

import stat
from pathlib import Path

from storage.contracts import UNKNOWN, VolumeIdentity
from storage.sysfs import SYSFS, device_folder, disk_number, read_attribute


def shared_identity(path: str, sysfs: Path = SYSFS) -> VolumeIdentity:
    """Return what every host that sees this file or device says of it, if anything does.

    Of a file that is its number in its file system, which NFS and cluster file systems have in
    common; of a SCSI or NVMe disk its world-wide name, of a logical volume its uuid.
    """
    try:
        found = Path(path).stat()
        if stat.S_ISREG(found.st_mode):
            return VolumeIdentity(f"inode {found.st_ino}")
        if stat.S_ISBLK(found.st_mode):
            return _of_device(device_folder(found.st_rdev, sysfs))
    except OSError:
        pass
    return UNKNOWN


def _of_device(device: Path) -> VolumeIdentity:
    if number := read_attribute(device / "partition"):
        disk = _of_device(device.parent)
        return VolumeIdentity(f"{disk} partition {number}") if disk else UNKNOWN
    uuid = read_attribute(device / "dm/uuid")
    if uuid.startswith("mpath-"):
        # The host on the other side may have but one path to it, and no multipath.
        paths = sorted((device / "slaves").iterdir())
        return _of_device(paths[0].resolve()) if paths else UNKNOWN
    if uuid:
        return VolumeIdentity(uuid) if uuid.startswith("LVM-") else UNKNOWN
    return VolumeIdentity(disk_number(device))
