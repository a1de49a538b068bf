"""Waiting for those who have a volume for a moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.claiming import PASSING_USE_SECONDS
from storage.devices.volume import BlockDevice
from storage.errors import VolumeInUse

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
