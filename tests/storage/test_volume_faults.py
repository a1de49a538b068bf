"""What goes wrong beneath a volume, and what is said of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import open_source
from storage.contracts import Extent, Volume
from storage.devices.volume import BlockDevice
from storage.errors import UnsupportedVolume, VolumeError, VolumeFull, VolumeInUse, VolumeNotFound
from storage.files.volume import RawFile
from tests.support.volumes import BLOCK, Backend, aligned, read, run

Attach = Callable[..., Path]
Mount = Callable[..., Path]
Opened = Callable[[Volume], Volume]


def refuse(number: int) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"d" * (2 * BLOCK))
    return path


# Truncated and vanished


def test_source_truncated_in_mid_read(image: Path, opened: Opened) -> None:
    volume = opened(open_source(image))
    os.truncate(image, BLOCK + 100)
    assert read(volume, 0, BLOCK) == b"d" * BLOCK
    with pytest.raises(
        VolumeError, match=rf"{image}: cannot read .* {2 * BLOCK} .*{BLOCK + 100} now"
    ):
        read(volume, BLOCK, BLOCK)


def test_truncated_file_does_not_pass_for_holes(image: Path, opened: Opened) -> None:
    volume = opened(open_source(image))
    os.truncate(image, 0)
    with pytest.raises(VolumeError, match="has 0 now"):
        list(volume.data_extents())


def test_removed_file_is_read_on_while_open(image: Path, opened: Opened) -> None:
    volume = opened(open_source(image))
    image.unlink()
    assert read(volume, BLOCK, BLOCK) == b"d" * BLOCK


@pytest.mark.root
def test_device_whose_bytes_are_gone(image: Path, attach: Attach, opened: Opened) -> None:
    device = attach(image)
    volume = opened(open_source(device))
    os.truncate(image, 4096)
    with pytest.raises(VolumeError, match=rf"{device}: cannot read {BLOCK} bytes at {BLOCK}: "):
        read(volume, BLOCK, BLOCK)


@pytest.mark.parametrize("missing", ["nothing", "disk.img/below"])
def test_missing_source(image: Path, missing: str) -> None:
    with pytest.raises(VolumeNotFound, match=missing):
        open_source(image.parent / missing)


def test_sources_through_symbolic_links(image: Path, opened: Opened) -> None:
    link = image.parent / "link"
    link.symlink_to("disk.img")
    assert read(opened(open_source(link)), 0, 4) == b"dddd"


def test_unsupported_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(UnsupportedVolume, match=f"{path} is neither"):
            open_source(path)


@pytest.mark.root
def test_backends_refuse_each_others_paths(image: Path, attach: Attach) -> None:
    device = attach(image)
    with pytest.raises(UnsupportedVolume, match="not a regular file"):
        RawFile.open(str(device), name="x", writable=False)
    with pytest.raises(UnsupportedVolume, match="not a block device"):
        BlockDevice.open(str(image), name="x", writable=False)


@pytest.mark.root
def test_device_with_half_a_sector_is_refused(tmp_path: Path, attach: Attach) -> None:
    backing = tmp_path / "odd.img"
    backing.touch()
    os.truncate(backing, 8192 + 512)
    device = attach(backing, "--sector-size", "4096")
    if int(run("blockdev", "--getsize64", device)) % 4096 == 0:
        pytest.skip("this kernel rounds the size of loop devices down to whole sectors")
    with pytest.raises(UnsupportedVolume, match="8704 bytes, which is no whole number"):
        open_source(device)


# No space


@pytest.mark.root
def test_full_file_system(tmp_path: Path, mount: Mount, cleanup: ExitStack) -> None:
    folder = mount("tmpfs", tmp_path / "tiny", "-t", "tmpfs", "-o", "size=256k")
    path = folder / "disk.img"
    path.touch()
    os.truncate(path, 1 << 20)
    volume = RawFile.open(str(path), name="tiny:disk", writable=True)
    cleanup.callback(volume.close)
    volume.write(0, aligned(b"x" * BLOCK))
    with pytest.raises(
        VolumeFull, match=r"tiny:disk: cannot write 524288 bytes at 65536: No space"
    ):
        volume.write(BLOCK, aligned(b"y" * (8 * BLOCK)))
    assert read(volume, 0, BLOCK) == b"x" * BLOCK
    volume.zero(0, 1 << 20)
    volume.write(0, aligned(b"z" * BLOCK))


@pytest.mark.root
def test_full_file_system_beneath_a_thin_device(
    tmp_path: Path, mount: Mount, attach: Attach, cleanup: ExitStack
) -> None:
    folder = mount("tmpfs", tmp_path / "tiny", "-t", "tmpfs", "-o", "size=256k")
    path = folder / "disk.img"
    path.touch()
    os.truncate(path, 1 << 20)
    volume = BlockDevice.open(str(attach(path)), name="thin", writable=True)
    cleanup.callback(volume.close)
    # The loop driver calls a request that fits in part a success, so space ends between two.
    volume.write(0, aligned(b"x" * (256 << 10)))
    with pytest.raises(VolumeFull, match="thin: cannot write 65536 bytes at 262144: No space"):
        volume.write(256 << 10, aligned(b"y" * BLOCK))
    assert read(volume, 0, 256 << 10) == b"x" * (256 << 10)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_told_from_other_errors(
    local_backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    volume = opened(local_backend.open(writable=True))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse(number))
        with pytest.raises(VolumeFull, match=os.strerror(number)):
            volume.write(0, aligned(bytes(local_backend.alignment)))
        patch.setattr(os, "pwrite", refuse(errno.EIO))
        with pytest.raises(VolumeError, match=os.strerror(errno.EIO)) as raised:
            volume.write(0, aligned(bytes(local_backend.alignment)))
    assert type(raised.value) is VolumeError


def test_a_system_that_writes_nothing_ends_in_an_error(
    local_backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(local_backend.open(writable=True))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 0)
        with pytest.raises(VolumeError, match="wrote nothing"):
            volume.write(0, aligned(bytes(local_backend.alignment)))


# Flush


def test_failed_flush_is_never_forgotten(
    local_backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(local_backend.open(writable=True))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.EIO))
        patch.setattr(os, "fdatasync", refuse(errno.EIO))
        with pytest.raises(VolumeError, match="cannot flush"):
            volume.flush()
    with pytest.raises(VolumeError, match=r"earlier flush failed \(Input/output error\)"):
        volume.flush()


# What some file systems and devices cannot do


def test_zeros_are_written_where_nothing_better_works(
    local_backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(local_backend.open(writable=True))
    volume.write(0, aligned(b"x" * local_backend.size))
    monkeypatch.setattr("storage.files.volume.punch_hole", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr("storage.devices.volume.punch_hole", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr("storage.devices.volume.zero_device", refuse(errno.ENOTTY))
    volume.zero(0, local_backend.size)
    volume.flush()
    assert local_backend.backing.read_bytes() == bytes(local_backend.size)
    assert local_backend.backing.stat().st_blocks > 0  # written, not punched


def test_zeros_longer_than_the_zero_buffer(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    content = b"x" * ((3 << 20) + 7)
    path.write_bytes(content)
    volume = opened(RawFile.open(str(path), name="x", writable=True))
    monkeypatch.setattr("storage.files.volume.punch_hole", refuse(errno.EOPNOTSUPP))
    volume.zero(3, len(content) - 5)
    assert path.read_bytes() == b"xxx" + bytes(len(content) - 5) + b"xx"


@pytest.mark.root
def test_device_writes_zeros_where_a_discard_gives_none(
    image: Path, attach: Attach, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(BlockDevice.open(str(attach(image)), name="x", writable=True))
    monkeypatch.setattr("storage.devices.volume.punch_hole", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "pwrite", refuse(errno.EIO))  # so it is the device that does it
    volume.zero(512, BLOCK)
    assert read(volume, 0, 2 * BLOCK) == b"d" * 512 + bytes(BLOCK) + b"d" * (BLOCK - 512)


def test_errors_of_zeroing_are_not_taken_for_lack_of_support(
    local_backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(local_backend.open(writable=True))
    monkeypatch.setattr("storage.files.volume.punch_hole", refuse(errno.EIO))
    monkeypatch.setattr("storage.devices.volume.punch_hole", refuse(errno.EIO))
    with pytest.raises(VolumeError, match=r"cannot zero .* Input/output error"):
        volume.zero(0, local_backend.size)


def test_files_whose_holes_cannot_be_told(
    image: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = opened(open_source(image))
    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", refuse(errno.EINVAL))
        assert list(volume.data_extents()) == [Extent(0, 2 * BLOCK)]
        patch.setattr(os, "lseek", refuse(errno.EIO))
        with pytest.raises(VolumeError, match="cannot find data"):
            list(volume.data_extents())


def test_sparse_files_tell_their_data(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "sparse.img"
    path.touch()
    os.truncate(path, 1 << 30)
    volume = opened(RawFile.open(str(path), name="x", writable=True))
    assert list(volume.data_extents()) == []
    volume.write(512 << 20, aligned(b"a" * BLOCK))
    volume.write((1 << 30) - BLOCK, aligned(b"b" * BLOCK))
    assert list(volume.data_extents()) == [
        Extent(512 << 20, BLOCK),
        Extent((1 << 30) - BLOCK, BLOCK),
    ]
    volume.zero(512 << 20, BLOCK)
    assert list(volume.data_extents()) == [Extent((1 << 30) - BLOCK, BLOCK)]
    volume.flush()
    assert path.stat().st_blocks * 512 < 4 * BLOCK


def test_growth_of_an_open_file_is_not_part_of_the_volume(image: Path, opened: Opened) -> None:
    volume = opened(open_source(image))
    with image.open("ab") as file:
        file.write(b"more")
    assert list(volume.data_extents()) == [Extent(0, 2 * BLOCK)]


def test_writeback_begins_before_dirty_pages_pile_up(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 40 << 20)
    volume = opened(RawFile.open(str(path), name="x", writable=True))
    begun: list[int] = []
    monkeypatch.setattr("storage.files.volume.start_writeback", begun.append)
    buffer = aligned(b"w" * (1 << 20))
    for number in range(40):
        volume.write(number << 20, buffer)
    assert len(begun) == 2


# Exclusive use


@pytest.mark.root
def test_mounted_device_is_not_written(
    image: Path, attach: Attach, mount: Mount, tmp_path: Path
) -> None:
    os.truncate(image, 4 << 20)
    device = attach(image)
    run("mkfs.ext4", "-q", device)
    folder = mount(device, tmp_path / "mounted")
    with pytest.raises(VolumeInUse, match=rf"root \({device}\) is in use: mounted at {folder}"):
        BlockDevice.open(str(device), name="root", writable=True)
    open_source(device).close()


@pytest.mark.root
def test_backing_file_of_a_loop_device_is_not_written(image: Path, attach: Attach) -> None:
    device = attach(image)
    with pytest.raises(VolumeInUse, match=f"backs {device}"):
        RawFile.open(str(image), name="x", writable=True)
    stacked = attach(device)
    with pytest.raises(VolumeInUse, match=f"backs {stacked}"):
        BlockDevice.open(str(device), name="x", writable=True)


@pytest.mark.root
def test_claim_that_passes_is_waited_for(
    image: Path, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = attach(image)
    prober = os.open(device, os.O_RDONLY | os.O_EXCL)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            os.close(prober)

    monkeypatch.setattr("storage.claiming.time.sleep", sleep)
    BlockDevice.open(str(device), name="x", writable=True).close()
    assert len(waits) == 3


def test_image_that_qemu_has_open_is_not_written(image: Path) -> None:
    import fcntl
    import struct

    with image.open("r+b") as qemu:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(VolumeInUse, match="as QEMU locks"):
            RawFile.open(str(image), name="x", writable=True)
    RawFile.open(str(image), name="x", writable=True).close()


def test_failed_opens_leave_no_descriptor(image: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    holder = RawFile.open(str(image), name="x", writable=True)
    for path in (image, tmp_path):
        with pytest.raises((VolumeInUse, VolumeError)):
            RawFile.open(str(path), name="x", writable=True)
    with pytest.raises(UnsupportedVolume):
        RawFile.open(str(tmp_path), name="x", writable=False)
    holder.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
