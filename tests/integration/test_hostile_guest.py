"""What a peer may try with a guest that it may send: its disks, its file, and what they say."""

import asyncio
import contextlib
import copy
import signal
from dataclasses import replace
from uuid import uuid4

import pytest
from blake3 import blake3

from protocol.handover import Word
from protocol.messages import (
    Accepted,
    Commit,
    Failed,
    Findings,
    HandOver,
    ImageFormat,
    Ready,
    Receiving,
    Refused,
    Seal,
)
from storage.identify import file_identity
from tests.integration.test_hostile_peer import (
    MIB,
    QUICKLY,
    SIZE,
    guest,
    image_offer,
    make_image,
    running,
    saved,
    shared_offer,
    target,
)
from tests.support.hostile import greeted, sync_offer, transferring, volume_offer, with_config
from tests.support.images import make_cdrom, qcow2_header
from tests.support.journals import query
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
            if not path.is_dir():
                path.unlink()


async def sent(target, offer, image):
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        if not isinstance(said, Accepted):
            return said
        for volume in range(len(offer.volumes)):
            await transfer.copy(volume)
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
    "no-vcpus": "memory = 2\nvcpus = 99\nmaxvcpus = 0\n",
    "nodes": "memory = 2\nvnuma = [['pnode=0', 'size=65536', 'vcpus=0']]\n",
    "vcpus-of-nodes": "memory = 2\nvnuma = [['pnode=0', 'size=2', 'vcpus=0-98']]\n",
    "traces": "memory = 2\nvmtrace_buf_kb = 131072\n",
    "tables": "memory = 2\nmaxmem = 60\npassthrough = 'sync_pt'\nshadow_memory = 18\n",
    "unseen": "memory = 65536\nvif = ['bridge=xenbr0,foo=\t1']\n",
}


@pytest.mark.sampled
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


@pytest.fixture
def at_home(target, guest):
    """A guest that is off here: its file, with the uuid of the one that comes, and its disk."""
    disk = make_image(target.host.images / "its-own", 1)
    own = target.host.folder / "xen" / f"{guest.name}.cfg"
    disks = f"disk = ['{disk},raw,xvda,w']"
    own.write_text(f"name = '{guest.name}'\nuuid = '{guest.uuid}'\nmemory = 32\n{disks}\n")
    yield own
    for path in own.parent.glob(f"*{guest.name}*"):
        path.unlink()


@pytest.mark.parametrize("name", ["its name", "another name"])
async def test_who_says_a_uuid_takes_no_guests_place(target, guest, at_home, name):
    if name == "another name":
        at_home.write_text(at_home.read_text().replace(guest.name, "somebody", 1))
    text = at_home.read_text()
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert isinstance(said, Refused), said
        (problem,) = said.problems
        assert problem.code == "guest-here"
        assert "its-own" in problem.text and at_home.name in problem.hint
        assert at_home.read_text() == text


async def test_what_is_out_of_date_makes_room(target, guest, at_home):
    """It has the guest's uuid, and no disk of it is here, where others are."""
    (target.host.images / "its-own").rename(target.host.images / "others")
    old = at_home.read_text()
    async with come(target, guest, with_file(guest, "memory = 2\n")) as (said, files):
        assert said.word is Word.STARTED
        assert files[f"{at_home.name}.replaced"].read_text() == old


AWAY = {"its file system": "{away}/web.img", "its group": "/dev/away/web"}


@pytest.mark.parametrize("place", AWAY.values(), ids=AWAY)
async def test_a_guest_whose_disks_are_away_is_at_home(target, guest, at_home, tmp_path, place):
    """What they are on is not mounted, or not active: its folder is empty, or not there."""
    away = tmp_path / "away"
    away.mkdir()
    spec = place.format(away=away)
    at_home.write_text(at_home.read_text().replace(f"{target.host.images}/its-own", spec))
    async with come(target, guest, with_file(guest, "", autostart=True)) as (said, _):
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-here"]
        assert f"its disk {spec} may be on what is not mounted" in said.problems[0].text


async def test_a_pool_whose_file_system_is_not_mounted_takes_nothing(target, guest):
    """Its folder is there, and empty: what may be gone may as well be away."""
    images = target.host.images
    make_image(images / "kept", 1)
    mounted = images.rename(images.with_name("mounted"))
    images.mkdir()
    wanted = guest.offer(SIZE)
    try:
        for offer in (sync_offer(volume_offer("filler", SIZE)), wanted):
            async with transferring(target.evil, offer) as transfer:
                said = await transfer.begin()
                assert isinstance(said, Refused), said
                assert "another folder than it was, and empty; mount" in said.problems[0].text
        assert not list(images.iterdir())
    finally:
        images.rmdir()
        mounted.rename(images)
        (images / "kept").unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["its name", "another name"])
