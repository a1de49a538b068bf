"""Nothing is left in a QEMU, and no guest is disturbed, whatever happens at whatever moment."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from storage.contracts import EVERYTHING
from storage.errors import QemuError, VolumeError
from storage.qemu import nbd
from storage.qemu.additions import clean_up_stale
from storage.qemu.guest_disk import GuestDisk
from storage.qemu.monitor import Session, session
from storage.qemu.tracker import BitmapTracker
from tests.support.qemu import Emulator, make_image, only_with_qemu, start_emulator
from tests.support.volumes import read

pytestmark = [pytest.mark.long, only_with_qemu]

SHORT = 0.5


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    image = make_image(tmp_path / "disk", "qcow2")
    started = start_emulator(tmp_path, {"hd0": ("qcow2", image)})
    yield started
    started.end()


def image(emulator: Emulator) -> Path:
    return emulator.disks["hd0"]


def work(emulator: Emulator, **options: Any) -> None:
    """Do all that is ever done with a disk."""
    qemu = emulator.guest(**options)
    tracker = BitmapTracker(qemu, image(emulator))
    tracker.start()
    disk = GuestDisk.open(qemu, image(emulator))
    read(disk, 0, 65536)
    list(disk.data_extents())
    tracker.drain()
    disk.close()
    tracker.drain()
    tracker.stop()


@contextmanager
def each_step(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with a number before and after everything that is said to QEMU."""
    steps = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any) -> Any:
            nonlocal steps
            act(steps + 1)
            result = function(*arguments)
            act(steps + 2)
            steps += 2
            return result

        return stepping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "execute", around(Session.execute))
        patch.setattr(Session, "close", around(Session.close))
        patch.setattr(nbd.Connection, "_connect", around(nbd.Connection._connect))
        patch.setattr(nbd.Connection, "_do", around(nbd.Connection._do))
        patch.setattr(nbd.Connection, "close", around(nbd.Connection.close))
        yield


def killed_at(emulator: Emulator, step: int) -> bool:
    """Do the work in a process that is killed at a step; whether it got that far."""

    def act(number: int) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        with suppress(BaseException), each_step(act):
            work(emulator)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def check_guest(emulator: Emulator) -> None:
    """The guest runs, and nothing is left of ours in its QEMU."""
    assert emulator.left() == []
    emulator.write("hd0", 0, 4096)


@pytest.mark.parametrize(
    "first", [1, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(2, 9))]
)
def test_what_a_killed_process_left_is_removed(emulator: Emulator, first: int) -> None:
    step = first
    while killed_at(emulator, step):
        clean_up_stale(emulator.folder, emulator.nbd)
        check_guest(emulator)
        step += 5
    check_guest(emulator)
    assert step > 100


def test_what_living_processes_have_stays(emulator: Emulator) -> None:
    tracker = BitmapTracker(emulator.guest(), image(emulator))
    tracker.start()
    disk = GuestDisk.open(emulator.guest(), image(emulator))
    assert clean_up_stale(emulator.folder, emulator.nbd) == []
    child = os.fork()
    if child == 0:
        os._exit(len(clean_up_stale(emulator.folder, emulator.nbd)))
    assert os.waitpid(child, 0)[1] == 0
    emulator.write("hd0", 65536, 512)
    assert [(one.offset, one.length) for one in tracker.drain()] == [(65536, 65536)]
    assert read(disk, 65536, 512) == b"\xa5" * 512
    disk.close()
    tracker.stop()
    check_guest(emulator)


def in_time(act: Callable[[], object], seconds: float = 6 * SHORT + 2) -> None:
    began = time.monotonic()
    act()
    assert time.monotonic() - began < seconds


@pytest.mark.thorough
def test_a_frozen_qemu_is_given_up_in_time(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbd, "HELLO", SHORT)
    qemu = emulator.guest(patience=SHORT)
    tracker = BitmapTracker(qemu, image(emulator), patience=SHORT)
    tracker.start()
    disk = GuestDisk.open(qemu, image(emulator), patience=SHORT)
    read(disk, 0, 512)
    emulator.freeze()

    def fails(act: Callable[[], object], error: type[VolumeError]) -> None:
        with pytest.raises(error, match="did not answer in time"):
            act()

    in_time(lambda: fails(lambda: read(disk, 0, 512), VolumeError))
    in_time(lambda: fails(lambda: qemu.find(image(emulator)), QemuError))
    in_time(lambda: fails(lambda: GuestDisk.open(qemu, image(emulator)), QemuError))
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble is not None
    assert "did not answer in time" in tracker.trouble
    in_time(disk.close)
    in_time(tracker.stop)
    emulator.thaw()
    emulator.guest().clean_up()
    check_guest(emulator)


