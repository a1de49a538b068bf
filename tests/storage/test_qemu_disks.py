"""Disks that a real QEMU serves, read as the guest sees them."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.backing import backing_of
from storage.contracts import EVERYTHING, Volume
from storage.errors import QemuError, UnsupportedVolume, VolumeError, VolumeNotFound
from storage.extents import complement
from storage.qemu.guest_disk import GuestDisk
from storage.qemu.tracker import BitmapTracker
from tests.support.qemu import (
    FORMATS,
    SIZE,
    Emulator,
    content,
    make_image,
    only_with_qemu,
    start_emulator,
)
from tests.support.volumes import read

pytestmark = [pytest.mark.long, only_with_qemu]

Start = Callable[..., Emulator]
Opened = Callable[[Volume], Volume]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start QEMUs, that have ended with the test."""
    started = []

    def one(*options: str, **disks: tuple[str, Path]) -> Emulator:
        started.append(start_emulator(tmp_path, disks, *options))
        return started[-1]

    yield one
    for emulator in started:
        emulator.end()


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def whole(volume: Volume) -> bytes:
    return read(volume, 0, volume.size)


def test_what_the_guest_sees_is_read(
    kind: str, tmp_path: Path, start: Start, opened: Opened
) -> None:
    image = make_image(tmp_path / "disk", kind)
    emulator = start(hd0=(kind, image))
    emulator.write("hd0", 1 << 20, 100_000, fill=3)
    disk = opened(GuestDisk.open(emulator.guest(), image))
    assert (disk.size, disk.name) == (SIZE, str(image))
    expected = bytes(1 << 20) + b"\3" * 100_000 + bytes(SIZE - (1 << 20) - 100_000)
    assert whole(disk) == expected
    assert all(not any(expected[one.offset : one.end]) for one in _holes(disk))
    if kind != "vpc":  # which does not tell where it has zeros
        assert sum(one.length for one in disk.data_extents()) <= 4 << 16
    # What QEMU has not written to the file yet is seen as well.
    emulator.write("hd0", SIZE - 4096, 4096, fill=9)
    assert read(disk, SIZE - 4096, 4096) == b"\x09" * 4096
    backing = disk.backing()
    assert (backing.what, backing.size) == (backing_of(image).what, SIZE)


def _holes(disk: Volume) -> Iterator:
    yield from complement(disk.data_extents(), disk.size)


def test_rounds_of_a_copy_end_with_what_the_guest_wrote_last(
    kind: str, tmp_path: Path, start: Start, opened: Opened
) -> None:
    """Also when libxl has had QEMU stop, and give up its images, before the last one."""
    image = make_image(tmp_path / "disk", kind)
    emulator = start(hd0=(kind, image))
    chance = random.Random(7)
    qemu = emulator.guest()
    disk = opened(GuestDisk.open(qemu, image))
    tracker = BitmapTracker(qemu, image, disk.reads)
    tracker.start()
    copy = bytearray(whole(disk))

    def guest_writes() -> None:
        for _ in range(60):
            length = chance.choice((512, 4096, 150_000))
            offset = chance.randrange(0, SIZE - length, 512)
            # It may end after the next report has begun.
            emulator.io("hd0", f"aio_write -q -P {chance.randrange(256)} {offset} {length}")

    def follow() -> int:
        report = tracker.drain()
        assert isinstance(report, list)
        for one in report:
            copy[one.offset : one.end] = read(disk, one.offset, one.length)
        return sum(one.length for one in report)

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(guest_writes)
        while not writing.done():
            follow()
        writing.result()
    emulator.execute("stop")
    emulator.execute("xen-save-devices-state", filename=str(tmp_path / "state"), live=True)
    assert follow() < SIZE
    disk.close()
    tracker.stop()
    assert emulator.left() == []
    emulator.execute("cont")  # as libxl has it when the migration fails
    emulator.write("hd0", 0, 4096, fill=copy[0])
    emulator.end()
    assert content(image, kind)[4096:] == copy[4096:]


