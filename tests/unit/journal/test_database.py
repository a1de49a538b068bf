"""The journal: what is written survives, and what is left to do is found again."""

import contextlib
import sqlite3
from dataclasses import replace

import pytest

from protocol.handover import SourceState, TargetState
from storage.contracts import UNKNOWN, LastWrite, PoolFolder, VolumeIdentity
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.journal.records import Holding, Inbound, MadeVolume, Outbound

OTHER = VolumeIdentity("inode 8")
HOLDING = Holding("images", "web", "uuid", "web", VolumeIdentity("inode 7"), "m2")


@pytest.fixture
async def journal(tmp_path):
    opened = Journal(tmp_path / "state" / "journal.db")
    await opened.open()
    yield opened
    await opened.close()


def leaving(migration, state=SourceState.COPYING, guest="web"):
    return Outbound(migration, state, guest, "host-b", "00000001")


def coming(migration, state=TargetState.RECEIVING, guest="web"):
    details = {"name": guest, "disks": {"xvda": "/images/web"}}
    return Inbound(migration, state, "host-a", "why", "00000002", details)


async def reopened(journal, tmp_path):
    await journal.close()
    again = Journal(tmp_path / "state" / "journal.db")
    await again.open()
    return again


async def test_what_is_written_is_there_after_a_restart(journal, tmp_path):
    await journal.record_outbound(leaving("m1", SourceState.COMMIT_SENT))
    await journal.record_inbound(coming("m2", TargetState.READY))
    await journal.record_made(MadeVolume("m2", "images", "web", 4096, "host-a"))
    await journal.record_holding(HOLDING)
    again = await reopened(journal, tmp_path)
    try:
        assert await again.unsettled_outbound() == [leaving("m1", SourceState.COMMIT_SENT)]
        assert await again.unsettled_inbound() == [coming("m2", TargetState.READY)]
        assert await again.made(migration="m2") == await again.made(peer="host-a")
        assert await again.holding("images", "web") == HOLDING
    finally:
        await again.close()


async def test_a_later_state_replaces_the_earlier_one(journal):
    for state in (SourceState.COPYING, SourceState.HANDING_OVER, SourceState.ABORTED):
        await journal.record_outbound(leaving("m1", state))
    assert [entry.state for entry in await journal.unsettled_outbound()] == [SourceState.ABORTED]


async def test_a_reason_that_was_no_utf_8_is_written(journal):
    await journal.record_inbound(replace(coming("m1"), reason="not \ud800 here"))
    (entry,) = await journal.unsettled_inbound()
    assert entry.reason == "not ? here"


async def test_settled_is_not_found_again_but_still_known(journal):
    await journal.record_outbound(leaving("m1", SourceState.DONE), settled=True)
    await journal.record_inbound(coming("m2", TargetState.ABORTED), settled=True)
    assert await journal.unsettled_outbound() == []
    assert await journal.unsettled_inbound() == []
    known = await journal.inbound("m2")
    assert known == replace(coming("m2", TargetState.ABORTED), details=known.details)
    assert known.guest == "web"
    assert await journal.inbound("m3") is None


async def test_every_write_is_synchronous(journal, tmp_path):
    await journal.record_outbound(leaving("m1"))
    other = sqlite3.connect(tmp_path / "state" / "journal.db")
    try:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("SELECT state FROM outbound").fetchall() == [("copying",)]
    finally:
        other.close()
    assert await journal._select("PRAGMA synchronous") == [(2,)]


async def test_a_new_departure_supersedes_what_was_left_of_that_guest(journal):
    await journal.record_outbound(leaving("aborted", SourceState.ABORTED))
    await journal.record_outbound(leaving("done", SourceState.DONE))
    await journal.record_outbound(leaving("doubt", SourceState.COMMIT_SENT))
    await journal.record_outbound(leaving("other", SourceState.ABORTED, guest="db"))
    await journal.record_outbound(leaving("settled", SourceState.DONE), settled=True)
    assert sorted(await journal.supersede_outbound("web")) == ["aborted", "done"]
    left = {entry.migration for entry in await journal.unsettled_outbound()}
    assert left == {"doubt", "other"}


async def test_a_new_arrival_supersedes_what_was_left_of_that_guest(journal):
    await journal.record_inbound(coming("aborted", TargetState.ABORTED))
    await journal.record_inbound(coming("committed", TargetState.COMMITTED))
    await journal.record_inbound(coming("other", TargetState.ABORTED, guest="db"))
    assert await journal.supersede_inbound("web") == ["aborted"]
    left = {entry.migration for entry in await journal.unsettled_inbound()}
    assert left == {"committed", "other"}


