"""What pools of logical volumes do beyond what every pool does. Real LVM, on loop devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage import open_source
from storage.contracts import EVERYTHING, Capacity, Extent, Volume
from storage.errors import (
    PoolFull,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeFull,
    VolumeInUse,
)
from storage.lvm import pool as lvm_module
from storage.lvm import thinmetadata
from storage.lvm.devmapper import join_name
from storage.lvm.pool import LvmPool, LvmThinPool
from storage.tracking.choice import choose_tracker
from storage.tracking.tracefs_tracker import TracefsTracker
from tests.support.lvm import CHUNK, EXTENT, THIN_POOL, Group
from tests.support.volumes import BLOCK, aligned, only_where_possible, read, remove_volume, run

pytestmark = only_where_possible("lvm")

Opened = Callable[[Volume], Volume]


@pytest.fixture(scope="session")
def thick(lvm_group_of: Callable[[str], Group]) -> Group:
    return lvm_group_of("lvm")


@pytest.fixture(scope="session")
def thin(lvm_group_of: Callable[[str], Group]) -> Group:
    return lvm_group_of("lvm-thin")


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """The group of the kind that a test names, as it was before when the test is over."""
    group = request.getfixturevalue(request.param)
    before = set(group.names())
    yield group
    for name in sorted(set(group.names()) - before):
        if not name.startswith("["):
            subprocess.run(["lvremove", "-q", "-y", f"{group.name}/{name}"], check=False)


both = pytest.mark.parametrize("group", ["thick", "thin"], indirect=True)
only_thick = pytest.mark.parametrize("group", ["thick"], indirect=True)
only_thin = pytest.mark.parametrize("group", ["thin"], indirect=True)


def fill(path: str | Path, content: bytes, offset: int = 0) -> None:
    with Path(path).open("r+b") as device:
        device.seek(offset)
        device.write(content)
        device.flush()
        os.fsync(device.fileno())


# Making and removing


@both
def test_sizes_are_rounded_up_to_extents(group: Group) -> None:
    pool = group.pool()
    info = pool.create("new", EXTENT + 1)
    assert info.size == 2 * EXTENT
    assert info.in_use is None
    assert info == pool.find("new")
    with pytest.raises(VolumeExists, match="p:new is already there"):
        pool.create("new", EXTENT)
    remove_volume(pool, "new")
    assert pool.find("new") is None
    assert "new" not in group.names()


@only_thick
def test_nothing_of_the_past_is_beyond_the_size(group: Group) -> None:
    pool = group.pool()
    old = pool.create("old", 4 * EXTENT)
    fill(old.path, b"s" * old.size)
    remove_volume(pool, "old")
    new = pool.create("new", EXTENT + 700)  # LVM takes the first free extents
    content = Path(new.path).read_bytes()
    assert b"s" in content[:EXTENT]  # so that this test has looked at the same place
    assert content[EXTENT + 700 :].strip(b"\0") in (b"", b"s" * (1024 - 700))
    assert content[EXTENT + 1024 :] == bytes(EXTENT - 1024)


@both
@pytest.mark.parametrize("failure", [VolumeError("it broke"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["_await_node", "_finish"])
def test_nothing_is_left_after_a_failure(
    group: Group, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        assert "new" in group.names()
        raise failure

    before = group.names()
    pool = group.pool()
    owner = lvm_module if step.startswith("_await") else type(pool)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises((VolumeError, KeyboardInterrupt)):
            pool.create("new", EXTENT)
    assert group.names() == before


@only_thick
def test_what_somebody_else_made_meanwhile_is_left(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = group.pool()
    real = lvm_module.run

    def after_another(command: list[str]) -> str:
        if command[0] == "lvcreate":
            run("lvcreate", "-q", "-y", "-l", "1", "-n", "new", group.name)
        return real(command)

    with monkeypatch.context() as patch:
        patch.setattr(lvm_module, "run", after_another)
        with pytest.raises(VolumeError, match=r"lvcreate .* failed with status 5: .*new"):
            pool.create("new", EXTENT)
    assert "new" in group.names()


@only_thick
def test_space_and_reserve(group: Group) -> None:
    capacity = group.pool().capacity()
    assert capacity is not None
    before = group.names()
    reserving = group.pool(reserve=capacity.free - EXTENT)
    assert reserving.capacity() == Capacity(capacity.total, EXTENT)
    with pytest.raises(PoolFull, match=f"{EXTENT} bytes free for new .* new needs {2 * EXTENT}"):
        reserving.create("new", EXTENT + 1)
    assert group.names() == before


@only_thin
def test_thin_space_reserve_and_overcommit(group: Group) -> None:
    capacity = group.pool().capacity()
    assert capacity is not None
    with pytest.raises(PoolFull, match=f"thin pool {group.name}/{THIN_POOL} has .* bytes free"):
        group.pool().create("new", capacity.total + EXTENT)
    reserving = group.pool(reserve=capacity.total)
    assert reserving.capacity() == Capacity(capacity.total, 0)
    info = group.pool(overcommit=True).create("new", 16 * capacity.total)
    assert (info.size, info.allocated) == (16 * capacity.total, 0)


@both
def test_what_is_open_is_not_removed(group: Group) -> None:
    pool = group.pool()
    info = pool.create("new", EXTENT)
    descriptor = os.open(info.path, os.O_RDONLY)  # as blkback opens it: without claim or lock
    try:
        found = pool.find("new")
        assert found is not None
        assert found.in_use == "open, by a guest or a program"
        with pytest.raises(VolumeInUse, match="p:new is in use: open, by a guest"):
            remove_volume(pool, "new")
    finally:
        os.close(descriptor)
    remove_volume(pool, "new")
    assert pool.find("new") is None


# What is a volume, and of which pool


def all_names_of(path: str, folder: Path) -> list[str]:
    node = Path(path).resolve()
    name = Path(f"/sys/block/{node.name}/dm/name").read_text().strip()
    link = folder / "link"
    link.symlink_to(path)
    return [path, f"/dev/mapper/{name}", str(node), str(link)]


@both
def test_disks_are_recognised_by_any_name(group: Group, tmp_path: Path) -> None:
    pool = group.pool()
    info = pool.create("web-root", EXTENT)
    names = all_names_of(info.path, tmp_path)
    assert "web--root" in names[1]
    assert names[2].startswith("/dev/dm-")
    assert [pool.locate(name) for name in names] == ["web-root"] * 4


@only_thick
def test_snapshots_and_their_origins(group: Group) -> None:
    pool = group.pool()
    origin = pool.create("origin", 4 * EXTENT)
    run("lvcreate", "-q", "-y", "-s", "-l", "2", "-n", "snap", f"{group.name}/origin")
    assert pool.locate(origin.path) == "origin"
    assert pool.locate(f"/dev/{group.name}/snap") is None
    with pytest.raises(UnsupportedVolume, match=r"p:snap: .* is a snapshot of origin"):
        pool.find("snap")
    with pytest.raises(UnsupportedVolume, match="is a snapshot of origin"):
        remove_volume(pool, "snap")
    assert "snap" not in [info.name for info in pool.volumes()]
    found = pool.find("origin")
    assert found is not None
    assert found.in_use == "has snapshots or thin volumes that depend on it"
    with pytest.raises(VolumeInUse, match="has snapshots"):
        remove_volume(pool, "origin")
    assert {"origin", "snap"} <= set(group.names())
    run("lvremove", "-q", "-y", f"{group.name}/snap")
    remove_volume(pool, "origin")


@only_thin
def test_pools_of_one_group_keep_to_their_own(group: Group) -> None:
    plain, thin = group.pool("lvm"), group.pool()
    ours, theirs = thin.create("thin", EXTENT), plain.create("plain", EXTENT)
    assert (thin.locate(ours.path), thin.locate(theirs.path)) == ("thin", None)
    assert (plain.locate(ours.path), plain.locate(theirs.path)) == (None, "plain")
    with pytest.raises(UnsupportedVolume, match=f"is in the thin pool {THIN_POOL}: only a pool of"):
        plain.find("thin")
    with pytest.raises(UnsupportedVolume, match="is no thin volume: only a pool of kind lvm has"):
        thin.open("plain", writable=False)
    with pytest.raises(UnsupportedVolume, match="is no thin volume"):
        remove_volume(thin, "plain")
    with pytest.raises(UnsupportedVolume, match="is no thin volume"):
        thin.create("plain", EXTENT)
    for pool in (plain, thin):
        with pytest.raises(UnsupportedVolume, match="is there for other volumes only"):
            pool.find(THIN_POOL)
        pool_device = f"/dev/mapper/{join_name(group.name, THIN_POOL)}"
        for device in (pool_device, f"{pool_device}-tpool", f"{pool_device}_tdata"):
            assert pool.locate(device) is None
    assert [info.name for info in plain.volumes()] == ["plain"]
    assert "plain" not in [info.name for info in thin.volumes()]


@only_thin
def test_what_shows_another_volume_where_nothing_is_mapped(group: Group, opened: Opened) -> None:
    """Discarding there would bring back the other volume's bytes."""
    plain, thin = group.pool("lvm"), group.pool()
    base = plain.create("base", EXTENT)
    fill(base.path, b"b" * EXTENT)
    run("lvchange", "-an", "-pr", f"{group.name}/base")
    run("lvcreate", "-q", "-y", "-s", "--thinpool", THIN_POOL, "-n", "over", f"{group.name}/base")
    path = f"/dev/{group.name}/over"
    assert thin.locate(path) is None
    with pytest.raises(UnsupportedVolume, match="shows base where it is not mapped"):
        thin.open("over", writable=True)
    volume = opened(open_source(path))
    assert list(volume.data_extents()) == [Extent(0, EXTENT)]
    assert read(volume, 0, EXTENT) == b"b" * EXTENT
    with pytest.raises(VolumeInUse, match="thin volumes that depend on it"):
        remove_volume(plain, "base")
    volume.close()
    run("lvremove", "-q", "-y", f"{group.name}/over")


