"""What becomes of a volume that is here when a peer is to fill it, and of whom it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from protocol.errors import ProtocolError
from protocol.messages import (
    Action,
    GuestOffer,
    ImageFormat,
    Offer,
    OfferedMode,
    Placement,
    VolumeOffer,
)
from storage.contracts import VolumeIdentity, VolumeInfo
from storage.errors import VolumeError
from storage.files.pool import DirectoryOptions, DirectoryPool
from storage.files.volume import RawFile
from storage.places import place_at
from xenmoved.config.model import Allow, Peer
from xenmoved.journal.database import Journal
from xenmoved.journal.records import NOBODY, Form, Holding
from xenmoved.migration.retained import drop_chosen
from xenmoved.migration.target.reuse import Claim, reuse
from xenmoved.migration.target.volumes import Landing
from xenmoved.migration.volume_needs import imagery, needs
from xenmoved.problems import Obstructed
from xenmoved.toolstack.configs.guest_file import GuestFile
from xenmoved.toolstack.interface import (
    Disk,
    Domain,
    DomainState,
    DomainStatus,
    ToolstackError,
)

pytestmark = pytest.mark.long

MIB = 1 << 20
UUID = "11111111-2222-3333-4444-555555555555"
SECRET = b"what another guest had here"


class Configs:
    """The configuration files of a `Toolstack`."""

    def __init__(self, toolstack: Toolstack) -> None:
        self._toolstack = toolstack

    async def read_all(self, *, moved: bool = False) -> dict[str, str]:
        return {
            file: text
            for file, text in self._toolstack.files.items()
            if moved or not file.endswith((".moved", ".replaced"))
        }

    async def files(self, name: str, uuid: str) -> list[GuestFile]:
        return []


class Toolstack:
    """What guests a host has, as a test says; `on_look` is called whenever that is asked."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.configs = Configs(self)
        self.here: list[tuple[DomainStatus, Domain | ToolstackError]] = []

    async def describe_all(self) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        return self.here


def running(name: str, path: str, uuid: str = "") -> tuple[DomainStatus, Domain]:
    disk = Disk("xvda", path, "phy", "raw", True, False, None, 0)
    domain = Domain(name, uuid or f"uuid of {name}", 3, "pv", MIB, (disk,), ())
    return DomainStatus(name, 3, MIB, DomainState.RUNNING), domain


