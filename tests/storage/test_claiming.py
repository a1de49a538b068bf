"""Waiting for those who have a volume for a moment, and having one alone from some moment on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.buffers import AlignedBuffer
from storage.claiming import PASSING_USE_SECONDS
from storage.devices.volume import BlockDevice
from storage.errors import VolumeInUse
from storage.files.volume import RawFile
from tests.support.volumes import run

_HOLD = """
import fcntl, sys, time
path, name, seconds = sys.argv[1:]
open("/proc/self/comm", "w").write(name)
file = open(path)
fcntl.flock(file, fcntl.LOCK_SH)
print("locked", flush=True)
time.sleep(float(seconds))
"""


@contextmanager
def locked(path: Path, name: str, seconds: float) -> Iterator[None]:
    """Have a process of some name lock a file for a while."""
    command = [sys.executable, "-S", "-c", _HOLD, str(path), name, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path, attach: Callable[..., Path]) -> Path:
    file = tmp_path / "volume"
    file.write_bytes(bytes(1 << 20))
    return attach(file)


@pytest.mark.thorough
@pytest.mark.root
def test_a_probe_by_udev_is_waited_for_however_slow_the_device(path: Path) -> None:
    with locked(path, "(udev-worker)", 4 * PASSING_USE_SECONDS):
        BlockDevice.open(str(path), name="volume", writable=True).close()


@pytest.mark.root
def test_others_are_not_waited_for_so_long(path: Path) -> None:
    with (
        locked(path, "backup", 60),
        pytest.raises(VolumeInUse, match=r"locked by process \d+ \(backup\)"),
    ):
        BlockDevice.open(str(path), name="volume", writable=True)


# --- a volume that was opened to be read, and whose guest has ended ---


@pytest.fixture(params=["file", pytest.param("device", marks=pytest.mark.root)])
def opener(
    request: pytest.FixtureRequest, tmp_path: Path, attach: Callable[..., Path]
) -> Callable[..., Any]:
    """Open a file or a device as whoever reads or writes it does."""
    file = tmp_path / "volume"
    file.write_bytes(bytes(1 << 20))
    if request.param == "file":
        return partial(RawFile.open, str(file), name="volume")
    return partial(BlockDevice.open, str(attach(file)), name="volume")


def test_a_claimed_volume_is_nobody_elses_until_it_is_closed(opener: Callable[..., Any]) -> None:
    volume = opener(writable=False)
    volume.claim()
    volume.claim()
    with pytest.raises(VolumeInUse):
        opener(writable=True)
    volume.read_into(0, AlignedBuffer(4096).view)
    volume.watch().close()
    volume.close()
    opener(writable=True).close()


def test_a_volume_that_somebody_else_has_is_not_claimed(opener: Callable[..., Any]) -> None:
    with closing(opener(writable=False)) as volume:
        volume.unlock()
        with closing(opener(writable=True)), pytest.raises(VolumeInUse):
            volume.claim()
        volume.claim()


@pytest.mark.root
def test_a_file_is_claimed_when_its_loop_device_is_gone(
    tmp_path: Path, attach: Callable[..., Path]
) -> None:
    file = tmp_path / "volume"
    file.write_bytes(bytes(1 << 20))
    device = run("losetup", "--find", "--show", file)
    with closing(RawFile.open(str(file), name="volume", writable=False)) as volume:
        with open(device, "rb"):  # noqa: PTH123 - as whoever follows the writes to it
            run("losetup", "--detach", device)
            with pytest.raises(VolumeInUse, match="backs /dev/loop"):
                volume.claim()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(VolumeInUse):
                volume.claim()
                return
    pytest.fail("the loop device does not go")
