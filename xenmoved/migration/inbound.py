"""A guest that comes to this host: the target's half of the hand-over, also after a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any, Final

from blake3 import blake3

from protocol.errors import Code, ProtocolError
from protocol.frames import FrameDecoder, Kind
from protocol.handover import (
    TARGET_LEFT,
    TARGET_UNDECIDED,
    TargetAction,
    TargetEvent,
    TargetState,
    Word,
    target_step,
    target_word,
)
from protocol.messages import GuestSize, Problem, Remark, Seal
from protocol.schema import plain
from xenmoved.control.reports import JobState, Phase
from xenmoved.jobs import Job
from xenmoved.journal import Inbound
from xenmoved.link.channel import Channel
from xenmoved.logs import log_context
from xenmoved.migration.expected import Expected
from xenmoved.migration.holdings import retain
from xenmoved.migration.host import Host
from xenmoved.migration.landing import Landing
from xenmoved.migration.persisting import end_alarm, pause_after, raise_alarm
from xenmoved.migration.presence import runs_here
from xenmoved.migration.verdicts import ended_with_host, verdict
from xenmoved.migration.weighing import resize_problems
from xenmoved.problems import JobError, Refused, problem, problems_of
from xenmoved.remarks import from_problem, left_out, to_look_at, together
from xenmoved.tasks import wait_through, within
from xenmoved.toolstack.interface import (
    IncomingImage,
    Settled,
    StartFailed,
    ToolstackError,
    weight,
)

log = logging.getLogger(__name__)

_MEMORY_PATIENCE: Final = 60.0
LOOK_EVERY: Final = 30.0
"""Seconds until it is looked again what became of a start that is in doubt."""
_SOME_ATTEMPTS: Final = 3
_UNWRITTEN: Final = "config-unwritten"
_UNDECIDED: Final = (TargetState.RECEIVING, TargetState.READY)
"""States in which nothing has been promised to the source."""


@dataclass(slots=True)
class _Memory:
    """What arrived of the saved image."""

    digest: Any = field(default_factory=blake3)
    size: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class InboundMigration:
    """One guest on its way to this host."""

    def __init__(self, host: Host, peer: str, migration: str, expected: Expected, job: Job) -> None:
        self._host = host
        self._expected = expected
        self._job = job
        self._lock = asyncio.Lock()
        self._memory = _Memory()
        self._receiving = False
        self.peer = peer
        self.migration = migration
        self._image = self._receiver()
        self.state = TargetState.RECEIVING
        self.reason = ""
        self.in_doubt = False
        self._copy_left = False
        self._unrecorded = False
        self._attempts = 0
        self._again_at = 0.0
        self._remark: Problem | None = None
        self.landing = Landing(host, peer, migration, job.job)
        self.ended = asyncio.Event()

    def _receiver(self) -> IncomingImage:
        toolstack, arrival = self._host.toolstack, self._expected.arrival
        if self._expected.cold:
            return toolstack.incoming_cold(arrival)
        return toolstack.incoming(self.migration, arrival, self._host.spool_of(self.migration))

    @property
    def guest(self) -> str:
        """Name of the guest."""
        return self._expected.name

    @property
    def disks(self) -> list[str]:
        """Paths of its disks here."""
        return list(filter(None, self._expected.disks.values()))

    @property
    def word(self) -> Word:
        """What the source may be told now.

        Given up without a record is no word while the copy is here: a state whose record failed may
        be on disk all the same, and a restart would go on from it.
        """
        if self._unrecorded and self._copy_left:
            return Word.RECEIVING
        return target_word(self.state, was_ready=self._expected.was_ready)

    @property
    def job(self) -> Job:
        """The job that shows it."""
        return self._job

    async def begin(self) -> None:
        """Write down that it comes, before anything is made for it."""
        for earlier in await self._host.journal.supersede_inbound(self.guest):
            self._host.clear_spool(earlier)
        await self._record(self.state)

    async def restore(self, state: TargetState, reason: str) -> None:
        """Go on from what an earlier process wrote down, in a journal that may have been set back.

        Raises ToolstackError where it cannot be seen whether the guest runs here.
        """
        event = TargetEvent.RESTARTED
        if state in TARGET_UNDECIDED and await runs_here(self._host.toolstack, self._expected.uuid):
            log.error("%s runs here and is %s in the journal: this was set back", self.guest, state)
            event = TargetEvent.GUEST_RUNS
        self.state, self.reason = state, reason
        await self.happen(event)

    async def resize(self, size: GuestSize) -> None:
        """Note how large the guest has become since it was offered.

        Raises Refused when it has no room here any more.
        """
        expected = self._expected
        announced = expected.arrival.announced
        if announced is None or size == announced.size or expected.cold:
            return
        name, guest = expected.arrival.announced_name, replace(announced, size=size)
        if found := await resize_problems(self._host, self.peer, name, guest, self.migration):
            raise Refused(found)
        async with self._lock:
            if self.state is TargetState.RECEIVING:
                self._expected = expected.resized(size)
                self._image = self._receiver()
                self._job.memory_total = weight(guest.kind, size)
                self._host.promises.resize(self.migration, self._job.memory_total)
                await self._record(self.state)

    async def receive(self) -> None:
        """Get ready for the memory. Raises ToolstackError."""
        self._job.enter(Phase.SUSPEND)
        self.landing.step(f"having the toolstack get ready for {self.guest}")
        expected = self._expected
        if expected.cold and expected.config is not None:
            # A human who has to mend it later does not know what the peer wrote to the image since.
            await self._host.toolstack.check_config(expected.config, expected.arrival)
        # The guest still runs: now it costs nothing to look.
        await self.landing.require_untouched()
        await self._image.start()
        self._receiving = True
        if self._expected.cold:
            self._memory.ended.set()

    async def serve_memory(self, channel: Channel) -> None:
        """Feed what comes on the memory channel to the toolstack, to its end."""
        if not self._receiving or self._memory.task is not None:
            raise ProtocolError(Code.UNEXPECTED, "no memory is expected now")
        self._memory.task = asyncio.current_task()
        decoder = FrameDecoder({Kind.MEMORY})
        while untrusted_data := await channel.receive():
            decoder.feed(untrusted_data)
            while (frame := decoder.next_frame()) is not None:
                self._memory.digest.update(frame.untrusted_body)
                self._memory.size += len(frame.untrusted_body)
                self._job.memory_sent = self._memory.size
                await self._image.write(memoryview(frame.untrusted_body))
        if decoder.pending:
            raise ProtocolError(Code.BAD_FRAME, "the memory channel ends within a frame")
        self._memory.ended.set()

    async def seal(self, seal: Seal) -> None:
        """Check that everything is there and durable, and build the domain, paused.

        Raises ProtocolError, StorageError, ToolstackError, or JobError when it was aborted.
        """
        await self.landing.seal()
        self.landing.step("waiting for the end of the memory")
        if not await within(self._memory.ended, _MEMORY_PATIENCE):
            text = (
                "the source says that it has sent all, and its memory channel did not end within "
                f"{_MEMORY_PATIENCE:g} s"
            )
            raise ProtocolError(Code.UNEXPECTED, text)
        if self._memory.size != seal.memory_size or (
            self._memory.digest.digest() != seal.memory_digest
        ):
            raise ProtocolError(
                Code.DIGEST,
                f"the saved memory of {self.guest} was damaged on the way: "
                f"{self._memory.size} bytes arrived of {seal.memory_size}, and their digest is "
                "not the source's",
            )
        self._job.enter(Phase.READY)
        self.landing.step(f"building the domain {self.guest}")
        # From here to the backends' opening there is no more time than it takes; the volumes stay
        # open meanwhile, so that a name that is changed then is seen, too.
        await self.landing.require_untouched()
        await self.landing.unlock()
        await self._image.build()
        await self.landing.release()
        await self.happen(TargetEvent.BUILT, only_in=(TargetState.RECEIVING,))
        if self.state is TargetState.ABORTED:
            raise JobError([problem("aborted", self.reason or "aborted by the source")])

    async def happen(
        self, event: TargetEvent, *, only_in: Collection[TargetState] = tuple(TargetState)
    ) -> None:
        """Take an event: next state on disk, its actions, and what follows from them.

        It is dropped when by its turn the state is none of `only_in`. Goes to its end even if the
        caller is cancelled: what was begun must be decided.
        """
        with log_context(job=self._job.job, domain=self.guest):
            await wait_through(self._happen(event, only_in))

    async def _happen(self, event: TargetEvent, only_in: Collection[TargetState]) -> None:
        async with self._lock:
            following: TargetEvent | None = event if self.state in only_in else None
            while following is not None:
                step = target_step(self.state, following)
                if step.state is not self.state or step.actions:
                    log.info("hand-over: %s in %s -> %s", following, self.state, step.state)
                if step.state is not self.state:
                    try:
                        await self._record(step.state, settled=step.state in TARGET_LEFT)
                    except Exception as error:
                        if step.state is not TargetState.ABORTED or self.state not in _UNDECIDED:
                            following = await self._not_recorded(error)
                            continue
                        # True without a record, and a word to others when the copy is gone.
                        self._unrecorded = True
                        log.error("given up, to be written down later: %s", error)
                self.state, following = step.state, None
                for action in step.actions:
                    following = await self._actions[action](self) or following
            if self.state in (TargetState.STARTED, TargetState.ABORTED):
                await self._conclude()
            elif self.state is TargetState.RAN_TWICE:
                await self._raise_alarm()

    async def _not_recorded(self, error: Exception) -> TargetEvent | None:
        """Go on from a state that could not be left, as it could not be written down.

        Before the commit the migration is given up. After it, neither the guest's start nor its
        end is told to anybody before it is on disk: the migration is in doubt, and looked at again.
        """
        found = problems_of(error)[0].text
        if self.state in _UNDECIDED:
            self.reason = found[:4000]
            return TargetEvent.FAILED
        if self.state is not TargetState.COMMITTED:
            raise error
        await self._enter_doubt(found)
        self._again_at = monotonic() + pause_after(_SOME_ATTEMPTS)
        return None

    async def go_on(self) -> None:
        """Try again what failed, or look at a start that is in doubt, if that is due."""
        if self.ended.is_set() or monotonic() < self._again_at:
            return
        if self.in_doubt:
            self._again_at = monotonic() + LOOK_EVERY
            only_in = (TargetState.COMMITTED,)
            await self.happen(TargetEvent.START_UNCLEAR, only_in=only_in)
        elif self._attempts:
            async with self._lock:
                await self._conclude()

    async def _start_guest(self) -> TargetEvent | None:
        self._job.enter(Phase.COMMIT)
        try:
            await self._image.commit()
        except StartFailed as error:
            self.reason = str(error)
            return TargetEvent.START_FAILED
        except Exception as error:
            self.reason = problems_of(error)[0].text
            log.warning("the start of %s is unclear: %s", self.guest, self.reason)
            return TargetEvent.START_UNCLEAR
        return TargetEvent.GUEST_RUNS

    async def _settle(self) -> TargetEvent | None:
        """Find out, or enter the doubt; whoever keeps the migration looks again later."""
        try:
            settled = await self._image.settle()
        except Exception as error:
            await self._enter_doubt(problems_of(error)[0].text)
            return None
        self._leave_doubt()
        if settled is Settled.ENDED:
            self._remark = ended_with_host(self.guest)
        if settled is not Settled.ABSENT:
            return TargetEvent.GUEST_RUNS
        self.reason = self.reason or "the guest was not started before a crash"
        return TargetEvent.START_FAILED

    async def _enter_doubt(self, why: str) -> None:
        if not self.in_doubt or why != self.reason:
            log.error("in doubt: %s", why)
        self.in_doubt, self.reason = True, why
        self._again_at = monotonic() + LOOK_EVERY
        self._host.doubts[self._job.job] = self
        self._job.state = JobState.IN_DOUBT
        text = f"nobody knows whether {self.guest} was started here: {why}"
        self._job.problem = problem("in-doubt", text, "see: xenmovectl recover")
        await self._host.jobs.save(self._job)

    def _leave_doubt(self) -> None:
        self.in_doubt = False
        self._host.doubts.pop(self._job.job, None)

    async def keep(self) -> None:
        """Take an operator's word that the guest has run here."""
        self._leave_doubt()
        self.reason = "an operator declared that it was started"
        await self.happen(TargetEvent.OPERATOR_KEEPS, only_in=(TargetState.COMMITTED,))

    async def give_up(self) -> None:
        """Take an operator's word that it was never started here. Its volumes are kept."""
        self._leave_doubt()
        self.reason = "an operator declared that it was never started"
        self._expected = replace(self._expected, given_up=True, keep_partial=True)
        await self.happen(TargetEvent.OPERATOR_GIVES_UP, only_in=(TargetState.COMMITTED,))

    async def _destroy_copy(self) -> TargetEvent | None:
        """Leave it to the end, where it is tried until it is done."""
        self._copy_left = True
        return None

    async def _remove_copy(self) -> None:
        if self._memory.task is not None and not self._memory.task.done():
            self._memory.task.cancel()
            await asyncio.wait([self._memory.task])
        await self.landing.stop()
        if self._expected.given_up:  # what the toolstack wrote down says that it may have started
            self._host.clear_spool(self.migration)
        await self._image.abort()
        if not self._expected.keep_partial:
            await self.landing.remove_made()
        self._copy_left = False

    async def _nothing(self) -> TargetEvent | None:
        """Answers are sent by whoever brought the event; waiting is the arrivals' work."""
        return None

    async def _conclude(self) -> None:
        """Tidy up and end the job; what fails is left to `go_on`, with an alarm meanwhile."""
        if self.ended.is_set():
            return
        try:
            await self._tidy()
        except Exception as error:
            self._attempts += 1
            what = (
                f"what arrived of {self.guest} is still on this host"
                if self._copy_left
                else f"what became of {self.guest} is not written down"
            )
            raise_alarm(self._host, self._job, what, error, self._attempts)
            self._again_at = monotonic() + pause_after(self._attempts)
            return
        end_alarm(self._host, self._job)
        self.ended.set()
        if self.state is TargetState.STARTED:
            log.info("%s is here now", self._job.both_names)
            if self._remark is not None:
                log.error("%s; %s", self._remark.text, self._remark.hint)
            told = self._remark.code if self._remark is not None else None
            self._job.remarks = tuple(one for one in self._expected.all_remarks if one.code != told)
            await self._host.jobs.end(self._job, JobState.DONE, self._remark)
        else:
            text = self.reason or "the source went away"
            log.warning("%s does not come: %s", self.guest, text)
            await self._host.jobs.end(self._job, JobState.FAILED, problem("aborted", text))

    async def _tidy(self) -> None:
        if self._copy_left:
            await self._remove_copy()
        if self.state is TargetState.STARTED:
            self._job.enter(Phase.TIDY)
            await self._note_remarks()
            await self._install_config()
            await self._host.journal.put_to_use(self.migration)
        else:  # copies that were there before, and what `keep_partial` leaves
            await retain(self._host, self.migration, self.peer, moved=False)
        self._host.clear_spool(self.migration)
        await self._record(self.state, settled=True)

    async def _raise_alarm(self) -> None:
        found = verdict(self.state, self._job.both_names, self.peer, self._job.job)
        assert found is not None, self.state
        log.error("%s; %s", found.text, found.hint)
        await self._host.jobs.amend(self._job.job, state=JobState.FAILED, problem=found)

    async def _note_remarks(self) -> None:
        """Write down what there is to remark, before anything is done to configuration files.

        What is found after that, by a daemon that goes on after a crash, is our own doing.
        """
        expected = self._expected
        if expected.remarks is not None:
            return
        foreseen: tuple[Remark, ...] = ()
        if expected.config is not None:
            with suppress(ToolstackError, OSError):  # told of when it is installed
                foreseen = await self._host.toolstack.foresee_config(
                    expected.name, expected.config, expected.arrival, expected.autostart
                )
        ended = [from_problem(self._remark)] if self._remark is not None else []
        self._remember(ended, foreseen, left_out(expected.name, expected.left_out))
        await self._record(self.state)

    def _remember(self, *groups: Iterable[Remark]) -> None:
        remarks, known = together(*groups), self._expected.all_remarks
        for remark in remarks:
            if remark not in known:
                log.warning("%s; %s", remark.text, remark.hint)
        self._expected = replace(self._expected, remarks=[plain(remark) for remark in remarks])

    async def _install_config(self) -> None:
        expected, toolstack = self._expected, self._host.toolstack
        failed: list[Remark] = []
        try:
            if expected.config is not None:
                await toolstack.install_config(
                    expected.name, expected.config, expected.arrival, expected.autostart
                )
            else:
                await toolstack.restore_config(expected.name)
        except (ToolstackError, OSError) as error:
            text = f"the configuration of {expected.name} is not in place: {error}"
            hint = f"take it from FILE.moved on {self.peer}, with the disks that it has here"
            failed.append(to_look_at(_UNWRITTEN, text, hint))
        self._remember([one for one in expected.all_remarks if one.code != _UNWRITTEN], failed)

    async def _record(self, state: TargetState, *, settled: bool = False) -> None:
        if state is TargetState.READY:
            left = list(self._image.left_out)
            self._expected = replace(self._expected, was_ready=True, left_out=left)
        details = asdict(self._expected)
        entry = Inbound(self.migration, state, self.peer, self.reason, self._job.job, details)
        await self._host.journal.record_inbound(entry, settled=settled)
        self._unrecorded = False

    _actions: Final[
        dict[TargetAction, Callable[[InboundMigration], Awaitable[TargetEvent | None]]]
    ] = {
        TargetAction.START_GUEST: _start_guest,
        TargetAction.SETTLE: _settle,
        TargetAction.DESTROY_COPY: _destroy_copy,
        TargetAction.SEND_READY: _nothing,
        TargetAction.SEND_STARTED: _nothing,
        TargetAction.SEND_ABORTED: _nothing,
        TargetAction.AWAIT_SOURCE: _nothing,
    }