def test_tracking_begins_anew_when_qemu_answers_again(emulator: Emulator) -> None:
    tracker = BitmapTracker(emulator.guest(patience=SHORT), image(emulator))
    tracker.start()
    emulator.freeze()
    assert tracker.drain() is EVERYTHING
    emulator.thaw()
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble is None
    emulator.write("hd0", 65536, 512)
    assert [(one.offset, one.length) for one in tracker.drain()] == [(65536, 65536)]
    tracker.stop()
    check_guest(emulator)


def test_while_somebody_is_connected_one_waits(emulator: Emulator) -> None:
    tracker = BitmapTracker(emulator.guest(patience=SHORT), image(emulator))
    with session(str(emulator.monitor)):
        tracker.start()
        assert tracker.trouble is not None
        assert "somebody else is connected" in tracker.trouble
    patient = BitmapTracker(emulator.guest(), image(emulator))
    with ExitStack() as others:
        others.enter_context(session(str(emulator.monitor)))
        starting = threading.Thread(target=patient.start)
        starting.start()
        time.sleep(SHORT)
    starting.join()
    assert patient.trouble is None
    assert tracker.drain() is EVERYTHING
    assert tracker.drain() == []
    patient.stop()
    tracker.stop()
    check_guest(emulator)


def test_a_server_that_somebody_stops_costs_a_report(emulator: Emulator) -> None:
    qemu = emulator.guest()
    tracker = BitmapTracker(qemu, image(emulator))
    tracker.start()
    disk = GuestDisk.open(qemu, image(emulator))
    emulator.execute("nbd-server-stop")
    with pytest.raises(VolumeError, match="cannot read"):
        read(disk, 0, 512)
    assert tracker.drain() == []  # it has a server again
    disk.close()
    tracker.stop()
    check_guest(emulator)


def test_a_bitmap_that_somebody_removes_costs_a_report(emulator: Emulator) -> None:
    tracker = BitmapTracker(emulator.guest(), image(emulator))
    tracker.start()
    nodes = emulator.execute("query-named-block-nodes", flat=True)
    node = next(one for one in nodes if one.get("dirty-bitmaps"))
    name = node["dirty-bitmaps"][0]["name"]
    emulator.execute("block-dirty-bitmap-remove", node=node["node-name"], name=name)
    assert tracker.drain() is EVERYTHING
    emulator.write("hd0", 65536, 512)
    assert [(one.offset, one.length) for one in tracker.drain()] == [(65536, 65536)]
    tracker.stop()
    check_guest(emulator)


def test_a_disk_that_becomes_another_is_seen(emulator: Emulator) -> None:
    """A snapshot puts another node on top: the guest writes there from then on."""
    tracker = BitmapTracker(emulator.guest(), image(emulator))
    tracker.start()
    overlay = str(image(emulator)) + ".overlay"
    emulator.execute("blockdev-snapshot-sync", device="hd0", snapshot_file=overlay, format="qcow2")
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble is not None
    assert "for no device" in tracker.trouble
    tracker.stop()
    check_guest(emulator)


def test_a_qemu_that_has_ended_is_no_trouble(emulator: Emulator) -> None:
    qemu = emulator.guest()
    tracker = BitmapTracker(qemu, image(emulator))
    tracker.start()
    disk = GuestDisk.open(qemu, image(emulator))
    emulator.process.kill()
    emulator.process.wait()
    with pytest.raises(VolumeError, match="cannot read"):
        read(disk, 0, 512)
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble is not None
    assert "cannot be reached: Connection refused" in tracker.trouble
    in_time(disk.close)
    in_time(tracker.stop)
    assert list(emulator.nbd.iterdir()) != []
    assert clean_up_stale(emulator.folder, emulator.nbd) == []
    assert list(emulator.nbd.iterdir()) == []


def test_a_client_that_is_killed_as_it_connects_does_not_hang_qemu(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU 7.2 hangs for ever when it has such a client as its server is stopped."""
    qemu = emulator.guest()
    for _ in range(10):
        disk = GuestDisk.open(qemu, image(emulator))
        with socket.socket(socket.AF_UNIX) as client:
            emulator.freeze()
            client.connect(str(qemu.socket))
        closing = threading.Thread(target=disk.close)
        closing.start()
        time.sleep(0.05)
        emulator.thaw()
        closing.join(20)
        assert emulator.execute("query-status")["running"]
    check_guest(emulator)
