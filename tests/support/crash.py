"""Two hosts, one guest that goes to and fro between them, and what must always be true of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol.messages import Mode
from tests.support import preloaded
from tests.support.faulty_daemon import VARIABLE
from tests.support.journals import query
from xenmoved.control.api import GetStatus, ListJobs, StartMigration
from xenmoved.control.client import DaemonUnavailable
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox import xl
from xenmoved.sandbox.harness import make_image, wait_until
from xenmoved.sandbox.pair import SandboxHost
from xenmoved.toolstack.commands import find_tagged_processes, running_command

LAUNCHER = preloaded.launcher("tests.support.faulty_daemon")
SETTINGS = {"timeouts": {"connect": "10s", "ready": "1s", "stall": "20s", "keepalive": "5s"}}

GUEST = "web"
DISKS = ("web-root", "web-data")
EXECUTES = ("-b----", "r-----")
PATIENCE = 45.0
"""Seconds for what takes one or two: a busy machine may stand still for a while."""


class CrashHost(preloaded.PreloadedHost):
    """A host whose daemon can be armed with faults."""

    def __init__(self, root: Path, name: str, tool: str, settings: dict[str, Any]) -> None:
        super().__init__(root, name, tool=tool, settings=settings, launcher=LAUNCHER)
        self.fault_file = self.folder / "fault"
        self.xen_folder = self.xen.folder
        self.config_dir = self.folder / "xen"
        self.spool = self.folder / "state" / "spool"

    def launch(self, **environment: str) -> None:
        """Start the daemon."""
        super().launch(**{VARIABLE: str(self.fault_file), **environment})

    def arm(self, *faults: str) -> None:
        """Set the faults, ACTION@POINT, that come next, in this order."""
        self.fault_file.write_text("".join(f"{fault}\n" for fault in faults))

    @property
    def fired(self) -> bool:
        """Whether every fault has come."""
        return not self.fault_file.exists() or not self.fault_file.read_text()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        assert self.process is not None
        return self.process.pid

    @property
    def dead(self) -> bool:
        """Whether the daemon has ended."""
        return self.process is None or self.process.poll() is not None

    def domains(self) -> dict[str, str]:
        """State column of every domain but dom0, by name."""
        domains = self.xen_folder.domains()
        return {domain.name: xl.state_letters(self.xen_folder, domain) for domain in domains}

    def check(self, guest: str = GUEST) -> dict[str, Any]:
        """Have the guest verify everything that it wrote; returns its verdict."""
        return self.xen.check(guest)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Read from the journal."""
        return query(self, statement)

    def unsettled(self) -> list[tuple[Any, ...]]:
        """Migrations that left something to do here."""
        return [
            row
            for table in ("outbound", "inbound")
            for row in self.query(
                f"SELECT '{table}', migration, state FROM {table} WHERE NOT settled"
            )
        ]

    def jobs(self) -> tuple[JobReport, ...]:
        """Jobs that have not ended."""
        jobs: tuple[JobReport, ...] = self.ask(ListJobs(False)).jobs
        return jobs

    def all_jobs(self) -> tuple[JobReport, ...]:
        """Every job, the newest first."""
        jobs: tuple[JobReport, ...] = self.ask(ListJobs(True)).jobs
        return jobs

    def last_job(self) -> JobReport:
        """Return the newest job."""
        return self.all_jobs()[0]

    def alarms(self) -> list[str]:
        """Return the codes of what `status` raises an alarm about."""
        return [alarm.code for alarm in self.ask(GetStatus()).alarms]

    def migrate(self, to: SandboxHost, mode: Mode = Mode.SAVE, **options: Any) -> Any:
        """Ask for a migration; None when the daemon ended before it answered."""
        request = StartMigration(GUEST, to.name, mode, TransferOptions(**options))
        try:
            return self.ask(request)
        except DaemonUnavailable:
            return None

    def volumes(self) -> set[str]:
        """Names of the files in the pool."""
        return {path.name for path in self.images.iterdir()}