@pytest.mark.thorough
def test_what_is_read_while_qemu_gives_up_its_images_is_read_again(
    kind: str, tmp_path: Path, start: Start, opened: Opened
) -> None:
    """QEMU may answer with what another disk holds; this fails without that in a few rounds."""
    large = 16 << 20
    images = [make_image(tmp_path / name, kind, large) for name in ("a", "b")]
    emulator = start(hd0=(kind, images[0]), hd1=(kind, images[1]))
    for number in range(large >> 20):
        emulator.write("hd0", number << 20, 1 << 20, fill=number + 1)
        emulator.write("hd1", number << 20, 1 << 20, fill=200)
    qemu = emulator.guest()
    disk = opened(GuestDisk.open(qemu, images[0]))
    tracker = BitmapTracker(qemu, images[0], disk.reads)
    tracker.start()
    copy = bytearray(large)

    def copy_all(ending: threading.Event, first: int) -> None:
        for offset in itertools.cycle(range(first, large, 4 * 65536)):
            if ending.is_set():
                return
            with contextlib.suppress(VolumeError):  # read again, too
                copy[offset : offset + 65536] = read(disk, offset, 65536)

    for turn in range(4):
        ending = threading.Event()
        with ThreadPoolExecutor(4) as readers:
            work = [readers.submit(copy_all, ending, n * 65536) for n in range(4)]
            state = str(tmp_path / "state")
            emulator.execute("stop")
            emulator.execute("xen-save-devices-state", filename=state, live=True)
            ending.set()
            for one in work:
                one.result()
        report = tracker.drain()
        assert isinstance(report, list)
        assert report
        for one in report:
            copy[one.offset : one.end] = read(disk, one.offset, one.length)
        expected = [bytes([number + 1]) * (1 << 20) for number in range(large >> 20)]
        if turn:  # in the first one, not all may have been read
            assert bytes(copy) == b"".join(expected)
        else:
            copy[:] = b"".join(expected)
        emulator.execute("cont")
        assert tracker.drain() == []
    tracker.stop()


def test_backing_files_are_part_of_the_content(
    tmp_path: Path, start: Start, opened: Opened
) -> None:
    base = tmp_path / "base"
    base.write_bytes(b"\1" * SIZE)
    image = make_image(tmp_path / "disk", "qcow2", SIZE, "-b", str(base), "-F", "raw")
    emulator = start(hd0=("qcow2", image))
    emulator.write("hd0", 65536, 65536, fill=2)
    disk = opened(GuestDisk.open(emulator.guest(), image))
    assert whole(disk) == b"\1" * 65536 + b"\2" * 65536 + b"\1" * (SIZE - 131072)


def test_a_disk_is_found_by_another_path_and_beneath_a_filter(
    tmp_path: Path, start: Start, opened: Opened
) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    make_image(tmp_path / "other", "raw")
    link = tmp_path / "link"
    link.symlink_to(image)
    throttled = "qcow2,throttling.bps-total=1000000000"
    emulator = start(hd1=("raw", tmp_path / "other"), hd0=(throttled, image))
    emulator.write("hd0", 0, 512, fill=8)
    disk = opened(GuestDisk.open(emulator.guest(), link))
    assert read(disk, 0, 512) == b"\x08" * 512
    tracker = BitmapTracker(emulator.guest(), link)
    tracker.start()
    emulator.write("hd0", 1 << 20, 512)
    report = tracker.drain()
    assert [(one.offset, one.length) for one in report] == [(1 << 20, 65536)]
    tracker.stop()


def test_a_disk_that_is_renamed_stays_what_it_was(
    tmp_path: Path, start: Start, opened: Opened
) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    emulator = start(hd0=("qcow2", image))
    disk = opened(GuestDisk.open(emulator.guest(), image))
    before = disk.backing()
    image.rename(tmp_path / "renamed")
    assert disk.backing() == before
    make_image(image, "qcow2")
    assert disk.backing() == before
    with pytest.raises(UnsupportedVolume, match="for no device"):
        GuestDisk.open(emulator.guest(), tmp_path / "renamed")


def test_what_cannot_be_copied_as_content_is_refused(tmp_path: Path, start: Start) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UnsupportedVolume) as caught:
            GuestDisk.open(emulator.guest(), path)
        tracker = BitmapTracker(emulator.guest(), path)
        tracker.start()
        assert tracker.trouble == str(caught.value)
        tracker.stop()
        return str(caught.value)

    outside = f"data_file={tmp_path / 'data'},data_file_raw=on"
    apart = make_image(tmp_path / "apart", "qcow2", SIZE, "-o", outside)
    plain = make_image(tmp_path / "plain", "raw")
    twice = make_image(tmp_path / "twice", "qcow2")
    emulator = start(
        hd0=("qcow2", apart),
        hd2=("qcow2,file.locking=off,readonly=on", twice),
        hd3=("qcow2,file.locking=off,readonly=on", twice),
    )
    assert "keeps its data in another file" in refused(apart)
    assert "for no device" in refused(plain)
    assert "for 2 devices" in refused(twice)
    with pytest.raises(VolumeNotFound):
        GuestDisk.open(emulator.guest(), tmp_path / "nothing")
    assert emulator.left() == []


