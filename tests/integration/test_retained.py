"""Copies that stay when their guest has gone: listed, used on the way back, dropped, never lost."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import (
    MIB,
    QUIET,
    Dom0,
    Guest,
    digest,
    image,
    overwrite,
    problems,
    the_problem,
    unique,
    volume_wire,
)
from tests.support.journals import query
from xenmoved.control.api import Done, SetJob
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.jobs.report import Phase
from xenmoved.migration.report import Retained, VolumeRow, Volumes
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]


def quiet_guest(host: Dom0, stem: str = "web") -> Guest:
    name = unique(stem)
    return host.boot(name, [image(host.images / f"{name}-root", 4, data=2)], extra=QUIET)


def volumes(host: Dom0) -> dict[str, VolumeRow]:
    """Return the volumes of the pool `images`, by name."""
    answer = host.ask(ListVolumes())
    assert isinstance(answer, Volumes), answer
    assert answer.problems == ()
    return {row.name: row for row in answer.volumes if row.pool == "images"}


def kept(host: Dom0, volume: str) -> Retained:
    """Return whose copy a volume is."""
    found = volumes(host)[volume].retained
    assert found is not None
    return found


def refusals(host: Dom0, volume: str | None = None, guest: str | None = None) -> dict[str, str]:
    """Return why volumes are not dropped, by code."""
    answer = host.ask(DropVolumes(volume, guest, confirmed=True))
    return {each.code: each.text for each in problems(answer)}


@pytest.mark.thorough
def test_a_copy_is_kept_of_a_guest_and_used_when_it_comes_back(hosts: Hosts) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    volume = guest.disks[0].name
    assert volumes(a)[volume].users[0] == f"disk of {guest.name}"
    assert volumes(a)[volume].retained is None
    there = a.migrate(guest.name)
    copy = kept(a, volume)
    assert (copy.guest, copy.uuid, copy.place) == (guest.name, guest.uuid, "host-b")
    row = volumes(a)[volume]
    assert (row.users, row.size) == ((), 4 * MIB)
    assert row.allocated is not None
    assert 2 * MIB <= row.allocated < 3 * MIB
    shown = a.ctl("volumes").stdout
    assert f"images:{volume}" in shown
    assert "host-b" in shown
    assert volumes(b)[volume].retained is None

    overwrite(b.images / volume, [5])
    back = b.migrate(guest.name, "host-a")
    assert not back.volumes[0].fresh
    assert volume_wire(back) < volume_wire(there) / 4
    a.assert_runs(guest.name)
    assert volumes(a)[volume].retained is None
    assert kept(b, volume).place == "host-a"


@contextlib.contextmanager
def _named_in_a_file(host: Dom0, guest: Guest) -> Iterator[str]:
    file = host.guest_configs / "other.cfg"
    file.write_text(f"name = 'other'\ndisk = ['format=raw,vdev=xvda,target={guest.disks[0]}']\n")
    yield "guest-here"
    file.unlink()


@contextlib.contextmanager
def _disk_of_another_domain(host: Dom0, guest: Guest) -> Iterator[str]:
    host.boot("thief", guest.disks, extra=QUIET)
    (host.guest_configs / "thief.cfg").unlink()
    yield "volume-in-use"
    host.xen.xl("destroy", "thief")


@contextlib.contextmanager
def _opened_by_somebody(host: Dom0, guest: Guest) -> Iterator[str]:
    with guest.disks[0].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield "volume-in-use"


@contextlib.contextmanager
def _guest_is_here(host: Dom0, guest: Guest) -> Iterator[str]:
    host.boot(guest.name, [image(host.images / "elsewhere", 1)], extra=QUIET)
    guest.config.unlink()
    yield "guest-here"
    host.xen.xl("destroy", guest.name)


@contextlib.contextmanager
def _in_doubt(host: Dom0, guest: Guest) -> Iterator[str]:
    row = "INSERT INTO outbound VALUES ('f', 'kept', ?, 'host-b', '0000000f', 1, 0, '')"
    query(host, row, guest.name)
    yield "unsettled"
    query(host, "DELETE FROM outbound WHERE migration='f'")


@contextlib.contextmanager
def _made_anew(host: Dom0, guest: Guest) -> Iterator[str]:
    disk = guest.disks[0]
    original = disk.with_name("original")
    disk.rename(original)
    shutil.copyfile(original, disk)
    yield "not-retained"
    original.replace(disk)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
def test_a_copy_beneath_an_image_is_not_dropped(hosts: Hosts) -> None:
    """Of a guest that is off, whose disk is only what differs from the copy."""
    a, _ = hosts
    guest = quiet_guest(a)
    a.migrate(guest.name)
    over, name = a.images / f"{guest.name}-over.qcow2", unique("over")
    wish = ["-f", "qcow2", "-b", guest.disks[0].name, "-F", "raw", str(over)]
    subprocess.run(["qemu-img", "create", "-q", *wish], check=True)
    file = a.folder / "xen" / f"{name}.cfg"
    file.write_text(f"name = '{name}'\nmemory = 2\ndisk = ['{over},qcow2,xvda,w']\n")
    volume = f"images:{guest.disks[0].name}"
    assert "beneath an image that is named in" in refusals(a, volume)["guest-here"]
    (users,) = {row.users for row in volumes(a).values() if row.name == guest.disks[0].name}
    assert users == (f"beneath an image that is named in {file}",)
    file.unlink()
    assert isinstance(a.ask(DropVolumes(volume, None, confirmed=True)), Done)
    over.unlink()


@pytest.mark.thorough
def test_a_copy_is_not_dropped_while_anybody_could_need_it(hosts: Hosts) -> None:
    a, _ = hosts
    guest = quiet_guest(a)
    volume = f"images:{guest.disks[0].name}"
    a.migrate(guest.name)
    before = digest(guest.disks[0])
    for need in (
        _named_in_a_file,
        _disk_of_another_domain,
        _opened_by_somebody,
        _guest_is_here,
        _in_doubt,
        _made_anew,
    ):
        with need(a, guest) as code:
            assert code in refusals(a, volume), need
    assert digest(guest.disks[0]) == before

    stranger = image(a.images / "stranger", 1)
    assert set(refusals(a, "images:stranger")) == {"not-retained"}
    assert set(refusals(a, "images:nothing")) == {"volume-missing"}
    assert set(refusals(a, guest="resident")) == {"volume-missing"}
    assert stranger.exists()
    unsure = a.ctl("volumes", "drop", volume)
    assert unsure.returncode == 2
    assert guest.name in unsure.stderr
    assert guest.disks[0].exists()

    dropped = a.ctl("volumes", "drop", "--guest", guest.name, "--yes")
    assert (dropped.returncode, dropped.stdout) == (0, f"dropped {volume}\n")
    assert not guest.disks[0].exists()
    assert f"dropped {volume}, the copy of {guest.name}" in a.log()
    assert set(refusals(a, volume)) == {"volume-missing"}


@pytest.mark.thorough
def test_a_copy_of_one_guest_is_never_taken_for_that_of_another(hosts: Hosts) -> None:
    a, b = hosts
    first = quiet_guest(a)
    volume = first.disks[0]
    a.migrate(first.name)
    before = digest(volume)
    other = b.boot(unique("other"), [image(b.pools["small"] / volume.name, 4, data=1)], extra=QUIET)
    found = the_problem(b.try_migrate(other.name, "host-a", pool="images"), "volume-exists")
    assert f"a copy of another guest's: {first.name}" in found.text
    assert digest(volume) == before

    # The same name, but made anew by hand: it is nobody's copy, not even this guest's.
    volume.rename(volume.with_name("away"))
    shutil.copyfile(volume.with_name("away"), volume)
    found = the_problem(b.try_migrate(first.name, "host-a"), "volume-exists")
    assert "another volume than the copy" in found.text
    b.migrate(first.name, "host-a", overwrite=True)
    a.assert_runs(first.name)


@pytest.mark.thorough
def test_copies_are_dropped_when_they_are_old_enough(hosts: Hosts) -> None:
    a, _ = hosts
    old, needed = quiet_guest(a), quiet_guest(a)
    for guest in (old, needed):
        a.migrate(guest.name)
    (a.guest_configs / "other.cfg").write_text(f"disk = ['phy:{needed.disks[0]},xvda,w']\n")
    a.reload()
    assert old.disks[0].exists()
    a.write_config(retain={"age": "1s"})
    a.stop()
    a.start()
    try:
        wait_until(lambda: not old.disks[0].exists(), "the end of an old copy", 20)
        wait_until(lambda: "old enough to be dropped stays" in a.log(), "a word about the other")
        assert needed.disks[0].exists()
    finally:
        a.write_config(retain={"age": "never"})


@pytest.mark.sampled
@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE, Mode.COLD])
def test_remove_source_leaves_nothing_here(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    if mode is Mode.COLD:
        a.xen.xl("destroy", guest.name)
    moved = a.ctl("migrate", guest.name, "host-b", "--mode", str(mode), "--remove-source")
    assert moved.returncode == 0, moved.stderr
    assert not guest.disks[0].exists()
    assert (b.images / guest.disks[0].name).exists()
    assert a.last_of(guest.name).volumes[0].rounds[-1].verify
    if mode is not Mode.COLD:
        b.assert_runs(guest.name)


@pytest.mark.root
def test_what_does_not_verify_is_not_removed(
    hosts: Hosts, attach: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    beneath = tmp_path / "beneath"
    beneath.write_bytes(bytes(guest.disks[0].stat().st_size))
    b.device_link("device-0", attach(beneath))
    job = a.begin(
        guest.name,
        hold=True,
        remove_source=True,
        overwrite=True,
        pool="devices",
        volumes={guest.disks[0].name: "device-0"},
    )
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    overwrite(beneath, [3])
    assert isinstance(a.ask(SetJob(job.job, hold=False)), Done)
    the_problem(a.finish(job.job), "verification-failed")
    a.assert_runs(guest.name)
    assert guest.disks[0].exists()


def test_remove_source_says_what_it_cannot_remove(hosts: Hosts, tmp_path: Path) -> None:
    a, _ = hosts
    name = unique("web")
    a.boot(name, [image(tmp_path / f"{name}-root", 1)], extra=QUIET)
    found = the_problem(a.try_migrate(name, remove_source=True), "remove-source")
    assert "in no pool" in found.text
    wrong = a.ctl("migrate", name, "host-b", "--remove-source", "--no-verify")
    assert wrong.returncode == 2


def test_copies_that_are_needed_after_all_stay_and_the_job_says_so(hosts: Hosts) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    (a.guest_configs / "other.cfg").write_text(f"disk = ['file:{guest.disks[0]},xvda,w']\n")
    moved = a.ctl("migrate", guest.name, "host-b", "--remove-source", timeout=60)
    assert moved.returncode == 7, moved.stderr
    assert "named in" in moved.stderr
    assert guest.disks[0].exists()
    b.assert_runs(guest.name)
    assert kept(a, guest.disks[0].name).place == "host-b"


def test_when_the_third_volume_cannot_be_made_the_two_before_it_go(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disks = [image(a.images / f"{name}-{number}", 1) for number in range(4)]
    there = image(b.images / disks[0].name, 1)  # pre-existing, and may be overwritten
    (b.images / disks[3].name).symlink_to("nowhere")  # free to look at, and yet in the way
    a.boot(name, disks, extra=QUIET)
    job = a.begin(name, overwrite=True)
    found = the_problem(a.finish(job.job), "volume-exists")
    assert disks[3].name in found.text
    a.assert_runs(name)
    wait_until(lambda: not (b.images / disks[1].name).exists(), "the end of what was made")
    assert not (b.images / disks[2].name).exists()
    assert there.exists()
    assert (b.images / disks[3].name).is_symlink()


def test_what_keep_partial_leaves_can_be_dropped(hosts: Hosts) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    volume = b.images / guest.disks[0].name
    job = a.begin(guest.name, hold=True, keep_partial=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert "volume-in-use" in refusals(b, f"images:{volume.name}")
    a.settle()
    b.settle()
    assert kept(b, volume.name).place == "host-a"
    assert isinstance(b.ask(DropVolumes(None, guest.uuid, confirmed=True)), Done)
    assert not volume.exists()


@pytest.mark.root
def test_a_device_that_was_listed_by_hand_is_removed_by_hand(
    hosts: Hosts, attach: Callable[..., Path]
) -> None:
    a, _ = hosts
    name = unique("db")
    a.device_link("device-0", attach(image(a.folder / f"{name}.backing", 1)))
    a.boot(name, [a.devices / "device-0"], extra=QUIET)
    a.migrate(name, pool="images")
    assert refusals(a, guest=name) == {
        "volume-kind": "pool devices removes no volumes: device-0 is removed by hand"
    }