@pytest.mark.parametrize("when", ["before its memory", "with its memory"])
async def test_a_twin_that_is_started_meanwhile_stays_alone(target, guest, tmp_path, when, name):
    name = guest.name if name == "its name" else "twin"
    xen, twin = target.host.xen, make_image(tmp_path / "twin", 1)

    def start():
        xen.create(name, [twin], lines=f"uuid = '{guest.uuid}'\n")

    try:
        async with transferring(target.evil, guest.offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            await transfer.copy(0)
            if when == "before its memory":
                start()
                said = await transfer.control.ask(HandOver(guest.offer(SIZE).guest.size))
            else:
                said = await transfer.control.ask(HandOver(guest.offer(SIZE).guest.size))
                assert isinstance(said, Receiving)
                seal = await transfer.send_memory(guest.image)
                start()
                said = await transfer.control.ask(seal)
            assert isinstance(said, Failed), said
            assert guest.name in said.problem.text
        assert xen.check(name)["ok"]
    finally:
        xen.xl("destroy", name)
        (xen.root / f"{name}.cfg").unlink(missing_ok=True)
    await target.clean()


async def test_a_twin_that_runs_keeps_its_file_when_the_daemon_is_killed(running, guest, tmp_path):
    """The peer only waits; an operator starts a guest of that name and uuid; the daemon dies."""
    target, xen = running, running.host.xen
    own = target.host.folder / "xen" / f"{guest.name}.cfg"
    disk = make_image(tmp_path / "twin", 1)
    text = f"name='{guest.name}'\nuuid='{guest.uuid}'\ndisk=['{disk},raw,xvda,w']\n"
    try:
        wanted = with_file(guest, "memory = 3\n", autostart=True)
        async with transferring(target.evil, wanted) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            xen.create(guest.name, [disk], lines=f"uuid = '{guest.uuid}'\n")
            own.write_text(text)
            target.host.stop(signal.SIGKILL)
            target.host.start(XENMOVED_LIMITS=QUICKLY)
        async with asyncio.timeout(10):
            while target.host.ask(ListJobs(ended=False)).jobs:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.05)
        assert own.read_text() == text
        assert xen.check(guest.name)["ok"]
        row = "SELECT state FROM inbound WHERE migration=?"
        assert query(target.host, row, transfer.migration) == [("aborted",)]
    finally:
        xen.xl("destroy", guest.name)
        (xen.root / f"{guest.name}.cfg").unlink(missing_ok=True)
        own.unlink()
    await target.clean()


async def test_names_of_guests_that_it_may_not_bring_are_not_told(target, guest, tmp_path):
    """Whatever keeps its guest from coming: a uuid, a file, a disk, a copy."""
    xen, images, folder = target.host.xen, target.host.images, target.host.folder / "xen"
    other = folder / "topsecret.cfg"
    disk = make_image(images / "used", 1)
    target.evil.introduce(guests=("web*",))
    xen.create("topsecret", [disk], lines=f"uuid = '{guest.uuid}'\n")
    kept = make_image(images / "copied", 1)
    holding = ("images", "copied", str(uuid4()), "topsecret", str(file_identity(kept)), 1.0, "good")
    columns = "pool, name, owner, guest, identity, since, place"
    query(target.host, f"INSERT INTO owners ({columns}) VALUES (?,?,?,?,?,?,?)", *holding)
    make_image(images / "named", 1)
    lines = f"disk = ['{images}/named,raw,xvda,w', '{images}/missing,raw,xvdb,w']\n"
    other.write_text(f"name = 'topsecret'\nuuid = '{guest.uuid}'\n{lines}")
    offer = guest.offer(SIZE)
    try:
        async with target.evil.linked() as link:
            control = await greeted(link)
            for name in ("used", "copied", "named", "missing", "free"):
                wanted = replace(offer, volumes=(replace(offer.volumes[0], name=name),))
                found = await control.ask(wanted)
                assert isinstance(found, Findings)
                assert found.problems, name
                assert "topsecret" not in str(found), name
            xen.xl("destroy", "topsecret")
            found = await control.ask(offer)
            assert [one.code for one in found.problems] == ["guest-here"]
            assert "topsecret" not in str(found)
    finally:
        target.evil.introduce()
        query(target.host, "DELETE FROM owners WHERE name='copied'")
        for path in (other, xen.root / "topsecret.cfg", *images.iterdir()):
            path.unlink(missing_ok=True)


