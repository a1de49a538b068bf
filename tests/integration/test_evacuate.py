"""`xenmovectl evacuate`: every guest away, as an operator types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.dom0 import MIB, QUIET, Dom0, Guest, image, problems, unique
from xenmoved.control.api import AbortJob, Done, ListJobs
from xenmoved.control.evacuation_api import StartEvacuation, StopEvacuation
from xenmoved.sandbox.harness import wait_until

Hosts = tuple[Dom0, Dom0]


def guests(host: Dom0, count: int, *, data: int = 1, memory: int = 2) -> list[Guest]:
    """Start guests, each with one disk."""
    names = [unique("web") for _ in range(count)]
    return [
        host.boot(*(name, [image(host.images / f"{name}-root", data)]), memory=memory, extra=QUIET)
        for name in names
    ]


def evacuate(host: Dom0, *args: str) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the command; return its exit code, its reports, and the problems in the end."""
    done = host.ctl("evacuate", *args, "--json")
    lines = [json.loads(each) for each in done.stdout.splitlines()]
    reports = [each for each in lines if each["type"] == "evacuation"]
    failures = [each for each in lines if each["type"] == "failure"]
    return done.returncode, reports, failures[0]["problems"] if failures else []


def fates(report: dict[str, Any]) -> dict[str, str]:
    return {guest["guest"]: guest["fate"] for guest in report["guests"]}


@pytest.mark.thorough
@pytest.mark.timeout(300)  # six migrations
def test_one_that_fails_keeps_no_other_here_and_another_run_moves_the_rest(hosts: Hosts) -> None:
    a, b = hosts
    moving = guests(b, 3)
    failing, stuck = guests(b, 2)
    (a.images / failing.disks[0].name).symlink_to("nowhere")  # found when its volume is made
    b.xen.xl("pause", stuck.name)

    code, reports, left = evacuate(b, "host-a", "--mode", "save", "--concurrency", "2")
    assert code == 1
    assert reports[0]["guests"][0]["guest"] == stuck.name
    at_once = [list(fates(report).values()).count("moving") for report in reports]
    assert max(at_once) == 2
    assert fates(reports[-1]) == {
        **{guest.name: "moved" for guest in moving},
        failing.name: "failed",
        stuck.name: "blocked",
    }
    assert len(left) == 2
    assert any(failing.name in each["text"] and "already there" in each["text"] for each in left)
    assert any(stuck.name in each["text"] and "paused" in each["text"] for each in left)
    for guest in moving:
        a.assert_runs(guest.name)
    b.assert_runs(failing.name)

    (a.images / failing.disks[0].name).unlink()
    b.xen.xl("unpause", stuck.name)
    again = b.ctl("evacuate", "host-a")
    assert again.returncode == 0, again.stderr
    assert f"{failing.name} to host-a: moved in" in again.stdout
    assert "2 guests: 2 moved" in again.stdout
    assert moving[0].name not in again.stdout
    assert b.emulator.domains() == []


@pytest.mark.thorough
def test_ctrl_c_begins_no_more_and_another_run_goes_on(hosts: Hosts) -> None:
    _, b = hosts
    three = guests(b, 3, data=2)
    command = [sys.executable, "-m", "xenmoved.ctl.main", "--socket", str(b.socket), "evacuate"]
    options = ["host-a", "--concurrency", "1", "--rate-limit", "1MiB", "--mode", "save"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: b.ask(ListJobs(False)).jobs, "the first to move", 60)
    busy = b.ask(StartEvacuation(("host-a",), None, 1))
    assert [each.code for each in problems(busy)] == ["busy"]
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    (moved,) = [guest for guest in three if f"still moving: {guest.name}" in shown]

    followed = b.ctl("evacuate")  # to its end, which is that of the one that moves
    assert followed.returncode == 1
    assert "1 moved, 2 left" in followed.stdout
    assert followed.stderr.count("was stopped before its turn") == 2
    assert sorted(one.name for one in b.emulator.domains()) == sorted(
        guest.name for guest in three if guest is not moved
    )
    code, reports, _ = evacuate(b, "host-a")
    assert (code, set(fates(reports[-1]).values())) == (0, {"moved"})
    assert b.ctl("evacuate", "--stop").returncode == 1


@pytest.mark.thorough
def test_a_client_that_goes_away_changes_nothing(hosts: Hosts) -> None:
    a, b = hosts
    one, other = guests(b, 2, data=2)
    begun = b.ctl("evacuate", "host-a", "--detach", "--concurrency", "1", "--rate-limit", "1MiB")
    assert begun.returncode == 0, begun.stderr
    wait_until(lambda: b.ask(ListJobs(False)).jobs, "the first to move", 60)
    (job,) = b.ask(ListJobs(False)).jobs
    assert isinstance(b.ask(AbortJob(job.job)), Done)  # of one, not of the evacuation
    followed = b.ctl("evacuate")
    assert followed.returncode == 1
    assert f"{job.guest}: aborted by the operator" in followed.stderr
    assert [domain.name for domain in b.emulator.domains()] == [job.guest]
    a.assert_runs(next(guest.name for guest in (one, other) if guest.name != job.guest))


