"""How copies on devices stay known when their host is booted, and when not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from storage.contracts import Entry, LastWrite, VolumeIdentity
from storage.errors import VolumeError
from storage.last_write import NOTHING
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Holding
from xenmoved.migration import across_boots
from xenmoved.migration.across_boots import put_copies_to_rest, take_up_copies

ONE, OTHER = VolumeIdentity("lv one"), "boot b device 253:4"
NOTED: Final = LastWrite("boot a device 253:7", "80+0")
COPY: Final = Holding(
    "vg", "web", "uuid", "web", ONE, "m", since=1.0, place="b", written=NOTED, moved_by="m"
)


class World:
    """A host with one volume, and what the kernel counts of it."""

    def __init__(self, journal: Journal) -> None:
        self.found: LastWrite | None = NOTED
        self.host: Any = SimpleNamespace(
            journal=journal,
            pools={
                "vg": SimpleNamespace(
                    name="vg",
                    everything=lambda: [Entry(ONE, "web", "/dev/vg/web")],
                )
            },
        )

    async def end(self) -> None:
        await put_copies_to_rest(self.host)

    async def start(self) -> LastWrite | None:
        await take_up_copies(self.host)
        return await self.noted()

    async def note(self, copy: Holding) -> None:
        await self.host.journal.record_holding(copy)

    async def noted(self) -> LastWrite | None:
        holding = await self.host.journal.holding("vg", "web")
        assert holding is not None
        assert replace(holding, written=None) == replace(COPY, written=None)
        return holding.written


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    world = World(journal)
    monkeypatch.setattr(across_boots, "last_write", lambda path: world.found)
    monkeypatch.setattr(across_boots, "make_durable", lambda path: None)
    await world.note(COPY)
    yield world
    await journal.close()


async def test_it_is_taken_up_after_a_boot_and_once(world: World) -> None:
    await world.end()
    assert NOTED.is_before(await world.noted()) is None, "at rest it is not known"
    world.found = LastWrite(OTHER, NOTHING)
    assert await world.start() == world.found
    # Then there was a crash, and another boot.
    world.found = LastWrite("boot c device 253:4", NOTHING)
    again = await world.start()
    assert again is not None
    assert again.is_before(world.found) is None


async def test_a_daemon_that_is_started_anew_goes_on_with_the_count(world: World) -> None:
    await world.end()
    world.found = NOTED._replace(moment="88+0")
    again = await world.start()
    assert again == NOTED
    assert again.is_before(world.found) is True
    await world.end()  # what was written to is not at rest
    world.found = LastWrite(OTHER, NOTHING)
    again = await world.start()
    assert again is not None
    assert again.is_before(world.found) is None


@pytest.mark.parametrize("found", [LastWrite(OTHER, "8+0"), None])
async def test_what_may_have_been_written_to_since_is_not_known(
    world: World, found: LastWrite | None
) -> None:
    await world.end()
    world.found = found
    assert await world.start() is None


async def test_without_an_end_of_the_daemon_nothing_is_taken_up(world: World) -> None:
    world.found = LastWrite(OTHER, NOTHING)
    assert await world.start() == NOTED


async def test_a_device_that_cannot_be_looked_at_is_not_at_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise VolumeError("the disk is broken")

    monkeypatch.setattr(across_boots, "make_durable", fail)
    await world.end()
    assert await world.noted() == NOTED


@pytest.mark.parametrize(
    "said",
    [
        {"guest": "", "since": None, "owner": "sync from b"},
        {"moved_by": "another"},  # what a peer sent, and no guest that left
        {"since": None},
        {"written": LastWrite("", "7")},
        {"written": None},
    ],
)
async def test_it_holds_for_no_others(world: World, said: dict[str, Any]) -> None:
    other = replace(COPY, **said)
    await world.note(other)
    await world.end()
    assert await world.host.journal.holding("vg", "web") == other
