"""A target that is at work for ever, or takes and says things for ever, keeps nobody's guest."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support import preloaded
from tests.support.dom0 import QUIET, Dom0, image, the_problem, unique
from tests.support.faulty_daemon import LIMITS
from tests.support.lying_daemon import (
    BUILDING,
    DROPS,
    HUGE,
    HUSHED,
    LOOKING,
    STARTING,
    THERE,
    VARIABLE,
)
from xenmoved.control.api import Failure
from xenmoved.jobs.report import ENDED, JobReport, JobState, Phase
from xenmoved.sandbox.harness import wait_until

STALL = 2.0
PATIENCE = 30.0
"""Seconds for what takes a few, on a machine that is busy."""
QUICKLY = (
    "xenmoved.migration.source.dialogue.PATIENCE=3 "
    "xenmoved.migration.source.standstill.PATIENCE=3 "
    "xenmoved.migration.source.rounds._LEAST_UNKNOWN=1e9 "
    "xenmoved.migration.source.rounds._RATE_UNKNOWN=1e9 "
    "xenmoved.migration.doubts.WORD_COUNTS=6 xenmoved.migration.doubts._PEER_PATIENCE=2"
)
"""Limits of the source that are minutes in life."""


class Source(Dom0):
    """The host that sends guests, with short limits."""

    def launch(self, **environment: str) -> None:
        super().launch(**{LIMITS: QUICKLY, **environment})

    def boots(self, **options: Any) -> str:
        """Start a guest; return its name."""
        name = unique("web")
        self.boot(name, [image(self.images / f"{name}-root", 1)], extra=QUIET, **options)
        return name

    def in_doubt(self, guest: str) -> JobReport:
        """Return the job of a guest once it is in doubt."""

        def doubtful() -> bool:
            report = self.last_of(guest)
            assert report.state not in ENDED, report
            return report.state is JobState.IN_DOUBT

        wait_until(doubtful, "the doubt", PATIENCE)
        return self.last_of(guest)

    def doubts(self) -> list[str]:
        """Guests that `recover` shows as undecided."""
        shown = self.ctl("recover", "--json", timeout=PATIENCE)
        rows = json.loads(shown.stdout)["doubts"]
        return [row["guest"] for row in rows if row["state"] == "commit-sent"]

    def decides(self, guest: str, decision: str) -> str:
        """Decide about a doubt; return why that is refused, "" if it is not."""
        words = ("recover", guest, decision, "--yes", "--json")
        done = self.ctl(*words, timeout=PATIENCE)
        if done.returncode == 0:
            return ""
        return str(json.loads(done.stdout)["problems"][0]["code"])


class Liar(Dom0):
    """The host that they go to."""

    def __init__(self, root: Path, name: str, **settings: Any) -> None:
        launcher = preloaded.launcher("tests.support.lying_daemon")
        super().__init__(root, name, launcher=launcher, **settings)
        self.lies = self.folder / "lies"

    def launch(self, **environment: str) -> None:
        super().launch(**{VARIABLE: str(self.lies), **environment})

    def lie(self, about: str) -> None:
        """Lie about something, "" about nothing."""
        file = self.lies.with_suffix(".new")
        file.write_text(about)
        file.rename(self.lies)


Hosts = tuple[Source, Liar]


def made(root: Path, stack: ExitStack, stall: float) -> Hosts:
    launcher = preloaded.launcher("tests.support.faulty_daemon")
    timeouts = {"stall": f"{stall:g}s", "keepalive": "60s"}
    source = Source(root, "host-a", launcher=launcher, timeouts=timeouts)
    pair = (source, Liar(root, "host-b", timeouts=timeouts))
    for host in pair:
        stack.callback(host.close)
        host.start()
    pair[0].trust(pair[1])
    pair[1].trust(pair[0])
    return pair


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield made(tmp_path_factory.mktemp("lies"), stack, STALL)


@pytest.fixture
def hosts(running: Hosts) -> Iterator[Hosts]:
    yield running
    running[1].lie("")
    for host in running:
        if not host.running():
            host.start()
        host.clean()
        assert "Traceback" not in host.log(), host.log()[-3000:]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Hosts]:
    """Hosts with a `stall` that nobody sees the end of."""
    with ExitStack() as stack:
        yield made(tmp_path, stack, 300)


@pytest.mark.thorough
def test_who_looks_for_ever_at_an_offer_keeps_no_other_job_from_beginning(hosts: Hosts) -> None:
    a, b = hosts
    name = a.boots()
    b.lie(LOOKING)
    refused = a.try_migrate(name)
    assert isinstance(refused, Failure), refused
    assert refused.problems[0].code == "stalled"
    assert "asked for what it would do" in refused.problems[0].text
    b.lie("")
    a.migrate(name)
    b.assert_runs(name)


def test_who_says_that_its_volumes_are_huge_gets_nothing(hosts: Hosts) -> None:
    """For each block there the source would keep something on its disk, and read in full again."""
    a, b = hosts
    name = a.boots()
    b.lie(HUGE)
    the_problem(a.finish(a.begin(name).job, timeout=PATIENCE), "protocol")
    a.assert_runs(name)


def test_no_word_takes_a_guest_that_runs(hosts: Hosts) -> None:
    """The source is killed while it copies, and asks when it begins anew."""
    a, b = hosts
    name = a.boots()
    a.begin(name, rate_limit=200_000)
    wait_until(lambda: a.last_of(name).phase is Phase.PRE_COPY, "the copying", PATIENCE)
    a.stop(signal.SIGKILL)
    b.lie("started")
    a.start()
    wait_until(lambda: a.last_of(name).state is JobState.FAILED, "the end", PATIENCE)
    a.assert_runs(name)
    assert f"says that it started {name}, which runs here" in a.log()
    assert (a.guest_configs / f"{name}.cfg").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE])
def test_who_builds_for_ever_does_not_keep_the_guest(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    name = a.boots()
    b.lie(BUILDING)
    report = a.finish(a.begin(name, mode=mode).job, timeout=PATIENCE)
    the_problem(report, "stalled")
    a.assert_runs(name)
    assert report.blackout is not None
    assert report.blackout < 8 * STALL


@pytest.mark.thorough
def test_who_builds_for_ever_does_not_keep_a_guest_that_is_off(hosts: Hosts) -> None:
    a, b = hosts
    name = a.boots()
    a.xen.xl("destroy", name)
    b.lie(BUILDING)
    report = a.finish(a.begin(name, mode=Mode.COLD).job, timeout=PATIENCE)
    found = the_problem(report, "stalled")
    assert "has been at it for" in found.text
    assert "building the domain" in found.text
    assert (a.guest_configs / f"{name}.cfg").exists()


@pytest.mark.thorough
def test_who_takes_the_memory_in_drops_does_not_keep_the_guest(hosts: Hosts) -> None:
    """Every drop comes within `stall`."""
    a, b = hosts
    name = a.boots(memory=64)
    b.lie(DROPS)
    report = a.finish(a.begin(name, mode=Mode.SAVE).job, timeout=PATIENCE)
    found = the_problem(report, "stalled")
    assert "what is left of it to move explains no more than" in found.text
    assert "in phase final-delta at last" in found.text
    a.assert_runs(name)


@pytest.mark.thorough
def test_who_starts_for_ever_leaves_the_operator_to_decide(hosts: Hosts) -> None:
    a, b = hosts
    name = a.boots()
    b.lie(STARTING)
    job = a.begin(name)
    a.in_doubt(name)
    assert a.domain(name) is not None
    assert a.doubts() == [name]
    refused = a.ctl("abort", name, timeout=PATIENCE)
    assert refused.returncode != 0
    assert "is in doubt" in refused.stderr
    assert a.decides(name, "--keep-here") == ""
    assert a.last_of(name).job == job.job
    a.assert_runs(name)
    # It was ready, and not told to start it: what was decided reaches it.
    b.lie("")
    wait_until(lambda: b.domain(f"{name}--incoming") is None, "the end of the copy", PATIENCE)


@pytest.mark.thorough
def test_who_starts_for_long_is_heard_in_the_end(hosts: Hosts) -> None:
    a, b = hosts
    name = a.boots()
    b.lie(STARTING)
    job = a.begin(name)
    a.in_doubt(name)
    b.lie("")
    assert a.finish(job.job, timeout=PATIENCE).state is JobState.DONE
    assert a.domain(name) is None
    b.assert_runs(name)


@pytest.mark.thorough
@pytest.mark.parametrize("word", ["committed", "ready", "receiving", THERE])
def test_no_word_keeps_the_operator_from_deciding_for_ever(hosts: Hosts, word: str) -> None:
    a, b = hosts
    name = a.boots()
    b.lie(word)
    a.begin(name)
    a.in_doubt(name)
    code = "domain-there" if word == THERE else "peer-answers"
    assert a.decides(name, "--keep-here") == code
    assert a.doubts() == [name]
    time.sleep(6)
    told = a.ctl("recover", name, "--keep-here", timeout=PATIENCE)
    said = "a domain of that uuid is here" if word == THERE else f"It says: {word}, so it is."
    assert said in told.stderr
    assert a.decides(name, "--keep-here") == ""
    a.assert_runs(name)


@pytest.mark.thorough
def test_a_stop_and_an_abort_wait_for_no_start(patient: Hosts) -> None:
    a, b = patient
    name = a.boots()
    b.lie(STARTING)
    job = a.begin(name)
    a.until(job.job, lambda report: report.phase == "commit")
    began = time.monotonic()
    a.stop(timeout=PATIENCE)
    assert time.monotonic() - began < PATIENCE
    a.start()
    a.in_doubt(name)
    began = time.monotonic()
    a.stop(timeout=PATIENCE)
    a.start()
    assert a.in_doubt(name).job == job.job
    assert a.decides(name, "--keep-here") == ""
    a.assert_runs(name)


@pytest.mark.thorough
def test_an_abort_that_comes_too_late_is_told_so(patient: Hosts) -> None:
    a, b = patient
    name = a.boots()
    b.lie(STARTING)
    a.until(a.begin(name).job, lambda report: report.phase == "commit")
    refused = a.ctl("abort", name, timeout=PATIENCE)
    assert refused.returncode != 0
    assert "is in doubt" in refused.stderr
    assert a.doubts() == [name]
    b.lie("")
    wait_until(lambda: a.last_of(name).state is JobState.DONE, "the end", PATIENCE)
    b.assert_runs(name)


@pytest.mark.thorough
def test_what_recover_hears_settles_the_doubt(patient: Hosts) -> None:
    a, b = patient
    name = a.boots()
    b.lie(HUSHED)
    job = a.begin(name)
    a.until(job.job, lambda report: report.phase == "commit")
    assert a.ctl("abort", name, timeout=PATIENCE).returncode != 0
    a.in_doubt(name)
    assert a.decides(name, "--keep-here") == "peer-answers"
    assert a.finish(job.job, timeout=PATIENCE).state is JobState.DONE
    assert a.domain(name) is None
    b.assert_runs(name)
