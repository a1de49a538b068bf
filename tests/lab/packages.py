"""What this machine must have for the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from tests.lab.errors import LabError

_NEEDED: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "extlinux": "extlinux",
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "fstrim": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "modprobe": "kmod",
    "cpio": "cpio",
    "gcc": "gcc libc6-dev",
    "ssh": "openssh-client",
}
_ARCHIVE_KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


def missing() -> list[str]:
    """Debian packages that have to be installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    names = {
        package for command, package in _NEEDED.items() if not shutil.which(command, path=path)
    }
    if not os.path.exists(_ARCHIVE_KEYS):  # noqa: PTH110
        names.add("debian-archive-keyring")
    return sorted(names)


def ensure() -> None:
    """Install what is missing. Raises LabError when that cannot be done here."""
    if os.geteuid() != 0:
        raise LabError("the lab mounts file systems to build its hosts: run it as root")
    names = missing()
    if not names:
        return
    wanted = " ".join(names)
    if shutil.which("apt-get") is None:
        raise LabError(f"the lab needs these (names of Debian packages): {wanted}")
    print(f"lab: installing {wanted}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "-q", "update"],
        ["apt-get", "-qy", "install", "--no-install-recommends", *wanted.split()],
    ):
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            raise LabError(
                f"the lab needs packages that cannot be installed; try: apt-get install {wanted}"
            )
