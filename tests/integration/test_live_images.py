"""Images of guests that run: what the guest sees is read by its QEMU, and is a raw disk there.

The emulated guest stands still, and a real QEMU has its disk and the monitor that libxl would make.
"""

from __future__ import annotations

import os
import signal

import pytest

from protocol.messages import Mode
from storage.errors import QemuRefusal
from tests.support.dom0 import (
    BLOCK,
    MIB,
    Dom0,
    Guest,
    overwrite,
    problems,
    sent,
    the_problem,
)
from tests.support.images import qcow2_header
from tests.support.journals import query
from tests.support.qemu import content, make_image, only_with_qemu, start_emulator
from tests.support.served import (
    QEMU_NAMES,
    SIZE,
    Serve,
    gone,
    held,
    quit_qemu,
    seen,
    serve_again,
)
from tests.support.volumes import run
from xenmoved.control.api import AbortJob
from xenmoved.jobs.report import JobState, Phase
from xenmoved.sandbox.harness import wait_until

pytestmark = [pytest.mark.long, only_with_qemu]

Hosts = tuple[Dom0, Dom0]


def keep_elsewhere(a: Dom0, guest: Guest) -> None:
    """Have the file of a guest where nobody looks for it, as of `xl create /srv/web.cfg`."""
    folder = a.folder / "srv"
    folder.mkdir(exist_ok=True)
    guest.config.rename(folder / guest.config.name)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("qcow2", Mode.LIVE),
        pytest.param("qcow2", Mode.SAVE, marks=pytest.mark.thorough),
        pytest.param("vhd", Mode.LIVE, marks=pytest.mark.thorough),
    ],
)
def test_what_the_guest_sees_arrives_as_a_raw_disk(
    hosts: Hosts, serve: Serve, kind: str, mode: Mode
) -> None:
    a, b = hosts
    guest, _, emulator = serve(kind)
    plan = a.plan(guest.name, mode=mode)
    (planned,) = plan.volumes
    assert not plan.problems
    assert (planned.target, planned.size) == (f"images:{guest.name}", SIZE)
    assert (planned.served_by, planned.tracking) == ("QEMU", "bitmap")
    assert "converted" in [one.code for one in plan.warnings]
    job = held(a, guest, mode)
    emulator.write("hd0", 3 * MIB, 4096, fill=1)
    emulator.write("hd0", 9 * MIB + 512, 102400, fill=2)
    a.ctl("cutover", guest.name)
    report = a.finish(job.job)
    assert report.state is JobState.DONE, report.problem
    (volume,) = report.volumes
    assert 65536 + 131072 <= sum(one.examined for one in volume.rounds[1:]) <= 1 * MIB
    assert emulator.left() == []
    there = b.images / guest.name
    assert there.read_bytes() == seen(emulator, kind)
    assert there.stat().st_blocks * 512 < SIZE // 2
    config = (b.guest_configs / f"{guest.name}.cfg").read_text()
    assert f"'format=raw,vdev=xvda,target={there}'" in config
    (arrived,) = b.emulator.find(guest.name).config["disks"]  # type: ignore[union-attr]
    assert (arrived["format"], arrived["pdev_path"]) == ("raw", str(there))
    b.assert_runs(guest.name)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("qcow2", Mode.LIVE), pytest.param("vhd", Mode.SAVE, marks=pytest.mark.thorough)],
)
def test_the_way_back_is_into_the_image(hosts: Hosts, serve: Serve, kind: str, mode: Mode) -> None:
    """Only differences travel, and there is no other volume."""
    a, b = hosts
    guest, disk, emulator = serve(kind)
    config = guest.config.read_text()
    a.migrate(guest.name, mode=mode)
    quit_qemu(emulator)
    there = b.images / guest.name
    overwrite(there, [3, 100])
    with there.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(bytes(1 * MIB))
    report = b.migrate(guest.name, "host-a")
    (volume,) = report.volumes
    assert (volume.target, volume.fresh) == (f"images:{disk.name}", False)
    assert sent(report) == 2 * BLOCK
    assert content(disk, QEMU_NAMES[kind]) == there.read_bytes()
    if kind == "qcow2":
        run("qemu-img", "check", "-q", "-f", kind, disk)
    assert guest.config.read_text() == config
    (arrived,) = a.emulator.find(guest.name).config["disks"]  # type: ignore[union-attr]
    assert (arrived["format"], arrived["pdev_path"]) == (kind, str(disk))
    assert [path.name for path in a.images.iterdir() if guest.name in path.name] == [disk.name]
    a.assert_runs(guest.name)
    # And out again: the raw copy there is known, too.
    emulator = serve_again(a, guest.name, disk, kind)
    emulator.write("hd0", 7 * MIB, 4096, fill=9)
    report = a.migrate(guest.name, mode=mode)
    assert not report.volumes[0].fresh
    assert sent(report) == BLOCK
    assert there.read_bytes() == seen(emulator, kind)


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["written", "unknown", "with a base"])
def test_an_image_that_is_not_as_it_was_left_is_not_used(
    hosts: Hosts, serve: Serve, how: str
) -> None:
    """Nor written over, whatever is allowed. No configuration that is known names it."""
    a, b = hosts
    guest, disk, emulator = serve("qcow2", "-o", "preallocation=full")  # as large as its content
    keep_elsewhere(a, guest)
    a.migrate(guest.name, mode=Mode.SAVE)
    gone(emulator)
    if how == "written":
        with disk.open("r+b") as file:
            file.seek(8 * MIB)
            file.write(b"x")
    elif how == "unknown":
        query(a, "UPDATE owners SET written=NULL")
    else:
        before = disk.stat()
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", disk)
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    container = disk.read_bytes()
    volumes = {guest.name: disk.name}
    for overwriting in (False, True):
        refused = b.try_migrate(guest.name, "host-a", volumes=volumes, overwrite=overwriting)
        (found,) = problems(refused)
        assert found.code == ("image" if how == "with a base" else "volume-image"), found
    assert b.migrate(guest.name, "host-a").volumes[0].fresh
    assert disk.read_bytes() == container
    assert (a.images / guest.name).read_bytes() == (b.images / guest.name).read_bytes()


