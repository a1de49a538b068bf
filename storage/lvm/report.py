"""What `lvs` and `vgs` say of a volume group, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from storage.commands import run
from storage.errors import VolumeError

_FORMAT: Final = ("--reportformat", "json", "--units", "b", "--nosuffix")
_LV_FIELDS: Final = (
    "lv_name",
    "lv_uuid",
    "lv_size",
    "lv_layout",
    "lv_role",
    "lv_active",
    "lv_permissions",
    "lv_device_open",
    "lv_tags",
    "pool_lv",
    "origin",
    "data_percent",
    "thin_id",
    "chunk_size",
    "zero",
    "vg_extent_size",
)
_VG_FIELDS: Final = ("vg_size", "vg_free", "vg_extent_size")


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume. Sizes are in bytes; what it has none of is "" or 0.

    `chunk` is the unit of a thin pool. `zeroing` says whether a new chunk of it is zeroed before a
    part of it is written. `used` is the share of a thin volume or pool that is allocated.
    """

    name: str
    uuid: str
    size: int
    layout: frozenset[str]
    role: frozenset[str]
    active: bool
    read_only: bool
    open: bool
    tags: frozenset[str]
    pool: str
    origin: str
    used: float
    thin_id: int
    chunk: int
    zeroing: bool
    extent_size: int

    @property
    def thin(self) -> bool:
        """Whether it is a thin volume."""
        return "thin" in self.layout and "pool" not in self.layout

    @property
    def thin_pool(self) -> bool:
        """Whether it is a pool of thin volumes."""
        return {"thin", "pool"} <= self.layout

    @property
    def needed_by_others(self) -> bool:
        """Whether there are snapshots or thin volumes that LVM removes together with it."""
        return bool(self.role & {"thickorigin", "extthinorigin"})


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """Sizes of a volume group in bytes."""

    size: int
    free: int
    extent_size: int


def logical_volumes(group: str) -> dict[str, LogicalVolume]:
    """Return the logical volumes of a group, but those that are parts of others, by name.

    Raises `VolumeError`.
    """
    text = run(["lvs", *_FORMAT, "-o", ",".join(_LV_FIELDS), group])
    return {volume.name: volume for volume in map(_logical_volume, _rows(text, "lv"))}


def volume_group(group: str) -> VolumeGroup:
    """Return the sizes of a group. Raises `VolumeError`."""
    text = run(["vgs", *_FORMAT, "-o", ",".join(_VG_FIELDS), group])
    rows = _rows(text, "vg")
    if len(rows) != 1:
        raise VolumeError(f"vgs describes {len(rows)} volume groups when asked for {group}")
    return VolumeGroup(
        size=_positive(rows[0], "vg_size"),
        free=_number(rows[0], "vg_free"),
        extent_size=_positive(rows[0], "vg_extent_size"),
    )


def physical_volumes(group: str) -> list[str]:
    """Return the paths of the devices of a group, but of missing ones. Raises `VolumeError`."""
    text = run(["pvs", *_FORMAT, "-o", "pv_name", "--select", f"vg_name={group}"])
    paths = (_text(row, "pv_name") for row in _rows(text, "pv"))
    return [path for path in paths if path.startswith("/")]


def _rows(text: str, kind: str) -> list[Any]:
    """Rows of a report of one kind. Raises `VolumeError` for what is no such report."""
    try:
        rows = [row for report in json.loads(text)["report"] for row in report.get(kind, [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VolumeError(f"{kind}s printed no report that can be understood: {error}") from error
    return rows


def _logical_volume(row: Any) -> LogicalVolume:
    return LogicalVolume(
        name=_text(row, "lv_name"),
        uuid=_text(row, "lv_uuid"),
        size=_positive(row, "lv_size"),
        layout=_words(row, "lv_layout"),
        role=_words(row, "lv_role"),
        active=_text(row, "lv_active") != "",
        read_only=_text(row, "lv_permissions").startswith("read-only"),
        open=_text(row, "lv_device_open") == "open",
        tags=_words(row, "lv_tags"),
        pool=_text(row, "pool_lv"),
        origin=_text(row, "origin"),
        used=_share(row, "data_percent"),
        thin_id=_number(row, "thin_id"),
        chunk=_number(row, "chunk_size"),
        zeroing=_text(row, "zero") == "zero",
        extent_size=_positive(row, "vg_extent_size"),
    )


def _text(row: Any, field: str) -> str:
    value = row.get(field) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise VolumeError(f"a report of LVM has {value!r} as {field}")
    return value


def _words(row: Any, field: str) -> frozenset[str]:
    return frozenset(filter(None, _text(row, field).split(",")))


def _number(row: Any, field: str) -> int:
    text = _text(row, field)
    if not (text == "" or text.isdecimal()):
        raise VolumeError(f"a report of LVM has {text!r} as {field}")
    return int(text or "0")


def _positive(row: Any, field: str) -> int:
    number = _number(row, field)
    if number == 0:
        raise VolumeError(f"a report of LVM has no {field}")
    return number


def _share(row: Any, field: str) -> float:
    text = _text(row, field)
    try:
        share = float(text or "0") / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise VolumeError(f"a report of LVM has {text!r} as {field}")
    return share
