"""What a peer may try with ids and names that it knows, of migrations and guests of others."""

import asyncio
import copy
import json
from dataclasses import replace
from uuid import uuid4

import pytest

from protocol.handover import Word
from protocol.messages import Accepted, Failed, Fate, Finish, Finished, Inquire, Refused
from tests.integration.test_hostile_guest import at_home, come, with_file
from tests.integration.test_hostile_peer import (
    QUICKLY,
    SIZE,
    guest,
    make_image,
    running,
    saved,
    target,
)
from tests.support.hostile import (
    Guest,
    greeted,
    new_migration,
    sync_offer,
    transferring,
    volume_offer,
    with_config,
)
from tests.support.journals import query
from xenmoved.migration.target.guests_left import MOST_BARE_GUESTS
from xenmoved.sandbox.harness import EmulatedHost
from xenmoved.toolstack.configs.installing import MOST_RECEIVED

__all__ = ["at_home", "guest", "running", "saved", "target"]  # fixtures

OTHERS = "5d8c2bb0-2dd9-4d4a-9f80-3f5a0a7e1b11"


def write_down(target, table, **row):
    """Put a row into the journal of the host."""
    columns = ", ".join(row)
    values = ", ".join("?" * len(row))
    query(target.host, f"INSERT INTO {table} ({columns}) VALUES ({values})", *row.values())


def an_outbound(migration, guest="theirs", uuid=OTHERS, state="done", settled=1):
    return {
        "migration": migration,
        "state": state,
        "guest": guest,
        "peer": "good",
        "job": "00000009",
        "settled": settled,
        "updated": 0.0,
        "uuid": uuid,
    }


def a_copy(migration, column):
    return {"pool": "images", "name": f"{column} {migration}", "owner": OTHERS, column: migration}


KNOWN = {
    "a guest that left": ("outbound", an_outbound),
    "a retained copy": ("owners", lambda migration: a_copy(migration, "migration")),
    "a copy that came back": ("owners", lambda migration: a_copy(migration, "moved_by")),
    "a volume that was sent": ("syncs", lambda migration: {"migration": migration}),
}


