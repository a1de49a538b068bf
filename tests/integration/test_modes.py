"""Guests that move while they run, and guests that do not run at all."""

from __future__ import annotations

import fcntl
import signal
import threading
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import (
    MIB,
    QUIET,
    Dom0,
    digest,
    image,
    in_pre_copy,
    problems,
    sent,
    the_problem,
    unique,
)
from xenmoved.control.api import AbortJob, Done, ListJobs
from xenmoved.jobs.report import JobKind, JobReport, JobState, Phase
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]

# --- live ---


@pytest.mark.thorough
def test_live_there_and_back_is_the_default(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 8, data=2)], memory=8)
    assert a.plan(name, mode=None).mode is Mode.LIVE
    for source, target in ((a, b), (b, a)):
        report = source.migrate(name, target.name, mode=None)
        assert report.mode is Mode.LIVE
        assert report.memory_sent > 8 * MIB, "some of it was written meanwhile"
        assert source.domain(name) is None
        assert source.domain(f"{name}--migratedaway") is None
        target.assert_runs(name)


@pytest.mark.thorough
def test_the_guest_runs_while_its_memory_is_on_its_way(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)], memory=16)
    job = a.begin(name, mode=Mode.LIVE, rate_limit=8 * MIB)
    a.until(job.job, lambda report: report.memory_sent > 8 * MIB)
    a.assert_runs(name)
    report = a.finish(job.job)
    assert report.state is JobState.DONE, report.problem
    assert report.ended is not None
    assert (report.blackout or 0) < (report.ended - report.started) / 2
    b.assert_runs(name)


def test_a_live_migration_can_be_aborted(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)], memory=16)
    before = b.footprint()
    job = a.begin(name, mode=Mode.LIVE, rate_limit=8 * MIB)
    a.until(job.job, lambda report: report.memory_sent > 4 * MIB)
    assert isinstance(a.ask(AbortJob(job.job)), Done)
    assert a.finish(job.job).state is JobState.ABORTED
    a.assert_runs(name)
    b.settle()
    assert b.footprint() == before


@pytest.mark.parametrize("memory", [False, True], ids=["disks", "memory"])
def test_the_targets_operator_can_abort_it(hosts: Hosts, memory: bool) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)], memory=16)
    before = b.footprint()
    job = a.begin(name, mode=Mode.LIVE, rate_limit=8 * MIB, hold=not memory)
    moment = (lambda report: report.memory_sent > 4 * MIB) if memory else _is_held
    a.until(job.job, moment)
    (arrival,) = (one for one in b.ask(ListJobs(False)).jobs if one.kind is JobKind.RECEIVE)
    done = b.ctl("abort", arrival.job)
    assert done.returncode == 0, done
    assert f"{name} stays on host-a" in done.stdout
    ended = a.finish(job.job)
    assert ended.state is JobState.ABORTED
    assert ended.problem is not None and "aborted by the operator of host-b" in ended.problem.text
    a.assert_runs(name)
    assert b.footprint() == before
    a.migrate(name, mode=Mode.LIVE)


def _is_held(report: JobReport) -> bool:
    return report.phase is Phase.HOLD


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_live_migration_whose_daemon_ends_leaves_the_guest_running(
    hosts: Hosts, number: signal.Signals
) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)], memory=16)
    job = a.begin(name, mode=Mode.LIVE, rate_limit=8 * MIB)
    a.until(job.job, lambda report: report.memory_sent > 4 * MIB)
    a.stop(number)
    a.assert_runs(name)
    a.start()
    a.assert_runs(name)
    a.settle()
    b.settle()
    a.migrate(name, mode=Mode.LIVE)
    b.assert_runs(name)


def test_xm_moves_by_saving(xm_hosts: Hosts) -> None:
    a, b = xm_hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)])
    found = the_problem(a.try_migrate(name, mode=Mode.LIVE), "mode")
    assert "--mode save" in found.hint
    assert a.migrate(name, mode=None).mode is Mode.SAVE
    b.assert_runs(name)


# --- cold ---


def stopped(host: Dom0, name: str, disks: list[Path], autostart: bool = False) -> Path:
    """Configure a guest that ran once and does not now; return its configuration."""
    guest = host.boot(name, disks, autostart=autostart)
    host.xen.run(host.tool, "destroy", name)
    return guest.config


@pytest.mark.sampled
@pytest.mark.parametrize("tool", ["xl", "xm"])
def test_cold_there_and_back(request: pytest.FixtureRequest, tool: str) -> None:
    a, b = request.getfixturevalue("hosts" if tool == "xl" else "xm_hosts")
    name = unique("web")
    disks = [image(a.images / f"{name}-{part}", 4, data=2) for part in ("root", "data")]
    config = stopped(a, name, disks, autostart=True)
    assert a.plan(name, mode=None).mode is Mode.COLD

    there = a.migrate(name, mode=None)

    assert (there.mode, there.memory_sent, there.memory_total) == (Mode.COLD, 0, 0)
    assert there.blackout is None
    assert all(len(volume.rounds) == 1 for volume in there.volumes)
    assert a.domain(name) is b.domain(name) is None
    assert all(digest(b.images / disk.name) == digest(disk) for disk in disks)
    assert not config.exists()
    assert not (a.guest_configs / "auto" / config.name).is_symlink()
    arrived = b.guest_configs / config.name
    assert str(b.images / disks[0].name) in arrived.read_text()
    assert (b.guest_configs / "auto" / config.name).resolve() == arrived

    b.xen.run(tool, "create", str(arrived))
    b.assert_runs(name)
    b.xen.run(tool, "destroy", name)
    back = b.migrate(name, "host-a", mode=None)
    assert not any(volume.fresh for volume in back.volumes)
    assert sent(back) < sent(there)
    assert config.exists()
    assert (a.guest_configs / "auto" / config.name).resolve() == config


