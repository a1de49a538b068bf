"""What the journal knows of volumes, and whether they still are the ones that it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Final, TypeVar

from storage.contracts import VolumeInfo
from storage.errors import VolumeInUse
from xenmoved.journal import Holding, MadeVolume
from xenmoved.migration.host import Host

T = TypeVar("T")

_LETTING_GO: Final = 10.0
"""Seconds until a toolstack has let go of the disks of a domain that is gone: on real hosts scripts
still detach them then."""


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
    await note(host, Holding(pool.name, name, owner, guest, migration=migration))


async def note(host: Host, holding: Holding, *, stays_retained: bool = False) -> None:
    """Note whose data a volume holds, or is to hold; its identity is looked up.

    With `stays_retained` one that is retained of the same owner stays so. Raises StorageError.
    """
    info = await asyncio.to_thread(host.pools[holding.pool].find, holding.name)
    before = await host.journal.holding(holding.pool, holding.name) if stays_retained else None
    if before is not None and before.owner == holding.owner and info and is_held(before, info):
        holding = replace(holding, since=before.since, place=before.place)
    identity = info.identity if info is not None else None
    await host.journal.record_holding(replace(holding, identity=identity))


async def when_let_go(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what an attempt does, once a toolstack has let go of the disks of a domain that went.

    Raises VolumeInUse when it does not for long, and whatever else the attempt does.
    """
    deadline = monotonic() + _LETTING_GO
    while True:
        try:
            return await attempt()
        except VolumeInUse:
            if monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


def _same(noted: str | None, found: str | None) -> bool:
    """Compare identities. Where one is not known, nothing speaks against it."""
    return noted is None or found is None or noted == found
