"""Which file is a guest's, and what becomes of it and of those in its place."""

import asyncio
import contextlib
import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from xenmoved.codes import NOT_KEPT
from xenmoved.toolstack.cold import ColdOutgoing
from xenmoved.toolstack.configs import keeping
from xenmoved.toolstack.configs.boot_entries import BootEntries, order_of
from xenmoved.toolstack.configs.compose import _HEAD
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.configs.guest_file import Evidence, created_from
from xenmoved.toolstack.configs.installing import MOST_RECEIVED
from xenmoved.toolstack.configs.text import named, uuid_in
from xenmoved.toolstack.interface import Arrival, ToolstackError

UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
OTHER = "11111111-7a0e-4a5c-9c0b-1f4c2f0d9e11"
ARRIVAL = Arrival("web", UUID, {"xvda": "/srv/here/root.img"}, {"xenbr0": "br-lan"})
COMES = "name = 'web'\nmemory = 512\ndisk = ['file:/there/root.img,xvda,w']\n"
HERE = COMES.replace("/there/", "/srv/here/")


def process(proc, number, *words, cwd="/"):
    """Make what /proc tells of a process."""
    (proc / str(number)).mkdir(parents=True)
    (proc / str(number) / "cmdline").write_bytes(b"\0".join(map(os.fsencode, words)) + b"\0")


def test_the_process_that_waits_for_a_domain_names_its_file(tmp_path):
    proc, etc = tmp_path / "proc", tmp_path / "xen"
    etc.mkdir()
    (etc / "link.cfg").symlink_to("real.cfg")
    process(proc, 1, "/usr/sbin/xl", "create", "-q", "a.cfg", "memory=5")
    process(proc, 2, "xl", "create", "--quiet", f"--defconfig={etc}/link.cfg")
    process(proc, 3, "/usr/lib/xen-4.17/bin/xl", "create", "--defconfig", "/srv/b.cfg")
    process(proc, 4, "/usr/bin/vi", "create", "c.cfg")
    process(proc, 5, "xl", "migrate-receive")
    assert created_from(etc, proc) == {f"{etc}/a.cfg", f"{etc}/real.cfg", "/srv/b.cfg"}


async def taken(folder, uuid=UUID):
    return [(file.path.name, max(file.evidence)) for file in await folder.files("web", uuid)]


async def test_the_best_reason_counts_and_never_the_alphabet(folder, tmp_path):
    def write(name, text="name = 'web'\n", age=0):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    write("aaa.cfg", age=50)
    write("web-2019.cfg", age=10)
    assert await taken(folder) == [("web-2019.cfg", Evidence.SAID), ("aaa.cfg", Evidence.SAID)]
    write("web.cfg", age=99)
    assert (await taken(folder))[0] == ("web.cfg", Evidence.CALLED)
    write("boot.cfg", age=99)
    (tmp_path / "auto/10-x").symlink_to("../boot.cfg")
    assert (await taken(folder))[0] == ("boot.cfg", Evidence.AT_BOOT)
    write("known.cfg", f"name = 'web'\nuuid = '{UUID.upper()}'\n", age=99)
    assert (await taken(folder))[0] == ("known.cfg", Evidence.UUID)
    write("zzz.cfg", f"name = 'web'\nuuid = '{OTHER}'\n")
    assert (await taken(folder))[-1] == ("zzz.cfg", Evidence.SAID), "it is another domain's"
    best, *_, last = await folder.files("web", UUID)
    assert best.is_of("web", UUID) is True
    assert last.is_of("web", UUID) is False
    assert best.reason(last) == "the guest's uuid is in it"


async def test_a_file_in_its_place_that_is_anothers_is_told(folder, tmp_path):
    (tmp_path / "web.cfg").write_text("name = 'db'\n")
    (file,) = await folder.files("web", UUID)
    assert file.is_of("web", UUID) is False
    assert await folder.files("shop", UUID) == []


async def test_what_was_noted_leaves_when_nothing_else_tells_any_more(folder, tmp_path):
    (tmp_path / "web-install.cfg").write_text("name = 'web'\n")
    (tmp_path / "web-run.cfg").write_text(f"name = 'web'\nuuid = '{UUID}'\n")
    os.utime(tmp_path / "web-run.cfg", (0, 0))
    await folder.hold_autostart("web", UUID)
    for _ in range(2):
        await folder.retire("web", "")
    assert sorted(path.name for path in tmp_path.glob("*.cfg*")) == [
        "web-install.cfg",
        "web-run.cfg.moved",
    ]
    assert await folder.describe("web") is None, "it has left, and that is a copy"


