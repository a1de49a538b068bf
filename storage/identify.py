"""Finds out the identity of files and block devices of this host.

It outlives whatever happens to a volume that stays the same: boots, other numbers for devices, a
file system that is mounted again. What has none is never taken for something that was seen before.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from storage.canonical import canonical
from storage.commands import run
from storage.contracts import AND_HANDLE, UNKNOWN, VolumeIdentity
from storage.errors import StorageError
from storage.loops import behind, is_loop, node_of
from storage.syscalls import birth_time, file_handle, file_system
from storage.sysfs import (
    SYSFS,
    UDEV,
    device_folder,
    disk_number,
    property_of,
    read_attribute,
)
from storage.zfs.volume import dataset_of

_SECOND: Final = 10**9

_EXT: Final = 0xEF53
_NFS: Final = 0x6969
_TMPFS: Final = 0x01021994
_XFS: Final = 0x58465342
_F2FS: Final = 0xF2F52010
_JFS: Final = 0x3153464A
_OCFS2: Final = 0x7461636F
_GFS2: Final = 0x01161970
_LASTING_HANDLES: Final = frozenset({_EXT, _NFS, _TMPFS, _XFS, _F2FS, _JFS, _OCFS2, _GFS2})
"""File systems whose handles never lead to another file: an inode has a generation in them."""

_PASSING_INODES: Final = frozenset({0x4D44, 0x2011BAB0})
"""FAT and exFAT number a file anew whenever they see it."""


def file_identity(path: str | os.PathLike[str]) -> VolumeIdentity:
    """Return the identity of a file, symbolic links followed: its inode, and which of that number.

    File systems give the inode of a removed file to the next one, but at another moment, or with
    another generation, which its handle has. Files of the same inode and moment on two file systems
    are told apart by that. A copy is another file, even with all attributes of the first.
    """
    try:
        kind = file_system(path)
        inode = Path(path).stat().st_ino
        born = birth_time(path)
        # Whole seconds may be all that the file system keeps: too coarse to tell two files apart.
        if kind not in _PASSING_INODES and born is not None and born % _SECOND:
            return VolumeIdentity(f"inode {inode} of {born}{_and_handle(path, kind)}")
        if kind in _LASTING_HANDLES:
            return VolumeIdentity(f"inode {inode} with handle {file_handle(path)}")
    except OSError:
        pass
    return UNKNOWN


def _and_handle(path: str | os.PathLike[str], kind: int) -> str:
    if kind not in _LASTING_HANDLES:
        return ""
    try:
        return AND_HANDLE + file_handle(path)
    except OSError:  # of an export that has none
        return ""


def device_identity(
    path: str | os.PathLike[str], sysfs: Path = SYSFS, udev: Path = UDEV
) -> VolumeIdentity:
    """Return the identity of a block device, whatever its name and number are now.

    That is the world-wide name or serial number of a disk, the uuid of a partition on it, of a
    logical volume or of an array, the guid of a zvol, the file behind a loop device and its part.
    It is what any other kind of pool tells of the same volume: see `storage.canonical`.
    """
    try:
        found = Path(path).stat()
        if stat.S_ISBLK(found.st_mode):
            return _of_device(device_folder(found.st_rdev, sysfs), path, udev)
    except (OSError, StorageError):
        pass
    return UNKNOWN


def _of_device(device: Path, path: str | os.PathLike[str], udev: Path) -> VolumeIdentity:
    if (device / "partition").exists():
        disk = _of_device(device.parent, node_of(device.parent), udev)
        uuid = property_of(device, "PARTUUID", udev) or property_of(
            device, "ID_PART_ENTRY_UUID", udev
        )
        return VolumeIdentity(f"{disk} partition {uuid.lower()}") if disk and uuid else UNKNOWN
    if (device / "dm").exists():
        return _of_mapping(device, udev)
    if (device / "md").exists():
        uuid = read_attribute(device / "md/uuid") or property_of(device, "MD_UUID", udev)
        digits = uuid.lower().replace(":", "").replace("-", "")
        return VolumeIdentity(f"md {digits}") if digits else UNKNOWN
    if is_loop(device):
        return _of_loop(device, path, udev)
    if (dataset := dataset_of(os.fspath(path))) is not None:
        return VolumeIdentity(
            f"guid {run(['zfs', 'get', '-Hpo', 'value', 'guid', dataset]).strip()}"
        )
    return VolumeIdentity(disk_number(device))


def _of_mapping(device: Path, udev: Path) -> VolumeIdentity:
    uuid = read_attribute(device / "dm/uuid")
    if uuid.startswith(("LVM-", "mpath-")):
        return VolumeIdentity(canonical(uuid))
    beneath = sorted((device / "slaves").iterdir())
    if not uuid.startswith("CRYPT-LUKS") or len(beneath) != 1:
        return UNKNOWN
    # A copy of the disk beneath has the same uuid.
    disk = _of_device(beneath[0].resolve(), node_of(beneath[0]), udev)
    return VolumeIdentity(f"{uuid} on {disk}") if disk else UNKNOWN


def _of_loop(device: Path, path: str | os.PathLike[str], udev: Path) -> VolumeIdentity:
    shown = behind(device, path)
    if shown.is_file:
        beneath = file_identity(shown.path)
    else:
        beneath = _of_device(device_folder(shown.status.st_rdev), shown.path, udev)
    behind(device, path)  # the path may lead to another file by now
    if not beneath or shown.is_whole:
        return beneath
    end = f" to {shown.offset + shown.limit}" if shown.limit else ""
    return VolumeIdentity(f"loop on {beneath} from {shown.offset}{end}")
