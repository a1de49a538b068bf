"""The source's half of the hand-over: walks `protocol.handover.SOURCE`, also after a crash.

Every state is in the journal before its actions are carried out. Until the record is settled, a
restart of the daemon goes on from it; every action may be carried out twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from protocol.errors import ProtocolError
from protocol.handover import SourceAction, SourceEvent, SourceState, TargetState, source_step
from protocol.messages import Abort, Aborted, Commit, Fate, Inquire, Problem, Started
from xenmoved.control.api import JobState
from xenmoved.jobs import Job
from xenmoved.journal import Outbound
from xenmoved.link.errors import LinkError
from xenmoved.migration.dialogue import Dialogue, open_dialogue
from xenmoved.migration.host import Host
from xenmoved.problems import JobError, problem
from xenmoved.toolstack.interface import OutgoingImage, ToolstackError

log = logging.getLogger(__name__)

_ABORT_PATIENCE: Final = 10.0
_ASK_AFTER: Final = (0.0, 0.2, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each attempt to learn the target's word, the last for all further ones."""

_WORDS: Final = {
    TargetState.READY: SourceEvent.TARGET_READY,
    TargetState.STARTED: SourceEvent.TARGET_STARTED,
    TargetState.ABORTED: SourceEvent.TARGET_ABORTED,
}
"""What the target's state means to the source; in every other it is to be asked again."""


class Ownership:
    """Who owns one guest that is being sent, as the source knows it."""

    def __init__(self, host: Host, job: Job, migration: str, image: OutgoingImage) -> None:
        self._host = host
        self._job = job
        self._migration = migration
        self._image = image
        self.state = SourceState.COPYING
        self.dialogue: Dialogue | None = None
        self._asked = 0
        self.target_reason = ""
        self.unfinished: Problem | None = None
        self.started_at: float | None = None
        """Moment (monotonic) of the target's word that the guest runs there."""

    async def begin(self) -> None:
        """Write down that the migration exists: the guest runs here, whatever was before."""
        for earlier in await self._host.journal.supersede_outbound(self._job.guest):
            self._host.clear_spool(earlier)
        await self._record(self.state)

    def restore(self, state: SourceState) -> None:
        """Take up what an earlier process wrote down."""
        self.state = state

    async def happen(self, event: SourceEvent) -> None:
        """Take an event: next state on disk, its actions, and what follows from them."""
        following: SourceEvent | None = event
        while following is not None:
            step = source_step(self.state, following)
            log.info("hand-over: %s in %s -> %s", following, self.state, step.state)
            if step.state is SourceState.DONE and self.started_at is None:
                self.started_at = monotonic()
            await self._record(step.state)
            self.state, following = step.state, None
            for action in step.actions:
                following = await self._actions[action](self) or following

    async def settle(self) -> None:
        """Write down that nothing is left to do."""
        self._host.clear_spool(self._migration)
        await self._record(self.state, settled=True)

    async def _record(self, state: SourceState, *, settled: bool = False) -> None:
        entry = Outbound(self._migration, state, self._job.guest, self._job.peer, self._job.job)
        await self._host.journal.record_outbound(entry, settled=settled)

    async def _send_commit(self) -> SourceEvent | None:
        try:
            async with self._any_dialogue() as dialogue:
                answer = await dialogue.ask(Commit(self._migration), Started, Aborted)
        except (LinkError, ProtocolError, JobError) as error:
            log.warning("no answer to the commit: %s", error)
            return SourceEvent.LINK_LOST
        return self._word(answer)

    async def _ask_target(self) -> SourceEvent | None:
        """Ask until the target's durable word is known. Ends only then, or with the daemon."""
        self.dialogue = None
        self._job.state = JobState.IN_DOUBT
        self._job.problem = problem(
            "in-doubt",
            f"{self._job.peer} was told to take {self._job.guest}, and its answer is not known: "
            "the guest stays suspended here until it is",
            f"bring {self._job.peer} and the network to it back; nothing is lost meanwhile",
        )
        await self._host.jobs.save(self._job)
        while True:
            await asyncio.sleep(_ASK_AFTER[min(self._asked, len(_ASK_AFTER) - 1)])
            self._asked += 1
            try:
                if (event := await self._inquire()) is not None:
                    self._job.state, self._job.problem = JobState.RUNNING, None
                    return event
            except (LinkError, ProtocolError, JobError) as error:
                log.warning("in doubt: %s", error)

    async def _inquire(self) -> SourceEvent | None:
        async with self._any_dialogue() as dialogue:
            fate = await dialogue.ask(Inquire(self._migration), Fate)
        self.target_reason = fate.reason
        return _WORDS.get(fate.state)

    @asynccontextmanager
    async def _any_dialogue(self) -> AsyncIterator[Dialogue]:
        """Use the dialogue of the migration while there is one, else one of its own."""
        if self.dialogue is not None:
            yield self.dialogue
            return
        link = await self._host.link(self._job.peer)
        async with await open_dialogue(link, self._host.config.node) as dialogue:
            yield dialogue

    def _word(self, answer: Started | Aborted) -> SourceEvent:
        if isinstance(answer, Started):
            return SourceEvent.TARGET_STARTED
        self.target_reason = answer.reason
        return SourceEvent.TARGET_ABORTED

    async def _resume_guest(self) -> SourceEvent | None:
        await self._tidy(self._image.rollback(), f"{self._job.guest} is not running again")
        return None

    async def _discard_guest(self) -> SourceEvent | None:
        text = f"the suspended copy of {self._job.guest} is still on this host"
        await self._tidy(self._image.discard(), text)
        return None

    async def _tidy(self, work: Awaitable[None], otherwise: str) -> None:
        """Do what the decided owner asks for. If it fails, it is tried again after a restart."""
        try:
            await work
        except (ToolstackError, OSError) as error:
            log.exception("%s", otherwise)
            hint = "xenmoved tries again when it is restarted"
            self.unfinished = problem("unfinished", f"{otherwise}: {error}", hint)

    async def _send_abort(self) -> SourceEvent | None:
        """Tell the target, for a while; if it cannot be told, it finds out by itself."""
        reason = self._job.problem.text if self._job.problem is not None else "aborted"
        try:
            async with asyncio.timeout(_ABORT_PATIENCE):
                link = await self._host.link(self._job.peer)
                async with await open_dialogue(link, self._host.config.node) as dialogue:
                    await dialogue.ask(Abort(self._migration, reason), Aborted)
        except (TimeoutError, LinkError, ProtocolError, JobError) as error:
            log.warning("could not tell %s of the abort: %s", self._job.peer, error or "no answer")
        return None

    _actions: Final[dict[SourceAction, Callable[[Ownership], Awaitable[SourceEvent | None]]]] = {
        SourceAction.SEND_COMMIT: _send_commit,
        SourceAction.ASK_TARGET: _ask_target,
        SourceAction.RESUME_GUEST: _resume_guest,
        SourceAction.DISCARD_GUEST: _discard_guest,
        SourceAction.SEND_ABORT: _send_abort,
    }
