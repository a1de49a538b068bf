"""Where guests' disks are on a host of the lab."""

from __future__ import annotations

from typing import Final

from tests.lab.host import Host

IMAGES: Final = "/srv/xen/images"
GROUP: Final = "vg0"
THIN_POOL: Final = "thin"
ZFS_POOL: Final = "tank"

_LVM_DISK: Final = "/dev/vdb"
_ZFS_DISK: Final = "/dev/vdc"
DEBIAN_IMAGE: Final = "/dev/vdd"
"""The disk of the Debian guest, to be copied."""


def prepare(host: Host) -> None:
    """Make the volume group with its thin pool, and the ZFS pool. The folder is in the image."""
    host.run(f"vgcreate -q {GROUP} {_LVM_DISK}")
    host.run(f"lvcreate -q -Zn -L 2G --thinpool {THIN_POOL} {GROUP}")
    host.run(f"zpool create -O mountpoint=none {ZFS_POOL} {_ZFS_DISK}")


def make_lv(host: Host, name: str, mebibytes: int) -> str:
    """Make a volume, of zeros, and return its path."""
    path = f"/dev/{GROUP}/{name}"
    host.run(f"lvcreate -q -y -Wy -Zy -L {mebibytes}M -n {name} {GROUP} && blkdiscard -z {path}")
    return path


def make_image(host: Host, name: str, mebibytes: int) -> str:
    """Make a sparse image file and return its path."""
    path = f"{IMAGES}/{name}"
    host.run(f"truncate -s {mebibytes}M {path}")
    return path
