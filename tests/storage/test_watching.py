"""Whether anybody else opens what is filled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import open_pool, usage, watching
from storage.contracts import PoolVolume
from storage.errors import VolumeInUse, VolumeWritten
from storage.watching import Watch

Attach = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_LEAVING_SECONDS", 0.0)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[PoolVolume]:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    opened = open_pool("p", "dir", {"path": tmp_path}).open("disk", writable=True)
    yield opened
    opened.close()


@pytest.fixture
def watch(volume: PoolVolume) -> Iterator[Watch]:
    made = volume.watch()
    made.require_alone()
    yield made
    made.close()


def elsewhere(path: Path, mode: str) -> subprocess.Popen[bytes]:
    """Have another process open a file; returns when it has."""
    code = f"f = open({str(path)!r}, {mode!r}); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_reader_is_nobody(watch: Watch, tmp_path: Path) -> None:
    reader = elsewhere(tmp_path / "disk", "rb")
    watch.require_alone()
    reader.communicate(b"\n")
    watch.require_alone()


def test_a_writer_is_seen_while_it_is_there_and_when_it_is_gone(
    watch: Watch, tmp_path: Path
) -> None:
    (tmp_path / "hard").hardlink_to(tmp_path / "disk")
    writer = elsewhere(tmp_path / "hard", "r+b")
    with pytest.raises(VolumeInUse, match=f"p:disk .* process {writer.pid} "):
        watch.require_alone()
    writer.communicate(b"\n")
    with pytest.raises(VolumeWritten, match="p:disk"):
        watch.require_alone()


def test_a_writer_that_was_there_before_is_seen(volume: PoolVolume, tmp_path: Path) -> None:
    writer = elsewhere(tmp_path / "disk", "r+b")
    watch = volume.watch()
    with pytest.raises(VolumeInUse, match=f"process {writer.pid} "):
        watch.require_alone()
    writer.communicate(b"\n")
    watch.close()


def test_without_a_watch_a_writer_is_seen_while_it_is_there(
    volume: PoolVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, events: int) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(watching, "inotify_watch", refuse)
    watch = volume.watch()
    watch.require_alone()
    writer = elsewhere(tmp_path / "disk", "r+b")
    with pytest.raises(VolumeInUse, match=f"process {writer.pid} "):
        watch.require_alone()
    writer.communicate(b"\n")


@pytest.mark.root
def test_a_file_that_took_the_name_of_one_behind_a_loop_device_is_free(
    tmp_path: Path, attach: Attach
) -> None:
    for name in ("disk", "new"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    device = attach(tmp_path / "disk")
    assert usage.held(tmp_path / "disk") == f"backs {device}"
    (tmp_path / "new").rename(tmp_path / "disk")
    assert usage.held(tmp_path / "disk") is None


@pytest.mark.root
def test_writers_of_a_device(tmp_path: Path, attach: Attach) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    device = attach(tmp_path / "disk")
    assert usage.writer(device) is None
    with device.open("rb"):
        assert usage.writer(device) is None
    with device.open("r+b"):
        assert str(os.getpid()) in str(usage.writer(device))
        assert usage.writer(device, besides={os.getpid()}) is None


@pytest.mark.root
def test_the_disk_of_a_domain_by_its_backend(
    tmp_path: Path, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel of a dom0 shows it: nothing else tells, where blkback opened a device."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    device = attach(tmp_path / "disk")
    number = device.stat().st_rdev
    sysfs = tmp_path / "sys"
    backend = sysfs / "bus/xen-backend/devices/vbd-7-51712"
    backend.mkdir(parents=True)
    mark = backend / "physical_device"
    mark.write_text(f"{os.major(number):x}:{os.minor(number):x}\n")
    monkeypatch.setattr(
        usage, "_with_partitions", lambda number: [usage._Device(number, "x", sysfs)]
    )
    monkeypatch.setattr(usage, "SYS", sysfs)
    assert usage.held(device) == "disk of domain 7"
    mark.write_text("fd:0\n")
    assert usage.held(device) is None
