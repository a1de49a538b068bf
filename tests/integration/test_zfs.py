"""Guests whose disks are zvols on both hosts: `zfs send`, there and back.

Where there is no ZFS these are skipped; `make lab` runs them on a host of its.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage import open_pool
from storage.zfs.pool import ZfsPool
from xenmoved.control.api import AbortJob, GetJob, StartMigration, StartSync
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import ENDED, JobReport, JobState
from xenmoved.sandbox.harness import wait_until
from xenmoved.sandbox.pair import SandboxHost

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not Path("/dev/zfs").exists() or shutil.which("zfs", path="/usr/sbin:/sbin") is None,
        reason="there is no ZFS here (see make lab)",
    ),
]

MIB = 1 << 20
SIZE = 16 * MIB
WRITTEN = 4 * MIB
PATIENCE = 1200.0  # emulated hosts are slow
CALM = "sandbox.writes=2 sandbox.share=0.1 sandbox.checks=0.5 sandbox.dirty=0"


@dataclass(frozen=True)
class ZfsHost:
    """An emulated Xen host with its daemon, and a real pool of zvols."""

    sandbox: SandboxHost
    pool: ZfsPool

    def snapshots(self, volume: str) -> list[int]:
        """Guids of a volume's snapshots."""
        return [one.guid for one in self.pool.history(volume).snapshots()]

    def device(self, volume: str) -> Path:
        return Path(self.pool.path(volume))

    def content(self, volume: str) -> bytes:
        fd = os.open(self.device(volume), os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.read(fd, SIZE)
        finally:
            os.close(fd)

    def begin(self, request: StartMigration | StartSync) -> str:
        """Begin a job; returns which."""
        report = self.sandbox.ask(request, PATIENCE)
        assert isinstance(report, JobReport), report
        return report.job

    def reports(self, job: str) -> Iterator[JobReport]:
        """Yield how a job stands, once a second, to its end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            report = self.sandbox.ask(GetJob(job), PATIENCE)
            yield report
            if report.state in ENDED:
                return
            time.sleep(1)
        raise AssertionError(f"job {job} has no end: {self.sandbox.log()}")

    def finish(self, job: str) -> JobReport:
        """Wait until a job has ended; returns its last report."""
        return list(self.reports(job))[-1]

    def do(self, request: StartMigration | StartSync) -> JobReport:
        """Begin a job and wait for its end."""
        return self.finish(self.begin(request))

    def await_sent(self, job: str, size: int) -> None:
        """Wait until a job has sent so many bytes."""
        for report in self.reports(job):
            assert report.state is JobState.RUNNING, report.problem
            if report.wire_bytes > size:
                return


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ZfsHost, ZfsHost]]:
    root = tmp_path_factory.mktemp("zfs")
    with ExitStack() as stack:
        hosts = []
        for name in ("host-a", "host-b"):
            tank = f"xenmoved-{os.getpid()}-{name}"
            with (root / f"{name}.tank").open("wb") as file:
                file.truncate(512 * MIB)
            run("zpool", "create", "-O", "mountpoint=none", tank, root / f"{name}.tank")
            stack.callback(run, "zpool", "destroy", "-f", tank)
            options = {"dataset": tank, "sparse": True}
            timeouts = {"stall": "600s", "ready": "600s", "connect": "120s", "keepalive": "60s"}
            settings = {
                "pools": {"zvols": {"kind": "zfs", **options}},
                "default_pool": "zvols",
                "timeouts": timeouts,
            }
            sandbox = SandboxHost(root, name, settings=settings)
            stack.callback(sandbox.close)
            sandbox.launch()
            pool = open_pool("zvols", "zfs", options)
            assert isinstance(pool, ZfsPool)
            hosts.append(ZfsHost(sandbox, pool))
        a, b = hosts
        for host in hosts:
            host.sandbox.wait_ready(PATIENCE)
        a.sandbox.trust(b.sandbox)
        b.sandbox.trust(a.sandbox)
        yield a, b


def make(host: ZfsHost, name: str) -> bytes:
    """Make a volume with some content; returns that."""
    host.pool.create(name, SIZE)
    content = os.urandom(WRITTEN)
    overwrite(host, name, content, 0)
    return content + bytes(SIZE - WRITTEN)


def overwrite(host: ZfsHost, name: str, content: bytes, offset: int) -> None:
    with host.device(name).open("r+b") as device:
        device.seek(offset)
        device.write(content)
        device.flush()
        os.fsync(device.fileno())


def sent(report: JobReport) -> list[int]:
    """Bytes on the wire of each round that is no comparison."""
    (volume,) = report.volumes
    return [one.wire_bytes for one in volume.rounds if not one.verify]


def test_a_guest_that_writes_moves_live_and_back(pair: tuple[ZfsHost, ZfsHost]) -> None:
    a, b = pair
    make(a, "web")
    a.sandbox.xen.create("web", [a.device("web")], extra=CALM)
    moves = []
    for source, target in ((a, b), (b, a)):
        time.sleep(5)
        report = source.do(
            StartMigration("web", target.sandbox.name, None, TransferOptions(verify=True))
        )
        assert report.state is JobState.DONE, (report.problem, source.sandbox.log())
        moves.append(report)
        assert report.volumes[0].streamed
        assert len(sent(report)) >= 2, "the last round comes after the suspension"
        assert report.volumes[0].rounds[-1].verify
        verdict = target.sandbox.xen.check("web")
        assert verdict["ok"], verdict
        # One snapshot stays on each: the same, and the last.
        assert len(source.snapshots("web")) == 1
        assert source.snapshots("web") == target.snapshots("web")
    there, back = (sum(sent(report)) for report in moves)
    print(f"there {there} bytes, back {back}")
    assert there > WRITTEN
    assert back < there / 2
    a.sandbox.xen.stop()


def test_a_volume_goes_again_as_an_increment(pair: tuple[ZfsHost, ZfsHost]) -> None:
    a, b = pair
    content = make(a, "quiet")
    there = a.do(StartSync("zvols:quiet", "host-b", None, TransferOptions(verify=True)))
    assert (there.state, there.volumes[0].streamed) == (JobState.DONE, True), there.problem
    assert b.content("quiet") == content
    overwrite(a, "quiet", b"x" * 65536, 3 * MIB)
    more = a.do(StartSync("zvols:quiet", "host-b", None, TransferOptions()))
    assert (more.state, more.volumes[0].streamed) == (JobState.DONE, True), more.problem
    assert a.content("quiet") == b.content("quiet") != content
    assert sum(sent(more)) < 2 * 65536
    # A snapshot that somebody else made is in the way, and stays: only differing blocks are sent.
    run("zfs", "snapshot", f"{b.pool.history('quiet').dataset}@daily")
    overwrite(a, "quiet", b"y" * 65536, 5 * MIB)
    again = a.do(StartSync("zvols:quiet", "host-b", None, TransferOptions()))
    assert (again.state, again.volumes[0].streamed) == (JobState.DONE, False), again.problem
    assert a.content("quiet") == b.content("quiet")
    assert [one.name for one in b.pool.history("quiet").snapshots()][-1] == "daily"
    # What nobody knows as a copy is emptied, with what its snapshots could bring back.
    back = b.do(StartSync("zvols:quiet", "host-a", None, TransferOptions(overwrite=True)))
    assert (back.state, back.volumes[0].streamed) == (JobState.DONE, False), back.problem
    assert a.content("quiet") == b.content("quiet")
    assert a.snapshots("quiet") == []


def test_what_breaks_off_is_gone_on_with(pair: tuple[ZfsHost, ZfsHost]) -> None:
    a, b = pair
    content = make(a, "broken")
    slowly = TransferOptions(rate_limit=512 * 1024)
    job = a.begin(StartSync("zvols:broken", "host-b", None, slowly))
    arrived = b.pool.history("broken")
    a.await_sent(job, WRITTEN // 2)
    b.sandbox.stop()
    assert a.finish(job).state is JobState.FAILED
    wait_until(lambda: arrived.resume_point() is not None, "what had arrived", 60)
    b.sandbox.launch()
    b.sandbox.wait_ready(PATIENCE)
    rest = a.do(StartSync("zvols:broken", "host-b", None, TransferOptions()))
    assert (rest.state, rest.volumes[0].streamed) == (JobState.DONE, True), rest.problem
    assert b.content("broken") == content
    assert sum(sent(rest)) < WRITTEN * 3 // 4
    assert a.snapshots("broken") == b.snapshots("broken")


def test_abort_leaves_nothing(pair: tuple[ZfsHost, ZfsHost]) -> None:
    a, b = pair
    make(a, "given-up")
    a.sandbox.xen.create("given-up", [a.device("given-up")], extra=CALM)
    slowly = TransferOptions(rate_limit=256 * 1024)
    job = a.begin(StartMigration("given-up", "host-b", None, slowly))
    a.await_sent(job, MIB)
    a.sandbox.ask(AbortJob(job), PATIENCE)
    assert a.finish(job).state is JobState.ABORTED
    wait_until(lambda: b.pool.find("given-up") is None, "the removal of the volume", PATIENCE)
    wait_until(lambda: a.snapshots("given-up") == [], "the removal of snapshots", PATIENCE)
    assert a.sandbox.xen.check("given-up")["ok"]
    a.sandbox.xen.stop()
