"""A daemon that answers what a test tells it to, and the real `xenmovectl` against it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder, Kind
from protocol.messages import Mode, Problem
from tests.support import preloaded
from xenmoved.control.api import Failure
from xenmoved.control.message_set import CONTROL
from xenmoved.jobs.report import JobKind, JobReport, JobState, Phase, RoundReport, VolumeReport

ROOT = Path(__file__).parents[2]
MIB, GIB = 2**20, 2**30
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQQWIEa+DzXbNZh5jtYi3fkSUTLuYIWflPJWQwtrmQW"
FINGERPRINT = "SHA256:1JiJXAL4kJoKOLnbiyUJ8Q0TYSGLVMbuTHwvmmkJhT8"
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\nroot# \x9b31m\u202e[bold]x[/bold]"

Answer = Any
"""A message, a list of messages and pauses in seconds, or a function that returns one of these."""


class FakeDaemon:
    """Listens on a socket and gives the answers that it was told, by the type of the request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[type, Answer] = {}
        self.requests: list[object] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def asked(self, kind: type) -> Any:
        """Return the only request of that type."""
        (request,) = [request for request in self.requests if type(request) is kind]
        return request

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        decoder = FrameDecoder({Kind.MESSAGE})
        with connection, suppress(OSError, ProtocolError):
            while (frame := decoder.next_frame()) is None:
                data = connection.recv(65536)
                if not data:
                    return
                decoder.feed(data)
            request = CONTROL.decode(frame.untrusted_body)
            self.requests.append(request)
            answer = self.answers.get(
                type(request), failure("unknown", f"no answer to {type(request).__name__}")
            )
            if callable(answer):
                answer = answer(request)
            for part in answer if isinstance(answer, list) else [answer]:
                if isinstance(part, int | float):
                    if self._stopping.wait(part):
                        return
                elif isinstance(part, bytes):
                    connection.sendall(part)
                else:
                    connection.sendall(CONTROL.encode(part))


def failure(code: str, text: str, hint: str = "") -> Failure:
    """Return a failure with one problem."""
    return Failure((Problem(code, text, hint),))


def a_round(number: int = 1, total: int = 160, examined: int | None = None, **changes: Any) -> Any:
    """Return a round in which a tenth differs and a quarter is zero."""
    done = total if examined is None else examined
    one = RoundReport(
        number=number,
        total=total,
        examined=done,
        same=done - done // 10 - done // 4,
        diff=done // 10,
        zero=done // 4,
        data_bytes=done // 10 * 65536,
        zero_bytes=done // 4 * 65536,
        wire_bytes=done // 10 * 65536,
        seconds=2.0,
    )
    return replace(one, **changes)


def a_job(*rounds: RoundReport, **changes: Any) -> JobReport:
    """Return a job that moves the guest `web` with one disk."""
    volume = VolumeReport("xvda", 10 * MIB, "images:web-root", False, rounds)
    report = JobReport(
        job="1a2b3c4d",
        kind=JobKind.MIGRATE,
        state=JobState.RUNNING,
        phase=Phase.PRE_COPY,
        guest="web",
        peer="host-b",
        mode=Mode.SAVE,
        started=1_700_000_000.0,
        ended=None,
        volumes=(volume,),
        memory_total=512 * MIB,
        wire_bytes=sum(one.wire_bytes for one in rounds),
    )
    return replace(report, **changes)


def job_done(**changes: Any) -> JobReport:
    """Return that job when it is done."""
    second = {"same": 158, "diff": 2, "zero": 0, "dirty": 2 * 65536, "dirty_rate": 65536.0}
    report = a_job(a_round(1), a_round(2, examined=160, **second))
    memory = report.memory_total
    return replace(
        report,
        **{
            "state": JobState.DONE,
            "phase": Phase.ENDED,
            "ended": report.started + 72,
            "memory_sent": memory,
            "wire_bytes": report.wire_bytes + memory,
            "blackout": 4.25,
            **changes,
        },
    )


def a_course() -> list[Answer]:
    """Return what a job tells from its beginning to its end."""
    first = a_round(1)
    return [
        a_job(phase=Phase.PROVISION),
        a_job(a_round(1, examined=40)),
        a_job(a_round(1, examined=41)),
        a_job(first),
        a_job(first, a_round(2, examined=20)),
        a_job(first, a_round(2), phase=Phase.SUSPEND, memory_sent=100 * MIB),
        job_done(),
    ]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment for the program, in which nothing of the outside matters."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "TZ": "UTC", **changes}


def command(socket_path: Path | str, *args: str) -> list[str]:
    """Return the command line of the program."""
    return [sys.executable, "-m", "xenmoved.ctl.main", "--socket", str(socket_path), *args]


def run(
    daemon: FakeDaemon | Path, *args: str, stdin: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    path = daemon.path if isinstance(daemon, FakeDaemon) else daemon
    if not changes:  # most of them are read when an interpreter starts
        words = ("--socket", str(path), *args)
        return preloaded.run("xenmoved.ctl.main", words, environment(), stdin, 30)
    return subprocess.run(
        command(path, *args),
        env=environment(**changes),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects that are on the lines of a text."""
    return [json.loads(each) for each in text.splitlines()]


@contextmanager
def started(daemon: FakeDaemon, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program, and make sure that it ends."""
    process = subprocess.Popen(
        command(daemon.path, *args),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run_on_terminal(
    daemon: FakeDaemon,
    args: Sequence[str],
    *,
    react: Callable[[str], str | None] = lambda _: None,
    interrupt_on: str = "",
    **changes: str,
) -> tuple[int, str]:
    """Run the program on a terminal of its own; return its exit code and all that it showed.

    `react` is called with what was shown so far and returns what to type; when `interrupt_on` is
    shown, Ctrl-C is pressed.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(daemon.path, *args),
        env=environment(**{"TERM": "xterm-256color", "COLUMNS": "110", "LINES": "30"} | changes),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([master], [], [], 0.2)
            try:
                data = os.read(master, 65536) if ready else b""
            except OSError:
                break
            shown += data
            text = shown.decode(errors="replace")
            if typed := react(text):
                os.write(master, typed.encode())
                react = lambda _: None  # noqa: E731
            if interrupt_on and interrupt_on in text:
                process.send_signal(signal.SIGINT)
                interrupt_on = ""
        return process.wait(10), shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
