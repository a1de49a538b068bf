"""Names of the device mapper, and what sysfs says of its devices. No command is run."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")

_LVM_UUID: Final = re.compile(r"LVM-[A-Za-z0-9]{64}(?P<layer>-\w+)?")
_SINGLE_DASH: Final = re.compile(r"(?<!-)((?:--)*)-(?!-)")


@dataclass(frozen=True, slots=True)
class LvmDevice:
    """A device that LVM made. `layer` says which part of a volume it is, "" for the whole."""

    group: str
    volume: str
    layer: str


def join_name(group: str, volume: str, layer: str = "") -> str:
    """Name that LVM gives to a device: dashes are doubled within each part."""
    parts = [group, volume, layer] if layer else [group, volume]
    return "-".join(part.replace("-", "--") for part in parts)


def split_name(name: str) -> list[str]:
    """Parts from which LVM made the name of a device."""
    parts = _SINGLE_DASH.sub("\\1\0", name).split("\0")
    return [part.replace("--", "-") for part in parts]


def lvm_device(path: str | os.PathLike[str]) -> tuple[LvmDevice, list[LvmDevice]] | None:
    """Describe the device that `path` leads to, and those right beneath it that are LVM's too.

    None when there is none at the path, or it is not LVM's. Never fails.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    folder = SYS / "dev" / "block" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if (device := _described(folder)) is None:
        return None
    beneath = (_described(slave) for slave in sorted((folder / "slaves").glob("*")))
    return device, [slave for slave in beneath if slave is not None]


def _described(folder: Path) -> LvmDevice | None:
    try:
        name = (folder / "dm/name").read_text(errors="surrogateescape").rstrip("\n")
        uuid = (folder / "dm/uuid").read_text(errors="surrogateescape").rstrip("\n")
    except OSError:
        return None
    made_by_lvm = _LVM_UUID.fullmatch(uuid)
    if made_by_lvm is None:
        return None
    group, volume, *_ = [*split_name(name), ""]
    return LvmDevice(group, volume, (made_by_lvm["layer"] or "").removeprefix("-"))