@only_thick
def test_what_is_not_active_or_not_writable(group: Group, opened: Opened) -> None:
    pool = group.pool()
    pool.create("new", EXTENT)
    run("lvchange", "-pr", f"{group.name}/new")
    opened(pool.open("new", writable=False)).close()
    with pytest.raises(UnsupportedVolume, match=f"read-only: lvchange -prw {group.name}/new"):
        pool.open("new", writable=True)
    run("lvchange", "-an", f"{group.name}/new")
    with pytest.raises(UnsupportedVolume, match=f"not active: lvchange -ay {group.name}/new"):
        pool.find("new")
    assert "new" not in [info.name for info in pool.volumes()]
    remove_volume(pool, "new")
    assert "new" not in group.names()


def test_groups_and_thin_pools_that_are_not_there(thick: Group) -> None:
    missing = LvmPool("p", lvm_module.LvmOptions("xenmoved-no-such"))
    for call in (missing.volumes, missing.capacity, lambda: missing.find("x")):
        with pytest.raises(VolumeError, match='Volume group "xenmoved-no-such" not found'):
            call()
    pool = LvmThinPool("p", lvm_module.LvmThinOptions(thick.name, "none"))
    for call in (pool.capacity, lambda: pool.create("x", 1)):
        with pytest.raises(VolumeError, match=f"there is no thin pool {thick.name}/none"):
            call()


