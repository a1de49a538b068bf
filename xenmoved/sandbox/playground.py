"""Three emulated hosts with guests of all kinds, and all that may happen to them."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from xenmoved.sandbox.cable import Cable
from xenmoved.sandbox.harness import make_image
from xenmoved.sandbox.host import Domain
from xenmoved.sandbox.pair import DaemonProcess, SandboxHost, launch_daemon
from xenmoved.sandbox.smalldisk import SmallDisk
from xenmoved.sandbox.witness import Witness
from xenmoved.units import format_size

HOSTS: Final = ("host-a", "host-b", "host-c")
_DISK: Final = 512 << 20
_TIMEOUTS: Final = {"connect": 4, "keepalive": 2, "stall": 10, "ready": 15}
"""Seconds: shorter than for real hosts, as nobody likes to wait while playing."""
_CONSOLE_LINES: Final = 12
_LOG_LINES: Final = 25


@dataclass(frozen=True, slots=True)
class _Plan:
    """A guest to be made: sizes of disks in MiB, half of each with data; memory in MiB."""

    name: str
    host: str
    kind: str
    disks: tuple[int, ...]
    memory: int = 32
    rate: float = 0.5
    lines: str = ""
    runs: bool = True


_GUESTS: Final = (
    _Plan("web1", "host-a", "pvh", (64,)),
    _Plan("db1", "host-a", "pv", (32, 96), memory=48, rate=2),
    _Plan("win1", "host-a", "hvm", (64,)),
    _Plan("old1", "host-a", "pv", (32,), runs=False),
    _Plan("mail1", "host-b", "pv", (48,)),
    _Plan("fw1", "host-b", "pv", (16,), memory=16, lines="pci = ['0000:03:00.0']\n"),
)


class Unplayable(Exception):
    """What was asked for cannot be done. The message says why, and what can."""


class Playground:
    """The hosts in a folder. Leaving it ends everything that it has started."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.hosts = {name: SandboxHost(folder, name, launcher=_launch) for name in HOSTS}
        self._pulled: set[str] = set()
        self._cables: dict[tuple[str, str], Cable] = {}
        self._disks: dict[str, SmallDisk] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start the daemons, make them know each other, and start the guests."""
        for host in self.hosts.values():
            self._disks[host.name] = SmallDisk(host.images, _DISK)
            self._stack.callback(self._disks[host.name].close)
            self._stack.callback(host.close)
            host.write_config(timeouts=_TIMEOUTS)
            host.launch()
        for host in self.hosts.values():
            host.wait_ready()
        for one, other in itertools.permutations(self.hosts.values(), 2):
            cable = self._cables[one.name, other.name] = Cable(other.port)
            self._stack.callback(cable.close)
            one.trust(other, port=cable.port)
        for plan in _GUESTS:
            self._make(plan)

    def _make(self, plan: _Plan) -> None:
        host = self.hosts[plan.host]
        images = [_half_full(host.images, plan, number) for number in range(len(plan.disks))]
        bus = "hd" if plan.kind == "hvm" else "xvd"
        specs = [f"file:{path},{bus}{letter},w" for path, letter in zip(images, "ab", strict=False)]
        config = host.folder / "xen" / f"{plan.name}.cfg"
        config.write_text(
            f"name = {plan.name!r}\ntype = {plan.kind!r}\nmemory = {plan.memory}\n"
            f"disk = {specs!r}\nvif = ['bridge=xenbr0']\n"
            f"extra = 'sandbox.rate={plan.rate}'\n{plan.lines}"
        )
        if plan.runs:
            host.xen.xl("create", str(config))

    # --- what may be asked for; all of it returns what to show ---

    def answer(self, words: Sequence[str]) -> str:
        """Do what the words say. Raises Unplayable."""
        of_host = {
            "pull": self.pull,
            "plug": self.plug,
            "kill-daemon": self.kill_daemon,
            "start-daemon": self.start_daemon,
            "fill": self.fill,
            "unfill": self.unfill,
            "log": self.log,
        }
        of_guest = {"check": self.check, "console": self.console}
        match words:
            case ["guests"]:
                return self.guests()
            case [order, name] if order in of_host:
                return of_host[order](name)
            case [order, name] if order in of_guest:
                return of_guest[order](name)
            case [order, *_]:
                raise Unplayable(f"say: {order} {'GUEST' if order in of_guest else 'HOST'}")
        raise Unplayable("nothing was said")

    def guests(self) -> str:
        """Tell of every host how it is, and which guests it has."""
        return "\n".join(line for host in self.hosts.values() for line in self._about(host))

    def pull(self, name: str) -> str:
        """Pull the cable of a host."""
        self._host(name)
        self._pulled.add(name)
        self._wire()
        return f"the cable of {name} is out: 'plug {name}' puts it back"

    def plug(self, name: str) -> str:
        """Put the cable of a host back."""
        self._host(name)
        self._pulled.discard(name)
        self._wire()
        return f"the cable of {name} is in"

    def kill_daemon(self, name: str) -> str:
        """Kill the daemon of a host, as kill -9 does; its guests run on."""
        host = self._host(name)
        if not _runs(host):
            raise Unplayable(f"no daemon runs on {name}: 'start-daemon {name}' starts one")
        host.stop(signal.SIGKILL)
        return f"killed the daemon of {name}; its guests run on: 'start-daemon {name}'"

    def start_daemon(self, name: str) -> str:
        """Start the daemon of a host again."""
        host = self._host(name)
        if _runs(host):
            raise Unplayable(f"the daemon of {name} runs")
        host.start()
        return f"the daemon of {name} runs"

    def fill(self, name: str) -> str:
        """Fill the disk of a host up."""
        self._host(name)
        taken = self._disks[name].fill()
        if taken is None:
            raise Unplayable(
                "this system does not let users without root have a file system of their own "
                "(see unshare(1)), so the disks here are those of the machine, and are not filled"
            )
        return f"the disk of {name} is full: 'unfill {name}' frees {format_size(taken)} again"

    def unfill(self, name: str) -> str:
        """Give back what `fill` took."""
        self._host(name)
        self._disks[name].empty()
        return f"the disk of {name} has space again"

    def check(self, name: str) -> str:
        """Make a guest verify every block that it ever wrote."""
        host, _ = self._guest(name)
        verdict = host.xen.check(name)
        if not verdict["ok"]:
            raise Unplayable(f"{name} on {host.name}: {'; '.join(verdict['failures'])}")
        return (
            f"{name} on {host.name}: all {verdict['blocks']} blocks that it wrote are right, "
            f"{verdict['sequence']} writes so far"
        )

    def console(self, name: str) -> str:
        """Show what a guest printed last, where it runs now."""
        host, _ = self._guest(name)
        lines = host.xen.console(name).splitlines()[-_CONSOLE_LINES:]
        return "\n".join([f"{name} on {host.name}:", *lines])

    def log(self, name: str) -> str:
        """Show what a daemon logged last."""
        return "\n".join(self._host(name).log().splitlines()[-_LOG_LINES:])

    def _wire(self) -> None:
        for ends, cable in self._cables.items():
            if self._pulled.isdisjoint(ends):
                cable.plug()
            else:
                cable.pull()

    def _host(self, name: str) -> SandboxHost:
        try:
            return self.hosts[name]
        except KeyError:
            raise Unplayable(f"no host is called {name}: they are {', '.join(HOSTS)}") from None

    def _guest(self, name: str) -> tuple[SandboxHost, Domain]:
        for host in self.hosts.values():
            if (domain := host.xen.folder.find(name)) is not None:
                return host, domain
        raise Unplayable(f"no guest called {name} runs here: 'guests' shows those that do")

    def _about(self, host: SandboxHost) -> list[str]:
        daemon = "its daemon runs" if _runs(host) else "NO DAEMON"
        cable = ", CABLE PULLED" if host.name in self._pulled else ""
        status = os.statvfs(host.images)
        free = format_size(status.f_bavail * status.f_frsize)
        lines = [f"{host.name}: {daemon}{cable}, {free} of its disk free"]
        folder = host.xen.folder
        for domain in folder.domains():
            kind = domain.config["c_info"]["type"]
            writes = Witness(folder.witness, domain.uuid).sequence
            state = host.xen.state(domain.name) or "ending"
            lines.append(f"  {domain.name:<8} {kind:<4} {state}  {writes} writes")
        return lines


def _launch(
    arguments: Sequence[str], log: BinaryIO, environment: Mapping[str, str]
) -> DaemonProcess:
    """Start a daemon that Ctrl-C at the terminal does not reach."""
    # What a killed daemon has in a folder of its own goes with the playground.
    own = {**environment, "TMPDIR": str(Path(log.name).parent)}
    return launch_daemon(arguments, log, own, apart=True)


def _runs(host: SandboxHost) -> bool:
    return host.process is not None and host.process.poll() is None


def _half_full(folder: Path, plan: _Plan, number: int) -> Path:
    """Make a disk with something in its first half."""
    path = make_image(folder / f"{plan.name}-{('root', 'data')[number]}", plan.disks[number])
    with path.open("r+b") as file:
        for _ in range(plan.disks[number] // 2):
            file.write(os.urandom(2**20))
    return path
