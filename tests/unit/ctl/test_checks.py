"""What `xenmovectl check` finds wrong, how bad that is, and the form in which it says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from protocol.messages import Problem
from tests.support.ctl import GIB, HOSTILE, FakeDaemon, failure, run
from xenmoved.control.health_api import (
    GetHealth,
    Health,
    PeerHealth,
    TrackerHealth,
)
from xenmoved.ctl.checks import Limits, Severity, checked, lines
from xenmoved.migration.report import DoubtRow
from xenmoved.monitoring.report import CopyHealth, PoolHealth

NOW = 1_000_000.0
DAY = 86400.0
LIMITS = Limits(85, 95, 600.0, 30 * DAY)
WELL = Health(
    *("host-a", "0.2.0", 2, (), (), ()),
    pools=(PoolHealth("images", "dir", 100 * GIB, 50 * GIB, None),),
    copies=(CopyHealth("images", "web-root", "web", "host-b", GIB, DAY),),
    unseen=None,
    peers=(PeerHealth("host-b", "xenmoved 0.2.0", None),),
)


def doubt(state: str, age: float, **changes: Any) -> DoubtRow:
    row = DoubtRow(
        *("1a2b3c4d", "web", "host-b", True, state, NOW - age, "paused", None),
        Problem("in-doubt", "host-b does not answer", "xenmovectl recover"),
    )
    return replace(row, **changes)


def states(**changes: Any) -> list[Severity]:
    found = checked(replace(WELL, **changes), LIMITS, NOW)
    assert found.state == (found.findings[0].state if found.findings else Severity.OK)
    return [one.state for one in found.findings]


def test_all_is_well() -> None:
    found = checked(WELL, LIMITS, NOW)
    assert (found.state, found.findings) == (Severity.OK, ())
    assert found.summary == "host-a: 2 jobs, 1 peer answers"


OK, WARNING, CRITICAL, UNKNOWN = Severity
A_PROBLEM = Problem("x", "it is so", "do this")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alarms": (Problem("unfinished", "tried again", ""),)}, WARNING),
        ({"alarms": (Problem("journal", "no space", ""),)}, CRITICAL),
        ({"doubts": (doubt("commit-sent", 599),)}, WARNING),
        ({"doubts": (doubt("commit-sent", 600),)}, CRITICAL),
        ({"doubts": (doubt("committed", 601),)}, CRITICAL),
        ({"doubts": (doubt("kept", 10 * DAY),)}, WARNING),
        ({"doubts": (doubt("given-up", 10 * DAY),)}, WARNING),
        ({"doubts": (doubt("ran-twice", 1),)}, CRITICAL),
        ({"doubts": (doubt("lost", 1),)}, CRITICAL),
        ({"trackers": (TrackerHealth("1a2b3c4d", "web", 2),)}, WARNING),
        ({"pools": (PoolHealth("p", "dir", 100, 16, None),)}, None),
        ({"pools": (PoolHealth("p", "dir", 100, 15, None),)}, WARNING),
        ({"pools": (PoolHealth("p", "dir", 100, 6, None),)}, WARNING),
        ({"pools": (PoolHealth("p", "dir", 100, 5, None),)}, CRITICAL),
        ({"pools": (PoolHealth("p", "dir", 0, 0, None),)}, CRITICAL),
        ({"pools": (PoolHealth("p", "dir", 0, 0, A_PROBLEM),)}, CRITICAL),
        ({"copies": (CopyHealth("p", "v", "web", "host-b", 1, 30 * DAY - 1),)}, None),
        ({"copies": (CopyHealth("p", "v", "web", "host-b", 1, 30 * DAY),)}, WARNING),
        ({"copies": (), "unseen": A_PROBLEM}, UNKNOWN),
        ({"peers": None}, None),
        ({"peers": (PeerHealth("host-b", "", A_PROBLEM),)}, WARNING),
        ({"peers": (PeerHealth("host-b", "xenmoved 0.1.0", None),)}, WARNING),
    ],
)
def test_how_bad_it_is(changes: dict[str, Any], expected: Severity | None) -> None:
    assert states(**changes) == ([] if expected is None else [expected])


def test_the_worst_comes_first_and_decides() -> None:
    silent = PeerHealth("host-b", "", Problem("peer-unreachable", "no route", ""))
    found = states(
        peers=(silent,),
        copies=(),
        unseen=A_PROBLEM,
        pools=(PoolHealth("p", "dir", 100, 0, None),),
    )
    assert found == [CRITICAL, UNKNOWN, WARNING]


def test_copies_may_be_kept_for_ever() -> None:
    kept = replace(WELL, copies=(CopyHealth("p", "v", "web", "host-b", 1, 999 * DAY),))
    assert checked(kept, replace(LIMITS, copies_warning=None), NOW).state is OK


def perfdata(text: str) -> dict[str, str]:
    """Read performance data as a monitoring system does."""
    found = re.findall(r"('(?:[^'=]+)'|[^\s'=]+)=(\S+)", text)
    rest = re.sub(r"('(?:[^'=]+)'|[^\s'=]+)=(\S+)", "", text).strip()
    assert rest == "", rest
    value = re.compile(r"-?[0-9.]+(s|B|%|c)?(;[0-9.]*){0,4}")
    assert all(value.fullmatch(one) for _, one in found), text
    return {label.strip("'"): one for label, one in found}


def test_performance_data() -> None:
    first, *rest = lines(checked(WELL, LIMITS, NOW), LIMITS)
    assert rest == []
    text, _, data = first.partition(" | ")
    assert text == "XENMOVED OK - host-a: 2 jobs, 1 peer answers"
    assert perfdata(data) == {
        **{"jobs": "2;;;0", "alarms": "0;;;0", "doubts": "0;;;0"},
        "pool images": f"{50 * GIB}B;{85 * GIB};{95 * GIB};0;{100 * GIB}",
        "copies": f"{GIB}B;;;0",
        "oldest_copy": f"{DAY:.0f}s;{30 * DAY:.0f};;0",
        "peers_unreachable": "0;;;0;1",
    }


def test_what_others_say_can_harm_neither_a_terminal_nor_the_performance_data() -> None:
    hostile = f"{HOSTILE}|jobs=99\n| 'x'=1"
    health = replace(
        WELL,
        alarms=(Problem("unfinished", hostile, hostile),),
        doubts=(doubt("lost", 5, guest=hostile),),
        copies=(CopyHealth("p", hostile, hostile, hostile, 1, 99 * DAY),),
        peers=(PeerHealth("host-b", hostile, None),),
    )
    first, *rest = lines(checked(health, LIMITS, NOW), LIMITS)
    assert len(rest) == 4
    assert first.count("|") == 1
    assert "jobs=2;;;0" in first.partition("|")[2]
    assert not any("|" in line for line in rest)
    assert all(line.isprintable() for line in (first, *rest))


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        fake.answers[GetHealth] = WELL
        yield fake


@pytest.mark.long
def test_the_command(daemon) -> None:
    shown = run(daemon.path, "check")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("XENMOVED OK - host-a: 2 jobs, 1 peer answers | jobs=2")
    assert daemon.requests == [GetHealth(True)]
    assert run(daemon.path, "check", "--pool-warning", "50%").returncode == 1
    assert run(daemon.path, "check", "--pool-warning", "1", "--pool-critical", "50").returncode == 2
    assert run(daemon.path, "check", "--copies-warning", "12h").returncode == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "wrong",
    [
        ["--bogus"],
        ["host-b"],
        ["--pool-warning", "0"],
        ["--pool-warning", "101"],
        ["--pool-critical", "x"],
        ["--pool-warning", "90", "--pool-critical", "80"],
        ["--doubts-critical", "10"],
        ["--doubts-critical", "never"],
        ["--copies-warning", "30"],
    ],
)
def test_a_command_line_that_is_wrong_is_unknown(daemon, wrong) -> None:
    shown = run(daemon.path, "check", *wrong, "--json")
    assert shown.returncode == 3
    record = json.loads(shown.stdout)
    assert (record["type"], record["exit_code"]) == ("failure", 3)
    assert daemon.requests == []
    assert run(daemon.path, "status", "--bogus").returncode == 2


@pytest.mark.long
def test_a_daemon_that_refuses_or_cannot_tell(daemon, tmp_path) -> None:
    daemon.answers[GetHealth] = failure("access-denied", "this user may not use xenmoved")
    assert run(daemon.path, "check").returncode == 3
    daemon.answers[GetHealth] = failure("toolstack", "xl list gives no answer")
    shown = run(daemon.path, "check")
    assert shown.returncode == 2
    assert "XENMOVED CRITICAL - xl list gives no answer" in shown.stdout
    assert run(tmp_path / "none", "check").returncode == 2
