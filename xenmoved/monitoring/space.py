"""Space of the pools of this host, and the copies that are kept in them.

To look costs commands, so what was seen is kept for whoever is content with it. A pool may take for
ever to answer, as on a server that is away: one look at a time waits for it, whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from protocol.messages import Problem
from storage.contracts import Pool
from storage.errors import StorageError
from xenmoved.journal.database import JournalFailed
from xenmoved.migration.host import Host
from xenmoved.migration.retained import copies
from xenmoved.migration.volume_needs import needs
from xenmoved.monitoring.report import CopyHealth, PoolHealth
from xenmoved.problems import problem, problems_of
from xenmoved.tasks import all_done
from xenmoved.toolstack.interface import ToolstackError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeptCopies:
    """All copies that are kept. `problem` is why they are not known, None where they are."""

    copies: tuple[CopyHealth, ...] = ()
    problem: Problem | None = None


class RecentLook(Generic[T]):
    """Something that is looked at only when what was seen last is too old."""

    def __init__(
        self, look: Callable[[], Coroutine[Any, Any, T]], tasks: asyncio.TaskGroup
    ) -> None:
        self._look = look
        self._tasks = tasks
        self._looking: asyncio.Task[None] | None = None
        self._last: tuple[float, T] | None = None

    async def get(self, most_age: float, patience: float) -> T | None:
        """Return what there is, or was at most `most_age` seconds ago.

        None when the look has not ended within `patience` seconds; it goes on, for the next one.
        """
        if (found := self._recent(most_age)) is not None:
            return found
        if self._looking is None:
            self._looking = self._tasks.create_task(self._renew())
        await all_done([self._looking], patience)
        return self._recent(most_age + patience)

    async def _renew(self) -> None:
        began = monotonic()
        try:
            self._last = began, await self._look()
        finally:
            self._looking = None

    def _recent(self, most_age: float) -> T | None:
        if self._last is None or monotonic() - self._last[0] > most_age:
            return None
        return self._last[1]


class StorageSpace:
    """What the pools of a host have space for, and which copies are kept in them."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self._host = host
        self._pools = {
            name: RecentLook(partial(_capacity, pool), tasks) for name, pool in host.pools.items()
        }
        self._copies = RecentLook(self._list_copies, tasks)

    async def pools(self, most_age: float, patience: float) -> tuple[PoolHealth, ...]:
        """Return the space of all pools but those in which nothing is made, such as `block`.

        See `RecentLook.get`. A pool that does not answer is one with a problem.
        """
        looks = (seen.get(most_age, patience) for seen in self._pools.values())
        found = await asyncio.gather(*looks)
        spaces: list[PoolHealth] = []
        for name, one in zip(self._pools, found, strict=True):
            if one is None:
                spaces.append(self._silent(name, patience))
            elif one.space is not None:
                spaces.append(one.space)
        return tuple(spaces)

    async def copies(self, most_age: float, patience: float) -> KeptCopies:
        """Return the copies that are kept. See `RecentLook.get`."""
        found = await self._copies.get(most_age, patience)
        return found or KeptCopies(problem=_no_answer("the volumes were not listed", patience))

    def _silent(self, name: str, patience: float) -> PoolHealth:
        told = _no_answer(f"pool {name} did not answer", patience)
        return PoolHealth(name, self._host.pools[name].kind, 0, 0, told)

    async def _list_copies(self) -> KeptCopies:
        try:
            found = await copies(self._host, await needs(self._host))
        except (ToolstackError, JournalFailed, OSError) as error:
            return KeptCopies(problem=problems_of(error)[0])
        return KeptCopies(
            tuple(
                CopyHealth(
                    row.pool,
                    row.name,
                    holding.guest,
                    holding.place,
                    row.size if row.allocated is None else row.allocated,
                    holding.kept,
                )
                for row, holding in found
            )
        )


@dataclass(frozen=True, slots=True)
class _Look:
    space: PoolHealth | None
    """None of a pool in which nothing is made."""


async def _capacity(pool: Pool) -> _Look:
    try:
        capacity = await asyncio.to_thread(pool.capacity)
    except StorageError as error:
        return _Look(PoolHealth(pool.name, pool.kind, 0, 0, problems_of(error)[0]))
    if capacity is None:
        return _Look(None)
    return _Look(PoolHealth(pool.name, pool.kind, capacity.total, capacity.free, None))


def _no_answer(what: str, patience: float) -> Problem:
    return problem("storage", f"{what} within {patience:g} s", "look at its disks, and at the log")
