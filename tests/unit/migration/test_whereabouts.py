"""Volumes are known by their identity, whatever they are called, and whose name they have now."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.messages import GuestOffer, Placement
from storage.contracts import UNKNOWN, VolumeIdentity
from storage.errors import VolumeReplaced
from storage.files.pool import DirectoryOptions, DirectoryPool
from xenmoved.config.model import Peer
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Holding, MadeVolume
from xenmoved.migration import expiry
from xenmoved.migration.pool_folders import expect_folders
from xenmoved.migration.promises import Promises
from xenmoved.migration.renamed_volumes import follow_volumes
from xenmoved.migration.retained import copies, drop, drop_chosen, drop_source
from xenmoved.migration.target.at_home import _in_journal
from xenmoved.migration.target.space import quota_used
from xenmoved.migration.target.volumes import remove_made
from xenmoved.migration.volume_needs import needs
from xenmoved.migration.volume_notes import known_holding, note_copy, note_filled
from xenmoved.migration.whereabouts import Whereabouts

MIB = 1 << 20
MIGRATION = "f" * 32


class Configs:
    async def read_all(self, *, moved: bool = False) -> dict[str, str]:
        return {}


class World:
    """A host with a pool of files, and a journal that has something of each."""

    def __init__(self, folder: Path, journal: Journal, pools: Sequence[str]) -> None:
        async def nobody() -> list[object]:
            return []

        self.folder = folder
        self.journal = journal
        self.host: Any = SimpleNamespace(
            journal=journal,
            pools={name: DirectoryPool(name, DirectoryOptions(folder)) for name in pools},
            promises=Promises(),
            config=SimpleNamespace(node="host-a"),
            toolstack=SimpleNamespace(configs=Configs(), describe_all=nobody),
            jobs=SimpleNamespace(live=[]),
            making=asyncio.Lock(),
        )

    def pool(self) -> DirectoryPool:
        pool: DirectoryPool = next(iter(self.host.pools.values()))
        return pool

    async def make(self, name: str, size: int = MIB, pool: str = "images") -> VolumeIdentity:
        """Have a volume here that was made for a peer, with the disk of a guest of that name."""
        file = self.folder / name
        with file.open("wb") as opened:
            opened.truncate(size)
        info = self.pool().find(name)
        assert info is not None
        assert info.identity
        made = MadeVolume(MIGRATION, pool, name, size, "b", info.identity)
        await self.journal.record_made(made)
        holding = Holding(pool, name, f"uuid of {name}", name, info.identity, written=info.written)
        await self.journal.record_holding(holding)
        return info.identity

    async def retain(self, name: str, kept: float = 0.0, migration: str = MIGRATION) -> None:
        holding = await self.journal.holding("images", name, self.identity(name))
        assert holding is not None
        fields = {"since": 1.0, "place": "b", "kept": kept, "migration": migration}
        all_of_it = {one: getattr(holding, one) for one in Holding.__dataclass_fields__} | fields
        await self.journal.record_holding(Holding(**all_of_it))

    def identity(self, name: str) -> VolumeIdentity:
        info = self.pool().find(name)
        return info.identity if info is not None else UNKNOWN

    def rotate(self, names: Sequence[str]) -> None:
        """Give each file the name of the next one."""
        aside = self.folder.parent / "aside"
        (self.folder / names[-1]).rename(aside)
        for before, now in reversed(list(itertools.pairwise(names))):
            (self.folder / before).rename(self.folder / now)
        aside.rename(self.folder / names[0])

    async def whose(self, name: str) -> str | None:
        """Return whose disk a volume is known as."""
        holding = await known_holding(self.host, next(iter(self.host.pools)), name)
        return holding.guest if holding is not None else None


@pytest.fixture(params=[("images",), ("images", "second")], ids=["one pool", "two pools of it"])
def world(tmp_path: Path, journal: Journal, request: pytest.FixtureRequest) -> World:
    folder = tmp_path / "images"
    folder.mkdir()
    return World(folder, journal, request.param)


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("names", ["ab", "abc", "abcde"])
async def test_names_that_go_round_take_nothing_from_anybody(
    world: World, names: str, restart: bool
) -> None:
    for name in names:
        await world.make(name)
    world.rotate(names)
    if restart:
        await follow_volumes(world.host)
    expected = dict(zip(names, names[-1] + names[:-1], strict=True))
    assert {name: await world.whose(name) for name in names} == expected
    assert await quota_used(world.host, "b") == len(names) * MIB
    noted = {one.guest: (one.pool, one.name) for one in await world.journal.holdings()}
    now = dict(zip(names, names[1:] + names[0], strict=True)) if restart else {n: n for n in names}
    assert noted == {guest: ("images", name) for guest, name in now.items()}


@pytest.mark.parametrize("restart", [True, False])
async def test_a_name_that_is_handed_on_and_taken_anew(world: World, restart: bool) -> None:
    """As with ``mv copy copy.2; mv other copy``, and a volume that is made where other was."""
    for name in ("copy", "other"):
        await world.make(name)
    (world.folder / "copy").rename(world.folder / "copy.2")
    (world.folder / "other").rename(world.folder / "copy")
    if restart:
        await follow_volumes(world.host)
    await world.make("other", 2 * MIB)
    assert [await world.whose(name) for name in ("copy.2", "copy")] == ["copy", "other"]
    assert await quota_used(world.host, "b") == 4 * MIB


async def test_what_is_noted_of_a_volume_that_is_filled_is_noted_of_that_one(world: World) -> None:
    await world.make("copy")
    (world.folder / "copy").rename(world.folder / "copy.2")
    with (world.folder / "copy").open("wb") as file:
        file.truncate(MIB)
    new = Holding("images", "copy", "uuid of web", "web", migration="e" * 32)
    await note_copy(world.host, new, "c", None)
    await note_filled(world.host, "images", "copy", "c", "e" * 32)
    assert [await world.whose(name) for name in ("copy.2", "copy")] == ["copy", "web"]
    holding = await world.journal.holding("images", "copy", world.identity("copy"))
    assert holding is not None
    assert holding.written is not None


async def test_a_plain_rename_frees_nothing_of_a_quota(world: World) -> None:
    await world.make("a", 3 * MIB)
    # Also where no volume can have the name.
    for name in ("b", "b (copy)", ".b", "b~"):
        next(world.folder.iterdir()).rename(world.folder / name)
        assert await quota_used(world.host, "b") == 3 * MIB, name
    (world.folder / "b~").rename(world.folder / "a")
    (world.folder / "a").rename(world.folder.parent / "a")
    (world.folder / "a").write_bytes(b"another's")
    assert await quota_used(world.host, "b") == 0, "it was taken out"


async def test_what_is_away_counts_until_it_is_known_to_be_gone(world: World) -> None:
    await world.make("a", 3 * MIB)
    await expect_folders(world.host)
    mounted = world.folder.rename(world.folder.with_name("mounted"))
    for there in (False, True):
        if there:
            world.folder.mkdir()
        assert await quota_used(world.host, "b") == 3 * MIB
        assert await at_home(world, "a") == ["guest-here"]
    # Nor does another name of the pool make it gone.
    names = [f"new-{name}" for name in world.host.pools]
    world.host.pools = {one: DirectoryPool(one, DirectoryOptions(world.folder)) for one in names}
    await expect_folders(world.host)
    assert await quota_used(world.host, "b") == 3 * MIB
    assert await at_home(world, "a") == ["guest-here"]
    world.folder.rmdir()
    mounted.rename(world.folder)
    assert await quota_used(world.host, "b") == 3 * MIB
    (world.folder / "a").unlink()
    (world.folder / "b").write_bytes(b"something else")
    assert await quota_used(world.host, "b") == 0
    assert await at_home(world, "a") == []


async def at_home(world: World, guest: str, *places: str) -> list[str]:
    """Return what keeps a guest from coming that has its disks at some places."""
    fields: dict[str, Any] = dict.fromkeys(GuestOffer.__dataclass_fields__)
    offered = GuestOffer(**{**fields, "name": guest, "uuid": f"uuid of {guest}"})
    placed = [Placement("images", one, fresh=False, zeroed=False, size=MIB) for one in places]
    found = await _in_journal(world.host, Peer("b", "b", ""), offered, placed)
    return [one.code for one in found]


async def test_a_guest_is_at_home_whatever_its_disk_is_called(world: World) -> None:
    for name in "ab":
        await world.make(name)
    assert await at_home(world, "a") == ["guest-here"]
    assert await at_home(world, "a", "a") == []
    (world.folder / "a").rename(world.folder / "c")
    assert await at_home(world, "a") == ["guest-here"]
    assert await at_home(world, "a", "c") == [], "it comes with the disk that it has here"
    world.rotate(["b", "c"])
    assert await at_home(world, "a", "b") == []
    assert await at_home(world, "a", "c") == ["guest-here"]
    assert await at_home(world, "b", "b") == ["guest-here"]
    (world.folder / "b").unlink()
    assert await at_home(world, "a") == []


async def test_what_is_old_enough_is_dropped_and_not_what_has_its_name(world: World) -> None:
    for name, kept in (("old", 100.0), ("young", 1.0)):
        await world.make(name)
        await world.retain(name, kept)
    world.rotate(["old", "young"])
    await expiry._expire(world.host, 50.0, set())
    assert [path.name for path in world.folder.iterdir()] == ["old"]
    assert await world.whose("old") == "young"
    assert [one.guest for one in await world.journal.holdings()] == ["young"]


async def test_the_disk_that_a_job_has_moved_is_dropped_and_not_what_has_its_name(
    world: World,
) -> None:
    for name, migration in (("moved", "e" * 32), ("other", "d" * 32)):
        await world.make(name)
        await world.retain(name, migration=migration)
    world.rotate(["moved", "other"])
    assert await drop_source(world.host, "e" * 32, "00000001") == []
    assert [path.name for path in world.folder.iterdir()] == ["moved"]
    assert await world.whose("moved") == "other"


async def test_a_copy_is_not_dropped_when_its_name_is_anothers_by_then(world: World) -> None:
    for name in "ab":
        await world.make(name)
        await world.retain(name)
    there = {copy.guest: (row, copy) for row, copy in await copies(world.host, await none(world))}
    world.rotate("ab")
    with pytest.raises(VolumeReplaced):
        await drop(world.host, *there["a"])
    assert len(list(world.folder.iterdir())) == 2
    assert len(await world.journal.holdings()) == 2


async def test_the_copies_of_a_guest_are_dropped_whatever_they_are_called(world: World) -> None:
    for name in "ab":
        await world.make(name)
        await world.retain(name)
    world.rotate("ab")
    dropped = await drop_chosen(world.host, guest="a", confirmed=True)
    assert [row.name for row in dropped.volumes] == ["b"]
    assert [path.name for path in world.folder.iterdir()] == ["a"]
    dropped = await drop_chosen(
        world.host, volume=f"{list(world.host.pools)[-1]}:a", confirmed=True
    )
    assert list(world.folder.iterdir()) == []
    assert await world.journal.holdings() == await world.journal.made() == []


async def none(world: World) -> Any:
    return await needs(world.host)


@pytest.mark.parametrize("restart", [True, False])
async def test_what_was_made_for_a_migration_that_failed(world: World, restart: bool) -> None:
    """It goes; what somebody called otherwise stays, and what has its name by now."""
    for name in ("gone", "kept", "taken", "renamed"):
        await world.make(name)
    (world.folder / "taken").rename(world.folder.parent / "elsewhere")
    (world.folder / "renamed").rename(world.folder / "saved")
    for name in ("last", "other"):
        await world.make(name)
    for name, now in (("last", "taken"), ("other", "renamed")):
        made = MadeVolume(MIGRATION, "images", name, MIB, "b", world.identity(name))
        await world.journal.forget_made(made)
        (world.folder / name).rename(world.folder / now)
    if restart:
        await follow_volumes(world.host)
    (world.folder / "gone").unlink()
    for _ in range(2):
        await remove_made(world.host, MIGRATION)
        left = {path.name for path in world.folder.iterdir()}
        assert left == {"taken", "saved", "renamed"}
        owners = {name: await world.whose(name) for name in left}
        assert owners == {"taken": "last", "saved": "renamed", "renamed": "other"}
        assert await quota_used(world.host, "b") == MIB, "what was renamed is the peer's still"


async def test_what_was_about_to_be_made_takes_no_note_of_another(world: World) -> None:
    """There was a crash: the volume that has the name may be anybody's."""
    await world.make("theirs")
    world_identity = world.identity("theirs")
    await world.journal.forget_made(
        MadeVolume(MIGRATION, "images", "theirs", MIB, "b", world_identity)
    )
    await world.journal.record_made(MadeVolume(MIGRATION, "images", "theirs", MIB, "b"))
    await remove_made(world.host, MIGRATION)
    assert await world.whose("theirs") == "theirs"
    assert await world.journal.made() == []


async def test_two_names_of_one_file_are_one_volume(world: World) -> None:
    identity = await world.make("a")
    os.link(world.folder / "a", world.folder / "b")
    assert [await world.whose(name) for name in "ab"] == ["a", "a"]
    assert await quota_used(world.host, "b") == MIB
    await follow_volumes(world.host)
    assert [(one.name, one.identity) for one in await world.journal.holdings()] == [("a", identity)]


async def test_of_what_nothing_tells_from_others_the_name_tells(world: World) -> None:
    (world.folder / "a").write_bytes(b"x")
    looked = Whereabouts(world.host.pools).look_for("images", "a", UNKNOWN)
    assert looked.info is not None
    assert Whereabouts(world.host.pools).look_for("images", "b", UNKNOWN).gone
    assert not Whereabouts(world.host.pools).look_for("images", "a", VolumeIdentity("x")).info