def told(migration, state, **details):
    """A migration that comes, with all details that take much space."""
    full = {
        **{"name": "web", "uuid": "u", "disks": {"xvda": "/images/web"}, "read_only": ["xvdb"]},
        **{"config": "\udcff" * 65536, "announced": {"nics": []}, "wiring": {"folder": "/"}},
        **{"sources": {"xvda": {"path": "/x"}}, "formats": {"xvda": "qcow2"}, "was_ready": True},
        **{"bridges": {"a": "b"}, "left_out": ["nx"], "boot_order": "10", "source_name": "db"},
        **{"remarks": [{"code": "look"}], "keep_partial": False, "given_up": False},
    }
    return Inbound(migration, state, "host-a", "why", "00000002", full | details)


async def test_of_a_settled_arrival_only_what_is_asked_for_later_is_kept(journal):
    for state in (TargetState.ABORTED, TargetState.STARTED):
        entry = told(state.value, state)
        await journal.record_inbound(entry)
        assert await journal.inbound(state.value) == entry
        await journal.record_inbound(entry, settled=True)
    gone = {
        **{"config": None, "announced": None, "wiring": None, "sources": {}, "formats": {}},
        **{"bridges": {}, "left_out": [], "boot_order": ""},
    }
    assert await journal.inbound("started") == told("started", TargetState.STARTED, **gone)
    word = {
        **{"name": "web", "uuid": "u", "disks": {}, "keep_partial": False, "config": None},
        **{"given_up": False, "source_name": "db", "was_ready": True},
    }
    assert (await journal.inbound("aborted")).details == word


async def test_of_old_arrivals_there_are_no_remarks_and_short_reasons(journal, monkeypatch):
    """But the word about them stays, and what others have is not touched."""
    monkeypatch.setattr("xenmoved.journal.database.KEPT_IN_FULL", 3)
    other = replace(told("other", TargetState.STARTED), peer="host-c", reason="y" * 300)
    await journal.record_inbound(other, settled=True)
    open_one = replace(told("open", TargetState.COMMITTED), reason="y" * 300)
    await journal.record_inbound(open_one)
    for number in range(6):
        state = TargetState.STARTED if number % 2 else TargetState.ABORTED
        entry = replace(told(f"m{number}", state), reason="y" * 300)
        await journal.record_inbound(entry, settled=True)
    for migration in ("m0", "m1", "m2"):
        kept = await journal.inbound(migration)
        assert kept.reason == "y" * 100
        assert not kept.details.get("remarks")
        assert kept.details["was_ready"]
    for migration in ("other", "open", "m3", "m5"):
        kept = await journal.inbound(migration)
        assert (kept.reason, kept.details["remarks"]) == ("y" * 300, [{"code": "look"}])


async def test_of_a_superseded_arrival_only_what_is_asked_for_later_is_kept(journal):
    await journal.record_inbound(told("m1", TargetState.ABORTED))
    assert await journal.supersede_inbound("web") == ["m1"]
    kept = (await journal.inbound("m1")).details
    assert kept["config"] is None
    assert kept["was_ready"]
    assert kept["source_name"] == "db"


async def test_of_arrivals_that_never_were_ready_the_newest_of_each_peer_are_kept(
    journal, monkeypatch
):
    monkeypatch.setattr("xenmoved.journal.database.KEPT_ATTEMPTS", 2)
    await journal.record_inbound(told("word", TargetState.ABORTED), settled=True)
    await journal.record_inbound(told("begun", TargetState.ABORTED, was_ready=False))
    await journal.record_inbound(coming("of an old release", TargetState.ABORTED), settled=True)
    other = replace(told("other", TargetState.ABORTED, was_ready=False), peer="host-c")
    await journal.record_inbound(other, settled=True)
    for number in range(4):
        entry = told(f"m{number}", TargetState.ABORTED, was_ready=False)
        await journal.record_inbound(entry, settled=True)
    ids = ("word", "begun", "of an old release", "other", "m0", "m1", "m2", "m3")
    gone = [one for one in ids if await journal.inbound(one) is None]
    assert gone == ["m0", "m1"]
    assert all([await journal.knows(one) for one in ids])


async def test_a_peer_that_begins_again_and_again_does_not_fill_the_file_system(journal, tmp_path):
    for number in range(30):
        for state in (TargetState.RECEIVING, TargetState.ABORTED):
            entry = replace(told(f"m{number}", state, was_ready=False), reason="y" * 65536)
            await journal.record_inbound(entry)
        await journal.record_inbound(entry, settled=True)
    files = [*(tmp_path / "state").glob("journal.db*")]
    assert sum(file.stat().st_size for file in files if file.suffix != ".reserve") < 3 << 20
    assert len((await journal.inbound("m3")).reason) == 4000


