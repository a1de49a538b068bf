"""The target's half of the hand-over: walks `protocol.handover.TARGET`, also after a crash.

What fails after the decision is tried again until it is done: whoever keeps the migration calls
`go_on`. Neither the guest's start nor its end is told to anybody before it is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from time import monotonic
from typing import Final

from protocol.handover import (
    TARGET_LEFT,
    TARGET_UNDECIDED,
    Step,
    TargetAction,
    TargetEvent,
    TargetState,
    Word,
    target_step,
    target_word,
)
from protocol.messages import Problem
from xenmoved.hooks.about import HookOutcome
from xenmoved.hooks.events import HookEvent
from xenmoved.hooks.hooks import JobHooks
from xenmoved.jobs.report import JobState, Phase
from xenmoved.logs import log_context
from xenmoved.migration.doubt_texts import ended_with_host, verdict
from xenmoved.migration.handover import Instead, Walk
from xenmoved.migration.retrying import end_alarm, pause_after, raise_alarm
from xenmoved.migration.target.at_boot import as_here
from xenmoved.migration.target.guest import IncomingGuest
from xenmoved.problems import problem, problems_of
from xenmoved.remarks import together
from xenmoved.tasks import wait_through
from xenmoved.toolstack.interface import Settled, StartFailed

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 30.0
"""Seconds until it is looked again what became of a start that is in doubt."""
_SOME_ATTEMPTS: Final = 3
_GONE: Final = "the source went away"
_DECIDED: Final = (TargetState.STARTED, TargetState.ABORTED, TargetState.RAN_TWICE)
"""States after which only tidying up is left: the guest is here, but for `ABORTED`."""


class TargetHandover:
    """Who owns one guest that comes, as the target knows it."""

    def __init__(self, guest: IncomingGuest) -> None:
        self._guest = guest
        self._host = guest.host
        self._job = guest.job
        self._walk = Walk(
            target_step, TargetState.RECEIVING, self._write_down, self._carry_out, self._conclude
        )
        self.reason = ""
        """Why the guest does not come, or is in doubt."""
        self.in_doubt = False
        self.ended = asyncio.Event()
        self._copy_left = False
        self._unrecorded = False
        self._attempts = 0
        self._again_at = 0.0
        self._remark: Problem | None = None

    @property
    def state(self) -> TargetState:
        """Where it is in the table."""
        return self._walk.state

    @property
    def undecided(self) -> asyncio.Lock:
        """A lock that is held while something is decided."""
        return self._walk.lock

    @property
    def word(self) -> Word:
        """What the source may be told now.

        Given up without a record is no word while the copy is here: a state whose record failed may
        be on disk all the same, and a restart would go on from it.
        """
        if self._unrecorded and self._copy_left:
            return Word.RECEIVING
        return target_word(self.state, was_ready=self._guest.expected.was_ready)

    def take_up(self, state: TargetState, reason: str, *, ended: bool = False) -> None:
        """Go on in the state, and with the reason, that an earlier process wrote down."""
        self._walk.state, self.reason = state, reason
        if ended:
            self.ended.set()

    async def happen(
        self, event: TargetEvent, *, only_in: Collection[TargetState] | None = None
    ) -> None:
        """Take an event: next state on disk, its actions, and what follows from them.

        It is dropped when by its turn the state is none of `only_in`. Goes to its end even if the
        caller is cancelled: what was begun must be decided.
        """
        with log_context(job=self._job.job, domain=self._guest.name):
            await wait_through(self._walk.take(event, only_in))

    async def fail(self, event: TargetEvent, reason: str) -> None:
        """Take an event that ends a migration of which nothing was promised yet, and why."""
        if self.state in TARGET_UNDECIDED:
            self.reason = reason[:4000]
            await self.happen(event, only_in=TARGET_UNDECIDED)

    async def go_on(self) -> None:
        """Try again what failed, or look at a start that is in doubt, if that is due."""
        if self.ended.is_set() or monotonic() < self._again_at:
            return
        if self.in_doubt:
            self._again_at = monotonic() + LOOK_EVERY
            await self.happen(TargetEvent.START_UNCLEAR, only_in=(TargetState.COMMITTED,))
        elif self._attempts:
            async with self._walk.lock:
                await self._conclude()

    async def keep(self) -> None:
        """Take an operator's word that the guest has run here."""
        self._leave_doubt()
        self.reason = "an operator declared that it was started"
        await self.happen(TargetEvent.OPERATOR_KEEPS, only_in=(TargetState.COMMITTED,))

    async def give_up(self) -> None:
        """Take an operator's word that it was never started here. Its volumes are kept."""
        self._leave_doubt()
        self.reason = "an operator declared that it was never started"
        self._guest.declare_never_started()
        await self.happen(TargetEvent.OPERATOR_GIVES_UP, only_in=(TargetState.COMMITTED,))

    async def _write_down(
        self, step: Step[TargetState, TargetAction]
    ) -> Instead[TargetEvent] | None:
        if step.state is self.state:
            return None
        try:
            settled = step.state in TARGET_LEFT
            await self._guest.write_down(step.state, self.reason, settled=settled)
        except Exception as error:
            if step.state is not TargetState.ABORTED or self.state not in TARGET_UNDECIDED:
                return await self._not_recorded(error)
            # True without a record, and a word to others when the copy is gone.
            self._unrecorded = True
            log.error("given up, to be written down later: %s", error)
        else:
            self._unrecorded = False
        return None

    async def _not_recorded(self, error: Exception) -> Instead[TargetEvent]:
        """Return how to go on from a state that could not be left, as it could not be written down.

        Before the commit the migration is given up. After it, it is in doubt, and looked at again.
        """
        found = problems_of(error)[0].text
        if self.state in TARGET_UNDECIDED:
            self.reason = found[:4000]
            return Instead(TargetEvent.FAILED)
        if self.state is not TargetState.COMMITTED:
            raise error
        await self._enter_doubt(found)
        self._again_at = monotonic() + pause_after(_SOME_ATTEMPTS)
        return Instead(None)

    async def _carry_out(self, action: TargetAction) -> TargetEvent | None:
        return await self._actions[action](self)

    async def _start_guest(self) -> TargetEvent | None:
        self._job.enter(Phase.COMMIT)
        if not self._guest.expected.cold:
            self._hooks.at_cutover()
        try:
            await self._guest.image.commit()
        except StartFailed as error:
            self.reason = str(error)
            return TargetEvent.START_FAILED
        except Exception as error:
            self.reason = problems_of(error)[0].text
            log.warning("the start of %s is unclear: %s", self._guest.name, self.reason)
            return TargetEvent.START_UNCLEAR
        return TargetEvent.GUEST_RUNS

    async def _settle(self) -> TargetEvent | None:
        """Find out, or enter the doubt; whoever keeps the migration looks again later."""
        try:
            settled = await self._guest.image.settle()
        except Exception as error:
            await self._enter_doubt(problems_of(error)[0].text)
            return None
        self._leave_doubt()
        if settled is Settled.ENDED:
            self._remark = ended_with_host(self._guest.name)
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
        self._hooks.in_doubt(lambda: self._job.problem if self.in_doubt else None)
        self._job.state = JobState.IN_DOUBT
        text = f"nobody knows whether {self._guest.name} was started here: {why}"
        self._job.problem = problem("in-doubt", text, "see: xenmovectl recover")
        await self._host.jobs.save(self._job)

    def _leave_doubt(self) -> None:
        self.in_doubt = False
        self._host.doubts.pop(self._job.job, None)

    async def _destroy_copy(self) -> TargetEvent | None:
        """Leave it to the end, where it is tried until it is done."""
        self._copy_left = True
        return None

    async def _nothing(self) -> TargetEvent | None:
        """Answers are sent by whoever brought the event; waiting is the arrivals' work."""
        return None

    async def _conclude(self) -> None:
        """Where all is decided, tidy up and end the job; what fails is left to `go_on`."""
        if self.state is TargetState.RAN_TWICE and self.ended.is_set():
            await self._report_second_run()
        if self.state not in _DECIDED or self.ended.is_set():
            return
        try:
            await self._tidy()
        except Exception as error:
            self._attempts += 1
            what = (
                f"what arrived of {self._guest.name} is still on this host"
                if self._copy_left
                else f"what became of {self._guest.name} is not written down"
            )
            raise_alarm(self._host, self._job, what, error, self._attempts)
            self._again_at = monotonic() + pause_after(self._attempts)
            return
        end_alarm(self._host, self._job)
        self.ended.set()
        await self._end_job()

    async def _tidy(self) -> None:
        if self._copy_left:
            await self._guest.remove()
            self._copy_left = False
        if self.state is TargetState.ABORTED:
            await self._guest.keep_copies()
        else:
            self._job.enter(Phase.TIDY)
            if not self._guest.remarks_noted:
                await self._guest.note_remarks(self._remark)
                await self._guest.write_down(self.state, self.reason)
            await self._guest.settle_in()
        self._host.clear_spool(self._guest.migration)
        await self._owe_hooks()
        await self._guest.write_down(self.state, self.reason, settled=True)
        self._unrecorded = False

    @property
    def _hooks(self) -> JobHooks:
        return self._host.hooks.of(self._job, self._guest.expected.uuid)

    async def _owe_hooks(self) -> None:
        """Note what those that are run afterwards are to be told."""
        if self.state is TargetState.STARTED:
            await self._hooks.owe(HookEvent.AFTER_ARRIVAL, HookOutcome.MOVED, self._remark)
        elif self.state is TargetState.ABORTED:
            found = problem("aborted", self.reason or _GONE)
            await self._hooks.owe(HookEvent.FAILURE, HookOutcome.STAYED, found)
        else:
            await self._hooks.owe(HookEvent.FAILURE, HookOutcome.DECIDED, self._second_run())

    async def _end_job(self) -> None:
        try:
            await self._report_end()
        finally:
            self._hooks.pay()

    async def _report_end(self) -> None:
        job, jobs = self._job, self._host.jobs
        if self.state is TargetState.RAN_TWICE:
            await jobs.end(job, JobState.FAILED, self._second_run())
            return
        if self.state is TargetState.ABORTED:
            text = self.reason or _GONE
            log.warning("%s does not come: %s", self._guest.name, text)
            await jobs.end(job, JobState.FAILED, problem("aborted", text))
            return
        log.info("%s is here now", job.both_names)
        if self._remark is not None:
            log.error("%s; %s", self._remark.text, self._remark.hint)
        told = self._remark.code if self._remark is not None else None
        remarks = as_here(self._guest.expected, self._guest.expected.all_remarks)
        job.remarks = together((one for one in remarks if one.code != told), job.remarks)
        await jobs.end(job, JobState.DONE, self._remark)

    async def _report_second_run(self) -> None:
        found = self._second_run()
        await self._host.jobs.amend(self._job.job, state=JobState.FAILED, problem=found)

    def _second_run(self) -> Problem:
        job = self._job
        found = verdict(self.state, job.both_names, self._guest.peer, job.job)
        assert found is not None, self.state
        log.error("%s; %s", found.text, found.hint)
        return found

    _actions: Final[
        dict[TargetAction, Callable[[TargetHandover], Awaitable[TargetEvent | None]]]
    ] = {
        TargetAction.START_GUEST: _start_guest,
        TargetAction.SETTLE: _settle,
        TargetAction.DESTROY_COPY: _destroy_copy,
        TargetAction.SEND_READY: _nothing,
        TargetAction.SEND_STARTED: _nothing,
        TargetAction.SEND_ABORTED: _nothing,
        TargetAction.AWAIT_SOURCE: _nothing,
    }
