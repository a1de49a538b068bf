"""A journal that was lost, or set back to an older copy, is no word about whose the guest is."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from protocol.messages import Mode
from tests.crash.test_recover import doubtful, doubts, world
from tests.support.crash import EXECUTES, GUEST, PATIENCE, CrashHost, World
from xenmoved.sandbox.harness import wait_until

__all__ = ["world"]  # a fixture

LOST = ""
STARTED = "inbound:started:after"


def set_back(host: CrashHost, statement: str) -> None:
    """Have the journal of a host that is down be gone, or one that it was before."""
    journal = host.folder / "state" / "journal.db"
    if statement is LOST:
        for path in journal.parent.glob("journal.db*"):
            path.unlink()
        return
    with closing(sqlite3.connect(journal)) as database, database:
        assert database.execute(statement).rowcount == 1


def was(state: str) -> str:
    """The target's journal as it was in an earlier state."""
    ready = "true" if state == "ready" else "false"
    return (
        f"UPDATE inbound SET state='{state}', settled=0, "
        f"details=json_set(details, '$.was_ready', json('{ready}'))"
    )


def wait_forgotten(source: CrashHost, word: str, domain: str) -> None:
    """Wait until the source says that its target has forgotten, and what is there."""
    said = {"word": word, "domain": domain}
    wait_until(
        lambda: [row["peer_says"] for row in doubts(source)] == [said], "the answer", PATIENCE
    )
    (row,) = doubts(source)
    assert row["problem"]["code"] == "peer-forgot"
    assert "its journal does not know whether it did" in row["problem"]["text"]
    assert source.jobs()[0].problem.code == "peer-forgot"
    assert source.domains().get(GUEST) not in EXECUTES


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE])
def test_target_that_lost_its_journal_decides_nothing(world: World, mode: Mode) -> None:
    source, target = doubtful(world, STARTED, at_source=False, mode=mode)
    wait_until(lambda: target.domains().get(GUEST) in EXECUTES, "the copy", PATIENCE)
    set_back(target, LOST)
    target.start()
    wait_forgotten(source, "unknown", "there")
    shown = source.ctl("recover").stdout
    assert "domain there there" in " ".join(shown.split())

    refused = source.ctl("recover", GUEST, "--keep-here", "--yes", "--json")
    assert (refused.returncode, '"domain-there"' in refused.stdout) == (3, True)
    target.xen.xl("rename", GUEST, "other")
    refused = source.ctl("recover", GUEST, "--keep-here", "--yes")
    assert refused.returncode == 3, "it is known by its uuid"
    target.xen.xl("rename", "other", GUEST)

    assert source.ctl("recover", GUEST, "--give-up", "--yes").returncode == 0
    wait_until(lambda: GUEST not in source.domains(), "the copy to be dropped", PATIENCE)
    assert [row["state"] for row in doubts(source)] == ["given-up"]
    assert target.domains()[GUEST] in EXECUTES


@pytest.mark.thorough
def test_guest_whose_target_was_set_back_and_has_no_domain_of_it(world: World) -> None:
    source, target = doubtful(world, STARTED, at_source=False)
    target.xen.xl("destroy", GUEST)
    set_back(target, was("receiving"))
    target.start()
    wait_forgotten(source, "never-ready", "absent")
    warned = source.ctl("recover", GUEST, "--keep-here")
    assert "does not know whether it started" in warned.stderr
    assert "nobody on" in warned.stderr
    assert source.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 0
    # The emulated guest finds out that it ran on, on the other host, and stops itself.
    assert source.last_job().problem.code == "kept"


@pytest.mark.thorough
@pytest.mark.parametrize("state", ["receiving", "ready"])
def test_target_that_was_set_back_knows_what_runs_there(world: World, state: str) -> None:
    source, target = doubtful(world, STARTED, at_source=False)
    set_back(target, was(state))
    target.start()
    wait_until(lambda: not doubts(source), "the word", PATIENCE)
    world.wait_quiet()
    assert world.owner() is target
    assert GUEST not in source.domains()
    assert "this was set back" in target.log()


@pytest.mark.thorough
@pytest.mark.parametrize("state", ["copying", "handing-over"])
def test_source_that_was_set_back_asks_before_it_resumes(world: World, state: str) -> None:
    source, target = doubtful(world, STARTED, at_source=False)
    source.stop()
    set_back(source, f"UPDATE outbound SET state='{state}', settled=0")
    target.start()
    source.start()
    wait_until(lambda: GUEST not in source.domains(), "the copy to be dropped", PATIENCE)
    world.wait_quiet()
    assert world.owner() is target
    assert "this journal was set back" in source.log()


@pytest.mark.thorough
def test_source_in_doubt_whose_guest_runs_does_not_commit(world: World) -> None:
    """As when the record that it commits failed, and is on the disk all the same."""
    source, target = doubtful(world, "ask:Commit:before", at_source=True)
    source.stop()
    source.xen.xl("unpause", GUEST)
    target.start()
    source.start()
    wait_until(lambda: not doubts(source), "the target's word", PATIENCE)
    world.wait_quiet()
    assert world.owner() is source
    assert "it is kept" in source.log()


@pytest.mark.thorough
def test_guest_that_could_not_be_resumed_is_left_alone_when_the_target_has_started_it(
    world: World,
) -> None:
    source, target = doubtful(world, STARTED, at_source=False)
    stopped = source.domains()[GUEST]
    source.stop()
    set_back(source, "UPDATE outbound SET state='handing-over', settled=0")
    source.xen.faults(unpause={"fail": "busy"})
    target.arm("hang=6@answer:Inquire:before")  # it is too slow to say so before the attempt
    target.start()
    source.start()
    wait_until(lambda: "ran-twice" in source.alarms(), "the target's word", PATIENCE)
    assert "is not running again" in source.log()
    source.xen.faults()
    time.sleep(2)  # longer than the pause before another attempt
    # The emulated guest would find out that it ran on, on the other host, and stop itself.
    assert source.domains()[GUEST] == stopped
    assert "done after" not in source.log()
    assert source.alarms() == ["ran-twice"]
    assert not source.jobs()
    assert target.domains()[GUEST] in EXECUTES
