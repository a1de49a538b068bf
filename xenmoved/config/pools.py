"""Reads the section ``pools``, whose options depend on what `storage.registry` has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from storage.contracts import Pool
from storage.errors import StorageError
from storage.registry import POOL_KINDS
from xenmoved.config.fields import AbsolutePath, Parsed, Size, parse_path
from xenmoved.config.model import PoolConfig
from xenmoved.config.reader import Reader


def make_pool(config: PoolConfig) -> Pool:
    """Make the pool that is configured. Nothing of the host is looked at."""
    return POOL_KINDS[config.kind][1](config.name, config.options)


def read_pools(reader: Reader, section: object) -> dict[str, PoolConfig]:
    """Return the pools that are right; the problems of the others are noted."""
    pools = {}
    for name, data in reader.map(section, ("pools",)).items():
        before = len(reader.problems)
        pool = _read_pool(reader, name, data)
        if pool is not None and len(reader.problems) == before:
            pools[name] = pool
    return pools


def _read_pool(reader: Reader, name: str, data: object) -> PoolConfig | None:
    path = ("pools", name)
    reader.check_name(name, path)
    options = reader.map(data, path)
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in POOL_KINDS:
        known = f"must be one of: {', '.join(POOL_KINDS)}"
        reader.refuse((*path, "kind"), f"{known} (is {kind!r})" if "kind" in options else known)
        return None
    declared = POOL_KINDS[kind][0]
    before = len(reader.problems)
    arguments = reader.fields(declared, options, path, besides=("kind",), kinds=_OPTION_KINDS)
    if len(reader.problems) > before:
        return None
    pool = PoolConfig(name=name, kind=kind, options=declared(**arguments))
    try:
        make_pool(pool)
    except (StorageError, ValueError) as error:
        reader.refuse(path, str(error))
    return pool


def parse_devices(written: object) -> dict[str, Path]:
    """Return devices by name. In a list, the last part of each path is the name."""
    if isinstance(written, dict):
        return {name: parse_path(path) for name, path in written.items()}
    if not isinstance(written, list):
        raise ValueError(f"must be a list of devices or a map of names to them, is {written!r}")
    devices: dict[str, Path] = {}
    for path in map(parse_path, written):
        if path.name in devices:
            first = devices[path.name]
            raise ValueError(f"{first} and {path} end alike: write a map that names each of them")
        devices[path.name] = path
    return devices


# How the types that options are declared with are written here. Their integers are all in bytes.
_OPTION_KINDS: dict[Any, Any] = {
    Path: AbsolutePath,
    int: Size,
    Mapping[str, Path]: Annotated[dict[str, Path], Parsed(parse_devices)],
}
