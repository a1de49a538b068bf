"""A guest's disks are made on logical volumes, and one of them fails: nothing new is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lvm_support import EXTENT, THIN_POOL, Group
from storage_support import only_where_possible, run

from protocol.messages import Placement, VolumeOffer
from storage import lvm, open_pool
from storage.errors import PoolFull
from xenmoved.journal import Journal
from xenmoved.migration.landing import Landing, remove_made

pytestmark = only_where_possible("lvm")

MIGRATION = "m" * 32


async def provision(group: str, kind: str, journal_path: Path, sizes: dict[str, int]) -> None:
    """Do what the target does with the disks of an arriving guest; tidy up if that fails."""
    options = {"group": group} | ({"thin_pool": THIN_POOL} if kind == "lvm-thin" else {})
    pool = open_pool("p", kind, options)
    journal = Journal(journal_path)
    await journal.open()
    host: Any = SimpleNamespace(pools={"p": pool}, journal=journal)
    try:
        landing = Landing(host, "host-b", MIGRATION)
        offers = [VolumeOffer(name, size, None, None, None) for name, size in sizes.items()]
        places = [Placement("p", name, fresh=True, zeroed=pool.makes_zeros) for name in sizes]
        try:
            await landing.provision(offers, places, "a uuid")
        finally:
            await landing.stop()
            await remove_made(host, MIGRATION)
    finally:
        await journal.close()


@pytest.fixture(params=["lvm", "lvm-thin"])
def group(request: pytest.FixtureRequest, lvm_group_of: Callable[[str], Group]) -> Group:
    return lvm_group_of(request.param)


def test_a_third_disk_that_does_not_fit(group: Group, tmp_path: Path) -> None:
    run("lvcreate", "-q", "-y", "-l", "1", "-n", "kept", group.name)
    before = group.names()
    too_much = group.pool().capacity().total + EXTENT
    sizes = {"one": EXTENT, "two": EXTENT, "three": too_much}
    with pytest.raises(PoolFull, match="three needs"):
        asyncio.run(provision(group.name, group.kind, tmp_path / "journal", sizes))
    assert group.names() == before
    run("lvremove", "-q", "-y", f"{group.name}/kept")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_the_third_disk_is_made(group: Group, tmp_path: Path, moment: str) -> None:
    before = group.names()
    journal = tmp_path / "journal"
    command = [sys.executable, __file__, moment, group.name, group.kind, str(journal)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    made = {"one", "two"} | ({"three"} if moment == "after" else set())
    assert set(group.names()) == {*before, *made}
    # As the next daemon does.
    asyncio.run(provision(group.name, group.kind, journal, {}))
    assert group.names() == before


def be_killed(moment: str, group: str, kind: str, journal: str) -> None:
    """Provision three disks, and be killed before or after the third of them is there."""
    real = lvm.run

    def deadly(command: list[str]) -> str:
        third = command[0] == "lvcreate" and "three" in command
        if third and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        said = real(command)
        if third:
            os.kill(os.getpid(), signal.SIGKILL)
        return said

    lvm.run = deadly
    sizes = dict.fromkeys(("one", "two", "three"), EXTENT)
    asyncio.run(provision(group, kind, Path(journal), sizes))


if __name__ == "__main__":
    be_killed(*sys.argv[1:])
