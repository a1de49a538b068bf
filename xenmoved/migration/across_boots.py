"""How a copy on a device stays known when its host is booted, as what is counted begins anew.

A daemon that ends notes of the copies to which nothing was written that they are at rest. One that
starts takes those up whose count stands where it was, or, for a device that came up since, at
nothing. What was written to a device while no daemon ran, and before a boot, is not seen so. That
is the operator's doing alone, so it holds for guests that left this host, of which nobody uses the
copy, and for nothing that a peer may bring about by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from storage.contracts import LastWrite
from storage.descriptor import make_durable
from storage.errors import StorageError
from storage.last_write import NOTHING, last_write
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.whereabouts import Whereabouts

log = logging.getLogger(__name__)

_AT_REST: Final = "at rest: "
"""Begins the course of a count that stood still when the daemon ended."""


async def put_copies_to_rest(host: Host) -> None:
    """Note which copies nothing was written to, at the end of a daemon. Never raises."""
    try:
        whereabouts = Whereabouts(host.pools)
        async for copy, noted in _copies(host):
            found = await _found(whereabouts, copy, flush=True)
            if noted.is_before(found) is False:
                resting = LastWrite(_AT_REST + noted.course, noted.moment)
                await host.journal.record_holding(replace(copy, written=resting))
    except JournalFailed as error:
        log.warning("copies on devices are not known after the next boot: %s", error)


async def take_up_copies(host: Host) -> None:
    """Go on with the counts of copies at rest, before anybody may ask for them. Never raises."""
    try:
        whereabouts = Whereabouts(host.pools)
        async for copy, noted in _copies(host):
            if noted.course.startswith(_AT_REST):
                left = LastWrite(noted.course.removeprefix(_AT_REST), noted.moment)
                taken = _taken_up(left, await _found(whereabouts, copy))
                await host.journal.record_holding(replace(copy, written=taken))
    except JournalFailed as error:
        log.warning("copies on devices are not known: %s", error)


def _taken_up(left: LastWrite, found: LastWrite | None) -> LastWrite | None:
    """Return from where a count goes on, None where something may have been written."""
    if found is not None and found.course == left.course:
        return left
    return found if found is not None and found.moment == NOTHING else None


async def _copies(host: Host) -> AsyncIterator[tuple[Holding, LastWrite]]:
    """Give what was noted of the copies on devices of guests that left this host."""
    for one in await host.journal.retained():
        went = bool(one.guest) and one.moved_by == one.migration
        if went and one.written is not None and one.written.course:
            yield one, one.written


async def _found(
    whereabouts: Whereabouts, copy: Holding, *, flush: bool = False
) -> LastWrite | None:
    def look() -> LastWrite | None:
        if (path := whereabouts.path(copy.identity)) is None:
            return None
        if flush:
            make_durable(path)
        return last_write(path)

    try:
        return await asyncio.to_thread(look)
    except StorageError as error:
        log.warning("%s:%s cannot be looked at: %s", copy.pool, copy.name, error)
        return None