class World:
    """Two hosts that trust each other, and a guest with two disks on one of them.

    `lines` are more of the guest's configuration, with xl.
    """

    def __init__(self, root: Path, tool: str = "xl", *, lines: str = "", **settings: Any) -> None:
        self.tool = tool
        self._lines = lines
        merged = {**SETTINGS, **settings}
        self.hosts = [self._host(root, name, merged) for name in ("host-a", "host-b")]

    def _host(self, root: Path, name: str, settings: dict[str, Any]) -> CrashHost:
        return CrashHost(root, name, self.tool, settings)

    def start(self) -> None:
        """Start everything."""
        for host in self.hosts:
            host.launch()
        for host in self.hosts:
            host.wait_ready()
        self._introduce()
        first = self.hosts[0]
        disks = [make_image(first.images / name, 8) for name in DISKS]
        self._create(first, disks)
        file = first.config_dir / f"{GUEST}.cfg"
        file.write_text((first.xen.root / f"{GUEST}.cfg").read_text())
        (first.config_dir / "auto" / file.name).symlink_to(Path("..") / file.name)

    def _introduce(self) -> None:
        """Have the hosts trust each other."""
        first, second = self.hosts
        first.trust(second)
        second.trust(first)

    def _create(self, host: CrashHost, disks: list[Path]) -> None:
        extra = "sandbox.rate=1 sandbox.dirty=1"
        if self.tool == "xl":
            host.xen.create(GUEST, disks, memory=2, extra=extra, lines=self._lines)
            return
        text = f"name = {GUEST!r}\nmemory = 2\nextra = {extra!r}\n"
        specs = [f"file:{disk},xvd{'ab'[i]},w" for i, disk in enumerate(disks)]
        text += f"disk = {specs!r}\n"
        file = host.xen.root / f"{GUEST}.cfg"
        file.write_text(text)
        host.xen.run("xm", "create", str(file))

    def close(self) -> None:
        """End everything."""
        for host in self.hosts:
            with contextlib.suppress(Exception):
                host.close()

    @property
    def source(self) -> CrashHost:
        """The host that has the guest."""
        return next(host for host in self.hosts if GUEST in host.domains())

    def other(self, host: CrashHost) -> CrashHost:
        """The host that is not this one."""
        return next(one for one in self.hosts if one is not host)

    def restart_dead(self) -> None:
        """Start every daemon that was killed."""
        dead = [host for host in self.hosts if host.dead]
        for host in dead:
            host.launch()
        for host in dead:
            host.wait_ready()

    def wait_quiet(self, patience: float = PATIENCE) -> None:
        """Wait until no host has anything to do any more."""

        def quiet() -> bool:
            return not any(host.unsettled() or host.jobs() for host in self.hosts)

        what = "every job to end and every migration to be settled"
        try:
            wait_until(quiet, what, patience)
        except AssertionError as error:
            left = {host.name: (host.jobs(), host.unsettled()) for host in self.hosts}
            raise AssertionError(f"{error}: {left}") from None

    def assert_moves(self) -> None:
        """Move the guest once more, undisturbed."""
        source = self.source
        target = self.other(source)
        report = source.migrate(target)
        assert isinstance(report, JobReport), report
        report = source.finish(report.job)
        assert (report.state, report.problem) == (JobState.DONE, None)
        self.wait_quiet()
        assert self.owner() is target

    def forget_volumes(self) -> None:
        """Remove what the guest left behind, so that the next trip makes its volumes anew."""
        left = self.other(self.source)
        for path in left.images.iterdir():
            path.unlink()
        (left.config_dir / f"{GUEST}.cfg.moved").unlink(missing_ok=True)

    def print_logs(self) -> None:
        """Print the ends of the daemons' logs, which pytest shows of a test that fails."""
        for host in self.hosts:
            print(f"--- {host.name}\n{host.log()[-12000:]}")

    def start_stopped(self) -> CrashHost:
        """Start a guest that does not run, from its configuration; returns its host."""
        having = [host for host in self.hosts if (host.config_dir / f"{GUEST}.cfg").exists()]
        assert len(having) == 1, "the guest can be started on two hosts, or on none"
        assert [host.domains() for host in self.hosts] == [{}, {}]
        having[0].xen.run(self.tool, "create", str(having[0].config_dir / f"{GUEST}.cfg"))
        wait_until(lambda: having[0].check()["blocks"] > 0, "the guest to write something")
        return having[0]

    def owner(self) -> CrashHost:
        """Return the only host that has the guest, which runs there; nothing is half-made."""
        return assert_exactly_one_owner(self.hosts, GUEST)


