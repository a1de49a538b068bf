"""The kernel's trace of writes: which kinds there are, when they are reported, what breaks it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import EVERYTHING, syscalls
from storage.tracking.ringpages import EVENTS
from storage.tracking.tracefs import clean_up_stale, find_tracefs
from storage.tracking.tracefs_tracker import SETTLE_PATIENCE, TracefsTracker
from tests.support.trackers import PAGE, blocks, instance, instances, write
from tests.support.volumes import BLOCK, run

pytestmark = pytest.mark.tracing

SIZE = 32 << 20
Attach = Callable[..., Path]
Mount = Callable[..., Path]
Track = Callable[..., TracefsTracker]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def device(image: Path, attach: Attach) -> Path:
    return attach(image)


@pytest.fixture
def track(cleanup: ExitStack) -> Track:
    def start(path: Path, **options: float) -> TracefsTracker:
        tracker = TracefsTracker(path, **options)  # type: ignore[arg-type]
        cleanup.callback(tracker.stop)
        tracker.start()
        assert tracker.trouble is None
        return tracker

    return start


def test_discards_and_zeroing_are_writes(device: Path, track: Track) -> None:
    tracker = track(device)
    descriptor = os.open(device, os.O_RDWR)
    try:
        discard = 0x1277
        fcntl.ioctl(
            descriptor, discard, (2 << 20).to_bytes(8, "little") + bytes([0, 0, 1] + [0] * 5)
        )
        assert tracker.drain() == blocks((2 << 20, BLOCK))
        syscalls.zero_device(descriptor, 3 << 20, 4096)
        assert tracker.drain() == blocks((3 << 20, 4096))
        syscalls.punch_hole(descriptor, 4 << 20, 12 << 20)
        assert tracker.drain() == blocks((4 << 20, 12 << 20))
    finally:
        os.close(descriptor)


def test_durable_and_large_writes(device: Path, track: Track) -> None:
    tracker = track(device)
    descriptor = os.open(device, os.O_RDWR | os.O_DSYNC)
    try:
        os.pwrite(descriptor, PAGE, BLOCK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert tracker.drain() == blocks((BLOCK, 4096))
    write(device, 0, bytes(20 << 20))
    assert tracker.drain() == blocks((0, 20 << 20))
    assert tracker.drain() == []


def test_writes_that_are_still_in_dom0s_page_cache(device: Path, track: Track) -> None:
    tracker = track(device)
    with device.open("r+b", buffering=0) as writer:
        writer.seek(5 << 20)
        writer.write(PAGE)
        assert tracker.drain() == blocks((5 << 20, 4096))


def test_disk_and_partition_see_each_others_writes(
    device: Path, track: Track, cleanup: ExitStack
) -> None:
    run("addpart", device, "1", "2048", "4096")
    cleanup.callback(run, "delpart", device, "1")
    partition = Path(f"{device}p1")
    whole, part = track(device), track(partition)
    write(partition, BLOCK)
    assert whole.drain() == blocks(((1 << 20) + BLOCK, 4096))
    assert part.drain() == blocks((BLOCK, 4096))
    for offset in (0, (1 << 20) - 4096, 3 << 20):
        write(device, offset)
    assert part.drain() == []
    write(device, (3 << 20) - 4096)
    assert part.drain() == blocks(((2 << 20) - 4096, 4096))
    whole.stop()
    part.stop()


@pytest.fixture
def frozen_below(tmp_path: Path, attach: Attach, mount: Mount) -> Iterator[tuple[Path, Path]]:
    """A loop device on a file of a file system that can be frozen, and where that is mounted."""
    disk = tmp_path / "below.img"
    disk.touch()
    os.truncate(disk, 64 << 20)
    below = attach(disk)
    run("mkfs.ext4", "-q", below)
    folder = mount(below, tmp_path / "below")
    image = folder / "disk.img"
    image.write_bytes(bytes(4 << 20))
    # Not by `attach`, so that it is gone before its file system is unmounted.
    device = Path(run("losetup", "--find", "--show", image))
    try:
        yield device, folder
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=False, capture_output=True)
        run("losetup", "--detach", device)


def test_a_write_under_way_is_reported_until_it_has_ended(
    frozen_below: tuple[Path, Path], track: Track
) -> None:
    """The read that follows a report may come before the data does."""
    device, folder = frozen_below
    tracker = track(device)
    run("fsfreeze", "--freeze", folder)
    writer = threading.Thread(target=write, args=(device, BLOCK))
    writer.start()
    try:
        deadline = time.monotonic() + 10
        while (report := tracker.drain()) == [] and time.monotonic() < deadline:
            pass
        assert report == blocks((BLOCK, 4096))
        assert (folder / "disk.img").read_bytes() == bytes(4 << 20)
        assert tracker.drain() == blocks((BLOCK, 4096))
    finally:
        run("fsfreeze", "--unfreeze", folder)
        writer.join()
    assert tracker.drain() == blocks((BLOCK, 4096))
    assert (folder / "disk.img").read_bytes()[BLOCK : BLOCK + 4096] == PAGE
    assert tracker.drain() == []


def test_a_write_that_was_under_way_at_the_start_is_reported_once(
    frozen_below: tuple[Path, Path], track: Track
) -> None:
    device, folder = frozen_below
    run("fsfreeze", "--freeze", folder)
    writer = threading.Thread(target=write, args=(device, BLOCK))
    writer.start()
    time.sleep(0.2)
    try:
        tracker = track(device)
        assert tracker.drain() == []
    finally:
        run("fsfreeze", "--unfreeze", folder)
        writer.join()
    assert tracker.drain() == blocks((BLOCK, 4096))
    assert tracker.drain() == []


def test_drain_waits_for_writes_under_way(frozen_below: tuple[Path, Path], track: Track) -> None:
    """So that the last one has what the suspended guest left on its way."""
    device, folder = frozen_below
    tracker = track(device)
    run("fsfreeze", "--freeze", folder)
    writer = threading.Thread(target=write, args=(device, 0))
    writer.start()
    time.sleep(0.2)
    thaw = threading.Timer(SETTLE_PATIENCE / 2, run, ("fsfreeze", "--unfreeze", folder))
    began = time.monotonic()
    thaw.start()
    assert tracker.drain() == blocks((0, 4096))
    assert time.monotonic() - began >= SETTLE_PATIENCE / 2
    assert (folder / "disk.img").read_bytes()[:4096] == PAGE
    thaw.join()
    writer.join()
    assert tracker.drain() == []


def test_lost_events_mean_everything_and_the_next_report_is_right_again(
    device: Path, track: Track
) -> None:
    tracker = track(device, buffer_size=4096, read_every=3600)
    for offset in range(0, 2000 * 4096, 4096):
        write(device, offset)
    assert tracker.drain() is EVERYTHING
    write(device, 20 << 20)
    assert tracker.drain() == blocks((20 << 20, 4096))
    assert tracker.trouble is None


def off(folder: Path) -> None:
    (folder / "tracing_on").write_text("0")


def disabled(folder: Path) -> None:
    (folder / "events" / "block" / EVENTS[1] / "enable").write_text("0")


def filtered(folder: Path) -> None:
    (folder / "events" / "block" / EVENTS[0] / "filter").write_text("dev == 1")


def smaller(folder: Path) -> None:
    (folder / "buffer_size_kb").write_text("64")


def cleared(folder: Path) -> None:
    (folder / "trace").write_text("")


def read_by_others(folder: Path) -> None:
    for pipe in folder.glob("per_cpu/cpu*/trace_pipe_raw"):
        descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.read(descriptor, 4096)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (off, "switched"),
        (disabled, "disabled block_rq_complete"),
        (filtered, "filter of block_bio_queue"),
        (smaller, "buffers"),
        (cleared, "cleared"),
        (read_by_others, "read"),
    ],
)
def test_a_changed_instance_means_everything_for_ever(
    device: Path, track: Track, change: Callable[[Path], None], reason: str
) -> None:
    tracker = track(device, read_every=3600)
    write(device, 0)
    assert tracker.drain() == blocks((0, 4096))
    write(device, BLOCK)
    change(instance(tracker))
    assert tracker.drain() is EVERYTHING
    assert reason in str(tracker.trouble)
    assert tracker.drain() is EVERYTHING
    assert instances() == []


def test_the_kernel_keeps_an_instance_that_is_read(device: Path, track: Track) -> None:
    tracker = track(device)
    with pytest.raises(OSError) as caught:
        instance(tracker).rmdir()
    assert caught.value.errno == errno.EBUSY
    write(device, 0)
    assert tracker.drain() == blocks((0, 4096))


def test_a_device_that_was_replaced_means_everything(
    image: Path, attach: Attach, track: Track, tmp_path: Path
) -> None:
    link = tmp_path / "volume"
    link.symlink_to(attach(image))
    tracker = track(link)
    link.unlink()
    link.symlink_to(attach(image))
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble == f"{link} has become another device"


def test_a_device_of_another_size_means_everything(image: Path, device: Path, track: Track) -> None:
    tracker = track(device)
    os.truncate(image, 2 * SIZE)
    assert tracker.drain() == []
    run("losetup", "--set-capacity", device)
    assert tracker.drain() is EVERYTHING
    assert tracker.trouble is not None


def test_a_loop_device_with_another_file_means_everything(
    image: Path, tmp_path: Path, attach: Attach, track: Track
) -> None:
    device = attach(image, "--read-only")  # only then may its file be replaced
    tracker = track(device)
    other = tmp_path / "other.img"
    other.touch()
    os.truncate(other, SIZE)
    change_file = 0x4C06
    with other.open("rb") as replacement, device.open("rb") as loop:
        fcntl.ioctl(loop, change_file, replacement.fileno())
    assert tracker.drain() is EVERYTHING


def test_a_file_with_a_second_writer_means_everything(
    image: Path, device: Path, attach: Attach, track: Track
) -> None:
    tracker = track(image)
    write(device, 0)
    assert tracker.drain() == blocks((0, 4096))
    with image.open("r+b"):
        assert tracker.drain() is EVERYTHING
    assert "has it open for writing" in str(tracker.trouble)
    tracker = track(image)
    attach(image)
    assert tracker.drain() is EVERYTHING
    assert "several loop devices" in str(tracker.trouble)


def test_what_cannot_be_tracked_is_everything(tmp_path: Path) -> None:
    tracker = TracefsTracker(tmp_path / "nothing")
    tracker.start()
    assert tracker.drain() is EVERYTHING
    assert "No such file" in str(tracker.trouble)
    tracker.stop()


def test_stopping_leaves_nothing_behind(device: Path, track: Track) -> None:
    threads = threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    tracker = track(device)
    assert len(instances()) == 1
    tracker.stop()
    assert instances() == []
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


TRACKING = """
import sys, time
from storage.tracking.tracefs_tracker import TracefsTracker
tracker = TracefsTracker(sys.argv[1])
tracker.start()
print(tracker.trouble, flush=True)
time.sleep(100)
"""


def test_only_instances_of_killed_processes_are_cleaned_up(
    device: Path, track: Track, cleanup: ExitStack
) -> None:
    cleanup.callback(clean_up_stale)
    tracker = track(device)
    trackers = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", TRACKING, device], stdout=subprocess.PIPE, text=True
        )
        cleanup.callback(process.wait)
        cleanup.callback(process.kill)
        assert process.stdout is not None
        cleanup.callback(process.stdout.close)
        assert process.stdout.readline() == "None\n"
        trackers.append(process)
    killed, living = trackers
    assert len(instances(killed.pid)) == 1
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    reused = find_tracefs() / "instances" / f"xenmoved-{os.getpid()}-1-1"  # of an earlier process
    others = find_tracefs() / "instances" / f"xenmoved-not-{os.getpid()}"
    for folder in (reused, others):
        folder.mkdir()
        cleanup.callback(lambda folder=folder: folder.exists() and folder.rmdir())
    (left,) = instances(killed.pid)
    removed = clean_up_stale()
    assert {left.name, reused.name} <= set(removed)
    assert not left.exists()
    assert not reused.exists()
    assert others.exists()
    assert len(instances(living.pid)) == 1
    write(device, 0)
    assert tracker.drain() == blocks((0, 4096))
