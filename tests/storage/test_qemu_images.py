"""Images that QEMU's tools make, read and write for us, beside what all volumes do."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.backing import backing_of
from storage.contracts import Volume
from storage.errors import (
    PoolFull,
    UnfitImage,
    VolumeError,
    VolumeExists,
    VolumeFull,
    VolumeInUse,
    VolumeWritten,
)
from storage.files.pool import DirectoryOptions, DirectoryPool
from storage.qemu import image as image_module
from storage.qemu.image import FORMATS, ImageVolume, create_image, end_stale
from storage.qemu.nbd import Connection
from tests.support.qemu import content, make_image, only_with_qemu, short_folder, start_emulator
from tests.support.volumes import aligned, read, run

pytestmark = [pytest.mark.long, only_with_qemu]

SIZE = 4 << 20
Opened = Callable[[Volume], Volume]
Mount = Callable[..., Path]


@pytest.fixture
def sockets() -> Iterator[Path]:
    folder = short_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    create_image(path, "qcow2", SIZE)
    return path


def open_image(path: Path, sockets: Path, **options: Any) -> ImageVolume:
    given = {"name": "test:image", "writable": True, "folder": sockets, **options}
    return ImageVolume.open(path, "qcow2", **given)


def servers(sockets: Path) -> list[int]:
    """Return the processes that serve images from a folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if words.startswith(b"qemu-nbd\0") and os.fsencode(sockets) in words:
                found.append(int(folder.name))
    return found


