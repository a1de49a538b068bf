"""What a peer may try to have with a guest that it may send: the place of one that is at home."""

import asyncio
import copy
import itertools
import signal
from dataclasses import replace

import pytest
import yaml

from protocol.handover import Word
from protocol.messages import Accepted, Commit, Failed, HandOver, Ready, Receiving, Refused
from storage.identify import file_identity
from storage.shared_identity import shared_identity
from tests.integration.test_hostile_guest import come, went, with_file
from tests.integration.test_hostile_ids import OTHERS, an_outbound, write_down
from tests.integration.test_hostile_peer import (
    SIZE,
    guest,
    make_image,
    running,
    saved,
    shared_offer,
    target,
    until_idle,
)
from tests.support.hostile import new_migration, transferring, with_config
from tests.support.journals import query
from xenmoved.toolstack.configs.compose import _HEAD as COMPOSED

__all__ = ["guest", "running", "saved", "target"]  # fixtures


@pytest.fixture
def folder(target, guest):
    """The host's folder of configurations, cleared of the guest's afterwards."""
    yield target.host.folder / "xen"
    for path in [*(target.host.folder / "xen").rglob(f"*{guest.name}*")]:
        if not path.is_dir():
            path.unlink()
    for path in (target.host.folder / "xen").glob("*.auto.*"):
        path.rmdir()
    for path in target.host.images.iterdir():
        path.unlink()


@pytest.mark.parametrize("called", ["{}.conf", "{}-vm", "my-{}.cfg"])
async def test_a_name_is_taken_whatever_its_file_is_called(target, guest, folder, called):
    disk = make_image(target.host.images / "its-own", 1)
    own = folder / called.format(guest.name)
    own.write_text(f"name='{guest.name}'\nuuid='{OTHERS}'\ndisk=['{disk},raw,xvda,w']\n")
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert isinstance(said, Refused), said
        assert {one.code for one in said.problems} == {"guest-exists"}


@pytest.mark.parametrize("entry", [True, False], ids=["with an entry", "without one"])
async def test_a_file_that_is_put_there_meanwhile_stays(target, guest, folder, entry):
    """A guest of that name and uuid is brought back by an operator, off, while one comes."""
    own = folder / f"{guest.name}.cfg"
    offer = with_file(guest, "memory = 2\n", autostart=True)
    async with transferring(target.evil, offer) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        disk = make_image(target.host.images / "its-own", 1)
        own.write_text(
            text := f"name='{guest.name}'\nuuid='{guest.uuid}'\ndisk=['{disk},raw,xvda,w']\n"
        )
        if entry:
            (folder / "auto" / own.name).symlink_to(f"../{own.name}")
        await transfer.copy(0)
        assert isinstance(await transfer.control.ask(HandOver(offer.guest.size)), Receiving)
        said = await transfer.control.ask(await transfer.send_memory(guest.image))
        if isinstance(said, Ready):
            await transfer.control.ask(Commit(transfer.migration))
    await until_idle(target)
    target.host.xen.xl("destroy", guest.name)
    assert own.read_text() == text
    assert (folder / f"{guest.name}.cfg.received").exists()


