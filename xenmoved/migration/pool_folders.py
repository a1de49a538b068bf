"""Which folders the pools of this host are.

Where the file system that belongs to a folder is not mounted, the folder is there all the same, and
empty: volumes in it are away, not gone. So it is noted which folder a pool is, and one that is
another now, and empty, can be asked for nothing.
"""

from __future__ import annotations

import asyncio
import logging

from storage.contracts import Pool
from storage.errors import StorageError
from xenmoved.journal.database import JournalFailed
from xenmoved.migration.host import Host

log = logging.getLogger(__name__)


async def expect_folders(host: Host) -> None:
    """Have each pool expect the folder that it was when it was last seen with something in it.

    To be called when the daemon begins. Raises nothing: what cannot be found out is told in the
    log.
    """
    for pool in host.pools.values():
        try:
            await _expect(host, pool)
        except (StorageError, JournalFailed) as error:
            log.error("which folder pool %s is cannot be told: %s", pool.name, error)


async def _expect(host: Host, pool: Pool) -> None:
    if (folder := await asyncio.to_thread(pool.folder)) is None:
        return
    if not folder.bare:
        await host.journal.record_folder(pool.name, folder)
        pool.expect(folder.identity)
    elif (noted := await host.journal.folder_at(folder.path)) is not None:
        if noted != folder.identity:
            log.error("%s, pool %s, is another folder than it was", folder.path, pool.name)
        pool.expect(noted)
