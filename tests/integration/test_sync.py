"""Volumes that are sent without a guest."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.dom0 import (
    BLOCK,
    MIB,
    Dom0,
    allocated,
    digest,
    image,
    overwrite,
    run,
    sent,
    the_problem,
    volume_wire,
)
from tests.support.journals import query
from xenmoved.control.api import AbortJob
from xenmoved.jobs.report import JobKind, JobReport, JobState
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]


def copied(report: JobReport) -> tuple[int, int, int]:
    """Blocks alike, sent and made zero by the first round of a sync."""
    first = report.volumes[0].rounds[0]
    return first.same, first.diff, first.zero


def known_ids(host: Dom0) -> set[str]:
    """Return the ids of syncs that a host knows."""
    return {one for (one,) in query(host, "SELECT migration FROM syncs")}


def test_a_file_goes_to_the_default_pool_and_again(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "archive", 64, data=16, start=8)
    before = known_ids(a) & known_ids(b)

    first = a.sync(disk)

    copy = b.images / "archive"
    assert digest(copy) == digest(disk)
    assert allocated(copy) <= 16 * MIB + BLOCK
    assert (first.kind, first.guest, first.blackout) == (JobKind.SYNC, "", None)
    assert [volume.target for volume in first.volumes] == ["images:archive"]
    assert first.volumes[0].fresh
    assert copied(first) == (768, 256, 0)
    assert len(known_ids(a) & known_ids(b)) == len(before) + 1, "nobody may use its id again"
    assert sent(first) == 16 * MIB

    again = a.sync("images:archive")
    assert copied(again) == (1024, 0, 0)
    assert sent(again) == 0
    assert again.wire_bytes < 16 * 1024

    changed = range(5, 1024, 100)  # about one in a hundred, some of them in holes
    overwrite(disk, changed)
    third = a.sync("images:archive", verify=True)
    assert copied(third) == (1024 - len(changed), len(changed), 0)
    assert sent(third) == len(changed) * BLOCK
    verified = third.volumes[0].rounds[-1]
    assert (verified.same, verified.diff, verified.examined) == (1024, 0, 64 * MIB)
    assert digest(copy) == digest(disk)


def test_what_became_zero_is_freed_there(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "shrinking", 8)
    a.sync(disk)
    with disk.open("r+b") as file:
        os.truncate(file.fileno(), 2 * MIB)
        os.truncate(file.fileno(), 8 * MIB)
        file.seek(4 * MIB)
        file.write(bytes(MIB))  # zeros that take space here
    report = a.sync(disk)
    assert copied(report) == (32, 0, 96)
    assert sent(report) == 0
    assert digest(b.images / "shrinking") == digest(disk)
    assert allocated(b.images / "shrinking") <= 2 * MIB + BLOCK


@pytest.mark.root
def test_a_block_device_goes_to_a_file_and_a_file_to_a_block_device(
    hosts: Hosts, attach: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = hosts
    device = attach(image(tmp_path / "backing", 12, data=8))
    report = a.sync(device, target="images:from-device")
    copy = b.images / "from-device"
    assert digest(copy) == digest(device)
    assert allocated(copy) <= 8 * MIB + BLOCK

    overwrite(device, [3, 100])
    b.device_link("device-1", attach(image(tmp_path / "target", 12)))
    report = b.sync(copy, "host-a", target="thin:returned")
    assert report.volumes[0].target == "thin:returned"
    report = a.sync("thin:returned", target="devices:device-1", verify=True)
    assert not report.volumes[0].fresh
    assert digest(b.devices / "device-1") == digest(copy)
    assert digest(a.pools["thin"] / "returned") == digest(copy)


def test_an_explicit_target_and_a_chosen_pool(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "golden", 4)
    named = a.sync(disk, target="thin:renamed")
    assert named.volumes[0].target == "thin:renamed"
    pool = a.sync(disk, pool="small")
    assert pool.volumes[0].target == "small:golden"
    for copy in (b.pools["thin"] / "renamed", b.pools["small"] / "golden"):
        assert digest(copy) == digest(disk)

    # Naming the target is consent to what is there; a default is not.
    mine = image(b.images / "golden", 4)
    assert the_problem(a.try_sync(disk), "volume-exists").hint.count("--overwrite") == 1
    a.sync(disk, target="images:golden")
    assert digest(mine) == digest(disk)


def test_what_a_larger_target_held_behind_the_end_of_the_source_is_gone(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "short", 4)
    target = image(b.images / "long", 8)
    a.sync(disk, target="images:long", verify=True)
    assert target.read_bytes() == disk.read_bytes() + bytes(4 * MIB)


def test_a_size_that_is_no_whole_number_of_blocks(hosts: Hosts) -> None:
    a, b = hosts
    disk = a.images / "odd"
    disk.write_bytes(os.urandom(2 * MIB + 12345))
    report = a.sync(disk, verify=True)
    assert digest(b.images / "odd") == digest(disk)
    assert sent(report) == 2 * MIB + 12345
    assert copied(a.sync(disk)) == (33, 0, 0)


@pytest.mark.root
def test_a_device_is_compared_while_nobody_wrote_to_it(
    hosts: Hosts, attach: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = hosts
    disk = image(a.images / "for-device", 4)
    device = attach(image(tmp_path / "target", 4))
    b.device_link("device-2", device)
    a.sync(disk, target="devices:device-2")
    overwrite(disk, [7])
    assert copied(a.sync(disk, target="devices:device-2")) == (63, 1, 0)
    b.stop(signal.SIGKILL)
    b.start()
    assert copied(a.sync(disk, target="devices:device-2")) == (64, 0, 0)
    overwrite(device, [7])  # somebody uses it, and the way out is to have it emptied
    assert copied(a.sync(disk, target="devices:device-2")) == (0, 64, 0)
    assert digest(device) == digest(disk)


@pytest.mark.sampled
@pytest.mark.parametrize("broken", ["link", "target", "source", "abort"])
def test_only_what_is_missing_is_sent_after_an_interruption(hosts: Hosts, broken: str) -> None:
    a, b = hosts
    disk = image(a.images / f"broken-{broken}", 16)
    copy = b.images / disk.name
    job = a.begin_sync(disk, rate_limit=4 * MIB)
    a.until_sent(job.job, 6 * MIB)
    match broken:
        case "link":
            b.trust(a, quota=2**40)  # what a peer may do has changed: it has to connect anew
        case "target":
            b.stop(signal.SIGKILL)
        case "source":
            a.stop(signal.SIGKILL)
            a.start()
        case "abort":
            a.ask(AbortJob(job.job))
    report = a.finish(job.job)
    assert report.state is (JobState.ABORTED if broken == "abort" else JobState.FAILED)
    assert report.problem is not None
    expected = {"link": "link-lost", "target": "link-lost", "source": "restarted"}
    the_problem(report, expected.get(broken, "aborted"))
    if broken == "target":
        b.start()
    arrived = copy.read_bytes()
    original = disk.read_bytes()
    missing = sum(
        arrived[at : at + BLOCK] != original[at : at + BLOCK]
        for at in range(0, len(original), BLOCK)
    )
    assert 0 < missing < 256, "some of what was sent was written, the rest was on its way"

    # The target notices the end of a connection by itself; until then the volume is in use.
    wait_until(lambda: _is_free(copy), f"{b.name} to let go of the volume")
    if broken == "target":
        # Whoever wrote to it when nobody held it, nobody would know.
        problem = the_problem(a.try_sync(disk), "volume-exists")
        assert "nobody noted when it was written to last" in problem.text
        a.sync(disk, overwrite=True)
        assert digest(copy) == digest(disk)
        return
    again = a.sync(disk)

    assert copied(again) == (256 - missing, missing, 0)
    assert sent(again) == missing * BLOCK
    assert volume_wire(again) < (missing + 1) * BLOCK * 1.02
    assert digest(copy) == digest(disk)


def _is_free(path: Path) -> bool:
    return run("sh", "-c", f"flock --nonblock --conflict-exit-code 0 {path} echo free") == "free"


def test_as_an_operator_types_it(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "typed", 4)
    sync = a.ctl("sync", str(disk), "host-b:thin/typed", "--compress", "zstd", "--verify")
    assert sync.returncode == 0, sync.stderr
    assert digest(b.pools["thin"] / "typed") == digest(disk)
    again = a.ctl("sync", "images:typed", "host-b", "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert digest(b.images / "typed") == digest(disk)
