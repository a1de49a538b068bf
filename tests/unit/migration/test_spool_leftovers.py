"""What is removed from the spool when the daemon begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.handover import SourceState
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Outbound
from xenmoved.migration.host import Host
from xenmoved.migration.spool_leftovers import clear_settled

pytestmark = pytest.mark.long
SETTLED, UNSETTLED, UNKNOWN, SYNC = (letter * 32 for letter in "abcd")


@pytest.fixture(autouse=True)
async def noted(journal: Journal) -> None:
    for migration in (SETTLED, UNSETTLED):
        entry = Outbound(migration, SourceState.ABORTED, "web", "host-b", "job", "uuid")
        await journal.record_outbound(entry, settled=migration == SETTLED)
    await journal.record_sync(SYNC)


async def test_what_is_settled_goes_and_what_may_be_needed_stays(
    tmp_path: Path, journal: Journal
) -> None:
    spool = tmp_path / "spool"
    for name in (SETTLED, UNSETTLED, UNKNOWN, SYNC):
        (spool / name).mkdir(parents=True)
        (spool / name / "web.xmsave").write_bytes(b"image")
    (spool / "index-i2vzno1j").touch()

    await clear_settled(_host(spool, journal))

    assert sorted(one.name for one in spool.iterdir()) == [UNSETTLED, UNKNOWN]
    assert (spool / UNSETTLED / "web.xmsave").exists()


async def test_a_spool_that_is_not_there_is_no_obstacle(tmp_path: Path, journal: Journal) -> None:
    await clear_settled(_host(tmp_path / "spool", journal))


def _host(spool: Path, journal: Journal) -> Any:
    host: Any = SimpleNamespace(spool=spool, journal=journal)
    host.clear_spool = lambda migration: Host.clear_spool(host, migration)
    return host
