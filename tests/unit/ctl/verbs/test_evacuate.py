"""`xenmovectl evacuate`: the plan, the company, the summary, and how it is left."""

import json
import signal
from dataclasses import replace

import pytest

from protocol.messages import Mode, Problem
from tests.support.ctl import (
    MIB,
    FakeDaemon,
    a_job,
    a_round,
    failure,
    run,
    run_on_terminal,
    started,
)
from xenmoved.control.api import Done
from xenmoved.control.evacuation_api import (
    PlanEvacuation,
    StartEvacuation,
    StopEvacuation,
    WatchEvacuation,
)
from xenmoved.evacuation.report import Evacuation, EvacuationState, GuestFate, GuestToMove
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.long

FULL = Problem("no-room", "host-b has 1GiB of memory left", "free something there")
BLOCKED = GuestToMove("db", None, 8 * MIB, 90 * MIB, GuestFate.BLOCKED, problems=(FULL,))
WAITING = GuestToMove("web", "host-b", 4 * MIB, 20 * MIB, GuestFate.WAITING)
MOVING = GuestToMove(
    *("web", "host-b", 4 * MIB, 20 * MIB, GuestFate.MOVING),
    job="12345678",
    progress=a_job(a_round(1, examined=40)),
)
MOVED = GuestToMove(
    *("web", "host-b", 4 * MIB, 20 * MIB, GuestFate.MOVED),
    job="12345678",
    sent=5 * MIB,
    seconds=3.0,
)


def evacuation(*guests, state=EvacuationState.RUNNING):
    return Evacuation(state, 2, 1.0, 9.0 if state is EvacuationState.ENDED else None, guests)


ENDED = evacuation(BLOCKED, MOVED, state=EvacuationState.ENDED)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        plan = evacuation(BLOCKED, WAITING, state=EvacuationState.PLANNED)
        fake.answers[PlanEvacuation] = plan
        fake.answers[StartEvacuation] = evacuation(BLOCKED, WAITING)
        # The daemon does not hang up when it has ended.
        course = [evacuation(BLOCKED, WAITING), evacuation(BLOCKED, MOVING), ENDED, 20]
        fake.answers[WatchEvacuation] = course
        fake.answers[StopEvacuation] = Done("no further guest is moved; still moving: web")
        yield fake


def test_a_plan_shows_those_that_cannot_move_first(daemon):
    shown = run(daemon.path, "evacuate", "host-b", "host-c", "--dry-run", "--mode", "save")
    assert shown.returncode == 3
    lines = shown.stdout.splitlines()
    assert lines[1].split() == ["db", "8MiB", "90MiB", "cannot", "move"]
    assert "host-b has 1GiB of memory left" in lines[2]
    assert lines[4].split() == ["web", "4MiB", "20MiB", "host-b"]
    assert lines[-1] == "1 guest can move, 1 cannot"
    asked = daemon.asked(PlanEvacuation)
    assert (asked.peers, asked.mode) == (("host-b", "host-c"), Mode.SAVE)


def test_a_peer_that_was_left_out_is_told_of_when_planned_and_when_begun(daemon):
    old = Problem("peer-too-old", "host-c speaks version 6", "upgrade xenmoved on host-c")
    for request in (PlanEvacuation, StartEvacuation):
        daemon.answers[request] = replace(daemon.answers[request], problems=(old,))
    planned = run(daemon.path, "evacuate", "host-b", "host-c", "--dry-run")
    begun = run(daemon.path, "evacuate", "host-b", "host-c", "--detach")
    for told in (planned.stdout, begun.stderr):
        assert "warning: no guest goes to a peer that could not be asked" in told
        assert "host-c speaks version 6" in told
        assert "upgrade xenmoved on host-c" in told
    as_json = run(daemon.path, "evacuate", "host-b", "host-c", "--detach", "--json")
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout)["problems"][0]["code"] == "peer-too-old"


def test_it_is_followed_to_its_end_and_summed_up(daemon):
    shown = run(daemon.path, "evacuate", "host-b", "--concurrency", "5", "--remove-source")
    assert shown.returncode == 1
    assert "web to host-b: moving (job 12345678)" in shown.stdout
    assert "web to host-b: moved in 3s, 5MiB sent" in shown.stdout
    assert "2 guests: 1 blocked, 1 moved" in shown.stdout
    assert "db: host-b has 1GiB of memory left" in shown.stderr
    asked = daemon.asked(StartEvacuation)
    assert (asked.concurrency, asked.options.remove_source) == (5, True)


def test_all_moved_is_success(daemon):
    daemon.answers[WatchEvacuation] = evacuation(MOVED, state=EvacuationState.ENDED)
    assert run(daemon.path, "evacuate", "host-b").returncode == 0
    quiet = run(daemon.path, "evacuate", "host-b", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_doubt_has_its_exit_code(daemon):
    doubtful = GuestToMove("web", "host-b", 1, 1, GuestFate.IN_DOUBT, problems=(FULL,))
    daemon.answers[WatchEvacuation] = evacuation(doubtful, state=EvacuationState.ENDED)
    assert run(daemon.path, "evacuate", "host-b").returncode == 6


def test_json(daemon):
    shown = run(daemon.path, "evacuate", "host-b", "--json")
    kinds = [json.loads(line)["type"] for line in shown.stdout.splitlines()]
    assert kinds == ["evacuation"] * 3 + ["failure"]


def test_the_daemon_goes_away(daemon):
    daemon.answers[WatchEvacuation] = evacuation(MOVING)
    shown = run(daemon.path, "evacuate", "host-b")
    assert shown.returncode == 4
    assert "xenmovectl jobs" in shown.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(("peers", "stops"), [(["host-b"], True), ([], False)])
def test_ctrl_c_stops_only_what_was_begun_here(daemon, peers, stops):
    daemon.answers[WatchEvacuation] = [evacuation(BLOCKED, MOVING), 10]
    code, screen = run_on_terminal(daemon, ["evacuate", *peers], interrupt_on="pre-copy")
    assert code == 130
    assert any(isinstance(request, StopEvacuation) for request in daemon.requests) is stops
    assert ("still moving: web" if stops else "the evacuation goes on") in screen


def test_stopping(daemon):
    assert run(daemon.path, "evacuate", "--stop").stdout.startswith("no further guest is moved")
    assert run(daemon.path, "evacuate", "--stop", "host-b").returncode == 2
    daemon.answers[StopEvacuation] = failure("no-evacuation", "no evacuation is under way")
    assert run(daemon.path, "evacuate", "--stop").returncode == 1


@pytest.mark.parametrize("number", ["0", "65", "two", "-1"])
def test_concurrency_has_bounds(daemon, number):
    shown = run(daemon.path, "evacuate", "host-b", f"--concurrency={number}")
    assert shown.returncode == 2
    assert "1 to 64" in shown.stderr


def test_a_plan_without_a_peer_is_no_plan(daemon):
    assert run(daemon.path, "evacuate", "--dry-run").returncode == 2


def test_ctrl_c_while_it_is_planned(daemon):
    daemon.answers[StartEvacuation] = [10]
    with started(daemon, "evacuate", "host-b") as process:
        wait_until(lambda: daemon.requests, "the request")
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "no further guest is moved" in shown
    assert isinstance(daemon.requests[-1], StopEvacuation)