def test_a_raw_disk_of_several_devices_is_tracked_on_all_of_them(
    tmp_path: Path, start: Start
) -> None:
    """As that of an HVM guest: one is emulated, the other of its drivers for Xen."""
    image = make_image(tmp_path / "disk", "raw")
    open_twice = ("raw,file.locking=off", image)
    emulator = start(hd0=open_twice, hd1=open_twice)
    tracker = BitmapTracker(emulator.guest(), image)
    tracker.start()
    with pytest.raises(UnsupportedVolume, match="several devices"):
        GuestDisk.open(emulator.guest(), image)
    emulator.write("hd0", 0, 512)
    emulator.write("hd1", 1 << 20, 512)
    report = tracker.drain()
    assert [(one.offset, one.length) for one in report] == [(0, 65536), (1 << 20, 65536)]
    emulator.write("hd0", 2 << 20, 512)
    emulator.execute("human-monitor-command", command_line="drive_del hd0")  # as it is unplugged
    assert tracker.drain() is EVERYTHING
    emulator.write("hd1", 3 << 20, 512)
    assert [(one.offset, one.length) for one in tracker.drain()] == [(3 << 20, 65536)]
    tracker.stop()
    assert emulator.left() == []


def test_nothing_is_written(tmp_path: Path, start: Start, opened: Opened) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    disk = opened(GuestDisk.open(start(hd0=("qcow2", image)).guest(), image))
    for call in (
        lambda: disk.write(0, memoryview(bytes(512))),
        lambda: disk.zero(0, 512),
    ):
        with pytest.raises(VolumeError, match=r"cannot (write|zero) 512 bytes .*reading only"):
            call()


def test_bad_ranges_and_closed_disks_are_told(tmp_path: Path, start: Start) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    emulator = start(hd0=("qcow2", image))
    disk = GuestDisk.open(emulator.guest(), image)
    with pytest.raises(VolumeError, match=rf"8192 bytes at {SIZE - 4096}: .*{SIZE}"):
        read(disk, SIZE - 4096, 8192)
    disk.read_into(SIZE, memoryview(bytearray()))
    disk.close()
    disk.close()
    with pytest.raises(VolumeError, match="closed"):
        read(disk, 0, 512)
    assert emulator.left() == []


def test_many_threads_read(tmp_path: Path, start: Start, opened: Opened) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    emulator = start(hd0=("qcow2", image))
    for number in range(8):
        emulator.write("hd0", number << 20, 1 << 20, fill=number + 1)
    disk = opened(GuestDisk.open(emulator.guest(), image))
    wrong = []

    def work(number: int) -> None:
        for _ in range(20):
            if read(disk, number << 20, 1 << 20) != bytes([number + 1]) * (1 << 20):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_disks_of_one_guest_share_its_server(tmp_path: Path, start: Start) -> None:
    first, second = make_image(tmp_path / "a", "qcow2"), make_image(tmp_path / "b", "raw")
    emulator = start(hd0=("qcow2", first), hd1=("raw", second))
    disks = [GuestDisk.open(emulator.guest(), image) for image in (first, second)]
    trackers = [BitmapTracker(emulator.guest(), image) for image in (first, second)]
    for tracker in trackers:
        tracker.start()
    emulator.write("hd1", 65536, 512)
    reports: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda n=n: reports.update({n: trackers[n].drain()}))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports[0] == []
    assert [(one.offset, one.length) for one in reports[1]] == [(65536, 65536)]  # type: ignore[attr-defined]
    disks[0].close()
    trackers[0].stop()
    assert read(disks[1], 65536, 512) == b"\xa5" * 512
    disks[1].close()
    trackers[1].stop()
    assert emulator.left() == []


def test_a_server_that_others_started_is_left_alone(tmp_path: Path, start: Start) -> None:
    image = make_image(tmp_path / "disk", "qcow2")
    emulator = start(hd0=("qcow2", image))
    theirs = {"type": "unix", "data": {"path": str(tmp_path / "theirs")}}
    emulator.execute("nbd-server-start", addr=theirs)
    with pytest.raises(QemuError, match="NBD server already running"):
        GuestDisk.open(emulator.guest(), image)
    emulator.guest().clean_up()
    assert (tmp_path / "theirs").exists()
    assert emulator.left() == ["the NBD server"]
