"""When a file or device was written to last, and when nothing tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from storage.contracts import LastWrite
from storage.last_write import NOTHING, last_write, of_device, seconds_to_later, tells

Attach = Callable[..., Path]

MIB: Final = 1 << 20
COUNTS: Final = "1 0 8 0 20 0 {written} 0 0 0 0 3 0 {discarded} 0 0 0"


def test_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"x")
    found = last_write(file)
    assert found == LastWrite("", str(file.stat().st_mtime_ns))
    assert found is not None
    assert found.is_before(last_write(file)) is False
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert found.is_before(last_write(file)) is True
    assert found.is_before(last_write(tmp_path / "gone")) is None
    assert last_write("/dev/null") is None


def test_when_a_write_has_another_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a file that has whole seconds, as with small inodes, may be the same for one."""
    for age, moment, seconds in (
        (0, 5_000_000_001, 0.02),
        (15_000_000, 5_000_000_001, 0.005),
        (10**9, 5_000_000_001, 0.0),
        (10**8, 5_000_000_000, 0.9),
        (-(10**12), 5_000_000_001, 0.02),  # the clock was set back
    ):
        monkeypatch.setattr("time.time_ns", lambda now=moment + age: now)
        assert seconds_to_later(LastWrite("", str(moment))) == pytest.approx(seconds)
    assert seconds_to_later(LastWrite("boot a", "8+0")) == 0.0


class Device:
    """Device 253:7 in a sysfs of its own."""

    def __init__(self, folder: Path) -> None:
        self._sysfs, self._boot = folder / "sysfs", folder / "boot_id"
        self.folder = self._sysfs / "253:7"
        (self.folder / "queue").mkdir(parents=True)
        self.say("queue/iostats", "1")
        self.say("diskseq", "3")
        self.count(80, 0)
        self.boot("a")

    def say(self, attribute: str, text: str) -> None:
        (self.folder / attribute).write_text(f"{text}\n")

    def count(self, written: int, discarded: int) -> None:
        self.say("stat", COUNTS.format(written=written, discarded=discarded))

    def boot(self, identity: str) -> None:
        self._boot.write_text(f"{identity}\n")

    def found(self) -> LastWrite | None:
        return of_device(os.makedev(253, 7), self._sysfs, self._boot)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_of_a_device_while_it_is_there(device: Device) -> None:
    first = device.found()
    assert first is not None
    assert first.is_before(device.found()) is False
    assert LastWrite.parse(str(first)) == first
    for counts in ((88, 0), (80, 8)):
        device.count(*counts)
        assert first.is_before(device.found()) is True


def test_of_a_device_that_is_another_one_by_now(device: Device) -> None:
    first = device.found()
    assert first is not None
    device.boot("b")
    assert first.is_before(device.found()) is None
    device.boot("a")
    device.say("diskseq", "4")
    assert first.is_before(device.found()) is None


def test_a_count_that_stands_still_tells_nothing(device: Device) -> None:
    device.say("queue/iostats", "0")
    assert device.found() is None
    device.say("queue/iostats", "1")
    device.say("stat", "1 0 8 0 20 0 80 0 0 0 0")  # of a kernel that counts no discards
    assert device.found() is None
    device.count(0, 0)
    found = device.found()
    assert found is not None
    assert found.moment == NOTHING
    assert not tells(found), "a driver may count nothing"


def test_the_device_mapper_counts_whatever_its_switch_says(device: Device) -> None:
    device.say("queue/iostats", "0")
    device.count(0, 0)
    (device.folder / "dm").mkdir()
    found = device.found()
    assert found is not None
    assert not tells(found), "a newer kernel obeys the switch"
    device.count(80, 0)
    found = device.found()
    assert found is not None
    assert tells(found)
    device.say("queue/iostats", "1")
    assert found.is_before(device.found()) is None
    device.count(0, 0)
    found = device.found()
    assert found is not None
    assert tells(found)


def test_a_zvol_that_was_filled_by_streams_counts_nothing(device: Device) -> None:
    zvol = device.folder.with_name("zd16")
    device.folder.rename(zvol)
    device.folder.symlink_to(zvol)
    device.count(0, 0)
    found = device.found()
    assert found is not None
    assert tells(found)
    device.count(8, 0)
    assert found.is_before(device.found()) is True


@pytest.mark.root
def test_of_a_loop_device(tmp_path: Path, attach: Attach) -> None:
    file = tmp_path / "a file"
    file.write_bytes(bytes(MIB))
    device = attach(file)
    _write(device, b"first")
    first = last_write(device)
    assert first is not None
    device.read_bytes()
    assert first.is_before(last_write(device)) is False
    _write(device, b"second")
    second = last_write(device)
    assert second is not None
    assert first.is_before(second) is True
    _write(file, b"past the device")
    assert second.is_before(last_write(device)) is True


@pytest.mark.root
def test_of_a_loop_device_on_another_device(tmp_path: Path, attach: Attach) -> None:
    """The node of that has a moment, which no write changes that does not go through it."""
    file = tmp_path / "a file"
    file.write_bytes(bytes(MIB))
    assert last_write(attach(attach(file))) is None


def _write(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
