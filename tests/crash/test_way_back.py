"""The way back needs nothing of what has failed: the journal, the toolstack, any one step.

Records of either journal fail at every state, steps raise what nobody foresaw, and every await of a
job raises once. Each time the guest is owned once, the job ends, and both daemons live.
"""

from __future__ import annotations

import signal
import time
from contextlib import closing

import pytest

from protocol.messages import Mode
from tests.support.crash import EXECUTES, GUEST, PATIENCE, SETTINGS, World, Worlds
from xenmoved.jobs.report import ENDED
from xenmoved.sandbox.harness import wait_until

AWAITS = range(1, 200, 3)
QUICK_AWAITS = (2, 9, 17, 26, 36)


def ends_well(world: World) -> None:
    pids = [host.pid for host in world.hosts]
    world.wait_quiet()
    # A target may yet begin what its source has called off a moment ago, and undo it.
    time.sleep(0.5)
    world.wait_quiet()
    assert [host.pid for host in world.hosts] == pids
    assert not any(host.dead for host in world.hosts)
    world.owner()
    for host in world.hosts:
        # What ended before it was offered to the target is no job there.
        assert [report for report in host.all_jobs() if report.state not in ENDED] == []
        assert host.alarms() == []


def ends_well_despite(worlds: Worlds, at_source: bool, fault: str) -> None:
    """Migrate with a fault armed at one of the hosts, and check the end of it."""
    with worlds.use() as world:
        source = world.source
        failing = source if at_source else world.other(source)
        failing.arm(fault)
        source.migrate(world.other(source))
        wait_until(lambda: failing.fired, "the fault", PATIENCE)
        ends_well(world)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("at_source", "point"),
    [
        (True, "outbound:handing-over:before"),
        (True, "outbound:commit-sent:before"),
        (True, "outbound:done:before"),
        (False, "inbound:ready:before"),
        (False, "inbound:committed:before"),
        (False, "inbound:started:before"),
        pytest.param(True, "outbound:settled:before", marks=pytest.mark.slow),
        pytest.param(False, "inbound:settled:before", marks=pytest.mark.slow),
    ],
)
def test_record_that_cannot_be_written(worlds, at_source, point):
    ends_well_despite(worlds, at_source, f"unwritable=1@{point}")


@pytest.mark.thorough
@pytest.mark.parametrize("point", ["inbound:committed:after", "inbound:ready:after"])
def test_target_that_gave_up_without_a_record_says_so_when_its_copy_is_gone(worlds, point):
    """The record that failed is on the disk all the same: a restart goes on from it."""
    with worlds.use("xm") as world:
        source, target = world.source, world.other(world.source)
        target.xen.faults(destroy={"fail": "busy"})
        target.arm(f"unanswered=600@{point}")
        source.migrate(target)
        wait_until(lambda: target.alarms() == ["unfinished"], "the alarm", PATIENCE)
        if "committed" in point:
            said = f"({target.name} says: receiving)"
            wait_until(
                lambda: any(job.problem and said in job.problem.text for job in source.jobs()),
                "the doubt",
                PATIENCE,
            )
            assert source.domains().get(GUEST) not in EXECUTES
        target.stop(signal.SIGKILL)
        target.xen.faults()
        target.start()
        ends_well(world)


@pytest.mark.thorough
def test_source_whose_commit_is_on_the_disk_though_its_record_failed_sends_none(tmp_path):
    """The target waits for Commit all the while, and the source cannot see at first what runs."""
    with closing(World(tmp_path, timeouts={**SETTINGS["timeouts"], "ready": "60s"})) as world:
        world.start()
        source, target = world.source, world.other(world.source)
        source.arm("unanswered=600@outbound:commit-sent:after", "kill@outgoing:rollback:after")
        source.migrate(target)
        wait_until(lambda: source.dead, "the fault", PATIENCE)
        assert source.domains()[GUEST] in EXECUTES
        assert source.query("SELECT state FROM outbound") == [("commit-sent",)]
        source.xen.faults(list={"fail": "busy"})
        source.start()
        time.sleep(1)
        assert target.domains()[f"{GUEST}--incoming"] not in EXECUTES
        source.xen.faults()
        wait_until(lambda: "it is kept" in source.log(), "the guest to be seen", PATIENCE)
        wait_until(lambda: target.domains() == {}, "the end of the copy", PATIENCE)
        ends_well(world)
        assert world.owner() is source


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("at_source", "point"),
    [
        (True, "outgoing:start:before"),
        (True, "outgoing:discard:before"),
        (True, "ask:Commit:after"),
        (False, "incoming:build:before"),
        (False, "incoming:commit:after"),
        (False, "answer:Commit:after"),
        pytest.param(True, "ask:Commit:before", marks=pytest.mark.slow),
        pytest.param(False, "incoming:commit:before", marks=pytest.mark.slow),
    ],
)
def test_step_that_raises_what_nobody_foresaw(worlds, at_source, point):
    ends_well_despite(worlds, at_source, f"raise=UnicodeError@{point}")


@pytest.mark.sampled
@pytest.mark.parametrize("number", QUICK_AWAITS)
def test_await_that_raises(worlds, number):
    await_raises(worlds, number, Mode.SAVE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
