"""What sysfs and udev say of a block device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys/dev/block")
UDEV: Final = Path("/run/udev/data")
_MOST: Final = 200


def device_folder(number: int, sysfs: Path = SYSFS) -> Path:
    """Return the folder in sysfs of the device of a number. Raises `OSError`."""
    return (sysfs / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True)


def read_attribute(path: Path) -> str:
    """Return the text of an attribute on one line, "" where there is none."""
    try:
        return " ".join(path.read_text(errors="replace").split())[:_MOST]
    except OSError:
        return ""


def backing_file(device: Path) -> Path:
    """Return the file behind a loop device, by its folder in sysfs. Raises `OSError` for others."""
    text = (device / "loop/backing_file").read_text(errors="surrogateescape")
    return Path(text.rstrip("\n"))


def disk_number(device: Path) -> str:
    """Return the world-wide name of a disk, or else the serial number that it has, or ""."""
    if name := read_attribute(device / "wwid") or read_attribute(device / "device/wwid"):
        return name
    for file in ("serial", "device/cid"):  # of virtio, and of MMC and SD
        if text := read_attribute(device / file):
            return f"serial {text}"
    return ""


def property_of(device: Path, name: str, udev: Path = UDEV) -> str:
    """Return a property that the kernel or udev gives to a device, "" where neither does."""
    sources = (device / "uevent", udev / f"b{read_attribute(device / 'dev')}")
    for line in (line for source in sources for line in _lines(source)):
        key, _, value = line.removeprefix("E:").partition("=")
        if key == name:
            return value.strip()
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
