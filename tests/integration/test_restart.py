"""Guests that are shut down here and started on the other host: `--mode restart`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.messages import Mode, Problem
from tests.support.dom0 import (
    MIB,
    QUIET,
    RESIDENT,
    Dom0,
    Guest,
    image,
    problems,
    the_problem,
    unique,
)
from tests.support.qemu import only_with_qemu
from xenmoved.control.api import AbortJob, Done, Plan, SetJob
from xenmoved.jobs.report import JobReport, JobState, Phase
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]

WRITES = "sandbox.rate=1 sandbox.dirty=0"


@pytest.fixture(autouse=True)
def obedient(hosts: Hosts) -> Iterator[None]:
    """Have guests do what they are asked to again."""
    yield
    for host in hosts:
        host.xen.faults()


def guest(host: Dom0, lines: str = "", **options: object) -> Guest:
    name = unique("web")
    disks = [image(host.images / f"{name}-root", 4, data=1)]
    found = host.boot(name, disks, extra=WRITES, lines=lines, **options)
    wait_until(lambda: host.verdict(name)["blocks"] > 0, "the guest to write something")
    return found


def stays(host: Dom0, name: str, report: JobReport, state: JobState = JobState.FAILED) -> str:
    """Assert that a guest runs where it was, from its own file; return the problem's code."""
    assert report.state is state, report
    host.assert_runs(name)
    assert (host.guest_configs / f"{name}.cfg").exists()
    assert report.problem is not None
    return report.problem.code


def let_go(host: Dom0, job: str) -> None:
    assert isinstance(host.ask(SetJob(job, hold=False)), Done)


def codes(plan: Plan) -> list[str]:
    return [one.code for one in plan.problems]


def the_one(plan: Plan, code: str) -> Problem:
    (found,) = plan.problems
    assert found.code == code, found
    return found


def test_there_and_back(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a, autostart=True)
    plan = a.plan(web.name, mode=Mode.RESTART)
    assert not plan.problems, plan.problems
    assert (plan.blackout is not None and plan.memory == 0) or plan.memory > 0
    for source, target in ((a, b), (b, a)):
        before = source.domain(web.name)
        report = source.migrate(web.name, target.name, mode=Mode.RESTART)
        assert report.mode is Mode.RESTART
        assert report.memory_sent == 0
        assert report.blackout is not None and report.blackout > 0
        assert report.blackout_parts[0].what == "shutdown of the guest"
        assert source.domain(web.name) is None
        target.assert_runs(web.name)
        there = target.domain(web.name)
        assert there is not None and before is not None and there.uuid == before.uuid == web.uuid
        assert (target.guest_configs / f"{web.name}.cfg").exists()
        assert (target.guest_configs / "auto" / f"{web.name}.cfg").is_symlink()
        assert not (source.guest_configs / f"{web.name}.cfg").exists()


