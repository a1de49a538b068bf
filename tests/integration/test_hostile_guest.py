"""What a peer may try with a guest that it may send: its disks, its file, and what they say."""

import asyncio
import contextlib
import copy
from dataclasses import replace

import pytest

from protocol.handover import Word
from protocol.messages import (
    Accepted,
    Commit,
    Failed,
    Findings,
    HandOver,
    Ready,
    Receiving,
    Refused,
)
from tests.integration.test_hostile_peer import (
    MIB,
    SIZE,
    guest,
    make_image,
    running,
    saved,
    shared_offer,
    target,
)
from tests.support.hostile import greeted, transferring, with_config
from xenmoved.control.api import ListJobs
from xenmoved.link.errors import LinkLost

__all__ = ["guest", "running", "saved", "target"]  # fixtures


def with_file(guest, lines, **said):
    """Offer a guest with a configuration file of some lines beside its name and disk."""
    path = guest.config["disks"][0]["pdev_path"]
    text = f"name = '{guest.name}'\n{lines}disk = ['{path},raw,xvda,w']\n"
    offer = guest.offer(SIZE)
    config = text.encode("utf-8", "surrogateescape")
    return replace(offer, guest=replace(offer.guest, config=config, **said))


@contextlib.asynccontextmanager
async def come(target, guest, offer, image=None):
    """Send a guest; gives what was said last, and what is in the folder of configurations."""
    folder = target.host.folder / "xen"
    try:
        said = await sent(target, offer, image or guest.image)
        yield said, {path.name: path for path in folder.rglob("*") if path.suffix != ".sh"}
    finally:
        with contextlib.suppress(Exception):
            target.host.xen.xl("destroy", guest.name)
        for path in [*folder.rglob(f"*{guest.name}*"), *target.host.images.iterdir()]:
            path.unlink()


async def sent(target, offer, image):
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        if not isinstance(said, Accepted):
            return said
        await transfer.copy()
        assert isinstance(await transfer.control.ask(HandOver(offer.guest.size)), Receiving)
        try:
            seal = await transfer.send_memory(image)
        except LinkLost:
            return await transfer.control.hear()
        said = await transfer.control.ask(seal)
        if not isinstance(said, Ready):
            return said
        fate = await transfer.control.ask(Commit(transfer.migration))
    async with asyncio.timeout(10):
        while target.host.ask(ListJobs(ended=False)).jobs:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.05)
    return fate


async def test_a_disk_of_another_guest_is_no_cdrom(target, guest):
    """Nor is it told whether there is one of some size."""
    make_image(target.host.images / "others", 1)
    disk = shared_offer(home="images", name="others", cdrom=True, writable=False, path="/x")
    offer = guest.offer(SIZE)
    said = []
    async with target.evil.linked() as link:
        control = await greeted(link)
        for size in (7, SIZE):
            wanted = replace(offer.guest, shared=(replace(disk, size=size),))
            found = await control.ask(replace(offer, guest=wanted))
            assert isinstance(found, Findings)
            said.append(found.problems)
    ((problem,), same) = said
    assert same == (problem,)
    assert "others on target is no image of a CD-ROM" in problem.text
    (target.host.images / "others").unlink()


TOO_LARGE = {
    "plain": "memory = 65536\n",
    "no-number": "memory = ''\nmaxmem = 65536\n",
    "vcpus": "vcpus = ''\nmaxvcpus = 99\n",
    "unseen": "memory = 65536\nvif = ['bridge=xenbr0,foo=\t1']\n",
}


@pytest.mark.parametrize("lines", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_no_file_starts_a_guest_that_is_larger_than_allowed(target, guest, lines):
    target.evil.introduce(memory=64 * MIB, vcpus=2)
    try:
        offer = with_file(guest, lines, autostart=True, boot_order="0-")
        async with come(target, guest, offer) as (said, files):
            assert isinstance(said, Refused) or f"{guest.name}.cfg.received" in files
            assert f"{guest.name}.cfg" not in files and f"0-{guest.name}.cfg" not in files
    finally:
        target.evil.introduce()


OWN = {
    "script": "disk = ['drbd:web,xvda,w']\n",
    "image": "disk = ['tap:qcow2:/srv/web.qcow2,xvda,w']\n",
    "program": "import os\ndisk = ['phy:/dev/vg/web,xvda,w']\n",
    "diskless": "kernel = '/boot/vmlinuz'\n",
    "plain": "disk = ['phy:/dev/vg/web,xvda,w']\n",
}


@pytest.mark.parametrize("bare", [False, True], ids=["with a disk", "without disks"])
@pytest.mark.parametrize("lines", OWN.values(), ids=OWN)
async def test_the_file_of_another_guest_that_is_off_stays(target, guest, lines, bare):
    """It has the name of the one that comes, no uuid, and disks that nobody may understand."""
    folder = target.host.folder / "xen"
    own, entry = folder / f"{guest.name}.cfg", folder / "auto" / f"{guest.name}.cfg"
    own.write_text(text := f"name = '{guest.name}'\n{lines}")
    entry.symlink_to(f"../{own.name}")
    offer = with_file(guest, "", autostart=True)
    offer = replace(offer, volumes=()) if bare else offer
    async with come(target, guest, offer) as (said, _):
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-exists"]
        assert own.read_text() == text and entry.readlink().name == own.name


async def test_no_domain_is_kept_beside_the_one_that_takes_its_place(target, guest):
    config = copy.deepcopy(guest.config)
    config["on_reboot"] = "restart_rename"
    image, offer = (
        with_config(guest.image, config),
        with_file(guest, "on_reboot='rename-restart'\n"),
    )
    async with come(target, guest, offer, image) as (said, files):
        assert said.word is Word.STARTED
        assert "on_reboot='restart'" in files[f"{guest.name}.cfg"].read_text()
        (job,) = [one for one in target.host.ask(ListJobs(True)).jobs if one.guest == guest.name]
        assert any("the domain kept by on_reboot" in one.text for one in job.remarks)


async def test_what_is_no_utf_8_is_told_all_the_same(target, guest):
    config = copy.deepcopy(guest.config)
    config["c_info"]["\ud800"] = "1"
    async with come(target, guest, guest.offer(SIZE), with_config(guest.image, config)) as (
        said,
        _,
    ):
        assert isinstance(said, Failed)
        assert "c_info.?" in said.problem.text
    await target.clean()


async def test_a_file_that_is_slow_to_read_holds_up_nobody(target, guest):
    offer = with_file(guest, f"#{'c#' * 30000}\nkernel = '../../{'**/' * 20}x'\n")
    async with target.serving_others(), target.evil.linked() as link:
        assert isinstance(await (await greeted(link)).ask(offer), Findings)
