"""Two emulated hosts with real daemons that know each other: for the demo, tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import yaml

from protocol.messages import Action
from xenmoved.control.api import WatchJob
from xenmoved.control.client import ControlClient, DaemonUnavailable
from xenmoved.control.peer_api import AddPeer, GetIdentity, Identity
from xenmoved.jobs.report import ENDED, JobReport
from xenmoved.sandbox.harness import EmulatedHost
from xenmoved.toolstack.wiring import BRIDGE_SCRIPTS, ROUTING_SCRIPTS

_INSTALLED = (
    *("boot/vmlinuz", "boot/initrd", "usr/bin/pygrub", "usr/lib/xen-4.17/bin/pygrub"),
    "usr/lib/grub-xen/grub-x86_64-xen.bin",
)
"""What guests are started from; nobody reads it here."""


class DaemonProcess(Protocol):
    """What a host needs of `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """Process id."""

    def poll(self) -> int | None:
        """Exit status, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns its exit status. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


Launcher = Callable[[Sequence[str], BinaryIO, Mapping[str, str]], DaemonProcess]
"""Starts a daemon, given its arguments, the log that it writes to, and its environment."""


def launch_daemon(
    arguments: Sequence[str],
    log: BinaryIO,
    environment: Mapping[str, str],
    *,
    apart: bool = False,
) -> DaemonProcess:
    """Start the daemon that is installed; Ctrl-C at the terminal does not reach one `apart`."""
    return subprocess.Popen(
        [sys.executable, "-m", "xenmoved.main", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=apart,
    )


class SandboxHost:
    """An emulated Xen host with a daemon of its own, all in one folder.

    The folder holds the daemon's configuration and state, and a pool `images` of raw files.
    `settings` is merged over the top level of the configuration.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        tool: str = "xl",
        settings: dict[str, Any] | None = None,
        launcher: Launcher = launch_daemon,
        overcommit: bool = False,
    ) -> None:
        self.name = name
        self.folder = root / name
        self.images = self.folder / "images"
        self.config_file = self.folder / "etc" / "xenmoved.yaml"
        self.socket = self.folder / "control.sock"
        self.hooks = self.folder / "etc" / "hooks"
        self.log_file = self.folder / "daemon.log"
        self.xen = EmulatedHost(root / f"{name}-xen")
        self.port = free_port()
        self.process: DaemonProcess | None = None
        self._launcher = launcher
        self.settings: dict[str, Any] = {
            "node": name,
            "listen": {"address": "127.0.0.1", "port": self.port},
            "state_dir": str(self.folder / "state"),
            "control": {"socket": str(self.socket)},
            "hooks": {"folder": str(self.hooks)},
            "toolstack": {
                "kind": tool,
                "command": self.xen.command(tool),
                "config_dir": str(self.folder / "xen"),
                "sysfs_net": str(self.xen.root / "sys" / "class" / "net"),
                "sysfs_backends": str(self.xen.root / "sys" / "bus" / "xen-backend" / "devices"),
                "processes": str(self.xen.root / "proc"),
                "monitors": str(self.xen.root / "run"),
                "root": str(self.xen.root),
            },
            "pools": {
                "images": {"kind": "dir", "path": str(self.images), "overcommit": overcommit}
            },
            "default_pool": "images",
            **(settings or {}),
        }
        scripts = self.folder / "xen" / "scripts"
        for folder in (self.images, self.config_file.parent, self.folder / "xen/auto", scripts):
            folder.mkdir(parents=True, exist_ok=True)
        for script in (*BRIDGE_SCRIPTS, *ROUTING_SCRIPTS):  # as Xen installs them; none is run
            (scripts / script).write_text("#!/bin/sh\n")
        for file in _INSTALLED:
            path = self.xen.root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self.write_config()

    def write_config(self, **settings: Any) -> None:
        """Write the configuration, with some of its top-level settings replaced."""
        self.settings.update(settings)
        self.config_file.write_text(yaml.safe_dump(self.settings))

    def start(self, **environment: str) -> None:
        """Start the daemon and wait until it answers."""
        self.launch(**environment)
        self.wait_ready()

    def launch(self, **environment: str) -> None:
        """Start the daemon."""
        with self.log_file.open("ab") as log:
            arguments = ("--config", str(self.config_file))
            self.process = self._launcher(arguments, log, {**os.environ, **environment})

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the daemon answers."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.ask(GetIdentity())
            except DaemonUnavailable:
                ended = self.process is not None and self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} did not start: {self.log()}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> int | None:
        """Send the daemon a signal and wait for its end; returns its exit status."""
        if self.process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        self.process = None
        return status

    def close(self) -> None:
        """Kill the daemon and destroy every guest of this host."""
        self.stop(signal.SIGKILL)
        self.xen.run("stop", status=None)

    def log(self) -> str:
        """Return what the daemon has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def ask(self, request: object, timeout: float = 60.0) -> Any:
        """Send a request to the daemon and return its answer."""
        with ControlClient(self.socket, timeout) as client:
            return client.ask(request)

    def watch(self, job: str, timeout: float = 120.0) -> Iterator[JobReport]:
        """Yield reports of a job to its end."""
        with ControlClient(self.socket, timeout) as client:
            yield from client.watch(WatchJob(job, 0.05))

    def finish(self, job: str, timeout: float = 120.0) -> JobReport:
        """Wait until a job has ended; returns its last report."""
        for report in self.watch(job, timeout):
            if report.state in ENDED:
                return report
        raise AssertionError(f"job {job} has no end: {self.log()}")

    def identity(self) -> Identity:
        """Return the daemon's key and port."""
        answer = self.ask(GetIdentity())
        assert isinstance(answer, Identity), answer
        return answer

    def trust(self, other: SandboxHost, **allow: Any) -> None:
        """Add the other host as a peer that may do everything here, but for `allow`."""
        identity = other.identity()
        request: dict[str, Any] = {
            "name": other.name,
            "address": "127.0.0.1",
            "port": other.port,
            "key": identity.key,
            "actions": (Action.MIGRATE, Action.SYNC),
            "pools": tuple(self.settings["pools"]),
            "guests": ("*",),
            "quota": None,
            "memory": None,
            "vcpus": None,
            "overwrite": True,
            "replace": True,
            **allow,
        }
        answer = self.ask(AddPeer(**request))
        assert type(answer).__name__ == "Done", answer

    def ctl(self, *args: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `xenmovectl` against this host's daemon."""
        return subprocess.run(
            [sys.executable, "-m", "xenmoved.ctl.main", "--socket", str(self.socket), *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )


@contextlib.contextmanager
def sandbox_pair(
    root: Path,
    *,
    tool: str = "xl",
    settings: dict[str, Any] | None = None,
    overcommit: bool = False,
) -> Iterator[tuple[SandboxHost, SandboxHost]]:
    """Run two hosts, host-a and host-b, that trust each other; everything is ended afterwards."""
    hosts = tuple(
        SandboxHost(root, name, tool=tool, settings=settings, overcommit=overcommit)
        for name in ("host-a", "host-b")
    )
    try:
        for host in hosts:
            host.start()
        hosts[0].trust(hosts[1])
        hosts[1].trust(hosts[0])
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
