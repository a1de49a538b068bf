"""A journal that cannot be written: what is said, what can still be read, and how it heals."""

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
from contextlib import ExitStack

import pytest

from protocol.handover import SourceState
from xenmoved.journal import database as journals
from xenmoved.journal import file as journalfile
from xenmoved.journal.database import Journal, JournalFailed
from xenmoved.journal.records import Outbound
from xenmoved.journal.reserve import RESERVED, Reserve

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


def leaving(migration, state=SourceState.COPYING):
    return Outbound(migration, state, "web", "host-b", "00000001")


@pytest.fixture
def small(tmp_path):
    """A file system of 3 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", place], check=True)
        stack.callback(subprocess.run, ["umount", "-l", place], check=True)
        yield place


def remount(place, how):
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


def fill(place):
    with (place / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


async def test_decisions_use_the_space_that_is_kept_and_reports_do_not(small):
    journal = Journal(small / "state" / "journal.db")
    await journal.open()
    assert journal.alarm is None
    fill(small)
    for number in range(60):
        await journal.record_outbound(leaving(f"m{number}", SourceState.COMMIT_SENT))
    assert "full" in journal.alarm
    with pytest.raises(JournalFailed, match="spare"):
        await journal.record_job("00000001", 0.0, True, {})
    with pytest.raises(JournalFailed, match="full"):
        await journal.require()
    (small / "ballast").unlink()
    await journal.require()
    assert journal.alarm is None
    await journal.record_job("00000001", 0.0, True, {})
    assert len(await journal.unsettled_outbound()) == 60
    await journal.close()


async def test_a_journal_on_a_full_file_system_is_opened_from_its_reserve(small):
    journal = Journal(small / "state" / "journal.db")
    await journal.open()
    await journal.record_outbound(leaving("m1", SourceState.HANDING_OVER))
    await journal.close()
    fill(small)
    again = Journal(small / "state" / "journal.db")
    await again.open()
    assert [one.migration for one in await again.unsettled_outbound()] == ["m1"]
    await again.record_outbound(leaving("m1", SourceState.ABORTED), settled=True)
    await again.close()


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "crashed"])
async def test_a_journal_that_can_only_be_read_is_read_and_heals(small, tmp_path, clean):
    journal = Journal(tmp_path / "before" / "journal.db")
    await journal.open()
    await journal.record_outbound(leaving("m1", SourceState.HANDING_OVER))
    if clean:
        await journal.close()
    shutil.copytree(tmp_path / "before", small / "state")
    remount(small, "ro")
    again = Journal(small / "state" / "journal.db")
    await again.open()
    assert [one.state for one in await again.unsettled_outbound()] == [SourceState.HANDING_OVER]
    for _ in range(2):
        with pytest.raises(
            JournalFailed, match=r"cannot be written: .*(readonly|read-only|unable)"
        ):
            await again.record_outbound(leaving("m1", SourceState.ABORTED))
    assert "cannot be written" in again.alarm
    remount(small, "rw")
    assert await again.mend()
    await again.record_outbound(leaving("m1", SourceState.ABORTED))
    assert [one.state for one in await again.unsettled_outbound()] == [SourceState.ABORTED]
    await again.close()
    await journal.close()


async def test_a_journal_that_another_process_holds_fails_soon_and_heals(tmp_path, monkeypatch):
    monkeypatch.setattr(journalfile, "_LOCK_PATIENCE", 0.1)
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalFailed, match="locked"):
        await journal.record_outbound(leaving("m1"))
    assert await journal.unsettled_outbound() == []
    other.close()
    await journal.record_outbound(leaving("m1"))
    assert journal.alarm is None
    await journal.close()


async def test_a_disk_that_hangs_is_waited_for_only_so_long_and_only_once(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_PATIENCE", 0.2)
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    answers = threading.Event()
    journal._thread.submit(answers.wait)
    with pytest.raises(JournalFailed, match=r"within 0\.2 s"):
        await journal.record_outbound(leaving("m1"))
    with pytest.raises(JournalFailed, match="not answered yet"):
        await journal.unsettled_outbound()
    answers.set()
    monkeypatch.setattr(journals, "_PATIENCE", 10)
    await asyncio.sleep(0.2)
    assert await journal.mend()
    await journal.record_outbound(leaving("m2"))
    # What was late is there too, in its turn.
    assert len(await journal.unsettled_outbound()) == 2
    await journal.close()


async def test_what_is_no_database_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"something else" * 1000)
    journal = Journal(tmp_path / "journal.db")
    with pytest.raises(JournalFailed, match="not a database"):
        await journal.open()
    await journal.close()


def test_the_reserve_has_real_blocks(tmp_path):
    reserve = Reserve(tmp_path / "reserve")
    reserve.make()
    assert reserve.there
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVED
    assert reserve.give()
    assert not reserve.there
    assert not reserve.give()
