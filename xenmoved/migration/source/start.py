"""Begins migrations: whoever asks for one, it is looked at and begun in the same way."""

from __future__ import annotations

import asyncio
import logging

from protocol.messages import Mode
from xenmoved.jobs.job import Job
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobKind
from xenmoved.jobs.steering import Steering
from xenmoved.migration.host import Host
from xenmoved.migration.source.migration import OutboundMigration
from xenmoved.migration.source.preflight import Move, Preflight, preflight
from xenmoved.migration.source.warnings import lasting, warnings
from xenmoved.problems import Obstructed, problem

log = logging.getLogger(__name__)


class Starter:
    """Begins migrations, which then run in `tasks`."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self._host = host
        self._tasks = tasks
        self._starting = asyncio.Lock()

    async def migrate(self, move: Move, options: TransferOptions) -> Job:
        """Begin a migration. Raises Obstructed with every problem, or what else went wrong."""
        await self._host.journal.require()
        if move.mode is Mode.COLD and (options.hold or options.max_downtime):
            text = f"{move.guest} does not run: there is nothing to hold, and no downtime to limit"
            raise Obstructed([problem("usage", text, "leave out --hold and --max-downtime")])
        if move.mode is Mode.RESTART and options.max_downtime:
            text = f"nobody knows how long {move.guest} takes to shut down and to start"
            hint = "leave out --max-downtime; --shutdown-timeout limits how long it may shut down"
            raise Obstructed([problem("usage", text, hint)])
        if move.mode is not Mode.RESTART and options.shutdown_timeout and not options.several:
            text = f"{move.guest} is not shut down in mode {move.mode}"
            hint = "leave out --shutdown-timeout, or move it with --mode restart"
            raise Obstructed([problem("usage", text, hint)])
        async with self._starting:
            found = await preflight(self._host, move, options)
            if found.problems or found.sending is None:
                raise Obstructed(found.problems)
            for warning in warnings(found):
                log.warning("%s; %s", warning.text, warning.hint)
            job = self._job(found, options)
            job.memory_total = 0 if found.sending.offer.by_file else found.sending.memory
            migration = OutboundMigration(self._host, job, found.sending, options)
            await self._host.jobs.begin(job, self._tasks, migration.run)
        return job

    def _job(self, found: Preflight, options: TransferOptions) -> Job:
        move, wish = found.move, options.rename or ""
        return Job(
            JobKind.MIGRATE,
            move.guest,
            move.peer,
            move.mode,
            other_name=wish if wish != move.guest else "",
            steering=Steering.of(options, self._host.config.transfer),
            keep_partial=options.keep_partial,
            remarks=lasting(found),
        )
