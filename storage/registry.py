"""The kinds of pools there are, and their options as the configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, get_type_hints

from storage.contracts import Pool
from storage.devices.pool import BlockOptions, BlockPool
from storage.files.pool import DirectoryOptions, DirectoryPool
from storage.lvm.pool import LvmOptions, LvmPool, LvmThinOptions, LvmThinPool
from storage.zfs.pool import ZfsOptions, ZfsPool

POOL_KINDS: Final[dict[str, tuple[type[Any], Callable[[str, Any], Pool]]]] = {
    "block": (BlockOptions, BlockPool),
    "dir": (DirectoryOptions, DirectoryPool),
    "lvm": (LvmOptions, LvmPool),
    "lvm-thin": (LvmThinOptions, LvmThinPool),
    "zfs": (ZfsOptions, ZfsPool),
}
"""For each kind the dataclass of its options and what makes a pool of a name and such options."""


def open_pool(name: str, kind: str, options: Mapping[str, object]) -> Pool:
    """Make the pool that a section of the configuration describes.

    Nothing of the host is looked at: a folder or device may appear later. Raises `ValueError` for
    an unknown kind and for options that are unknown, missing or of the wrong type, and
    `InvalidVolumeName` for names that volumes may not have.
    """
    if kind not in POOL_KINDS:
        known = ", ".join(sorted(POOL_KINDS))
        raise ValueError(f"pool {name}: kind {kind!r} is unknown; there are {known}")
    declared, factory = POOL_KINDS[kind]
    return factory(name, parse_options(name, declared, options))


def parse_options(pool: str, declared: type[Any], options: Mapping[str, object]) -> Any:
    """Turn the options of a pool into the dataclass that declares them.

    Raises `ValueError` that names the pool and the option.
    """
    types = get_type_hints(declared)
    unknown = sorted(set(options) - set(types))
    if unknown:
        raise ValueError(
            f"pool {pool}: option {unknown[0]!r} is unknown; there are {', '.join(types)}"
        )
    required = {field.name for field in fields(declared) if field.default is MISSING}
    missing = sorted(required - set(options))
    if missing:
        raise ValueError(f"pool {pool}: option {missing[0]!r} is missing")
    values = {}
    for option, value in options.items():
        try:
            values[option] = _CONVERTERS[types[option]](value)
        except ValueError as error:
            raise ValueError(f"pool {pool}: option {option!r} {error}") from error
    return declared(**values)


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not Path(value).is_absolute():
        raise ValueError(f"must be an absolute path, not {value!r}")
    return Path(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _bytes(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must be a number of bytes, not {value!r}")
    return value


def _devices(value: object) -> dict[str, Path]:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _path(path) for name, path in value.items()}
    if isinstance(value, list | tuple):
        paths = [_path(path) for path in value]
        devices = {path.name: path for path in paths}
        if len(devices) < len(paths):
            raise ValueError("has two devices of the same last name: give each a name of its own")
        return devices
    raise ValueError(f"must be a list of devices or a mapping of names to them, not {value!r}")


_CONVERTERS: Final[dict[object, Callable[[object], object]]] = {
    Path: _path,
    str: _text,
    bool: _flag,
    int: _bytes,
    Mapping[str, Path]: _devices,
}