class World:
    """A host with one pool and one volume in it, `web-root`, which had something in it."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.pool = DirectoryPool("images", DirectoryOptions(folder))
        self.file = folder / "web-root"
        self.file.write_bytes(SECRET.ljust(2 * MIB, b"\xa5"))
        self.toolstack = Toolstack()
        self.journal = journal
        self.peers = {
            name: Peer(name, name, "", allow=Allow(pools=("images",))) for name in ("b", "c")
        }
        self.host: Any = SimpleNamespace(
            pools={"images": self.pool},
            journal=journal,
            toolstack=self.toolstack,
            jobs=SimpleNamespace(live=[]),
            config=SimpleNamespace(node="host-a"),
            making=asyncio.Lock(),
            qemu_sockets=folder,
            peer=lambda name: self.peers[name],
        )

    @property
    def info(self) -> VolumeInfo:
        info = self.pool.find("web-root")
        assert info is not None
        return info

    def write(self, text: bytes) -> None:
        """Write to the volume, as somebody of this host."""
        with self.file.open("r+b") as file:
            file.write(text)

    def allow(self, peer: str) -> None:
        self.peers[peer] = replace(
            self.peers[peer], allow=replace(self.peers[peer].allow, overwrite=True)
        )

    async def note(self, **said: Any) -> None:
        info = self.info
        known = {"identity": info.identity, "written": info.written}
        fields = {"owner": UUID, "guest": "web", **known, **said}
        await self.journal.record_holding(Holding("images", "web-root", **fields))

    async def ask(
        self, offer: Offer, peer: str = "b", here: ImageFormat = ImageFormat.RAW
    ) -> tuple[list[str], bool]:
        """Return the codes of what stands against using the volume, and whether it is kept."""
        claim = Claim(self.peers[peer], offer, offer.volumes[0], here)
        found = await reuse(self.host, claim, self.info, await needs(self.host))
        return [one.code for one in found.problems], found.kept

    async def open(self, offer: Offer, *, zeroed: bool, peer: str = "b") -> Landing:
        landing = Landing(self.host, peer, "f" * 32)
        place = Placement("images", "web-root", fresh=False, zeroed=zeroed, size=2 * MIB)
        try:
            await landing.provision(offer, [place])
        finally:
            await landing.stop()
        return landing


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    folder = tmp_path / "images"
    folder.mkdir()
    yield World(folder, journal)
    await journal.close()


def a_sync(**said: Any) -> Offer:
    volume = VolumeOffer(
        "web-root", MIB, None, None, None, None, ImageFormat.RAW, MIB, 512, None, True, None
    )
    return replace(Offer(Action.SYNC, OfferedMode.SAVE, False, None, (volume,)), **said)


def a_guest(uuid: str = UUID, **said: Any) -> Offer:
    fields: dict[str, Any] = dict.fromkeys(GuestOffer.__dataclass_fields__)
    guest = GuestOffer(**{**fields, "name": "web", "uuid": uuid})
    return a_sync(action=Action.MIGRATE, guest=guest, **said)


async def test_the_senders_word_is_not_enough(world: World) -> None:
    for offer in (a_sync(), a_guest()):
        assert await world.ask(offer) == (["volume-exists"], False)
        assert await world.ask(replace(offer, overwrite=True)) == (["permission"], False)
    world.allow("b")
    for offer in (a_sync(), a_guest()):
        assert await world.ask(offer) == (["volume-exists"], False)
        assert await world.ask(replace(offer, overwrite=True)) == ([], False)
        assert await world.ask(replace(offer, overwrite=True), "c") == (["permission"], False)


async def test_the_hint_names_the_key_of_the_host_that_refuses(world: World) -> None:
    claim = Claim(world.peers["b"], a_sync(overwrite=True), a_sync().volumes[0])
    (found,) = (await reuse(world.host, claim, world.info, await needs(world.host))).problems
    assert "host-a does not let b overwrite it" in found.text
    assert "`overwrite: true` in `allow` of peer b in the configuration of host-a" in found.hint


async def test_a_copy_is_kept_only_for_the_peer_where_its_guest_went(world: World) -> None:
    await world.note(since=1.0, place="b", moved_by="m1")
    assert await world.ask(a_guest()) == ([], True)
    assert await world.ask(a_guest(), "c") == (["volume-exists"], False)
    assert await world.ask(a_guest("another"), "b") == (["volume-exists"], False)
    assert await world.ask(a_sync(), "b") == (["volume-exists"], False)
    for peer in ("b", "c"):
        world.allow(peer)
    # What may be overwritten is emptied, and only what the guest left for this very peer is kept.
    assert await world.ask(a_guest(overwrite=True), "b") == ([], True)
    assert await world.ask(a_guest(overwrite=True), "c") == ([], False)
    assert await world.ask(a_guest("another", overwrite=True), "b") == ([], False)


@pytest.mark.parametrize(
    ("need", "code"),
    [
        (lambda world: world.toolstack.files.update({"/etc/xen/x.cfg": f"'{world.file}'"}), "g"),
        (lambda world: world.toolstack.here.append(running("db", str(world.file))), "v"),
        (lambda world: world.note(), "g"),
    ],
    ids=["named", "running", "at home"],
)
async def test_what_a_guest_here_needs_nobody_gets(world: World, need: Any, code: str) -> None:
    world.allow("b")
    if (waiting := need(world)) is not None:
        await waiting
    expected = {"g": "guest-here", "v": "volume-in-use"}[code]
    for offer in (a_sync(), a_sync(overwrite=True), a_guest(), a_guest(overwrite=True)):
        assert (await world.ask(offer))[0] == [expected]
        with pytest.raises(Obstructed) as refused:
            await world.open(offer, zeroed=True)
        assert [one.code for one in refused.value.problems] == [expected]
    with pytest.raises(Obstructed) as kept:
        await drop_chosen(world.host, volume="images:web-root", confirmed=True)
    assert expected in {one.code for one in kept.value.problems}
    assert world.file.read_bytes().startswith(SECRET)


async def test_a_copy_of_a_guest_that_is_here_is_neither_written_nor_dropped(world: World) -> None:
    world.allow("b")
    await world.note(since=1.0, place="b")
    other = a_guest("another", overwrite=True)
    for needed in (
        {"here": [running("web", "/dev/null")]},
        {"here": [running("renamed", "/dev/null", UUID)]},
        {"files": {"/etc/xen/web.cfg": "name = 'web'\ndisk = []\n"}},
    ):
        for attribute, value in needed.items():
            setattr(world.toolstack, attribute, value)
        assert (await world.ask(other))[0] == ["guest-here"]
        with pytest.raises(Obstructed):
            await drop_chosen(world.host, volume="images:web-root", confirmed=True)
        world.toolstack.here, world.toolstack.files = [], {}
    assert (await world.ask(other))[0] == []
    # A file that came from a peer is nobody's word.
    world.toolstack.files = {"/etc/xen/x.cfg.received": f"'{world.file}'"}
    assert (await world.ask(other))[0] == []
    await drop_chosen(world.host, volume="images:web-root", confirmed=True)
    assert not world.file.exists()


FREE = "name = 'evil'\nextra = 'qcow2 {0}'\nvnc = 1 # {0}\nvncpasswd = '{0}'\ndisk = [{1}]\n"
"""What a peer may have written: `{0}` in its words, `{1}` as disks."""


async def test_a_text_of_a_peer_keeps_no_volume_from_anybody(world: World) -> None:
    world.allow("b")
    offer = a_sync(overwrite=True)
    said = FREE.format(world.file, "'/srv/evil,qcow2,xvda,w'")
    world.toolstack.files = {"/etc/xen/evil.cfg": said}
    assert (await world.ask(offer))[0] == []
    (found,) = await imagery(world.host)
    assert not found.may_open(str(world.file), place_at(world.file))
    assert found.may_open("/srv/evil", place_at("/srv/evil"))
    world.toolstack.files = {"/etc/xen/evil.cfg": FREE.format("", f"'phy:{world.file},xvda,w'")}
    assert (await world.ask(offer))[0] == ["guest-here"]


@pytest.mark.parametrize(
    "name", ["received", "2.received", "received.replaced", "received.2.replaced"]
)
async def test_what_waits_for_its_operator_is_no_imagery(world: World, name: str) -> None:
    name = f"/etc/xen/x.cfg.{name}"
    world.toolstack.files = {name: f"disk = ['{world.file},qcow2,xvda,w']"}
    assert await imagery(world.host) == []


async def test_only_copies_of_the_file_set_aside_do_not_count(world: World) -> None:
    def text(*disks: str) -> str:
        return f"name = 'web'\ndisk = {[f'phy:{disk},xvda,w' for disk in disks]}\n"

    guest = a_guest().guest
    mine, other = str(world.file), "/srv/other"
    for aside, beside, counts in (
        ((mine,), (mine,), False),
        ((mine, other), (mine,), False),
        ((other,), (mine,), True),
        ((other,), (mine, other), True),
        (None, (mine,), True),
    ):
        world.toolstack.files = {"/etc/xen/old.cfg": text(*beside)}
        if aside is not None:
            world.toolstack.files["/etc/xen/web.cfg.moved"] = text(*aside)
        found = await needs(world.host, coming=guest)
        assert bool(found.users(world.info)) is counts, (aside, beside)
    world.toolstack.files["/etc/xen/web.cfg.moved"] = f"uuid = '{'9' * 32}'\n{text(mine)}"
    assert (await needs(world.host, coming=guest)).users(world.info), "another guest's"


async def test_a_file_without_disks_is_no_copy_of_the_one_set_aside(world: World) -> None:
    """Nothing tells that it is not of another guest, which has the name now."""
    plain = "name = 'web'\nmemory = 512\n"
    world.toolstack.files = {
        "/etc/xen/old.cfg": plain,
        "/etc/xen/web.cfg.moved": f"{plain}disk = ['phy:{world.file},xvda,w']\n",
    }
    assert "/etc/xen/old.cfg" in (await needs(world.host, coming=a_guest().guest)).texts


async def test_a_guest_that_cannot_be_described_may_need_anything(world: World) -> None:
    world.allow("b")
    status, _ = running("strange", "/dev/null")
    world.toolstack.here = [(status, ToolstackError("no JSON"))]
    assert (await world.ask(a_sync(overwrite=True)))[0] == ["guest-unclear"]


async def test_what_is_not_known_is_emptied_before_anything_comes(world: World) -> None:
    world.allow("b")
    await world.open(a_guest(overwrite=True), zeroed=True)
    assert world.file.read_bytes() == bytes(2 * MIB)
    holding = await world.journal.holding("images", "web-root")
    assert holding is not None
    assert (holding.owner, holding.guest) == (UUID, "web")


async def test_a_known_copy_is_left_as_it_is(world: World) -> None:
    await world.note(since=1.0, place="b")
    await world.open(a_guest(), zeroed=False)
    assert world.file.read_bytes().startswith(SECRET)


async def test_what_was_promised_is_looked_at_again_when_it_is_open(world: World) -> None:
    world.allow("b")
    await world.note(since=1.0, place="b")
    assert await world.ask(a_guest()) == ([], True)
    # In between it went home and out to another host.
    await world.note(since=2.0, place="c")
    with pytest.raises(Obstructed):
        await world.open(a_guest(), zeroed=False)
    with pytest.raises(Obstructed):  # it may be overwritten now, and was to be compared
        await world.open(a_guest(overwrite=True), zeroed=False)
    assert world.file.read_bytes().startswith(SECRET)


@pytest.mark.parametrize("form", [Form.CONTENT, Form.IMAGE])
async def test_nobody_writes_over_an_image_as_long_as_it_is_there(world: World, form: Form) -> None:
    world.allow("b")
    await world.note(since=1.0, place="b", migration="m", moved_by="m", form=form)
    back = a_guest(overwrite=True)
    assert await world.ask(back) == (["volume-image"], False)
    assert await world.ask(a_sync(overwrite=True)) == (["volume-image"], False)
    with pytest.raises(Obstructed):
        await world.open(back, zeroed=True)
    world.write(b"an operator's, since")
    assert await world.ask(back) == (["volume-image"], False)
    # An operator removes it.
    world.file.rename(world.file.with_name("elsewhere"))
    world.file.write_bytes(SECRET.ljust(2 * MIB, b"\0"))
    assert await world.ask(back) == ([], False)


@pytest.mark.parametrize("form", [Form.CONTENT, Form.IMAGE])
async def test_an_image_is_a_copy_of_what_its_guest_saw_and_of_nothing_else(
    world: World, form: Form
) -> None:
    back, qcow2, vhd = a_guest(overwrite=True), ImageFormat.QCOW2, ImageFormat.VHD
    went = {"since": 1.0, "place": "b", "migration": "m", "moved_by": "m", "form": form}
    await world.note(**went)  # by an earlier release, which does not say of which format
    assert await world.ask(back, here=qcow2) == (["volume-image"], False)
    await world.note(**went, format="qcow2")
    assert await world.ask(back, here=qcow2) == ([], True)
    assert await world.ask(back) == (["volume-image"], False)
    assert await world.ask(back, here=vhd) == (["volume-image"], False)
    assert await world.ask(back, "c", here=qcow2) == (["volume-image"], False)
    assert await world.ask(a_sync(overwrite=True), here=qcow2) == (["volume-image"], False)
    other = a_guest(str(uuid4()), overwrite=True)
    assert await world.ask(other, here=qcow2) == (["volume-image"], False)
    as_it_is = replace(back.volumes[0], format=qcow2)
    assert await world.ask(replace(back, volumes=(as_it_is,)), here=qcow2) == (
        ["volume-image"],
        False,
    )
    world.write(b"an operator's, since")
    assert await world.ask(back, here=qcow2) == (["volume-image"], False)
    await world.note(**{**went, "since": None}, format="qcow2")
    assert await world.ask(back, here=qcow2) == (["volume-image", "guest-here"], False)


async def test_an_image_that_nothing_tells_from_others_is_known_by_its_name(world: World) -> None:
    world.allow("b")
    unknown = VolumeIdentity("")
    await world.note(since=1.0, place="b", identity=unknown, form=Form.CONTENT)
    assert await world.ask(a_guest(overwrite=True)) == (["volume-image"], False)


async def test_an_operator_may_drop_an_image_that_is_kept(world: World) -> None:
    await world.note(since=1.0, place="b", form=Form.CONTENT)
    await drop_chosen(world.host, volume="images:web-root", confirmed=True)
    assert not world.file.exists()


async def test_broken_off_half_emptied_it_is_nobodys_and_emptied_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.allow("b")
    await world.note(since=1.0, place="c", owner="another", guest="db")

    def fail(volume: RawFile, offset: int, length: int) -> None:
        raise VolumeError("the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(RawFile, "zero", fail)
        with pytest.raises(VolumeError):
            await world.open(a_sync(overwrite=True), zeroed=True)
    holding = await world.journal.holding("images", "web-root")
    assert holding is not None
    assert (holding.owner, holding.since, holding.place) == (NOBODY, None, "b")
    await world.journal.retain("f" * 32, "b", moved=False)
    assert await world.journal.retained() == []
    # Who was allowed to have it emptied may go on without a word; its bytes go to nobody.
    assert await world.ask(a_sync()) == ([], False)
    assert await world.ask(a_sync(), "c") == (["volume-exists"], False)
    assert await world.ask(a_guest("another"), "c") == (["volume-exists"], False)
    world.write(b"an operator's, since")
    world.peers["b"] = replace(world.peers["b"], allow=Allow(pools=("images",)))
    assert await world.ask(a_sync()) == (["volume-exists"], False)
    with pytest.raises(Obstructed):
        await world.open(a_sync(), zeroed=True)
    world.allow("b")
    await world.open(a_sync(overwrite=True), zeroed=True)
    assert world.file.read_bytes() == bytes(2 * MIB)


async def test_after_a_crash_nobody_knows_what_is_in_a_volume_that_was_emptied(
    world: World,
) -> None:
    await world.note(owner=NOBODY, guest="", place="b", written=None)
    assert await world.ask(a_sync()) == (["volume-exists"], False)
    world.allow("b")
    await world.open(a_sync(overwrite=True), zeroed=True)
    assert world.file.read_bytes() == bytes(2 * MIB)


async def test_emptying_ends_when_nobody_waits_for_it_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.allow("b")
    monkeypatch.setattr("xenmoved.migration.target.filling._PIECE", 65536)
    zero, pieces = RawFile.zero, []
    landing = Landing(world.host, "b", "f" * 32)

    def counted(volume: RawFile, offset: int, length: int) -> None:
        pieces.append(offset)
        zero(volume, offset, length)
        if len(pieces) == 3:
            landing.give_up()

    monkeypatch.setattr(RawFile, "zero", counted)
    place = Placement("images", "web-root", fresh=False, zeroed=True, size=2 * MIB)
    with pytest.raises(ProtocolError, match="given up"):
        await landing.provision(a_sync(overwrite=True), [place])
    await landing.stop()
    assert pieces == [0, 65536, 131072]
    assert "emptying images:web-root" in landing.doing.doing
    assert landing.doing.steps >= 3


async def test_a_new_volume_with_old_bytes_is_emptied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plain logical volume is, which has what was on its part of the disk before."""
    create = DirectoryPool.create

    def made_of_old_bytes(pool: DirectoryPool, name: str, size: int) -> VolumeInfo:
        create(pool, name, size)
        (world.file.parent / name).write_bytes(SECRET.ljust(size, b"\xa5"))
        info = pool.find(name)
        assert info is not None
        return info

    monkeypatch.setattr(DirectoryPool, "create", made_of_old_bytes)
    monkeypatch.setattr(DirectoryPool, "makes_zeros", False)
    landing = Landing(world.host, "b", "f" * 32)
    place = Placement("images", "new", fresh=True, zeroed=True, size=MIB)
    await landing.provision(a_sync(), [place])
    await landing.stop()
    assert (world.file.parent / "new").read_bytes() == bytes(MIB)