# Thin volumes


@only_thin
def test_thin_stays_thin(group: Group, opened: Opened) -> None:
    pool = group.pool()
    info = pool.create("new", 64 * CHUNK)
    assert info.allocated == 0
    volume = opened(pool.open("new", writable=True))
    assert list(volume.data_extents()) == []
    for chunk in (3, 4, 40):
        volume.write(chunk * CHUNK, aligned(b"d" * CHUNK))
    volume.write(63 * CHUNK + 4096, aligned(b"d" * 512))
    volume.flush()
    assert list(volume.data_extents()) == [
        Extent(3 * CHUNK, 2 * CHUNK),
        Extent(40 * CHUNK, CHUNK),
        Extent(63 * CHUNK, CHUNK),
    ]
    assert group.allocated("new") == 4 * CHUNK
    assert read(volume, 63 * CHUNK, CHUNK) == bytes(4096) + b"d" * 512 + bytes(CHUNK - 4608)
    volume.zero(3 * CHUNK + 512, CHUNK + 512)  # the end of one chunk, the beginning of the next
    volume.zero(40 * CHUNK - 512, CHUNK + 1024)  # one whole chunk, and parts beside it
    volume.flush()
    assert read(volume, 3 * CHUNK, 2 * CHUNK) == b"d" * 512 + bytes(CHUNK + 512) + b"d" * (
        CHUNK - 1024
    )
    assert read(volume, 40 * CHUNK, CHUNK) == bytes(CHUNK)
    assert Extent(40 * CHUNK, CHUNK) not in list(volume.data_extents())
    volume.zero(0, 64 * CHUNK)
    volume.flush()
    assert list(volume.data_extents()) == []
    assert group.allocated("new") == 0


@only_thin
def test_a_thin_pool_that_shows_old_bytes_is_not_written(group: Group, opened: Opened) -> None:
    pool = group.pool()
    pool.create("new", EXTENT)
    run("lvchange", "-Zn", f"{group.name}/{THIN_POOL}")
    try:
        with pytest.raises(UnsupportedVolume, match=r"p:other cannot be made: .* lvchange"):
            pool.create("other", EXTENT)
        volume = opened(pool.open("new", writable=True))  # as for a source that nobody may use
        assert read(volume, 0, EXTENT) == bytes(EXTENT)
        for call in (lambda: volume.write(0, aligned(bytes(512))), lambda: volume.zero(0, 512)):
            with pytest.raises(VolumeError, match=f"lvchange -Zy {group.name}/{THIN_POOL}"):
                call()
    finally:
        run("lvchange", "-Zy", f"{group.name}/{THIN_POOL}")