def assert_exactly_one_owner(hosts: list[CrashHost], guest: str) -> CrashHost:
    """Check everything that must be true when all is settled; returns the guest's host.

    The other host is expected to have had no volumes, unless the guest came from there.
    """
    found = {host.name: host.domains() for host in hosts}
    owners = [host for host in hosts if host.domains().get(guest) in EXECUTES]
    assert len(owners) == 1, f"{guest} must execute on one host: {found}"
    owner = owners[0]
    other = next(host for host in hosts if host is not owner)
    assert list(owner.domains()) == [guest], f"leftover domains: {found}"
    assert other.domains() == {}, f"leftover domains: {found}"
    verdict = owner.check()
    assert verdict["ok"], verdict
    assert verdict["blocks"] > 0, "a guest that wrote nothing proves nothing"
    assert owner.volumes() == set(DISKS)
    for host in hosts:
        assert list(host.spool.iterdir()) == [], f"left in the spool of {host.name}"
        assert host.unsettled() == []
        assert _at_work(host) == []
    _assert_configuration(owner, other, guest)
    _assert_volumes(owner, other)
    return owner


def _at_work(host: CrashHost) -> list[Any]:
    """Processes that still save, receive or restore for a migration."""
    rows = host.query(
        "SELECT migration FROM (SELECT migration, updated FROM outbound UNION "
        "SELECT migration, updated FROM inbound) ORDER BY updated DESC LIMIT 2"
    )
    found = []
    for (migration,) in rows:
        tagged = asyncio.run(find_tagged_processes(migration))
        for command in ("save", "migrate", "migrate-receive", "restore"):
            found += running_command(tagged, command)
    return found


def _assert_configuration(owner: CrashHost, other: CrashHost, guest: str) -> None:
    config = owner.config_dir / f"{guest}.cfg"
    assert set(re.findall(r"/[^,'\"]*/images/[^,'\"]*", config.read_text())) == {
        str(owner.images / name) for name in DISKS
    }
    assert (owner.config_dir / "auto" / config.name).exists()
    assert not list(other.config_dir.glob(f"{guest}.cfg")), "two hosts would start it"
    assert not list((other.config_dir / "auto").iterdir()), "two hosts would start it at boot"
    assert not list(owner.config_dir.glob("*.received"))


def _assert_volumes(owner: CrashHost, other: CrashHost) -> None:
    """Check the volumes of the host without the guest: all are kept if it left, none otherwise."""
    left = (other.config_dir / f"{GUEST}.cfg.moved").exists()
    assert other.volumes() == (set(DISKS) if left else set())
    made = {name for (name,) in owner.query("SELECT name FROM made")}
    assert made <= set(DISKS)
    if not left:
        last = other.query("SELECT migration FROM inbound ORDER BY updated DESC LIMIT 1")
        kept = other.query("SELECT migration, name FROM made")
        assert not [row for row in kept if [row[:1]] == [last]], "a volume of an aborted migration"


class Worlds:
    """Keeps a world for the next test as long as no test fails in it.

    So the next test shows that the guest still moves, and `close` does after the last one.
    """

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._worlds: dict[str, World] = {}

    @contextlib.contextmanager
    def use(self, tool: str = "xl") -> Iterator[World]:
        """Lend a world that is clean: started anew unless the last one was left clean."""
        world = self._worlds.pop(tool, None)
        if world is None:
            world = World(self._make_folder(tool), tool)
        clean = False
        try:
            if world.hosts[0].process is None:
                world.start()
            yield world
            world.forget_volumes()
            clean = True
        finally:
            if clean:
                self._worlds[tool] = world
            else:
                world.print_logs()
                world.close()

    def close(self) -> None:
        """End what is left. Raises AssertionError when a guest does not move any more."""
        with contextlib.ExitStack() as stack:
            for world in self._worlds.values():
                stack.callback(world.close)
                stack.callback(world.print_logs)
            for world in self._worlds.values():
                world.assert_moves()
