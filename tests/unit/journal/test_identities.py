"""Notes of volumes by identities with handles, and without, as earlier releases wrote them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from storage.contracts import UNKNOWN, VolumeIdentity
from storage.identify import file_identity
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Holding, MadeVolume
from xenmoved.migration.volume_notes import is_of_a_part

BEFORE = VolumeIdentity("inode 12 of 1764367771000001")
ONE, OTHER = (VolumeIdentity(f"{BEFORE} and handle 1:0c0000000{n}") for n in (1, 2))
HOLDING = Holding("images", "web", "uuid", "web", ONE, "m")
MADE = MadeVolume("m", "images", "web", 512, "host-b", ONE)


def test_what_was_noted_without_a_handle_is_each_that_has_the_rest() -> None:
    assert BEFORE == ONE == BEFORE
    assert BEFORE == OTHER
    assert ONE != OTHER
    assert VolumeIdentity("inode 12 of 1764367771000002 and handle 1:0c00000001") != ONE
    assert UNKNOWN != ONE
    assert {ONE: 1, OTHER: 2}[OTHER] == 2
    assert BEFORE in {ONE}


def test_files_of_one_inode_and_moment_have_handles(tmp_path: Path) -> None:
    (tmp_path / "web").touch()
    found = file_identity(tmp_path / "web")
    assert found == VolumeIdentity(found.without_handle) != UNKNOWN


async def test_the_note_of_another_file_system_is_kept(journal: Journal) -> None:
    await journal.record_holding(HOLDING)
    await journal.record_made(MADE)
    await journal.record_holding(replace(HOLDING, pool="other", identity=OTHER))
    await journal.record_made(replace(MADE, pool="other", identity=OTHER))
    await journal.forget_volume("other", "web", OTHER)
    assert await journal.holdings() == [HOLDING]
    assert await journal.made(migration="m") == [MADE]


async def opened(path: Path) -> Journal:
    journal = Journal(path)
    await journal.open()
    assert journal.trouble is None
    return journal


async def test_what_was_noted_as_each_kind_of_pool_called_it_counts(tmp_path: Path) -> None:
    lv = "zZ3aEo-Ym7t-Abcd-efgh-Ijkl-0123-QRstuv"
    of_device = VolumeIdentity(f"LVM-{'a' * 32}{lv.replace('-', '')}")
    journal = await opened(tmp_path / "journal.db")
    await journal.record_made(replace(MADE, pool="disks", identity=of_device))
    await journal.record_holding(replace(HOLDING, name="other", identity=OTHER))
    home = replace(HOLDING, pool="disks", name="root", guest="at home")
    await journal.record_holding(replace(home, identity=of_device))
    copy = replace(home, pool="vg", guest="copy", since=1.0, identity=VolumeIdentity("later"))
    await journal.record_holding(copy)
    await journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute("UPDATE owners SET identity=? WHERE guest='copy'", (lv,))
    for _ in range(2):
        journal = await opened(tmp_path / "journal.db")
        assert [str(one.identity) for one in await journal.made()] == [lv]
        found = await journal.holding("vg", "root", VolumeIdentity(lv))
        assert found is not None
        assert (found.guest, str(found.identity)) == ("copy", lv)
        # The other note may be about another volume, of a copy of the group: it is not forgotten.
        (kept,) = filter(is_of_a_part, await journal.holdings())
        assert (kept.guest, kept.identity) == ("at home", of_device)
        await journal.close()


@pytest.mark.parametrize("part", ["from 0", "from 512", "from 0 to 512"])
@pytest.mark.parametrize("file", [ONE, BEFORE])
async def test_what_was_noted_of_a_loop_device_is_not_that_of_its_file(
    tmp_path: Path, part: str, file: VolumeIdentity
) -> None:
    """It may have been a part; but who asks for the file is to hear of it."""
    of_loop = VolumeIdentity(f"loop on {file} {part}")
    noted = replace(HOLDING, pool="devices", identity=of_loop)
    journal = await opened(tmp_path / "journal.db")
    await journal.record_holding(replace(HOLDING, pool="images", name="old", identity=OTHER))
    await journal.record_holding(noted)
    await journal.record_made(replace(MADE, pool="devices", identity=of_loop))
    await journal.close()
    journal = await opened(tmp_path / "journal.db")
    assert await journal.holding("images", "old", ONE) == noted
    assert await journal.made() == [replace(MADE, pool="devices", identity=of_loop)]
    # What is in the file now is noted: nothing of what was in it is left.
    await journal.record_holding(HOLDING)
    await journal.record_made(MADE)
    assert await journal.holding("devices", "web", ONE) == HOLDING
    assert len(await journal.holdings()) == 2
    assert await journal.made() == [MADE]
    await journal.close()


async def test_a_note_of_an_earlier_release_is_found_and_replaced(journal: Journal) -> None:
    await journal.record_holding(replace(HOLDING, identity=BEFORE, name="before"))
    found = await journal.holding("images", "web", ONE)
    assert found is not None
    assert found.name == "before"
    await journal.record_holding(HOLDING)
    assert [str(one.identity) for one in await journal.holdings()] == [str(ONE)]
