"""What every pool does, and what each kind does by itself."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage import open_pool, usage
from storage.contracts import UNKNOWN, Capacity, Pool, Volume, VolumeIdentity, VolumeInfo
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnsupportedVolume,
    VolumeError,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
    VolumeReplaced,
)
from storage.places import place_at
from storage.registry import POOL_KINDS
from tests.support.lvm import SHARED, Group
from tests.support.volumes import BLOCK, aligned, only_where_possible, read, remove_volume
from tests.support.zfs import Tank

Attach = Callable[..., Path]
Mount = Callable[..., Path]
Opened = Callable[[Volume], Volume]


@dataclass(frozen=True)
class Case:
    """A pool with the volumes ``a`` (64 KiB of ``a``) and ``b-2`` (128 KiB of ``b``)."""

    pool: Pool
    paths: dict[str, Path]
    other: Path  # a volume that is not the pool's


SIZES = {"a": BLOCK, "b-2": 2 * BLOCK}


KINDS: dict[str, Any] = {
    "dir": (),
    "block": pytest.mark.root,
    "lvm": only_where_possible("lvm"),
    "lvm-thin": only_where_possible("lvm"),
    "zfs": only_where_possible("zfs"),
}
"""Every kind of pool, and where it can be tested."""


@pytest.fixture(params=[pytest.param(kind, marks=marks) for kind, marks in KINDS.items()])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = {name: folder / name for name in SIZES}
    for name, path in paths.items():
        path.write_bytes(name[0].encode() * SIZES[name])
    other = tmp_path / "other"
    other.write_bytes(bytes(BLOCK))
    if request.param == "dir":
        return Case(open_pool("p", "dir", {"path": folder}), paths, other)
    attach = request.getfixturevalue("attach")
    if request.param.startswith("lvm"):
        return _lasting_case(request.getfixturevalue("lvm_group_of")(request.param), attach(other))
    if request.param == "zfs":
        return _lasting_case(request.getfixturevalue("tank"), attach(other))
    devices = {name: attach(path) for name, path in paths.items()}
    return Case(open_pool("p", "block", {"devices": devices}), devices, attach(other))


def _lasting_case(place: Group | Tank, other: Path) -> Case:
    """Volumes that are there for all tests, as they were at first."""
    pool = place.pool()
    paths = {}
    for name, size in SIZES.items():
        paths[name] = place.made(name, size)
        with paths[name].open("wb") as device:
            device.write(name[0].encode() * size)
            os.fsync(device.fileno())
    return Case(pool, paths, other)


def test_every_kind_is_tested_here() -> None:
    assert POOL_KINDS.keys() == KINDS.keys()


def test_find_describes_exactly(case: Case) -> None:
    for name, path in case.paths.items():
        info = case.pool.find(name)
        assert info is not None
        assert (info.pool, info.name, info.path) == ("p", name, str(path))
        assert info.size == SIZES[name]
        assert info.in_use is None
        if case.pool.kind == "zfs":  # with what ZFS needs to find it, once it is on the disk
            assert info.allocated is not None
        else:
            assert info.allocated == (None if case.pool.kind == "block" else SIZES[name])
    assert case.pool.find("missing") is None


def test_volumes_are_sorted_and_as_found(case: Case) -> None:
    ours = [info for info in case.pool.volumes() if info.name != SHARED]
    assert ours == [case.pool.find("a"), case.pool.find("b-2")]


def test_every_volume_has_an_identity_of_its_own(case: Case) -> None:
    known = [info.identity for name in SIZES if (info := case.pool.find(name)) is not None]
    assert all(known)
    assert known[0] != known[1]
    with case.paths["a"].open("r+b") as device:
        device.write(b"other")
    again = case.pool.find("a")
    assert again is not None
    assert again.identity == known[0]


def test_everything_is_told_of(case: Case) -> None:
    known = {info.identity: info.name for info in case.pool.volumes()}
    told = case.pool.everything()
    assert {one.identity: one.name for one in told if one.name in SIZES} == {
        one: name for one, name in known.items() if name in SIZES
    }
    assert known.keys() <= {one.identity for one in told}
    assert {one.name: place_at(one.path) for one in told if one.name in SIZES} == {
        name: place_at(case.paths[name]) for name in SIZES
    }


@pytest.mark.root
def test_a_pool_of_devices_knows_a_volume_as_the_same(case: Case, attach: Attach) -> None:
    path = case.paths["a"]
    device = path if path.is_block_device() else attach(path)
    listed = open_pool("q", "block", {"devices": {"x": device}})
    (entry,), found, ours = listed.everything(), listed.find("x"), case.pool.find("a")
    assert found is not None
    assert ours is not None
    assert str(entry.identity) == str(found.identity) == str(ours.identity) != ""
    assert place_at(found.path) == place_at(ours.path)


def test_files_are_told_of_also_where_no_volume_has_such_a_name(
    directory: Pool, folder: Path
) -> None:
    made = directory.create("a", BLOCK)
    (folder / "sub").mkdir()
    for name in ("a copy", ".a", "a~"):
        next(path for path in folder.iterdir() if path.is_file()).rename(folder / name)
        assert directory.everything() == [(made.identity, name, str(folder / name))]


def test_a_volume_that_is_made_again_is_another(case: Case) -> None:
    if case.pool.capacity() is None:
        pytest.skip("volumes of this kind are made by hand")
    try:
        first = case.pool.create("again", BLOCK)
        remove_volume(case.pool, "again")
        second = case.pool.create("again", BLOCK)
    finally:
        remove_volume(case.pool, "again")
    assert first.identity
    assert second.identity
    assert first.identity != second.identity


def test_locate_follows_symbolic_links(case: Case, tmp_path: Path) -> None:
    link = tmp_path / "link"
    for name, path in case.paths.items():
        link.symlink_to(path)
        assert case.pool.locate(str(path)) == name
        assert case.pool.locate(str(link)) == name
        link.unlink()
    for path in (case.other, tmp_path, tmp_path / "nothing", "/dev/null", "/"):
        assert case.pool.locate(str(path)) is None


BAD_NAMES = ["", ".", "..", ".a", "-a", "a/b", "../other", "/etc/passwd", "a b", "a\n", "a\0", "ä"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "n" * 201])
def test_bad_names_are_refused_everywhere(case: Case, name: str) -> None:
    for call in (
        case.pool.find,
        lambda name: case.pool.remove(name, UNKNOWN),
        lambda name: case.pool.create(name, BLOCK),
        lambda name: case.pool.open(name, writable=False),
    ):
        with pytest.raises(InvalidVolumeName, match="pool p: "):
            call(name)


@pytest.mark.parametrize("name", ["n" * 90, "A-z_0.9+", "_", "+x", "9"])
def test_good_names_are_looked_for(case: Case, name: str) -> None:
    if case.pool.kind == "zfs" and "+" in name:
        with pytest.raises(InvalidVolumeName, match=r"ZFS takes no \+"):
            case.pool.find(name)
    else:
        assert case.pool.find(name) is None


def test_open_reads_and_writes(case: Case, opened: Opened) -> None:
    volume = case.pool.open("b-2", writable=True)
    assert (volume.size, volume.name) == (2 * BLOCK, "p:b-2")
    volume.write(BLOCK, aligned(b"n" * BLOCK))
    volume.flush()
    volume.close()
    volume = opened(case.pool.open("b-2", writable=False))
    assert read(volume, 0, 2 * BLOCK) == b"b" * BLOCK + b"n" * BLOCK


def test_open_of_a_missing_volume(case: Case) -> None:
    for writable in (True, False):
        with pytest.raises(VolumeNotFound, match="p:missing"):
            case.pool.open("missing", writable=writable)


def test_use_is_shown_and_respected(case: Case, opened: Opened) -> None:
    opened(case.pool.open("a", writable=True))
    info = case.pool.find("a")
    assert info is not None
    assert info.in_use is not None
    assert f"process {os.getpid()}" in info.in_use
    with pytest.raises(VolumeInUse):
        case.pool.open("a", writable=True)
    free = case.pool.find("b-2")
    assert free is not None
    assert free.in_use is None


def test_removing_what_is_not_there(case: Case) -> None:
    case.pool.remove("missing", UNKNOWN)
    case.pool.remove("missing", VolumeIdentity("of one that was there"))


def test_only_what_is_meant_is_removed(case: Case) -> None:
    other = case.pool.find("b-2")
    assert other is not None
    for meant in (other.identity, UNKNOWN):
        with pytest.raises(VolumeReplaced, match="p:a is another one than was to be removed"):
            case.pool.remove("a", meant)
    assert case.paths["a"].read_bytes() == b"a" * SIZES["a"]


def test_what_gets_the_name_while_it_is_looked_who_has_it_is_not_removed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment between the first look at the volume and its removal."""
    if case.pool.kind == "block":
        pytest.skip("volumes of this kind are removed by hand")
    meant = case.pool.create("c", BLOCK)
    real = usage.in_use

    def in_use(path: str | os.PathLike[str], *arguments: Any) -> str | None:
        found = real(path, *arguments)
        if (info := made.pop("now", None)) is not None:
            remove_volume(case.pool, "c")
            made["then"] = case.pool.create("c", info.size)
        return found

    made = {"now": meant}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(usage, "in_use", in_use)
            with pytest.raises(VolumeReplaced):
                case.pool.remove("c", meant.identity)
        left = case.pool.find("c")
        assert left is not None
        assert left.identity == made["then"].identity
    finally:
        remove_volume(case.pool, "c")