def wait_for_none(sockets: Path) -> None:
    deadline = time.monotonic() + 10
    while servers(sockets):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_made_is_a_sparse_image_of_that_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    odd = (20 << 30) + 512
    create_image(path, kind, odd)
    said = run("qemu-img", "info", "-f", FORMATS[kind], path)
    assert f"({odd} bytes)" in said
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(VolumeExists):
        create_image(path, kind, odd)
    create_image(tmp_path / "fine", "qcow2", SIZE, cluster=4096)
    assert "cluster_size: 4096" in run("qemu-img", "info", tmp_path / "fine")


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    for kind, size, cluster in (("vhd", 1 << 50, None), ("qcow2", SIZE, 3)):
        with pytest.raises(VolumeError, match=r"qemu-img create .* failed"):
            create_image(tmp_path / "disk", kind, size, cluster=cluster)
    with pytest.raises(VolumeError, match="No such file"):
        create_image(tmp_path / "nowhere" / "disk", "qcow2", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_sparse_stays_sparse(image: Path, sockets: Path, opened: Opened) -> None:
    volume = opened(open_image(image, sockets))
    volume.write(1 << 20, aligned(b"x" * 65536))
    volume.zero(0, 1 << 20)
    volume.flush()
    assert [(one.offset, one.length) for one in volume.data_extents()] == [(1 << 20, 65536)]
    assert image.stat().st_blocks * 512 < 1 << 20
    volume.zero(1 << 20, 65536)
    assert list(volume.data_extents()) == []


def test_the_tool_ends_with_the_volume(image: Path, sockets: Path) -> None:
    volume = open_image(image, sockets)
    assert len(servers(sockets)) == 1
    assert volume.backing().what == backing_of(image).what
    assert volume.backing().size == SIZE
    volume.write(0, aligned(b"y" * SIZE))
    volume.close()
    assert servers(sockets) == []
    assert list(sockets.iterdir()) == []
    assert content(image, "qcow2") == b"y" * SIZE


def test_what_is_no_image_or_needs_others_is_refused(tmp_path: Path, sockets: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(SIZE))
    over = make_image(tmp_path / "over", "qcow2", SIZE, "-b", str(base), "-F", "raw")
    for path in (base, over):
        with pytest.raises(UnfitImage):
            open_image(path, sockets)
    with pytest.raises(VolumeError, match=r"qemu-nbd .* failed"):
        open_image(base, sockets, writable=False)
    # Of this host's own, a chain is read as what it is for its guest.
    volume = open_image(over, sockets, writable=False)
    assert read(volume, 0, 4096) == bytes(4096)
    volume.close()
    assert servers(sockets) == []


def test_an_image_that_a_guest_has_is_refused(tmp_path: Path, image: Path, sockets: Path) -> None:
    emulator = start_emulator(tmp_path, {"hd0": ("qcow2", image)})
    try:
        with pytest.raises(VolumeInUse):
            open_image(image, sockets)
        with pytest.raises(VolumeError, match="lock"):
            open_image(image, sockets, writable=False)
    finally:
        emulator.end()
    open_image(image, sockets).close()


@pytest.mark.root
def test_a_full_file_system_is_told(tmp_path: Path, sockets: Path, mount: Mount) -> None:
    small = mount("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=2m")
    create_image(small / "disk", "qcow2", SIZE)
    volume = open_image(small / "disk", sockets)
    with pytest.raises(VolumeFull, match="No space left"):
        volume.write(0, aligned(b"z" * SIZE))
    volume.close()


def test_a_tool_that_is_killed_is_told(image: Path, sockets: Path) -> None:
    volume = open_image(image, sockets)
    os.kill(servers(sockets)[0], signal.SIGKILL)
    for call in (partial(volume.write, 0, aligned(b"x" * 4096)), volume.flush):
        with pytest.raises(VolumeError, match=r"cannot (write|flush)"):
            call()
    with pytest.raises(VolumeError, match=r"an earlier flush failed|cannot flush"):
        volume.flush()
    volume.close()
    assert list(sockets.iterdir()) == []


@pytest.mark.thorough
def test_a_tool_that_is_frozen_is_given_up_in_time(
    image: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "_ENDING", 0.5)
    volume = open_image(image, sockets, patience=0.5)
    server = servers(sockets)[0]
    os.kill(server, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(VolumeError, match="did not answer in time"):
        volume.write(0, aligned(b"x" * 4096))
    assert time.monotonic() - began < 3
    volume.close()
    assert time.monotonic() - began < 12
    assert servers(sockets) == []


def test_close_waits_for_a_write_under_way(
    image: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_image(image, sockets)
    writing, go_on = threading.Event(), threading.Event()
    write = Connection.write

    def slow(connection: Connection, offset: int, buffer: memoryview) -> None:
        writing.set()
        assert go_on.wait(10)
        write(connection, offset, buffer)

    monkeypatch.setattr(Connection, "write", slow)
    writer = threading.Thread(target=volume.write, args=(0, aligned(b"w" * 4096)))
    writer.start()
    assert writing.wait(10)
    closer = threading.Thread(target=volume.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    go_on.set()
    closer.join(10)
    writer.join(10)
    assert content(image, "qcow2")[:4096] == b"w" * 4096


@pytest.mark.parametrize("moment", ["started", "connecting", "connected", "writing"])
def test_nothing_runs_on_for_a_process_that_was_killed(
    image: Path, sockets: Path, moment: str
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        with suppress(BaseException), pytest.MonkeyPatch.context() as patch:
            if moment == "started":
                patch.setattr(image_module, "is_listening", die)
            elif moment == "connecting":
                patch.setattr(Connection, "_connect", die)
            volume = open_image(image, sockets)
            if moment == "writing":
                volume.write(0, aligned(b"x" * SIZE))
            die()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if moment in ("started", "connecting"):
        deadline = time.monotonic() + 10
        while not list(sockets.iterdir()):  # it is just being started
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(end_stale(sockets)) == 1
    wait_for_none(sockets)
    open_image(image, sockets).close()
    run("qemu-img", "check", "-q", image)


def test_what_serves_somebody_stays(image: Path, sockets: Path, opened: Opened) -> None:
    volume = opened(open_image(image, sockets))
    assert end_stale(sockets) == []
    assert read(volume, 0, 4096) == bytes(4096)


def test_a_watched_image_is_as_it_stays_when_its_tool_has_ended(image: Path, sockets: Path) -> None:
    volume = open_image(image, sockets)
    watch = volume.watch()
    watch.require_alone()
    volume.write(0, aligned(b"x" * SIZE))
    watch.require_alone()
    volume.finish()
    assert servers(sockets) == []
    before = image.stat().st_mtime_ns
    watch.require_alone()
    volume.finish()
    volume.unlock()
    emulator = start_emulator(sockets, {"hd0": ("qcow2", image)})  # as a toolstack does
    emulator.end()
    watch.close()
    volume.close()
    assert image.stat().st_mtime_ns == before
    assert content(image, "qcow2") == b"x" * SIZE


@pytest.mark.parametrize("when", ["while it is filled", "while its tool ends"])
def test_who_else_writes_to_an_image_is_seen(
    image: Path, sockets: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    volume = open_image(image, sockets)
    opened(volume)
    watch = volume.watch()
    watch.require_alone()
    if when == "while it is filled":
        image.open("r+b").close()
        with pytest.raises(VolumeWritten):
            watch.require_alone()
        return
    finish = image_module._ImageServer.finish

    def beside(server: Any) -> None:
        finish(server)
        image.open("r+b").close()

    monkeypatch.setattr(image_module._ImageServer, "finish", beside)
    with pytest.raises(VolumeWritten):
        volume.finish()


def test_an_image_whose_tool_was_killed_is_not_finished(
    image: Path, sockets: Path, opened: Opened
) -> None:
    volume = open_image(image, sockets)
    opened(volume)
    os.kill(servers(sockets)[0], signal.SIGKILL)
    with pytest.raises(VolumeError):
        volume.finish()


def test_the_tool_has_no_more_rights_than_it_needs(
    image: Path, sockets: Path, opened: Opened
) -> None:
    opened(open_image(image, sockets))
    (server,) = servers(sockets)
    said = Path(f"/proc/{server}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in said if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) & ~(1 << 1) == 0


def test_an_image_made_in_a_pool(tmp_path: Path) -> None:
    pool = DirectoryPool("p", DirectoryOptions(tmp_path))
    info = pool.create_image("disk", SIZE, "qcow2", cluster=4096)
    assert info.identity == pool.find("disk").identity  # type: ignore[union-attr]
    assert "cluster_size: 4096" in run("qemu-img", "info", "-f", "qcow2", tmp_path / "disk")
    with pytest.raises(VolumeExists):
        pool.create_image("disk", SIZE, "qcow2")
    with pytest.raises(VolumeError, match="qemu-img create"):
        pool.create_image("other", SIZE, "qcow2", cluster=3)
    with pytest.raises(PoolFull):
        pool.create_image("other", 1 << 60, "qcow2")
    assert [one.name for one in tmp_path.iterdir()] == ["disk"]
    with pytest.raises(ValueError, match="format is 'vmdk', must be one of: raw, qcow2, vhd"):
        DirectoryPool("p", DirectoryOptions(tmp_path, format="vmdk"))