@pytest.mark.parametrize(("table", "row"), KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("sync", [False, True], ids=["by a guest", "by a sync"])
async def test_an_id_that_was_used_here_is_not_used_again(target, guest, table, row, sync):
    """What belongs to it is in the spool and in the journal under that id alone."""
    migration = new_migration()
    write_down(target, table, **row(migration))
    theirs = target.host.folder / "state" / "spool" / migration
    theirs.mkdir()
    (theirs / "image").touch()
    offer = sync_offer(volume_offer("loot", SIZE)) if sync else guest.offer(SIZE)
    try:
        async with transferring(target.evil, offer) as transfer:
            transfer.migration = migration
            said = await transfer.begin()
            assert isinstance(said, Failed), said
            assert "begun before" in said.problem.text
        assert (theirs / "image").exists()
        assert not list(target.host.images.iterdir())
    finally:
        (theirs / "image").unlink()
        theirs.rmdir()


async def test_what_came_by_a_sync_is_not_removed_with_a_guest_of_its_id(target, guest):
    async with transferring(target.evil, sync_offer(volume_offer("synced", SIZE))) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.copy()
        assert isinstance(await transfer.control.ask(Finish()), Finished)
        migration = transfer.migration
    async with transferring(target.evil, guest.offer(SIZE)) as transfer:
        transfer.migration = migration
        assert isinstance(await transfer.begin(), Failed)
    assert (target.host.images / "synced").exists()
    (target.host.images / "synced").unlink()


@pytest.mark.parametrize("state", ["copying", "handing-over", "commit-sent", "aborted", "done"])
@pytest.mark.parametrize("known", ["by its name", "by its uuid"])
async def test_no_guest_takes_the_place_of_one_that_leaves(target, guest, state, known):
    """Its file is set aside then, and no domain may have its name."""
    migration = new_migration()
    name, uuid = (guest.name, OTHERS) if known == "by its name" else ("theirs", guest.uuid)
    write_down(target, "outbound", **an_outbound(migration, name, uuid, state, settled=0))
    try:
        async with transferring(target.evil, with_file(guest, "", autostart=True)) as transfer:
            said = await transfer.begin()
            assert isinstance(said, Refused), said
            (problem,) = said.problems
            assert problem.code == "guest-exists" and "not at its end" in problem.text
    finally:
        query(target.host, "DELETE FROM outbound WHERE migration=?", migration)


@pytest.mark.parametrize("away", ["{}--migratedaway", "migrating-{}", "{}--incoming"])
async def test_no_guest_takes_the_name_of_one_that_is_moved_by_hand(target, guest, away):
    name = away.format(guest.name)
    target.host.xen.create(name, [], memory=2)
    try:
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            said = await transfer.begin()
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-exists"]
    finally:
        target.host.xen.xl("destroy", name)


@pytest.mark.parametrize("lines", ["uuid", None], ids=["with a file", "without one"])
async def test_what_a_guest_left_here_is_not_for_who_says_its_uuid(target, guest, lines):
    folder = target.host.folder / "xen"
    copy = make_image(target.host.folder / "retained", 1)
    aside = folder / f"{guest.name}.cfg.moved"
    said_there = f"name = '{guest.name}'\nuuid = '{guest.uuid}'\ndisk = ['{copy},raw,xvda,w']\n"
    aside.write_text(said_there)
    offer = guest.offer(SIZE)
    if lines is not None:
        offer = with_file(guest, f"uuid = '{guest.uuid}'\n", autostart=True)
    async with come(target, guest, offer) as (said, files):
        assert said.word is Word.STARTED
        assert aside.read_text() == said_there
        assert (f"{guest.name}.cfg" in files) is (lines is not None)


async def test_who_went_away_vouches_for_no_other_of_its_name(target, guest):
    """One of this name went to the peer, and another one has left its file here since."""
    write_down(target, "outbound", **{**an_outbound(new_migration(), guest.name), "peer": "evil"})
    aside = target.host.folder / "xen" / f"{guest.name}.cfg.moved"
    aside.write_text(left := f"name = '{guest.name}'\ndisk = ['phy:/dev/vg/other,xvda,w']\n")
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert said.word is Word.STARTED
        assert aside.read_text() == left


ELSEWHERE = {
    "diskless": "kernel = '/boot/vmlinuz'\n",
    "iscsi": "disk = ['script=block-iscsi,vdev=xvda,access=w,target=iqn=a.b,portal=10.0.0.1']\n",
    "drbd": "disk = ['drbd:web,xvda,w']\n",
    "nbd": "disk = ['vdev=xvda,access=rw,script=block-nbd,target=10.0.0.1:1234']\n",
    "program": "import os\ndisk = ['phy:/dev/vg/web,xvda,w']\n",
}


@pytest.mark.parametrize("lines", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_a_guest_whose_disks_are_elsewhere_is_not_out_of_date(target, guest, lines):
    own = target.host.folder / "xen" / f"{guest.name}.cfg"
    own.write_text(text := f"name = '{guest.name}'\nuuid = '{guest.uuid}'\n{lines}")
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-here"]
        assert own.read_text() == text


@pytest.mark.parametrize("entry", ["auto/{}.cfg", "auto/03-{}.cfg", "{}.cfg", "{}"])
async def test_what_cannot_be_read_just_now_stays(target, guest, entry):
    """The operator's file is on a file system that is not mounted."""
    link = target.host.folder / "xen" / entry.format(guest.name)
    link.symlink_to(f"/mnt/nfs/{guest.name}.cfg")
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-exists"]
        assert str(link.readlink()).startswith("/mnt/nfs")


@pytest.mark.parametrize("guests", [("evil-*",), ("*",)])
async def test_no_name_is_told_that_a_peer_may_not_bring(target, guests):
    target.host.xen.create("secret", [], memory=2)
    uuid = next(
        line.split("'")[1]
        for line in (target.host.xen.root / "secret.cfg").read_text().splitlines()
        if "uuid" in line
    )
    target.evil.introduce(guests=guests)
    try:
        async with target.evil.linked() as link:
            fate = await (await greeted(link)).ask(Inquire(new_migration(), uuid, "evil-x"))
        assert isinstance(fate, Fate)
        assert ("secret" in fate.reason) is (guests == ("*",))
        assert "a domain of its uuid is there" in fate.reason
    finally:
        target.evil.introduce()
        target.host.xen.xl("destroy", "secret")


@pytest.fixture(scope="module")
def diskless(tmp_path_factory):
    """A saved image of a guest without disks."""
    folder = tmp_path_factory.mktemp("diskless")
    xen = EmulatedHost(folder / "xen")
    xen.create("web", [], memory=2, extra="sandbox.rate=0 sandbox.checks=0 sandbox.dirty=0")
    xen.xl("save", "web", str(folder / "image"))
    xen.stop()
    return (folder / "image").read_bytes()


def twin_of(guest, image):
    """Return a guest with the uuid of another, and a name of its own."""
    config = copy.deepcopy(guest.config)
    config["c_info"]["name"] = f"{guest.name}-evil"
    config["disks"] = []
    return Guest(with_config(image, config))


async def test_two_guests_of_one_uuid_never_come_at_the_same_time(target, guest, diskless):
    """After a restart the one that runs would be taken for the other, and that one dropped."""
    mine = twin_of(guest, diskless)
    async with transferring(target.evil, mine.offer(SIZE, ())) as evil:
        assert isinstance(await evil.begin(), Accepted)
        async with transferring(target.good, guest.offer(SIZE)) as good:
            said = await good.begin()
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-exists"]
    await target.clean()


@pytest.mark.thorough
async def test_who_runs_with_its_uuid_is_not_taken_for_a_guest_in_doubt(target, guest, diskless):
    """A Commit was sent, and the daemon is restarted: it is resumed here only if it runs here."""
    mine, migration = twin_of(guest, diskless), new_migration()
    victim = f"{guest.name}-gone"
    async with come(target, mine, mine.offer(SIZE, ())) as (said, _):
        assert said.word is Word.STARTED
        row = an_outbound(migration, victim, guest.uuid, "commit-sent", settled=0)
        write_down(target, "outbound", **row)
        await asyncio.to_thread(target.host.stop)
        await asyncio.to_thread(target.host.start, XENMOVED_LIMITS=QUICKLY)
        await asyncio.sleep(1)
        assert ("commit-sent", migration) in states(target)
    await asyncio.to_thread(target.host.stop)
    query(target.host, "DELETE FROM outbound WHERE migration=?", migration)
    query(target.host, "UPDATE jobs SET ended=1")
    await asyncio.to_thread(target.host.start, XENMOVED_LIMITS=QUICKLY)


def states(target):
    return query(target.host, "SELECT state, migration FROM outbound")


@pytest.mark.parametrize("end", [".cfg", ".cfg.moved", ".auto", ".received", ".replaced"])
async def test_no_guest_is_called_like_a_file_of_another(target, guest, end):
    evil = guest.named(f"{guest.name}{end}")
    async with transferring(target.evil, evil.offer(SIZE)) as transfer:
        said = await transfer.begin()
    assert isinstance(said, Refused), said
    assert "marks files of configurations" in said.problems[0].text


async def test_a_file_is_not_taken_with_a_disk_that_is_made_for_it(target, guest):
    """The operator's guest is off; one of its disks is here, and another one is not just now."""
    folder, images = target.host.folder / "xen", target.host.images
    own = folder / f"{guest.name}.cfg"
    root, swap = make_image(images / f"{guest.name}-root", 1), images / f"{guest.name}-swap"
    disks = f"disk = ['{root},raw,xvda,w', '{swap},raw,xvdb,w']"
    own.write_text(theirs := f"name = '{guest.name}'\n{disks}\n")
    offer = with_file(guest, "", autostart=True)
    offer = replace(offer, volumes=(replace(offer.volumes[0], name=swap.name),))
    async with come(target, guest, offer) as (said, _):
        assert isinstance(said, Refused), said
        assert {one.code for one in said.problems} == {"guest-here"}
        assert own.read_text() == theirs


async def test_a_former_uuid_of_a_guest_vouches_for_nobody(target, guest):
    """It had that one when it went to `evil`, came home, and has left for `good` with another."""
    aside = target.host.folder / "xen" / f"{guest.name}.cfg.moved"
    aside.write_text(left := f"name = '{guest.name}'\ndisk = ['phy:/dev/vg/other,xvda,w']\n")
    for uuid, peer, when in ((guest.uuid, "evil", 1.0), (OTHERS, "good", 2.0)):
        row = an_outbound(new_migration(), guest.name, uuid) | {"peer": peer, "updated": when}
        write_down(target, "outbound", **row)
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert said.word is Word.STARTED
        assert aside.read_text() == left


@pytest.mark.parametrize("wanted", ["theirs", "00000009", "00000"])
async def test_what_is_to_be_decided_is_found_without_a_report(running, wanted):
    """Reports of jobs that were begun since then may have pushed it out."""
    write_down(running, "outbound", **an_outbound(new_migration(), state="lost"))
    ctl = running.host.ctl
    assert "theirs" in ctl("recover").stdout
    assert ctl("recover", "nobody", "--resolved", "--yes").returncode == 3
    done = ctl("recover", wanted, "--resolved", "--yes")
    assert done.returncode == 0, done.stderr
    assert "theirs" not in ctl("recover").stdout


async def test_files_of_guests_that_are_off_and_have_no_disks_are_bounded(running, saved):
    folder = running.host.folder / "xen"
    details = {"keep_partial": False, "config": None, "autostart": False, "cold": True}
    for number in range(MOST_BARE_GUESTS):
        name, uuid = f"web-off{number}", str(uuid4())
        (folder / f"{name}.cfg").write_text(f"name = '{name}'\nuuid = '{uuid}'\n")
        known = json.dumps(details | {"name": name, "uuid": uuid, "disks": {}})
        row = {"migration": new_migration(), "state": "started", "peer": "evil", "reason": ""}
        row |= {"job": f"{number:08}", "details": known, "settled": 1, "updated": 0.0}
        write_down(running, "inbound", **row)
    coming = saved.named("web-next").offer(SIZE, ())
    try:
        async with transferring(running.evil, coming) as transfer:
            said = await transfer.begin()
            assert isinstance(said, Refused), said
            (problem,) = said.problems
            assert problem.code == "guests-off"
            assert "has 64 guests of evil that are off and have no disks" in problem.text
        async with transferring(running.good, coming) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
        # One that ran, and whose text is not used, leaves that.
        (folder / "web-off7.cfg").rename(folder / "web-off7.cfg.2.received")
        async with running.evil.linked() as link:
            found = await (await greeted(link)).ask(saved.named("web-other").offer(SIZE, ()))
            assert [one.code for one in found.problems] == ["guests-off"]
        (folder / "web-off7.cfg.2.received").unlink()
        async with transferring(running.evil, saved.named("web-other").offer(SIZE, ())) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
    finally:
        for path in folder.glob("web-off*"):
            path.unlink()


async def test_a_text_that_would_not_be_kept_is_refused_beforehand(running, saved):
    folder = running.host.folder / "xen"
    coming = saved.named("web-noisy")
    offer = with_file(coming, "device_model_override = '/srv/qemu'\n")
    waiting = [folder / "web-noisy.cfg.received"]
    waiting += [folder / f"web-noisy.cfg.{n}.received" for n in range(2, MOST_RECEIVED + 1)]
    for path in waiting:
        path.write_text("for an operator")
    try:
        async with transferring(running.evil, offer) as transfer:
            said = await transfer.begin()
            assert isinstance(said, Refused), said
            assert [one.code for one in said.problems] == ["config-not-kept"]
        waiting.pop().unlink()
        async with transferring(running.evil, offer) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
    finally:
        for path in waiting:
            path.unlink()
    await running.clean()
