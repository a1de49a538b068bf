"""What is under the name of a copy, and is not the copy: never overwritten, dropped or expired."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.dom0 import (
    MIB,
    QUIET,
    Dom0,
    Guest,
    digest,
    image,
    overwrite,
    problems,
    run,
    the_problem,
    unique,
)
from tests.support.journals import query
from xenmoved.control.api import ListJobs
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.jobs.report import Phase
from xenmoved.migration.report import Volumes
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]

PRECIOUS = b"what somebody else needs"


def quiet_guest(host: Dom0) -> Guest:
    name = unique("web")
    return host.boot(name, [image(host.images / f"{name}-root", 2)], extra=QUIET)


def assert_nobody_takes_it(a: Dom0, b: Dom0, guest: Guest, why: str) -> None:
    """Assert that a file under the name of a copy is neither listed as one, nor touched."""
    file = guest.disks[0]
    before = digest(file)
    answer = a.ask(ListVolumes())
    assert isinstance(answer, Volumes)
    assert [row.retained for row in answer.volumes if row.name == file.name] == [None]
    refused = problems(a.ask(DropVolumes(f"images:{file.name}", None, confirmed=True)))
    assert "not-retained" in {each.code for each in refused}
    assert why in the_problem(b.try_migrate(guest.name, "host-a"), "volume-exists").text
    assert digest(file) == before


def kept_for(host: Dom0, guest: Guest) -> float:
    """Return for how many seconds the journal has seen a copy kept."""
    ((kept,),) = query(host, "SELECT kept FROM owners WHERE name=?", guest.disks[0].name)
    return float(kept)


def _restored_in_place(copy: Path) -> None:
    """As `cp` does it: the file stays the same, with a content from another day."""
    backup = copy.with_name("backup")
    shutil.copyfile(copy, backup)
    overwrite(backup, [1])
    os.utime(backup, (1, 1))
    run("cp", "--preserve=all", backup, copy)
    backup.unlink()


def _written_to(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.write(PRECIOUS)


def _replaced_by_mv(copy: Path) -> None:
    other = copy.with_name("other")
    other.write_bytes(PRECIOUS.ljust(2 * MIB, b"\0"))
    other.replace(copy)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_restored_in_place, "was written to since"),
        (_written_to, "was written to since"),
        (_replaced_by_mv, "is another volume than the copy"),
    ],
)
def test_a_copy_that_was_changed_by_hand(
    hosts: Hosts, change: Callable[[Path], None], why: str
) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    a.migrate(guest.name)
    change(guest.disks[0])
    assert_nobody_takes_it(a, b, guest, why)


@pytest.fixture
def mounted(hosts: Hosts, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mount something where the images of host-a are."""
    folder = hosts[0].images

    def mount(*command: str | Path) -> None:
        run("mount", *command, folder)

    yield mount
    if os.path.ismount(folder):
        run("umount", "--lazy", folder)


@pytest.mark.thorough
@pytest.mark.root
def test_a_file_with_the_inode_of_the_copy(
    hosts: Hosts, mounted: Callable[..., None], tmp_path: Path
) -> None:
    """On a file system that keeps no time of birth and gives inodes again at once."""
    a, b = hosts
    back = tmp_path / "small"
    back.touch()
    os.truncate(back, 16 * MIB)
    run("mkfs.ext4", "-q", "-F", "-I", "128", back)
    mounted("-o", "loop", back)
    guest = quiet_guest(a)
    a.migrate(guest.name)
    b.migrate(guest.name, "host-a")  # known as long as it is the same
    a.migrate(guest.name)
    file = guest.disks[0]
    inode = file.stat().st_ino
    file.unlink()
    file.write_bytes(PRECIOUS.ljust(2 * MIB, b"\0"))
    assert file.stat().st_ino == inode
    assert_nobody_takes_it(a, b, guest, "is another volume than the copy")


@pytest.mark.thorough
@pytest.mark.root
def test_where_nothing_tells_files_apart_no_copy_is_known(
    hosts: Hosts, mounted: Callable[..., None]
) -> None:
    a, b = hosts
    mounted("-t", "ramfs", "ramfs")
    guest = quiet_guest(a)
    a.migrate(guest.name)
    assert_nobody_takes_it(a, b, guest, "is not known to be the copy")
    a.write_config(retain={"age": "1s"})
    a.stop()
    a.start()
    try:
        wait_until(lambda: kept_for(a, guest) > 3, "three seconds of a copy", 20)
        assert guest.disks[0].exists()
    finally:
        a.write_config(retain={"age": "never"})


@pytest.mark.thorough
@pytest.mark.root
def test_a_listed_device_whose_name_leads_elsewhere(
    hosts: Hosts, attach: Callable[..., Path]
) -> None:
    a, b = hosts
    name = unique("db")
    backing = image(a.folder / f"{name}.backing", 1)
    a.device_link("device-0", attach(backing))
    guest = a.boot(name, [a.devices / "device-0"], extra=QUIET)
    a.migrate(name, pool="images")
    guest.config.with_name(f"{name}.cfg.moved").unlink(missing_ok=True)
    other = a.folder / f"{name}.other"
    other.write_bytes(PRECIOUS.ljust(MIB, b"\0"))
    before = digest(other)
    (a.devices / "device-0").unlink()
    a.device_link("device-0", attach(other))
    refused = the_problem(b.try_migrate(name, "host-a", pool="devices"), "volume-exists")
    assert "is another volume than the copy" in refused.text
    assert digest(other) == before
    # With another number, and the same behind it, it is the copy.
    (a.devices / "device-0").unlink()
    a.device_link("device-0", attach(backing))
    b.migrate(name, "host-a", pool="devices")
    a.assert_runs(name)


