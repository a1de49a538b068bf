"""Journals of other releases: an earlier one is taken up, a newer one is left as it is."""

import hashlib
import shutil
import sqlite3
from contextlib import closing

import pytest

from protocol.handover import SourceState, TargetState
from tests.support.journal_layout import FOLDER, layout_text, recorded
from xenmoved.jobs.board import JobBoard
from xenmoved.jobs.report import JobKind, JobReport, JobState
from xenmoved.journal import file
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.journal.file import LAYOUT
from xenmoved.journal.records import Inbound, Outbound
from xenmoved.migration.target.expected import NOT_READ_ANY_MORE

CHANGED = f"""
What is in a journal is not what was recorded of layout {LAYOUT}, and there may be releases that
would not understand it. If a release has this one, make xenmoved/journal/file.py have the LAYOUT
{LAYOUT + 1}. Then run: python -m tests.support.journal_layout --record
"""


def lines(layout, kind):
    """Return the lines of a record that begin with a word, without it."""
    every = recorded(layout).read_text(encoding="utf-8").splitlines()
    return {line.removeprefix(f"{kind} ") for line in every if line.startswith(f"{kind} ")}


def test_what_is_in_a_journal_is_what_was_recorded_of_its_layout():
    assert layout_text() == recorded(LAYOUT).read_text(encoding="utf-8"), CHANGED


def test_every_layout_is_recorded():
    assert len(list(FOLDER.iterdir())) == LAYOUT
    assert all(recorded(layout).exists() for layout in range(1, LAYOUT + 1))


@pytest.mark.parametrize("layout", range(1, LAYOUT + 1))
def test_what_earlier_layouts_have_is_understood_and_what_they_lack_may_be_missing(layout):
    assert lines(layout, "word") <= lines(LAYOUT, "word")
    assert lines(layout, "column") <= lines(LAYOUT, "column")
    before = {field.removesuffix("?") for field in lines(layout, "field")}
    before -= {f"Expected {name}" for name in NOT_READ_ANY_MORE}
    now = lines(LAYOUT, "field")
    assert before <= {field.removesuffix("?") for field in now}
    assert all(field.endswith("?") for field in now if field.removesuffix("?") not in before)


async def journal_with_migrations(path):
    journal = Journal(path)
    await journal.open()
    await journal.record_outbound(Outbound("m1", SourceState.COMMIT_SENT, "web", "b", "1"))
    details = {"name": "db", "uuid": "u"}
    await journal.record_inbound(Inbound("m2", TargetState.COMMITTED, "b", "", "2", details))
    return journal


