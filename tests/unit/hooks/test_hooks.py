"""All hooks of a host: what is asked, what is owed, and what cannot keep anybody waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.messages import Mode, Problem, Remark
from xenmoved.config.model import HooksConfig
from xenmoved.hooks import hooks as module
from xenmoved.hooks.about import Direction, HookInput, HookInterface, HookOutcome
from xenmoved.hooks.events import AFTERWARDS, HookEvent
from xenmoved.hooks.hooks import Hooks
from xenmoved.jobs.job import Job
from xenmoved.jobs.report import JobKind, JobState
from xenmoved.problems import Obstructed
from xenmoved.tasks import Guarded

pytestmark = pytest.mark.long

HERE = (HookInterface("00:16:3e:00:00:01", "br0", ("192.0.2.1",)),)
PLAN = HookInput(
    event=HookEvent.BEFORE_ARRIVAL,
    plan=False,
    host="host-b",
    peer="host-a",
    direction=Direction.ARRIVAL,
    job=None,
    mode=Mode.LIVE,
    guest="web",
    other_name="",
    uuid="u",
)


class Board:
    """Keeps remarks."""

    def __init__(self) -> None:
        self.remarks: dict[str, list[Remark]] = {}

    async def remark(self, job: str, found: Any) -> None:
        self.remarks.setdefault(job, []).extend(found)


class World:
    """The hooks of a host in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = HooksConfig(folder / "hooks", 5.0)
        self.board = Board()
        self.state = folder / "state"
        self.hooks = self.fresh()

    def fresh(self) -> Hooks:
        """Return the hooks of a daemon that has just been started."""

        async def look(about: HookInput) -> tuple[HookInterface, ...]:
            return HERE

        board: Any = self.board
        return Hooks("host-b", self.state, board, lambda: self.config, look)

    def put(self, event: HookEvent, name: str, text: str) -> None:
        path = self.config.folder / event.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def record(self, event: HookEvent) -> None:
        self.put(event, "record", f"cat >> {self.folder}/{event}")

    def told(self, event: HookEvent) -> list[str]:
        file = self.folder / event.value
        return file.read_text().splitlines() if file.exists() else []

    @property
    def owed(self) -> list[str]:
        folder = self.state / "hooks"
        return sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def tasks(world: World) -> AsyncIterator[asyncio.TaskGroup]:
    async with Guarded() as group:
        await world.hooks.begin(group)
        yield group


def a_job() -> Job:
    job = Job(JobKind.RECEIVE, "web", "host-a", Mode.LIVE)
    job.state = JobState.RUNNING
    return job


async def test_what_is_before_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hooks there are: the other host waits for them."""
    monkeypatch.setattr(module, "TOGETHER", 1.0)
    for name in ("a", "b", "c"):
        world.put(HookEvent.BEFORE_ARRIVAL, name, "sleep 30")
    found = await world.hooks.plan(PLAN)
    assert [one.code for one in found.problems] == ["hook-failed"] * 2
    assert "before-arrival.d/b of host-b was not run" in found.problems[1].text


async def test_plans_take_turns_with_those_of_the_same_asker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = count_most(world, monkeypatch)
    await asyncio.gather(*(world.hooks.plan(PLAN) for _ in range(8)))
    assert most() == 2
    own = replace(PLAN, direction=Direction.DEPARTURE)
    await asyncio.gather(*(world.hooks.plan(one) for one in (PLAN, PLAN, own, own, own)))
    assert most() == 4, "a peer does not keep an operator of this host waiting"


@pytest.mark.parametrize("event", list(HookEvent))
async def test_a_peer_has_few_hooks_of_an_event_run_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch, tasks: asyncio.TaskGroup, event: HookEvent
) -> None:
    """However many guests it begins to send. Others, and this host's own, do not wait for it."""
    most = count_most(world, monkeypatch)
    comes = replace(PLAN, event=event, plan=False, job="j1", direction=Direction.ARRIVAL)
    many = [comes] * 9
    run = world.hooks.run
    if event in AFTERWARDS:

        async def run(about: HookInput) -> None:
            await world.hooks.pay("j1", about)

    await asyncio.gather(*map(run, many))
    assert most() == 4
    await asyncio.gather(*map(run, [*many, *(replace(one, peer="host-c") for one in many)]))
    assert most() == 8
    await asyncio.gather(*(run(replace(one, direction=Direction.DEPARTURE)) for one in many))
    assert most() == (8 if event in AFTERWARDS else 9)


