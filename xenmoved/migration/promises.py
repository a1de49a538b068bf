"""What this host has promised to peers that send something, and they have not taken yet.

Between the promise and the guest that runs here, memory and space look free that are given away
already. All that weighs what is free asks here too; what weighs and promises does both in one turn
(`Arrivals`), so that promises made at the same time never exceed together what there is. They live
as long as what they are for, and no longer than this process: what an earlier one left is given up
or has its domain, and the volumes that it made are in the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.messages import Placement
from storage.contracts import Pool
from storage.errors import StorageError
from xenmoved.toolstack.interface import DomainStatus

log = logging.getLogger(__name__)


LEAST_OF_QUOTA: Final = 1 << 20


def of_quota(size: int, disk_size: int = 0) -> int:
    """Return how many bytes of a quota a volume counts that may grow to `disk_size` in use.

    The smallest counts 1 MiB, as each takes more than its bytes: a name, an inode, a record.
    """
    return max(size, disk_size, LEAST_OF_QUOTA)


@dataclass(frozen=True, slots=True)
class Promise:
    """What one guest or sync may take: of memory (in bytes) what `guest` has when it is here.

    The volume at each of the `placements` may grow to the size of the disk in it.
    """

    peer: str
    guest: str
    memory: int
    placements: tuple[Placement, ...]
    disk_sizes: tuple[int, ...]
    at_boot: int = 0
    """What it takes when this host starts it at boot, 0 if it does not."""


@dataclass(slots=True)
class Promises:
    """All promises that stand, by migration."""

    _given: dict[str, Promise] = field(default_factory=dict)

    def give(self, migration: str, promise: Promise) -> None:
        """Note a promise, until `release`."""
        self._given[migration] = promise

    def release(self, migration: str) -> None:
        """Forget a promise: it was kept, or will not be. Idempotent."""
        self._given.pop(migration, None)

    def made_for(self, peer: str) -> dict[tuple[str, str, str], int]:
        """Return what the volumes made for a peer may take, by migration, pool and name."""
        return {
            (migration, place.pool, place.name): of_quota(place.size, disk_size)
            for migration, promise in self._given.items()
            if promise.peer == peer
            for place, disk_size in zip(promise.placements, promise.disk_sizes, strict=True)
            if place.fresh
        }

    def resize(self, migration: str, memory: int) -> None:
        """Note how much memory a guest gets by now."""
        self._given[migration] = replace(self._given[migration], memory=memory)

    def memory(self, here: Iterable[DomainStatus], besides: str = "") -> int:
        """Return how much memory guests on their way still get, beside what their domains have.

        The guest of the migration `besides` does not count.
        """
        has = {domain.name: domain.memory for domain in here}
        return sum(
            max(0, one.memory - has.get(one.guest, 0) - has.get(f"{one.guest}--incoming", 0))
            for migration, one in self._given.items()
            if migration != besides
        )

    def at_boot(self, besides: str) -> int:
        """Return how much memory guests on their way, but `besides`, take when they are booted."""
        return sum(one.at_boot for one in self._given.values() if one.guest != besides)

    async def space(self, pools: Mapping[str, Pool], name: str) -> int:
        """Return how much of the free space of a pool what is on its way still takes."""
        places = [place for promise in self._given.values() for place in promise.placements]
        return await asyncio.to_thread(unfilled, pools[name], places)


def unfilled(pool: Pool, places: Iterable[Placement]) -> int:
    """Return how much more space those of the volumes that are in a pool take. Blocks."""
    return sum(_unfilled(pool, place) for place in places if place.pool == pool.name)


def _unfilled(pool: Pool, place: Placement) -> int:
    """Return how much more space a volume takes when it is filled from nothing.

    What is kept of a volume that is there counts for nothing.
    """
    if not place.zeroed:
        return 0
    try:
        info = pool.find(place.name)
    except StorageError as error:
        log.warning("%s:%s may still take all of its size: %s", pool.name, place.name, error)
        return place.size
    if info is None:
        return place.size
    return 0 if pool.reserves else max(0, info.size - (info.allocated or 0))
