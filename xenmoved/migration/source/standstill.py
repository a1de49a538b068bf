"""For how long a guest may stand still before the commit, whatever its target says or takes.

A target can be slow in many ways, each of which looks like progress: a byte now and then, a step
that it says it has done. So there is one limit for all of it together, from the suspension on.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from xenmoved.jobs.job import Job
from xenmoved.migration.source.dialogue import PATIENCE
from xenmoved.migration.source.volumes import Disks
from xenmoved.problems import JobError, problem

_LOOK_EVERY: Final = 0.05
_LEAST_READING: Final = 8 * 2**20
"""Bytes of volumes a second, where they are read in full on either host."""


class Standstill:
    """The limit for one guest: what an operator allows, or what its size explains.

    `tolerance` is how many times the operator's --max-downtime it may be. With `verify` volumes are
    compared in full meanwhile. `shutdown` is how many seconds it may take to shut down.
    """

    def __init__(
        self,
        job: Job,
        disks: Disks,
        *,
        stall: float,
        tolerance: int,
        verify: bool,
        shutdown: float = 0.0,
    ) -> None:
        self._job = job
        self._disks = disks
        self._stall = stall
        self._tolerance = tolerance
        self._verify = verify
        self._shutdown = shutdown

    @property
    def _explained(self) -> float:
        """Seconds that a slow target takes for what is to be sent and read, and to build it."""
        sent = (self._job.memory_total + self._disks.outlook.left) / self._disks.least_rate
        whole = self._verify or self._disks.outlook.floor
        read = self._disks.size / _LEAST_READING if whole else 0.0
        return max(PATIENCE, self._stall) + self._shutdown + sent + read

    async def watch(self) -> None:
        """Raise JobError when the guest has stood still for too long."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._job.suspended_at is not None:
                self._check(monotonic() - self._job.suspended_at)

    def _check(self, stood: float) -> None:
        job, allowed = self._job, self._job.steering.max_downtime
        told = f"{job.guest} stood still for {stood:.1f} s, in phase {job.phase} at last"
        see = f"see what took so long: xenmovectl show {job.job}"
        if allowed is None:
            if stood > (limit := self._explained):
                text = f"{told}: what is left of it to move explains no more than {limit:.0f} s"
                hint = f"{see}, and the log of {job.peer}; --max-downtime sets another limit"
                raise JobError([problem("stalled", text, hint)])
        elif stood > self._tolerance * allowed:
            text = (
                f"{told}, where --max-downtime allows {allowed:g} s and "
                f"transfer.downtime_tolerance {self._tolerance} times that"
            )
            raise JobError([problem("downtime", text, f"{see}; or allow more")])
