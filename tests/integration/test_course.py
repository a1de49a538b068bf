"""The record of a real migration is consistent with itself, and with what the daemons did."""

from __future__ import annotations

import itertools
import json
from html.parser import HTMLParser
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support.dom0 import MIB, Dom0, image, unique
from xenmoved.control.api import AbortJob, StartMigration
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobState, Phase

Hosts = tuple[Dom0, Dom0]
CLOCKS = 0.05
"""Seconds by which the moments of a job may differ that are taken by the time of day."""


def shown(host: Dom0, job: str) -> dict[str, Any]:
    """Return what `xenmovectl show --json` prints."""
    done = host.ctl("show", job, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report.pop("type") == "job_report"
    return report


def assert_consistent(report: dict[str, Any]) -> None:
    """Assert that the course of a job that has ended fits together."""
    took = report["ended"] - report["started"] + CLOCKS
    phases = [one["at"] for one in report["phases"]]
    assert phases[0] == 0.0
    assert phases == sorted(phases)
    assert phases[-1] <= took
    for key in ("at", "disks", "memory"):
        values = [one[key] for one in report["samples"]]
        assert values == sorted(values), key
    last = report["samples"][-1]
    assert last["at"] <= took
    rounds = [one for volume in report["volumes"] for one in volume["rounds"]]
    assert last["disks"] == sum(one["wire_bytes"] for one in rounds)
    assert last["memory"] == report["memory_sent"]
    assert last["disks"] + last["memory"] == report["wire_bytes"]
    for volume in report["volumes"]:
        for before, after in itertools.pairwise(volume["rounds"]):
            assert before["at"] + before["seconds"] <= after["at"] + 1e-6
        for one in volume["rounds"]:
            assert one["at"] + one["seconds"] <= took


def assert_self_contained(page: str) -> None:
    """Assert that a page is well-formed and needs no other file."""
    opened: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "a"), tag
            assert not {name for name, _ in attrs} & {"src", "href", "srcset"}, attrs
            if tag != "meta":
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    checker = Checker()
    checker.feed(page)
    checker.close()
    assert opened == []
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("tool", "mode"), [("xl", Mode.LIVE), ("xl", Mode.SAVE), ("xm", Mode.SAVE)]
)
def test_the_course_of_a_migration(request: pytest.FixtureRequest, tool: str, mode: Mode) -> None:
    a, b = request.getfixturevalue("hosts" if tool == "xl" else "xm_hosts")
    name = unique("course")
    disks = [image(a.images / f"{name}-{part}", 16, data=12) for part in ("root", "data")]
    a.boot(name, disks, memory=8, extra="sandbox.rate=5")
    options = TransferOptions(rate_limit=16 * MIB, verify=True)
    job = a.ask(StartMigration(name, "host-b", mode, options)).job
    assert a.finish(job).state is JobState.DONE
    b.assert_runs(name)

    report = shown(a, job)

    assert_consistent(report)
    entered = {one["phase"]: one["at"] for one in report["phases"]}
    stopping = Phase.MEMORY if mode is Mode.LIVE else Phase.SUSPEND
    rare = {Phase.HOLD, Phase.MEMORY, Phase.SUSPEND, Phase.SHUTDOWN, Phase.ENDED} - {stopping}
    assert list(entered) == [phase for phase in Phase if phase not in rare]
    lefts = [one["left"] for one in report["samples"] if one["at"] < entered[stopping]]
    assert lefts[0] == 0 or lefts[0] == 32 * MIB
    assert max(lefts) == 32 * MIB
    assert len(report["samples"]) >= 10, "the copy took more than a second"
    parts = report["blackout_parts"]
    assert sum(one["seconds"] for one in parts) == pytest.approx(report["blackout"])
    assert parts[0]["at"] == report["suspended"]
    assert entered[stopping] <= report["suspended"] <= entered["final-delta"]
    whats = [one["what"] for one in parts]
    assert [whats[0], *whats[-2:]] == [
        *("last changes of the disks", "flush and build", "commit and start")
    ]
    assert "verification" in whats
    for volume in report["volumes"]:
        first, *later, verified = volume["rounds"]
        assert (first["dirty_rate"], verified["verify"]) == (None, True)
        assert first["dirty"] == first["data_bytes"] + first["zero_bytes"]
        for one in later:
            assert one["dirty"] == one["data_bytes"] + one["zero_bytes"]
            assert not one["verify"]
        assert sum(one["dirty_rate"] for one in later) > 0, "the guest wrote all the time"

    there = shown(b, b.last_of(name).job)

    assert_consistent(there)
    assert there["blackout"] is None
    assert there["memory_sent"] == report["memory_sent"]
    for ours, theirs in zip(report["volumes"], there["volumes"], strict=True):
        for mine, yours in zip(ours["rounds"], theirs["rounds"], strict=True):
            assert yours["examined"] == yours["total"]
            assert yours["data_bytes"] == mine["data_bytes"]
            assert yours["wire_bytes"] <= mine["wire_bytes"]
            assert yours["seconds"] > 0

    text = a.ctl("show", job).stdout
    for part in ("final-delta", "first copy", "flush and build", "peak", "verify"):
        assert part in text
    page = a.ctl("report", job, "-o", "-")
    assert page.returncode == 0, page.stderr
    assert_self_contained(page.stdout)
    for part in (name, "host-a → host-b", *whats, str(disks[0])):
        assert part in page.stdout
    assert page.stdout.count("<svg") == 5
    assert b.ctl("report", name, "-o", "-").stdout.count("<svg") >= 2


def test_the_course_of_a_job_that_was_aborted(hosts: Hosts) -> None:
    a, _ = hosts
    job = a.begin_sync(image(a.images / unique("volume"), 16), rate_limit=4 * MIB).job
    a.until_sent(job, 2 * MIB)
    half = shown(a, job)
    while half["samples"][-1]["left"] == 16 * MIB:  # samples are some time apart
        half = shown(a, job)
    assert half["samples"][-1]["left"] > 0
    a.ask(AbortJob(job))
    report = shown(a, job)
    assert report["state"] == JobState.ABORTED
    assert_consistent(report)
    assert report["samples"][: len(half["samples"])] == half["samples"]
    assert report["blackout_parts"] == []
