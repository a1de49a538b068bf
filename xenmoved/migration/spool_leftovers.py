"""What is left in the spool of migrations that are settled.

A folder there is removed before its migration is called settled. A daemon that is killed, or a file
system that loses its last changes when it fails, can bring one back for which nobody would ask any
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from xenmoved.migration.host import Host
from xenmoved.sync.index import INDEX_PREFIX

log = logging.getLogger(__name__)


async def clear_settled(host: Host) -> None:
    """Remove them. To be called before anything begins. Raises JournalFailed.

    What the journal does not know, or does not call settled, may be a guest's only copy: it stays.
    """
    coming = {entry.migration for entry in await host.journal.unsettled_inbound()}
    leaving = {entry.migration for entry in await host.journal.unsettled_outbound()}
    for name in await asyncio.to_thread(_names, host):
        if name.startswith(INDEX_PREFIX):
            with contextlib.suppress(OSError):
                (host.spool / name).unlink()
        elif not await host.journal.knows(name):
            log.warning(
                "%s is of no migration in the journal; remove it if nobody needs it",
                host.spool / name,
            )
        elif name not in coming | leaving:
            await asyncio.to_thread(host.clear_spool, name)
            log.info("removed %s, left of a migration that is settled", host.spool / name)


def _names(host: Host) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(entry.name for entry in host.spool.iterdir())
    return []
