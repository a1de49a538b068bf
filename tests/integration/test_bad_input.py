"""What cannot work is refused or ends with words that help, and changes nothing anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Problem
from tests.support.dom0 import (
    MIB,
    QUIET,
    RESIDENT,
    Dom0,
    Guest,
    digest,
    image,
    in_pre_copy,
    problems,
    run,
    the_problem,
    unique,
)
from xenmoved.control.api import AbortJob, ListGuests
from xenmoved.jobs.report import JobReport, JobState, Phase

Hosts = tuple[Dom0, Dom0]


@contextmanager
def nothing_changes(a: Dom0, b: Dom0, guest: str = RESIDENT) -> Iterator[None]:
    """Assert that the guest runs on as before, and that both hosts are as they were."""
    before = a.footprint(), b.footprint()
    yield
    a.settle()
    b.settle()
    a.assert_runs(guest)
    assert (a.footprint(), b.footprint()) == before


def refused(a: Dom0, b: Dom0, code: str, guest: str = RESIDENT, **options: Any) -> Problem:
    """Try a migration that must be refused for one reason, with nothing changed."""
    with nothing_changes(a, b, guest):
        return the_problem(a.try_migrate(guest, **options), code)


def start(host: Dom0, *, mebibytes: int = 16, **options: Any) -> Guest:
    """Start a guest with one disk full of random bytes."""
    name = unique("web")
    return host.boot(name, [image(host.images / f"{name}-root", mebibytes)], **options)


class TestTargetVolumes:
    def test_missing_in_a_pool_that_makes_none(self, hosts: Hosts) -> None:
        found = refused(*hosts, "volume-missing", pool="devices")
        assert "host-b has no volume devices:resident-root" in found.text
        assert str(4 * MIB) in found.hint
        assert "configuration" in found.hint

    def test_too_small(self, hosts: Hosts) -> None:
        a, b = hosts
        image(b.images / "resident-root", 3)
        found = refused(a, b, "volume-too-small", overwrite=True)
        assert "images:resident-root on host-b is too small" in found.text
        assert str(3 * MIB) in found.text
        assert str(4 * MIB) in found.text
        assert "enlarge" in found.hint

    def test_in_use_by_a_domain(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("other")
        b.boot(name, [image(b.images / "resident-root", 4)], extra=QUIET)
        found = refused(a, b, "volume-in-use", overwrite=True)
        assert "images:resident-root on host-b is in use" in found.text
        assert f"disk of {name}" in found.text
        b.assert_runs(name)

    @pytest.mark.root
    def test_in_use_by_a_loop_device(self, hosts: Hosts, attach: Callable[..., Path]) -> None:
        a, b = hosts
        device = attach(image(b.images / "resident-root", 4))
        found = refused(a, b, "volume-in-use", overwrite=True)
        assert f"backs {device}" in found.text

    @pytest.mark.root
    def test_in_use_by_a_mount(
        self,
        hosts: Hosts,
        attach: Callable[..., Path],
        mount: Callable[..., Path],
        tmp_path: Path,
    ) -> None:
        a, b = hosts
        device = attach(image(tmp_path / "backing", 16, data=0))
        run("mkfs.ext4", "-q", device)
        b.device_link("device-0", device)
        place = mount(device, tmp_path / "mounted")
        with nothing_changes(a, b):
            answer = a.try_sync(a.images / "resident-root", target="devices:device-0")
            found = the_problem(answer, "volume-in-use")
        assert f"mounted at {place}" in found.text

    def test_in_use_by_another_sync(self, hosts: Hosts) -> None:
        a, b = hosts
        one, other = image(a.images / "one", 8), image(a.images / "other", 8)
        job = a.begin_sync(one, target="images:shared", rate_limit=8 * MIB)
        a.until_sent(job.job, 1 * MIB)
        found = the_problem(a.try_sync(other, target="images:shared"), "volume-in-use")
        assert "images:shared on host-b is in use" in found.text
        assert a.finish(job.job).state is JobState.DONE
        assert digest(b.images / "shared") == digest(one)

    def test_two_disks_of_one_name(self, hosts: Hosts, tmp_path: Path) -> None:
        a, b = hosts
        name = unique("web")
        disks = [image(a.images / f"{name}-root", 1), image(tmp_path / f"{name}-root", 1)]
        a.boot(name, disks)
        found = refused(a, b, "volume-name", name)
        assert f"images:{name}-root" in found.text
        assert "rename" in found.hint


class TestSpace:
    @pytest.mark.root
    def test_pool_full_beforehand(self, hosts: Hosts, mount: Callable[..., Path]) -> None:
        a, b = hosts
        mount("tmpfs", b.pools["small"], "-t", "tmpfs", "-o", "size=3M")
        found = refused(a, b, "pool-full", pool="small")
        assert "pool small on host-b has 3MiB free, 4MiB are needed" in found.text
        assert "--pool" in found.hint

    @pytest.mark.root
    def test_disk_full_in_mid_copy(self, hosts: Hosts, mount: Callable[..., Path]) -> None:
        a, b = hosts
        guest = start(a)
        mount("tmpfs", b.pools["thin"], "-t", "tmpfs", "-o", "size=6M")
        with nothing_changes(a, b, guest.name):
            report = a.finish(a.begin(guest.name, pool="thin").job)
            found = the_problem(report, "volume-full")
        assert f"thin:{guest.name}-root" in found.text
        assert "space" in found.hint
        assert report.state is JobState.FAILED

    @pytest.mark.root
    def test_disk_full_in_mid_sync(self, hosts: Hosts, mount: Callable[..., Path]) -> None:
        a, b = hosts
        disk = image(a.images / "large", 16)
        mount("tmpfs", b.pools["thin"], "-t", "tmpfs", "-o", "size=6M")
        found = the_problem(a.finish(a.begin_sync(disk, pool="thin").job), "volume-full")
        assert "thin:large" in found.text
        b.settle()
        copy = b.pools["thin"] / "large"
        assert copy.stat().st_size == 16 * MIB, "the next attempt goes on from what arrived"

    def test_quota(self, hosts: Hosts) -> None:
        a, b = hosts
        a.sync(image(a.images / "first", 6))
        b.trust(a, quota=9 * MIB)
        found = refused(a, b, "quota")
        assert "host-a may take 9MiB on host-b: it has 6MiB, 4MiB more are needed" in found.text
        assert "quota" in found.hint
        (b.images / "first").unlink()  # what is no longer there does not count
        assert not a.plan(RESIDENT).problems

    def test_memory(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=1, memory=16)
        (b.xen.root / "host.json").write_text(json.dumps({"total_memory": 1024 + 9}))
        found = refused(a, b, "memory", guest.name)
        assert f"{guest.name} has 16MiB of memory now, host-b has 9MiB free" in found.text
        assert "free memory on host-b" in found.hint
        assert f"on host-a, have the guest give some back: xl mem-set {guest.name} 8" in found.hint

    def test_what_a_guest_may_grow_to_is_not_what_it_has(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("ballooned")
        (b.xen.root / "host.json").write_text(json.dumps({"total_memory": 1024 + 9}))
        disk = image(a.images / f"{name}-root", 1)
        a.boot(name, [disk], extra=QUIET, memory=2, lines="maxmem = 65536\n")
        assert a.plan(name).memory == 2 * MIB
        a.migrate(name)
        b.assert_runs(name)


class TestGuest:
    def test_unknown(self, hosts: Hosts) -> None:
        a, b = hosts
        with nothing_changes(a, b):
            found = the_problem(a.try_migrate("nobody"), "guest-unknown")
        assert "no guest called nobody runs on this host" in found.text
        assert "xenmovectl list" in found.hint

    def test_name_taken_on_the_target(self, hosts: Hosts) -> None:
        a, b = hosts
        b.boot(RESIDENT, [image(b.images / unique("disk"), 1)], extra=QUIET)
        found = refused(a, b, "guest-exists")
        assert "host-b has a domain called resident already" in found.text
        assert "xl destroy resident" in found.hint
        b.assert_runs(RESIDENT)

    def test_uuid_taken_on_the_target(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=1)
        twin = unique("twin")
        b.boot(twin, [image(b.images / f"{twin}-root", 1)], uuid=guest.uuid, extra=QUIET)
        # One of the two must not execute, or they would find each other out.
        with_both = a.footprint(), b.footprint()
        found = the_problem(a.try_migrate(guest.name), "guest-exists")
        assert f"host-b has a domain with the uuid of {guest.name}: {twin}" in found.text
        assert (a.footprint(), b.footprint()) == with_both

    def test_paused(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=1)
        a.xen.xl("pause", guest.name)
        before = b.footprint()
        found = the_problem(a.try_migrate(guest.name), "guest-state")
        assert f"{guest.name} is paused, not running" in found.text
        assert "unpause" in found.hint
        assert a.xen.state(guest.name) == "--p---"
        assert b.footprint() == before
        a.xen.xl("unpause", guest.name)
        a.assert_runs(guest.name)

    def test_bridge_missing(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=1, bridge="dmz")
        found = refused(a, b, "bridge", guest.name)
        assert "host-b has no bridge dmz" in found.text
        assert "bridges of host-b: xenbr0" in found.hint

    def test_devices_that_cannot_move(self, hosts: Hosts, tmp_path: Path) -> None:
        a, b = hosts
        name = unique("odd")
        paths = [image(tmp_path / f"{name}-{part}", 1) for part in ("iso", "cow", "net", "raw")]
        guest = a.boot(
            name,
            paths,
            specs=[
                f"file:{paths[3]},xvda,w",
                f"file:{paths[0]},xvdb:cdrom,r",
                f"format=qcow2,vdev=xvdc,access=rw,target={paths[1]}",
                f"format=raw,vdev=xvdd,access=rw,script=block-nbd,target={paths[2]}",
            ],
            lines="pci = ['0000:03:00.1']\n",
        )
        with nothing_changes(a, b, guest.name):
            found = problems(a.try_migrate(name))
        by_text = {one.text: one for one in found}
        assert len(by_text) == len(found), "nothing is said twice"
        for vdev, words in (
            ("xvdb", f"holds the CD-ROM {paths[0]}"),
            ("xvdc", "format qcow2: only raw disks move while the guest runs"),
            ("xvdd", "attached by the script block-nbd"),
        ):
            (about,) = (one for one in found if vdev in one.text)
            assert about.code == ("cdrom" if vdev == "xvdb" else "disk")
            assert words in about.text
            assert about.hint, about
        (about,) = (one for one in found if one.code == "passthrough")
        assert "03:00.1" in about.text
        assert f"xl pci-detach {name} 0000:03:00.1" in about.hint
        assert len(found) == 4
        (row,) = (one for one in a.ask(ListGuests()).guests if one.name == name)
        assert len(row.obstacles) == 3, "a CD-ROM is a matter of choice"

    def test_a_program_of_this_host_is_named_beforehand(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=1, lines="bootloader = '/root/my-loader'\n")
        found = refused(a, b, "guest-config", guest.name)
        assert "bootloader" in found.text

    def test_odd_volume_names(self, hosts: Hosts, tmp_path: Path) -> None:
        a, b = hosts
        for file in ("with space.img", "-dash", "ümlaut"):
            name = unique("web")
            a.boot(name, [image(tmp_path / file, 1)], extra=QUIET)
            found = refused(a, b, "volume-name", name)
            assert str(tmp_path / file) in found.text
            assert "--volume" in found.hint

    @pytest.mark.parametrize("name", ["", "no body", "../etc/passwd", "-rf", "a" * 200, "täg"])
    def test_odd_guest_names(self, hosts: Hosts, name: str) -> None:
        done = hosts[0].ctl("migrate", "--", name, "host-b")
        # No name at all is a slip on the command line; a guest may be called the rest.
        assert done.returncode == (3 if name else 2), (done.stdout, done.stderr)
        assert ("xl rename" if name else "guest") in done.stderr
        assert "Traceback" not in done.stderr

    def test_no_default_pool(self, hosts: Hosts, tmp_path: Path) -> None:
        a, b = hosts
        name = unique("web")
        a.boot(name, [image(tmp_path / f"{name}-root", 1)])
        b.write_config(default_pool=None)
        b.reload()
        found = refused(a, b, "pool", name)
        assert "host-b has no default pool" in found.text
        assert "--pool" in found.hint
        a.migrate(name, pool="images")
        b.assert_runs(name)

    def test_a_pool_that_is_not_there(self, hosts: Hosts) -> None:
        found = refused(*hosts, "permission", pool="fastest")
        assert "host-b has no pool fastest that host-a may use" in found.text
        assert "peer host-a" in found.hint


class TestSyncRequests:
    @pytest.mark.parametrize(
        ("volume", "code", "words"),
        [
            ("/no/such/file", "volume-missing", "/no/such/file"),
            ("images:nothing", "volume-missing", "nothing"),
            ("nowhere:disk", "usage", "nowhere:disk"),
            ("/dev/null", "volume-kind", "/dev/null"),
            ("/", "volume-kind", "neither a regular file nor a block device"),
        ],
    )
    def test_no_such_source(self, hosts: Hosts, volume: str, code: str, words: str) -> None:
        a, b = hosts
        with nothing_changes(a, b):
            assert words in the_problem(a.try_sync(volume), code).text

    @pytest.mark.parametrize("target", ["images", "images:../etc/passwd", ":x", "images:"])
    def test_odd_targets(self, hosts: Hosts, target: str) -> None:
        a, b = hosts
        with nothing_changes(a, b):
            answer = a.try_sync(a.images / "resident-root", target=target)
            assert target in the_problem(answer, "usage").text
        assert not (b.images / "resident-root").exists()


class TestInMidCopy:
    @pytest.mark.thorough
    def test_the_guest_is_shut_down_during_pre_copy(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a)
        before = b.footprint()
        job = a.begin(guest.name, rate_limit=16 * MIB)
        a.until(job.job, in_pre_copy)
        a.xen.xl("shutdown", "-w", guest.name)
        found = the_problem(a.finish(job.job), "guest-gone")
        assert f"{guest.name} has ended: it was shut down" in found.text
        assert "nothing was lost" in found.hint
        b.settle()
        assert b.footprint() == before
        assert guest.disks[0].exists()
        assert guest.config.exists()

    @pytest.mark.thorough
    def test_the_guest_is_shut_down_when_it_is_to_be_suspended(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=2)
        before = b.footprint()
        a.xen.faults(save={"delay": 2})
        job = a.begin(guest.name)
        a.until(job.job, lambda report: report.phase is Phase.SUSPEND)
        a.xen.xl("shutdown", "-w", guest.name)
        found = the_problem(a.finish(job.job), "toolstack")
        assert f"domain {guest.name} is" in found.text
        assert "ended by itself" in found.text
        b.settle()
        assert b.footprint() == before
        assert guest.config.exists()

    def test_the_source_file_is_cut_off(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, extra=QUIET)
        with nothing_changes(a, b, guest.name):
            job = a.begin(guest.name, rate_limit=16 * MIB)
            a.until_sent(job.job, 2 * MIB)
            with guest.disks[0].open("r+b") as file:
                file.truncate(12 * MIB)
            found = the_problem(a.finish(job.job), "storage")
            with guest.disks[0].open("r+b") as file:
                file.truncate(16 * MIB)
        assert f"images:{guest.disks[0].name}" in found.text

    def test_the_source_file_is_removed(self, hosts: Hosts) -> None:
        # Both the guest and the daemon have it open: nothing is missing until both are done.
        a, b = hosts
        guest = start(a, mebibytes=8)
        job = a.begin(guest.name, rate_limit=16 * MIB)
        a.until(job.job, in_pre_copy)
        guest.disks[0].unlink()
        report = a.finish(job.job)
        assert report.state is JobState.DONE, report.problem
        b.assert_runs(guest.name)

    @pytest.mark.thorough
    @pytest.mark.root
    def test_the_source_device_fails(
        self, hosts: Hosts, attach: Callable[..., Path], tmp_path: Path
    ) -> None:
        a, _ = hosts
        backing = image(tmp_path / "backing", 16)
        device = attach(backing)
        job = a.begin_sync(device, target="images:failing", rate_limit=8 * MIB)
        a.until_sent(job.job, 2 * MIB)
        with backing.open("r+b") as file:
            file.truncate(4 * MIB)
        found = the_problem(a.finish(job.job), "storage")
        assert str(device) in found.text

    @pytest.mark.thorough
    def test_the_volume_of_the_target_is_not_grabbed_meanwhile(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a)
        job = a.begin(guest.name, rate_limit=16 * MIB)
        a.until(job.job, in_pre_copy)
        answer = b.try_sync(b.images / guest.disks[0].name, "host-a", target="images:stolen")
        assert isinstance(answer, JobReport), answer  # reading does no harm
        b.ask(AbortJob(answer.job))
        assert a.finish(job.job).state is JobState.DONE
        b.assert_runs(guest.name)


class TestToolstackFails:
    def broken(self, hosts: Hosts, code: str, guest: Guest) -> Problem:
        """Move a guest, which must fail and leave everything as it was."""
        a, b = hosts
        with nothing_changes(a, b, guest.name):
            return the_problem(a.finish(a.begin(guest.name).job), code)

    @pytest.mark.sampled
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ({"fail": "no memory for the save"}, "no memory for the save"),
            ({"fail_after_bytes": 3 * MIB}, "unable to write stream"),
            ({"corrupt_byte_at": 10}, "magic"),
            ({"corrupt_byte_at": 2 * MIB}, "checksum of the guest's memory does not match"),
        ],
        ids=["refuses", "breaks off", "no image", "damaged"],
    )
    def test_saving(self, hosts: Hosts, fault: dict[str, Any], words: str) -> None:
        a, _ = hosts
        guest = start(a, mebibytes=2, memory=8)
        a.xen.faults(save=fault)
        found = self.broken(hosts, "toolstack", guest)
        assert words in found.text
        a.xen.faults()
        a.migrate(guest.name)
        hosts[1].assert_runs(guest.name)

    @pytest.mark.thorough
    def test_receiving(self, hosts: Hosts) -> None:
        a, b = hosts
        guest = start(a, mebibytes=2)
        b.xen.faults(migrate_receive={"fail": "no room for the domain"})
        assert "no room for the domain" in self.broken(hosts, "toolstack", guest).text
        b.xen.faults(migrate_receive={"unpause_status": 3})
        with nothing_changes(a, b, guest.name):
            report = a.finish(a.begin(guest.name).job)
            assert report.state is JobState.FAILED
            assert report.problem is not None
        assert report.problem.code == "target-aborted"
        assert f"host-b did not start {guest.name}" in report.problem.text
        assert "Got permission, starting domain" in report.problem.text
        b.xen.faults()
        a.migrate(guest.name)
        b.assert_runs(guest.name)

    def test_listing(self, hosts: Hosts) -> None:
        a, b = hosts
        for host in hosts:
            host.xen.faults(list={"fail": "xenstore is down"})
            before = a.footprint(), b.footprint()
            found = the_problem(a.try_migrate(RESIDENT), "toolstack")
            assert "xenstore is down" in found.text
            assert (a.footprint(), b.footprint()) == before
            host.xen.faults()
