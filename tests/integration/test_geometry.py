"""Disks and volumes of other sizes and sectors, and volumes that change while they are filled."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.messages import Mode, Problem
from tests.support.dom0 import BLOCK, MIB, QUIET, Dom0, image, problems, run, the_problem, unique
from xenmoved.control.evacuation_api import PlanEvacuation
from xenmoved.evacuation.report import GuestFate
from xenmoved.jobs.report import JobReport, Phase

Hosts = tuple[Dom0, Dom0]
Attach = Callable[..., Path]

ONTO_DEVICE = {"pools": {"images": "devices"}, "overwrite": True}


def device(host: Dom0, attach: Attach, name: str, size: int, sector: int = 512) -> Path:
    """Have a listed device of a host that holds what somebody else left there."""
    file = host.folder / f"{unique('back')}"
    file.write_bytes(os.urandom(size))
    node = attach(file, "--sector-size", str(sector))
    host.device_link(name, node)
    return node


def disk_of(host: Dom0, name: str, size: int) -> Path:
    path = host.images / name
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.thorough
@pytest.mark.root
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])
def test_a_guest_finds_zeros_behind_what_its_disk_was(hosts: Hosts, attach: Attach, mode: Mode):
    """Also where the end is within a block that is compared."""
    a, b = hosts
    node = device(b, attach, "device-0", 8 * MIB)
    size = 3 * MIB + BLOCK // 2 + 512
    disk = disk_of(a, "device-0", size)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    plan = a.plan(guest.name, mode=mode, **ONTO_DEVICE)
    assert not plan.problems
    (larger,) = [one for one in plan.warnings if one.code == "larger"]
    assert f"{size} bytes and will have {8 * MIB}" in larger.text
    report = a.migrate(guest.name, mode=mode, verify=True, **ONTO_DEVICE)
    found = node.read_bytes()
    assert found == disk.read_bytes() + bytes(8 * MIB - size)
    assert report.volumes[0].size == 8 * MIB, "the zeros count as progress"
    assert "larger" not in {one.code for one in b.plan(guest.name, "host-a", mode=mode).warnings}


def test_a_larger_file_is_cleared_and_one_that_is_as_large_is_no_larger(hosts: Hosts):
    a, b = hosts
    disk = image(a.images / "cleared", 2)
    target = image(b.images / "cleared", 6)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    a.migrate(guest.name, overwrite=True)
    assert target.read_bytes() == disk.read_bytes() + bytes(4 * MIB)


def refusal(host: Dom0, guest: str) -> Problem:
    """Return the one problem that keeps a guest from going onto a device."""
    (found,) = host.plan(guest, **ONTO_DEVICE).problems
    assert (found,) == problems(host.try_migrate(guest, **ONTO_DEVICE))
    assert found.hint
    host.assert_runs(guest)
    return found


@pytest.mark.root
@pytest.mark.parametrize(("here", "there"), [(512, 4096), (4096, 512), (None, 4096)])
def test_a_guest_keeps_the_sectors_that_it_knows(
    hosts: Hosts, attach: Attach, here: int | None, there: int
):
    """None is an image file, of which guests see sectors of 512 bytes."""
    a, b = hosts
    device(b, attach, "device-0", 4 * MIB, there)
    before = (b.devices / "device-0").read_bytes()
    if here is None:
        disk = disk_of(a, "device-0", 4 * MIB)
    else:
        device(a, attach, "device-0", 4 * MIB, here)
        disk = a.devices / "device-0"
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    options = {**ONTO_DEVICE, "pools": {}} if here else ONTO_DEVICE
    (found,) = a.plan(guest.name, **options).problems
    assert found.code == "sector-size"
    assert f"sectors of {there} bytes" in found.text
    assert f"sectors of {here or 512}:" in found.text
    assert (b.devices / "device-0").read_bytes() == before


@pytest.mark.root
def test_large_sectors_move_to_large_sectors_and_back(hosts: Hosts, attach: Attach):
    a, b = hosts
    ours = device(a, attach, "device-0", 4 * MIB, 4096)
    theirs = device(b, attach, "device-0", 4 * MIB + 4096, 4096)
    held = ours.read_bytes()
    guest = a.boot(unique("web"), [a.devices / "device-0"], extra=QUIET)
    a.migrate(guest.name, overwrite=True, verify=True)
    assert theirs.read_bytes() == held + bytes(4096)
    (found,) = b.plan(guest.name, "host-a", overwrite=True).problems
    assert found.code == "volume-too-small"
    b.assert_runs(guest.name)


@pytest.mark.sampled
@pytest.mark.root
@pytest.mark.parametrize(
    "odd", [511, 513, *(pytest.param(odd, marks=pytest.mark.slow) for odd in (1, 4095))]
)
def test_a_size_that_is_no_whole_number_of_sectors_is_refused_beforehand(
    hosts: Hosts, attach: Attach, odd: int
):
    a, b = hosts
    device(b, attach, "device-0", 4 * MIB)
    disk = disk_of(a, "device-0", MIB + odd)
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    found = refusal(a, guest.name)
    assert found.code == "volume-size"
    assert str(MIB + odd) in found.text
    assert f"truncate -s {MIB + -(-odd // 512) * 512}" in found.hint
    a.migrate(guest.name, verify=True)
    assert (b.images / "device-0").read_bytes() == disk.read_bytes()


@pytest.mark.root
def test_without_a_guest_nobody_minds_the_sectors(hosts: Hosts, attach: Attach):
    a, b = hosts
    node = device(b, attach, "device-0", 4 * MIB, 4096)
    disk = disk_of(a, unique("data"), MIB + 4096)
    a.sync(disk, target="devices:device-0", verify=True)
    assert node.read_bytes() == disk.read_bytes() + bytes(3 * MIB - 4096)
    odd = disk_of(a, unique("data"), MIB + 512)
    found = the_problem(a.try_sync(odd, target="devices:device-0"), "volume-size")
    assert "sectors of 4096 bytes" in found.text


def test_a_volume_of_no_bytes_is_not_sent(hosts: Hosts):
    a, _ = hosts
    empty = disk_of(a, unique("empty"), 0)
    the_problem(a.try_sync(empty), "volume-size")


def held_back(hosts: Hosts, disk: Path, **options: object) -> tuple[str, JobReport]:
    """Begin to move a guest; returns when its disks are copied and it waits for the cutover."""
    a, _ = hosts
    guest = a.boot(unique("web"), [disk], extra=QUIET)
    job = a.begin(guest.name, hold=True, **options)
    return guest.name, a.until(job.job, lambda report: report.phase is Phase.HOLD)


def ends(hosts: Hosts, guest: str, job: JobReport, code: str) -> Problem:
    """Let a held guest go on; it must end for this reason, before the guest stood still."""
    a, b = hosts
    a.ctl("cutover", guest)
    report = a.finish(job.job)
    found = the_problem(report, code)
    assert found.text.startswith("host-b: ")
    assert report.blackout is None
    a.assert_runs(guest)
    assert b.domain(guest) is None
    return found


def test_a_volume_that_another_file_was_moved_over_is_not_started_from(hosts: Hosts):
    a, b = hosts
    name = unique("disk")
    guest, job = held_back(hosts, image(a.images / name, 4))
    other = image(b.images / f"{name}.other", 4)
    held = other.read_bytes()
    other.rename(b.images / name)
    assert name in ends(hosts, guest, job, "disk-replaced").text
    assert (b.images / name).read_bytes() == held, "what is somebody else's stays"


def test_a_volume_that_was_renamed_is_not_started_from(hosts: Hosts):
    a, b = hosts
    name = unique("disk")
    guest, job = held_back(hosts, image(a.images / name, 4))
    (b.images / name).rename(b.images / f"{name}-away")
    ends(hosts, guest, job, "disk-replaced")


def test_a_volume_that_grew_is_not_started_from(hosts: Hosts):
    a, b = hosts
    name = unique("disk")
    guest, job = held_back(hosts, image(a.images / name, 4))
    os.truncate(b.images / name, 5 * MIB)
    ends(hosts, guest, job, "disk-resized")


@pytest.mark.root
def test_a_listed_device_whose_link_leads_elsewhere_is_not_started_from(
    hosts: Hosts, attach: Attach
):
    a, b = hosts
    device(b, attach, "device-0", 4 * MIB)
    other = device(b, attach, "device-1", 4 * MIB)
    held = other.read_bytes()
    disk = disk_of(a, "device-0", 4 * MIB)
    guest, job = held_back(hosts, disk, **ONTO_DEVICE)
    (b.devices / "device-0").unlink()
    b.device_link("device-0", other)
    ends(hosts, guest, job, "disk-replaced")
    assert other.read_bytes() == held


@pytest.mark.sampled
@pytest.mark.root
@pytest.mark.parametrize("detached", [False, True])
def test_a_volume_that_a_loop_device_had_is_not_started_from(
    hosts: Hosts, attach: Attach, detached: bool
):
    """Attached and detached again, it may have been written to, and nothing shows it any more."""
    a, b = hosts
    name = unique("disk")
    guest, job = held_back(hosts, image(a.images / name, 4), keep_partial=True)
    if detached:
        node = run("losetup", "--find", "--show", b.images / name)
        run("losetup", "--detach", node)
    else:
        node = str(attach(b.images / name))
    found = ends(hosts, guest, job, "volume-written" if detached else "volume-in-use")
    assert detached or node in found.text


@pytest.mark.sampled
@pytest.mark.root
@pytest.mark.parametrize("kind", ["file", "device"])
def test_a_volume_that_a_program_has_open_for_writing_is_not_started_from(
    hosts: Hosts, attach: Attach, kind: str
):
    a, b = hosts
    name = unique("disk") if kind == "file" else "device-0"
    if kind == "device":
        device(b, attach, name, 4 * MIB)
    disk = image(a.images / name, 4)
    guest, job = held_back(hosts, disk, **(ONTO_DEVICE if kind == "device" else {}))
    path = (b.images if kind == "file" else b.devices) / name
    with path.open("r+b"):
        found = ends(hosts, guest, job, "volume-in-use")
    assert f"open for writing in process {os.getpid()}" in found.text


@pytest.mark.root
def test_who_only_reads_a_volume_is_in_nobodys_way(hosts: Hosts, attach: Attach):
    a, b = hosts
    device(b, attach, "device-0", 4 * MIB)
    disk = disk_of(a, "device-0", 4 * MIB)
    guest, job = held_back(hosts, disk, **ONTO_DEVICE)
    with (b.devices / "device-0").open("rb") as reader:
        reader.read(MIB)
        a.ctl("cutover", guest)
        assert a.finish(job.job).problem is None
    b.assert_runs(guest)


def test_a_volume_that_is_filled_for_another_guest_is_seen(hosts: Hosts):
    a, _ = hosts
    other = a.folder / "elsewhere"
    other.mkdir(exist_ok=True)
    name = unique("root")
    image(a.images / name, 2)
    first = a.boot(unique("web"), [a.images / name], extra=QUIET)
    second = a.boot(unique("db"), [image(other / name, 2)], extra=QUIET)
    job = a.begin(first.name, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert "volume-in-use" in {one.code for one in a.plan(second.name).problems}
    a.ctl("abort", first.name)
    a.finish(job.job)
    assert not a.plan(second.name).problems


@pytest.mark.root
def test_two_names_of_one_device_are_no_two_disks(hosts: Hosts, attach: Attach):
    a, b = hosts
    node = device(b, attach, "device-0", 4 * MIB)
    b.device_link("device-1", node)
    disks = [disk_of(a, f"device-{number}", 2 * MIB) for number in range(2)]
    guest = a.boot(unique("web"), disks, extra=QUIET)
    found = [one for one in a.plan(guest.name, **ONTO_DEVICE).problems if one.code == "volume-name"]
    assert "two disks of the guest would both become devices:device-1" in found[0].text


def test_an_evacuation_plans_no_two_volumes_of_one_name(hosts: Hosts):
    a, _ = hosts
    name = unique("disk0")
    guests = []
    for folder in ("one", "two"):
        (a.folder / folder).mkdir(exist_ok=True)
        disk = image(a.folder / folder / name, 1)
        guests.append(a.boot(unique("web"), [disk], extra=QUIET).name)
    plan = a.ask(PlanEvacuation(("host-b",), None))
    told = {guest.guest: guest for guest in plan.guests}
    fates = {told[name].fate for name in guests}
    assert fates == {GuestFate.BLOCKED, GuestFate.WAITING}
    (problem,) = next(
        told[name] for name in guests if told[name].fate is GuestFate.BLOCKED
    ).problems
    assert problem.code == "volume-name"
    assert f"two volumes images:{name}" in problem.text
