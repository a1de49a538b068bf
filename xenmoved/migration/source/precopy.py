"""Bringing the disks at the target so close that the guest can be suspended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from protocol.messages import Problem
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import Phase
from xenmoved.migration.source.rounds import DISK_GOAL, FIXED_COST, Outlook, another_round
from xenmoved.migration.source.volumes import Disks
from xenmoved.problems import JobError, problem
from xenmoved.tasks import within

log = logging.getLogger(__name__)

_HOLD_PAUSE: Final = 1.0
_CLOSE_PAUSE: Final = 0.1


class Convergence:
    """The pre-copy of one job. `memory` is the bytes that are sent while the guest is suspended."""

    def __init__(self, disks: Disks, job: Job, *, memory: int) -> None:
        self._disks = disks
        self._job = job
        self._memory = memory

    async def converge(self, max_rounds: int) -> None:
        """Run rounds until the guest can be suspended, or until further ones do not help."""
        await self._disks.first_round()
        outlooks = [await self._look()]
        while another_round(outlooks, self._goal(), max_rounds):
            await self._disks.round()
            outlooks.append(await self._look())

    async def hold(self) -> None:
        """Stay close for as long as the operator wants the guest to be held here."""
        while self._job.steering.hold:
            self._job.enter(Phase.HOLD)
            outlook = await self._look()
            if outlook.seconds - outlook.floor > self._goal():
                await self._disks.round()
            await self._job.steering.wait(_HOLD_PAUSE)

    async def approach(self, max_rounds: int) -> None:
        """Bring the disks so close that the guest can go, and hold it for as long as is wanted.

        One that was held, and would stand still for longer than the operator allows, is held
        again: what was copied is not given up. Raises JobError for one that was not.
        """
        steering = self._job.steering
        await self.converge(max_rounds)
        await self.hold()
        while (found := await self._too_long()) is not None:
            if not steering.was_held:
                raise JobError([found])
            hint = (
                f"it is held on, and nothing is lost: allow more (xenmovectl set {self._job.job} "
                "--max-downtime), or try again when it writes less"
            )
            steering.hold_again(replace(found, hint=hint))
            log.warning("%s; %s", found.text, hint)
            await self.hold()

    async def _too_long(self) -> Problem | None:
        """Say that the guest would stand still for longer than the operator allows, if it would."""
        limit = self._job.steering.max_downtime
        if limit is None:
            return None
        expected = (await self._look()).seconds + self._other()
        if expected <= limit:
            return None
        text = (
            f"{self._job.guest} would stand still for about {expected:.1f} s, and --max-downtime "
            f"allows {limit:g} s"
        )
        hint = "allow more, or try again when it writes less, with --hold to keep what is copied"
        return problem("downtime", text, hint)

    async def stay_close(self, quiet: asyncio.Event) -> None:
        """Keep sending what is written until nothing is any more."""
        while not quiet.is_set():
            await self._look()
            await self._disks.tracked_round()
            await within(quiet, _CLOSE_PAUSE)

    async def _look(self) -> Outlook:
        found = await self._disks.look()
        self._job.left = found.left
        log.debug("%d bytes left: %.3f s", found.left, found.seconds)
        return found

    def _goal(self) -> float:
        """Seconds that the last round may take."""
        limit = self._job.steering.max_downtime
        return DISK_GOAL if limit is None else max(DISK_GOAL, limit - self._other())

    def _other(self) -> float:
        """Seconds of the blackout that are not the disks'."""
        return FIXED_COST + self._memory / self._disks.rate
