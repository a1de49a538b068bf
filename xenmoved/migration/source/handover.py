"""The source's half of the hand-over: walks `protocol.handover.SOURCE`, also after a crash.

Every state is in the journal before its actions are carried out. Until the record is settled, a
restart of the daemon goes on from it; every action may be carried out twice.

Where the journal cannot be written, the way back needs it not. What begins the hand-over or sends
the commit is not done without its record: it raises, and the guest stays here. That the guest is
the source's, or the target's by its own durable word, is true without a record too: a restart from
the state before finds it again. So it is carried out, and written down as soon as that is possible;
until then the job lives. An operator's decision waits for its record.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from protocol.errors import ProtocolError
from protocol.handover import (
    SETTLING,
    SOURCE_LEFT,
    SOURCE_UNCONFIRMED,
    WORDS,
    SourceAction,
    SourceEvent,
    SourceState,
    Step,
    Word,
    source_step,
)
from protocol.messages import Abort, Commit, Fate, Inquire, Problem
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobState
from xenmoved.journal.database import JournalFailed
from xenmoved.journal.records import Outbound
from xenmoved.link.errors import LinkError
from xenmoved.migration.doubt_texts import doubt, verdict
from xenmoved.migration.handover import Walk
from xenmoved.migration.host import Host
from xenmoved.migration.retrying import pause_after, raise_alarm, until_done
from xenmoved.migration.source.dialogue import Dialogue, open_dialogue
from xenmoved.problems import JobError, problem, problems_of
from xenmoved.tasks import TookTooLong, at_most, unless, within
from xenmoved.toolstack.interface import OutgoingImage, ToolstackError

log = logging.getLogger(__name__)

_ABORT_PATIENCE: Final = 30.0
_PRESSED: Final = 5.0
"""Seconds for the answer to the commit when an operator, or the end of the daemon, waits for it."""
_GLIMPSE: Final = 3.0
"""Seconds that a guest which may be resumed waits for a target that might contradict."""
_ASK_AFTER: Final = (0.0, 0.2, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each attempt to learn the target's word, the last for all further ones."""
_TELL_AFTER: Final = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Seconds before each attempt to tell the target what was decided without it."""
_CONFIRMING: Final = (
    SourceEvent.TARGET_STARTED,
    SourceEvent.TARGET_ABORTED,
    SourceEvent.TARGET_FORGOT,
)

_MUST_BE_DONE: Final = (SourceAction.RESUME_GUEST, SourceAction.DISCARD_GUEST)


class SourceHandover:
    """Who owns one guest that is being sent, as the source knows it."""

    def __init__(
        self, host: Host, job: Job, migration: str, image: OutgoingImage, uuid: str
    ) -> None:
        self._host = host
        self._job = job
        self._migration = migration
        self._image = image
        self._uuid = uuid
        self._walk = Walk(source_step, SourceState.COPYING, self._write_down, self._carry_out)
        self.dialogue: Dialogue | None = None
        self._asked = 0
        self._silence = ""
        self._settled = False
        self._told: deque[SourceEvent] = deque()
        self._is_told = asyncio.Event()
        self._doubtful_since: float | None = None
        self.heard: Fate | None = None
        """What the target has said last. While in doubt, None if it was not reached last time."""
        self._left: dict[SourceAction, int] = {}
        self.started_at: float | None = None
        """Moment (monotonic) of the target's word that the guest runs there."""
        self.resumed_at: float | None = None
        """Moment (monotonic) from which it runs here again."""

    @property
    def migration(self) -> str:
        """Id of the migration."""
        return self._migration

    @property
    def uuid(self) -> str:
        """Uuid of the guest, "" in records of old releases."""
        return self._uuid

    @property
    def state(self) -> SourceState:
        """Where it is in the table."""
        return self._walk.state

    @property
    def target_reason(self) -> str:
        """Why the target does not take the guest, in its words."""
        return self.heard.reason if self.heard is not None else ""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for the state."""
        return self._settled

    async def begin(self) -> None:
        """Write down that the migration exists: the guest runs here, whatever was before."""
        for earlier in await self._host.journal.supersede_outbound(self._job.guest):
            self._host.clear_spool(earlier)
        await self._record(self.state)

    def restore(self, state: SourceState, *, settled: bool = False) -> None:
        """Take up what an earlier process wrote down."""
        self._walk.state, self._settled = state, settled

    async def happen(self, event: SourceEvent) -> None:
        """Take an event: next state on disk, its actions, and what follows from them."""
        await self._walk.take(event)

    async def _write_down(self, step: Step[SourceState, SourceAction]) -> None:
        if step.state is SourceState.DONE and self.started_at is None:
            self.started_at = monotonic()
        # Where nothing is to be done, nothing is left to do that was not before.
        settled = (self._settled and not step.actions) or step.state in SOURCE_LEFT
        if step.state is not self.state or settled is not self._settled:
            await self._note(step.state, settled=settled)
        if step.state in (SourceState.DONE, SourceState.RAN_TWICE):
            self._left.pop(SourceAction.RESUME_GUEST, None)  # it has been started there

    async def _carry_out(self, action: SourceAction) -> SourceEvent | None:
        """Do what a state asks for; what must be done in the end and fails is left for `finish`.

        Raises whatever it is where the hand-over can still be called off.
        """
        try:
            return await self._actions[action](self)
        except Exception as error:
            if self.state is SourceState.HANDING_OVER:
                raise
            if action in _MUST_BE_DONE:
                self._left[action] = 1
                raise_alarm(self._host, self._job, self._missing(action), error, 1)
            else:
                log.exception("%s failed", action)
            if self.state is not SourceState.COMMIT_SENT:
                return None
            await asyncio.sleep(pause_after(1))
            return SourceEvent.LINK_LOST

    async def finish(self) -> None:
        """Try what failed again until it is done, as long as that takes; then note that all is."""
        host, job = self._host, self._job
        for action, attempts in list(self._left.items()):

            async def work(action: SourceAction = action) -> None:
                await self._actions[action](self)

            await until_done(host, job, self._missing(action), work, attempts=attempts)
            del self._left[action]
        noted = f"what became of {job.guest} is not written down"
        await until_done(host, job, noted, self._settle)

    async def _settle(self) -> None:
        self._host.clear_spool(self._migration)
        await self._record(self.state, settled=True)

    def _missing(self, action: SourceAction) -> str:
        guest = self._job.guest
        if action is SourceAction.DISCARD_GUEST:
            return f"the suspended copy of {guest} is still on this host"
        return f"{guest} is not running again, or not started at boot any more"

    async def _note(self, state: SourceState, *, settled: bool) -> None:
        """Write down a state that is entered, as far as it must be; see the top of this module."""
        if state in SOURCE_UNCONFIRMED or state in SOURCE_LEFT:
            what = f"what was decided for {self._job.guest} cannot be written down"
            work = functools.partial(self._record, state, settled=settled)
            await until_done(self._host, self._job, what, work)
            return
        try:
            await self._record(state, settled=settled)
        except JournalFailed as error:
            if state not in (SourceState.ABORTED, SourceState.DONE):
                raise
            log.error("%s is %s, to be written down later: %s", self._job.guest, state, error)

    async def _record(self, state: SourceState, *, settled: bool = False) -> None:
        job = self._job
        entry = Outbound(self._migration, state, job.guest, job.peer, job.job, self._uuid)
        await self._host.journal.record_outbound(entry, settled=settled)
        self._settled = settled

    async def _send_commit(self) -> SourceEvent | None:
        try:
            asking = unless(self._commit(), self._is_told.wait())
            self.heard = await unless(asking, self._pressed())
        except (LinkError, ProtocolError, JobError) as error:
            log.warning("no answer to the commit: %s", error)
            return SourceEvent.LINK_LOST
        if self.heard is not None and self.heard.word in SETTLING:
            return self._leave_doubt(WORDS[self.heard.word])
        word = f"it is {self.heard.word}, {self.heard.reason}" if self.heard else "it is not over"
        log.warning("no word to the commit: %s", word)
        return SourceEvent.LINK_LOST  # ask, by which more is learned

    async def _commit(self) -> Fate:
        async with self._any_dialogue() as dialogue:
            return await dialogue.ask(Commit(self._migration), Fate)

    async def _pressed(self) -> None:
        """Wait until somebody waits for the end of the job, and has for a while."""
        await self._job.abort_requested.wait()
        await asyncio.sleep(_PRESSED)

    async def _ask_target(self) -> SourceEvent | None:
        """Ask until the target's durable word is known, or an operator decides."""
        self.dialogue = None
        self._doubtful_since = self._doubtful_since or monotonic()
        await self._show_doubt()
        self._host.doubts[self._job.job] = self
        self._host.hooks.of(self._job, self._uuid).in_doubt(self._lasting_doubt)
        while (event := await self._next_word()) is None:
            pass
        if event in (SourceEvent.TARGET_FORGOT, SourceEvent.TARGET_READY):
            return event  # these settle nothing
        return self._leave_doubt(event)

    def _leave_doubt(self, event: SourceEvent) -> SourceEvent:
        """Be in doubt no more, because of this event."""
        self._host.doubts.pop(self._job.job, None)
        if self._job.state is JobState.IN_DOUBT:
            self._job.state, self._job.problem = JobState.RUNNING, None
        return event

    @property
    def doubt(self) -> Problem:
        """What is known of a guest in doubt, and why no more."""
        return doubt(self._job.both_names, self._job.peer, self.heard, self._silence)

    def _lasting_doubt(self) -> Problem | None:
        return self.doubt if self._job.state is JobState.IN_DOUBT else None

    async def _show_doubt(self) -> None:
        if self._job.problem != self.doubt:
            log.error("in doubt: %s", self.doubt.text)
        self._job.state, self._job.problem = JobState.IN_DOUBT, self.doubt
        await self._host.jobs.save(self._job)

    async def _next_word(self) -> SourceEvent | None:
        """Wait until the next question is due, and ask it; or return what was told meanwhile."""
        patience = _ASK_AFTER[min(self._asked, len(_ASK_AFTER) - 1)]
        self._asked += 1
        if not await within(self._is_told, patience):
            # Whoever answers slowly, or is always at work, does not keep an operator waiting.
            event = await unless(self._inquire(), self._is_told.wait())
            if event is not None or not self._told:
                return event
        event = self._told.popleft()
        if not self._told:
            self._is_told.clear()
        return event

    def lasts(self, seconds: float) -> bool:
        """Whether this daemon has been in doubt for so long."""
        since = self._doubtful_since
        return since is not None and monotonic() - since > seconds

    def hear(self, fate: Fate) -> None:
        """Have a word that settles the doubt followed, whoever asked the target for it."""
        self.heard = fate
        self._tell(WORDS[fate.word])

    def _tell(self, event: SourceEvent) -> None:
        self._told.append(event)
        self._is_told.set()

    async def _inquire(self) -> SourceEvent | None:
        before = self.heard, self._silence
        try:
            self.heard, self._silence = await self.ask_fate(), ""
        except Exception as error:
            self.heard, self._silence = None, problems_of(error)[0].text
        event = WORDS.get(self.heard.word) if self.heard is not None else None
        if event not in (None, SourceEvent.TARGET_FORGOT):
            return event  # also if it was heard before, and could not be followed then
        if (self.heard, self._silence) == before:
            return None
        if event is None:
            await self._show_doubt()
        return event

    async def ask_fate(self) -> Fate:
        """Ask the target what became of the guest. Raises LinkError, ProtocolError, JobError."""
        async with self._any_dialogue() as dialogue:
            name = self._job.other_name or self._job.guest
            return await dialogue.ask(Inquire(self._migration, self._uuid or None, name), Fate)

    async def was_committed(self) -> bool:
        """Whether the target says that it was told to start the guest; not if it is silent."""
        try:
            async with at_most(_GLIMPSE, f"{self._job.peer} did not answer"):
                fate = await self.ask_fate()
        except (TookTooLong, LinkError, ProtocolError, JobError) as error:
            log.info("could not ask %s: %s", self._job.peer, error)
            return False
        return fate.word in (Word.COMMITTED, Word.STARTED)

    async def keep(self) -> None:
        """Have a guest in doubt run here, by an operator's decision. Returns when the job ended."""
        self._tell(SourceEvent.OPERATOR_KEEPS)
        await self._job.over(decided=True)

    async def give_up(self) -> None:
        """Drop the copy of a guest in doubt, likewise."""
        self._tell(SourceEvent.OPERATOR_GIVES_UP)
        await self._job.over(decided=True)

    async def confirm(self) -> None:
        """Tell the target what an operator decided, until its word is known; say if it was wrong.

        Returns at once when nothing was decided.
        """
        if self.state not in SOURCE_UNCONFIRMED:
            return
        attempt = 0
        while self.state in SOURCE_UNCONFIRMED:
            await asyncio.sleep(_TELL_AFTER[min(attempt, len(_TELL_AFTER) - 1)])
            attempt += 1
            try:
                async with self._any_dialogue() as dialogue:
                    self.heard = await dialogue.ask(self._decided(), Fate)
            except Exception as error:
                log.debug("%s has not heard of the decision yet: %s", self._job.peer, error)
            else:
                if (event := WORDS.get(self.heard.word)) in _CONFIRMING:
                    await self.happen(event)
        what = f"what {self._job.peer} says of {self._job.guest} is not written down"
        await until_done(self._host, self._job, what, self._report_word)

    async def _report_word(self) -> None:
        """Say whether the operator was right."""
        job = self._job
        found = verdict(self.state, job.both_names, job.peer, job.job)
        if found is None:
            log.info("%s confirms what was decided for %s", job.peer, job.guest)
            found = problem("decided", "an operator decided this, and the target has confirmed it")
            done = self.state is SourceState.DONE
            state = JobState.DONE if done else JobState.FAILED
            await self._host.jobs.amend(job.job, state=state, problem=found)
            return
        log.error("%s; %s", found.text, found.hint)
        await self._host.jobs.amend(job.job, state=JobState.FAILED, problem=found)
        if self.state is SourceState.LOST:
            await self._host.journal.put_to_use(self._migration)
            try:
                await self._host.toolstack.configs.restore(job.guest, self._uuid)
            except (ToolstackError, OSError) as error:
                log.error("the configuration of %s was not put back: %s", job.guest, error)

    def _decided(self) -> Abort | Commit:
        if self.state is SourceState.GIVEN_UP:
            return Commit(self._migration)
        return Abort(self._migration, f"an operator of {self._host.config.node} kept the guest")

    @asynccontextmanager
    async def _any_dialogue(self) -> AsyncIterator[Dialogue]:
        """Use the dialogue of the migration while there is one, else one of its own."""
        if self.dialogue is not None:
            yield self.dialogue
            return
        target = open_dialogue(self._host, self._job.peer, settling=True, migration=self._migration)
        async with target as dialogue:
            yield dialogue

    async def _resume_guest(self) -> SourceEvent | None:
        await self._image.rollback()
        self.resumed_at = self.resumed_at or monotonic()
        await self._host.toolstack.configs.release_autostart(self._job.guest)
        return None

    async def _hold_autostart(self) -> SourceEvent | None:
        await self._host.toolstack.configs.hold_autostart(self._job.guest, self._uuid)
        return None

    async def _discard_guest(self) -> SourceEvent | None:
        await self._image.discard()
        return None

    async def _nothing(self) -> SourceEvent | None:
        """Leave it to `confirm`, when the job has ended."""
        return None

    async def _send_abort(self) -> SourceEvent | None:
        """Tell the target, for a while; if it cannot be told, it finds out by itself."""
        reason = self._job.problem.text if self._job.problem is not None else "aborted"
        try:
            limit = at_most(_ABORT_PATIENCE, f"{self._job.peer} did not answer to it")
            target = open_dialogue(
                self._host, self._job.peer, settling=True, migration=self._migration
            )
            async with limit, target as dialogue:
                self.heard = await dialogue.ask(Abort(self._migration, reason), Fate)
            self._job.confirmed = self.heard.word in (Word.ABORTED, Word.NEVER_READY)
            if self.heard.word is Word.STARTED:
                return SourceEvent.TARGET_STARTED
        except Exception as error:
            text = problems_of(error)[0].text
            log.warning("could not tell %s of the abort: %s", self._job.peer, text)
        return None

    _actions: Final[
        dict[SourceAction, Callable[[SourceHandover], Awaitable[SourceEvent | None]]]
    ] = {
        SourceAction.HOLD_AUTOSTART: _hold_autostart,
        SourceAction.SEND_COMMIT: _send_commit,
        SourceAction.ASK_TARGET: _ask_target,
        SourceAction.RESUME_GUEST: _resume_guest,
        SourceAction.DISCARD_GUEST: _discard_guest,
        SourceAction.SEND_ABORT: _send_abort,
        SourceAction.TELL_TARGET: _nothing,
    }
