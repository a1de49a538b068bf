"""Slow is not dead, and what hangs is not slow: hosts that take long, and processes that stop."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support import preloaded
from tests.support.dom0 import QUIET, Dom0, image, in_pre_copy, the_problem, unique
from tests.support.faulty_daemon import LIMITS, VARIABLE
from xenmoved.control.api import ListJobs
from xenmoved.jobs.report import ENDED, JobReport, JobState, Phase
from xenmoved.sandbox.harness import wait_until

STALL = 2.0
QUICKLY = (
    "xenmoved.migration.target.channels.ATTACH_PATIENCE=2 xenmoved.toolstack.xl.incoming.STALL=2"
)
"""Limits of the daemons that are longer in life."""


class SlowHost(Dom0):
    """A host that can be armed with faults, with short limits."""

    def __init__(self, root: Path, name: str) -> None:
        timeouts = {"stall": f"{STALL:g}s", "keepalive": "60s"}
        launcher = preloaded.launcher("tests.support.faulty_daemon")
        super().__init__(root, name, launcher=launcher, timeouts=timeouts)
        self.fault_file = self.folder / "fault"

    def launch(self, **environment: str) -> None:
        super().launch(**{VARIABLE: str(self.fault_file), LIMITS: QUICKLY, **environment})

    def arm(self, *faults: str) -> None:
        """Set the faults, ACTION@POINT, that come next, in this order."""
        self.fault_file.write_text("".join(f"{fault}\n" for fault in faults))

    def all_armed_came(self) -> bool:
        """Whether every fault has come."""
        return not self.fault_file.read_text()

    def processes(self, verb: str) -> list[int]:
        """Ids of the toolstack's processes with this verb."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(self.xen.root) in words and verb.encode() in words:
                found.append(int(entry.name))
        return found

    @contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        """Have processes stand still for a while."""
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def until_problem(self, guest: str) -> JobReport:
        """Return the first report of a guest's job that has a problem, within a few limits."""
        wait_until(lambda: self.last_of(guest).problem is not None, "a problem", 12 * STALL)
        return self.last_of(guest)


Hosts = tuple[SlowHost, SlowHost]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    root = tmp_path_factory.mktemp("slow")
    with ExitStack() as stack:
        pair = (SlowHost(root, "host-a"), SlowHost(root, "host-b"))
        for host in pair:
            stack.callback(host.close)
            host.start()
        pair[0].trust(pair[1])
        pair[1].trust(pair[0])
        yield pair


@pytest.fixture
def hosts(running: Hosts) -> Iterator[Hosts]:
    yield running
    for host in running:
        host.clean()
        assert "Traceback" not in host.log(), host.log()[-3000:]


