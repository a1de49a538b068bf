"""The rate limit of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

_BURST_SECONDS = 0.1


class RateLimiter:
    """Keeps the bytes of all channels of a job under a rate.

    `rate` is in bytes a second, None for no limit, and may be changed at any time. A caller that
    takes more than there is waits until its bytes have been earned, so that the average holds from
    the first second and no more than a tenth of a second's worth goes out at once.
    """

    def __init__(self, rate: int | None, clock: Callable[[], float] = monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._due = clock()

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may be sent."""
        if self.rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now - _BURST_SECONDS) + count / self.rate
        if self._due > now:
            await asyncio.sleep(self._due - now)
