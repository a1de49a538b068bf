"""What is removed is what was made or kept, under its name; what is only elsewhere is not gone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from storage.contracts import UNKNOWN, VolumeIdentity
from storage.errors import VolumeReplaced
from storage.files.pool import DirectoryOptions, DirectoryPool
from storage.opening import open_source
from tests.unit.migration.test_whereabouts import MIB, MIGRATION, World, at_home
from xenmoved.journal.database import Journal
from xenmoved.migration.retained import copies, drop
from xenmoved.migration.target.preflight import quota_used
from xenmoved.migration.target.volumes import remove_made
from xenmoved.migration.volume_needs import needs
from xenmoved.migration.whereabouts import Whereabouts


@pytest.fixture
def world(tmp_path: Path, journal: Journal) -> World:
    folder = tmp_path / "images"
    folder.mkdir()
    world = World(folder, journal, ("images",))
    (tmp_path / "rescue").mkdir()
    world.host.pools["rescue"] = DirectoryPool("rescue", DirectoryOptions(tmp_path / "rescue"))
    return world


async def is_noted(world: World, identity: VolumeIdentity) -> bool:
    """Whether a volume is noted as made, and as the guest's, and counts for its peer."""
    made = [one.identity for one in await world.journal.made()]
    held = [one.identity for one in await world.journal.holdings()]
    assert made == held
    assert await quota_used(world.host, "b") == MIB * len(made)
    return made == [identity]


@pytest.mark.parametrize("taken", [False, True])
async def test_what_was_moved_into_another_pool_under_its_name_stays(
    world: World, tmp_path: Path, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    identity = await world.make("disk")
    (world.folder / "disk").rename(tmp_path / "rescue/disk")
    if taken:
        (world.folder / "disk").write_bytes(b"the operator's own")
    await remove_made(world.host, MIGRATION)
    assert (tmp_path / "rescue/disk").exists()
    assert (world.folder / "disk").exists() == taken
    assert "images:disk stays, as somebody called it rescue:disk since" in caplog.text
    assert await is_noted(world, identity)


async def test_what_is_not_certain_to_be_it_stays_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when nothing tells any more what the file is."""
    identity = await world.make("disk")
    with monkeypatch.context() as patch:
        patch.setattr("storage.files.pool.file_identity", lambda file: UNKNOWN)
        await remove_made(world.host, MIGRATION)
    assert (world.folder / "disk").exists()
    assert await is_noted(world, identity)


async def test_a_name_that_is_handed_on_while_it_is_waited_for_its_user(world: World) -> None:
    identity = await world.make("disk")
    disk = world.folder / "disk"
    volume = open_source(str(disk))
    removing = asyncio.create_task(remove_made(world.host, MIGRATION))
    try:
        await asyncio.sleep(0.5)
        assert not removing.done()
        disk.rename(world.folder / "kept")
        disk.write_bytes(b"the operator's own")
    finally:
        volume.close()
    await removing
    assert disk.read_bytes() == b"the operator's own"
    assert await is_noted(world, identity)


class Rotating(DirectoryPool):
    """A pool in which a volume gets another name right before it is removed."""

    def remove(self, volume: str, identity: VolumeIdentity) -> None:
        file = Path(self.path(volume))
        file.rename(file.with_name("kept"))
        file.write_bytes(b"the operator's own")
        super().remove(volume, identity)


async def test_a_copy_whose_name_is_anothers_right_before_it_is_dropped(world: World) -> None:
    identity = await world.make("disk")
    await world.retain("disk")
    [(row, copy)] = await copies(world.host, await needs(world.host))
    world.host.pools["images"] = Rotating("images", DirectoryOptions(world.folder))
    with pytest.raises(VolumeReplaced):
        await drop(world.host, row, copy)
    assert (world.folder / "disk").read_bytes() == b"the operator's own"
    assert await is_noted(world, identity)


@pytest.fixture(params=["hard link", "symbolic link", "hard link in another pool"])
def second(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Give a volume a second name, which is returned as it is found then."""

    def give(name: str) -> tuple[str, str]:
        disk = world.folder / name
        if request.param == "hard link in another pool":
            os.link(disk, tmp_path / "rescue/keep")
            return "rescue", "keep"
        if request.param == "hard link":
            os.link(disk, world.folder / "keep")
        else:
            disk.rename(world.folder / "keep")
            disk.symlink_to("keep")
        return "images", "keep"

    return give


@pytest.mark.parametrize("dropped", [False, True], ids=["made", "dropped"])
async def test_what_has_another_name_is_not_forgotten_with_one(
    world: World, second: Any, dropped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    identity = await world.make("disk")
    place = second("disk")
    if dropped:
        await world.retain("disk")
        rows = await copies(world.host, await needs(world.host))
        [(row, copy)] = [one for one in rows if one[0].name == "disk"]
        await drop(world.host, row, copy)
    else:
        await remove_made(world.host, MIGRATION)
    assert not os.path.lexists(world.folder / "disk")
    assert Path(world.host.pools[place[0]].path(place[1])).exists()
    assert await is_noted(world, identity)
    assert [(one.pool, one.name) for one in await world.journal.holdings()] == [place]
    assert f"is there as {place[0]}:{place[1]} still" in caplog.text


async def test_what_has_one_name_is_forgotten_with_it(world: World) -> None:
    await world.make("disk")
    await remove_made(world.host, MIGRATION)
    assert list(world.folder.iterdir()) == []
    assert await world.journal.made() == await world.journal.holdings() == []


def moved_out(disk: Path, away: Path) -> None:
    """Have a disk elsewhere, where a link leads to."""
    disk.rename(away / "disk")
    disk.symlink_to(away / "disk")


def moved_out_and_away(disk: Path, away: Path) -> None:
    """Have it where nothing is mounted now."""
    moved_out(disk, away)
    away.rename(away.with_name("unmounted"))


def away_by_a_link_within(disk: Path, away: Path) -> None:
    """Have it away, and a link that leads to another name in the folder."""
    disk.rename(away / "disk")
    disk.symlink_to("disk.now")


def hidden_by_a_folder(disk: Path, away: Path) -> None:
    """Have a folder under its name, which could be where it is mounted."""
    disk.rename(away / "disk")
    disk.mkdir()


@pytest.mark.parametrize(
    "hide", [moved_out, moved_out_and_away, away_by_a_link_within, hidden_by_a_folder]
)
async def test_a_name_that_cannot_be_looked_at_is_not_gone(
    world: World, tmp_path: Path, hide: Any
) -> None:
    identity = await world.make("disk")
    away = tmp_path / "away"
    away.mkdir()
    hide(world.folder / "disk", away)
    for known in (identity, UNKNOWN):
        seen = Whereabouts(world.host.pools).look_for("images", "disk", known)
        assert (seen.info, seen.gone) == (None, False)
    assert await is_noted(world, identity)
    assert await at_home(world, "disk") == ["guest-here"]
    disk = world.folder / "disk"
    if disk.is_symlink():
        disk.unlink()
    else:
        disk.rmdir()
    assert Whereabouts(world.host.pools).look_for("images", "disk", identity).gone
    assert await quota_used(world.host, "b") == 0
