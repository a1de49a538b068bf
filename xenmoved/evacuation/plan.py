"""Which guest fits on which peer, when several are to go. Pure.

A peer is a candidate while its memory, its pools and its quota hold what is planned for it already,
and none of the guest's volumes would have the name of one that is planned for it.
Of the candidates the one with the most memory left is tried first, so that guests spread evenly;
larger guests are planned before smaller ones, as they have less choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.messages import Placement, Pong, Problem
from xenmoved.migration.promises import of_quota
from xenmoved.problems import problem
from xenmoved.units import format_size


@dataclass(slots=True)
class Space:
    """What is left of a peer, in bytes; None is no limit.

    `volumes` has the volumes, as pool and name, that guests will have there, by these guests.
    """

    peer: str
    memory: int
    pools: dict[str, int | None] = field(default_factory=dict)
    quota: int | None = None
    volumes: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, peer: str, pong: Pong) -> Space:
        """Return what a peer says that it has."""
        quota = None if pong.quota is None else max(0, pong.quota - pong.quota_used)
        return cls(peer, pong.free_memory, {room.pool: room.free for room in pong.room}, quota)

    def lack(self, need: Need) -> Problem | None:
        """Say why a guest does not fit beside all that was taken, None if it does."""
        for pool, name in need.volumes:
            if (other := self.volumes.get((pool, name))) is not None:
                text = f"{self.peer} would have two volumes {pool}:{name}: {other} has one before"
                hint = "name another peer too, or move it by itself: --volume OLD=NEW"
                return problem("volume-name", text, hint)
        if need.memory > self.memory:
            return self._short("memory", self.memory, need.memory)
        for pool, count in need.pools.items():
            free = self.pools.get(pool)
            if free is not None and count > free:
                return self._short(f"space in pool {pool}", free, count)
        if self.quota is not None and need.quota > self.quota:
            return self._short("quota", self.quota, need.quota)
        return None

    def take(self, need: Need, guest: str) -> None:
        """Set aside what a guest needs."""
        self.memory -= need.memory
        for pool, count in need.pools.items():
            if (free := self.pools.get(pool)) is not None:
                self.pools[pool] = free - count
        if self.quota is not None:
            self.quota -= need.quota
        self.volumes |= dict.fromkeys(need.volumes, guest)

    def _short(self, what: str, free: int, needed: int) -> Problem:
        text = (
            f"{self.peer} has {format_size(max(0, free))} of {what} left beside the guests that go "
            f"there before, {format_size(needed)} are needed"
        )
        hint = "free something there, name another peer too, or move it later"
        return problem("no-room", text, hint)


@dataclass(frozen=True, slots=True)
class Need:
    """What a guest needs of a peer: bytes of memory, of new volumes in pools, and of its quota."""

    memory: int
    pools: Counter[str] = field(default_factory=Counter)
    volumes: tuple[tuple[str, str], ...] = ()
    quota: int = 0

    @classmethod
    def of(cls, memory: int, placements: Iterable[Placement]) -> Need:
        """Return what a guest needs whose volumes go to these places."""
        places = tuple(placements)
        pools: Counter[str] = Counter()
        quota = 0
        for place in places:
            if place.fresh:
                pools[place.pool] += place.size
                quota += of_quota(place.size)
        return cls(memory, pools, tuple((place.pool, place.name) for place in places), quota)


def by_room(spaces: Iterable[Space]) -> list[Space]:
    """Return peers in the order in which they are to be tried."""
    return sorted(spaces, key=lambda space: -space.memory)