# Directories


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def directory(folder: Path) -> Pool:
    return open_pool("p", "dir", {"path": str(folder)})


@pytest.mark.parametrize("size", [1, 512, BLOCK + 1, 100 << 20])
def test_created_files_are_exact_sparse_and_private(
    directory: Pool, folder: Path, opened: Opened, size: int
) -> None:
    info = directory.create("new.img", size)
    assert info == directory.find("new.img")
    assert (info.size, info.allocated, info.in_use) == (size, 0, None)
    assert (folder / "new.img").stat().st_mode & 0o777 == 0o600
    volume = opened(directory.open("new.img", writable=True))
    assert list(volume.data_extents()) == []
    assert volume.size == size


def test_the_longest_names(directory: Pool) -> None:
    assert directory.find("n" * 200) is None


def test_created_once(directory: Pool, folder: Path) -> None:
    directory.create("new", 10)
    with pytest.raises(VolumeExists, match="p:new"):
        directory.create("new", 20)
    assert (folder / "new").stat().st_size == 10
    (folder / "dangling").symlink_to("nowhere")
    with pytest.raises(VolumeExists, match="p:dangling"):
        directory.create("dangling", 20)
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_sizes_are_refused(directory: Pool, folder: Path, size: int) -> None:
    with pytest.raises(VolumeError, match=f"p:new: cannot have {size} bytes"):
        directory.create("new", size)
    assert list(folder.iterdir()) == []


