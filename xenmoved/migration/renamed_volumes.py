"""Volumes that are called otherwise than when it was noted whose data they hold.

What the journal has of a volume is about that one, whatever it is called (`whereabouts`). So that
an operator reads the name that it has now, it is noted when the daemon begins.
"""

from __future__ import annotations

import asyncio
import logging

from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Holding
from xenmoved.migration.host import Host
from xenmoved.migration.whereabouts import Whereabouts

log = logging.getLogger(__name__)


async def follow_volumes(host: Host) -> None:
    """Have the journal call all volumes as they are called now.

    To be called when the daemon begins. Raises nothing: what cannot be found out is told in the
    log, and noted as it was.
    """
    try:
        for one, (pool, name) in await asyncio.to_thread(
            _renamed, host, await host.journal.holdings()
        ):
            log.warning("what was %s:%s is %s:%s now", one.pool, one.name, pool, name)
            await host.journal.call_otherwise(one.identity, pool, name)
    except JournalFailed as error:
        log.error("volumes that were renamed are not looked for: %s", error)


def _renamed(host: Host, noted: list[Holding]) -> list[tuple[Holding, tuple[str, str]]]:
    """Return volumes that are here, and not as they were called, with what they are called."""
    whereabouts, found = Whereabouts(host.pools), []
    for one in noted:
        if not one.identity or whereabouts.is_at(one.pool, one.name, one.identity):
            continue
        info = whereabouts.look_for(one.pool, one.name, one.identity).info
        if info is not None and info.identity == one.identity:
            found.append((one, (info.pool, info.name)))
    return found
