"""What the backends of a running domain really have open, whatever its configuration says.

blkback tells in sysfs which device serves a virtual disk (drivers/block/xen-blkback/xenbus.c). A
device model, which also serves disks of kind qdisk, is a process that libxl starts with the id of
its domain (`-xen-domid`, tools/libs/light/libxl_dm.c): what it has open is in /proc.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from storage.backing import backing_of_descriptor, backing_of_device
from storage.contracts import Backing

_DOMID: Final = b"-xen-domid"
_NUMBER: Final = re.compile(r"([0-9a-f]+):([0-9a-f]+)")
_LETTERS: Final = re.compile(r"(xvd|hd|sd)([a-z]+)(\d*)")
_PLAIN: Final = re.compile(r"d(\d+)(?:p(\d+))?")


@dataclass(frozen=True, slots=True)
class OpenByBackends:
    """What the backends of one domain have open.

    `devices` is by the numbers of virtual disks, `files` is all of the device model's. `served` is
    whether there is a device model that can be looked at.
    """

    devices: dict[int, Backing]
    files: tuple[Backing, ...]
    served: bool

    def has(self, vdev: str, backing: Backing) -> bool | None:
        """Whether the backend of a virtual disk has this open; None where nobody tells."""
        device = self.devices.get(number_of(vdev))
        if device is not None:
            return device.serves(backing)
        if not self.served:
            return None
        return any(file.serves(backing) for file in self.files)

    def server_of(self, vdev: str) -> str:
        """Name who serves a virtual disk, "" where nothing tells."""
        if number_of(vdev) in self.devices:
            return "blkback"
        return "QEMU" if self.served else ""

    def shown(self, vdev: str) -> str:
        """Say in words what the backend of a virtual disk has open."""
        device = self.devices.get(number_of(vdev))
        if device is not None:
            return device.what
        return ", ".join(file.what for file in self.files) or "nothing"


@dataclass(frozen=True, slots=True)
class Backends:
    """The backends of this host: where blkback and the kernel tell of them."""

    vbds: Path = Path("/sys/bus/xen-backend/devices")
    processes: Path = Path("/proc")

    def opened(self, domid: int) -> OpenByBackends:
        """Look what the backends of a domain have open. Blocks. Raises StorageError."""
        models = [folder for folder in self.processes.glob("[0-9]*") if _serves(folder, domid)]
        files = [found for folder in models if (found := _files(folder)) is not None]
        return OpenByBackends(
            devices=dict(_devices(domid, self.vbds)),
            files=tuple(backing for found in files for backing in found),
            served=bool(files),
        )


def number_of(vdev: str) -> int:
    """Return the number that Xen has for a virtual disk, -1 for a name that is none.

    As libxl__device_disk_dev_number (tools/libs/light/libxl_device.c), which is the scheme of
    docs/man/xen-vbd-interface.7.
    """
    if match := _PLAIN.fullmatch(vdev):
        return _xvd(int(match[1]), int(match[2] or 0))
    if not (match := _LETTERS.fullmatch(vdev)):
        with suppress(ValueError):
            return int(vdev, 0)
        return -1
    disk, partition = 0, int(match[3] or 0)
    for letter in match[2]:
        disk = disk * 26 + ord(letter) - ord("a") + 1
    disk -= 1
    if match[1] == "xvd":
        return _xvd(disk, partition)
    if match[1] == "hd":
        return ((3 if disk < 2 else 22) << 8) | ((disk & 1) << 6) | partition
    return (8 << 8) | (disk << 4) | partition


def _xvd(disk: int, partition: int) -> int:
    if disk <= 15 and partition <= 15:
        return (202 << 8) | (disk << 4) | partition
    return (1 << 28) | (disk << 8) | partition


def _devices(domid: int, vbds: Path) -> Iterator[tuple[int, Backing]]:
    for folder in vbds.glob(f"vbd-{domid}-*"):
        try:
            text = (folder / "physical_device").read_text().strip()
        except OSError:  # it is not connected yet, or was just detached
            continue
        match = _NUMBER.fullmatch(text)
        number = folder.name.rpartition("-")[2]
        if match is None or not number.isdecimal():
            continue
        device = os.makedev(int(match[1], 16), int(match[2], 16))
        if device != 0:  # as long as no device is attached
            yield int(number), backing_of_device(device)


def _serves(process: Path, domid: int) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it is gone
        return False
    return any(pair == (_DOMID, b"%d" % domid) for pair in pairwise(words))


def _files(process: Path) -> list[Backing] | None:
    """Return the regular files and block devices that a process has open, None if it is gone.

    Likewise where this daemon may not know: it is not root's.
    """
    try:
        links = sorted((process / "fd").iterdir())
    except OSError:
        return None
    found = []
    for link in links:
        with suppress(OSError):  # it was just closed
            if not str(link.readlink()).startswith("/"):  # sockets, pipes, memory
                continue
            mode = link.stat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                found.append(_look(link))
    return found


def _look(link: Path) -> Backing:
    # By the descriptor itself: its name may lead to another file by now.
    descriptor = os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return backing_of_descriptor(descriptor)
    finally:
        os.close(descriptor)
