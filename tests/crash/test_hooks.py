"""Whatever ends when: the hooks of both hosts hear what became of the guest, and it is true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import GUEST, PATIENCE, CrashHost, World, Worlds
from tests.support.faulty_daemon import LIMITS
from xenmoved.hooks.events import AFTERWARDS, HookEvent
from xenmoved.sandbox.harness import wait_until

RECORD = """#!/bin/sh
cat > {place}/$$.part && mv {place}/$$.part {place}/$(date +%s%N)-$$.json
"""
SOON = {
    LIMITS: "xenmoved.hooks.hooks.DOUBT_LASTS=0.2 xenmoved.migration.target.handover.LOOK_EVERY=2"
}


class Told:
    """What the hooks of a host were told."""

    def __init__(self, host: CrashHost, place: Path) -> None:
        self.host = host
        self.place = place / host.name
        self.place.mkdir()
        for event in HookEvent:
            hook = host.hooks / event.folder / "50-record"
            hook.parent.mkdir(parents=True)
            hook.write_text(RECORD.format(place=self.place))
            hook.chmod(0o755)

    def all(self, *events: HookEvent) -> list[dict[str, Any]]:
        """Return what they were told in earnest at these events."""
        found = [json.loads(file.read_text()) for file in sorted(self.place.glob("*.json"))]
        return [one for one in found if not one["plan"] and one["event"] in events]

    @property
    def owed(self) -> list[Path]:
        """What is still to be run."""
        folder = self.host.folder / "state" / "hooks"
        return list(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def world(worlds: Worlds) -> Iterator[World]:
    """A world with hosts that may have hooks."""
    with worlds.use() as world:
        yield world
        for host in world.hosts:
            shutil.rmtree(host.hooks, ignore_errors=True)


@pytest.fixture
def told(world: World, tmp_path: Path) -> dict[str, Told]:
    """The hooks of both hosts, by their names."""
    return {host.name: Told(host, tmp_path) for host in world.hosts}


AT_SOURCE = (
    "hooks:before-departure:before",
    "hooks:before-departure:after",
    "hooks:kept:before",
    "outbound:phase-provision",
    "hooks:cutover:before",
    "outbound:handing-over:after",
    "outbound:commit-sent:after",
    "outbound:done:after",
    "hooks:owed:before",
    "hooks:owed:after",
    "outbound:settled:after",
    "hooks:after-departure:before",
    "hooks:after-departure:after",
    "hooks:forgotten:after",
)
AT_TARGET = (
    "hooks:before-arrival:before",
    "hooks:before-arrival:after",
    "inbound:receiving:after",
    "inbound:ready:after",
    "inbound:committed:after",
    "hooks:cutover:before",
    "inbound:started:after",
    "hooks:owed:before",
    "hooks:owed:after",
    "inbound:settled:after",
    "hooks:after-arrival:before",
    "hooks:after-arrival:after",
    "hooks:forgotten:after",
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("at_source", "point"),
    [*((True, point) for point in AT_SOURCE), *((False, point) for point in AT_TARGET)],
)
def test_a_daemon_is_killed(
    world: World, told: dict[str, Told], at_source: bool, point: str
) -> None:
    source = world.source
    target = world.other(source)
    here = source if at_source else target
    # Where there is no job yet the hooks of a plan are asked: these pass the point first.
    asked = point.startswith("hooks:before")
    here.arm(*([f"hang=0@{point}"] if asked else []), f"kill@{point}")
    source.migrate(target)
    wait_until(lambda: here.fired, "the fault", PATIENCE)
    wait_until(lambda: here.dead, "the end of the daemon", PATIENCE)
    world.restart_dead()
    world.wait_quiet()
    moved = world.owner() is target
    for host in world.hosts:
        hooks = told[host.name]
        event = (
            HookEvent.FAILURE
            if not moved
            else HookEvent.AFTER_DEPARTURE
            if host is source
            else HookEvent.AFTER_ARRIVAL
        )
        begun = host is source or hooks.all(HookEvent.BEFORE_ARRIVAL)
        if begun:
            wait_until(lambda hooks=hooks, event=event: bool(hooks.all(event)), event, PATIENCE)
        wait_until(lambda hooks=hooks: not hooks.owed, "nothing owed", PATIENCE)
        heard = hooks.all(*AFTERWARDS)
        assert {one["event"] for one in heard} <= {event}, "never what is not so"
        assert {one["guest"] for one in heard} <= {GUEST}
        assert 1 - (not begun) <= len(heard) <= 2, "once more only where the daemon was killed"
        assert len(hooks.all(HookEvent.CUTOVER)) <= 1


def test_a_doubt_that_lasts_is_told_and_settled_as_before(
    world: World, told: dict[str, Told]
) -> None:
    source = world.source
    target = world.other(source)
    source.stop()
    source.launch(**SOON)
    source.wait_ready()
    target.arm("kill@inbound:committed:after")
    source.migrate(target)
    wait_until(lambda: target.dead, "the end of the daemon", PATIENCE)
    doubt = told[source.name]
    wait_until(lambda: bool(doubt.all(HookEvent.DOUBT)), "the doubt", PATIENCE)
    (heard,) = doubt.all(HookEvent.DOUBT)
    assert heard["outcome"] is None
    assert heard["problems"][0]["code"]
    assert not doubt.all(*AFTERWARDS)
    world.restart_dead()
    world.wait_quiet()
    wait_until(lambda: bool(doubt.all(*AFTERWARDS)), "what became of it", PATIENCE)
    world.owner()
    source.stop()
    source.launch()
    source.wait_ready()


@pytest.mark.thorough
def test_a_doubt_of_the_target(world: World, told: dict[str, Told]) -> None:
    source = world.source
    target = world.other(source)
    target.stop()
    target.launch(**SOON)
    target.wait_ready()
    target.arm("raise=OSError@incoming:commit:before", "raise=OSError@incoming:settle:before")
    source.migrate(target)
    doubt = told[target.name]
    wait_until(lambda: bool(doubt.all(HookEvent.DOUBT)), "the doubt", PATIENCE)
    (heard,) = doubt.all(HookEvent.DOUBT)
    assert (heard["direction"], heard["outcome"]) == ("arrival", None)
    assert heard["problems"][0]["code"] == "in-doubt"
    world.wait_quiet()
    wait_until(lambda: bool(doubt.all(*AFTERWARDS)), "what became of it", PATIENCE)
    event = "after-arrival" if world.owner() is target else "failure"
    assert [one["event"] for one in doubt.all(*AFTERWARDS)] == [event]
    target.stop()
    target.launch()
    target.wait_ready()
