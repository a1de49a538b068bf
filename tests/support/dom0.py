"""Helpers of the integration tests that are no fixtures: hosts, guests and volumes of a test."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from protocol.messages import Mode, Problem
from tests.support import preloaded
from xenmoved.control.api import (
    AbortJob,
    Failure,
    GetJob,
    ListJobs,
    Plan,
    PlanMigration,
    StartMigration,
    StartSync,
)
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import ENDED, JobReport, JobState, Phase
from xenmoved.sandbox.harness import wait_until
from xenmoved.sandbox.host import Domain
from xenmoved.sandbox.pair import Launcher

RESIDENT = "resident"
"""Name of a guest that every test finds running, and leaves running."""

MIB = 2**20
BLOCK = 65536
QUIET = "sandbox.rate=0 sandbox.checks=0 sandbox.dirty=0"
"""A guest that writes nothing, so that its disks hold exactly what a test puts there."""
DEVICES = tuple(f"device-{number}" for number in range(4))

LAUNCHER = preloaded.launcher("xenmoved.main")

_numbers = itertools.count()


def unique(stem: str) -> str:
    """Return a name that no other test of this process uses."""
    return f"{stem}-{next(_numbers)}"


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


FOLDERS = ("images", "thin", "small", "qcow2")
"""Pools of files."""


@dataclass(frozen=True)
class Guest:
    """A guest that a test has started."""

    name: str
    uuid: str
    disks: tuple[Path, ...]
    config: Path


class Dom0(preloaded.PreloadedHost):
    """An emulated host with pools of every sort.

    images  files; the default
    thin    files, more than fit; a test may mount something small there
    small   files; a test may mount something small there
    qcow2   files; the disks of guests are made qcow2 images there
    devices block devices; a test makes them with `device_link`
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        tool: str = "xl",
        launcher: Launcher = LAUNCHER,
        **settings: Any,
    ) -> None:
        folder = root / name
        pools = {
            "images": {"kind": "dir", "path": str(folder / "images")},
            "thin": {"kind": "dir", "path": str(folder / "thin"), "overcommit": True},
            "small": {"kind": "dir", "path": str(folder / "small")},
            "qcow2": {"kind": "dir", "path": str(folder / "qcow2"), "format": "qcow2"},
            "devices": {
                "kind": "block",
                "devices": {volume: str(folder / "dev" / volume) for volume in DEVICES},
            },
        }
        settings = {"pools": pools, **settings}
        super().__init__(root, name, tool=tool, settings=settings, launcher=launcher)
        self.tool = tool
        self.initial = dict(self.settings)
        self.pools = {pool: folder / pool for pool in FOLDERS}
        self.devices = folder / "dev"
        self.guest_configs = folder / "xen"
        self.emulator = self.xen.folder
        for path in (*self.pools.values(), self.devices):
            path.mkdir(exist_ok=True)
        for pool in ("thin", "small"):  # not empty, and so known, when nothing is mounted there
            (self.pools[pool] / "folder").mkdir(exist_ok=True)

    # --- guests ---

    def boot(
        self,
        name: str,
        disks: Sequence[Path],
        *,
        uuid: str | None = None,
        memory: int = 2,
        extra: str = "",
        bridge: str = "xenbr0",
        specs: Sequence[str] | None = None,
        lines: str = "",
        autostart: bool = False,
    ) -> Guest:
        """Start a guest from a file in this host's folder of configurations."""
        uuid = uuid or str(uuids.uuid4())
        if specs is None:
            specs = [
                f"{'phy' if disk.is_block_device() else 'file'}:{disk},xvd{letter},w"
                for disk, letter in zip(disks, "abcdefgh", strict=False)
            ]
        config = self.guest_configs / f"{name}.cfg"
        config.write_text(
            f"name = {name!r}\nuuid = {uuid!r}\nmemory = {memory}\ndisk = {list(specs)!r}\n"
            f"vif = ['bridge={bridge}']\nextra = {extra!r}\n{lines}"
        )
        if autostart:
            (self.guest_configs / "auto" / config.name).symlink_to(Path("..") / config.name)
        self.xen.run(self.tool, "create", str(config))
        return Guest(name, uuid, tuple(disks), config)

    def domain(self, name: str) -> Domain | None:
        """Return a domain of this host, without running a command."""
        return self.emulator.find(name)

    def verdict(self, name: str) -> dict[str, Any]:
        """Have a guest verify every block that it ever wrote."""
        assert self.domain(name) is not None, f"{name} is not on {self.name}"
        return self.xen.check(name)

    def assert_runs(self, name: str) -> None:
        """Assert that a guest executes here with all its blocks right."""
        domain = self.domain(name)
        assert domain is not None, f"{name} is not on {self.name}"
        assert self.emulator.flags(domain.domid) == (False, "-"), f"{name} does not execute"
        verdict = self.verdict(name)
        assert verdict["ok"], verdict

    # --- requests ---

    def plan(
        self, guest: str, peer: str = "host-b", mode: Mode | None = Mode.SAVE, **options: Any
    ) -> Plan:
        """Ask what a migration would be."""
        request = PlanMigration(guest, peer, mode, TransferOptions(**options))
        answer = self.ask(request)
        assert isinstance(answer, Plan), answer
        return answer

    def try_migrate(
        self, guest: str, peer: str = "host-b", mode: Mode | None = Mode.SAVE, **options: Any
    ) -> Any:
        """Ask for a migration; return its first report or the refusal."""
        return self.ask(StartMigration(guest, peer, mode, TransferOptions(**options)))

    def begin(self, guest: str, peer: str = "host-b", **options: Any) -> JobReport:
        """Start a migration, which must be accepted."""
        answer = self.try_migrate(guest, peer, **options)
        assert isinstance(answer, JobReport), answer
        return answer

    def migrate(self, guest: str, peer: str = "host-b", **options: Any) -> JobReport:
        """Move a guest, which must succeed."""
        report = self.finish(self.begin(guest, peer, **options).job)
        assert report.state is JobState.DONE, (report.problem, self.log()[-3000:])
        return report

    def try_sync(
        self, volume: str | Path, peer: str = "host-b", target: str | None = None, **options: Any
    ) -> Any:
        """Ask for a sync; return its first report or the refusal."""
        return self.ask(StartSync(str(volume), peer, target, TransferOptions(**options)))

    def begin_sync(
        self, volume: str | Path, peer: str = "host-b", target: str | None = None, **options: Any
    ) -> JobReport:
        """Start a sync, which must be accepted."""
        answer = self.try_sync(volume, peer, target, **options)
        assert isinstance(answer, JobReport), answer
        return answer

    def sync(
        self, volume: str | Path, peer: str = "host-b", target: str | None = None, **options: Any
    ) -> JobReport:
        """Send a volume, which must succeed."""
        report = self.finish(self.begin_sync(volume, peer, target, **options).job)
        assert report.state is JobState.DONE, (report.problem, self.log()[-3000:])
        return report

    def until(self, job: str, condition: Callable[[JobReport], bool]) -> JobReport:
        """Return the first report of a job for which the condition holds, before its end."""
        for report in self.watch(job):
            assert report.state not in ENDED, f"too late: {report}"
            if condition(report):
                return report
        raise AssertionError("the daemon ended the watch")

    def last_of(self, guest: str) -> JobReport:
        """Return the newest job of a guest."""
        report: JobReport = self.ask(GetJob(guest))
        return report

    def until_sent(self, job: str, count: int) -> JobReport:
        """Return when that many bytes of volumes are on their way."""
        return self.until(job, lambda report: sent(report) >= count)

    @contextmanager
    def peer_settings(self, peer: str, **settings: Any) -> Iterator[None]:
        """Have the configuration say more of a peer, for a while."""
        file = self.config_file.parent / "peers.d" / f"{peer}.yaml"
        written = file.read_text()
        file.write_text(yaml.safe_dump({**yaml.safe_load(written), **settings}))
        self.reload()
        try:
            yield
        finally:
            file.write_text(written)
            self.reload()

    def bridges(self, *names: str) -> None:
        """Have these bridges."""
        for bridge in (self.xen.root / "sys/class/net").glob("*/bridge"):
            bridge.rmdir()
        (self.xen.root / "bridges").write_text("\n".join(names))
        self.xen.xl("list")

    def reload(self) -> None:
        """Have the daemon read its configuration again, and wait until it has."""
        assert self.process is not None
        before = self._reloads()
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._reloads() > before, "a reload")

    def _reloads(self) -> int:
        log = self.log()
        return log.count("configuration read") + log.count("configuration stays")

    def running(self) -> bool:
        """Whether the daemon is there."""
        return self.process is not None and self.process.poll() is None

    # --- what is there ---

    def footprint(self) -> dict[str, Any]:
        """Everything of this host that a refused or failed job must leave as it was."""
        files = {
            str(path.relative_to(self.folder)): path.stat().st_size if path.exists() else None
            for folder in (*self.pools.values(), self.guest_configs)
            for path in sorted(folder.rglob("*"))
            if not path.is_dir() and path.name != "lost+found"
        }
        spool = sorted(path.name for path in (self.folder / "state" / "spool").iterdir())
        domains = [(one.domid, one.name) for one in self.emulator.domains()]
        return {"files": files, "spool": spool, "domains": domains}

    def clean(self, keep: Sequence[str] = ()) -> None:
        """End every job and destroy every guest but `keep`, and remove their files."""
        self.settle()
        for domain in self.emulator.domains():
            if domain.name not in keep:
                self.emulator.destroy(domain)
        self.xen.faults()
        (self.xen.root / "host.json").unlink(missing_ok=True)
        for folder in (*self.pools.values(), self.devices, self.guest_configs):
            for path in folder.rglob("*"):
                kept = path.name.removesuffix(".cfg").removesuffix("-root") in keep
                kept |= path.parent == self.guest_configs / "scripts"
                if (path.is_symlink() or path.is_file()) and not kept:
                    path.unlink()
        for folder in self.guest_configs.glob("*.auto.*"):
            folder.rmdir()

    def settle(self) -> None:
        """Wait until no job is left, having asked those that were begun here to end."""
        live = ListJobs(ended=False)
        for job in self.ask(live).jobs:
            self.ask(AbortJob(job.job))
        wait_until(lambda: not self.ask(live).jobs, f"the end of all jobs of {self.name}")

    def device_link(self, volume: str, device: Path) -> None:
        """Have a volume of the pool `devices` be this device."""
        (self.devices / volume).symlink_to(device)


