"""Guests that move there and back between two daemons."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import (
    BLOCK,
    MIB,
    QUIET,
    Dom0,
    allocated,
    digest,
    image,
    in_pre_copy,
    overwrite,
    sent,
    the_problem,
    unique,
    volume_wire,
)
from xenmoved.control.api import AbortJob, Done, ListJobs
from xenmoved.jobs.report import JobKind, JobState, Phase

Hosts = tuple[Dom0, Dom0]


@pytest.mark.parametrize("tool", ["xl", "xm"])
def test_there_and_back(request: pytest.FixtureRequest, tool: str) -> None:
    a, b = request.getfixturevalue("hosts" if tool == "xl" else "xm_hosts")
    name = unique("web")
    disks = [image(a.images / f"{name}-{part}", 16, data=8) for part in ("root", "data")]
    calm = "sandbox.rate=1 sandbox.share=0.1"
    guest = a.boot(name, disks, memory=8, extra=calm, autostart=True)

    there = a.migrate(name)

    assert a.domain(name) is None
    b.assert_runs(name)
    assert (there.kind, there.mode, there.phase) == (JobKind.MIGRATE, Mode.SAVE, Phase.ENDED)
    assert (there.guest, there.peer, there.problem) == (name, "host-b", None)
    assert there.ended is not None
    assert 0 < (there.blackout or 0) < there.ended - there.started
    assert there.memory_total == 8 * MIB < there.memory_sent
    assert [(one.name, one.target, one.size, one.fresh) for one in there.volumes] == [
        (str(disk), f"images:{disk.name}", 16 * MIB, True) for disk in disks
    ]
    for volume in there.volumes:
        first = volume.rounds[0]
        assert first.examined == first.total == 16 * MIB
        assert first.same + first.diff + first.zero == 16 * MIB // BLOCK
        assert first.diff >= 8 * MIB // BLOCK
        assert 8 * MIB <= first.data_bytes <= first.wire_bytes
        assert len(volume.rounds) >= 2, "the last round comes after the suspension"
    assert there.wire_bytes == there.memory_sent + sum(
        one.wire_bytes for volume in there.volumes for one in volume.rounds
    )
    assert (b.images / disks[0].name).stat().st_size == 16 * MIB
    assert allocated(b.images / disks[0].name) < 15 * MIB

    # The configuration went along, and the source cannot start the guest by mistake.
    assert not guest.config.exists()
    assert guest.config.with_name(f"{name}.cfg.moved").exists()
    assert not (a.guest_configs / "auto" / guest.config.name).is_symlink()
    there_config = b.guest_configs / guest.config.name
    assert str(b.images / disks[0].name) in there_config.read_text()
    assert str(a.images) not in there_config.read_text()
    assert (b.guest_configs / "auto" / guest.config.name).resolve() == there_config

    back = b.migrate(name, "host-a")

    a.assert_runs(name)
    assert b.domain(name) is None
    assert a.verdict(name)["blocks"] > 100, "the guest checked next to nothing"
    assert not any(volume.fresh for volume in back.volumes)
    assert volume_wire(back) < volume_wire(there) / 2
    assert guest.config.exists()
    assert str(disks[0]) in guest.config.read_text()
    assert (a.guest_configs / "auto" / guest.config.name).resolve() == guest.config
    assert not there_config.exists()
    assert [job.job for job in a.ask(ListJobs(True)).jobs if job.guest == name][-1] == there.job


@pytest.mark.thorough
def test_the_way_back_sends_exactly_the_blocks_that_changed(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("quiet")
    disk = image(a.images / f"{name}-root", 16, data=12, start=2)
    a.boot(name, [disk], extra=QUIET)
    there = a.migrate(name)
    copy = b.images / disk.name
    assert digest(copy) == digest(disk)
    assert sent(there) == 12 * MIB
    assert allocated(copy) <= 12 * MIB + BLOCK

    overwrite(copy, [0, 40, 41, 255])
    back = b.migrate(name, "host-a")

    assert digest(disk) == digest(copy)
    (volume,) = back.volumes
    assert (volume.rounds[0].same, volume.rounds[0].diff) == (252, 4)
    assert sent(back) == 4 * BLOCK
    assert volume_wire(back) < 4 * BLOCK + 64 * 1024
    a.assert_runs(name)


@pytest.mark.thorough
def test_what_is_written_while_it_is_copied_arrives(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("busy")
    disk = image(a.images / f"{name}-root", 16)
    a.boot(name, [disk], extra=QUIET)

    job = a.begin(name, rate_limit=16 * MIB)
    a.until_sent(job.job, 8 * MIB)
    overwrite(disk, [1, 17, 33, 127, 254])  # of blocks that are there already, and of others
    report = a.finish(job.job)

    assert report.state is JobState.DONE, report.problem
    assert digest(b.images / disk.name) == digest(disk)
    assert sum(one.diff for one in report.volumes[0].rounds[1:]) >= 3
    b.assert_runs(name)


@pytest.mark.thorough
@pytest.mark.root
def test_a_block_device_and_a_file(hosts: Hosts, attach: Callable[..., Path]) -> None:
    a, b = hosts
    name = unique("db")
    backing = {host: image(host.folder / f"{name}.backing", 12, data=6) for host in hosts}
    for host in hosts:
        host.device_link("device-0", attach(backing[host]))
    file = image(a.images / f"{name}-data", 8, data=4)
    a.boot(name, [a.devices / "device-0", file])

    there = a.migrate(name, overwrite=True, verify=True)
    b.assert_runs(name)
    assert [volume.target for volume in there.volumes] == [
        "devices:device-0",
        f"images:{file.name}",
    ]
    assert [volume.fresh for volume in there.volumes] == [False, True]

    back = b.migrate(name, "host-a")  # host-a knows both volumes for this guest's
    a.assert_runs(name)
    assert volume_wire(back) < volume_wire(there)


def test_verify_reads_everything_again(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 16, data=4)])
    report = a.migrate(name, verify=True)
    b.assert_runs(name)
    last = report.volumes[0].rounds[-1]
    assert (last.same, last.diff, last.data_bytes) == (16 * MIB // BLOCK, 0, 0)
    assert last.examined == 16 * MIB


@pytest.mark.thorough
def test_the_rate_limit_holds(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 8)], extra=QUIET)
    report = a.migrate(name, rate_limit=6 * MIB)
    assert report.ended is not None
    assert (report.wire_bytes / (report.ended - report.started)) <= 6 * MIB
    assert report.volumes[0].rounds[0].seconds == pytest.approx(8 / 6, rel=0.5)
    b.assert_runs(name)


def test_zstd_makes_less_of_what_can_be_compressed(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = a.images / f"{name}-root"
    disk.write_bytes(b"so long, and thanks for all the fish\n" * (8 * MIB // 37 + 1))
    with disk.open("r+b") as file:
        file.truncate(8 * MIB)
    a.boot(name, [disk], extra=QUIET)
    report = a.migrate(name, compression="zstd")
    assert sent(report) == 8 * MIB
    assert volume_wire(report) < 1 * MIB
    assert digest(b.images / disk.name) == digest(disk)


@pytest.mark.thorough
def test_kept_parts_make_the_next_attempt_shorter(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 16)
    a.boot(name, [disk], extra=QUIET)

    job = a.begin(name, rate_limit=8 * MIB, keep_partial=True)
    a.until_sent(job.job, 6 * MIB)
    assert isinstance(a.ask(AbortJob(job.job)), Done)
    assert (b.images / disk.name).stat().st_size == 16 * MIB
    assert b.domain(name) is None

    report = a.migrate(name)
    assert not report.volumes[0].fresh
    assert sent(report) <= 16 * MIB - 1 * MIB
    assert digest(b.images / disk.name) == digest(disk)
    b.assert_runs(name)


def test_an_aborted_job_leaves_nothing(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 16)])
    before = b.footprint()
    job = a.begin(name, rate_limit=8 * MIB)
    a.until(job.job, in_pre_copy)

    answer = a.ask(AbortJob(job.job))

    assert isinstance(answer, Done)
    assert name in answer.text
    a.assert_runs(name)
    b.settle()
    assert b.footprint() == before
    report = a.finish(job.job)
    assert report.state is JobState.ABORTED
    assert report.problem is not None
    assert report.problem.code == "aborted"


def test_volumes_of_somebody_else_are_not_overwritten_unasked(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 8)
    theirs = image(b.images / disk.name, 8)
    was = digest(theirs)
    a.boot(name, [disk], extra=QUIET)

    found = the_problem(a.try_migrate(name), "volume-exists")
    assert f"images:{disk.name}" in found.text
    assert "--overwrite" in found.hint
    assert digest(theirs) == was

    report = a.migrate(name, overwrite=True)
    assert not report.volumes[0].fresh
    assert digest(theirs) == digest(disk)
    b.assert_runs(name)


@pytest.mark.thorough
def test_two_guests_cross(hosts: Hosts) -> None:
    a, b = hosts
    eastward, westward = unique("east"), unique("west")
    for host, name in ((a, eastward), (b, westward)):
        host.boot(name, [image(host.images / f"{name}-root", 16)])
    jobs = (a.begin(eastward), b.begin(westward, "host-a"))
    ends = [host.finish(job.job) for host, job in zip(hosts, jobs, strict=True)]
    assert [end.state for end in ends] == [JobState.DONE, JobState.DONE], ends
    b.assert_runs(eastward)
    a.assert_runs(westward)
    assert a.domain(eastward) is None
    assert b.domain(westward) is None


def test_one_guest_is_not_moved_twice_at_once(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 16)])
    answers: list[object] = []
    starts = [
        threading.Thread(target=lambda: answers.append(a.try_migrate(name, rate_limit=8 * MIB)))
        for _ in range(2)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    (refused,) = (one for one in answers if type(one).__name__ == "Failure")
    (begun,) = (one for one in answers if type(one).__name__ == "JobReport")
    codes = {one.code for one in refused.problems}  # type: ignore[attr-defined]
    assert "busy" in codes
    (busy,) = (one for one in refused.problems if one.code == "busy")  # type: ignore[attr-defined]
    assert begun.job in busy.text  # type: ignore[attr-defined]
    assert busy.hint
    a.ask(AbortJob(begun.job))  # type: ignore[attr-defined]
    a.assert_runs(name)
    assert b.domain(name) is None


@pytest.mark.thorough
def test_two_peers_send_guests_of_one_name(
    hosts: Hosts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    a, b = hosts
    name = unique("twin")
    c = Dom0(tmp_path_factory.mktemp("third"), "host-c")
    try:
        c.start()
        c.trust(b)
        b.trust(c)
        a.boot(name, [image(a.images / f"{name}-root", 8)])
        c.boot(name, [image(c.images / f"{name}-other", 8)])
        job = a.begin(name, rate_limit=4 * MIB)
        a.until(job.job, in_pre_copy)

        found = the_problem(c.try_migrate(name), "guest-exists")
        assert name in found.text
        assert "on its way" in found.text
        assert a.finish(job.job).state is JobState.DONE
        found = the_problem(c.try_migrate(name), "guest-exists")
        assert "host-b" in found.text
        b.assert_runs(name)
        c.assert_runs(name)
    finally:
        c.close()


def test_as_an_operator_types_it(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 8)])

    listed = a.ctl("list", "--json")
    assert name in {one["name"] for one in json.loads(listed.stdout)["guests"]}
    planned = a.ctl("plan", name, "host-b")
    assert planned.returncode == 0, planned.stderr
    assert f"images:{name}-root" in planned.stdout

    moved = a.ctl("migrate", name, "host-b", "--rate-limit", "100MiB", "--verify")
    assert moved.returncode == 0, moved.stderr
    assert name in moved.stdout
    b.assert_runs(name)

    back = b.ctl("migrate", name, "host-a", "--detach", "--json")
    job = json.loads(back.stdout)["job"]
    watched = b.ctl("watch", job)
    assert watched.returncode == 0, watched.stderr
    a.assert_runs(name)
    shown = json.loads(b.ctl("show", job, "--json").stdout)
    assert (shown["state"], shown["guest"]) == ("done", name)
    assert job in b.ctl("jobs", "--all").stdout

    refused = a.ctl("migrate", "nobody", "host-b")
    assert refused.returncode == 3
    assert "nobody" in refused.stderr
    assert "xenmovectl list" in refused.stderr


@pytest.mark.thorough
def test_a_guest_moves_many_times(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 8, data=4)], extra="sandbox.rate=8")
    for source, target in ((a, b), (b, a), (a, b)):
        source.migrate(name, target.name)
        target.assert_runs(name)
    assert b.verdict(name)["blocks"] > 200


def test_a_guest_is_held_until_the_cutover(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("held")
    disk = image(a.images / f"{name}-root", 16, data=8)
    a.boot(name, [disk], extra=QUIET)

    job = a.begin(name, hold=True)
    held = a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert held.hold
    a.assert_runs(name)
    overwrite(disk, [3, 77])
    shown = a.ctl("show", name)
    assert f"xenmovectl cutover {job.job}" in shown.stdout

    done = a.ctl("cutover", name)
    assert done.returncode == 0, done.stderr
    assert digest(b.images / disk.name) == digest(disk)
    b.assert_runs(name)
    late = a.ctl("set", job.job, "--hold")
    assert late.returncode == 1
    assert f"job {job.job} has ended: it is done" in late.stderr


def test_a_held_guest_may_be_aborted(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("held")
    a.boot(name, [image(a.images / f"{name}-root", 4)])
    job = a.begin(name, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert isinstance(a.ask(AbortJob(job.job)), Done)
    a.assert_runs(name)
    assert b.domain(name) is None


def test_a_running_job_is_changed(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("slow")
    disk = image(a.images / f"{name}-root", 16)
    a.boot(name, [disk])

    job = a.begin(name, rate_limit=256 * 1024)
    nothing = a.ctl("set", name)
    assert nothing.returncode == 2
    assert "nothing to change" in nothing.stderr
    done = a.ctl("set", name, "--rate-limit", "unlimited", "--max-downtime", "30s", "--hold")
    assert done.returncode == 0, done.stderr
    held = a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert (held.rate_limit, held.max_downtime, held.hold) == (None, 30.0, True)
    assert a.ctl("set", name, "--no-hold").returncode == 0
    assert a.finish(job.job).state is JobState.DONE
    b.assert_runs(name)


@pytest.mark.thorough
def test_a_guest_that_would_stand_still_for_too_long_stays(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("urgent")
    a.boot(name, [image(a.images / f"{name}-root", 4)], memory=8)
    done = a.ctl("migrate", name, "host-b", "--rate-limit", "2MiB", "--max-downtime", "1500ms")
    assert done.returncode == 1
    assert f"{name} would stand still for about" in done.stderr
    assert "--max-downtime allows 1.5 s" in done.stderr
    a.assert_runs(name)
    assert b.domain(name) is None
    assert not (b.images / f"{name}-root").exists()


def test_a_bridge_that_is_called_otherwise_there(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("net")
    peer = b.config_file.parent / "peers.d" / "host-a.yaml"
    written = peer.read_text()
    peer.write_text(written.replace("bridges: {}", "bridges: {dmz: xenbr0}"))
    b.reload()
    guest = a.boot(name, [image(a.images / f"{name}-root", 2)], bridge="dmz")

    a.migrate(name)

    b.assert_runs(name)
    domain = b.domain(name)
    assert domain is not None
    assert [nic["bridge"] for nic in domain.config["nics"]] == ["xenbr0"]
    assert "bridge=xenbr0" in (b.guest_configs / guest.config.name).read_text()
    peer.write_text(written)
    b.reload()
