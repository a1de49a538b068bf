"""What metrics need and no moment can tell: the journal, pools and volumes, looked at now and then.

A scrape waits for none of these: it is given what was seen last, and when that was.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Standing
from xenmoved.migration.doubts import in_doubt
from xenmoved.migration.host import Host
from xenmoved.monitoring.report import PoolHealth
from xenmoved.monitoring.space import KeptCopies, StorageSpace

DOUBTS_EVERY: Final = 5.0
POOLS_EVERY: Final = 60.0
"""Seconds between looks at the space of pools, which take a command for each."""
COPIES_EVERY: Final = 600.0
"""Seconds between looks at all volumes, which take some commands more."""
_PATIENCE: Final = 30.0


class Looks:
    """What was seen last. Each `..._at` is when, in seconds since 1970, 0 before the first look."""

    def __init__(self, host: Host, space: StorageSpace) -> None:
        self._host = host
        self._space = space
        self.doubts: tuple[Standing, ...] = ()
        self.doubts_at = 0.0
        self.pools: tuple[PoolHealth, ...] = ()
        self.pools_at = 0.0
        self.copies = KeptCopies()
        self.copies_at = 0.0

    async def at_doubts(self) -> None:
        """Look what is in doubt, for ever. What cannot be read stays as it was, with its time."""
        while True:
            try:
                self.doubts = tuple(await in_doubt(self._host))
                self.doubts_at = time.time()
            except JournalFailed:  # it is an alarm
                pass
            await asyncio.sleep(DOUBTS_EVERY)

    async def at_pools(self) -> None:
        """Look how much space there is, for ever. A pool that cannot tell has a problem."""
        while True:
            self.pools = await self._space.pools(POOLS_EVERY / 2, _PATIENCE)
            self.pools_at = time.time()
            await asyncio.sleep(POOLS_EVERY)

    async def at_copies(self) -> None:
        """Look which copies are kept, for ever. What cannot be seen stays as it was."""
        while True:
            found = await self._space.copies(COPIES_EVERY / 2, _PATIENCE)
            if found.problem is None:
                self.copies, self.copies_at = found, time.time()
            await asyncio.sleep(COPIES_EVERY)