def test_the_daemon_is_stopped_meanwhile(hosts: Hosts) -> None:
    _, b = hosts
    guests(b, 2, data=2)
    b.ctl("evacuate", "host-a", "--detach", "--concurrency", "1", "--rate-limit", "1MiB")
    wait_until(lambda: b.ask(ListJobs(False)).jobs, "the first to move", 60)
    b.stop()
    b.start()
    assert len(b.emulator.domains()) == 2, "none is begun while it stops"
    assert len(b.ask(ListJobs(True)).jobs) >= 1
    nothing = b.ctl("evacuate")
    assert nothing.returncode == 1
    assert "no evacuation was begun" in nothing.stderr


@pytest.fixture
def third(hosts: Hosts, tmp_path: Path) -> Iterator[Dom0]:
    """A host-c that host-b may send guests to."""
    host = Dom0(tmp_path, "host-c")
    try:
        host.start()
        host.trust(hosts[1])
        hosts[1].trust(host)
        yield host
    finally:
        host.close()


@pytest.mark.thorough
def test_guests_go_where_they_fit(hosts: Hosts, third: Dom0) -> None:
    a, b = hosts
    free = {a: 9, third: 12}
    for host, mebibytes in free.items():
        taken = sum(domain.memory for domain in host.emulator.domains())
        settings = {"total_memory": 1024 + taken + mebibytes}
        (host.xen.root / "host.json").write_text(json.dumps(settings))
    large = guests(b, 3, memory=8)
    (small,) = guests(b, 1, memory=4)
    code, (plan,), _ = evacuate(b, "host-a", "host-c", "--dry-run")
    assert code == 3
    blocked, *rest = plan["guests"]
    assert blocked["fate"] == "blocked"
    assert blocked["memory"] == 8 * MIB
    assert [each["code"] for each in blocked["problems"]] == ["no-room", "no-room"]
    assert "host-c has 4MiB of memory left beside the guests" in blocked["problems"][0]["text"]
    assert [guest["peer"] for guest in rest] == ["host-c", "host-a", "host-c"]
    assert rest[2]["guest"] == small.name
    assert len(b.emulator.domains()) == 4

    code, reports, _ = evacuate(b, "host-a", "host-c", "--mode", "save")
    assert code == 1
    assert sorted(fates(reports[-1]).values()) == ["blocked", "moved", "moved", "moved"], reports[
        -1
    ]
    third.assert_runs(small.name)
    assert [domain.name for domain in b.emulator.domains()] == [blocked["guest"]]
    assert {guest.name for guest in large} > {blocked["guest"]}


@pytest.mark.thorough
def test_a_peer_that_cannot_be_asked_keeps_no_guest_from_another(hosts: Hosts, third: Dom0) -> None:
    a, b = hosts
    (guest,) = guests(b, 1)
    third.stop()
    code, reports, _ = evacuate(b, "host-c")
    assert (code, reports) == (3, [])
    code, reports, _ = evacuate(b, "host-c", "host-a", "--mode", "save")
    assert code == 0
    assert [one["code"] for one in reports[-1]["problems"]] == ["peer-unreachable"]
    assert fates(reports[-1]) == {guest.name: "moved"}
    a.assert_runs(guest.name)
    unknown = b.ctl("evacuate", "host-a", "host-z")
    assert unknown.returncode == 3
    assert "no peer is called host-z" in unknown.stderr


def test_it_can_be_called_off_while_it_is_planned(hosts: Hosts) -> None:
    _, b = hosts
    (guest,) = guests(b, 1)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(b.ask, StartEvacuation(("host-a",), None, 1))
        wait_until(lambda: isinstance(b.ask(StopEvacuation()), Done), "the planning", 30)
    assert [each.code for each in problems(answer.result())] == ["stopped"]
    assert b.ask(ListJobs(False)).jobs == ()
    b.assert_runs(guest.name)


def test_when_none_can_move_nothing_is_begun(hosts: Hosts) -> None:
    _, b = hosts
    assert b.ctl("evacuate", "host-a").stdout.strip() == "no guests: nothing to move"
    for guest in guests(b, 2):
        b.xen.xl("pause", guest.name)
    refused = b.ctl("evacuate", "host-a")
    assert refused.returncode == 3
    assert refused.stderr.count("is paused") == 2
    unknown = b.ctl("evacuate", "host-z")
    assert unknown.returncode == 3
    assert "no peer is called host-z" in unknown.stderr


@pytest.mark.thorough
def test_pools_are_chosen_for_the_guests_that_have_them(hosts: Hosts) -> None:
    a, b = hosts
    (guest,) = guests(b, 1)
    other = unique("db")
    b.boot(other, [image(b.pools["small"] / f"{other}-root", 1)], extra=QUIET)
    code, _, found = evacuate(b, "host-a", "--mode", "save", "--pool", "small=thin")
    assert (code, found) == (0, [])
    a.assert_runs(guest.name)
    assert (a.images / f"{guest.name}-root").exists()
    assert (a.pools["thin"] / f"{other}-root").exists()


@pytest.mark.thorough
def test_what_needs_somebody_is_said_of_each(hosts: Hosts) -> None:
    a, b = hosts
    fine, (guest,) = guests(b, 1), guests(b, 1)
    guest.config.write_text(f"{guest.config.read_text()}\ndevice_model_override = '/srv/q'\n")
    planned = b.ctl("evacuate", "host-a", "--dry-run")
    assert planned.returncode == 0
    assert f"{guest.name}.cfg.received" in " ".join(planned.stdout.split())
    moved = b.ctl("evacuate", "host-a")
    assert moved.returncode == 7
    assert f"{guest.name}.cfg.received" in " ".join(moved.stderr.split())
    a.assert_runs(fine[0].name)
