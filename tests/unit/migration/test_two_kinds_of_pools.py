"""One volume in pools of two kinds, and two volumes of one identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.messages import SharedOffer
from storage.contracts import Entry, VolumeIdentity, VolumeInfo
from storage.devices.pool import BlockOptions, BlockPool
from storage.errors import UnsupportedVolume, VolumeReplaced
from storage.files.pool import DirectoryOptions, DirectoryPool
from storage.places import place_at
from tests.support.images import make_cdrom
from tests.support.volumes import attach_loop, run
from tests.unit.migration.test_whereabouts import MIB, MIGRATION, World, at_home
from xenmoved.config.model import Peer
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Form, Holding, MadeVolume
from xenmoved.migration import uncopied_disks, volume_needs, whereabouts
from xenmoved.migration.removal import remove_noted
from xenmoved.migration.renamed_volumes import follow_volumes
from xenmoved.migration.retained import copies, drop_chosen, list_volumes
from xenmoved.migration.target.at_home import _at_home
from xenmoved.migration.target.space import quota_used
from xenmoved.migration.target.volumes import remove_made
from xenmoved.migration.uncopied_disks import look_at_shared
from xenmoved.migration.volume_needs import against, needs
from xenmoved.migration.volume_notes import claim, known_holding, note_copy
from xenmoved.migration.whereabouts import Seen, Whereabouts
from xenmoved.problems import Obstructed

pytestmark = pytest.mark.root


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def attach(cleanup: ExitStack) -> Callable[..., Path]:
    return partial(attach_loop, cleanup)


def info_of(world: World, pool: str, name: str) -> VolumeInfo:
    info: VolumeInfo | None = world.host.pools[pool].find(name)
    assert info is not None
    return info


async def speaks_against(world: World, pool: str, name: str) -> list[str]:
    """Return what keeps a volume from being written to or dropped."""
    info = info_of(world, pool, name)
    holding = await world.journal.holding(pool, name, info.identity)
    return [one.code for one in against(await needs(world.host), info, holding, "hint")]


# One volume in two pools


@pytest.fixture
def devices(tmp_path: Path, journal: Journal, attach: Callable[..., Path]) -> World:
    """A host with an image file, that has a loop device listed in a pool of another kind."""
    folder = tmp_path / "images"
    folder.mkdir()
    world = World(folder, journal, ["images"])
    (folder / "web").write_bytes(bytes(MIB))
    listed = {"disk": attach(folder / "web")}
    world.host.pools["devices"] = BlockPool("devices", BlockOptions(listed))
    return world


async def test_a_note_counts_by_whatever_the_volume_is_reached(devices: World) -> None:
    places = [("images", "web"), ("devices", "disk")]
    for noted in places:
        identity = info_of(devices, *noted).identity
        await devices.journal.record_holding(Holding(*noted, "uuid", "web", identity))
        for place in places:
            holding = await known_holding(devices.host, *place)
            assert holding is not None
            assert (holding.pool, holding.name, holding.guest) == (*noted, "web")
            assert "guest-here" in await speaks_against(devices, *place)
    assert len(await devices.journal.holdings()) == 1, "it is one volume"


async def test_what_is_noted_of_a_loop_device_goes_with_its_file(devices: World) -> None:
    identity = info_of(devices, "devices", "disk").identity
    copy = Holding("devices", "disk", "uuid", "web", identity, since=1.0, place="b")
    await devices.journal.record_holding(copy)
    ((row, _),) = await copies(devices.host, await needs(devices.host))
    assert (row.pool, row.name) == ("devices", "disk"), "as it was noted"
    del devices.host.pools["devices"]
    await follow_volumes(devices.host)
    assert await devices.journal.holdings() == [replace(copy, pool="images", name="web")]


# What earlier releases noted of loop devices


async def test_each_note_about_a_part_of_a_file_counts(devices: World) -> None:
    """Also when another one, of which nothing is to be said, is found before it."""
    whole = info_of(devices, "images", "web").identity
    for guest, offset, since in (("a", 0, 1.0), ("b", MIB // 2, None), ("c", MIB // 4, 1.0)):
        identity = VolumeIdentity(f"loop on {whole} from {offset}")
        note = Holding("devices", guest, guest, guest, identity, since=since, place="host-b")
        await devices.journal.record_holding(note)
    info = info_of(devices, "images", "web")
    found = await needs(devices.host)
    for holding in (None, *(await devices.journal.holdings())):
        assert "guest-here" in {one.code for one in against(found, info, holding, "")}


@pytest.mark.parametrize("part", ["from 0", f"from {MIB // 2}"])
@pytest.mark.parametrize("listed", [True, False])
async def test_what_may_be_a_part_of_a_file_is_left_alone(
    devices: World, part: str, listed: bool
) -> None:
    identity = VolumeIdentity(f"loop on {info_of(devices, 'images', 'web').identity} {part}")
    noted = Holding("devices", "disk", "uuid", "web", identity, migration=MIGRATION)
    made = MadeVolume(MIGRATION, "devices", "disk", MIB, "b", identity)
    await devices.journal.record_holding(noted)
    await devices.journal.record_made(made)
    if not listed:
        del devices.host.pools["devices"]
    places = [("images", "web"), *([("devices", "disk")] if listed else [])]
    for place in places:
        assert await speaks_against(devices, *place) == ["guest-here"]
        assert await known_holding(devices.host, *place) is None
    ((_, seen),) = at_home_of(devices, noted)
    assert not seen.gone
    assert await quota_used(devices.host, "b") == MIB
    await follow_volumes(devices.host)
    # Nor is all of the file known as the copy, which would be dropped with the rest of it.
    await devices.journal.retain(MIGRATION, "b", moved=True)
    assert list(await copies(devices.host, await needs(devices.host))) == []
    with pytest.raises(Obstructed, match="not known to be a copy"):
        await drop_chosen(devices.host, volume="images:web", confirmed=True)
    assert (devices.folder / "web").exists()
    assert [one.identity for one in await devices.journal.holdings()] == [identity]
    # With what comes to be in all of the file, what was in it is gone.
    await note_copy(devices.host, Holding("images", "web", "uuid", "web"), "b", None)
    (now,) = await devices.journal.holdings()
    assert now.identity == info_of(devices, "images", "web").identity


def at_home_of(world: World, noted: Holding) -> list[tuple[Holding, Seen]]:
    return _at_home(world.host, [noted], [])


# Volumes with bytes in common


@pytest.fixture
def parts(tmp_path: Path, journal: Journal, attach: Callable[..., Path]) -> World:
    """A host with files in a pool, and devices in another one: of two a part, of one all."""
    folder = tmp_path / "images"
    folder.mkdir()
    world = World(folder, journal, ["images"])
    (folder / "whole").write_bytes(bytes(2 * MIB))
    (folder / "other").write_bytes(bytes(2 * MIB))
    listed = {
        "first": attach(folder / "whole", "--sizelimit", str(MIB)),
        "second": attach(folder / "whole", "--offset", str(MIB)),
        "all": attach(folder / "other"),
    }
    world.host.pools["devices"] = BlockPool("devices", BlockOptions(listed))
    return world


async def test_nothing_is_done_with_what_is_a_part_of_another_volume(parts: World) -> None:
    assert await speaks_against(parts, "images", "whole") == ["volume-overlaps"]
    for place in (("images", "other"), ("devices", "all")):
        assert await speaks_against(parts, *place) == []
    for name in ("first", "second"):
        with pytest.raises(UnsupportedVolume, match="only a part"):
            parts.host.pools["devices"].find(name)


async def test_a_disk_of_which_a_partition_is_in_a_pool(
    devices: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel has it; no device of this machine has partitions."""
    info = info_of(devices, "devices", "disk")
    entry = Entry(VolumeIdentity(f"{info.identity} partition ab-1"), "part", "/dev/nothing")
    others: Any = SimpleNamespace(name="others", everything=lambda: [entry])
    devices.host.pools["others"] = others
    found = Whereabouts(devices.host.pools)
    assert found.overlapping(info) == ["others:part"]
    assert found.overlapping(replace(info, identity=entry.identity)) == [
        "images:web",
        "devices:disk",
    ]
    # Also where nothing tells the partition from those of other disks.
    known = entry._replace(identity=VolumeIdentity("another"), path="/dev/null")
    others.everything = lambda: [known]
    assert found.overlapping(info) == ["others:part"], "what was seen before"
    assert Whereabouts(devices.host.pools).overlapping(info) == []
    monkeypatch.setattr(whereabouts, "around", lambda path: {place_at("/dev/null")})
    assert Whereabouts(devices.host.pools).overlapping(info) == ["others:part"]


