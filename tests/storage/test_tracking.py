"""Which tracker a volume gets, and the reason that the operator reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import RehashTracker, TrackingKind, choose_tracker, tracking_method
from storage.tracking import tracefs
from storage.tracking.tracefs import clean_up_stale
from storage.tracking.tracefs_tracker import TracefsTracker

Attach = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 4 << 20)
    return path


def rehash(path: Path) -> str:
    """Return why a volume is read again in full."""
    method = tracking_method(path)
    assert method.kind is TrackingKind.REHASH
    assert "reads all of it" in method.cost
    assert isinstance(choose_tracker(path), RehashTracker)
    return method.reason


@pytest.mark.tracing
def test_block_devices_are_tracked(image: Path, attach: Attach) -> None:
    device = attach(image)
    method = tracking_method(device)
    assert method.kind is TrackingKind.TRACEFS
    assert method.reason == f"the kernel reports writes to {device}"
    assert "only what was written" in method.cost
    assert isinstance(choose_tracker(device), TracefsTracker)


@pytest.mark.tracing
def test_a_file_is_tracked_by_its_only_loop_device(image: Path, attach: Attach) -> None:
    assert "no loop device" in rehash(image)
    device = attach(image)
    link = image.parent / "link"
    link.symlink_to(image)
    assert tracking_method(link).reason == f"the kernel reports writes to {device}"
    with image.open("rb"):
        assert tracking_method(image).kind is TrackingKind.TRACEFS
    with image.open("r+b"):
        command = Path("/proc/self/comm").read_text().strip()
        assert f"process {os.getpid()} ({command}) has it open for writing" in rehash(image)
    another = attach(image)
    assert f"several loop devices write it: {device}, {another}" == rehash(image)


@pytest.mark.tracing
def test_what_is_no_volume_is_not_tracked(tmp_path: Path) -> None:
    assert rehash(tmp_path / "nothing") == f"{tmp_path}/nothing: No such file or directory"
    assert "neither a regular file nor a block device" in rehash(Path("/dev/null"))


@pytest.mark.tracing
def test_without_tracefs_nothing_is_tracked(
    image: Path, attach: Attach, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = attach(image)
    monkeypatch.setattr(tracefs, "PLACES", (tmp_path / "nothing", *tracefs.PLACES))
    assert tracking_method(device).kind is TrackingKind.TRACEFS
    monkeypatch.setattr(tracefs, "PLACES", (tmp_path,))
    assert "mount -t tracefs" in rehash(device)
    assert clean_up_stale() == []
    (tmp_path / "instances").mkdir()
    assert rehash(device).startswith("this kernel cannot trace writes: no ")


@pytest.mark.tracing
def test_without_permission_nothing_is_tracked(image: Path, attach: Attach) -> None:
    device = attach(image)
    os.seteuid(65534)
    try:
        assert "Permission denied" in tracking_method(device).reason
        assert clean_up_stale() == []
    finally:
        os.seteuid(0)
