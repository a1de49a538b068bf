"""Drops copies that were kept for long enough, whatever the clock of this host says.

A clock may be years off after a boot, and be set at any time. So the age of a copy is the time for
which a daemon has seen that it is kept: it grows by a little with every look, by a clock that only
goes forward, and is in the journal. What passes while no daemon runs does not count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from storage.errors import StorageError
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Form, Holding
from xenmoved.migration.host import Host
from xenmoved.migration.retained import copies, drop, obstacles
from xenmoved.migration.volume_needs import needs
from xenmoved.problems import Obstructed, problems_of
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.units import format_duration

log = logging.getLogger(__name__)

_SELDOM: Final = 600.0
_OFTEN: Final = 1.0
_LOOKS: Final = 20
"""Looks until a copy is old enough; half of them if they come late."""
_STEP: Final = 60.0
"""Seconds by which a clock is set, rather than kept right."""


class RetentionClock:
    """Tells how much time has passed for copies, between one look and the next."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        passed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """Begin. `now` is the clock of this host, `passed` one that nobody sets."""
        self._now = now
        self._passed = passed
        self._last = now(), passed()

    def look(self, most: float) -> float:
        """Return the seconds since the last look, `most` at most; say so when the clock was set."""
        before, then = self._last
        self._last = now, passed = self._now(), self._passed()
        step = (now - before) - (passed - then)
        if abs(step) > _STEP:
            log.warning(
                "the clock of this host was set %s by %s: the age of copies goes on as it was",
                *("forward" if step > 0 else "back", format_duration(abs(step))),
            )
        return min(passed - then, most)


async def expire_copies(host: Host) -> None:
    """Drop copies as they come of the age that is configured, for ever."""
    told: set[str] = set()
    watch = RetentionClock()
    while True:
        pause = _pause(host.config.retain.age)
        await asyncio.sleep(pause)
        try:
            # No more than that, so that a host that slept for weeks has time to be looked at.
            await host.journal.count_kept(watch.look(2 * pause))
            if (age := host.config.retain.age) is not None:  # as it is configured by now
                await _expire(host, age, told)
        except (ToolstackError, OSError, JournalFailed) as error:
            log.warning("copies of guests that went away are not dropped now: %s", error)


def _pause(age: float | None) -> float:
    return _SELDOM if age is None else min(_SELDOM, max(_OFTEN, age / _LOOKS))


def _is_elsewhere(copy: Holding) -> bool:
    """Whether all that is in a copy went: not the snapshots in an image whose content went."""
    return copy.form is not Form.CONTENT


async def _expire(host: Host, age: float, told: set[str]) -> None:
    due = False
    for copy in filter(_is_elsewhere, await host.journal.retained()):
        shown = f"{copy.pool}:{copy.name}, the copy of {copy.guest},"
        by_clock = time.time() - (copy.since or 0)
        if copy.kept >= age:
            due = True
        elif by_clock >= age + _STEP and shown not in told:
            told.add(shown)
            log.warning(
                "%s is old enough by the clock of this host, and %s were counted: it stays until "
                "that is enough, too",
                *(shown, format_duration(copy.kept)),
            )
    if not due:
        return
    found = await needs(host)
    for row, copy in await copies(host, found):
        if copy.kept < age or not _is_elsewhere(copy):
            continue
        texts: set[str] = set()
        try:
            texts = {one.text for one in await obstacles(host, row, found)}
            if not texts:
                await drop(host, row, copy)
        except (Obstructed, StorageError) as error:
            texts = {one.text for one in problems_of(error)}
        for text in texts - told:
            log.warning("a copy that is old enough to be dropped stays: %s", text)
        told |= texts
