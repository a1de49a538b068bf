"""A guest that leaves this host with its memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import closing, suppress
from time import monotonic
from typing import Final

from protocol.frames import MAX_PAYLOAD, memory_frame
from protocol.handover import SourceEvent, SourceState
from protocol.messages import (
    HandOver,
    Mode,
    Problem,
    Ready,
    Receiving,
    Seal,
)
from storage.backing import compare_backings
from storage.errors import StorageError
from xenmoved.codes import LINK_LOST
from xenmoved.hooks.about import HookOutcome
from xenmoved.hooks.events import HookEvent
from xenmoved.jobs.job import Job
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobState, Phase
from xenmoved.journal.records import Form
from xenmoved.link.channel import Channel, Purpose
from xenmoved.logs import log_context
from xenmoved.migration.doubt_texts import verdict
from xenmoved.migration.host import Host
from xenmoved.migration.memory_digest import MemoryDigest
from xenmoved.migration.retained import drop_source
from xenmoved.migration.retrying import until_done
from xenmoved.migration.source.by_file import ByFile
from xenmoved.migration.source.channels import open_attached
from xenmoved.migration.source.content import form_of, settled
from xenmoved.migration.source.dialogue import Dialogue, open_dialogue
from xenmoved.migration.source.handover import SourceHandover
from xenmoved.migration.source.hooked import about_departure
from xenmoved.migration.source.inventory import (
    require_running,
    require_unchanged,
)
from xenmoved.migration.source.offer import Sending
from xenmoved.migration.source.precopy import Convergence
from xenmoved.migration.source.remarks import hear, hear_later, note_unheard
from xenmoved.migration.source.standstill import Standstill
from xenmoved.migration.source.transfer import Transfer, is_link_loss
from xenmoved.migration.source.volumes import Disks
from xenmoved.migration.uncopied_disks import flush_shared
from xenmoved.migration.volume_notes import claim, note_written
from xenmoved.problems import (
    is_expected,
    problem,
    problems_of,
)
from xenmoved.remarks import to_look_at, together
from xenmoved.tasks import alongside, wait_through
from xenmoved.toolstack.interface import (
    Domain,
    DomainNotFound,
    OutgoingImage,
    ToolstackError,
    named,
)

log = logging.getLogger(__name__)

_WATCH_EVERY: Final = 10.0
"""Seconds between looks at a guest whose disks are copied: two commands of the toolstack each."""

_DOUBT: Final = SourceState.COMMIT_SENT
_ABOUT_DOUBT: Final = ("restarted", "target-aborted", SourceState.KEPT.value)
"""Codes of problems after which a guest may turn out to be gone."""


class OutboundMigration:
    """One migration from this host to a peer, from its first channel to the tidying up."""

    def __init__(self, host: Host, job: Job, sending: Sending, options: TransferOptions) -> None:
        self._host = host
        self._job = job
        self._sending = sending
        assert sending.facts is not None
        self._facts = sending.facts
        self._migration = secrets.token_hex(16)
        self._live = job.mode is Mode.LIVE
        uuid = sending.offer.guest.uuid if sending.offer.guest is not None else ""
        configured = host.config.timeouts.shutdown
        self._patience = options.shutdown_timeout or configured
        self._image = _image(host, job, self._migration, uuid, self._patience)
        self._handover = SourceHandover(host, job, self._migration, self._image, uuid)
        self._transfer = Transfer(host, job, sending, options)
        self._hooks = host.hooks.attach(job, about_departure(host, job.peer, sending))
        self._remove_source = options.remove_source
        self._verified = False

    async def run(self) -> None:
        """Do all of it; returns when the job has ended. Raises only CancelledError."""
        job = self._job
        with log_context(job=job.job, domain=job.guest, peer=job.peer):
            try:
                await self._migrate()
            except Exception as error:
                if not is_expected(error):
                    log.exception("internal error")
                self._failed(error)
                lost = is_link_loss(error)
                await decide(self._host, job, self._handover, link_lost=lost)
            remove = self._sending if self._remove_source and self._verified else None
            await conclude(self._host, job, self._handover, remove=remove)

    async def _migrate(self) -> None:
        job = self._job
        await self._handover.begin()
        await self._claim_volumes()
        async with open_dialogue(self._host, job.peer) as dialogue:
            self._handover.dialogue = dialogue
            await self._host.note_key(self._migration, dialogue.link)
            await self._transfer.attend(dialogue, self._send_all(dialogue), self._failed)
            job.enter(Phase.COMMIT)
            await self._handover.happen(SourceEvent.TARGET_READY)

    async def _claim_volumes(self) -> None:
        """Note whose data the volumes hold, for the day when the guest comes back."""
        guest = self._sending.offer.guest
        assert guest is not None
        for path, offered in zip(self._sending.paths, self._sending.offer.volumes, strict=True):
            form = form_of(offered, self._job.mode)
            await claim(
                self._host,
                path,
                guest.uuid,
                guest.name,
                self._migration,
                form=form,
                image_format="" if form is Form.RAW else offered.format.value,
            )

    async def _send_all(self, dialogue: Dialogue) -> None:
        """Copy, suspend and send everything, until the target waits for the commit."""
        await self._hooks.before()
        self._job.enter(Phase.PROVISION)
        async with self._transfer.disks(dialogue, self._migration) as disks:
            try:
                await self._copy(dialogue, disks)
            except BaseException as error:
                await self._call_off(error)
                raise

    async def _copy(self, dialogue: Dialogue, disks: Disks) -> None:
        self._job.enter(Phase.PRE_COPY)
        if self._job.mode is Mode.COLD:
            await self._by_file().cold(dialogue, disks)
            return
        memory = 0 if self._live else self._job.memory_total
        convergence = Convergence(disks, self._job, memory=memory)
        approach = convergence.approach(self._host.config.transfer.max_rounds)
        await alongside(approach, self._watch_guest())
        transfer, stall = self._host.config.transfer, self._host.config.timeouts.stall
        standstill = Standstill(
            self._job,
            disks,
            stall=stall,
            tolerance=transfer.downtime_tolerance,
            verify=self._transfer.verify,
            shutdown=self._patience if self._job.mode is Mode.RESTART else 0.0,
        )
        if self._job.mode is Mode.RESTART:
            hand_over = self._by_file().restart(dialogue, disks, convergence)
        else:
            hand_over = self._hand_over(dialogue, disks, convergence)
        await alongside(hand_over, standstill.watch())

    def _by_file(self) -> ByFile:
        return ByFile(
            self._host,
            self._job,
            self._sending,
            self._facts,
            self._image,
            self._handover,
            self._hooks.at_cutover,
            self._check_still_running,
            self._note_written,
            self._verify,
        )

    async def _call_off(self, error: BaseException) -> None:
        """Have a guest that was to be handed over run again, before all else is tidied up.

        To close the disks takes as long as threads hang in one that is dead. A guest that was shut
        down needs them free, and is waited for. Nothing is done when the daemon ends: the next one
        does it.
        """
        if isinstance(error, Exception):
            if is_link_loss(error) and self._handover.dialogue is not None:
                error = await self._handover.dialogue.explanation() or error
            self._failed(error)
        if self._job.mode is Mode.RESTART:
            return
        if self._handover.state is SourceState.HANDING_OVER and self._job.problem is not None:
            lost = self._job.problem.code == LINK_LOST
            deciding = decide(self._host, self._job, self._handover, link_lost=lost)
            await wait_through(deciding)

    def _failed(self, error: Exception) -> None:
        """Note what ended the job, the first time."""
        if self._job.problem is None:
            self._job.problem = problems_of(error)[0]
            self._job.note(f"giving up: {self._job.problem.text}"[:4000])

    async def _watch_guest(self) -> None:
        """End a copy that may take hours when the guest is no more what is copied.

        That is made certain before the guest is suspended: here it is only found early.
        """
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            try:
                await self._check_still_running()
            except ToolstackError as error:
                log.warning("%s cannot be looked at now: %s", self._job.guest, error)

    async def _hand_over(self, dialogue: Dialogue, disks: Disks, convergence: Convergence) -> None:
        job = self._job
        guest = await self._check_still_running()
        await dialogue.ask(HandOver(guest.size), Receiving)
        # Closed only when the target has it all: what is not yet sent, and the end, would be lost.
        opened = await open_attached(dialogue.link, Purpose.MEMORY, self._migration)
        with closing(opened) as channel:
            job.enter(Phase.MEMORY if self._live else Phase.SUSPEND)
            await self._handover.happen(SourceEvent.SUSPENDING)
            await self._image.start(self._facts.backings)
            async with asyncio.TaskGroup() as group:
                memory = group.create_task(self._send_memory(channel))
                quiet = asyncio.Event()
                close = group.create_task(convergence.stay_close(quiet))
                await self._image.suspended()
                job.suspended_at = monotonic()
                job.enter(Phase.FINAL_DELTA)
                self._hooks.at_cutover()
                group.create_task(self._check_suspended())
                # A device model finishes what it has under way after the domain is suspended, and
                # the state that says so ends the stream: only then is nothing written any more.
                await memory
                quiet.set()
                await close
                await disks.final_round()
                await disks.settle_images()
                await flush_shared(self._sending.offer.guest)
                await self._note_written()
                await self._verify(disks)
            await disks.check()
            disks.finish()
            job.enter(Phase.READY)
            await dialogue.ask(memory.result(), Ready)

    async def _note_written(self) -> None:
        """Note when the volumes were written to last: what comes later is in no copy of them.

        Before they are compared, which takes long: they are known then as what was compared.
        """
        for path in self._sending.paths:
            await note_written(self._host, path, self._migration)

    async def _verify(self, disks: Disks) -> None:
        """Compare all volumes in full, if that is wanted, now that nobody writes to them."""
        if self._transfer.verify:
            self._job.enter(Phase.VERIFY)
            await disks.verify()
            self._verified = True

    async def _check_still_running(self) -> Domain:
        """See that the guest runs and has what it had when this was begun; return how it is now.

        Raises Obstructed.
        """
        status = named(self._job.guest, await self._host.toolstack.domains())
        return await require_unchanged(
            self._host, self._facts, require_running(self._facts, status)
        )

    async def _check_suspended(self) -> None:
        """See the same when it stands still, whatever it is called now. Raises Obstructed.

        Whether the domain is still there the image sees: some toolstacks end it by themselves.
        """
        domains = await self._host.toolstack.domains()
        for status in domains:
            if status.domid == self._facts.domid:
                with suppress(DomainNotFound):
                    await require_unchanged(self._host, self._facts, status)

    async def _send_memory(self, channel: Channel) -> Seal:
        """Send the saved image; returns what it came to."""
        digest = MemoryDigest()
        stalls = self._transfer.stalls
        async for piece in self._image.stream(stalls.seconds):
            await digest.add(piece)
            view = memoryview(piece)
            for start in range(0, len(view), MAX_PAYLOAD):
                frame = memory_frame(view[start : start + MAX_PAYLOAD])
                await self._transfer.limiter.take(sum(map(len, frame)))
                await stalls.limit(channel.send(*frame), f"the memory of {self._job.guest}")
                await asyncio.sleep(0)  # a turn for the disks, which are to stay close
            self._job.memory_sent = digest.size
        channel.finish()
        return Seal(digest.size, await digest.value())


def _image(host: Host, job: Job, migration: str, uuid: str, patience: float) -> OutgoingImage:
    spool = host.spool_of(migration)
    if job.mode is Mode.RESTART:
        return host.toolstack.outgoing_restart(migration, job.guest, spool, uuid, patience)
    if job.mode is Mode.COLD:
        return host.toolstack.outgoing_cold(migration, job.guest, spool, uuid)
    return host.toolstack.outgoing(migration, job.guest, spool, live=job.mode is Mode.LIVE)


async def decide(host: Host, job: Job, handover: SourceHandover, *, link_lost: bool) -> None:
    """After a failure: the guest runs here again, the target is told. Or the doubt is resolved.

    Whatever fails in that, and however often: it is begun again.
    """
    event = SourceEvent.LINK_LOST if link_lost else SourceEvent.FAILED

    async def work() -> None:
        nonlocal event
        if handover.state in (SourceState.COPYING, SourceState.HANDING_OVER, _DOUBT):
            await handover.happen(event)
        elif not handover.settled:
            # What was decided is carried out anew, as after a restart.
            await handover.happen(SourceEvent.RESTARTED)

    if job.mode is Mode.RESTART and handover.state is SourceState.HANDING_OVER:
        job.note(f"having {job.guest} run here again, when it has shut down or its time is over")
    if handover.state not in (SourceState.DONE, SourceState.ABORTED):
        await until_done(host, job, f"it is not decided whose {job.guest} is", work)


async def conclude(
    host: Host, job: Job, handover: SourceHandover, *, remove: Sending | None = None
) -> None:
    """End the job according to who owns the guest now, and see an operator's decision confirmed.

    When a guest has moved whose volumes are to be removed, they are dropped if all is clear.
    """

    async def work() -> None:
        if not job.finished.is_set():
            await _end(host, job, handover, remove)

    await until_done(host, job, f"the job of {job.guest} has not come to its end", work)
    await handover.confirm()
    if handover.state is SourceState.DONE:
        await hear_later(host, job.report(), handover.migration)


async def _end(host: Host, job: Job, handover: SourceHandover, remove: Sending | None) -> None:
    decided = verdict(handover.state, job.both_names, job.peer, job.job)
    hooks = host.hooks.of(job, handover.uuid)
    _note_blackout(job, handover)
    if handover.state in (SourceState.DONE, SourceState.GIVEN_UP):
        job.enter(Phase.TIDY)
        try:
            await host.toolstack.configs.retire(job.guest, handover.uuid)
        except (ToolstackError, OSError) as error:
            _note_still_enabled(job, error)
        await host.journal.retain(handover.migration, job.peer, moved=True)
        outcome = HookOutcome.DECIDED if decided is not None else HookOutcome.MOVED
        await hooks.owe(HookEvent.AFTER_DEPARTURE, outcome, decided)
        await handover.finish()
        if handover.state is SourceState.DONE:
            await hear(host, job, handover.migration)
        else:
            note_unheard(job)
        log.info("%s is on %s now", job.both_names, job.peer)
        remark = decided
        if remove is not None and remark is None:
            remark = await _remove_source(host, job, handover.migration, remove)
        await host.jobs.end(job, JobState.DONE, remark)
        hooks.pay()
        return
    found = (
        decided
        or job.problem
        or problem(
            "target-aborted",
            f"{job.peer} did not start {job.both_names}: {handover.target_reason}",
            f"the log of {job.peer} says more; the guest runs here",
        )
    )
    outcome = HookOutcome.DECIDED if decided is not None else HookOutcome.STAYED
    await hooks.owe(HookEvent.FAILURE, outcome, found)
    await handover.finish()
    _note_blackout(job, handover)
    if found.code in _ABOUT_DOUBT and not await _is_where_it_was(host, job):
        hint = "start it from its configuration; its disks are as they were when it ended"
        found = problem("guest-gone", f"{found.text}; no domain of it is left here", hint)
    log.error("%s stays here: %s", job.guest, found.text)
    state = JobState.ABORTED if found.code == "aborted" else JobState.FAILED
    await host.jobs.end(job, state, found)
    hooks.pay()


def _note_still_enabled(job: Job, error: Exception) -> None:
    text = f"the configuration of {job.guest} is still enabled here: {error}"
    hint = (
        f"take it out of the folder of configurations and out of `auto` by hand: {job.guest} is on "
        f"{job.peer}, and must not be started here too"
    )
    remark = to_look_at("config-enabled", text, hint)
    log.error("%s; %s", remark.text, remark.hint)
    job.remarks = together(job.remarks, [remark])


def _note_blackout(job: Job, handover: SourceHandover) -> None:
    runs_since = handover.started_at or handover.resumed_at
    if job.suspended_at is not None and runs_since is not None:
        job.blackout = runs_since - job.suspended_at


async def _remove_source(host: Host, job: Job, migration: str, sent: Sending) -> Problem | None:
    """Drop the volumes, if they still are what was compared, in full; say why some stay."""
    changed = await asyncio.to_thread(_changed, sent)
    left = changed or await drop_source(host, migration, job.job)
    if not left:
        return None
    text = f"{job.guest} has moved, and copies of its volumes stay here: {left[0].text}"
    log.warning("%s", text)
    return problem("copies-kept", text, f"then: xenmovectl volumes drop --guest {job.guest}")


def _changed(sent: Sending) -> list[Problem]:
    """Find the volumes that are not what was sent any more."""
    found: list[Problem] = []
    for path, backing, offered in zip(sent.paths, sent.backings, sent.offer.volumes, strict=True):
        try:
            content = offered.is_content(sent.offer.way)
            compare_backings(path, backing, settled(path, backing, content=content))
        except StorageError as error:
            found += problems_of(error)
    return found


async def _is_where_it_was(host: Host, job: Job) -> bool:
    """Whether a guest that was handed over still has a domain: its host may have been restarted."""
    if job.mode is Mode.COLD:
        return True
    try:
        return job.guest in [domain.name for domain in await host.toolstack.domains()]
    except (ToolstackError, OSError):
        return True
