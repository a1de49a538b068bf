"""What a user would pick: ours, and dd and rsync over OpenSSH. Each brings one file up to date."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xenmoved.sandbox.pair import SandboxHost

FAST_CIPHER = "aes128-gcm@openssh.com"  # what both ends of ours choose too
NEEDED = {"rsync": "rsync", "ssh": "openssh-client", "sshd": "openssh-server"}


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run. Seconds, and bytes; `capped`: it was ended before it was done.

    `loops` are the processor seconds of the event loops of ours, at the source and the target.
    """

    wall: float
    cpu: float
    peak_memory: int | None
    capped: bool = False
    loops: tuple[float, float] | None = None


class Contender(Protocol):
    """Something that brings a target file up to date."""

    name: str

    def run(self, source: Path, target: Path, cap: float) -> Run:
        """Do it once; the target is durable when it returns."""


class Ours:
    """`xenmovectl sync` between two daemons."""

    name = "xenmoved sync"

    def __init__(self, source: SandboxHost, target: SandboxHost) -> None:
        self._hosts = (source, target)

    def run(self, source: Path, target: Path, cap: float) -> Run:
        words = ["--quiet", "sync", str(source), f"{self._hosts[1].name}:images/{target.name}"]
        return self._measure(lambda: self._hosts[0].ctl(*words, timeout=cap + 600))

    def move_memory(self, mebibytes: int) -> Run:
        """Move a guest by saving it: its memory, and a disk with nothing in it."""
        source, target = self._hosts
        name = f"memory-{len(list(source.images.iterdir()))}"
        disk = source.images / f"{name}.img"
        with disk.open("wb") as file:
            file.truncate(2**20)
        source.xen.create(name, [disk], memory=mebibytes, extra="sandbox.rate=0 sandbox.checks=0")
        words = ["--quiet", "migrate", name, target.name, "--mode", "save"]
        run = self._measure(lambda: source.ctl(*words, timeout=1200))
        target.xen.stop()
        return run

    def _measure(self, work: Callable[[], subprocess.CompletedProcess[str]]) -> Run:
        pids = [host.process.pid for host in self._hosts if host.process is not None]
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # reset the peak of resident memory
        before = sum(map(_cpu_of, pids)) + _cpu_of_children()
        loops = [_cpu_of_loop(pid) for pid in pids]
        began = time.monotonic()
        done = work()
        wall = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(f"it failed: {done.stderr}{done.stdout}")
        cpu = sum(map(_cpu_of, pids)) + _cpu_of_children() - before
        near, far = (_cpu_of_loop(pid) - at for pid, at in zip(pids, loops, strict=True))
        return Run(wall, cpu, max(map(_peak_of, pids)), loops=(near, far))


class OpenSsh:
    """A server of OpenSSH on loopback, for the others."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        settings = {
            "Port": self._port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "user.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
        }
        (folder / "config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert server is not None, "checked before"
        self.process = subprocess.Popen(
            [server, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            if _succeeds([*self.client(), "127.0.0.1", "true"]):
                return
            time.sleep(0.1)
        raise RuntimeError("sshd does not answer")

    def client(self, cipher: str | None = None) -> list[str]:
        """Return the command line of the client, without the host; its own choice of cipher."""
        return [
            "ssh",
            *(["-c", cipher] if cipher is not None else []),
            "-F",
            "none",
            "-i",
            str(self._folder / "user"),
            "-p",
            str(self._port),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "Compression=no",
        ]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Dd:
    """`dd | ssh | dd`, as typed, or with the cipher that ours uses."""

    def __init__(self, server: OpenSsh, *, cipher: str | None = None) -> None:
        self._server = server
        self._ssh = " ".join([*server.client(cipher), "127.0.0.1"])
        self.name = f"dd | ssh{_shown(cipher)} | dd"

    def run(self, source: Path, target: Path, cap: float) -> Run:
        send = f"dd if={source} bs=1M status=none"
        receive = f"dd of={target} bs=1M conv=fsync,notrunc status=none"
        return _measure(["sh", "-c", f"{send} | {self._ssh} {receive}"], self._server, cap)


class Rsync:
    """`rsync --inplace`, with or without `--whole-file`, as typed or with the cipher of ours."""

    def __init__(self, server: OpenSsh, *, whole_file: bool, cipher: str | None = None) -> None:
        self._server = server
        self._shell = " ".join(server.client(cipher))
        self._option = "--whole-file" if whole_file else "--no-whole-file"
        self.name = f"rsync --inplace {self._option}{_shown(cipher)}"

    def run(self, source: Path, target: Path, cap: float) -> Run:
        # Volumes have no time stamps to go by, so they are compared by content.
        compare = ["--inplace", "--ignore-times", "--fsync", self._option]
        command = ["rsync", *compare, "-e", self._shell, str(source), f"127.0.0.1:{target}"]
        return _measure(command, self._server, cap)


def _shown(cipher: str | None) -> str:
    return f" -c {cipher.partition('@')[0]}" if cipher is not None else ""


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def missing_tools() -> list[str]:
    """Return the Debian packages of the tools that are not there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [package for tool, package in NEEDED.items() if shutil.which(tool, path=path) is None]


def _measure(command: Sequence[str], server: OpenSsh, cap: float) -> Run:
    before = _cpu_of_children() + _cpu_of(server.process.pid)
    began = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(cap)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return Run(cap, 0.0, None, capped=True)
    wall = time.monotonic() - began
    if status != 0:
        raise RuntimeError(f"{command} ended with {status}")
    time.sleep(0.2)  # the server reaps its session a moment later
    cpu = _cpu_of_children() + _cpu_of(server.process.pid) - before
    return Run(wall, cpu, None)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    """Return the processor seconds of a process and its reaped children (proc(5), stat)."""
    return _ticks(Path(f"/proc/{pid}/stat"), 11, 15)


def _cpu_of_loop(pid: int) -> float:
    """Return the processor seconds of the main thread of a daemon, which has its event loop."""
    return _ticks(Path(f"/proc/{pid}/task/{pid}/stat"), 11, 13)


def _ticks(stat: Path, first: int, end: int) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[first:end])) / os.sysconf("SC_CLK_TCK")


def _peak_of(pid: int) -> int:
    """Return the peak of resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell VmHWM")
