"""How the target tidies up, whatever became of the guest."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.handover import TargetEvent, TargetState
from protocol.messages import Mode, Problem
from xenmoved.hooks.about import HookOutcome
from xenmoved.hooks.events import HookEvent
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, JobState
from xenmoved.migration.target import handover as target_handover
from xenmoved.migration.target.handover import TargetHandover


class Guest:
    """Notes what is done with what has come; `broken` is what cannot be done now."""

    name, peer, migration = "web", "b", "f" * 32
    remarks_noted = True
    broken = ""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.job = Job(JobKind.RECEIVE, "web", "b", Mode.LIVE)
        self.expected = SimpleNamespace(
            was_ready=True, all_remarks=(), unweighed=[], uuid="", cold=False
        )
        self.hooks: list[str] = []
        self.host: Any = SimpleNamespace(
            alarms={},
            doubts={},
            clear_spool=lambda _: self.done.append("clear"),
            jobs=SimpleNamespace(end=self._end, amend=self._amend, save=self._end),
            hooks=SimpleNamespace(of=lambda *_: self),
        )
        self.ended: list[JobState] = []
        self.amended: list[JobState] = []

    async def _end(self, job: Job, state: JobState, problem: object = None) -> None:
        self.ended.append(state)

    async def _amend(self, job: str, *, state: JobState, problem: object) -> None:
        self.amended.append(state)

    def at_cutover(self) -> None:
        self.hooks.append("cutover")

    def in_doubt(self, doubtful: Callable[[], Problem | None]) -> None:
        self.hooks.append("doubt")

    async def owe(self, event: HookEvent, outcome: HookOutcome, found: Problem | None) -> None:
        assert "clear" in self.done, "all else is tidied up"
        self.hooks.append(f"{event} {outcome}")

    def pay(self) -> None:
        assert self.ended, "nobody waits for hooks"
        self.hooks.append("paid")

    async def write_down(self, state: object, reason: str, *, settled: bool = False) -> None:
        pass

    async def _do(self, what: str) -> None:
        if self.broken == what:
            raise OSError(f"{what} is broken")
        self.done.append(what)

    async def keep_copies(self) -> None:
        await self._do("retain")

    async def settle_in(self) -> None:
        await self._do("settle in")

    async def remove(self) -> None:
        await self._do("remove")


def handover_of(guest: Any, monkeypatch: pytest.MonkeyPatch) -> TargetHandover:
    monkeypatch.setattr(target_handover, "raise_alarm", lambda *_: None)
    monkeypatch.setattr(target_handover, "end_alarm", lambda *_: None)
    monkeypatch.setattr(target_handover, "pause_after", lambda _: 0.0)
    return TargetHandover(guest)


async def test_a_guest_that_ran_twice_settles_in_and_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest = Guest()
    handover = handover_of(guest, monkeypatch)
    handover.take_up(TargetState.COMMITTED, "")
    guest.broken = "settle in"
    await handover.happen(TargetEvent.GUEST_RUNS)
    assert handover.state is TargetState.STARTED
    assert not handover.ended.is_set()
    await handover.happen(TargetEvent.ABORT)
    assert handover.state is TargetState.RAN_TWICE
    guest.broken = ""
    for _ in range(3):
        await handover.go_on()
    assert handover.ended.is_set()
    assert guest.done == ["settle in", "clear"], "its volumes are no copies: it runs here"
    assert (guest.ended, guest.amended) == ([JobState.FAILED], [])
    assert guest.hooks[-2:] == ["failure decided", "paid"]


async def test_a_job_that_has_ended_is_put_right_when_the_guest_ran_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest = Guest()
    handover = handover_of(guest, monkeypatch)
    handover.take_up(TargetState.COMMITTED, "")
    await handover.happen(TargetEvent.GUEST_RUNS)
    await handover.happen(TargetEvent.ABORT)
    assert (guest.ended, guest.amended) == ([JobState.DONE], [JobState.FAILED])
    assert guest.done == ["settle in", "clear"]
    assert guest.hooks == ["after-arrival moved", "paid"]


async def test_only_what_was_given_up_leaves_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest()
    handover = handover_of(guest, monkeypatch)
    await handover.happen(TargetEvent.ABORT)
    assert handover.state is TargetState.ABORTED
    assert guest.done == ["remove", "retain", "clear"]
    assert guest.ended == [JobState.FAILED]
    assert guest.hooks == ["failure stayed", "paid"]