def test_an_image_with_any_name_is_found_on_the_way_back(hosts: Hosts, serve: Serve) -> None:
    """The guest may have written what looks like a header, and its own file says `qcow2`."""
    a, b = hosts
    guest, disk, emulator = serve("qcow2", "-o", "preallocation=full", ending="img")
    keep_elsewhere(a, guest)
    where = a.folder / "evil"
    where.write_bytes((qcow2_header(backing=104) + b"/etc/shadow").ljust(BLOCK, b"\0"))
    emulator.io("hd0", f"write -s {where} 0 {BLOCK}")
    a.migrate(guest.name, mode=Mode.LIVE)
    gone(emulator)
    there = b.images / f"{disk.name}-raw"
    overwrite(there, [0])
    with there.open("r+b") as file:
        file.write(where.read_bytes()[:512])
    report = b.migrate(guest.name, "host-a")
    assert [(one.target, one.fresh) for one in report.volumes] == [(f"images:{disk.name}", False)]
    assert content(disk, "qcow2") == there.read_bytes()
    run("qemu-img", "check", "-q", "-f", "qcow2", disk)


def test_what_looks_like_a_header_is_only_content(hosts: Hosts, serve: Serve) -> None:
    """Nobody looks for one in what a guest has written."""
    a, b = hosts
    guest, _, emulator = serve("qcow2")
    evil = qcow2_header(backing=104) + b"/etc/shadow"
    where = a.folder / "evil"
    where.write_bytes(evil.ljust(BLOCK, b"\0"))
    emulator.io("hd0", f"write -s {where} 0 {BLOCK}")
    a.migrate(guest.name, mode=Mode.LIVE)
    assert (b.images / guest.name).read_bytes().startswith(evil)
    (arrived,) = b.emulator.find(guest.name).config["disks"]  # type: ignore[union-attr]
    assert arrived["format"] == "raw"
    assert "format=raw" in (b.guest_configs / f"{guest.name}.cfg").read_text()


@pytest.mark.parametrize("mode", [Mode.LIVE, pytest.param(Mode.SAVE, marks=pytest.mark.thorough)])
def test_the_last_round_is_read_when_qemu_has_stopped(
    hosts: Hosts, serve: Serve, mode: Mode
) -> None:
    """And has given up its images, as libxl has it do with guests of type hvm."""
    a, b = hosts
    guest, _, emulator = serve("qcow2", vdev="hda", lines="type = 'hvm'\n")
    a.xen.faults(**{"device-model": {"held": True}})
    job = a.begin(guest.name, mode=mode)
    a.until(job.job, lambda report: report.phase is Phase.FINAL_DELTA)
    emulator.io("hd0", f"aio_write -q -P 9 {5 * MIB} 65536")  # under way when it is to stop
    a.xen.faults()
    report = a.finish(job.job)
    assert report.state is JobState.DONE, report.problem
    # What is saved is resumed by libxl, and paused.
    assert emulator.execute("query-status")["running"] == (mode is Mode.SAVE)
    assert emulator.left() == []
    emulator.execute("cont")
    arrived = (b.images / guest.name).read_bytes()
    assert arrived[5 * MIB :][:65536] == b"\x09" * 65536
    assert arrived == seen(emulator, "qcow2")