@pytest.mark.root
def test_space_reserve_and_overcommit(tmp_path: Path, mount: Mount) -> None:
    folder = mount("tmpfs", tmp_path / "tiny", "-t", "tmpfs", "-o", "size=1m")
    plain = open_pool("p", "dir", {"path": folder})
    reserving = open_pool("p", "dir", {"path": folder, "reserve": 256 << 10})
    assert plain.capacity() == Capacity(total=1 << 20, free=1 << 20)
    assert reserving.capacity() == Capacity(total=1 << 20, free=768 << 10)
    with pytest.raises(PoolFull, match=r"pool p: .*tiny has 786432 bytes free .* needs 786433"):
        reserving.create("new", (768 << 10) + 1)
    with pytest.raises(PoolFull):
        plain.create("new", (1 << 20) + 1)
    assert list(folder.iterdir()) == []
    reserving.create("fits", 768 << 10)
    open_pool("p", "dir", {"path": folder, "overcommit": True}).create("sparse", 1 << 30)


def test_reserve_larger_than_the_file_system(folder: Path) -> None:
    pool = open_pool("p", "dir", {"path": folder, "reserve": 1 << 60})
    capacity = pool.capacity()
    assert capacity is not None
    assert capacity.free == 0


def test_nothing_is_left_when_the_file_cannot_be_so_large(folder: Path) -> None:
    pool = open_pool("p", "dir", {"path": folder, "overcommit": True})
    with pytest.raises(VolumeError, match=r"pool p: cannot create .* new: File too large"):
        pool.create("new", 1 << 62)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("step", ["ftruncate", "fsync"])
