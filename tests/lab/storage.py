"""Where guests' disks are on a host of the lab."""

from __future__ import annotations

import base64
import io
import shlex
import tarfile
from typing import Final

from tests.lab.host import Host
from tests.lab.image import ROOT

IMAGES: Final = "/srv/xen/images"
KINDS: Final = ("images", "plain", "thin", "zvols")
"""Pools of the daemons that make volumes, one of each kind: files, LVM, LVM thin, zvols."""

GROUP: Final = "vg0"
THIN_POOL: Final = "thin"
ZFS_POOL: Final = "tank"
ZVOLS: Final = f"{ZFS_POOL}/guests"

_TESTS: Final = "/root/tests-of-xenmoved"
_LVM_DISK: Final = "/dev/vdb"
_ZFS_DISK: Final = "/dev/vdc"
DEBIAN_IMAGE: Final = "/dev/vdd"
"""The disk of the Debian guest, to be copied."""
EXTRA: Final = "/dev/vde"
"""The disk of the guest with loads, where a host was started with it."""


def prepare(host: Host) -> None:
    """Make the volume group with its thin pool, the ZFS pool, and a file system for image files."""
    host.run(f"vgcreate -q {GROUP} {_LVM_DISK}")
    device = f"/dev/{GROUP}/images"
    host.run(f"lvcreate -q -y -Wy -Zy -L 1G -n images {GROUP} && mkfs.ext4 -q {device}")
    host.run(f"echo '{device} {IMAGES} ext4 defaults 0 2' >> /etc/fstab && mount {IMAGES}")
    host.run(f"rmdir {IMAGES}/lost+found")
    host.run(f"lvcreate -q -Zy -L 2G --thinpool {THIN_POOL} {GROUP}")
    host.run(f"zpool create -O mountpoint=none {ZFS_POOL} {_ZFS_DISK} && zfs create {ZVOLS}")


def make_lv(host: Host, name: str, mebibytes: int) -> str:
    """Make a volume, of zeros, and return its path."""
    path = path_of("plain", name)
    host.run(f"lvcreate -q -y -Wy -Zy -L {mebibytes}M -n {name} {GROUP} && blkdiscard -z {path}")
    return path


def make_thin(host: Host, name: str, mebibytes: int) -> str:
    """Make a thin volume and return its path."""
    host.run(f"lvcreate -q -y -V {mebibytes}M --thinpool {THIN_POOL} -n {name} {GROUP}")
    return path_of("thin", name)


def make_image(host: Host, name: str, mebibytes: int) -> str:
    """Make a sparse image file and return its path."""
    path = path_of("images", name)
    host.run(f"truncate -s {mebibytes}M {path}")
    return path


def make_zvol(host: Host, name: str, mebibytes: int) -> str:
    """Make a sparse zvol and return its path."""
    path = path_of("zvols", name)
    host.run(f"zfs create -s -V {mebibytes}M {ZVOLS}/{name} && udevadm settle && test -b {path}")
    return path


def make(host: Host, kind: str, name: str, mebibytes: int) -> str:
    """Make a volume of zeros in one of the pools `KINDS`, and return its path."""
    makers = {"images": make_image, "plain": make_lv, "thin": make_thin, "zvols": make_zvol}
    return makers[kind](host, name, mebibytes)


def path_of(kind: str, name: str) -> str:
    """Return the path of a volume in one of the pools `KINDS`."""
    folder = {"images": IMAGES, "zvols": f"/dev/zvol/{ZVOLS}"}.get(kind, f"/dev/{GROUP}")
    return f"{folder}/{name}"


def allocated(host: Host, kind: str, name: str) -> int:
    """Return how many bytes a volume in one of the pools `KINDS` takes."""
    if kind == "zvols":
        return int(host.run(f"zfs get -H -p -o value referenced {ZVOLS}/{name}").stdout)
    if kind == "images":
        return int(host.run(f"stat -c %b {IMAGES}/{name}").stdout) * 512
    table = "lvs --noheadings --nosuffix --units b -o lv_size,data_percent"
    size, *percent = host.run(f"{table} {GROUP}/{name}").stdout.split()
    return int(int(size) * float(percent[0]) / 100) if percent else int(size)


def run_tests(host: Host, kinds: str) -> str:
    """Run the tests in tests/storage for some kinds of volumes on the host; return what they said.

    `kinds` is an expression as pytest has them after -k. The program is tested as it is installed.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("pyproject.toml", "tests/storage", "tests/support"):
            tar.add(ROOT / name, name, filter=_without_caches)
    unpack = f"rm -rf {_TESTS} && mkdir {_TESTS} && base64 -d | tar -xz -C {_TESTS}"
    host.run(unpack, stdin=base64.b64encode(archive.getvalue()).decode())
    pytest = "PYTHONPATH=/opt/tests /usr/lib/xenmoved/bin/python -m pytest -p no:cacheprovider"
    # Emulated hosts are slow.
    options = f"-v -rs --timeout=1200 -k {shlex.quote(kinds)} tests/storage"
    return host.run(f"cd {_TESTS} && {pytest} {options}", check=False, timeout=7200).stdout


def _without_caches(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in item.name else item