@pytest.mark.thorough
def test_a_guest_without_a_uuid_comes_home_after_it_was_started_anew(hosts: Hosts) -> None:
    a, b = hosts
    guest = quiet_guest(a)
    text = guest.config.read_text()
    guest.config.write_text("".join(x for x in text.splitlines(True) if "uuid" not in x))
    a.migrate(guest.name)
    for _ in range(2):  # each time it has another one
        b.xen.xl("destroy", guest.name)
        b.xen.xl("create", str(b.guest_configs / f"{guest.name}.cfg"))
        # What failed before does not make the copy another guest's.
        job = b.begin(guest.name, "host-a", hold=True)
        b.until(job.job, lambda report: report.phase is Phase.HOLD)
        b.settle()
        a.settle()
        b.finish(job.job)
        wait_until(lambda: not a.ask(ListJobs(ended=False)).jobs, "the end of it on host-a")
    b.xen.xl("destroy", guest.name)
    b.xen.xl("create", str(b.guest_configs / f"{guest.name}.cfg"))
    back = b.migrate(guest.name, "host-a")
    assert not back.volumes[0].fresh
    a.assert_runs(guest.name)
    # From here it goes and comes as before.
    a.migrate(guest.name)
    b.migrate(guest.name, "host-a")


def test_a_migration_that_the_host_does_not_know_of_opens_nothing(hosts: Hosts) -> None:
    """The other host names a migration; only what this host's journal says of it counts."""
    a, b = hosts
    guest = quiet_guest(a)
    a.migrate(guest.name)
    b.xen.xl("destroy", guest.name)
    query(b, "UPDATE owners SET moved_by=? WHERE name=?", "f" * 32, guest.disks[0].name)
    query(b, "UPDATE owners SET owner='x' WHERE name=?", guest.disks[0].name)
    text = (b.guest_configs / f"{guest.name}.cfg").read_text()
    (b.guest_configs / f"{guest.name}.cfg").write_text(
        "".join(x for x in text.splitlines(True) if "uuid" not in x)
    )
    b.xen.xl("create", str(b.guest_configs / f"{guest.name}.cfg"))
    found = the_problem(b.try_migrate(guest.name, "host-a"), "volume-exists")
    assert "a copy of another guest's" in found.text


def shut_down(host: Dom0, guest: Guest) -> None:
    """End a guest, whose file and disk are at home here; it had written something."""
    host.xen.xl("destroy", guest.name)
    overwrite(host.images / guest.disks[0].name, [3])


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_stale_copy_is_not_moved_over_what_a_stopped_guest_has(hosts: Hosts, options) -> None:
    """The guest is at home on host-b; somebody starts what it left behind on host-a."""
    a, b = hosts
    guest = quiet_guest(a)
    a.migrate(guest.name)
    shut_down(b, guest)
    before = digest(b.images / guest.disks[0].name)
    a.xen.xl("create", str(guest.config.with_name(f"{guest.config.name}.moved")))
    found = problems(a.try_migrate(guest.name, **options))
    assert {one.code for one in found} == {"guest-here"}
    assert digest(b.images / guest.disks[0].name) == before


@contextlib.contextmanager
def away(*paths: Path) -> Iterator[None]:
    """Have an operator rename files, and take volumes out of their pool, and back."""
    aside = {
        path: folder / f"{path.name}.replaced"
        for path in paths
        for folder in [path.parent.parent if path.parent.name == "images" else path.parent]
    }
    for path, other in aside.items():
        path.rename(other)
    yield
    for path, other in aside.items():
        other.rename(path)


def test_an_attempt_that_was_given_up_makes_no_current_disk_a_copy(hosts: Hosts) -> None:
    """host-b is gone for a week, in which the guest runs from the copy on host-a."""
    a, b = hosts
    guest = quiet_guest(a)
    a.migrate(guest.name)
    b.xen.xl("destroy", guest.name)
    a.xen.xl("create", str(guest.config.with_name(f"{guest.config.name}.moved")))
    overwrite(guest.disks[0], [5])
    elsewhere = {guest.disks[0].name: unique("elsewhere")}
    with away(b.images / guest.disks[0].name, b.guest_configs / guest.config.name):
        job = a.begin(guest.name, hold=True, volumes=elsewhere)
        a.until(job.job, lambda report: report.phase is Phase.HOLD)
        a.ctl("abort", guest.name)
        a.finish(job.job)
    shut_down(a, guest)
    before = digest(guest.disks[0])
    b.xen.xl("create", str(b.guest_configs / guest.config.name))
    found = problems(b.try_migrate(guest.name, "host-a"))
    assert "guest-here" in {one.code for one in found}
    assert digest(guest.disks[0]) == before


@pytest.mark.parametrize("named", [False, True])
def test_a_sync_does_not_write_over_the_disk_of_a_stopped_guest(hosts: Hosts, named: bool) -> None:
    a, b = hosts
    golden = image(a.images / unique("golden"), 2)
    a.sync(golden)
    disk = b.images / golden.name
    guest = b.boot(unique("db"), [disk], extra=QUIET)
    shut_down(b, guest)
    before = digest(disk)
    target = f"images:{disk.name}" if named else None
    found = problems(a.try_sync(golden, target=target))
    assert {one.code for one in found} == {"guest-here"}
    assert str(guest.config) in found[0].text
    assert digest(disk) == before
