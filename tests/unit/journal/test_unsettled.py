"""What a journal is still needed for."""

import subprocess
import sys

import pytest

from protocol.handover import SourceState, TargetState
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Inbound, Outbound
from xenmoved.journal.unsettled import unsettled


async def written(folder, *entries):
    """Write migrations into a journal in a folder, settled or not, and close it."""
    journal = Journal(folder / "journal.db")
    await journal.open()
    for entry, settled in entries:
        record = journal.record_inbound if isinstance(entry, Inbound) else journal.record_outbound
        await record(entry, settled=settled)
    await journal.close()


def leaving(state):
    return Outbound("m1", state, "web", "host-b", "j1", "u1")


def coming(state, *, was_ready):
    details = {"name": "web", "uuid": "u1", "was_ready": was_ready}
    return Inbound("m2", state, "host-a", "", "j2", details)


def test_no_journal_settles_nothing(tmp_path):
    assert unsettled(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "settled", "line"),
    [
        (leaving(SourceState.DONE), True, None),
        (leaving(SourceState.DONE), False, "guest 'web' to host-b: done"),
        (leaving(SourceState.COMMIT_SENT), False, "guest 'web' to host-b: commit-sent"),
        (leaving(SourceState.LOST), True, "guest 'web' to host-b: lost"),
        (coming(TargetState.ABORTED, was_ready=False), True, None),
        (coming(TargetState.ABORTED, was_ready=False), False, "guest 'web' from host-a: aborted"),
        (
            coming(TargetState.ABORTED, was_ready=True),
            True,
            "guest 'web' from host-a: aborted, as that host may ask",
        ),
        (
            coming(TargetState.STARTED, was_ready=True),
            True,
            "guest 'web' from host-a: started, as that host may ask",
        ),
        (
            coming(TargetState.COMMITTED, was_ready=True),
            False,
            "guest 'web' from host-a: committed",
        ),
    ],
)
async def test_what_a_journal_settles(tmp_path, entry, settled, line):
    await written(tmp_path, (entry, settled))
    assert unsettled(tmp_path) == ([line] if line else [])


@pytest.mark.thorough
@pytest.mark.long
async def test_the_command_says_so_by_its_exit_code(tmp_path):
    def told():
        command = [sys.executable, "-m", "xenmoved.main", "--unsettled", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert told() == (0, "", "")
    await written(tmp_path, (leaving(SourceState.COMMIT_SENT), False))
    assert told() == (3, "guest 'web' to host-b: commit-sent\n", "")
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    code, out, err = told()
    assert (code, out) == (1, "")
    assert "cannot be read: file is not a database" in err