@pytest.mark.parametrize("failure", [OSError(errno.EIO, "it broke"), KeyboardInterrupt()])
def test_nothing_is_left_after_a_failure(
    directory: Pool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    failure: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises((VolumeError, KeyboardInterrupt)):
            directory.create("new", BLOCK)
    assert list(folder.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    directory.create("new", BLOCK)


def test_remove(directory: Pool, folder: Path) -> None:
    directory.create("new", BLOCK)
    remove_volume(directory, "new")
    assert directory.find("new") is None
    assert list(folder.iterdir()) == []


def test_a_name_that_is_handed_on_right_before_its_removal(
    directory: Pool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = directory.create("new", BLOCK)
    find = directory.find

    def find_and_rename(name: str) -> VolumeInfo | None:
        found = find(name)
        (folder / name).rename(folder / "kept")
        (folder / name).write_bytes(b"another's")
        return found

    monkeypatch.setattr(directory, "find", find_and_rename)
    with pytest.raises(VolumeReplaced, match="p:new is another one"):
        directory.remove("new", meant.identity)
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "new"]


def test_a_volume_in_use_is_not_removed(directory: Pool, folder: Path) -> None:
    directory.create("new", BLOCK)
    volume = directory.open("new", writable=False)
    with pytest.raises(VolumeInUse, match="p:new is in use: locked by process"):
        remove_volume(directory, "new")
    assert (folder / "new").exists()
    volume.close()
    remove_volume(directory, "new")


def test_links_out_of_the_folder_are_refused(directory: Pool, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 512)
    (folder / "leak").symlink_to(secret)
    (folder / "climb").symlink_to("../secret")
    for name in ("leak", "climb"):
        for call in (
            directory.find,
            lambda name: directory.remove(name, UNKNOWN),
            lambda name: directory.create(name, 512),
            lambda name: directory.open(name, writable=True),
        ):
            with pytest.raises(InvalidVolumeName, match=f"p:{name}: a symbolic link leads out"):
                call(name)
        assert directory.locate(str(folder / name)) is None
    assert directory.volumes() == []
    assert secret.read_bytes() == b"s" * 512


def test_links_within_the_folder_are_followed(directory: Pool, folder: Path) -> None:
    directory.create("new", BLOCK)
    (folder / "alias").symlink_to("new")
    info = directory.find("alias")
    assert info is not None
    assert info.size == BLOCK
    assert directory.locate(str(folder / "alias")) == "new"
    remove_volume(directory, "alias")
    assert [volume.name for volume in directory.volumes()] == ["new"]


def test_what_is_no_file_is_no_volume(directory: Pool, folder: Path) -> None:
    (folder / "lost+found").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / ".hidden").touch()
    assert directory.volumes() == []
    for name in ("lost+found", "fifo"):
        assert directory.locate(str(folder / name)) is None
        with pytest.raises(UnsupportedVolume, match=re.escape(f"p:{name}: ")):
            directory.open(name, writable=False)
        with pytest.raises(UnsupportedVolume):
            directory.create(name, 512)


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    pool = open_pool("p", "dir", {"path": tmp_path / "link"})
    info = pool.create("new", 512)
    assert info.path == str(tmp_path / "link" / "new")
    assert pool.locate(str(folder / "new")) == "new"
    assert (folder / "new").exists()


def test_files_below_the_folder_are_not_its_volumes(directory: Pool, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "disk").touch()
    assert directory.locate(str(folder / "sub" / "disk")) is None


def test_a_missing_folder_is_said_to_be(directory: Pool, folder: Path) -> None:
    folder.rmdir()
    assert directory.locate(str(folder / "x")) is None
    for call in (
        directory.volumes,
        directory.capacity,
        lambda: directory.find("x"),
        lambda: directory.create("x", 512),
    ):
        with pytest.raises(VolumeError, match=f"pool p: .*{folder}: No such file"):
            call()


# Listed devices


@pytest.fixture
def device(tmp_path: Path, attach: Attach) -> Path:
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(BLOCK))
    return attach(backing)


@pytest.mark.root
def test_a_list_of_devices_goes_by_their_last_names(device: Path) -> None:
    pool = open_pool("p", "block", {"devices": [str(device)]})
    assert [volume.name for volume in pool.volumes()] == [device.name]


