"""What a peer may try with what is a guest's here while that guest leaves for another host."""

import contextlib
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import MIB, QUIET, image, unique
from tests.support.hostile import Stranger, Transfer, greeted, sync_offer, volume_offer
from xenmoved.choices import CdromChoice
from xenmoved.control.api import AbortJob
from xenmoved.control.peer_api import RemovePeer
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until

LARGE = 9000
"""MiB of which a host of 16 GiB has room for one."""


def guest_off(host, name, size, memory=64, *, cdrom=None, called=None):
    """Have a guest that is off, and is started at boot; its file is `called` so, else like it."""
    disks = [f"{image(host.images / f'{name}-root', size)},raw,xvda,w"]
    disks += [f"{cdrom},raw,hdc:cdrom,r"] if cdrom is not None else []
    said = f"name = '{name}'\nuuid = '{uuid.uuid4()}'\nmemory = {memory}\ndisk = {disks}\n"
    (file := host.guest_configs / f"{called or name}.cfg").write_text(said)
    (host.guest_configs / "auto" / file.name).symlink_to(Path("..") / file.name)
    return file


@contextlib.contextmanager
def leaving(host, name, called=None, **options):
    """Have a guest leave that is off, slowly; in the end it does not."""
    file = host.guest_configs / f"{called or name}.cfg"
    before = file.read_bytes()
    job = host.begin(name, "host-b", mode=Mode.COLD, rate_limit=2 * MIB, **options)
    try:
        wait_until(lambda: not file.exists(), f"{file} is set aside")
        yield
        assert not file.exists(), "it has not ended by itself"
    finally:
        host.ask(AbortJob(job.job))
        assert host.finish(job.job).state is JobState.ABORTED
        assert file.read_bytes() == before


@contextlib.contextmanager
def a_stranger(host, **allow):
    stranger = Stranger(host, "evil")
    stranger.introduce(**allow)
    try:
        yield stranger
    finally:
        host.ask(RemovePeer("evil"))


async def refused(stranger, offer):
    """Have a peer want a volume; returns why it may not."""
    async with stranger.linked() as link:
        found = await (await greeted(link)).ask(offer)
        said = await Transfer(link, await greeted(link), offer).begin()
        assert said.problems == found.problems
        return {problem.code for problem in found.problems}


@pytest.mark.parametrize("there", [True, False], ids=["to be emptied", "to be made"])
async def test_what_the_file_of_a_guest_that_leaves_names_is_not_given_away(hosts, cleanup, there):
    """A CD-ROM is not copied, and its guest may stay."""
    a, _ = hosts
    name = unique("operators")
    cdrom = a.images / f"{name}-tool"
    guest_off(a, name, 64, cdrom=image(cdrom, 1))
    before = cdrom.read_bytes()
    offer = replace(sync_offer(volume_offer(cdrom.name, MIB)), overwrite=True)
    with a_stranger(a, overwrite=True) as evil:
        assert await refused(evil, offer) == {"guest-here"}
        with leaving(a, name, cdrom=CdromChoice.EJECT):
            if not there:
                cdrom.unlink()
            assert await refused(evil, offer) == {"guest-here"}
    assert (cdrom.read_bytes() == before) if there else not cdrom.exists()


async def test_what_is_started_at_boot_leaves_room_for_a_guest_that_may_stay(hosts, cleanup):
    a, b = hosts
    name, other = unique("operators"), unique("peers")
    guest_off(a, name, 64, LARGE)
    guest_off(b, other, 1, LARGE)
    with leaving(a, name):
        b.migrate(other, "host-a", mode=Mode.COLD)
    assert [entry.name for entry in (a.guest_configs / "auto").iterdir()] == [f"{name}.cfg"]
    assert f"{other} is not started at boot on host-a: it takes" in a.log()


