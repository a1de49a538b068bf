"""The way back needs nothing of what has failed: the journal, the toolstack, any one step.

Records of either journal fail at every state, steps raise what nobody foresaw, and every await of a
job raises once. Each time the guest is owned once, the job ends, and both daemons live.
"""

from __future__ import annotations

import pytest

from protocol.messages import Mode
from tests.support.crash import PATIENCE, World
from xenmoved.control.reports import ENDED
from xenmoved.sandbox.harness import wait_until

AWAITS = range(1, 200, 3)
QUICK_AWAITS = (2, 9, 17, 26, 36)


def ends_well(world: World) -> None:
    pids = [host.pid for host in world.hosts]
    world.wait_quiet()
    assert [host.pid for host in world.hosts] == pids
    assert not any(host.dead for host in world.hosts)
    world.owner()
    for host in world.hosts:
        report = host.last_job()
        assert report.state in ENDED
        assert host.alarms() == []


@pytest.mark.parametrize(
    ("at_source", "point"),
    [
        (True, "outbound:handing-over:before"),
        (True, "outbound:commit-sent:before"),
        (True, "outbound:done:before"),
        (True, "outbound:settled:before"),
        (False, "inbound:ready:before"),
        (False, "inbound:committed:before"),
        (False, "inbound:started:before"),
        (False, "inbound:settled:before"),
    ],
)
def test_record_that_cannot_be_written(worlds, at_source, point):
    with worlds.use() as world:
        source = world.source
        failing = source if at_source else world.other(source)
        failing.arm(f"unwritable=3@{point}")
        source.migrate(world.other(source))
        wait_until(lambda: failing.fired, "the fault", PATIENCE)
        ends_well(world)


@pytest.mark.parametrize(
    ("at_source", "point"),
    [
        (True, "outgoing:start:before"),
        (True, "outgoing:discard:before"),
        (True, "ask:Commit:before"),
        (True, "ask:Commit:after"),
        (False, "incoming:build:before"),
        (False, "incoming:commit:before"),
        (False, "incoming:commit:after"),
        (False, "answer:Commit:after"),
    ],
)
def test_step_that_raises_what_nobody_foresaw(worlds, at_source, point):
    with worlds.use() as world:
        source = world.source
        failing = source if at_source else world.other(source)
        failing.arm(f"raise=UnicodeError@{point}")
        source.migrate(world.other(source))
        wait_until(lambda: failing.fired, "the fault", PATIENCE)
        ends_well(world)


@pytest.mark.parametrize("number", QUICK_AWAITS)
def test_await_that_raises(worlds, number):
    await_raises(worlds, number, Mode.SAVE)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE])
def test_every_await_that_raises(worlds, mode):
    for number in AWAITS:
        await_raises(worlds, number, mode)


def await_raises(worlds, number, mode):
    with worlds.use() as world:
        source = world.source
        source.arm(f"await={number}@job")
        source.migrate(world.other(source), mode)
        wait_until(lambda: source.fired, "the fault", PATIENCE)
        ends_well(world)
