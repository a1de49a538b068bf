"""Disks of guests that a QEMU serves: what it writes is followed by its dirty bitmaps.

The emulated guest stands still, and a real QEMU has its disk and the monitor that libxl would make.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import MIB, QUIET, Dom0, Guest, digest, image, unique
from tests.support.qemu import Emulator, only_with_qemu, start_emulator
from xenmoved.control.api import AbortJob
from xenmoved.jobs.report import JobState, Phase
from xenmoved.sandbox.harness import wait_until

pytestmark = [pytest.mark.long, only_with_qemu]

Hosts = tuple[Dom0, Dom0]


@pytest.fixture
def served(hosts: Hosts, cleanup: ExitStack) -> Iterator[tuple[Guest, Path, Emulator]]:
    """A guest with a disk, and the QEMU that serves it."""
    a, _ = hosts
    name = unique("web")
    disk = image(a.images / f"{name}-root", 16, data=8)
    guest = a.boot(name, [disk], extra=QUIET)
    domain = a.domain(name)
    assert domain is not None
    monitors = a.xen.root / "run"
    monitors.mkdir(exist_ok=True)
    disks = {"hd0": ("raw,file.locking=off", disk)}
    emulator = start_emulator(monitors, disks, domid=domain.domid)
    cleanup.callback(emulator.end)
    yield guest, disk, emulator


@pytest.mark.parametrize("mode", [Mode.LIVE, pytest.param(Mode.SAVE, marks=pytest.mark.thorough)])
def test_later_rounds_read_what_qemu_has_written(
    hosts: Hosts, served: tuple[Guest, Path, Emulator], mode: Mode
) -> None:
    a, b = hosts
    guest, disk, emulator = served
    (planned,) = a.plan(guest.name, mode=mode).volumes
    assert (planned.served_by, planned.tracking) == ("QEMU", "bitmap")
    assert planned.tracking_cost == "later rounds read only what was written"
    job = a.begin(guest.name, mode=mode, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    emulator.write("hd0", 3 * MIB, 4096, fill=1)
    emulator.write("hd0", 9 * MIB + 5, 100_000, fill=2)
    a.ctl("cutover", guest.name)
    report = a.finish(job.job)
    assert report.state is JobState.DONE, report.problem
    later = report.volumes[0].rounds[1:]
    assert 65536 + 131072 <= sum(one.examined for one in later) <= 1 * MIB
    assert digest(b.images / disk.name) == digest(disk)
    with disk.open("rb") as file:
        file.seek(9 * MIB + 5)
        assert file.read(100_000) == b"\2" * 100_000
    assert emulator.left() == []


def test_what_a_killed_daemon_left_in_qemu_the_next_one_removes(
    hosts: Hosts, served: tuple[Guest, Path, Emulator]
) -> None:
    a, _ = hosts
    guest, _, emulator = served
    job = a.begin(guest.name, mode=Mode.LIVE, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    a.stop(signal.SIGKILL)
    assert bitmaps(emulator)
    a.start()
    wait_until(lambda: not bitmaps(emulator), "the bitmap is removed")
    assert emulator.left() == []
    a.assert_runs(guest.name)


@pytest.mark.thorough
def test_a_qemu_that_freezes_does_not_hold_up_the_job(
    hosts: Hosts, served: tuple[Guest, Path, Emulator]
) -> None:
    a, _ = hosts
    guest, _, emulator = served
    job = a.begin(guest.name, mode=Mode.LIVE, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    emulator.freeze()
    a.ask(AbortJob(job.job))
    assert a.finish(job.job).state is JobState.ABORTED
    emulator.thaw()
    a.assert_runs(guest.name)


def bitmaps(emulator: Emulator) -> list[str]:
    nodes = emulator.execute("query-named-block-nodes", flat=True)
    return [one["name"] for node in nodes for one in node.get("dirty-bitmaps", ())]