async def test_what_came_without_a_guest_is_known_until_it_is_written_to(world: World) -> None:
    await world.note(owner="sync from b", guest="", migration="f" * 32)
    assert await world.ask(a_sync()) == ([], True)
    assert await world.ask(a_sync(), "c") == (["volume-exists"], False)
    await world.open(a_sync(), zeroed=False)  # broken off, which is noted
    assert await world.ask(a_sync()) == ([], True)
    world.write(b"a guest of this host")
    assert await world.ask(a_sync()) == (["volume-exists"], False)


@pytest.mark.parametrize(("offer", "said"), [(a_sync(), {"owner": "sync from b", "guest": ""}),
                                             (a_guest(), {"since": 1.0, "place": "b"})],
                         ids=["sync", "guest"])  # fmt: skip
async def test_nothing_is_known_of_what_is_being_written(
    world: World, offer: Offer, said: dict[str, Any]
) -> None:
    """Nor after a crash in that, whenever it comes."""
    await world.note(**said)
    landing = Landing(world.host, "b", "f" * 32)
    place = Placement("images", "web-root", fresh=False, zeroed=False, size=2 * MIB)
    assert await world.ask(offer) == ([], True)
    await landing.provision(offer, [place])
    assert await world.ask(offer) == (["volume-exists"], False)
    await landing.note_filled()
    assert await world.ask(offer) == ([], True)
    world.write(b"a guest of this host")
    await landing.stop()  # much later, as the peer likes
    assert await world.ask(offer) == (["volume-exists"], False)


async def test_what_somebody_writes_meanwhile_is_no_copy(world: World) -> None:
    await world.note(owner="sync from b", guest="")
    landing = Landing(world.host, "b", "f" * 32)
    place = Placement("images", "web-root", fresh=False, zeroed=False, size=2 * MIB)
    await landing.provision(a_sync(), [place])
    world.write(b"somebody who locks nothing")
    await landing.stop()
    assert await world.ask(a_sync()) == (["volume-exists"], False)


async def test_a_volume_that_is_refused_is_not_noted(world: World) -> None:
    await world.note(owner="sync from b", guest="")
    world.write(b"an operator's")
    with pytest.raises(Obstructed):
        await world.open(a_sync(), zeroed=False)
    assert await world.ask(a_sync()) == (["volume-exists"], False)
