"""All hooks of this host, and those of one job.

What is before a move is asked, and waited for. Everything else is only begun here: nothing of a
hand-over ever waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from protocol.messages import Problem, Remark
from xenmoved.config.model import HooksConfig
from xenmoved.hooks import said
from xenmoved.hooks.about import Direction, HookInput, HookInterface, HookOutcome
from xenmoved.hooks.events import AFTERWARDS, BEFORE, HookEvent
from xenmoved.hooks.found import FoundHooks, SkippedHook, any_there, find
from xenmoved.hooks.owed import OwedHooks, OwedStore
from xenmoved.hooks.report import HookRow, HookRows, SkippedRow
from xenmoved.hooks.running import run_hook
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind
from xenmoved.logs import log_context, printable
from xenmoved.problems import Obstructed, problem
from xenmoved.remarks import to_look_at, together

log = logging.getLogger(__name__)

DOUBT_LASTS: Final = 5.0
"""Seconds after which a doubt is one: most are settled by the first question."""
TOGETHER: Final = 300.0
"""Seconds for all hooks that a host asks before a move: the other host waits for them."""
_AT_A_TIME: Final = 8
"""Jobs whose hooks are run afterwards at the same time."""
_ASKED_AT_A_TIME: Final = 2
"""Plans, of this host's operators and of each peer, for which hooks are asked at the same time."""
_OF_A_PEER: Final = 4
"""Guests that come from a peer for which the hooks of an event are run at the same time."""
MOST_OWED: Final = 64
"""Jobs of a peer that have ended, and whose hooks have not."""

Look = Callable[[HookInput], Awaitable[tuple[HookInterface, ...] | None]]
"""Returns the interfaces that a guest has on this host now, None where that is not known."""


@dataclass(frozen=True, slots=True)
class HooksSaid:
    """What came of running the hooks of an event."""

    problems: tuple[Problem, ...] = ()
    remarks: tuple[Remark, ...] = ()


