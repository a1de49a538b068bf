"""Begins migrations: whoever asks for one, it is looked at and begun in the same way."""

from __future__ import annotations

import asyncio
import logging

from protocol.messages import Mode
from xenmoved.control.api import PlanMigration, StartMigration
from xenmoved.control.reports import JobKind
from xenmoved.jobs import Job
from xenmoved.migration.host import Host
from xenmoved.migration.offers import choose_mode
from xenmoved.migration.outbound import OutboundMigration, preflight
from xenmoved.migration.warning import lasting, warnings
from xenmoved.problems import Refused, problem
from xenmoved.steering import Steering

log = logging.getLogger(__name__)


class Starter:
    """Begins migrations, which then run in `tasks`."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self._host = host
        self._tasks = tasks
        self._starting = asyncio.Lock()

    async def new_job(self, request: PlanMigration | StartMigration) -> Job:
        """Return the job that a migration would be."""
        mode = request.mode or await choose_mode(self._host, request.guest)
        steering = Steering.of(request.options, self._host.config.transfer)
        wish = request.options.rename or ""
        return Job(
            JobKind.MIGRATE,
            request.guest,
            request.peer,
            mode,
            other_name=wish if wish != request.guest else "",
            steering=steering,
            keep_partial=request.options.keep_partial,
        )

    async def migrate(self, request: StartMigration) -> Job:
        """Begin a migration. Raises Refused with every problem, or what else went wrong."""
        await self._host.journal.require()
        job = await self.new_job(request)
        if job.mode is Mode.COLD and (request.options.hold or request.options.max_downtime):
            text = f"{job.guest} does not run: there is nothing to hold, and no downtime to limit"
            raise Refused([problem("usage", text, "leave out --hold and --max-downtime")])
        async with self._starting:
            found = await preflight(self._host, request.guest, request.peer, job, request.options)
            if found.problems or found.sending is None:
                raise Refused(found.problems)
            for warning in warnings(found, job):
                log.warning("%s; %s", warning.text, warning.hint)
            job.remarks = lasting(found, job.peer)
            job.memory_total = found.sending.memory
            await self._host.jobs.add(job)
        migration = OutboundMigration(self._host, job, found.sending, request.options)
        job.task = self._tasks.create_task(migration.run())
        return job
