"""What every outgoing job shares: its choices, and the company of its dialogue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from protocol.errors import Code, ProtocolError
from protocol.messages import Accepted, Begin, Mode, Placement, Refused
from storage.contracts import History
from xenmoved.choices import Compression
from xenmoved.codes import LINK_LOST
from xenmoved.jobs.job import Job
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.host import Host
from xenmoved.migration.source.content import require_understood
from xenmoved.migration.source.dialogue import Dialogue
from xenmoved.migration.source.offer import Sending
from xenmoved.migration.source.stalls import Stalls
from xenmoved.migration.source.volumes import Attaching, Disks, attached_disks
from xenmoved.problems import (
    AbortRequested,
    Obstructed,
    from_peer,
    problem,
    problems_of,
)
from xenmoved.sync.source import SyncTools
from xenmoved.tasks import alongside


class Transfer:
    """The choices of one outgoing job: what it was asked for, or what is configured."""

    def __init__(self, host: Host, job: Job, sending: Sending, options: TransferOptions) -> None:
        configured = host.config.transfer
        self._host = host
        self._job = job
        self._sending = sending
        self._compression = options.compression or configured.compression
        self._keep_partial = options.keep_partial
        verify = configured.verify if options.verify is None else options.verify
        self.verify = verify or options.remove_source
        self.limiter = job.steering.limiter
        self.stalls = Stalls(job.peer, host.config.timeouts.stall)

    @asynccontextmanager
    async def disks(self, dialogue: Dialogue, migration: str) -> AsyncIterator[Disks]:
        """Have the target take the offer, and attach every volume. Raises Obstructed."""
        require_understood(self._sending.offer, dialogue.version, self._job.peer)
        begin = Begin(migration, self._sending.offer, self._keep_partial)
        answer = await dialogue.ask(begin, Accepted, Refused)
        if isinstance(answer, Refused):
            raise Obstructed(from_peer(answer.problems))
        placements: tuple[Placement, ...] = answer.volumes
        if len(placements) != len(self._sending.paths):
            raise ProtocolError(Code.OUT_OF_RANGE, "the target placed other volumes than offered")
        compression = self._compression if "zstd" in dialogue.capabilities else Compression.OFF
        attaching = Attaching(
            dialogue.link,
            dialogue.messages,
            migration,
            partial(self._host.open_source, exclusive=self._job.mode is Mode.COLD),
            SyncTools(self._host.outgoing_buffers, self.limiter, self._host.spool),
            compression,
            self._host.config.transfer.readers,
            keep_made=self._keep_partial or self._sending.offer.guest is None,
            alone=self._job.mode is Mode.COLD,
        )
        async with attached_disks(
            attaching,
            self._sending,
            placements,
            await self._histories(dialogue),
            progress=self._job.volumes,
            stalls=self.stalls,
        ) as disks:
            yield disks

    async def _histories(self, dialogue: Dialogue) -> list[History | None]:
        """Return what volumes can be made streams of, where the target knows streams."""
        if "zfs-stream" not in dialogue.capabilities:
            return [None for _ in self._sending.paths]
        found: list[History | None] = []
        for number, path in enumerate(self._sending.paths):
            place = await asyncio.to_thread(self._host.pool_of, path)
            whole = place is not None and self._sending.reader(number) is None
            found.append(place[0].history(place[1]) if place is not None and whole else None)
        return found

    async def attend(
        self,
        dialogue: Dialogue,
        work: Coroutine[Any, Any, None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Await the work; end it when the operator or the target says so.

        `failed` is told why, before the work is cancelled for it.
        """
        job = self._job
        dialogue.on_working = job.note
        try:
            watchers = (_obey_abort(job), _heed(dialogue))
            await alongside(work, *(_telling(one, failed) for one in watchers))
        except Exception as error:
            # A volume channel may have told of the end before the reason for it came.
            if is_link_loss(error):
                raise await dialogue.explanation() or error from error
            raise


def is_link_loss(error: BaseException) -> bool:
    """Whether nothing else went wrong than that the connection ended."""
    return all(item.code == LINK_LOST for item in problems_of(error))


async def _telling(watcher: Coroutine[Any, Any, None], failed: Callable[[Exception], None]) -> None:
    try:
        await watcher
    except Exception as error:
        failed(error)
        raise


async def _obey_abort(job: Job) -> None:
    await job.abort_requested.wait()
    raise AbortRequested([problem("aborted", job.abort_reason)])


async def _heed(dialogue: Dialogue) -> None:
    """Raise what the target says when it fails."""
    await dialogue.failed.wait()
    dialogue.check()