async def test_nothing_is_written_where_nothing_has_to_be_held(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    await folder.hold_autostart("web", UUID)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto", "web.cfg"]


async def test_the_one_that_was_set_aside_comes_back_beside_a_copy(folder, tmp_path):
    link, real = tmp_path / "web.cfg", tmp_path / "git" / "web.cfg"
    real.parent.mkdir()
    real.write_text(HERE)
    link.symlink_to("git/web.cfg")
    (tmp_path / "web-2019.cfg").write_text("name = 'web'\n")
    (tmp_path / "auto/01-web").symlink_to("../web.cfg")
    await folder.retire("web", "")
    assert not await folder.autostart("web")
    for _ in range(2):
        assert await folder.install("web", COMES, ARRIVAL, True) == ()
    assert link.readlink() == Path("git/web.cfg")
    assert (tmp_path / "auto/01-web").readlink() == Path("../web.cfg")
    assert (tmp_path / "web-2019.cfg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "auto",
        "git",
        "web-2019.cfg",
        "web.cfg",
    ]


async def test_what_is_not_the_same_is_kept(folder, tmp_path):
    for number, text in enumerate(("name = 'web'\n", "name = 'web'\nmemory = 1\n"), 1):
        (tmp_path / "web.cfg").write_text(text)
        (tmp_path / "web.cfg").chmod(0o604)
        await folder.retire("web", "")
        remarks = await folder.install("web", COMES, ARRIVAL, False)
        assert len(remarks) == 1
        assert ".replaced" in remarks[0].hint
        assert (tmp_path / "web.cfg").read_text() == HERE
        assert (tmp_path / "web.cfg").stat().st_mode & 0o777 == 0o604
        kept = sorted(path.read_text() for path in tmp_path.glob("*.replaced"))
        assert len(kept) == number
        assert text in kept
    texts = await folder.read_all()
    assert list(texts) == [str(tmp_path / "web.cfg")], "what was replaced is out of use"
    assert len(await folder.read_all(moved=True)) == 3


async def test_leaving_twice_loses_no_file(folder, tmp_path):
    (tmp_path / "web.cfg.moved").write_text("name = 'web'\n# of an earlier time\n")
    (tmp_path / "web.cfg").write_text("name = 'web'\n")
    await folder.retire("web", "")
    assert (tmp_path / "web.cfg.moved").read_text() == "name = 'web'\n"
    assert "earlier" in (tmp_path / "web.cfg.replaced").read_text()


@pytest.mark.parametrize("text", ["name = 'db'\n", f"name = 'web'\nuuid = '{OTHER}'\n"])
async def test_anothers_file_stays_in_its_place(folder, tmp_path, text):
    (tmp_path / "web.cfg").write_text(text)
    (tmp_path / "web.cfg.received").write_text("of an earlier time")
    foreseen = await folder.foresee("web", COMES, ARRIVAL, True)
    for _ in range(2):
        (remark,) = await folder.install("web", COMES, ARRIVAL, True)
    assert foreseen == (remark,)
    assert f"{tmp_path}/web.cfg.2.received" in remark.text
    assert (tmp_path / "web.cfg").read_text() == text
    assert (tmp_path / "web.cfg.received").read_text() == "of an earlier time"
    assert (tmp_path / "web.cfg.2.received").read_text() == COMES
    assert not list((tmp_path / "auto").iterdir())
    assert len(list(tmp_path.iterdir())) == 4


async def test_what_waits_for_its_operator_stays_as_it_is(folder, tmp_path):
    """Whatever it is, and whoever is at work on it; so often as others come."""
    unused = f"{COMES}bootloader = '/bin/sh'\n"
    (tmp_path / "web.cfg.received").symlink_to("/nowhere")
    (tmp_path / "web.cfg.2.received").write_text("half corrected")
    for number, text in ((3, unused), (4, unused + "# \udce9\n"), (3, unused)):
        (remark,) = await folder.install("web", text, ARRIVAL, True)
        assert f"web.cfg.{number}.received" in remark.text
    assert (tmp_path / "web.cfg.received").readlink() == Path("/nowhere")
    assert (tmp_path / "web.cfg.2.received").read_text() == "half corrected"
    assert (tmp_path / "web.cfg.4.received").read_bytes().endswith(b"# \xe9\n")
    assert len(list(tmp_path.iterdir())) == 5
    assert await folder.files("web", UUID) == [], "none is a guest's"


async def test_only_so_many_wait_for_their_operator(folder, tmp_path):
    """Whatever waits stays, and what comes after that is told of as lost."""
    unused = f"{COMES}bootloader = '/bin/sh'\n"
    for number in range(MOST_RECEIVED):
        await folder.install("web", f"{unused}# {number}\n", ARRIVAL, True)
    there = {path: path.read_text() for path in tmp_path.glob("*.received")}
    assert len(there) == MOST_RECEIVED
    for text, code in ((f"{unused}# 3\n", "config-received"), (unused, NOT_KEPT)):
        foreseen = await folder.foresee("web", text, ARRIVAL, True)
        (remark,) = await folder.install("web", text, ARRIVAL, True)
        assert foreseen == (remark,)
        assert remark.code == code
    assert "web.cfg*.received" in remark.text
    assert {path: path.read_text() for path in tmp_path.glob("web*")} == there
    assert await folder.received() == {"web"}


async def test_whose_texts_wait_is_told_by_their_names(folder, tmp_path):
    for name in ("web.cfg.received", "web.cfg.2.received", "db.cfg.3.received", "a.received"):
        (tmp_path / name).touch()
    (tmp_path / "old.cfg").touch()
    assert await folder.received() == {"web", "db"}


async def test_no_entry_starts_what_nobody_has_read(folder, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/web").write_text(HERE.replace("512", "1"))
    (tmp_path / "auto/05-web").symlink_to("../old/web")
    (remark,) = await folder.install("web", COMES, ARRIVAL, True)
    assert "05-web is out of use" in remark.text
    assert (tmp_path / "auto/05-web").resolve() == tmp_path / "web.cfg"
    assert (tmp_path / "web.auto.moved/05-web.replaced").readlink() == Path("../old/web")


async def test_entries_stay_out_when_it_was_not_started_at_boot_meanwhile(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/05-web").symlink_to("../web.cfg")
    await folder.retire("web", "")
    (remark,) = await folder.install("web", COMES, ARRIVAL, False)
    assert "not started at boot" in remark.hint
    assert not await folder.autostart("web")
    assert (tmp_path / "web.auto.moved/05-web.replaced").is_symlink()


async def test_entries_of_an_earlier_release_are_understood(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "web.auto.held").symlink_to("../web.cfg")
    assert await folder.autostart("web")
    await folder.release_autostart("web")
    assert (tmp_path / "auto/web.cfg").read_text() == HERE
    assert not (tmp_path / "web.auto.held").exists()


@pytest.mark.parametrize("aside", [False, True])
async def test_a_composed_file_takes_no_operators_place(folder, tmp_path, aside):
    own = HERE.replace("512", "768")
    (tmp_path / "web.cfg").write_text(own)
    if aside:
        await folder.retire("web", "")
    await folder.install("web", _HEAD + COMES, ARRIVAL, True)
    assert (tmp_path / "web.cfg").read_text() == own
    assert await folder.autostart("web")
    outdated = own.replace("/srv/here/", "/srv/before/")
    (tmp_path / "web.cfg").write_text(outdated)
    (tmp_path / "auto/web.cfg").unlink()
    (remark,) = await folder.install("web", _HEAD + COMES, ARRIVAL, True)
    assert "other disks" in remark.text
    assert (tmp_path / "web.cfg").read_text() == outdated
    assert (tmp_path / "web.cfg.received").read_text() == _HEAD + COMES
    assert not await folder.autostart("web"), "nobody has read it"


async def test_what_was_composed_has_an_operators_file_only_of_a_guest_that_was_here(
    folder, tmp_path
):
    """Whoever takes its name, and the place of a disk that is gone, is not booted by that file."""
    (tmp_path / "web.cfg").write_text(HERE)
    stranger = replace(ARRIVAL, returns=False)
    (remark,) = await folder.install("web", _HEAD + COMES, stranger, True)
    assert (remark.code, "nothing tells" in remark.text) == ("config-received", True)
    assert (tmp_path / "web.cfg").read_text() == HERE
    assert not await folder.autostart("web")
    known = replace(stranger, stayed=frozenset(ARRIVAL.disks))
    assert not await folder.install("web", _HEAD + COMES, known, True)
    assert await folder.autostart("web")


async def test_what_cannot_be_described_is_not_installed(folder, tmp_path):
    """What it would be is weighed by its description."""
    for text in (COMES.replace("512", "''"), COMES + "vif = ['bridge=xenbr0,foo=\t1']\n"):
        (remark,) = await folder.install("web", text, ARRIVAL, True)
        assert remark.code == "config-received"
        assert not (tmp_path / "web.cfg").exists() and not list((tmp_path / "auto").iterdir())


async def test_a_diskless_guest_comes_twice(folder, tmp_path):
    """A crash may have come between."""
    arrival = replace(ARRIVAL, disks={})
    for _ in range(2):
        assert not await folder.install("web", "name = 'web'\n", arrival, True)
    assert (tmp_path / "auto/web.cfg").resolve() == tmp_path / "web.cfg"


async def test_a_composed_file_makes_room_for_another(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(_HEAD + HERE.replace("512", "1"))
    await folder.install("web", _HEAD + COMES, ARRIVAL, False)
    assert (tmp_path / "web.cfg").read_text() == _HEAD + HERE


async def test_what_cannot_be_used_leaves_the_old_one_aside(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    await folder.retire("web", "")
    await folder.install("web", "import os\n", ARRIVAL, True)
    assert (tmp_path / "web.cfg.moved").read_text() == HERE
    assert not list((tmp_path / "auto").iterdir())


class NoDomains:
    """A host on which nothing runs."""

    async def find(self, name):
        return None


async def test_a_cold_departure_taken_back_puts_back_what_it_took_and_no_more(folder, tmp_path):
    former = tmp_path / "web.auto.moved"
    former.mkdir()
    (former / "05-web").symlink_to("../web-old.cfg")
    (tmp_path / "web-old.cfg.moved").write_text("name = 'web'\n# of a former time\n")
    (tmp_path / "web.cfg").write_text(HERE)
    ledger = ColdOutgoing.ledger("m1", tmp_path / "spool")
    for entries in ([], ["20-web"]):
        for entry in entries:
            (tmp_path / "auto" / entry).symlink_to("../web.cfg")
        leaving = ColdOutgoing(NoDomains(), folder, "web", UUID, ledger)
        await leaving.start({})
        assert not (tmp_path / "web.cfg").exists()
        assert not list((tmp_path / "auto").iterdir())
        # By another process, and it was begun before what came in between.
        (tmp_path / "web-late.cfg.moved").write_text("name = 'web'\n# set aside later\n")
        for _ in range(2):
            await ColdOutgoing(NoDomains(), folder, "web", "", ledger).rollback()
        assert (tmp_path / "web.cfg").read_text() == HERE
        assert [path.name for path in (tmp_path / "auto").iterdir()] == entries
        assert [path.name for path in former.iterdir()] == ["05-web"]
        assert not (tmp_path / "web-old.cfg").exists()
        assert not (tmp_path / "web-late.cfg").exists()
        assert not ledger.exists()


@pytest.mark.parametrize(("word", "at_boot"), [("at-boot", True), ("by-hand", False)])
async def test_a_cold_departure_that_an_earlier_release_began_is_taken_back(
    folder, tmp_path, word, at_boot
):
    """It had set the configuration aside for good, and removed links of its own from `auto`."""
    ledger = ColdOutgoing.ledger("m1", tmp_path / "spool")
    ledger.parent.mkdir()
    ledger.write_text(f"{word}\n")
    (tmp_path / "web.cfg.moved").write_text(HERE)
    for _ in range(2):
        await ColdOutgoing(NoDomains(), folder, "web", UUID, ledger).rollback()
    assert (tmp_path / "web.cfg").read_text() == HERE
    assert await folder.autostart("web", UUID) == ("web.cfg" if at_boot else None)


async def test_a_cold_departure_that_ends_leaves_everything_set_aside(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/20-web").symlink_to("../web.cfg")
    leaving = ColdOutgoing(NoDomains(), folder, "web", UUID, tmp_path / "spool/m1.cold")
    await leaving.start({})
    await leaving.discard()
    for _ in range(2):
        await folder.retire("web", UUID)
    await folder.release_autostart("web")
    assert (tmp_path / "web.cfg.moved").read_text() == HERE
    assert (tmp_path / "web.auto.moved/20-web").is_symlink()
    assert not (tmp_path / "web.auto.held").exists()


async def test_the_file_that_was_set_aside_last_is_restored(folder, tmp_path):
    # By when it was set aside, not by when it was written or what it is called.
    for file, written in (("web.cfg", 2000), ("web-2.cfg", 1000)):
        (tmp_path / file).write_text(f"name = 'web'\nuuid = '{UUID}'\n# {file}\n")
        os.utime(tmp_path / file, (written, written))
        await asyncio.sleep(0.02)
        (tmp_path / file).rename(tmp_path / f"{file}.moved")
    (tmp_path / "zzz.cfg.moved").write_text(f"name = 'web'\nuuid = '{OTHER}'\n")
    await folder.restore("web", UUID)
    assert [path.name for path in tmp_path.glob("*.cfg")] == ["web-2.cfg"]


MORE = HERE.replace("xvda,w'", "xvda,w', 'phy:/dev/vg/data,xvdb,w'")


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        MORE,
        MORE.replace("xvdb,w", "xvdb,r"),
        HERE.replace("xvda,w'", "xvda,w', 'file:/srv/here/data.img,xvdc,w'"),
        HERE + "vif = ['bridge=br-dmz']\n",
        HERE + "import os\n",
    ],
)
async def test_what_names_more_than_the_guest_has_now_stays_aside(folder, tmp_path, text, returns):
    """It may be another guest's by now."""
    disks = {**ARRIVAL.disks, "xvdc": "/srv/here/data.img"}
    arrival = replace(ARRIVAL, disks=disks, read_only=frozenset({"xvdc"}), returns=returns)
    arrival = replace(arrival, stayed=frozenset(ARRIVAL.disks))
    aside = tmp_path / "web.cfg.moved"
    aside.write_text(text)
    for _ in range(2):
        with contextlib.suppress(ToolstackError):
            await folder.restore("web", UUID, arrival)
        assert (aside.read_text(), (tmp_path / "web.cfg").exists()) == (text, False)
    aside.write_text(HERE + "vif = ['bridge=br-lan']\n")
    for _ in range(2):
        await folder.restore("web", UUID, arrival)
    assert (tmp_path / "web.cfg").exists() and not aside.exists()


async def test_it_is_told_why_a_file_stays_aside(folder, tmp_path):
    (tmp_path / "web.cfg.moved").write_text(MORE)
    with pytest.raises(ToolstackError, match=r"web\.cfg\.moved.* has other disks"):
        await folder.restore("web", UUID, ARRIVAL)
    (tmp_path / "web.cfg").write_text(HERE)
    await folder.restore("web", UUID, ARRIVAL)
    assert (tmp_path / "web.cfg").read_text() == HERE, "it is in place"


ANOTHERS = "name = 'web'\ndisk = ['file:/srv/own/other.img,xvda,w']\n"


@pytest.mark.parametrize("autostart", [False, True])
async def test_a_file_with_the_name_and_other_disks_is_another_guests(folder, tmp_path, autostart):
    (tmp_path / "web.cfg").write_text(ANOTHERS)
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    (remark,) = await folder.install("web", COMES, ARRIVAL, autostart)
    assert "names other disks than web has" in remark.text
    assert (tmp_path / "web.cfg").read_text() == ANOTHERS
    assert (tmp_path / "web.cfg.received").read_text() == COMES
    assert (tmp_path / "auto/web.cfg").readlink() == Path("../web.cfg")


async def test_an_entry_with_other_disks_stays_and_another_name_is_found(folder, tmp_path):
    (tmp_path / "own.cfg").write_text(ANOTHERS)
    (tmp_path / "auto/web.cfg").symlink_to("../own.cfg")
    await folder.install("web", COMES, ARRIVAL, True)
    assert (tmp_path / "auto/web.cfg").readlink() == Path("../own.cfg")
    assert (tmp_path / "auto/web.2.cfg").read_text() == HERE
    assert (tmp_path / "own.cfg").read_text() == ANOTHERS


@pytest.mark.parametrize("step", ["retire", "set_aside", "hold_autostart"])
async def test_what_has_another_uuid_stays_when_a_guest_leaves(folder, tmp_path, step):
    (tmp_path / "web.cfg").write_text(f"name = 'web'\nuuid = '{OTHER}'\n")
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    assert not await folder.autostart("web", UUID)
    assert await folder.autostart("web", OTHER)
    await getattr(folder, step)("web", UUID)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto", "web.cfg"]
    assert (tmp_path / "auto/web.cfg").is_symlink()


@pytest.mark.parametrize("made", [False, True])
async def test_an_entry_of_an_earlier_release_survives_a_crash(folder, tmp_path, made):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "web.auto.held.entry").symlink_to("../web.cfg")
    if made:
        (tmp_path / "web.auto.held").mkdir()
    assert await folder.autostart("web")
    await folder.release_autostart("web")
    assert (tmp_path / "auto/web.cfg").read_text() == HERE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto", "web.cfg"]


async def test_a_text_with_another_uuid_is_not_used(folder, tmp_path):
    (remark,) = await folder.install("web", f"{COMES}uuid = '{OTHER}'\n", ARRIVAL, True)
    assert OTHER in remark.text
    assert not (tmp_path / "web.cfg").exists()
    assert await folder.install("web", f"{COMES}uuid = '{UUID.upper()}'\n", ARRIVAL, True) == ()


def test_a_taken_name_of_an_entry_is_passed_over(tmp_path):
    entries = BootEntries(tmp_path)
    for _ in range(3):
        entries.link("web.cfg", tmp_path / "web.cfg")
    assert [path.name for path in entries.all()] == ["web.2.cfg", "web.3.cfg", "web.cfg"]


def all_that_is_in(folder):
    """Where links lead and what files say, wherever they are."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return [str(path.readlink()) if path.is_symlink() else path.read_text() for path in paths]


def entries_of(folder):
    return {path.name: str(path.readlink()) for path in (folder / "auto").iterdir()}


class Killed(Exception):
    pass


def dying(monkeypatch, step):
    """Have what renames be interrupted after a step."""
    steps = itertools.count()

    def sync_or_die(folder):
        if next(steps) == step:
            raise Killed

    monkeypatch.setattr(keeping, "sync_folder", sync_or_die)


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("there", ["../db.cfg", "../web-old", "../auto/../web.cfg"])
async def test_an_entry_that_returns_takes_no_others_place(
    folder, tmp_path, monkeypatch, there, step
):
    """Its name in `auto` may be somebody else's by now, or its own from another file."""
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "db.cfg").write_text("name = 'db'\n")
    (tmp_path / "web-old").write_text(HERE.replace("512", "1"))
    entry = tmp_path / "auto/10.cfg"
    entry.symlink_to("../web.cfg")
    await folder.retire("web", UUID)
    entry.symlink_to(there)
    (tmp_path / "web.auto.moved/10.cfg.replaced").symlink_to("../of-an-earlier-time")
    before = all_that_is_in(tmp_path)
    with monkeypatch.context() as patched:
        dying(patched, step)
        with contextlib.suppress(Killed):
            await folder.install("web", COMES, ARRIVAL, True)
    for _ in range(2):
        await folder.install("web", COMES, ARRIVAL, True)
    assert set(before) <= set(all_that_is_in(tmp_path)), "nothing is lost"
    entries = entries_of(tmp_path)
    if there == "../db.cfg":
        assert entries == {"10.cfg": "../db.cfg", "10.2.cfg": "../web.cfg"}
    else:
        (leads,) = entries.values()
        assert leads == ("../web.cfg" if there == "../web-old" else there)


@pytest.mark.parametrize("boot", ["../db.cfg", "../web.cfg"])
async def test_an_entry_that_is_released_takes_no_others_place(folder, tmp_path, boot):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "db.cfg").write_text("name = 'db'\n")
    (tmp_path / "auto/10.cfg").symlink_to("../web.cfg")
    await folder.hold_autostart("web", UUID)
    (tmp_path / "auto/10.cfg").symlink_to(boot)
    for _ in range(2):
        await folder.release_autostart("web")
    ours = {} if boot == "../web.cfg" else {"10.2.cfg": "../web.cfg"}
    assert entries_of(tmp_path) == {"10.cfg": boot, **ours}
    assert not (tmp_path / "web.auto.held").exists()


async def test_a_file_among_the_entries_that_returns_takes_no_others_place(folder, tmp_path):
    entry = tmp_path / "auto/10.cfg"
    entry.write_text(HERE)
    await folder.retire("web", UUID)
    entry.write_text("name = 'db'\n")
    for _ in range(2):
        await folder.install("web", COMES, ARRIVAL, True)
    assert entry.read_text() == "name = 'db'\n"
    assert (tmp_path / "auto/10.2.cfg").read_text() == HERE
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["10.2.cfg", "10.cfg", "auto"]


def test_two_names_of_one_link_become_one(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    os.link(tmp_path / "a", tmp_path / "b", follow_symlinks=False)
    keeping.move(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    "text",
    [
        f"memory = 5; name = 'web'; uuid = '{UUID}'\n",
        f"name = \\\n 'web'\nuuid = \\\n\\\n '{UUID}'\n",
        f"extra = \"name = 'db'\"\nname = 'web'\nuuid='{UUID}' # uuid='{OTHER}'\n",
        f"name = 'db'\nname = 'web'; uuid = '{OTHER}'; uuid = '{UUID}'",
        f"import os\nname = 'web'\nuuid = '{UUID}'\n",
    ],
)
def test_name_and_uuid_are_read_as_xl_reads_them(text):
    assert (named(text), uuid_in(text)) == ("web", UUID)


@pytest.mark.parametrize(
    ("entry", "order"),
    [
        *(("01-web.cfg", "01-"), ("01-web", "01-"), ("10_web.cfg", "10_"), ("007web.cfg", "007")),
        *(("05-mail.cfg", "05-"), ("web.cfg", ""), ("web", ""), ("x-web.cfg", ""), ("", "")),
        ("123456789-web", "12345678"),
    ],
)
def test_the_order_of_an_entry(entry, order):
    assert order_of(entry, "web") == order


def test_digits_of_a_name_are_no_order():
    assert order_of("3com.cfg", "3com") == ""
    assert order_of("02-3com.cfg", "3com") == "02-"


async def test_a_new_entry_is_started_in_the_order_of_the_source(folder, tmp_path):
    coming = replace(ARRIVAL, boot_order="01-")
    for _ in range(2):
        assert await folder.install("web", COMES, coming, True) == ()
    assert [entry.name for entry in (tmp_path / "auto").iterdir()] == ["01-web.cfg"]
    assert (tmp_path / "auto/01-web.cfg").read_text() == HERE


async def test_a_new_entry_takes_no_others_place(folder, tmp_path):
    (tmp_path / "db.cfg").write_text("name = 'db'\n")
    (tmp_path / "auto/01-web.cfg").symlink_to("../db.cfg")
    await folder.install("web", COMES, replace(ARRIVAL, boot_order="01-"), True)
    assert (tmp_path / "auto/01-web.cfg").readlink() == Path("../db.cfg")
    assert (tmp_path / "auto/web.cfg").read_text() == HERE


async def test_an_order_that_is_here_stays(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/20-web").symlink_to("../web.cfg")
    await folder.install("web", COMES, replace(ARRIVAL, boot_order="01-"), True)
    assert [entry.name for entry in (tmp_path / "auto").iterdir()] == ["20-web"]


async def test_what_is_started_at_boot_is_told_with_its_memory(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/05-web").symlink_to("../web.cfg")
    (tmp_path / "auto/06-web").symlink_to("../web.cfg")
    (tmp_path / "auto/.keep").touch()
    (tmp_path / "auto/folder").mkdir()
    (tmp_path / "auto/db").write_text("name = 'db'\nmemory = 64\n")
    (tmp_path / "off.cfg").write_text("name = 'off'\nmemory = 64\n")
    (tmp_path / "auto/most").write_text("name = 'most'\nmaxmem = 1024\n")
    assert await folder.at_boot("new", UUID) == ((512 + 64 + 1024) << 20, ())
    assert await folder.at_boot("web", UUID) == ((64 + 1024) << 20, ()), "but for its own"


async def test_what_is_started_at_boot_and_cannot_be_weighed_is_told(folder, tmp_path):
    (tmp_path / "auto/10-gone").symlink_to("/srv/not-mounted/gone.cfg")
    (tmp_path / "auto/program").write_text("import os\nname = 'program'\nmemory = 64\n")
    (tmp_path / "auto/sum").write_text("name = 'sum'\nmemory = 7 * 1024\n")
    (tmp_path / "auto/db").write_text("name = 'db'\nmemory = 64\n")
    assert await folder.at_boot("web", UUID) == (64 << 20, ("10-gone", "program", "sum"))
    assert (await folder.at_boot("sum", UUID)).unweighed == ("10-gone", "program"), (
        "but for its own"
    )


PROGRAM = "vm = 'web'\nname = vm\nmemory = 7 * 1024\n"


@pytest.mark.parametrize(
    ("text", "memory", "unweighed"),
    [(PROGRAM, 0, ("10-web.cfg",)), ("memory = 512\n", 512 << 20, ()), (None, 0, ("10-web.cfg",))],
    ids=["program", "plain", "not mounted"],
)
async def test_an_entry_that_is_only_called_like_a_guest_is_weighed_for_whoever_comes(
    folder, tmp_path, text, memory, unweighed
):
    if text is not None:
        (tmp_path / "elsewhere").write_text(text)
    (tmp_path / "auto/10-web.cfg").symlink_to(tmp_path / "elsewhere")
    assert await folder.at_boot("web", UUID) == (memory, unweighed)
    await folder.install("web", COMES, ARRIVAL, True)
    assert sorted(entry.name for entry in (tmp_path / "auto").iterdir()) == [
        "10-web.cfg",
        "web.cfg",
    ]


@pytest.mark.parametrize("own", [False, True], ids=["no file", "file"])
@pytest.mark.parametrize("text", [PROGRAM, "memory = 512\n"], ids=["program", "plain"])
async def test_an_entry_that_is_called_like_a_guest_of_this_host_leaves_with_it_and_is_told(
    folder, tmp_path, text, own
):
    """It would be started here, from disks that are the other host's by then."""
    (tmp_path / "elsewhere").write_text(text)
    (entry := tmp_path / "auto/10-web.cfg").symlink_to(tmp_path / "elsewhere")
    if own:
        (tmp_path / "web.cfg").write_text(HERE)
    assert await folder.called_alone("web", UUID) == [entry]
    assert await folder.autostart("web", UUID) == entry.name
    await folder.hold_autostart("web", UUID)
    assert not os.path.lexists(entry)
    await folder.release_autostart("web")
    assert entry.is_symlink()
    for _ in range(2):
        await folder.retire("web", UUID)
        assert (tmp_path / "web.auto.moved/10-web.cfg").is_symlink()


async def test_a_file_in_the_place_of_the_guests_need_not_say_its_name(folder, tmp_path):
    """xm calls a guest like its file."""
    (tmp_path / "web").write_text("memory = 512\n")
    (tmp_path / "auto/10-web").symlink_to("../web")
    assert await folder.called_alone("web", UUID) == []
    assert await folder.autostart("web", UUID) == "10-web"


async def test_an_entry_that_says_other_disks_stays_whatever_it_is_called(folder, tmp_path):
    (entry := tmp_path / "auto/10-web").write_text("disk = ['file:/srv/other.img,xvda,w']\n")
    (tmp_path / "web.cfg").write_text(HERE)
    assert await folder.called_alone("web", UUID) == []
    for _ in range(2):
        await folder.retire("web", UUID)
        assert entry.exists()


async def test_what_may_come_back_into_auto_is_weighed(folder, tmp_path):
    """It is put back when its guest does not leave."""
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "auto/05-web").symlink_to("../web.cfg")
    (tmp_path / "auto/db").write_text("name = 'db'\nmemory = 64\n")
    everything = ((512 + 64) << 20, ())
    assert await folder.at_boot("new", OTHER) == everything
    await folder.hold_autostart("web", UUID)
    await folder.hold_autostart("db", UUID)
    assert not list((tmp_path / "auto").iterdir())
    assert await folder.at_boot("new", OTHER) == everything
    await folder.set_aside("web", UUID)
    assert not (tmp_path / "web.cfg").exists()
    assert await folder.at_boot("new", OTHER) == everything
    assert await folder.at_boot("web", UUID) == (64 << 20, ()), "but for its own"
    await folder.retire("web", UUID)
    assert await folder.at_boot("new", OTHER) == (64 << 20, ())
    (tmp_path / "db.auto.held" / "db").write_text("memory = 1 + 1\n")
    assert await folder.at_boot("new", OTHER) == (0, ("db",))


async def test_a_file_is_in_use_until_its_guest_has_left(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "old.cfg.moved").write_text("name = 'old'\n")
    await folder.set_aside("web", UUID)
    aside = str(tmp_path / "web.cfg.moved")
    assert await folder.read_all() == {aside: HERE}
    await folder.release_autostart("web")
    assert await folder.read_all() == {str(tmp_path / "web.cfg"): HERE}
    await folder.set_aside("web", UUID)
    await folder.retire("web", UUID)
    assert await folder.read_all() == {}


async def test_what_was_set_aside_before_is_not_in_use_while_its_guest_leaves(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    (tmp_path / "web.cfg.moved").write_text(COMES)
    await folder.hold_autostart("web", UUID)
    assert COMES not in (await folder.read_all()).values()


async def test_a_file_that_is_renamed_while_the_folder_is_read_is_seen(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "web.cfg").write_text(HERE)
    listed = ConfigFolder._listed
    moves = iter([folder._set_aside, None, None, None, folder._retire])

    def then_moved(self, moved):
        found = listed(self, moved)
        if (move := next(moves, None)) is not None:
            move("web", UUID)
        return found

    monkeypatch.setattr(ConfigFolder, "_listed", then_moved)
    assert HERE in (await folder.read_all()).values(), "between the listing and the reading"


async def test_the_memory_with_which_it_was_started_at_boot_until_it_left(folder, tmp_path):
    (tmp_path / "web.cfg").write_text(HERE)
    assert await folder.left_at_boot("web", UUID) == 0
    await folder.retire("web", UUID)
    assert await folder.left_at_boot("web", UUID) == 0, "it had no entry"
    await folder.bring_back("web", UUID, at_boot=True)
    assert await folder.left_at_boot("web", UUID) == 0, "it is here"
    await folder.retire("web", UUID)
    assert await folder.left_at_boot("web", UUID) == 512 << 20
    text = (tmp_path / "web.cfg.moved").read_text()
    (tmp_path / "web.cfg.moved").write_text(text + f"uuid = '{UUID}'\n")
    assert await folder.left_at_boot("web", UUID.replace("8", "9")) == 0, "another guest"
    assert await folder.left_at_boot("web", UUID) == 512 << 20


async def test_a_file_elsewhere_counts_when_its_guest_has_left(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/web.cfg").write_text(HERE)
    (tmp_path / "auto/web").symlink_to("../elsewhere/web.cfg")
    await folder.retire("web", UUID)
    assert await folder.left_at_boot("web", UUID) == 512 << 20


@pytest.mark.parametrize("before", ["", "# a line that is left out\n"])
async def test_the_most_that_a_guest_may_take_counts_the_file_that_is_used_instead(
    folder, tmp_path, before
):
    """An operator's takes the place of one that was only composed, or looks so."""
    assert await folder.most_with("web", UUID, before + _HEAD + COMES) == 512 << 20
    (tmp_path / "web.cfg.moved").write_text(HERE.replace("512", "15000"))
    assert await folder.most_with("web", UUID, COMES) == 512 << 20
    assert await folder.most_with("web", UUID, before + _HEAD + COMES) == 15000 << 20
    (tmp_path / "web.cfg.moved").write_text(HERE.replace("512", "5 * 1024"))
    assert await folder.most_with("web", UUID, before + _HEAD + COMES) is None
