"""What the target has to remark reaches the source, whatever ends in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from protocol.messages import Weight
from tests.support.crash import GUEST, PATIENCE, CrashHost, World, Worlds
from tests.support.faulty_daemon import LIMITS
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.harness import wait_until

SHORT = {LIMITS: "xenmoved.migration.source.remarks._PATIENCE=1"}


@pytest.fixture
def world(worlds: Worlds) -> Iterator[World]:
    """A world in whose guest's file is something that a target leaves out."""
    with worlds.use() as world:
        file = world.source.config_dir / f"{GUEST}.cfg"
        file.write_text(f"{file.read_text()}\nxen_gadget = 1\n")
        yield world


def codes(report: JobReport) -> set[str]:
    """Codes of the remarks, but for those of this host alone."""
    return {one.code for one in report.remarks}


def assert_told(host: CrashHost) -> None:
    """Assert that the last job has what was left out, once, and nothing that is not so."""
    report = host.last_job()
    assert report.state is JobState.DONE
    (left,) = report.remarks
    assert (left.code, left.weight) == ("left-out", Weight.INFO)
    assert "xen_gadget" in left.text


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("at_source", "fault"),
    [
        (True, "cut@ask:Commit:after"),
        (True, "cut@ask:Recall:before"),
        (True, "kill@ask:Recall:before"),
        (False, "kill@inbound:started:after"),
        (False, "kill@inbound:settled:after"),
        pytest.param(True, "cut@ask:Commit:before", marks=pytest.mark.slow),
        pytest.param(True, "cut@ask:Recall:after", marks=pytest.mark.slow),
        pytest.param(True, "kill@outbound:settled:after", marks=pytest.mark.slow),
        pytest.param(False, "cut@answer:Recall:before", marks=pytest.mark.slow),
        pytest.param(False, "kill@inbound:phase-tidy", marks=pytest.mark.slow),
        pytest.param(False, "kill@inbound:settled:before", marks=pytest.mark.slow),
    ],
)
def test_the_remarks_arrive(world: World, at_source: bool, fault: str) -> None:
    source = world.source
    target = world.other(source)
    here = source if at_source else target
    here.arm(fault)
    source.migrate(target)
    wait_until(lambda: here.fired, "the fault", PATIENCE)
    if fault.startswith("kill"):
        wait_until(lambda: here.dead, "the end of the daemon", PATIENCE)
        world.restart_dead()
    world.wait_quiet()
    wait_until(lambda: "unheard" not in codes(source.last_job()), "the remarks", PATIENCE)
    assert world.owner() is target
    assert_told(source)
    assert_told(target)


def _restart_source(source: CrashHost) -> None:
    source.stop()
    source.launch()
    source.wait_ready()


@pytest.mark.thorough
@pytest.mark.parametrize("meanwhile", [lambda _: None, _restart_source], ids=["", "restarted"])
def test_a_target_that_is_away(world: World, meanwhile: Callable[[CrashHost], None]) -> None:
    source = world.source
    target = world.other(source)
    source.stop()
    source.launch(**SHORT)
    source.wait_ready()
    source.arm(f"kill={target.pid}@ask:Recall:before")
    report = source.finish(source.migrate(target).job)
    assert report.state is JobState.DONE
    wait_until(lambda: target.dead, "the end of the daemon", PATIENCE)
    (unheard,) = report.remarks
    assert (unheard.code, unheard.weight) == ("unheard", Weight.ACTION)
    assert report.job in unheard.hint
    meanwhile(source)
    world.restart_dead()
    wait_until(lambda: "unheard" not in codes(source.last_job()), "the remarks", PATIENCE)
    assert_told(source)
    source.stop()
    source.launch()
    source.wait_ready()
    assert_told(source)
