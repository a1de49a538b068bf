"""What is done about a transfer that stands still.

What counts is bytes and states. That somebody looks, or says that it is there, is no progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from xenmoved.problems import JobError, problem
from xenmoved.tasks import TookTooLong, alongside, at_most

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stalls:
    """For how many seconds nothing may move of what goes to a peer."""

    peer: str
    seconds: float

    async def watch(
        self,
        work: Coroutine[Any, Any, T],
        moved: Callable[[], int],
        what: Callable[[], str],
        *,
        extra: float = 0.0,
    ) -> T:
        """Await `work`; raise JobError when the number that `moved` returns stays the same.

        `what` names, when it is known, what stands still. `extra` seconds are granted in addition.
        Errors come in an ExceptionGroup.
        """
        return await alongside(work, self._watch(moved, what, self.seconds + extra))

    async def limit(self, work: Awaitable[object], what: str) -> None:
        """Await one thing; raise JobError when it takes too long, with `what` stands still."""
        try:
            async with at_most(self.seconds, what):
                await work
        except TookTooLong:
            raise self.found(what, self.seconds) from None

    async def _watch(self, moved: Callable[[], int], what: Callable[[], str], limit: float) -> None:
        last, since = moved(), monotonic()
        while True:
            await asyncio.sleep(min(limit / 4, 5.0))
            now = moved()
            if now != last:
                last, since = now, monotonic()
            elif monotonic() - since > limit:
                raise self.found(what(), limit)

    def found(self, what: str, seconds: float) -> JobError:
        """Return what is raised when something has not moved for so long."""
        text = f"{what}: nothing has moved for {seconds:g} s, and {self.peer} is connected"
        return JobError([problem("stalled", text, stalled_hint(self.peer))])


def stalled_hint(peer: str) -> str:
    """Return what to do about a transfer to a peer that stands still."""
    return (
        f"look at the log and the disks of {peer}, and at the processes and disks here; "
        "timeouts.stall sets for how long nothing may move"
    )
