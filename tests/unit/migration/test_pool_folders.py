"""Which folder a pool is taken to be when the daemon begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.errors import VolumeError
from storage.files.pool import DirectoryOptions, DirectoryPool
from xenmoved.journal.database import Journal
from xenmoved.migration.pool_folders import expect_folders

pytestmark = pytest.mark.long


class World:
    """A host with one pool, whose daemon may begin anew."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal

    async def begin(self) -> DirectoryPool:
        """Begin anew, and return the pool."""
        pool = DirectoryPool("images", DirectoryOptions(self.folder))
        host: Any = SimpleNamespace(pools={"images": pool}, journal=self.journal)
        await expect_folders(host)
        return pool


@pytest.fixture
async def world(tmp_path: Path):
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "web").write_bytes(bytes(512))
    yield World(folder, journal)
    await journal.close()


async def test_what_was_not_mounted_when_the_daemon_began_is_away_until_it_is(
    world: World,
) -> None:
    await world.begin()
    mounted = world.folder.rename(world.folder.with_name("mounted"))
    for there in (False, True):
        if there:
            world.folder.mkdir()
        pool = await world.begin()
        with pytest.raises(VolumeError):
            pool.find("web")
    world.folder.rmdir()
    mounted.rename(world.folder)
    assert pool.find("web") is not None


async def test_another_folder_with_something_in_it_is_meant(world: World) -> None:
    await world.begin()
    world.folder.rename(world.folder.with_name("old"))
    world.folder.mkdir()
    (world.folder / "new").write_bytes(bytes(512))
    pool = await world.begin()
    assert [one.name for one in pool.volumes()] == ["new"]
    pool = await world.begin()
    assert [one.name for one in pool.volumes()] == ["new"]


async def test_what_is_put_there_or_mounted_while_the_daemon_runs_is_taken(world: World) -> None:
    (world.folder / "web").unlink()
    pool = await world.begin()  # empty, and never seen otherwise: as on a new host
    assert pool.volumes() == []
    empty = world.folder.rename(world.folder.with_name("mount-point"))
    world.folder.mkdir()
    assert pool.volumes() == []
    (world.folder / "web").write_bytes(bytes(512))
    assert pool.find("web") is not None
    world.folder.rename(world.folder.with_name("mounted"))
    empty.rename(world.folder)
    with pytest.raises(VolumeError, match="mount the file system that belongs there"):
        pool.find("web")


async def test_a_pool_that_is_elsewhere_now_may_be_empty(world: World) -> None:
    await world.begin()
    world.folder = world.folder.with_name("elsewhere")
    world.folder.mkdir()
    pool = await world.begin()
    assert pool.volumes() == []
