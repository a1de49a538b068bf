"""A guest or its disks change while they are copied: refused, with the guest running."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import MIB, QUIET, Dom0, Guest, image, run, the_problem, unique
from xenmoved.jobs.report import JobReport, JobState, Phase

Hosts = tuple[Dom0, Dom0]
Backing = Callable[[Dom0, str], Path]
"""Makes a disk of a guest."""

MODES = pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])


@pytest.fixture(params=["file", pytest.param("loop", marks=pytest.mark.root)])
def backing(request: pytest.FixtureRequest) -> Iterator[Backing]:
    """How the disk of a guest is made: an image file, or a loop device on one by way of a link."""
    with ExitStack() as stack:

        def make(host: Dom0, name: str) -> Path:
            file = image(host.images / name, 8, data=2)
            if request.param == "file":
                return file
            device = Path(run("losetup", "--find", "--show", file))
            stack.callback(run, "losetup", "-d", device)
            link = host.folder / f"{name}.disk"
            link.symlink_to(device)
            return link

        yield make


def held(a: Dom0, disk: Path, mode: Mode, **options: str) -> tuple[Guest, JobReport]:
    """Begin to move a guest that has this disk; returns when it waits for the cutover."""
    guest = a.boot(unique("web"), [disk], extra=QUIET, **options)
    job = a.begin(guest.name, mode=mode, hold=True)
    return guest, a.until(job.job, lambda report: report.phase is Phase.HOLD)


def stays(hosts: Hosts, guest: Guest, job: JobReport, code: str) -> None:
    """Assert that a job ends for this reason, with the guest where it was and nothing there."""
    a, b = hosts
    a.ctl("cutover", guest.name)
    problem = the_problem(a.finish(job.job), code)
    assert guest.name in problem.text or str(guest.disks[0]) in problem.text
    a.assert_runs(guest.name)
    assert b.domain(guest.name) is None
    assert not [path for path in b.images.iterdir() if guest.disks[0].name in path.name]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("mode", "size"),
    [
        pytest.param(Mode.LIVE, 16 * MIB, id="live-grown"),
        pytest.param(Mode.SAVE, 4 * MIB, id="save-shrunk"),
        pytest.param(Mode.SAVE, 16 * MIB, id="save-grown", marks=pytest.mark.slow),
        pytest.param(Mode.LIVE, 4 * MIB, id="live-shrunk", marks=pytest.mark.slow),
    ],
)
def test_a_disk_of_another_size_does_not_move(hosts: Hosts, backing, mode: Mode, size: int):
    a, _ = hosts
    name = unique("disk")
    disk = backing(a, name)
    guest, job = held(a, disk, mode)
    os.truncate(a.images / name, size)
    if disk.is_block_device():
        run("losetup", "-c", disk.resolve())
    stays(hosts, guest, job, "disk-resized")


@pytest.mark.sampled
@pytest.mark.root
def test_a_disk_that_grows_while_memory_is_sent_does_not_move(hosts: Hosts, backing):
    a, _ = hosts
    name = unique("disk")
    disk = backing(a, name)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    a.xen.faults(migrate={"delay_per_mib": 1})
    job = a.begin(guest.name, mode=Mode.LIVE)
    a.until(job.job, lambda report: report.phase is Phase.MEMORY and report.memory_sent > 0)
    os.truncate(a.images / name, 16 * MIB)
    if disk.is_block_device():
        run("losetup", "-c", disk.resolve())
    stays(hosts, guest, job, "disk-resized")


REPLACED = {
    "another moved over it": lambda path, other: other.replace(path),
    "another link": lambda path, other: (path.unlink(), path.symlink_to(other)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_a_disk_that_is_replaced_meanwhile_does_not_move(hosts: Hosts, backing, replace):
    a, _ = hosts
    disk = backing(a, unique("disk"))
    guest, job = held(a, disk, Mode.LIVE)
    replace(disk, image(a.folder / unique("other"), 8, data=1))
    problem = the_problem(a.finish(job.job), "disk-replaced")
    assert disk.name in problem.text
    assert a.emulator.flags(a.domain(guest.name).domid) == (False, "-")


@pytest.mark.sampled
def test_a_disk_that_is_renamed_meanwhile_moves_as_the_guest_has_it(hosts: Hosts, backing):
    a, b = hosts
    disk = backing(a, unique("disk"))
    guest, job = held(a, disk, Mode.LIVE)
    disk.rename(disk.with_name(f"{disk.name}-old"))
    a.ctl("cutover", guest.name)
    assert a.finish(job.job).state is JobState.DONE
    b.assert_runs(guest.name)


def test_a_disk_that_is_renamed_and_grows_does_not_move(hosts: Hosts):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 8, data=2)
    guest, job = held(a, disk, Mode.LIVE)
    renamed = disk.rename(disk.with_name(f"{disk.name}-old"))
    os.truncate(renamed, 16 * MIB)
    stays(hosts, guest, job, "disk-resized")


@pytest.mark.sampled
def test_a_disk_that_was_replaced_before_is_a_problem_of_the_plan(hosts: Hosts, backing):
    a, _ = hosts
    disk = backing(a, unique("disk"))
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    assert not a.plan(guest.name).problems
    image(a.folder / unique("other"), 8, data=1).replace(disk)
    (problem,) = a.plan(guest.name).problems
    assert problem.code == "disk-replaced"
    assert str(disk) in problem.text
    assert problem.hint


def exchange(a: Dom0, guest: Guest, other: Path) -> None:
    a.xen.xl("block-detach", guest.name, "xvda")
    a.xen.xl("block-attach", guest.name, f"file:{other},xvda,w")


DEVICES = {
    "exchanged": (exchange, "disk-exchanged"),
    "detached": (lambda a, guest, _: a.xen.xl("block-detach", guest.name, "xvda"), "disk-removed"),
    "attached": (
        lambda a, guest, other: a.xen.xl("block-attach", guest.name, f"file:{other},xvdb,w"),
        "disk-added",
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("mode", "change", "code"),
    [
        pytest.param(mode, *DEVICES[what], id=f"{mode}-{what}", marks=marks)
        for mode, what, marks in (
            *((Mode.LIVE, what, ()) for what in DEVICES),
            (Mode.SAVE, "exchanged", ()),
            (Mode.SAVE, "detached", pytest.mark.slow),
            (Mode.SAVE, "attached", pytest.mark.slow),
        )
    ],
)
def test_a_guest_whose_disks_are_others_does_not_move(hosts: Hosts, mode: Mode, change, code: str):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 8, data=2)
    guest, job = held(a, disk, mode)
    change(a, guest, image(a.images / unique("other"), 8, data=2))
    stays(hosts, guest, job, code)


@pytest.mark.thorough
def test_a_disk_that_is_attached_while_memory_is_sent_keeps_the_guest_here(hosts: Hosts):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 4, data=1)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    a.xen.faults(migrate={"delay_per_mib": 1})
    job = a.begin(guest.name, mode=Mode.LIVE)
    a.until(job.job, lambda report: report.phase is Phase.MEMORY and report.memory_sent > 0)
    other = image(a.images / unique("other"), 4, data=1)
    a.xen.xl("block-attach", guest.name, f"file:{other},xvdb,w")
    stays(hosts, guest, job, "disk-added")


@pytest.mark.sampled
@MODES
def test_a_guest_that_was_started_anew_does_not_move(hosts: Hosts, mode: Mode):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 8, data=2)
    guest, job = held(a, disk, mode)
    a.xen.xl("destroy", guest.name)
    a.xen.xl("create", str(guest.config))
    stays(hosts, guest, job, "guest-restarted")


def test_a_guest_that_was_started_anew_with_another_disk_does_not_move(hosts: Hosts):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 8, data=2)
    guest, job = held(a, disk, Mode.LIVE)
    a.xen.xl("destroy", guest.name)
    other = image(a.images / unique("other"), 8, data=2)
    guest.config.write_text(guest.config.read_text().replace(str(disk), str(other)))
    a.xen.xl("create", str(guest.config))
    stays(hosts, guest, job, "guest-restarted")


@pytest.mark.thorough
def test_a_stopped_guest_whose_image_is_replaced_does_not_move(hosts: Hosts):
    a, b = hosts
    disk = image(a.images / unique("disk"), 32)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    a.xen.xl("destroy", guest.name)
    job = a.begin(guest.name, mode=Mode.COLD, rate_limit=16 * MIB)
    a.until_sent(job.job, MIB)
    image(a.folder / unique("other"), 64, data=1).replace(disk)
    the_problem(a.finish(job.job), "disk-replaced")
    assert guest.config.exists()
    assert not (b.images / disk.name).exists()


def stopped_in(a: Dom0, phase: Phase, disk: Path, **options: bool) -> tuple[Guest, JobReport]:
    """Begin to move a guest that does not run; returns when the job is in a phase, which lasts."""
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    a.xen.xl("destroy", guest.name)
    job = a.begin(guest.name, mode=Mode.COLD, rate_limit=16 * MIB, **options)
    return guest, a.until(job.job, lambda r: r.phase is phase and any(v.rounds for v in r.volumes))


def write(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"written in mid-copy")
        os.fsync(file.fileno())


def write_by_loop(path: Path) -> None:
    device = Path(run("losetup", "--find", "--show", path))
    try:
        write(device)
    finally:
        run("losetup", "-d", device)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("phase", "how"),
    [
        pytest.param(Phase.PRE_COPY, write_by_loop, marks=pytest.mark.root),
        (Phase.VERIFY, write),
        pytest.param(Phase.PRE_COPY, write, marks=pytest.mark.slow),
        pytest.param(Phase.VERIFY, write_by_loop, marks=[pytest.mark.root, pytest.mark.slow]),
    ],
)
def test_a_stopped_guest_whose_disk_is_written_does_not_move(
    hosts: Hosts, how: Callable[[Path], None], phase: Phase
):
    a, b = hosts
    disk = image(a.images / unique("disk"), 24)
    guest, job = stopped_in(a, phase, disk, verify=True, remove_source=True)
    how(disk)
    report = a.finish(job.job)
    assert report.problem is not None
    assert report.problem.code in ("volume-written", "verification-failed")
    assert disk.read_bytes().startswith(b"written in mid-copy")
    assert guest.config.exists()
    assert not (b.images / disk.name).exists()


@pytest.mark.thorough
def test_a_stopped_guest_whose_disk_another_one_has_does_not_move(hosts: Hosts):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 24)
    guest, job = stopped_in(a, Phase.PRE_COPY, disk)
    rescue = a.boot(unique("rescue"), [disk], extra="sandbox.rate=1")
    report = a.finish(job.job)
    assert report.problem is not None
    assert report.problem.code in ("volume-in-use", "volume-written")
    assert guest.config.exists()
    a.assert_runs(rescue.name)


@pytest.mark.thorough
def test_a_volume_that_grows_while_it_is_sent_is_no_success(hosts: Hosts):
    a, _ = hosts
    disk = image(a.images / unique("disk"), 32)
    job = a.begin_sync(disk, rate_limit=32 * MIB)
    a.until_sent(job.job, MIB)
    os.truncate(disk, 33 * MIB)
    the_problem(a.finish(job.job), "disk-resized")


@pytest.mark.sampled
@MODES
def test_a_write_that_a_device_model_ends_after_the_suspension_arrives(
    hosts: Hosts, backing, mode: Mode
):
    """It is in the guest's memory that it is done: the guest finds it missing otherwise."""
    a, b = hosts
    disk = backing(a, unique("disk"))
    name = unique("win")
    a.xen.faults(device_model={"delay": 0.5})
    a.boot(name, [disk], extra="sandbox.rate=1 sandbox.checks=20", lines="type = 'hvm'\n")
    time.sleep(0.2)
    a.migrate(name, mode=mode, verify=True)
    b.assert_runs(name)
