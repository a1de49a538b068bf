"""What the journal knows of volumes, and whether they still are the ones that it knows."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

from storage.contracts import VolumeInfo
from xenmoved.journal import Holding, Journal, MadeVolume
from xenmoved.migration.host import Host

_MAKING: Final[WeakKeyDictionary[Journal, asyncio.Lock]] = WeakKeyDictionary()


def making(journal: Journal) -> asyncio.Lock:
    """Return what has one at a time look whether a volume is there, and make or remove it.

    Of two that mean the same name, the later one would else overwrite, or drop, the note of the
    other.
    """
    return _MAKING.setdefault(journal, asyncio.Lock())


def is_made(made: MadeVolume, info: VolumeInfo) -> bool:
    """Whether a volume that is there is the one that was made; False when that is not certain."""
    return made.identity is not None and _same(made.identity or None, info.identity)


def is_held(holding: Holding, info: VolumeInfo) -> bool:
    """Whether a volume that is there is the one whose owner was noted."""
    return _same(holding.identity, info.identity)


async def known_holding(host: Host, pool: str, name: str) -> Holding | None:
    """Return whose data a volume of this host holds; None when there is none, or not known.

    Raises StorageError.
    """
    holding = await host.journal.holding(pool, name)
    if holding is None or pool not in host.pools:
        return None
    info = await asyncio.to_thread(host.pools[pool].find, name)
    return holding if info is not None and is_held(holding, info) else None


async def claim(host: Host, path: str, owner: str, guest: str, migration: str) -> None:
    """Note whose data a volume holds that is in use here, if a pool has it. Raises StorageError."""
    if (located := host.pool_of(path)) is None:
        return
    pool, name = located
    info = await asyncio.to_thread(pool.find, name)
    identity = info.identity if info is not None else None
    await host.journal.record_holding(Holding(pool.name, name, owner, guest, identity, migration))


def _same(noted: str | None, found: str | None) -> bool:
    """Compare identities. Where one is not known, nothing speaks against it."""
    return noted is None or found is None or noted == found
