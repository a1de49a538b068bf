"""Which guest fits on which peer, when several are to go. Pure.

A peer is a candidate while its memory, its pools and its quota hold what is planned for it already.
Of the candidates the one with the most memory left is tried first, so that guests spread evenly;
larger guests are planned before smaller ones, as they have less choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.messages import Placement, Pong, VolumeOffer
from xenmoved.config.units import format_size


@dataclass(slots=True)
class Space:
    """What is left of a peer, in bytes; None is no limit."""

    peer: str
    memory: int
    pools: dict[str, int | None] = field(default_factory=dict)
    quota: int | None = None

    @classmethod
    def of(cls, peer: str, pong: Pong) -> Space:
        """Return what a peer says that it has."""
        quota = None if pong.quota is None else max(0, pong.quota - pong.quota_used)
        return cls(peer, pong.free_memory, {room.pool: room.free for room in pong.room}, quota)

    def lack(self, need: Need) -> str | None:
        """Say what there is not enough of beside all that was taken, None if a guest fits."""
        if need.memory > self.memory:
            return _short(self.peer, "memory", self.memory, need.memory)
        for pool, count in need.pools.items():
            free = self.pools.get(pool)
            if free is not None and count > free:
                return _short(self.peer, f"space in pool {pool}", free, count)
        if self.quota is not None and need.pools.total() > self.quota:
            return _short(self.peer, "quota", self.quota, need.pools.total())
        return None

    def take(self, need: Need) -> None:
        """Set aside what a guest needs."""
        self.memory -= need.memory
        for pool, count in need.pools.items():
            if (free := self.pools.get(pool)) is not None:
                self.pools[pool] = free - count
        if self.quota is not None:
            self.quota -= need.pools.total()


@dataclass(frozen=True, slots=True)
class Need:
    """What a guest needs of a peer, in bytes: memory, and new volumes in pools."""

    memory: int
    pools: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, memory: int, volumes: Iterable[VolumeOffer], placements: Iterable[Placement]
    ) -> Need:
        """Return what a guest needs whose volumes go to these places."""
        pools: Counter[str] = Counter()
        for volume, placement in zip(volumes, placements, strict=True):
            if placement.fresh:
                pools[placement.pool] += volume.size
        return cls(memory, pools)


def by_room(spaces: Iterable[Space]) -> list[Space]:
    """Return peers in the order in which they are to be tried."""
    return sorted(spaces, key=lambda space: -space.memory)


def _short(peer: str, what: str, free: int, needed: int) -> str:
    return (
        f"{peer} has {format_size(max(0, free))} of {what} left beside the guests that go there "
        f"before, {format_size(needed)} are needed"
    )