def made_newer(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version={LAYOUT + 1}")
        database.execute("CREATE TABLE later (what)")


def contents(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir()}


async def refused(path):
    journal = Journal(path)
    with pytest.raises(JournalFailed, match="is of a newer release") as caught:
        await journal.open()
    with pytest.raises(JournalFailed):
        await journal.record_sync("x")
    await journal.mend()
    await journal.close()
    return str(caught.value)


async def test_a_journal_of_a_newer_release_is_not_touched(tmp_path):
    path = tmp_path / "state" / "journal.db"
    await (await journal_with_migrations(path)).close()
    made_newer(path)
    before = contents(path.parent)
    said = await refused(path)
    assert f"its layout is {LAYOUT + 1}, this release knows {LAYOUT}" in said
    assert "install that release again" in said
    assert contents(path.parent) == before


async def test_nor_one_of_which_only_the_log_of_a_killed_daemon_says_so(tmp_path):
    path, killed = tmp_path / "state" / "journal.db", tmp_path / "killed"
    journal = await journal_with_migrations(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA user_version={LAYOUT + 1}")
        shutil.copytree(path.parent, killed, ignore=shutil.ignore_patterns("*-shm"))
    await journal.close()
    with (killed / path.name).open("rb") as file:
        file.seek(60)
        assert int.from_bytes(file.read(4), "big") <= LAYOUT, "this would test nothing"
    before = contents(killed)
    assert f"its layout is {LAYOUT + 1}" in await refused(killed / path.name)
    assert contents(killed) == before


async def test_that_of_this_release_is_opened_with_and_without_its_log(tmp_path):
    path, killed = tmp_path / "state" / "journal.db", tmp_path / "killed"
    journal = await journal_with_migrations(path)
    shutil.copytree(path.parent, killed, ignore=shutil.ignore_patterns("*-shm"))
    await journal.close()
    for place in (path, killed / path.name):
        again = Journal(place)
        await again.open()
        assert again.trouble is None
        assert [one.migration for one in await again.unsettled_outbound()] == ["m1"]
        await again.close()


async def test_a_report_that_cannot_be_read_keeps_no_other_from_it(tmp_path, caplog):
    """It tells what was, and decides nothing: least of all whether a daemon starts."""
    journal = await journal_with_migrations(tmp_path / "journal.db")
    board = JobBoard(journal)
    kept = {"job": "00000002", "kind": "migrate", "state": "done", "phase": "ended", "guest": "web"}
    kept |= {"peer": "b", "mode": "live", "started": 1.0, "ended": 2.0}
    await journal.record_job("00000001", 1.0, True, {**kept, "job": "00000001", "gone": 1})
    await journal.record_job("00000002", 2.0, True, kept)
    await journal.record_samples("00000002", [{"at": 1.0, "odd": 2}])
    (report,) = await board.reports()
    assert isinstance(report, JobReport)
    assert (report.job, report.kind, report.state) == ("00000002", JobKind.MIGRATE, JobState.DONE)
    assert "a JobReport in the journal cannot be read: gone: unknown key" in caplog.text
    assert (await board.with_samples(report)).samples == ()
    await journal.close()


LAYOUT_1 = """
CREATE TABLE made (
    migration TEXT NOT NULL, pool TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    peer TEXT NOT NULL, PRIMARY KEY (pool, name));
CREATE TABLE owners (
    pool TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (pool, name));
CREATE TABLE folders (pool TEXT PRIMARY KEY, path TEXT NOT NULL, identity TEXT NOT NULL);
ALTER TABLE made ADD COLUMN identity TEXT DEFAULT '';
ALTER TABLE made ADD COLUMN disk_size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE owners ADD COLUMN guest TEXT NOT NULL DEFAULT '';
ALTER TABLE owners ADD COLUMN identity TEXT;
ALTER TABLE owners ADD COLUMN migration TEXT NOT NULL DEFAULT '';
ALTER TABLE owners ADD COLUMN since REAL;
ALTER TABLE owners ADD COLUMN place TEXT NOT NULL DEFAULT '';
ALTER TABLE owners ADD COLUMN written INTEGER;
ALTER TABLE owners ADD COLUMN kept REAL NOT NULL DEFAULT 0;
ALTER TABLE owners ADD COLUMN moved_by TEXT NOT NULL DEFAULT '';
INSERT INTO made VALUES
    ('m1', 'p', 'a', 1, 'b', 'one', 5), ('m2', 'p', 'b', 2, 'b', '', 0), ('m3', 'p', 'c', 3, 'b',
    NULL, 0), ('m4', 'q', 'a', 4, 'b', 'one', 6);
INSERT INTO owners (pool, name, owner, guest, identity, since, place, written, kept) VALUES
    ('p', 'a', 'u1', 'web', 'one', 1.5, 'b', 7, 2.5), ('p', 'b', 'u2', '', NULL, NULL, '', NULL, 0),
    ('p', 'c', 'u3', 'db', 'two', NULL, '', NULL, 0), ('q', 'c', 'u4', '', 'two', 1, 'b', NULL, 0);
INSERT INTO folders VALUES ('p', '/x', 'inode 1'), ('q', '/x', 'inode 2');
PRAGMA user_version=1;
"""


def of_layout_1(path):
    with closing(sqlite3.connect(path)) as database:
        database.executescript(LAYOUT_1)


async def test_notes_by_name_are_taken_up_with_one_for_each_volume(tmp_path):
    of_layout_1(tmp_path / "journal.db")
    for _ in range(2):
        journal = Journal(tmp_path / "journal.db")
        await journal.open()
        assert journal.trouble is None
        assert {(one.migration, one.name, one.disk_size) for one in await journal.made()} == {
            ("m2", "b", 0),
            ("m3", "c", 0),
            ("m4", "a", 6),
        }
        holdings = {one.owner: one for one in await journal.holdings()}
        assert set(holdings) == {"u1", "u2", "u3"}, "of a guest at home comes first"
        (copy,) = await journal.retained()
        assert (copy.guest, copy.since, copy.kept, str(copy.written)) == ("web", 1.5, 2.5, "7")
        assert str(await journal.folder_at("/x")) == "inode 2"
        await journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (LAYOUT,)


async def test_a_journal_that_cannot_be_taken_up_stays_as_it_was(tmp_path, monkeypatch):
    """As where the disk is full: it is read, from a copy if need be, and taken up later."""
    of_layout_1(tmp_path / "journal.db")
    index, tables = file._index, []

    def fail(database, table):
        tables.append(table)
        if table == "owners":
            raise sqlite3.OperationalError("the disk is broken")
        index(database, table)

    with monkeypatch.context() as broken:
        broken.setattr(file, "_index", fail)
        with pytest.raises(sqlite3.OperationalError):
            file.prepared(tmp_path / "journal.db")
    assert "owners" in tables
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        assert database.execute("SELECT count(*) FROM owners").fetchone() == (4,)
        names = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        assert "anew" not in names
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    assert len(await journal.holdings()) == 3
    await journal.close()
