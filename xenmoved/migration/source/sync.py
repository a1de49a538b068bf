"""A volume that is sent without a guest."""

from __future__ import annotations

import asyncio
import logging
import secrets

from protocol.messages import Findings, Finish, Finished, Mode
from xenmoved.jobs.job import Job
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobKind, JobState, Phase
from xenmoved.jobs.steering import Steering
from xenmoved.logs import log_context
from xenmoved.migration.host import Host
from xenmoved.migration.source.dialogue import Dialogue, open_dialogue
from xenmoved.migration.source.offer import Sending, make_sync_offer
from xenmoved.migration.source.transfer import Transfer
from xenmoved.problems import Obstructed, from_peer, is_expected, problems_of

log = logging.getLogger(__name__)


async def begin_sync(
    host: Host,
    tasks: asyncio.TaskGroup,
    volume: str,
    peer: str,
    *,
    target: str | None,
    options: TransferOptions,
    only_pools: bool,
) -> Job:
    """Begin to send a volume (a path, or pool:name), in `tasks`.

    `target` is pool:name on the peer; None: the same name in the peer's default pool. With
    `only_pools` no other path is read. Raises Obstructed with every problem, StorageError or
    LinkError.
    """
    await host.journal.require()
    sending = await make_sync_offer(host, volume, target, options, only_pools)
    await _check(host, sending, peer)
    steering = Steering.of(options, host.config.transfer)
    job = Job(JobKind.SYNC, "", peer, Mode.SAVE, steering=steering)
    await host.jobs.begin(job, tasks, OutboundSync(host, job, sending, options).run)
    return job


async def _check(host: Host, sending: Sending, peer: str) -> None:
    """Ask the target what stands in the way. Raises Obstructed with every problem, or LinkError."""
    async with open_dialogue(host, peer) as dialogue:
        findings = await dialogue.ask(sending.offer, Findings)
    if findings.problems:
        raise Obstructed(from_peer(findings.problems))


class OutboundSync:
    """One volume sent to a peer: one round, verified if asked.

    When it breaks off, what was written stays on the target, and the next one sends only what is
    missing.
    """

    def __init__(self, host: Host, job: Job, sending: Sending, options: TransferOptions) -> None:
        self._host = host
        self._job = job
        self._transfer = Transfer(host, job, sending, options)
        self._id = secrets.token_hex(16)

    async def run(self) -> None:
        """Do all of it; returns when the job has ended. Raises only CancelledError."""
        job = self._job
        with log_context(job=job.job, peer=job.peer):
            try:
                await self._host.journal.record_sync(self._id)
                async with open_dialogue(self._host, job.peer) as dialogue:
                    await self._transfer.attend(dialogue, self._sync(dialogue))
            except Exception as error:
                if not is_expected(error):
                    log.exception("internal error")
                found = problems_of(error)[0]
                log.error("%s", found.text)
                state = JobState.ABORTED if found.code == "aborted" else JobState.FAILED
                await self._host.jobs.end(job, state, found)
            else:
                await self._host.jobs.end(job, JobState.DONE)

    async def _sync(self, dialogue: Dialogue) -> None:
        self._job.enter(Phase.PROVISION)
        async with self._transfer.disks(dialogue, self._id) as disks:
            self._job.enter(Phase.PRE_COPY)
            await disks.first_round()
            if self._transfer.verify:
                self._job.enter(Phase.VERIFY)
                await disks.verify()
            await disks.check()
            disks.finish()
            await dialogue.ask(Finish(), Finished)