async def test_a_guest_that_comes_from_another_peer_is_not_told_either(target, saved, guest):
    """Nor is the volume of one that is at home here, to who knows its uuid."""
    target.evil.introduce(guests=("web*",))
    secret = saved.named("topsecret")
    theirs, wanted = secret.offer(SIZE), guest.offer(SIZE)
    theirs = replace(theirs, volumes=(replace(theirs.volumes[0], name="vol7"),))
    wanted = replace(wanted, volumes=(replace(wanted.volumes[0], name="vol7"),))
    try:
        async with transferring(target.good, theirs) as transfer, target.evil.linked() as link:
            assert isinstance(await transfer.begin(), Accepted)
            found = await (await greeted(link)).ask(wanted)
            assert "on its way" in found.problems[0].text
            assert "topsecret" not in str(found)
        await target.clean()
        row = ("images", "vol8", secret.uuid, "topsecret")
        statement = "INSERT INTO owners (pool, name, owner, guest, identity) VALUES (?,?,?,?,?)"
        disk = make_image(target.host.images / "vol8", 1)
        query(target.host, statement, *row, str(file_identity(disk)))
        wanted = secret.offer(SIZE, ())
        wanted = replace(wanted, guest=replace(wanted.guest, wish=guest.name))
        async with target.evil.linked() as link:
            found = await (await greeted(link)).ask(wanted)
        assert [one.code for one in found.problems] == ["guest-here"]
        assert "vol8" not in str(found) and "topsecret" not in found.problems[0].text
    finally:
        target.evil.introduce()
        (target.host.images / "vol8").unlink(missing_ok=True)
        query(target.host, "DELETE FROM owners WHERE name='vol8'")


@pytest.mark.parametrize("renamed", [False, True], ids=["", "renamed"])
async def test_who_has_a_name_here_by_the_journal_keeps_it(target, saved, guest, renamed):
    """It came, it is off, its file was not taken into use: another one of its name has no place."""
    other = guest.named(f"{guest.name}-twin")
    first = saved.named(f"{guest.name}-there") if renamed else guest
    offer = first.offer(SIZE)
    offer = replace(offer, guest=replace(offer.guest, wish=guest.name if renamed else None))
    async with come(target, guest, offer, first.image) as (came, _):
        assert came.word is Word.STARTED
        target.host.xen.xl("destroy", guest.name)
        offer = other.offer(SIZE)
        said = await sent(
            target,
            replace(offer, guest=replace(offer.guest, wish=guest.name)),
            other.image,
        )
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-here"]


async def test_what_another_peer_sent_is_no_cdrom(target, guest):
    name = f"{guest.name}-theirs"
    row = ("images", name, "sync from good", "")
    query(target.host, "INSERT INTO owners (pool, name, owner, guest) VALUES (?,?,?,?)", *row)
    make_cdrom(target.host.images / name, 1)
    disk = shared_offer(home="images", name=name, cdrom=True, writable=False, path="/x")
    offer = guest.offer(SIZE)
    offer = replace(offer, guest=replace(offer.guest, shared=(replace(disk, vdev="xvdd"),)))
    try:
        async with target.evil.linked() as link:
            found = await (await greeted(link)).ask(offer)
        assert "is no image of a CD-ROM" in found.problems[0].text
    finally:
        (target.host.images / name).unlink()
        query(target.host, "DELETE FROM owners WHERE name=?", name)


async def test_nobody_is_called_like_a_guest_on_its_way(target, guest):
    other = guest.named(f"migrating-{guest.name}")
    async with target.evil.linked() as link:
        found = await (await greeted(link)).ask(other.offer(SIZE))
    assert [one.code for one in found.problems] == ["guest-name"]


async def test_who_says_a_uuid_takes_no_place_of_one_that_came(target, guest):
    """It is off, without a file, and only the journal tells that it is here."""
    async with come(target, guest, guest.offer(SIZE)) as (came, _):
        assert came.word is Word.STARTED
        target.host.xen.xl("destroy", guest.name)
        offer = guest.offer(SIZE)
        wanted = replace(offer, volumes=(replace(offer.volumes[0], name="elsewhere"),))
        said = await sent(target, wanted, guest.image)
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["guest-here"]
        assert not (target.host.images / "elsewhere").exists()


