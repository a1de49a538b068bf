"""What else may happen to a migration: failing toolstacks, absent hosts, orders to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

from tests.support.crash import EXECUTES, GUEST, PATIENCE, World
from xenmoved.control.api import AbortJob, Done, Failure
from xenmoved.control.peer_api import RemovePeer
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.harness import wait_until
from xenmoved.toolstack.commands import find_tagged_processes, running_command


def settle(world: World) -> Any:
    """Wait for the end of everything; returns the host that has the guest."""
    world.wait_quiet()
    return world.owner()


def test_killed_save_process(worlds):
    with worlds.use() as world:
        source = world.source
        source.xen.faults(save={"delay_per_mib": 0.5})
        source.migrate(world.other(source))

        def saving() -> list[Any]:
            rows = source.query("SELECT migration FROM outbound WHERE NOT settled")
            tagged = [p for (m,) in rows for p in asyncio.run(find_tagged_processes(m))]
            return running_command(tagged, "save")

        wait_until(lambda: source.domains()[GUEST] not in EXECUTES, "the suspension", PATIENCE)
        for process in saving():
            os.kill(process.pid, signal.SIGKILL)
        source.xen.faults()
        assert settle(world) is source
        assert source.last_job().state is JobState.FAILED


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("at_source", "faults", "code"),
    [
        (True, {"save": {"fail_after_bytes": 1 << 20}}, "toolstack"),
        (False, {"migrate_receive": {"fail": "no room"}}, "toolstack"),
        (False, {"migrate_receive": {"unpause_status": 1}}, "target-aborted"),
    ],
    ids=["save", "receive", "start"],
)
def test_failing_toolstack(worlds, at_source, faults, code):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        failing = source if at_source else target
        failing.xen.faults(**faults)
        report = source.finish(source.migrate(target).job)
        failing.xen.faults()
        assert (report.state, report.problem.code) == (JobState.FAILED, code)
        assert settle(world) is source


@pytest.mark.thorough
def test_doubt_lasts_until_the_target_is_back(worlds):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        source.arm(f"kill={target.pid}@ask:Commit:before")
        job = source.migrate(target).job

        def in_doubt() -> bool:
            return any(report.state is JobState.IN_DOUBT for report in source.jobs())

        def check_doubt() -> None:
            wait_until(in_doubt, "the doubt", PATIENCE)
            assert source.domains()[GUEST] not in EXECUTES
            assert target.domains().get(GUEST) not in EXECUTES
            assert "in-doubt" in source.ctl("status").stdout
            refused = source.ask(AbortJob(job))
            assert isinstance(refused, Failure)
            assert refused.problems[0].code == "in-doubt"

        check_doubt()
        # Neither a crash of the source nor a missing entry of the peer ends the doubt.
        assert isinstance(source.ask(RemovePeer(target.name)), Done)
        time.sleep(0.5)
        check_doubt()
        source.stop(signal.SIGKILL)
        source.start()
        check_doubt()
        target.start()
        source.trust(target)
        world.wait_quiet()
        assert world.owner() is source


@pytest.mark.thorough
def test_target_that_gave_up_refuses_the_commit(worlds):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        source.arm("kill@outbound:commit-sent:after")
        source.migrate(target)
        wait_until(lambda: source.dead, "the end of the source", PATIENCE)
        wait_until(
            lambda: not target.unsettled() and not target.jobs(), "the ready timeout", PATIENCE
        )
        assert target.domains() == {}
        assert target.volumes() == set()
        world.restart_dead()
        assert settle(world) is source


@pytest.mark.sampled
@pytest.mark.parametrize("victim", ["source", "target"])
@pytest.mark.parametrize("phase", ["pre-copy", "ready"])
def test_stopped_in_order(worlds, phase, victim):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        hit = source if victim == "source" else target
        source.arm(f"term={hit.pid}@outbound:phase-{phase}")
        source.migrate(target)
        wait_until(lambda: hit.dead, "the end of the daemon", PATIENCE)
        assert hit.process.returncode == 0
        if hit is source:
            assert source.domains()[GUEST] in EXECUTES, "it runs before the daemon has ended"
        world.restart_dead()
        assert settle(world) is source


PHASES = ("provision", "pre-copy", "suspend", "final-delta", "ready", "commit")


@pytest.mark.slow  # its moment is not certain under load
@pytest.mark.parametrize("phase", PHASES)
def test_aborted_by_the_operator(worlds, phase):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        source.arm(f"freeze=0.3@outbound:phase-{phase}")
        answers: list[Any] = []

        def abort() -> None:
            wait_until(lambda: source.fired, f"the phase {phase}", PATIENCE)
            answers.append(source.ask(AbortJob(GUEST)))

        operator = threading.Thread(target=abort)
        operator.start()
        started = source.migrate(target)
        operator.join(PATIENCE)
        assert isinstance(started, JobReport), started
        owner = settle(world)
        report = source.last_job()
        if phase == "commit":
            assert isinstance(answers[0], Failure), answers
            assert answers[0].problems[0].code in ("too-late", "ended")
            assert owner is target
        else:
            assert isinstance(answers[0], Done), answers
            assert (report.state, report.problem.code) == (JobState.ABORTED, "aborted")
            assert owner is source


@pytest.mark.slow
def test_unfinished_work_of_an_earlier_migration_is_dropped(worlds):
    """A guest that could not be resumed, was resumed by hand, and moved away the next time."""
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        source.xen.faults(unpause={"fail": "out of luck"})
        target.xen.faults(migrate_receive={"fail": "no room"})
        job = source.migrate(target).job
        wait_until(lambda: source.alarms() == ["unfinished"], "the alarm", PATIENCE)
        target.xen.faults()
        source.xen.faults()
        source.xen.xl("unpause", GUEST)
        assert source.finish(job).state is JobState.FAILED
        assert source.alarms() == []
        # The target starts the guest, and the source does not learn of it before its own end.
        source.arm("kill@ask:Commit:after")
        source.migrate(target)
        wait_until(lambda: source.dead, "the end of the source", PATIENCE)
        world.restart_dead()
        assert settle(world) is target


@pytest.mark.thorough
@pytest.mark.parametrize("restart", [False, True])
def test_copy_that_cannot_be_removed_is_removed_as_soon_as_it_can(worlds, restart):
    with worlds.use("xm") as world:
        source = world.source
        target = world.other(source)
        target.xen.faults(destroy={"fail": "busy"})
        target.arm("cut@inbound:ready:after")
        source.migrate(target)
        wait_until(lambda: target.fired, "the fault", PATIENCE)
        wait_until(lambda: target.alarms() == ["unfinished"], "the alarm", PATIENCE)
        wait_until(lambda: not source.jobs(), "the end of the source's job", PATIENCE)
        assert target.unsettled()
        assert target.domains()[GUEST] not in EXECUTES
        assert "what arrived of web is still on this host" in target.ctl("recover").stdout
        if restart:
            target.stop()
            world.restart_dead()
            wait_until(lambda: target.alarms() == ["unfinished"], "the alarm again", PATIENCE)
        target.xen.faults()
        wait_until(lambda: not target.jobs(), "the end of the target's job", PATIENCE)
        assert target.alarms() == []
        assert settle(world) is source


@pytest.mark.slow
def test_configuration_that_was_changed_meanwhile_comes_back(worlds):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        assert source.finish(source.migrate(target).job).state is JobState.DONE
        world.wait_quiet()
        changed = target.config_dir / f"{GUEST}.cfg"
        changed.write_text(changed.read_text() + "\n# changed on the other host\n")
        assert target.finish(target.migrate(source).job).state is JobState.DONE
        assert settle(world) is source
        assert "changed on the other host" in (source.config_dir / changed.name).read_text()
