"""How much of this host's space is left to a peer: of pools, and of its quota."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from storage.contracts import Capacity
from xenmoved.journal.records import MadeVolume
from xenmoved.migration.host import Host
from xenmoved.migration.promises import of_quota
from xenmoved.migration.whereabouts import Whereabouts


async def quota_used(host: Host, peer: str) -> int:
    """Bytes that volumes made for a peer may take: those that may be here, and those promised.

    An image grows in use, to the size of the disk in it; see `of_quota`. What was made counts
    whatever it is called, and until it is certain that it is gone.
    """
    promised = host.promises.made_for(peer)
    made = await host.journal.made(peer=peer)
    for one in made:
        promised.pop((one.migration, one.pool, one.name), None)
    return sum(promised.values()) + await asyncio.to_thread(_size, host, made)


def _size(host: Host, made: Sequence[MadeVolume]) -> int:
    """Return what volumes that were made may take together. Blocks."""
    whereabouts, size = Whereabouts(host.pools), 0
    for one in made:
        seen = whereabouts.look_for(one.pool, one.name, one.identity)
        if not seen.gone:
            size += of_quota(seen.info.size if seen.info is not None else one.size, one.disk_size)
    return size


async def free_space(host: Host, name: str, capacity: Capacity) -> int | None:
    """Bytes that new volumes may take of a pool of this capacity, beside what is promised already.

    None where there is no limit, as volumes may be larger than what is free.
    """
    if capacity.overcommit:
        return None
    return max(0, capacity.free - await host.promises.space(host.pools, name))