@only_thin
def test_a_full_thin_pool_is_told(group: Group, cleanup: ExitStack, opened: Opened) -> None:
    pool = group.pool(overcommit=True)
    total = pool.capacity().total
    pool.create("new", 2 * total)
    run("lvchange", "--errorwhenfull", "y", f"{group.name}/{THIN_POOL}")
    cleanup.callback(run, "lvchange", "--errorwhenfull", "n", f"{group.name}/{THIN_POOL}")
    volume = opened(pool.open("new", writable=True))
    piece = aligned(b"f" * (1 << 20))
    with pytest.raises(VolumeFull, match="p:new: cannot write"):
        for offset in range(0, 2 * total, len(piece)):
            volume.write(offset, piece)
    volume.close()
    remove_volume(pool, "new")
    assert "new" not in group.names()


# The metadata of a thin pool


RESERVE = """
import os, signal, sys
from pathlib import Path
from storage.lvm import thinmetadata
thinmetadata.MARKS = Path(sys.argv[2])
with thinmetadata._reserved(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def held(device: str) -> bool:
    return run("dmsetup", "status", device).split()[6] != "-"


def leave_reserved(device: str) -> None:
    """Reserve the metadata as this program does, and be killed."""
    command = [sys.executable, "-c", RESERVE, device, str(thinmetadata.MARKS)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert held(device)


@only_thin
def test_metadata_that_a_crash_left_reserved(group: Group, opened: Opened) -> None:
    device = join_name(group.name, THIN_POOL, "tpool")
    pool = group.pool()
    pool.create("new", 8 * CHUNK)
    volume = opened(pool.open("new", writable=True))
    leave_reserved(device)
    volume.write(CHUNK, aligned(b"d" * CHUNK))  # the reserved metadata knows nothing of it
    assert list(volume.data_extents()) == [Extent(CHUNK, CHUNK)]
    assert not held(device)
    leave_reserved(device)
    assert thinmetadata.release_leftovers() == [device]
    assert not held(device)
    assert thinmetadata.release_leftovers() == []


@only_thin
def test_metadata_that_somebody_else_reserved(group: Group, opened: Opened) -> None:
    device = join_name(group.name, THIN_POOL, "tpool")
    pool = group.pool()
    pool.create("new", 8 * CHUNK)
    volume = opened(pool.open("new", writable=False))
    run("dmsetup", "message", device, "0", "reserve_metadata_snap")
    try:
        assert list(volume.data_extents()) == [Extent(0, 8 * CHUNK)]
        assert thinmetadata.release_leftovers() == []
        assert held(device)
    finally:
        run("dmsetup", "message", device, "0", "release_metadata_snap")
    assert list(volume.data_extents()) == []


@only_thin
def test_without_the_tool_all_is_read(
    group: Group, opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(command: list[str], **_: object) -> Iterator[str]:
        raise VolumeError(f"{command[0]} is not installed: install thin-provisioning-tools")
        yield

    pool = group.pool()
    pool.create("new", 8 * CHUNK)
    volume = opened(pool.open("new", writable=False))
    monkeypatch.setattr(thinmetadata, "lines", missing)
    assert list(volume.data_extents()) == [Extent(0, 8 * CHUNK)]
    assert "p:new is read in full: thin_dump is not installed" in caplog.text
    assert not held(join_name(group.name, THIN_POOL, "tpool"))


# Write tracking


@both
def test_writes_are_tracked(group: Group, cleanup: ExitStack) -> None:
    info = group.pool().create("new", 64 * EXTENT)
    tracker = choose_tracker(info.path)
    assert isinstance(tracker, TracefsTracker)
    cleanup.callback(tracker.stop)
    tracker.start()
    descriptor = os.open(info.path, os.O_RDWR | os.O_DIRECT)
    cleanup.callback(os.close, descriptor)
    for block in (2, 50):
        os.pwrite(descriptor, aligned(b"w" * BLOCK), block * BLOCK)
    first = tracker.drain()
    assert first is not EVERYTHING
    assert {Extent(2 * BLOCK, BLOCK), Extent(50 * BLOCK, BLOCK)} <= set(first)
    assert sum(extent.length for extent in first) <= 8 * BLOCK
    assert tracker.drain() == []