@pytest.mark.thorough
def test_one_that_ignores_the_request_runs_on(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    before = a.domain(web.name)
    a.xen.faults(shutdown={"does": "nothing"})
    report = a.finish(a.begin(web.name, mode=Mode.RESTART, shutdown_timeout=2.0).job)
    assert stays(a, web.name, report) == "not-shut-down"
    now = a.domain(web.name)
    assert now is not None and before is not None and now.domid == before.domid
    assert "2 s after it was asked" in report.problem.text  # type: ignore[union-attr]
    assert b.domain(web.name) is None
    a.xen.faults()
    a.migrate(web.name, mode=Mode.RESTART)
    b.assert_runs(web.name)


def test_one_that_reboots_instead_is_not_moved(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    a.xen.faults(shutdown={"does": "reboot"})
    report = a.finish(a.begin(web.name, mode=Mode.RESTART).job)
    a.xen.wait_for(web.name, "-b----")
    assert stays(a, web.name, report) == "guest-restarted"
    assert b.domain(web.name) is None


@pytest.mark.thorough
def test_one_without_drivers_has_its_power_button_pressed(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    a.xen.faults(shutdown={"no_drivers": True})
    a.migrate(web.name, mode=Mode.RESTART)
    b.assert_runs(web.name)
    assert "its power button is pressed" in a.log()


def test_one_that_cannot_be_asked_stays(hosts: Hosts) -> None:
    a, _ = hosts
    web = guest(a)
    a.xen.faults(shutdown={"fail": "no such thing"})
    report = a.finish(a.begin(web.name, mode=Mode.RESTART).job)
    assert stays(a, web.name, report) == "toolstack"
    assert "was not asked to shut down" in report.problem.text  # type: ignore[union-attr]


@pytest.mark.thorough
def test_an_abort_in_the_middle_of_its_shutdown_has_it_started_again(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    before, footprint = a.domain(web.name), b.footprint()
    a.xen.faults(shutdown={"after": 2.0})
    job = a.begin(web.name, mode=Mode.RESTART)
    wait_until(lambda: "asked to shut down" in a.xen.console(web.name), "the request")
    assert isinstance(a.ask(AbortJob(job.job)), Done)
    report = a.finish(job.job)
    assert stays(a, web.name, report, JobState.ABORTED) == "aborted"
    now = a.domain(web.name)
    assert now is not None and before is not None and now.domid != before.domid
    b.settle()
    assert b.footprint() == footprint


def test_one_that_cannot_be_built_there_is_started_here_again(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    b.xen.faults(create={"fail": "no such processor"})
    report = a.finish(a.begin(web.name, mode=Mode.RESTART).job)
    assert "no such processor" in (report.problem.text if report.problem else "")
    stays(a, web.name, report)
    assert b.domain(web.name) is None


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("on_poweroff = 'restart'\n", "on-poweroff"),
        ("on_poweroff = 'preserve'\n", "on-poweroff"),
    ],
)
def test_what_is_not_gone_when_it_has_shut_down_is_refused(
    hosts: Hosts, lines: str, code: str
) -> None:
    a, _ = hosts
    web = guest(a, lines)
    found = the_one(a.plan(web.name, mode=Mode.RESTART), code)
    assert "destroy" in found.hint


@pytest.mark.thorough
def test_what_its_file_has_otherwise_is_said_or_stands_in_the_way(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    text = web.config.read_text()
    web.config.write_text(text.replace("memory = 2", "memory = 3"))
    (said,) = (
        one for one in a.plan(web.name, mode=Mode.RESTART).warnings if one.code == "config-differs"
    )
    assert "3MiB of memory, 2MiB now" in said.text
    web.config.write_text(text.replace("-root", "-other"))
    other = image(a.images / f"{web.name}-other", 4)
    assert "config-differs" in codes(a.plan(web.name, mode=Mode.RESTART))
    other.unlink()
    web.config.write_text(text.replace("memory = 2", "memory = 3"))
    a.migrate(web.name, mode=Mode.RESTART)
    there = b.domain(web.name)
    assert there is not None and there.memory == 3


@pytest.mark.thorough
def test_a_device_of_this_host_is_no_obstacle_when_its_file_has_none(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a, "pci = ['0000:03:00.0']\n")
    found = the_one(a.plan(web.name, mode=None), "passthrough")
    assert "--mode restart" in found.hint
    assert "guest-config" in codes(a.plan(web.name, mode=Mode.RESTART))
    web.config.write_text(web.config.read_text().replace("pci = ['0000:03:00.0']\n", ""))
    plan = a.plan(web.name, mode=Mode.RESTART)
    assert not plan.problems
    assert "passthrough" in [one.code for one in plan.warnings]
    a.migrate(web.name, mode=Mode.RESTART)
    b.assert_runs(web.name)


def test_one_whose_file_changes_meanwhile_runs_on(hosts: Hosts) -> None:
    a, _ = hosts
    web = guest(a)
    job = a.begin(web.name, mode=Mode.RESTART, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    web.config.write_text(f"{web.config.read_text()}# changed\n")
    let_go(a, job.job)
    assert stays(a, web.name, a.finish(job.job)) == "config-changed"


def test_one_that_is_off_in_the_middle_is_not_moved_as_if_it_ran(hosts: Hosts) -> None:
    a, _ = hosts
    web = guest(a)
    job = a.begin(web.name, mode=Mode.RESTART, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    a.xen.xl("shutdown", "-w", web.name)
    let_go(a, job.job)
    report = a.finish(job.job)
    assert report.problem is not None and report.problem.code == "guest-gone"
    assert "--mode cold" in report.problem.hint
    assert a.domain(web.name) is None
    assert web.config.exists()
    a.migrate(web.name, mode=Mode.COLD)


@pytest.mark.thorough
def test_one_without_a_file_is_started_from_how_it_ran(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    web.config.unlink()
    a.xen.faults(shutdown={"after": 1.0})
    b.xen.faults(create={"fail": "no room"})
    report = a.finish(a.begin(web.name, mode=Mode.RESTART).job)
    assert report.state is JobState.FAILED
    a.assert_runs(web.name)
    b.xen.faults()
    a.migrate(web.name, mode=Mode.RESTART)
    b.assert_runs(web.name)


def test_what_it_does_not_take(hosts: Hosts) -> None:
    a, _ = hosts
    web = guest(a)
    for wrong in ({"mode": Mode.RESTART, "max_downtime": 2.0}, {"shutdown_timeout": 9.0}):
        (found,) = problems(a.try_migrate(web.name, **wrong))
        assert found.code == "usage"
    a.xen.xl("shutdown", "-w", web.name)
    found = the_problem(a.try_migrate(web.name, mode=Mode.RESTART), "guest-unknown")
    assert "--mode cold" in found.hint


@pytest.mark.thorough
def test_xm(xm_hosts: Hosts) -> None:
    a, b = xm_hosts
    web = guest(a)
    for source, target in ((a, b), (b, a)):
        source.migrate(web.name, target.name, mode=Mode.RESTART)
        target.assert_runs(web.name)


@pytest.mark.thorough
def test_one_that_somebody_starts_in_the_middle_stays(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    copy = a.guest_configs.parent / f"{web.name}.elsewhere"
    copy.write_text(web.config.read_text())
    job = a.begin(web.name, mode=Mode.RESTART, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    a.xen.faults(shutdown={"after": 1.0})
    before = a.domain(web.name)
    let_go(a, job.job)
    wait_until(lambda: a.domain(web.name) is None, "its end", 30)
    a.xen.run("xl", "create", str(copy), status=None)
    report = a.finish(job.job)
    if report.state is JobState.DONE:  # it was too late: its disks were taken, or it had gone
        b.assert_runs(web.name)
        assert a.domain(web.name) is None
        return
    stays(a, web.name, report)
    now = a.domain(web.name)
    assert now is not None and before is not None and now.domid != before.domid
    assert b.domain(web.name) is None


@pytest.mark.thorough
def test_another_name_and_no_uuid(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    text = web.config.read_text()
    web.config.write_text("".join(x for x in text.splitlines(True) if not x.startswith("uuid")))
    other = unique("other")
    a.migrate(web.name, mode=Mode.RESTART, rename=other)
    there = b.domain(other)
    assert there is not None and there.uuid == web.uuid
    b.assert_runs(other)
    assert "uuid" not in (b.guest_configs / f"{other}.cfg").read_text()
    back = b.migrate(other, "host-a", mode=Mode.RESTART, rename=web.name)
    assert not any(volume.fresh for volume in back.volumes)
    a.assert_runs(web.name)


@pytest.mark.tracing
def test_of_a_disk_that_is_tracked_only_the_rest_is_sent_in_the_outage(
    hosts: Hosts, attach: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = hosts
    name = unique("web")
    device = attach(image(tmp_path / "disk", 16, data=8))
    a.boot(name, [device], extra=WRITES)
    report = a.migrate(name, mode=Mode.RESTART, volumes={device.name: f"{name}-root"})
    (volume,) = report.volumes
    assert volume.rounds[-1].total < 8 * MIB, "it was not read in full once more"
    b.assert_runs(name)
    assert "writes are not tracked" not in a.log()[-20000:]


@pytest.mark.thorough
def test_a_host_is_emptied_by_starting_its_guests_anew(hosts: Hosts) -> None:
    a, b = hosts
    web = guest(a)
    ended = a.ctl("evacuate", "host-b", "--mode", "restart", "--shutdown-timeout", "1m")
    assert ended.returncode in (0, 7), ended
    b.assert_runs(web.name)
    b.assert_runs(RESIDENT)
    b.migrate(RESIDENT, "host-a", mode=Mode.SAVE)


def test_one_whose_disk_another_guest_has_is_not_shut_down(hosts: Hosts) -> None:
    a, _ = hosts
    web = guest(a)
    job = a.begin(web.name, mode=Mode.RESTART, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    before = a.domain(web.name)
    other = unique("other")
    a.boot(other, [], specs=[f"file:{web.disks[0]},xvda,r"], extra=QUIET)
    let_go(a, job.job)
    assert stays(a, web.name, a.finish(job.job)) == "volume-in-use"
    now = a.domain(web.name)
    assert now is not None and before is not None and now.domid == before.domid
    found = the_problem(a.try_migrate(web.name, mode=Mode.RESTART), "volume-in-use")
    assert other in found.text


@pytest.mark.thorough
@only_with_qemu
def test_its_disk_may_be_an_image_on_the_target_but_not_here(hosts: Hosts) -> None:
    """It comes there as a raw one, and the target makes the image from which it is started."""
    a, b = hosts
    web = guest(a)
    report = a.migrate(web.name, pool="qcow2", mode=Mode.RESTART)
    assert report.volumes[0].target.endswith(".qcow2")
    b.assert_runs(web.name)
    assert "qcow2" in (b.guest_configs / f"{web.name}.cfg").read_text()
    plan = b.plan(web.name, "host-a", mode=Mode.RESTART)
    assert [one.code for one in plan.problems] == ["disk"], "\n".join(map(str, plan.problems))
    assert "only raw disks move with a guest that is started anew" in plan.problems[0].text