@pytest.mark.parametrize("lines", ["", None], ids=["with a file", "without one"])
async def test_what_a_guest_left_here_is_not_for_another_of_its_name(target, guest, lines):
    folder = target.host.folder / "xen"
    aside = folder / f"{guest.name}.cfg.moved"
    entries = folder / f"{guest.name}.auto.moved"
    entries.mkdir()
    aside.write_text(left := f"name = '{guest.name}'\ndisk = ['phy:/dev/vg/other,xvda,w']\n")
    (entries / f"07-{guest.name}.cfg").symlink_to(folder / f"{guest.name}.cfg")
    offer = guest.offer(SIZE) if lines is None else with_file(guest, lines, autostart=True)
    try:
        async with come(target, guest, offer) as (said, files):
            assert said.word is Word.STARTED
            assert aside.read_text() == left
            assert (f"{guest.name}.cfg" in files) is (lines is not None)
            assert [path.name for path in entries.iterdir()] == [f"07-{guest.name}.cfg"]
    finally:
        entries.rmdir()


async def test_a_guest_that_returns_with_fewer_disks_gets_no_file_that_names_them(target, guest):
    """One was dropped here, and its name given to another guest."""
    folder, images = target.host.folder / "xen", target.host.images
    data = make_image(images / "data", 1)
    aside = folder / f"{guest.name}.cfg.moved"
    aside.write_text(
        left := f"name='{guest.name}'\nuuid='{guest.uuid}'\n"
        f"disk=['{images}/{guest.name}-xvda,raw,xvda,w', '{data},raw,xvdb,w']\n"
    )
    with went(target, guest):
        async with come(target, guest, guest.offer(SIZE)) as (said, files):
            assert said.word is Word.STARTED
            assert f"{guest.name}.cfg" not in files
            assert aside.read_text() == left
            assert f"{aside}, set aside when {guest.name} left, has other" in target.host.log()


@contextlib.contextmanager
def went(target, guest):
    """Have the journal say that a guest of this host went to the peer."""
    names = "migration,state,guest,peer,job,settled,updated,uuid"
    row = ("cd" * 16, "done", guest.name, "evil", "00000007", 1, 0.0, guest.uuid)
    query(target.host, f"INSERT INTO outbound ({names}) VALUES (?,?,?,?,?,?,?,?)", *row)
    try:
        yield
    finally:
        query(target.host, "DELETE FROM outbound WHERE migration=?", row[0])


@pytest.mark.parametrize("known", ["by a file", "by the journal"])
async def test_a_disk_with_a_cdrom_on_it_is_no_cdrom(target, guest, known):
    make_cdrom(target.host.images / "hybrid", 1)
    file = target.host.folder / "xen" / "other.cfg"
    if known == "by a file":
        file.write_text(f"name = 'x'\ndisk = ['{target.host.images}/hybrid,raw,xvda,w']\n")
    else:
        row = ("images", "hybrid", guest.uuid, "theirs")
        statement = "INSERT INTO owners (pool, name, owner, guest) VALUES (?,?,?,?)"
        query(target.host, statement, *row)
    disk = shared_offer(home="images", name="hybrid", cdrom=True, writable=False, path="/x")
    offer = guest.offer(SIZE)
    offer = replace(offer, guest=replace(offer.guest, shared=(disk,)))
    try:
        async with target.evil.linked() as link:
            found = await (await greeted(link)).ask(offer)
        (problem,) = found.problems
        assert "is no image of a CD-ROM" in problem.text
    finally:
        (target.host.images / "hybrid").unlink()
        file.unlink(missing_ok=True)


async def test_an_image_counts_with_all_that_it_may_grow_to(target, guest):
    target.evil.introduce(quota=8 * MIB)
    try:
        offer = image_offer(guest, ImageFormat.QCOW2)
        async with target.evil.linked() as link:
            found = await (await greeted(link)).ask(growing(offer, 9 * MIB))
            assert [one.code for one in found.problems] == ["quota"]
        async with transferring(target.evil, growing(offer, 8 * MIB)) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            await transfer.copy(0, qcow2_header(size=9 * MIB))
            assert isinstance(await transfer.control.ask(HandOver(offer.guest.size)), Receiving)
            said = await transfer.control.ask(Seal(0, blake3(b"").digest()))
            assert isinstance(said, Failed), said
            assert "may grow to 9437184 bytes" in said.problem.text
    finally:
        target.evil.introduce()


def growing(offer, size):
    return replace(offer, volumes=(replace(offer.volumes[0], disk_size=size),))


async def test_a_file_that_is_slow_to_read_holds_up_nobody(target, guest):
    offer = with_file(guest, f"#{'c#' * 30000}\nkernel = '../../{'**/' * 20}x'\n")
    async with target.serving_others(), target.evil.linked() as link:
        assert isinstance(await (await greeted(link)).ask(offer), Findings)
