"""What pools of zvols do by themselves; what all pools do is in test_pool_conformance.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage import open_pool
from storage.contracts import UNKNOWN, own_name
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnsupportedVolume,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
)
from tests.support.volumes import BLOCK, aligned, only_where_possible, read, remove_volume, run
from tests.support.zfs import Tank

MIGRATION = "00112233445566778899aabbccddeeff"
MIB = 1 << 20


@pytest.mark.parametrize(
    "dataset", ["", "/tank", "tank/", "tank//x", "-tank", "tank/../x", "tank@x", "tank x", "tank#x"]
)
def test_a_dataset_has_to_have_a_name_that_can_be(dataset: str) -> None:
    with pytest.raises(ValueError, match=r"pool p: .* no name of a ZFS dataset"):
        open_pool("p", "zfs", {"dataset": dataset})


@pytest.mark.parametrize("size", [0, 256, 12288, 256 << 10])
def test_blocks_have_to_have_a_size_that_can_be(size: int) -> None:
    with pytest.raises(ValueError, match="volblocksize"):
        open_pool("p", "zfs", {"dataset": "tank", "volblocksize": size})


@pytest.mark.parametrize("name", ["a@b", "a/b", "..", "-r", "a b", "a#b", "a%recv", "a+b", ""])
def test_names_that_mean_something_else_to_zfs_are_refused(name: str) -> None:
    pool = open_pool("p", "zfs", {"dataset": "tank"})
    for call in (
        pool.find,
        pool.path,
        lambda name: pool.remove(name, UNKNOWN),
        lambda name: pool.create(name, MIB),
    ):
        with pytest.raises(InvalidVolumeName):
            call(name)


class TestZvols:
    pytestmark = only_where_possible("zfs")

    def test_made_and_removed(self, tank: Tank) -> None:
        pool = tank.pool(volblocksize=8192)
        info = pool.create("new", MIB + 1)
        assert info == pool.find("new")
        assert info.size == MIB + 8192
        assert info.path == f"/dev/zvol/{tank.dataset}/new"
        assert Path(info.path).is_block_device()
        assert tank.get("volblocksize", "new") == "8192"
        assert int(tank.get("refreservation", "new")) >= info.size
        with pytest.raises(VolumeExists):
            pool.create("new", MIB)
        volume = pool.open("new", writable=True)
        assert read(volume, 0, volume.size) == bytes(volume.size)
        volume.close()
        remove_volume(pool, "new")
        assert pool.find("new") is None
        remove_volume(pool, "new")
        with pytest.raises(VolumeNotFound):
            pool.open("new", writable=True)

    def test_space(self, tank: Tank) -> None:
        free = tank.pool().capacity().free
        with pytest.raises(PoolFull):
            tank.pool().create("large", free + MIB)
        with pytest.raises(PoolFull):
            tank.pool(reserve=free - 2 * MIB).create("large", 4 * MIB)
        assert tank.pool().find("large") is None
        pool = tank.pool(sparse=True)
        assert pool.capacity().overcommit
        pool.create("large", free + MIB)
        assert tank.get("refreservation", "large") in ("0", "none")
        remove_volume(pool, "large")

    def test_other_kinds_of_datasets(self, tank: Tank) -> None:
        pool = tank.pool()
        run("zfs", "create", f"{tank.dataset}/files")
        with pytest.raises(UnsupportedVolume, match="filesystem"):
            pool.find("files")
        assert "files" not in [info.name for info in pool.volumes()]
        run("zfs", "destroy", f"{tank.dataset}/files")

    def test_located_by_every_name(self, tank: Tank, tmp_path: Path) -> None:
        pool = tank.pool()
        info = pool.create("here", MIB)
        device = Path(info.path).resolve()
        assert device.name.startswith("zd")
        link = tmp_path / "link"
        link.symlink_to(info.path)
        for path in (info.path, str(device), str(link)):
            assert pool.locate(path) == "here"
        elsewhere = open_pool("q", "zfs", {"dataset": tank.dataset.rpartition("/")[0]})
        assert elsewhere.locate(info.path) is None
        assert pool.locate("/dev/null") is None
        assert pool.locate(f"{info.path}-not") is None
        remove_volume(pool, "here")

    def test_snapshots_of_others_are_in_the_way_of_a_removal(self, tank: Tank) -> None:
        pool = tank.pool()
        pool.create("kept", MIB)
        dataset = f"{tank.dataset}/kept"
        run("zfs", "snapshot", f"{dataset}@{own_name('b', MIGRATION, 1)}")
        run("zfs", "snapshot", f"{dataset}@daily")
        with pytest.raises(VolumeInUse, match=r"snapshots that others made.*daily"):
            remove_volume(pool, "kept")
        assert len(pool.history("kept").snapshots()) == 2
        run("zfs", "destroy", f"{dataset}@daily")
        run("zfs", "clone", f"{dataset}@{own_name('b', MIGRATION, 1)}", f"{tank.dataset}/clone")
        with pytest.raises(StorageError, match="clone"):
            remove_volume(pool, "kept")
        assert pool.find("kept") is not None
        run("zfs", "destroy", f"{tank.dataset}/clone")
        remove_volume(pool, "kept")
        assert pool.find("kept") is None

    def test_what_is_open_is_not_removed(self, tank: Tank) -> None:
        pool = tank.pool()
        info = pool.create("open", MIB)
        volume = pool.open("open", writable=True)
        found = pool.find("open")
        assert found is not None and found.in_use is not None
        with pytest.raises(VolumeInUse):
            remove_volume(pool, "open")
        volume.close()
        fd = os.open(info.path, os.O_RDONLY)  # as blkback has it: without a claim
        with pytest.raises(VolumeInUse, match="busy"):
            remove_volume(pool, "open")
        os.close(fd)
        remove_volume(pool, "open")

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, MIB), (4096, 512), (512, 65536), (BLOCK, BLOCK)],
    )
    def test_zeros_of_any_place(self, tank: Tank, offset: int, length: int) -> None:
        pool = tank.pool()
        pool.create("zeroed", MIB)
        volume = pool.open("zeroed", writable=True)
        content = bytearray(os.urandom(MIB))
        volume.write(0, aligned(bytes(content)))
        volume.zero(offset, length)
        volume.flush()
        content[offset : offset + length] = bytes(length)
        assert read(volume, 0, MIB) == content
        volume.close()
        remove_volume(pool, "zeroed")