@pytest.mark.parametrize("mode", [Mode.COLD, Mode.SAVE])
async def test_the_place_of_a_file_that_is_set_aside_is_nobody_elses(hosts, cleanup, mode):
    """A peer may call its guest as that file is called."""
    a, b = hosts
    name, other = unique("operators"), unique("peers")
    text = guest_off(a, name, 64, called=other).read_text()
    if mode is Mode.COLD:
        guest_off(b, other, 1)
    else:
        b.boot(other, [image(b.images / f"{other}-root", 1)], extra=QUIET)
    with leaving(a, name, called=other):
        (problem,) = b.try_migrate(other, "host-a", mode=mode).problems
        assert (problem.code, name in problem.text) == ("guest-exists", False)
    assert (a.guest_configs / "auto" / f"{other}.cfg").read_text() == text
    assert not list(a.guest_configs.glob("*.moved"))


async def test_a_guest_that_was_accepted_before_does_not_get_that_place(hosts, cleanup):
    a, b = hosts
    name, other = unique("operators"), unique("peers")
    text = guest_off(a, name, 64, called=other).read_text()
    guest_off(b, other, 16)
    coming = b.begin(other, "host-a", mode=Mode.COLD, rate_limit=2 * MIB)
    wait_until((a.images / f"{other}-root").exists, "it was accepted")
    with leaving(a, name, called=other):
        report = b.finish(coming.job)
        assert report.state is JobState.DONE
        assert "config-received" in {one.code for one in report.remarks}
    (entry,) = (a.guest_configs / "auto").iterdir()
    assert entry.read_text() == text
    assert (a.guest_configs / f"{other}.cfg.received").exists()


SAYS_NO_NAME = {"program": "vm = 'x'\nname = vm\nmemory = 7 * 1024\n", "plain": "memory = 512\n"}


@pytest.mark.parametrize("text", SAYS_NO_NAME.values(), ids=SAYS_NO_NAME)
async def test_a_guest_that_is_called_like_an_entry_does_not_come(hosts, cleanup, tmp_path, text):
    """Nobody can tell whether the entry is its own, and it would leave with the guest."""
    a, b = hosts
    name = unique("prod")
    (file := tmp_path / "file").write_text(text)
    (entry := a.guest_configs / "auto" / f"10-{name}.cfg").symlink_to(file)
    b.boot(name, [image(b.images / f"{name}-root", 4)], extra=QUIET)
    (problem,) = b.try_migrate(name, "host-a").problems
    assert problem.code == "guest-here"
    assert f"{entry} on host-a has the uuid or name of {name}" in problem.text
    assert "take it out of auto" in problem.hint
    assert entry.readlink() == file
    assert not list(a.guest_configs.glob(f"{name}*"))


@pytest.mark.parametrize("text", SAYS_NO_NAME.values(), ids=SAYS_NO_NAME)
async def test_a_guest_of_this_host_is_started_here_no_more_when_it_has_left(
    hosts, cleanup, tmp_path, text
):
    """By an entry that only has its name: the operator is told."""
    a, b = hosts
    name = unique("own")
    (file := tmp_path / "file").write_text(text)
    (entry := a.guest_configs / "auto" / f"10-{name}.cfg").symlink_to(file)
    a.boot(name, [image(a.images / f"{name}-root", 4)], extra=QUIET)
    report = a.migrate(name, "host-b")
    assert f"{entry} does not say which guest it starts" in repr(report.remarks)
    assert not list(entry.parent.iterdir())
    b.migrate(name, "host-a")
    assert entry.readlink() == Path("..") / f"{name}.cfg"
    kept = a.guest_configs / f"{name}.auto.moved" / f"{entry.name}.replaced"
    assert kept.readlink() == file


async def test_a_guest_whose_file_says_no_name_keeps_no_other_away(hosts, cleanup):
    """By an entry that is called as the other one is."""
    a, b = hosts
    name = unique("own")
    disk = image(b.images / f"{name}-root", 1)
    (file := b.guest_configs / f"{name}.cfg").write_text(
        f"memory = 64\ndisk = ['{disk},raw,xvda,w']"
    )
    (b.guest_configs / "auto" / f"3{name}.cfg").symlink_to(Path("..") / file.name)
    b.migrate(name, "host-a", mode=Mode.COLD)
    assert (a.guest_configs / f"{name}.cfg").read_text().endswith(f"\nname = '{name}'\n")
    other = f"3{name}"
    b.boot(other, [image(b.images / f"{other}-root", 1)], extra=QUIET)
    assert b.migrate(other, "host-a").state is JobState.DONE