def sent(report: JobReport) -> int:
    """Bytes of volumes that a job has sent as data."""
    return sum(one.data_bytes for volume in report.volumes for one in volume.rounds)


def volume_wire(report: JobReport) -> int:
    """Bytes that a job's volumes took on the wire."""
    return report.wire_bytes - report.memory_sent


def image(path: Path, mebibytes: int, *, data: int | None = None, start: int = 0) -> Path:
    """Make a sparse file with random bytes in `data` MiB of it (default: all), from `start` on."""
    with path.open("wb") as file:
        file.truncate(mebibytes * MIB)
        file.seek(start * MIB)
        for _ in range(mebibytes if data is None else data):
            file.write(os.urandom(MIB))
    return path


def overwrite(path: Path, blocks: Sequence[int]) -> None:
    """Write new random bytes to some blocks of a file or device."""
    with path.open("r+b", buffering=0) as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(os.urandom(BLOCK))
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """Hash of everything in a file or device."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def allocated(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


def problems(answer: Any) -> tuple[Problem, ...]:
    """Return the problems of a refusal."""
    assert isinstance(answer, Failure), answer
    return answer.problems


def the_problem(answer: Any, code: str) -> Problem:
    """Return the one problem of a refusal or of a job that failed; it must say what to do."""
    if isinstance(answer, JobReport):
        assert answer.state in (JobState.FAILED, JobState.ABORTED), answer
        found = answer.problem
        assert found is not None, answer
    else:
        (found,) = problems(answer)
    assert found.code == code, found
    assert found.text, found
    assert found.hint or code == "aborted", found
    return found


def in_pre_copy(report: JobReport) -> bool:
    """Whether a job copies while the guest runs, and has begun to."""
    return report.phase is Phase.PRE_COPY and sent(report) > 0