async def test_a_disk_is_needed_by_whom_a_partition_of_it_is(
    devices: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def texts(*, moved: bool = False) -> dict[str, str]:
        return {"/etc/xen/db.cfg": "name='db'\nmemory=1\ndisk=['/dev/null,raw,xvda,w']\n"}

    monkeypatch.setattr(devices.host.toolstack.configs, "read_all", texts)
    assert await speaks_against(devices, "devices", "disk") == []
    monkeypatch.setattr(volume_needs, "around", lambda path: {place_at("/dev/null")})
    assert await speaks_against(devices, "devices", "disk") == ["guest-here"]


async def withheld(
    world: World, pool: str, name: str, *, size: int, written: str = ""
) -> list[str]:
    """Return what keeps a peer from having a CD-ROM that is in a pool."""
    disk = SharedOffer("xvdz", "/x", size, False, True, name, None, pool, None)
    places = {place_at(written)} if written else set()
    problems, _ = await look_at_shared(world.host, Peer("b", "b", ""), [disk], {}, places)
    return [one.code for one in problems]


async def test_what_is_a_part_of_another_volume_is_no_cdrom(
    parts: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "other"):
        make_cdrom(parts.folder / name, 2)
    assert await withheld(parts, "images", "other", size=2 * MIB) == []
    assert await withheld(parts, "images", "whole", size=2 * MIB) == ["permission"]
    del parts.host.pools["images"]
    assert await withheld(parts, "devices", "all", size=2 * MIB) == []
    # Nor is a disk of which a guest writes a part.
    monkeypatch.setattr(uncopied_disks, "around", lambda path: {place_at("/dev/null")})
    assert await withheld(parts, "devices", "all", size=2 * MIB, written="/dev/null") == [
        "permission"
    ]


# Two volumes of one identity


@pytest.fixture
def twice(tmp_path: Path, journal: Journal, cleanup: ExitStack) -> World:
    """A host with a pool on a file system, of which a block copy is mounted, too."""

    def mounted(image: Path, folder: Path) -> None:
        folder.mkdir()
        run("mount", "-o", "loop", image, folder)
        cleanup.callback(run, "umount", folder)

    image, folder = tmp_path / "image", tmp_path / "images"
    image.touch()
    os.truncate(image, 32 * MIB)
    run("mkfs.ext4", "-q", "-F", "-I", "256", image)
    mounted(image, folder)
    (folder / "lost+found").rmdir()
    (folder / "web").write_bytes(bytes(MIB))
    run("umount", folder)
    run("cp", "--sparse=always", image, tmp_path / "copy")
    run("mount", "-o", "loop", image, folder)
    mounted(tmp_path / "copy", tmp_path / "copies")
    world = World(folder, journal, ["images"])
    world.host.pool_of = lambda path: next(
        (pool, name)
        for pool in world.host.pools.values()
        if (name := pool.locate(path)) is not None
    )
    return world


def show_copy(world: World) -> None:
    """Have the block copy in a pool of its own, too."""
    folder = world.folder.with_name("copies")
    world.host.pools["copies"] = DirectoryPool("copies", DirectoryOptions(folder))


BOTH = (("images", "web"), ("copies", "web"))


async def noted(world: World, **fields: Any) -> VolumeIdentity:
    """Have it noted of the first volume whose it is, and then the second one there."""
    identity = await world.make("web")
    found = await world.journal.holding("images", "web", identity)
    assert found is not None
    await world.journal.record_holding(replace(found, migration=MIGRATION, **fields))
    show_copy(world)
    assert {str(info_of(world, *place).identity) for place in BOTH} == {str(identity)}
    return identity


async def test_neither_of_two_is_known(twice: World) -> None:
    await noted(twice)
    assert [await known_holding(twice.host, *place) for place in BOTH] == [None, None]
    for place in BOTH:
        assert "volume-twice" in await speaks_against(twice, *place)
    assert await at_home(twice, "web") == ["guest-here"], "it may be either"
    assert await at_home(twice, "web", "web") == ["guest-here"]
    assert await quota_used(twice.host, "b") == MIB
    del twice.host.pools["copies"]
    assert await twice.whose("web") == "web"
    assert await at_home(twice, "web", "web") == []


async def test_nothing_is_noted_of_one_in_the_place_of_the_other(twice: World) -> None:
    await noted(twice)
    before = await twice.journal.holdings()
    path = info_of(twice, "copies", "web").path
    await claim(twice.host, path, "uuid of db", "db", "e" * 32, form=Form.RAW)
    assert await twice.journal.holdings() == [
        *before,
        Holding("copies", "web", "uuid of db", "db", migration="e" * 32),
    ]
    assert await known_holding(twice.host, "copies", "web") is None
    await follow_volumes(twice.host)
    assert (await twice.journal.holdings())[:1] == before


async def test_neither_of_two_is_removed(twice: World) -> None:
    identity = await noted(twice, since=1.0, place="b", kept=100.0)
    assert await copies(twice.host, await needs(twice.host)) == []
    assert {row.retained for row in (await list_volumes(twice.host)).volumes} == {None}
    for pool, name in BOTH:
        with pytest.raises(Obstructed) as refused:
            await drop_chosen(twice.host, volume=f"{pool}:{name}", confirmed=True)
        (text,) = [one.text for one in refused.value.problems if one.code == "volume-twice"]
        assert "images:web, copies:web" in text
        with pytest.raises(VolumeReplaced, match="cannot be told from another one"):
            await remove_noted(twice.host, pool, name, identity)
    await remove_made(twice.host, MIGRATION)
    assert all(Path(info_of(twice, *place).path).exists() for place in BOTH)
    assert [one.identity for one in await twice.journal.made()] == [identity]
    assert [one.identity for one in await twice.journal.holdings()] == [identity]


async def test_neither_of_two_is_a_cdrom(twice: World) -> None:
    make_cdrom(twice.folder / "web", 1)
    run("sync", "-f", twice.folder)
    assert await withheld(twice, "images", "web", size=MIB) == []
    show_copy(twice)
    assert await withheld(twice, "images", "web", size=MIB) == ["permission"]


async def test_what_is_called_twice_is_one(twice: World) -> None:
    """By a link, a pool of the same folder, and one of where that is mounted a second time."""
    folder = twice.folder
    os.link(folder / "web", folder / "a link of web")
    bound = folder.with_name("bound")
    bound.mkdir()
    run("mount", "--bind", folder, bound)
    try:
        for name, path in (("second", folder), ("bound", bound)):
            twice.host.pools[name] = DirectoryPool(name, DirectoryOptions(path))
        await twice.make("web")
        assert "volume-twice" not in await speaks_against(twice, "bound", "web")
        assert await twice.whose("web") == "web"
    finally:
        run("umount", bound)


@pytest.mark.parametrize(("group", "twice"), [("vg1", True), ("vg0", False)])
def test_a_volume_group_and_its_copy(group: str, twice: bool) -> None:
    """A copy that was given another name has other uuids, but for those of its volumes."""

    def pool(name: str, group: str) -> Any:
        entry = Entry(VolumeIdentity("uuid of web"), "web", f"/dev/{group}/web")
        return SimpleNamespace(name=name, everything=lambda: [entry])

    found = Whereabouts({"a": pool("a", "vg0"), "b": pool("b", group)})
    assert found.is_twice(VolumeIdentity("uuid of web")) is twice
    assert found.path(VolumeIdentity("uuid of web")) == (None if twice else "/dev/vg0/web")