def test_a_guest_without_a_uuid_is_known_again(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 4, data=1)
    (a.guest_configs / f"{name}.cfg").write_text(
        f"name = '{name}'\nmemory = 2\ndisk = ['file:{disk},xvda,w']\n"
    )
    a.migrate(name, mode=Mode.COLD)
    assert not b.migrate(name, "host-a", mode=Mode.COLD).volumes[0].fresh
    a.migrate(name, mode=Mode.COLD)


@pytest.mark.thorough
def test_disks_that_an_ended_guest_still_has_for_a_moment_are_waited_for(hosts: Hosts) -> None:
    """On real hosts scripts detach them only after the domain is gone."""
    a, b = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 4, data=1)
    stopped(a, name, [disk])
    with disk.open("rb") as backend:
        fcntl.flock(backend, fcntl.LOCK_EX)
        threading.Timer(2, fcntl.flock, (backend, fcntl.LOCK_UN)).start()
        a.migrate(name, mode=Mode.COLD)
    assert digest(b.images / disk.name) == digest(disk)


@pytest.mark.sampled
@pytest.mark.parametrize("end", ["abort", "kill"])
def test_a_cold_migration_that_ends_early_gives_the_guest_back(hosts: Hosts, end: str) -> None:
    a, b = hosts
    name = unique("web")
    config = stopped(a, name, [image(a.images / f"{name}-root", 16)], autostart=True)
    before = [host.footprint() for host in hosts]
    job = a.begin(name, mode=Mode.COLD, rate_limit=8 * MIB)
    a.until(job.job, in_pre_copy)
    assert not config.exists(), "somebody could start it"
    assert not (a.guest_configs / "auto" / config.name).is_symlink()
    if end == "abort":
        a.ask(AbortJob(job.job))
        assert a.finish(job.job).state is JobState.ABORTED
    else:
        a.stop(signal.SIGKILL)
        a.start()
        wait_until(config.exists, "the configuration")
    a.settle()
    b.settle()
    assert [host.footprint() for host in hosts] == before


@pytest.mark.thorough
def test_a_guest_that_is_started_while_it_moves_cold_stays(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    config = stopped(a, name, [image(a.images / f"{name}-root", 16)])
    text = config.read_text()
    job = a.begin(name, mode=Mode.COLD, rate_limit=8 * MIB)
    a.until(job.job, in_pre_copy)
    other = a.xen.root / "other.cfg"
    other.write_text(text)
    a.xen.run("xl", "create", str(other))
    found = the_problem(a.finish(job.job), "toolstack")
    assert "while it does not run" in found.text
    a.assert_runs(name)
    assert config.exists()
    assert b.domain(name) is None
    b.settle()
    assert not (b.guest_configs / config.name).exists()


def test_what_does_not_move_cold(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 4, data=1)
    guest = a.boot(name, [disk])
    the_problem(a.try_migrate(name, mode=Mode.COLD), "guest-state")
    a.xen.run("xl", "destroy", name)

    text = guest.config.read_text()
    user = unique("user")
    a.boot(user, [disk])
    assert "in use by" in the_problem(a.try_migrate(name, mode=None), "volume-in-use").text
    a.xen.run("xl", "destroy", user)

    guest.config.write_text(text + "pci = ['01:00.0']\n")
    assert "pci" in the_problem(a.try_migrate(name, mode=None), "guest-config").text
    guest.config.write_text(text + "import os\n")
    (found,) = problems(a.try_migrate(name, mode=None))
    assert "not a plain assignment" in found.text
    guest.config.write_text(text)

    taken = b.guest_configs / guest.config.name
    taken.write_text(text)
    assert "already" in the_problem(a.try_migrate(name, mode=None), "guest-exists").text
    taken.unlink()

    assert "nothing to hold" in the_problem(a.try_migrate(name, mode=None, hold=True), "usage").text
    a.migrate(name, mode=None)
    the_problem(a.try_migrate(name, mode=None), "guest-unknown")


def test_verify_of_a_cold_guest(hosts: Hosts) -> None:
    a, _ = hosts
    name = unique("web")
    stopped(a, name, [image(a.images / f"{name}-root", 8, data=2)])
    report = a.migrate(name, mode=Mode.COLD, verify=True)
    assert [len(volume.rounds) for volume in report.volumes] == [2]
    assert report.phase is Phase.ENDED


def test_a_quiet_guest_is_live_once(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("quiet")
    a.boot(name, [image(a.images / f"{name}-root", 4, data=1)], memory=4, extra=QUIET)
    report = a.migrate(name, mode=Mode.LIVE)
    assert 4 * MIB <= report.memory_sent < 5 * MIB
    b.assert_runs(name)