@pytest.mark.parametrize("disk_is", ["made for it", "left by it", "emptied for it"])
@pytest.mark.parametrize("form", [*itertools.product(["", "composed"], [False, True])], ids=str)
async def test_only_a_disk_that_stayed_brings_anything_back(target, guest, folder, form, disk_is):
    """The guest left for another host, and its copy here was dropped: the name of that is free.

    Unless the peer leaves something there itself, or may have what is there emptied.
    """
    aside = folder / f"{guest.name}.cfg.moved"
    entries = folder / f"{guest.name}.auto.moved"
    entries.mkdir()
    entry = entries / f"00-{guest.name}.cfg"
    entry.symlink_to(f"../{guest.name}.cfg")
    file, with_uuid = form
    said_uuid = f"uuid='{guest.uuid}'\n" if with_uuid else ""
    disk = f"disk=['{target.host.images}/{guest.name}-xvda,raw,xvda,w']\n"
    aside.write_text(left := f"name='{guest.name}'\n{said_uuid}memory=2\n{disk}")
    offer = replace(guest.offer(SIZE), overwrite=disk_is == "emptied for it")
    if file == "composed":
        path = guest.config["disks"][0]["pdev_path"]
        text = f"{COMPOSED}name = '{guest.name}'\nmemory = 2\ndisk = ['{path},raw,xvda,w']\n"
        offer = replace(offer, guest=replace(offer.guest, config=text.encode(), autostart=True))
    if disk_is == "left by it":
        async with transferring(target.evil, offer) as transfer:
            assert isinstance(await transfer.begin(keep_partial=True), Accepted)
            await transfer.copy()
        await until_idle(target)
    elif disk_is == "emptied for it":
        gone = an_outbound(new_migration(), guest.name, guest.uuid, "done")
        write_down(target, "outbound", **gone)
        volume = make_image(target.host.images / f"{guest.name}-xvda", 1)
        write_down(
            target,
            "owners",
            **{"pool": "images", "name": volume.name, "owner": guest.uuid, "guest": guest.name},
            **{"identity": str(file_identity(volume)), "migration": gone["migration"]},
            **{"moved_by": gone["migration"], "since": 1.0, "place": "good"},
        )
        target.evil.introduce(overwrite=True)
    try:
        async with come(target, guest, offer) as (said, _):
            assert getattr(said, "word", None) is Word.STARTED, said
            assert aside.read_text() == left
            assert entry.is_symlink()
    finally:
        target.evil.introduce()
        entry.unlink(missing_ok=True)


async def test_the_copy_of_a_guest_that_is_lost_is_the_last_one(target, guest, folder):
    """It was handed over and given up, and never ran there: now it comes again from that host."""
    volume = target.host.images / f"{guest.name}-xvda"
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy(head=b"the last copy")
    await until_idle(target)
    row = an_outbound(new_migration(), guest.name, guest.uuid, "lost") | {"peer": "evil"}
    write_down(target, "outbound", **row)
    try:
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Refused)
        assert volume.read_bytes().startswith(b"the last copy")
    finally:
        query(target.host, "DELETE FROM outbound WHERE migration=?", row["migration"])


@pytest.mark.parametrize("called", ["{}.cfg", "{}-again.cfg"])
async def test_a_copy_that_an_operator_has_a_file_for_again_stays(target, guest, folder, called):
    volume = target.host.images / f"{guest.name}-xvda"
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy(head=b"the copy")
    await until_idle(target)
    text = f"name='{guest.name}'\nmemory=2\ndisk=['{volume},raw,xvda,w']\n"
    (folder / f"{guest.name}.cfg.moved").write_text(text)
    await asyncio.sleep(0.05)  # the clock of the file system
    (folder / called.format(guest.name)).write_text(f"{text}extra='single'\n")
    with went(target, guest):
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Refused)
    assert volume.read_bytes().startswith(b"the copy")


@pytest.mark.thorough
async def test_a_shared_disk_that_becomes_a_link_is_not_opened(target, guest, folder, tmp_path):
    """The peer has the file system mounted, too, and may change what is on it at any time."""
    data = make_image(tmp_path / "data.img", 1)
    others = make_image(target.host.images / "others", 1)
    file = target.host.config_file.parent / "peers.d" / "evil.yaml"
    written = file.read_text()
    shares = {**yaml.safe_load(written), "shared": [f"{tmp_path}/*.img"]}
    config = copy.deepcopy(guest.config)
    config["disks"].append({"pdev_path": str(data), "vdev": "xvdz", "format": "raw"})
    config["disks"][-1]["readwrite"] = 1
    size = data.stat().st_size
    disk = shared_offer(path=str(data), size=size, identity=str(shared_identity(str(data))))
    offer = guest.offer(SIZE)
    offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
    try:
        await reread(target, file, yaml.safe_dump(shares))
        async with transferring(target.evil, offer) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            await transfer.copy(0)
            assert isinstance(await transfer.control.ask(HandOver(offer.guest.size)), Receiving)
            seal = await transfer.send_memory(with_config(guest.image, config))
            data.unlink()
            data.symlink_to(others)
            said = await transfer.control.ask(seal)
            assert isinstance(said, Failed), said
            assert "has become a link" in said.problem.text
    finally:
        await reread(target, file, written)


async def reread(target, file, text):
    """Have the daemon read another entry of a peer."""
    file.write_text(text)
    target.host.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(1)
