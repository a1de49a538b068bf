"""A guest's disks are made, and one of them fails: nothing new is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.messages import Action, ImageFormat, Offer, OfferedMode, Placement, VolumeOffer
from storage import open_pool
from storage.contracts import VolumeInfo
from storage.errors import PoolFull
from tests.support.lvm import EXTENT, THIN_POOL
from tests.support.volumes import only_where_possible, remove_volume
from xenmoved.journal.database import Journal
from xenmoved.migration.target.volumes import Landing, remove_made

MIGRATION = "m" * 32


@dataclass(frozen=True)
class Place:
    """A pool of some kind, and everything that is in what it makes its volumes of."""

    kind: str
    options: dict[str, str]
    names: Callable[[], list[str]]

    def pool(self) -> Any:
        return open_pool("p", self.kind, self.options)


@pytest.fixture(
    params=[
        "dir",
        pytest.param("lvm", marks=only_where_possible("lvm")),
        pytest.param("lvm-thin", marks=only_where_possible("lvm")),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "dir":
        folder = tmp_path / "pool"
        folder.mkdir()
        return Place("dir", {"path": str(folder)}, lambda: names_in(folder))
    group = request.getfixturevalue("lvm_group_of")(request.param)
    options = {"group": group.name}
    if request.param == "lvm-thin":
        options["thin_pool"] = THIN_POOL
    return Place(request.param, options, group.names)


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def provision(pool: Any, journal_path: Path, sizes: dict[str, int]) -> None:
    """Do what the target does with the disks of an arriving guest; tidy up if that fails."""
    journal = Journal(journal_path)
    await journal.open()
    host: Any = SimpleNamespace(
        pools={"p": pool}, journal=journal, making=asyncio.Lock(), qemu_sockets=journal_path.parent
    )
    try:
        landing = Landing(host, "host-b", MIGRATION)
        offers = [
            VolumeOffer(
                name, size, None, None, None, None, ImageFormat.RAW, size, 512, None, True, None
            )
            for name, size in sizes.items()
        ]
        places = [Placement("p", name, fresh=True, zeroed=True, size=sizes[name]) for name in sizes]
        try:
            offer = Offer(Action.SYNC, OfferedMode.SAVE, False, None, tuple(offers))
            await landing.provision(offer, places)
        finally:
            await landing.stop()
            await remove_made(host, MIGRATION)
    finally:
        await journal.close()


def test_a_third_disk_that_cannot_be_made(place: Place, tmp_path: Path) -> None:
    pool = place.pool()
    pool.create("kept", EXTENT)
    before = place.names()
    too_much = pool.capacity().total + EXTENT
    sizes = {"one": EXTENT, "two": EXTENT, "three": too_much}
    try:
        with pytest.raises(PoolFull, match="three"):
            asyncio.run(provision(pool, tmp_path / "journal", sizes))
        assert sorted(place.names()) == sorted(before)
    finally:
        remove_volume(pool, "kept")


@pytest.mark.sampled
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_the_third_disk_is_made(place: Place, tmp_path: Path, moment: str) -> None:
    before = place.names()
    journal = tmp_path / "journal"
    command = [sys.executable, __file__, moment, place.kind, json.dumps(place.options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([*command, str(journal)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    # The next daemon leaves what may be somebody else's: it was not noted that this was made.
    uncertain = {"three"} if moment == "after" else set()
    assert set(place.names()) == {*before, "one", "two", *uncertain}
    asyncio.run(provision(place.pool(), journal, {}))
    assert set(place.names()) == {*before, *uncertain}
    for name in uncertain:
        remove_volume(place.pool(), name)


class Deadly:
    """A pool during whose third volume the process is killed."""

    def __init__(self, pool: Any, moment: str) -> None:
        self._pool = pool
        self._moment = moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def create(self, name: str, size: int) -> VolumeInfo:
        if name == "three" and self._moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        made: VolumeInfo = self._pool.create(name, size)
        if name == "three":
            os.kill(os.getpid(), signal.SIGKILL)
        return made


def be_killed(moment: str, kind: str, options: str, journal: str) -> None:
    """Provision three disks, and be killed before or after the third of them is there."""
    pool = Deadly(open_pool("p", kind, json.loads(options)), moment)
    sizes = dict.fromkeys(("one", "two", "three"), EXTENT)
    asyncio.run(provision(pool, Path(journal), sizes))


if __name__ == "__main__":
    be_killed(*sys.argv[1:])
