"""Starting programs from a process that has imported all they need: most of their time, otherwise.

`start` runs ``python -m MODULE ARGUMENTS``: in a process of its own, which is forked from a server
rather than made anew. What tells it apart is its command line in /proc, which is the server's, and
that it writes UTF-8 in any locale. There is one server for each process that runs tests, and it
ends with that process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

from tests.support import records
from xenmoved.sandbox.pair import DaemonProcess, Launcher, SandboxHost

REPOSITORY = Path(__file__).resolve().parents[2]

_LARGEST = 1 << 18
"""Bytes of a request: an environment, mostly."""

_PROGRAMS = ("tests.support.faulty_daemon", "xenmoved.main", "xenmoved.ctl.main")
_PRELOADED = (
    *_PROGRAMS,
    "xenmoved.ctl.verbs.table",
    "xenmoved.ctl.views.live",
    "xenmoved.ctl.report.page",
)

_lock = threading.Lock()


class Forked:
    """A process that the server has forked, with the interface of `subprocess.Popen`."""

    def __init__(self, pid: int, descriptor: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = descriptor
        self._ended = ended

    def __del__(self) -> None:
        os.close(self._descriptor)
        os.close(self._ended)

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        if self.returncode is None and self._over(0):
            self.returncode = int(os.read(self._ended, 16))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns its exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None and not self._over(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def _over(self, timeout: float | None) -> bool:
        waiter = select.poll()
        waiter.register(self._ended, select.POLLIN)
        return bool(waiter.poll(None if timeout is None else timeout * 1000))

    def send_signal(self, number: int) -> None:
        """Send it a signal. Raises ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self._descriptor, signal.Signals(number))


def start(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: tuple[IO[Any], IO[Any], IO[Any]],
) -> Forked:
    """Run a module's program with these standard streams."""
    read, write = os.pipe()
    request = json.dumps([module, arguments, dict(environment), str(Path.cwd())]).encode()
    descriptors = [write, *(stream.fileno() for stream in streams)]
    try:
        with _lock:
            socket.send_fds(_server(), [request], descriptors)
            pid, (descriptor,), _, _ = socket.recv_fds(_server(), 16, 1)
    finally:
        os.close(write)
    return Forked(int(pid), descriptor, read)


def launcher(module: str) -> Launcher:
    """Return what starts a module's program as the daemon of a host."""

    def launch(
        arguments: Sequence[str], log: BinaryIO, environment: Mapping[str, str]
    ) -> DaemonProcess:
        with Path(os.devnull).open() as null:
            return start(module, arguments, environment, (null, log, log))

    return launch


def run(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stdin: str,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a module's program to its end. Raises subprocess.TimeoutExpired.

    What it prints as JSON must be as `xenmovectl schema` says.
    """
    with contextlib.ExitStack() as stack:
        given, out, errors = (
            stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(3)
        )
        given.write(stdin)
        given.seek(0)
        process = start(module, arguments, environment, (given, out, errors))
        status = process.wait(timeout)
        for file in (out, errors):
            file.seek(0)
        printed = out.read()
        if "--json" in arguments:
            records.check(printed)
        return subprocess.CompletedProcess((module, *arguments), status, printed, errors.read())


class PreloadedHost(SandboxHost):
    """A host whose `xenmovectl` is started in this way."""

    def ctl(self, *args: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `xenmovectl` against this host's daemon, with nothing on its standard input."""
        typed = ["--socket", str(self.socket), *args]
        return run("xenmoved.ctl.main", typed, os.environ, "", timeout)


@functools.cache
def _server() -> socket.socket:
    """Start the server; it ends when this socket is closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    changes = {"PYTHONPATH": os.pathsep.join(paths), "LC_ALL": "C.UTF-8"}
    with there:
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tests.support.preloaded"],
            {**os.environ, **changes},
            file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), 0)],
        )
    return here


def _serve(requests: socket.socket) -> str:
    """Fork when asked to; returns the name of the module to run, in the forked process alone."""
    running: dict[int, tuple[int, int]] = {}
    waiter = select.poll()
    waiter.register(requests, select.POLLIN)
    while True:
        for ready, _ in waiter.poll():
            if ready in running:
                pid, ended = running.pop(ready)
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(BrokenPipeError):
                    os.write(ended, str(os.waitstatus_to_exitcode(status)).encode())
                waiter.unregister(ready)
                os.close(ready)
                os.close(ended)
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 4)
            if not request:
                sys.exit()
            ended, *streams = descriptors
            pid = os.fork()
            if pid == 0:
                for descriptor in (ended, *running, *(one for _, one in running.values())):
                    os.close(descriptor)
                requests.detach()  # it is this process's standard input
                return _become(request, streams)
            descriptor = os.pidfd_open(pid)
            socket.send_fds(requests, [str(pid).encode()], [descriptor])
            running[descriptor] = pid, ended
            waiter.register(descriptor, select.POLLIN)
            for stream in streams:
                os.close(stream)


def _become(request: bytes, streams: list[int]) -> str:
    """Give this process what `subprocess` would have given it; returns the module to run."""
    module, arguments, environment, folder = json.loads(request)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for wanted, stream in enumerate(streams):
        os.dup2(stream, wanted)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv[1:] = arguments
    return str(module)


def _main() -> str:
    for module in _PRELOADED:
        importlib.import_module(module)
    # The modules that are to be run are loaded anew, as the main one.
    for module in _PROGRAMS:
        del sys.modules[module]
    gc.freeze()
    # An interrupt of the tests is for the tests and the daemons.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _serve(socket.socket(fileno=0))


if __name__ == "__main__":
    runpy.run_module(_main(), run_name="__main__", alter_sys=True)