@pytest.mark.thorough
def test_a_target_that_is_slow_in_making_volumes_is_waited_for(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("volumes")
    disks = [image(a.images / f"{name}-{which}", 1) for which in ("root", "data")]
    a.boot(name, disks, extra=QUIET)
    b.arm(*[f"hang={2 * STALL}@landing:make:before"] * 2)
    job = a.begin(name)
    seen = set()
    for report in a.watch(job.job):
        seen |= {report.doing} if report.phase is Phase.PROVISION else set()
        if report.state in ENDED:
            break
    assert report.state is JobState.DONE, report.problem
    assert b.all_armed_came()
    assert {f"host-b: making images:{disk.name}" for disk in disks} <= seen


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])
def test_toolstacks_that_take_long_for_everything_are_waited_for(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    name = unique("toolstack")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    slow = {"delay": 1.5 * STALL}
    a.xen.faults(migrate=slow, save=slow)
    b.xen.faults(migrate_receive=slow)
    a.migrate(name, mode=mode)
    b.assert_runs(name)


@pytest.mark.thorough
def test_an_offer_whose_source_has_gone_is_not_taken_any_more(hosts: Hosts) -> None:
    """A source that lost its link says that it failed: nothing may be made for it after that."""
    a, b = hosts
    name = unique("gone")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    b.xen.faults(list={"delay": 1})
    job = a.begin(name)
    a.until(job.job, lambda report: report.phase is Phase.PROVISION)
    time.sleep(0.5)
    read = len(b.log())
    a.stop(signal.SIGKILL)
    a.start()
    wait_until(lambda: "went away before anything was made" in b.log()[read:], "the end of a look")
    assert a.finish(job.job).state is JobState.FAILED
    assert not [one for one in b.ask(ListJobs(True)).jobs if one.guest == name]
    assert not list(b.images.iterdir())


def begun(a: SlowHost, name: str, mode: Mode, ready: Callable[[JobReport], bool]) -> JobReport:
    """Move a guest that writes without end; return when it has come so far."""
    disk = image(a.images / f"{name}-root", 4, data=1)
    a.boot(name, [disk], extra="sandbox.rate=20", memory=8)
    a.xen.faults(migrate={"delay_per_mib": 1}, save={"delay_per_mib": 1})
    return a.until(a.begin(name, mode=mode).job, ready)


def in_memory(report: JobReport) -> bool:
    return report.memory_sent > 2**20


@pytest.mark.thorough
@pytest.mark.parametrize(("mode", "verb"), [(Mode.LIVE, "migrate"), (Mode.SAVE, "save")])
def test_a_toolstack_that_hangs_is_a_stall_whatever_the_guest_writes(
    hosts: Hosts, mode: Mode, verb: str
) -> None:
    a, b = hosts
    name = unique("hanging")
    job = begun(a, name, mode, in_memory)
    with a.stopped(*a.processes(verb)):
        report = a.until_problem(name)
        found = report.problem
        assert found is not None
        assert found.code == "stalled"
        assert f"`xl {verb}` of domain {name} (process" in found.text
        assert found.text.endswith(f"gave nothing of its memory within {STALL:g} s")
        assert "timeouts.stall" in found.hint
    the_problem(a.finish(job.job), "stalled")
    a.assert_runs(name)
    assert b.domain(name) is None


@pytest.mark.thorough
def test_a_toolstack_that_hangs_on_the_target_is_a_stall(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("taken")
    job = begun(a, name, Mode.LIVE, in_memory)
    with b.stopped(*b.processes("migrate-receive")):
        found = a.until_problem(name).problem
        assert found is not None
        assert "`xl migrate-receive`" in found.text
        assert "took no more of it within 2 s" in found.text
    assert a.finish(job.job).state is JobState.FAILED
    a.assert_runs(name)


@pytest.mark.thorough
def test_a_target_that_stands_still_is_told_from_a_lost_one(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("still")
    a.boot(name, [image(a.images / f"{name}-root", 32)], extra=QUIET)
    job = a.begin(name, rate_limit=2**20)
    a.until(job.job, in_pre_copy)
    assert b.process is not None
    a.ctl("set", name, "--rate-limit", "unlimited")
    with b.stopped(b.process.pid):
        found = a.until_problem(name).problem
        assert found is not None
        assert f"the copy of {a.images / f'{name}-root'}: nothing has moved for" in found.text
        assert "host-b is connected" in found.text
    the_problem(a.finish(job.job), "stalled")
    a.assert_runs(name)


@pytest.mark.thorough
def test_a_target_that_stands_still_before_it_answers(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("silent")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    b.arm("freeze=6@landing:make:before")
    report = a.finish(a.begin(name).job)
    found = the_problem(report, "stalled")
    assert found.text.startswith("host-b has said nothing for")
    assert "asked for volumes to copy to" in found.text
    a.assert_runs(name)
    wait_until(lambda: not list(b.images.iterdir()), "the target to tidy up")


@pytest.mark.thorough
def test_a_guest_that_is_held_and_writes_nothing_is_no_stall(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("held")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    job = a.begin(name, hold=True)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    time.sleep(2 * STALL)
    assert a.last_of(name).state not in ENDED
    assert a.ctl("set", name, "--no-hold").returncode == 0
    assert a.finish(job.job).state is JobState.DONE
    b.assert_runs(name)


@pytest.mark.thorough
def test_a_guest_that_stands_still_for_too_long_is_resumed(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("downtime")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    b.arm("hang=40@incoming:build:before")
    began = time.monotonic()
    report = a.finish(a.begin(name, mode=Mode.LIVE, max_downtime=1.5).job)
    assert time.monotonic() - began < 30
    found = the_problem(report, "downtime")
    assert "in phase ready at last, where --max-downtime allows 1.5 s" in found.text
    assert report.blackout is not None
    assert 4.5 < report.blackout < 15
    a.assert_runs(name)
    assert b.domain(name) is None
    shown = a.ctl("show", report.job).stdout
    assert re.search(r"blackout +[0-9.]+s\n +over the 1.5s allowed\n", shown), shown
    assert f"host-b has removed images:{name}-root: another try sends all of it again" in shown
    page = a.ctl("report", report.job, "--output", "-").stdout
    assert "over the 1.5 s allowed" in page


@pytest.mark.thorough
def test_a_cutover_that_would_take_too_long_leaves_the_guest_held(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("cutover")
    a.boot(name, [image(a.images / f"{name}-root", 4)], memory=8)
    job = a.begin(name, hold=True, max_downtime=1.5)
    a.until(job.job, lambda report: report.phase is Phase.HOLD)
    assert a.ctl("set", name, "--rate-limit", "2MiB").returncode == 0
    for _ in range(2):
        done = a.ctl("cutover", name)
        assert done.returncode == 3, (done.stdout, done.stderr)
        assert f"{name} would stand still for about" in done.stderr
        assert "it is held on, and nothing is lost: allow more" in done.stderr
    held = a.last_of(name)
    assert (held.state, held.phase, held.hold) == (JobState.RUNNING, Phase.HOLD, True)
    assert "held on: " in a.ctl("show", name).stdout
    assert a.ctl("set", name, "--rate-limit", "unlimited", "--max-downtime", "60s").returncode == 0
    done = a.ctl("cutover", name)
    assert done.returncode == 0, done.stderr
    assert a.last_of(name).remark is None
    b.assert_runs(name)


@pytest.mark.sampled
@pytest.mark.parametrize("keep", [False, True])
def test_an_abort_says_what_becomes_of_the_copy(hosts: Hosts, keep: bool) -> None:
    a, b = hosts
    name = unique("aborted")
    a.boot(name, [image(a.images / f"{name}-root", 32)], extra=QUIET)
    job = a.begin(name, rate_limit=2**20, keep_partial=keep)
    a.until(job.job, in_pre_copy)
    said = a.ctl("abort", name).stdout
    assert f"{name} stays here; " in said
    if keep:
        assert "what was copied stays on host-b: another try sends the rest" in said
        assert (b.images / f"{name}-root").exists()
        return
    assert f"host-b has removed images:{name}-root: another try sends all of it again" in said
    assert not (b.images / f"{name}-root").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])
def test_a_disk_that_hangs_under_suspension_does_not_keep_the_guest(
    hosts: Hosts, mode: Mode
) -> None:
    """Nothing tracks it, so that it is read in full then; threads hang in it for long."""
    a, _ = hosts
    name = unique("hanging")
    a.boot(name, [image(a.images / f"{name}-root", 8)], extra=QUIET)
    a.arm("hang=0@outbound:phase-final-delta", *[f"hang={6 * STALL}@disk:read"] * 4)
    report = a.finish(a.begin(name, mode=mode).job)
    the_problem(report, "stalled")
    assert report.blackout is not None
    assert report.blackout < 5 * STALL, "it stood still for as long as the disk hung"
    a.assert_runs(name)
