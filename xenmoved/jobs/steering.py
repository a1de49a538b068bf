"""What an operator may change while a job runs."""

from __future__ import annotations

import asyncio
from typing import Self

from protocol.messages import Problem
from xenmoved.config.model import TransferDefaults
from xenmoved.jobs.options import TransferOptions
from xenmoved.sync.limiter import RateLimiter
from xenmoved.tasks import within


class Steering:
    """The wishes for one outgoing job: `max_downtime` in seconds, None for any.

    With `hold` the guest stays here, its disks kept close, until that is taken back.
    """

    def __init__(
        self,
        *,
        rate_limit: int | None = None,
        max_downtime: float | None = None,
        hold: bool = False,
    ) -> None:
        self.limiter = RateLimiter(rate_limit)
        self.max_downtime = max_downtime
        self.remark: Problem | None = None
        """Why the guest is held although it was to go."""
        self._hold = self.was_held = hold
        self._changed = asyncio.Event()

    @classmethod
    def of(cls, options: TransferOptions, configured: TransferDefaults) -> Self:
        """Return what was asked for; where nothing was, what is configured."""
        rate = configured.rate_limit if options.rate_limit is None else options.rate_limit or None
        downtime = options.max_downtime or None
        return cls(rate_limit=rate, max_downtime=downtime, hold=options.hold)

    def change(
        self, *, rate_limit: int | None, max_downtime: float | None, hold: bool | None
    ) -> None:
        """Take new wishes, from now on. None leaves things as they are, 0 is no limit."""
        if rate_limit is not None:
            self.limiter.rate = rate_limit or None
        if max_downtime is not None:
            self.max_downtime = max_downtime or None
        if hold is not None:
            self._hold, self.remark = hold, None
            self.was_held = self.was_held or hold
            self._changed.set()

    def hold_again(self, why: Problem) -> None:
        """Hold the guest here anew: it cannot go as it was wished."""
        self._hold, self.remark = True, why

    @property
    def hold(self) -> bool:
        """Whether the guest is to be held here."""
        return self._hold

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until it is said anew whether to hold."""
        self._changed.clear()
        await within(self._changed, seconds)
