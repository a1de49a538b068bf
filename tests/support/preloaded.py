"""Starting daemons from a process that has imported all they need, which takes them half a second.

`start` runs ``python -m MODULE ARGUMENTS``: in a process of its own, which is forked from a server
rather than made anew. What tells it apart is its command line in /proc, the server's. There is one
server for each process that runs tests, and it ends with that process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

REPOSITORY = Path(__file__).resolve().parents[2]

_LARGEST = 1 << 18
"""Bytes of a request: an environment, mostly."""

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
    module: str, arguments: Sequence[str], log: BinaryIO, environment: Mapping[str, str]
) -> Forked:
    """Run a module's program, which writes to a log."""
    read, write = os.pipe()
    request = json.dumps([module, arguments, dict(environment), str(Path.cwd())]).encode()
    try:
        with _lock:
            socket.send_fds(_server(), [request], [log.fileno(), write])
            pid, (descriptor,), _, _ = socket.recv_fds(_server(), 16, 1)
    finally:
        os.close(write)
    return Forked(int(pid), descriptor, read)


@functools.cache
def _server() -> socket.socket:
    """Start the server; it ends when this socket is closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    with there:
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded"],
            stdin=there,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
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
            request, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 2)
            if not request:
                sys.exit()
            log, ended = descriptors
            pid = os.fork()
            if pid == 0:
                for descriptor in (ended, *running, *(one for _, one in running.values())):
                    os.close(descriptor)
                return _become(request, requests, log)
            descriptor = os.pidfd_open(pid)
            socket.send_fds(requests, [str(pid).encode()], [descriptor])
            running[descriptor] = pid, ended
            waiter.register(descriptor, select.POLLIN)
            os.close(log)


def _become(request: bytes, requests: socket.socket, log: int) -> str:
    """Give this process what `subprocess` would have given it; returns the module to run."""
    module, arguments, environment, folder = json.loads(request)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, requests.detach())
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    return str(module)


def _main() -> str:
    import tests.support.faulty_daemon  # noqa: F401 - with everything that the daemon imports

    # The modules that are to be run are loaded anew, as the main one.
    for module in ("xenmoved.main", "tests.support.faulty_daemon"):
        del sys.modules[module]
    gc.freeze()
    # An interrupt of the tests is for the tests and the daemons.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _serve(socket.socket(fileno=0))


if __name__ == "__main__":
    runpy.run_module(_main(), run_name="__main__", alter_sys=True)