@pytest.mark.root
def test_devices_are_the_same_under_any_node(device: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    os.mknod(alias, 0o600 | 0o060000, device.stat().st_rdev)
    pool = open_pool("p", "block", {"devices": {"disk": device}})
    assert pool.locate(str(alias)) == "disk"


@pytest.mark.root
def test_listed_devices_are_not_made_or_removed(device: Path) -> None:
    pool = open_pool("p", "block", {"devices": {"disk": device, "later": Path("/dev/vg/later")}})
    with pytest.raises(
        PoolFull, match=r"listed devices only: .* create /dev/vg/later of 512 bytes"
    ):
        pool.create("later", 512)
    with pytest.raises(PoolFull, match="listed devices only"):
        pool.create("unknown", 512)
    with pytest.raises(StorageError, match=f"listed devices only: remove {device} by hand"):
        remove_volume(pool, "disk")
    assert pool.capacity() is None
    assert pool.find("later") is None
    assert [volume.name for volume in pool.volumes()] == ["disk"]


def test_listed_files_are_no_devices(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pool = open_pool("p", "block", {"devices": {"file": tmp_path / "file"}})
    with pytest.raises(UnsupportedVolume, match=r"p:file: .* is not a block device"):
        pool.find("file")
    with pytest.raises(UnsupportedVolume, match="p:file"):
        pool.open("file", writable=False)


# Options


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("nfs", {}, f"pool p: kind 'nfs' is unknown; there are {', '.join(sorted(POOL_KINDS))}"),
        ("dir", {}, "pool p: option 'path' is missing"),
        ("dir", {"path": "/x", "pth": 1}, "option 'pth' is unknown; there are path, overcommit"),
        ("dir", {"path": "x"}, "option 'path' must be an absolute path, not 'x'"),
        ("dir", {"path": 5}, "option 'path' must be an absolute path, not 5"),
        ("dir", {"path": "/x", "overcommit": "yes"}, "'overcommit' must be true or false"),
        ("dir", {"path": "/x", "reserve": -1}, "'reserve' must be a number of bytes, not -1"),
        ("dir", {"path": "/x", "reserve": True}, "'reserve' must be a number of bytes"),
        ("block", {"devices": "/dev/x"}, "must be a list of devices or a mapping"),
        ("block", {"devices": ["x"]}, "option 'devices' must be an absolute path"),
        ("block", {"devices": {1: "/dev/x"}}, "must be a list of devices or a mapping"),
        ("block", {"devices": ["/a/x", "/b/x"]}, "two devices of the same last name"),
    ],
)
def test_wrong_options_are_named(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="pool p: ") as raised:
        open_pool("p", kind, options)
    assert message in str(raised.value)


def test_listed_names_are_checked_at_once() -> None:
    with pytest.raises(InvalidVolumeName, match="pool p: "):
        open_pool("p", "block", {"devices": {"a/b": "/dev/x"}})


def test_a_volume_of_the_same_name_is_another_one(case: Case, opened: Opened) -> None:
    if case.pool.capacity() is None:
        pytest.skip("makes no volumes")
    first = case.pool.create("c", BLOCK)
    if first.identity is None:
        pytest.skip("cannot tell")
    volume = opened(case.pool.open("c", writable=True))
    volume.write(0, aligned(b"x" * BLOCK))
    volume.flush()
    volume.close()
    found = case.pool.find("c")
    assert found is not None
    assert found.identity == first.identity
    assert [info.identity for info in case.pool.volumes() if info.name == "c"] == [first.identity]
    remove_volume(case.pool, "c")
    assert case.pool.create("c", BLOCK).identity != first.identity


def test_a_pool_that_is_another_folder_is_asked_for_nothing(case: Case, tmp_path: Path) -> None:
    """As when the file system that belongs there is not mounted. Other kinds are no folders."""
    if (folder := case.pool.folder()) is None:
        return
    assert folder.identity
    assert not folder.bare
    case.pool.expect(folder.identity)
    assert case.pool.find("a") is not None
    path = Path(folder.path)
    mounted = path.rename(tmp_path / "mounted")
    path.mkdir()
    seen = case.pool.folder()
    assert seen is not None
    assert seen.bare
    assert seen.identity != folder.identity
    for ask in (
        lambda: case.pool.find("a"),
        lambda: case.pool.path("a"),
        case.pool.volumes,
        case.pool.everything,
        lambda: case.pool.create("new", BLOCK),
        lambda: case.pool.remove("a", UNKNOWN),
        case.pool.capacity,
        lambda: case.pool.open("a", writable=True),
    ):
        with pytest.raises(VolumeError, match="is another folder than it was, and empty"):
            ask()
    path.rmdir()
    mounted.rename(path)
    assert case.pool.find("a") is not None