class Hooks:
    """The hooks of this host. `settings` returns what the configuration says of them now."""

    def __init__(
        self,
        node: str,
        state_dir: Path,
        jobs: JobBoard,
        settings: Callable[[], HooksConfig],
        look: Look,
    ) -> None:
        self.node = node
        self.jobs = jobs
        self._settings = settings
        self._look = look
        self._store = OwedStore(state_dir / "hooks")
        self._of_jobs: dict[str, JobHooks] = {}
        self._kept: dict[str, OwedHooks] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._afterwards = asyncio.Semaphore(_AT_A_TIME)
        self._asking: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_ASKED_AT_A_TIME)
        )
        self._coming: defaultdict[tuple[str, HookEvent], asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_OF_A_PEER)
        )

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Run hooks in `tasks` from now on; what an earlier daemon has kept is read."""
        self._tasks = tasks
        self._kept = await self._store.all()

    async def take_up(self, unsettled: Collection[str]) -> None:
        """Run what an earlier daemon owed, but for the jobs that are still to be settled."""
        for job in [job for job in self._kept if job not in unsettled]:
            kept = self._kept.pop(job)
            if kept.owed:
                log.info("the hooks at %s of job %s are run now", kept.about.event, job)
                self.spawn(self.pay(job, kept.about))
            else:
                await self._store.forget(job)

    def end(self) -> None:
        """Begin nothing more, as the daemon ends: what is owed is left to the next one."""
        self._tasks = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside everything else; nothing where the daemon is at its end."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(work)

    def require_room(self, peer: str) -> None:
        """Raise Obstructed while too many hooks are still to be run of what came from a peer."""
        behind = [one for one in self._of_jobs.values() if one.owes and one.about.peer == peer]
        if len(behind) >= MOST_OWED:
            text = f"the hooks of {self.node} are still at {len(behind)} guests of {peer}"
            hint = f"see on {self.node} why they take long: xenmovectl hooks; then try again"
            raise Obstructed([problem("hooks-behind", text, hint)])

    async def plan(self, about: HookInput) -> HooksSaid:
        """Ask what would stand in the way of a move, all hooks of it. Nothing is changed."""
        return await self.run(replace(about, plan=True, job=None))

    def _turn(self, about: HookInput) -> AbstractAsyncContextManager[None]:
        """Return what limits how many hooks run at the same time of what others begin here.

        What this host's operators begin they limit themselves, but for plans.
        """
        comes = about.direction is Direction.ARRIVAL
        if about.plan:
            return self._asking[about.peer if comes else ""]
        return self._coming[about.peer, about.event] if comes else nullcontext()

    def attach(self, job: Job, about: HookInput) -> JobHooks:
        """Have a job that begins have hooks, which are told this."""
        made = JobHooks(self, job, replace(about, job=job.job))
        self._of_jobs[job.job] = made
        return made

    def of(self, job: Job, uuid: str) -> JobHooks:
        """Return the hooks of a job, of an earlier daemon if need be."""
        if (there := self._of_jobs.get(job.job)) is not None:
            return there
        kept = self._kept.pop(job.job, None)
        return self.attach(job, kept.about if kept is not None else self._known(job, uuid))

    def _known(self, job: Job, uuid: str) -> HookInput:
        """Return what is known of a job of which nothing was kept."""
        leaves = job.kind is JobKind.MIGRATE
        return HookInput(
            event=HookEvent.BEFORE_DEPARTURE if leaves else HookEvent.BEFORE_ARRIVAL,
            plan=False,
            host=self.node,
            peer=job.peer,
            direction=Direction.DEPARTURE if leaves else Direction.ARRIVAL,
            job=job.job,
            mode=job.mode,
            guest=job.guest,
            other_name=job.other_name,
            uuid=uuid,
        )

    async def keep(self, job: str, about: HookInput, *, owed: bool) -> None:
        """Write down what a job tells its hooks, where there are any."""
        folder = self._settings().folder
        await self._store.keep(job, OwedHooks(about, owed), lambda: any_there(folder))

    async def pay(self, job: str, about: HookInput) -> None:
        """Run what is owed for a job that has ended, and add the remarks to its report."""
        try:
            # A peer that waits for its own turn takes none of those of all.
            async with self._turn(about), self._afterwards:
                if about.event is HookEvent.AFTER_ARRIVAL:
                    about = replace(about, interfaces=await self._look(about) or about.interfaces)
                found = await self._run(about)
            await self.jobs.remark(job, found.remarks)
            await self._store.forget(job)
        finally:
            self._of_jobs.pop(job, None)

    async def run(self, about: HookInput) -> HooksSaid:
        """Run the hooks of an event, one after the other. Raises nothing that a word can say.

        Where they have a veto, none is run any more after one that objects, but in a plan. Those of
        what a peer begins here wait for their turn.
        """
        async with self._turn(about):
            return await self._run(about)

    async def _run(self, about: HookInput) -> HooksSaid:
        event, settings = about.event, self._settings()
        of_job = {"job": about.job} if about.job else {}
        with log_context(domain=about.guest, peer=about.peer, **of_job):
            try:
                found = await asyncio.to_thread(find, settings.folder, event)
            except OSError as error:
                return self._unreadable(event, error)
            remarks = [self._skipped(event, one) for one in found.skipped]
            return await self._run_each(about, found, settings.limit, remarks)

    async def _run_each(
        self, about: HookInput, found: FoundHooks, limit: float, remarks: list[Remark]
    ) -> HooksSaid:
        event, told, began = about.event, about.encoded(), monotonic()
        problems: list[Problem] = []
        for hook in found.hooks:
            left = TOGETHER - (monotonic() - began)
            if event in BEFORE and left <= 0:
                problems.append(said.not_reached(event, self.node, hook.name, TOGETHER))
                break
            seconds = min(limit, left) if event in BEFORE else limit
            ended = await run_hook(hook, event, told, seconds)
            log.info("hook %s/%s: %s", event.folder, hook.name, ended.failed or "done")
            remarks += said.remark(event, self.node, ended)
            if (against := said.objection(event, self.node, ended)) is not None:
                problems.append(against)
                if not about.plan:
                    break
        words: list[Problem | Remark] = [*problems, *remarks]
        for word in words:
            log.warning("%s; %s", word.text, word.hint)
        return HooksSaid(tuple(problems), together(remarks))

    def _unreadable(self, event: HookEvent, error: OSError) -> HooksSaid:
        text, hint = said.unreadable(event, self.node, error)
        log.error("%s; %s", text, hint)
        if event in BEFORE:
            return HooksSaid((problem(said.FAILED, text, hint),))
        return HooksSaid(remarks=(to_look_at(said.FAILED, text, hint),))

    def _skipped(self, event: HookEvent, one: SkippedHook) -> Remark:
        return said.skipped(event, self.node, one, printable(one.name))

    def rows(self) -> HookRows:
        """Return which hooks this host would run for which event. Blocks."""
        settings = self._settings()
        hooks: list[HookRow] = []
        skipped: list[SkippedRow] = []
        problems: list[Problem] = []
        for event in HookEvent:
            try:
                found = find(settings.folder, event)
            except OSError as error:
                problems.append(problem(said.FAILED, *said.unreadable(event, self.node, error)))
                continue
            hooks += [
                HookRow(event, one.name, printable(str(one.path))[:4000]) for one in found.hooks
            ]
            problems += [
                problem(said.FAILED, *said.missing(event, self.node, one.name))
                for one in found.hooks
                if not one.path.exists()
            ]
            skipped += [
                SkippedRow(
                    *(event, printable(one.name)[:1000], one.why[:4000], one.hint[:4000]),
                    one.unsafe,
                )
                for one in found.skipped
            ]
        return HookRows(
            folder=printable(str(settings.folder))[:4000],
            limit=settings.limit,
            hooks=tuple(hooks[:1000]),
            skipped=tuple(skipped[:1000]),
            problems=tuple(problems[:1000]),
        )


class JobHooks:
    """The hooks of one job: what they are told changes as it goes on."""

    def __init__(self, hooks: Hooks, job: Job, about: HookInput) -> None:
        self._hooks = hooks
        self._job = job
        self.about = about
        self.owes = False
        self._doubted = False

    async def before(self) -> None:
        """Ask the hooks that have a veto. Raises Obstructed with what they object."""
        await self._hooks.keep(self._job.job, self.about, owed=False)
        self._job.note("asking the hooks of this host")
        found = await self._hooks.run(self.about)
        self._job.remarks = together(self._job.remarks, found.remarks)
        self._job.note("")
        if found.problems:
            raise Obstructed(found.problems)

    def at_cutover(self) -> None:
        """Begin the hooks of the moment. Does not wait, and never fails."""
        self._hooks.spawn(self._beside(replace(self.about, event=HookEvent.CUTOVER)))

    def in_doubt(self, doubtful: Callable[[], Problem | None]) -> None:
        """Have the hooks of a doubt run if it lasts; `doubtful` returns it, None when it is over.

        Once for each process of the daemon. Does not wait, and never fails.
        """
        if not self._doubted:
            self._doubted = True
            self._hooks.spawn(self._doubt(doubtful))

    async def _doubt(self, doubtful: Callable[[], Problem | None]) -> None:
        await asyncio.sleep(DOUBT_LASTS)
        if (found := doubtful()) is None:
            self._doubted = False
            return
        await self._beside(replace(self.about, event=HookEvent.DOUBT).with_problems(found))

    async def _beside(self, about: HookInput) -> None:
        found = await self._hooks.run(about)
        await self._hooks.jobs.remark(self._job.job, found.remarks)

    async def owe(self, event: HookEvent, outcome: HookOutcome, found: Problem | None) -> None:
        """Note what became of the guest, durably, for the hooks that are run when all is settled.

        Takes moments, and never fails: where it cannot be written down they are run all the same,
        unless the daemon ends before.
        """
        assert event in AFTERWARDS
        about = replace(self.about, event=event, outcome=outcome, blackout=self._job.blackout)
        self.about = about.with_problems(found)
        self.owes = True
        await self._hooks.keep(self._job.job, self.about, owed=True)

    def pay(self) -> None:
        """Begin what is owed, as the job has ended. Does not wait, and never fails."""
        if self.owes:
            about = replace(self.about, blackout=self._job.blackout)
            self._hooks.spawn(self._hooks.pay(self._job.job, about))