def count_most(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count for how many jobs hooks are run at the same time."""
    running = most = 0

    async def run(about: HookInput) -> module.HooksSaid:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return module.HooksSaid()

    monkeypatch.setattr(world.hooks, "_run", run)
    return lambda: most


async def test_a_folder_that_cannot_be_read(world: World, tasks: asyncio.TaskGroup) -> None:
    world.config.folder.mkdir()
    for event in (HookEvent.BEFORE_ARRIVAL, HookEvent.FAILURE):
        (world.config.folder / event.folder).write_text("no folder")
    found = await world.hooks.plan(PLAN)
    assert [one.code for one in found.problems] == ["hook-failed"]
    found = await world.hooks.run(replace(PLAN, event=HookEvent.FAILURE))
    assert (found.problems, [one.code for one in found.remarks]) == ((), ["hook-failed"])
    assert len(world.hooks.rows().problems) == 2


async def test_a_link_to_nothing_is_listed_as_what_it_will_do(
    world: World, tasks: asyncio.TaskGroup
) -> None:
    for event in (HookEvent.BEFORE_ARRIVAL, HookEvent.AFTER_ARRIVAL):
        (world.config.folder / event.folder).mkdir(parents=True)
        (world.config.folder / event.folder / "10-gone").symlink_to("/no/such/hook")
    before, after = world.hooks.rows().problems
    assert "before-arrival.d/10-gone" in before.text
    assert before.text.endswith("is a link to nothing: it fails, and no guest may come")
    assert after.text.endswith("is a link to nothing: it fails")


async def test_nothing_is_written_where_there_are_no_hooks(
    world: World, tasks: asyncio.TaskGroup
) -> None:
    job = a_job()
    hooks = world.hooks.attach(job, PLAN)
    await hooks.before()
    await hooks.owe(HookEvent.FAILURE, HookOutcome.STAYED, None)
    assert not world.state.exists()


async def test_what_is_owed_is_run_by_the_next_daemon(world: World) -> None:
    world.record(HookEvent.AFTER_ARRIVAL)
    job, other = a_job(), a_job()
    async with Guarded() as group:
        await world.hooks.begin(group)
        hooks = world.hooks.attach(job, PLAN)
        await hooks.before()
        assert world.owed == [f"{job.job}.json"]
        await world.hooks.attach(other, PLAN).before()
        found = Problem("code", "te\x1bxt", "hint")
        await hooks.owe(HookEvent.AFTER_ARRIVAL, HookOutcome.MOVED, found)
        world.hooks.end()
        hooks.pay()  # too late
    assert world.told(HookEvent.AFTER_ARRIVAL) == []

    (world.state / "hooks" / f".{job.job}.json.tmp").write_text("half")
    async with Guarded() as group:
        later = world.fresh()
        await later.begin(group)
        await later.take_up({job.job})  # still to be settled
        assert world.owed == [f"{job.job}.json"], "nothing is owed for one that was only asked"
        known = later.of(job, "u")
        assert known.about.problems[0].text == "te\\x1bxt"
        await later.begin(group)
        await later.take_up(set())
    (told,) = world.told(HookEvent.AFTER_ARRIVAL)
    assert '"192.0.2.1"' in told, "as the guest is here now"
    assert world.owed == []


async def test_what_cannot_be_written_down_is_run_all_the_same(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.record(HookEvent.FAILURE)
    world.state.write_text("no folder")
    job = a_job()
    async with Guarded() as group:
        await world.hooks.begin(group)
        hooks = world.hooks.attach(job, PLAN)
        await hooks.owe(HookEvent.FAILURE, HookOutcome.STAYED, None)
        hooks.pay()
    assert len(world.told(HookEvent.FAILURE)) == 1
    assert "is not written down" in caplog.text


async def test_what_is_kept_and_cannot_be_read_stops_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    folder = world.state / "hooks"
    folder.mkdir(parents=True)
    (folder / "0123abcd.json").write_text("{}")
    (folder / "0123abce.json").write_bytes(b"\xff")
    async with Guarded() as group:
        await world.hooks.begin(group)
        await world.hooks.take_up(())
    assert caplog.text.count("cannot be used") == 2


async def test_a_peer_cannot_have_more_and_more_hooks_run(world: World) -> None:
    async with Guarded() as group:
        await world.hooks.begin(group)
        for _ in range(64):
            world.hooks.require_room("host-a")
            hooks = world.hooks.attach(a_job(), PLAN)
            await hooks.owe(HookEvent.FAILURE, HookOutcome.STAYED, None)
        with pytest.raises(Obstructed) as refused:
            world.hooks.require_room("host-a")
        assert refused.value.problems[0].code == "hooks-behind"
        world.hooks.require_room("host-c")
        for hooks in list(world.hooks._of_jobs.values()):
            hooks.pay()
    world.hooks.require_room("host-a")


async def test_a_doubt_that_is_over_at_once_is_told_to_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.record(HookEvent.DOUBT)
    monkeypatch.setattr(module, "DOUBT_LASTS", 0.05)
    now = SimpleNamespace(doubt=None)
    async with Guarded() as group:
        await world.hooks.begin(group)
        hooks = world.hooks.attach(a_job(), PLAN)
        hooks.in_doubt(lambda: now.doubt)
        await asyncio.sleep(0.2)
        now.doubt = Problem("in-doubt", "nobody knows", "")
        for _ in range(3):
            hooks.in_doubt(lambda: now.doubt)
    (told,) = world.told(HookEvent.DOUBT)
    assert "nobody knows" in told


async def test_no_hook_is_begun_when_the_daemon_ends(world: World) -> None:
    world.record(HookEvent.CUTOVER)
    async with Guarded() as group:
        await world.hooks.begin(group)
        world.hooks.end()
        world.hooks.attach(a_job(), PLAN).at_cutover()
    assert world.told(HookEvent.CUTOVER) == []