async def test_a_volume_that_was_removed_is_forgotten_with_its_owner(journal):
    await journal.record_made(MadeVolume("m1", "images", "web", 4096, "host-a"))
    await journal.record_holding(HOLDING)
    await journal.forget_volume("images", "web", HOLDING.identity)
    assert await journal.made() == []
    assert await journal.holding("images", "web") is None


async def test_old_jobs_are_dropped_but_never_one_that_has_not_ended(journal, monkeypatch):
    monkeypatch.setattr("xenmoved.journal.database.KEPT_JOBS", 5)
    await journal.record_job("running", 0.0, False, {"job": "running"})
    for number in range(8):
        await journal.record_job(f"{number}", 1.0 + number, True, {"job": number})
    jobs = [report["job"] for report in await journal.jobs()]
    assert jobs == [7, 6, 5, 4, 3, "running"]


async def test_jobs_that_count_apart_push_out_only_each_other(journal, monkeypatch):
    monkeypatch.setattr("xenmoved.journal.database.KEPT_JOBS", 2)
    monkeypatch.setattr("xenmoved.journal.database.KEPT_APART", 3)
    for number in range(4):
        await journal.record_job(f"{number}", float(number), True, f"ours {number}")
    for peer in ("b", "c"):
        for number in range(5):
            job, began = f"{peer}{number}", 100.0 + number
            await journal.record_job(job, began, True, job, apart=peer)
    kept = set(await journal.jobs())
    assert kept == {"ours 2", "ours 3", "b2", "b3", "b4", "c2", "c3", "c4"}


async def test_a_job_is_kept_while_its_migration_stands(journal, monkeypatch):
    monkeypatch.setattr("xenmoved.journal.database.KEPT_JOBS", 1)
    monkeypatch.setattr("xenmoved.journal.database.KEPT_APART", 1)
    lost, twice = leaving("m1", SourceState.LOST), coming("m2", TargetState.RAN_TWICE)
    await journal.record_outbound(lost, settled=True)
    await journal.record_inbound(twice, settled=True)
    await journal.record_job(lost.job, 1.0, True, "lost")
    await journal.record_job(twice.job, 2.0, True, "twice", apart="host-a")

    async def kept_after(began):
        for apart in ("", "host-a"):
            await journal.record_job(f"new{apart}", began, True, "new", apart=apart)
        return await journal.jobs()

    assert await kept_after(3.0) == ["new", "new", "twice", "lost"]
    await journal.record_outbound(replace(lost, state=SourceState.RESOLVED), settled=True)
    await journal.record_inbound(replace(twice, state=TargetState.RESOLVED), settled=True)
    assert await kept_after(4.0) == ["new", "new"]


async def test_samples_go_with_their_job(journal, tmp_path, monkeypatch):
    monkeypatch.setattr("xenmoved.journal.database.KEPT_JOBS", 1)
    for number, job in enumerate(("old", "new")):
        await journal.record_job(job, float(number), True, {})
        await journal.record_samples(job, [{"at": 1.5}])
    again = await reopened(journal, tmp_path)
    try:
        assert await again.samples("new") == [{"at": 1.5}]
        assert await again.samples("old") == []
    finally:
        await again.close()


async def test_closing_twice_is_no_error_and_using_it_unopened_is(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    with pytest.raises(JournalFailed, match="not open"):
        await journal.unsettled_inbound()
    await journal.open()
    await journal.close()
    await journal.close()


async def test_a_volume_is_retained_from_the_first_moment_that_its_guest_is_elsewhere(journal):
    await journal.record_holding(HOLDING)
    assert await journal.retained() == []
    await journal.retain("m1", "host-b", moved=True)  # another migration's
    assert await journal.retained() == []
    await journal.retain("m2", "host-b", moved=True)
    (first,) = await journal.retained()
    assert (first.since is not None, first.place) == (True, "host-b")
    await journal.retain("m2", "host-b", moved=True)  # as after a crash
    assert await journal.retained() == [first]
    await journal.put_to_use("m2")
    assert await journal.retained() == []
    assert await journal.holding("images", "web") == replace(HOLDING, moved_by="m2")


async def test_only_a_guest_that_went_away_makes_a_migration_known_to_both_hosts(journal):
    await journal.record_holding(replace(HOLDING, moved_by="m1"))
    await journal.retain("m2", "host-b", moved=False)
    assert [one.moved_by for one in await journal.retained()] == ["m1"]
    await journal.retain("m2", "host-b", moved=True)
    assert [one.moved_by for one in await journal.retained()] == ["m2"]


async def test_only_what_is_retained_grows_older(journal, tmp_path):
    await journal.record_holding(HOLDING)
    await journal.record_holding(
        replace(HOLDING, identity=OTHER, name="other", since=1.0, place="host-b")
    )
    for seconds in (5.0, 2.5):
        await journal.count_kept(seconds)
    again = await reopened(journal, tmp_path)
    try:
        kept = [(await again.holding("images", name)).kept for name in ("web", "other")]
        assert kept == [0.0, 7.5]
    finally:
        await again.close()


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (None, None),
        (1_790_000_000_123_456_789, LastWrite("", "1790000000123456789")),  # an earlier release's
        ("boot a device 253:7 8+0", LastWrite("boot a device 253:7", "8+0")),
    ],
)
async def test_when_a_volume_was_written_to_last(journal, tmp_path, stored, read):
    await journal.record_holding(replace(HOLDING, written=read))
    again = await reopened(journal, tmp_path)
    await again.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "journal.db")) as database:
        assert database.execute("SELECT written FROM owners").fetchone() == (stored,)
    again = await reopened(again, tmp_path)
    try:
        assert await again.holding("images", "web") == replace(HOLDING, written=read)
    finally:
        await again.close()