def test_a_guest_that_goes_on_here_has_its_disk_again(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, _, emulator = serve("qcow2", vdev="hda", lines="type = 'hvm'\n")
    b.xen.faults(restore={"fail": "no memory"}, migrate_receive={"fail": "no room"})
    report = a.finish(a.begin(guest.name, mode=Mode.LIVE).job)
    b.xen.faults()
    assert report.state is JobState.FAILED
    assert emulator.execute("query-status")["status"] == "running"
    emulator.write("hd0", 0, 4096)
    assert emulator.left() == []
    a.assert_runs(guest.name)


@pytest.mark.thorough
def test_without_a_qemu_that_answers_it_stays(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, _, emulator = serve("qcow2")
    emulator.freeze()
    found = the_problem(a.try_migrate(guest.name, mode=Mode.LIVE), "disk")
    assert "did not answer in time" in found.text
    assert "--mode cold" in found.hint
    gone(emulator)
    found = the_problem(a.try_migrate(guest.name, mode=Mode.LIVE), "disk")
    assert "only raw disks move while the guest runs" in found.text
    assert "toolstack.monitors" in found.hint
    assert not (b.images / guest.name).exists()


@pytest.mark.thorough
def test_a_qemu_that_freezes_ends_the_job_in_time_and_the_guest_runs_on(
    hosts: Hosts, serve: Serve
) -> None:
    a, b = hosts
    guest, _, emulator = serve("qcow2")
    job = held(a, guest, Mode.LIVE)
    emulator.freeze()
    report = a.finish(job.job)
    assert report.state is JobState.FAILED
    assert report.problem is not None
    assert "did not answer in time" in report.problem.text
    emulator.thaw()
    a.assert_runs(guest.name)
    assert not (b.images / guest.name).exists()


def test_what_a_killed_daemon_left_in_qemu_the_next_one_removes(hosts: Hosts, serve: Serve) -> None:
    a, _ = hosts
    guest, _, emulator = serve("qcow2")
    held(a, guest, Mode.LIVE)
    a.stop(signal.SIGKILL)
    assert emulator.execute("query-block-exports")
    a.start()
    wait_until(lambda: not emulator.left(), "all that was added to QEMU is removed")
    a.assert_runs(guest.name)


def test_a_disk_is_not_enlarged_meanwhile(hosts: Hosts, serve: Serve) -> None:
    """QEMU lets nobody, as long as it exports the disk."""
    a, _ = hosts
    guest, _, emulator = serve("qcow2")
    job = held(a, guest, Mode.LIVE)
    with pytest.raises(QemuRefusal, match="resize"):
        emulator.execute("block_resize", device="hd0", size=2 * SIZE)
    a.ask(AbortJob(job.job))
    assert a.finish(job.job).state is JobState.ABORTED
    emulator.execute("block_resize", device="hd0", size=2 * SIZE)


def test_an_image_may_grow_while_it_is_copied(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, disk, emulator = serve("qcow2")
    before = disk.stat().st_size
    job = held(a, guest, Mode.LIVE)
    emulator.write("hd0", 8 * MIB, 8 * MIB, fill=5)
    emulator.io("hd0", "flush")
    assert disk.stat().st_size > before
    a.ctl("cutover", guest.name)
    assert a.finish(job.job).state is JobState.DONE
    assert (b.images / guest.name).read_bytes() == seen(emulator, "qcow2")


def test_an_aborted_copy_leaves_nothing(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, _, emulator = serve("qcow2")
    job = held(a, guest, Mode.LIVE)
    a.ask(AbortJob(job.job))
    assert a.finish(job.job).state is JobState.ABORTED
    assert emulator.left() == []
    assert not (b.images / guest.name).exists()


@pytest.mark.thorough
def test_an_image_with_its_data_in_another_file_is_refused(hosts: Hosts, serve: Serve) -> None:
    a, _ = hosts
    guest, disk, emulator = serve("qcow2")
    emulator.end()
    data = disk.with_name(f"{disk.name}.data")
    make_image(disk, "qcow2", SIZE, "-o", f"data_file={data}")
    monitors = a.xen.root / "run"
    domain = a.domain(guest.name)
    assert domain is not None
    again = start_emulator(monitors, {"hd0": ("qcow2,file.locking=off", disk)}, domid=domain.domid)
    try:
        (found,) = problems(a.try_migrate(guest.name, mode=Mode.LIVE))
        assert "keeps its data in another file" in found.text
    finally:
        again.end()
