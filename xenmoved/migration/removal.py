"""Removing volumes that were noted, and forgetting what was noted of them.

A file may have several names, and a name may be a link: what was noted is about what is in it, and
is forgotten only when no pool has that any more.
"""

from __future__ import annotations

import asyncio
import logging

from storage.contracts import VolumeIdentity
from storage.errors import VolumeReplaced
from xenmoved.migration.host import Host
from xenmoved.migration.whereabouts import Whereabouts

log = logging.getLogger(__name__)


async def remove_noted(host: Host, pool: str, name: str, identity: VolumeIdentity) -> None:
    """Remove a volume if it has that identity still; forget it if it is gone with that name.

    Raises StorageError, of which VolumeReplaced for another volume or what may be another one, and
    JournalFailed.
    """
    if await asyncio.to_thread(Whereabouts(host.pools).is_twice, identity):
        raise VolumeReplaced(
            f"volume {pool}:{name} stays: it cannot be told from another one of the same identity"
        )
    await asyncio.to_thread(host.pools[pool].remove, name, identity)
    look_for = Whereabouts(host.pools).look_for
    seen = await asyncio.to_thread(look_for, pool, name, identity)
    if seen.gone:
        await host.journal.forget_volume(pool, name, identity)
    elif seen.info is not None and seen.info.identity == identity:
        log.error(
            "what was in %s:%s, which was removed, is there as %s:%s still",
            *(pool, name, seen.info.pool, seen.info.name),
        )
        await host.journal.call_otherwise(identity, seen.info.pool, seen.info.name)
    else:
        log.error(
            "what was noted of %s:%s, which was removed, is kept, as it may be in a pool that "
            "cannot be looked into now",
            *(pool, name),
        )