async def test_a_journal_of_an_earlier_release_is_read(tmp_path):
    """It knew neither identities nor what is retained."""
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE made (migration, pool, name, size, peer, PRIMARY KEY (pool, name))"
        )
        old.execute("CREATE TABLE owners (pool, name, owner, PRIMARY KEY (pool, name))")
        old.execute("INSERT INTO made VALUES ('m1', 'images', 'web', 4096, 'host-a')")
        old.execute("INSERT INTO owners VALUES ('images', 'web', 'uuid')")
    for _ in range(2):
        journal = Journal(path)
        await journal.open()
        (made,) = await journal.made()
        assert made == MadeVolume("m1", "images", "web", 4096, "host-a", UNKNOWN)
        assert await journal.holding("images", "web") == Holding("images", "web", "uuid")
        await journal.close()


def made_of(name, identity, migration="m1"):
    return MadeVolume(migration, "images", name, 4096, "host-a", identity)


async def test_a_note_is_of_one_volume_whoever_gets_its_name(journal):
    """A row is never replaced by one of another identity."""
    one, other = HOLDING, replace(HOLDING, identity=OTHER, owner="other", guest="other")
    for holding in (one, other):
        await journal.record_holding(holding)
        await journal.record_made(made_of("web", holding.identity))
    assert await journal.holding("images", "web", one.identity) == one
    assert await journal.holding("images", "web", OTHER) == other
    await journal.call_otherwise(one.identity, "images", "db")
    await journal.call_otherwise(OTHER, "images", "db")
    assert {holding.guest for holding in await journal.holdings()} == {"web", "other"}
    assert len(await journal.made()) == 2
    await journal.forget_volume("images", "db", OTHER)
    assert await journal.holdings() == [replace(one, name="db")]
    assert await journal.made() == [made_of("web", one.identity)]


async def test_a_volume_has_one_note_in_whatever_pool_it_is_found(journal):
    await journal.record_holding(HOLDING)
    await journal.record_holding(replace(HOLDING, pool="second", name="db", guest="db"))
    assert await journal.holdings() == [replace(HOLDING, pool="second", name="db", guest="db")]


async def test_what_is_noted_before_a_volume_is_there_is_replaced_when_it_is(journal):
    await journal.record_made(made_of("web", HOLDING.identity, "m0"))
    await journal.record_made(made_of("web", UNKNOWN))
    await journal.record_made(made_of("web", OTHER))
    assert await journal.made(migration="m1") == [made_of("web", OTHER)]
    assert await journal.made(migration="m0") == [made_of("web", HOLDING.identity, "m0")]
    await journal.record_made(made_of("db", UNKNOWN))
    await journal.forget_made(made_of("db", UNKNOWN, "another"))
    assert len(await journal.made()) == 3
    await journal.forget_made(made_of("db", UNKNOWN))
    assert len(await journal.made()) == 2


async def test_a_folder_is_known_by_its_path_whatever_its_pool_is_called(journal):
    folders = [PoolFolder(f"/{one}", VolumeIdentity(f"inode {one}"), False) for one in "xy"]
    for pool, folder in zip("ab", folders, strict=True):
        await journal.record_folder(pool, folder)
    await journal.record_folder("b", folders[0])  # they were swapped in the configuration
    assert [await journal.folder_at(one.path) for one in folders] == [
        one.identity for one in folders
    ]
