"""Answers for emulated hosts: `xl list`, `xl info` and those of `xm`, from one running process.

Most commands of a test are these, and most of the time that they take is the start of Python. What
answers is the emulator itself, in a process forked for each question; who asks is `asking.sh`, and
runs the command as it is where nobody answers. What is to show a fault
is not asked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from xenmoved.sandbox import main as sandbox
from xenmoved.sandbox import xl, xm
from xenmoved.sandbox.harness import EmulatedHost

_ASKING: Final = str(Path(__file__).with_name("asking.sh"))
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_MODULES: Final = (xl, xm)
"""Loaded beforehand, and not in each forked process."""


def ask_by_default() -> None:
    """Have all emulated hosts of this process asked in this way."""
    plain = EmulatedHost.command

    def command(self: EmulatedHost, *args: str) -> list[str]:
        return ["/bin/bash", _ASKING, str(_server()[1]), *plain(self, *args)]

    EmulatedHost.command = command  # type: ignore[method-assign]


@functools.cache
def _server() -> tuple[socket.socket, int]:
    """Start the server; it ends when this socket is closed. Returns its port, too."""
    here, there = socket.socketpair()
    with there, socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tests.support.asked"],
            {**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, there.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, listening.fileno(), 3),
            ],
        )
        return here, listening.getsockname()[1]


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=3)
    while 0 not in select.select([0, listening], [], [])[0]:
        question, _ = listening.accept()
        with question:
            if os.fork() == 0:
                with contextlib.suppress(OSError):
                    _answer(question)
                os._exit(0)


def _answer(question: socket.socket) -> None:
    """Read ``COUNT NUL (WORD NUL)...``, and say ``STATUS NUL OUTPUT NUL ERRORS NUL``.

    Nothing is said where the command is to be run instead.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = b""
    while b"\0" not in asked or asked.count(b"\0") <= int(asked.partition(b"\0")[0]):
        if not (more := question.recv(65536)):
            return
        asked += more
    words = [os.fsdecode(word) for word in asked.split(b"\0")[1:-1]]
    arguments = words[words.index("--root") :]
    root = Path(arguments[1])
    if EmulatedHost(root).folder.faults(arguments[3]):
        return
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = sandbox.main(arguments)
    said = "\0".join((str(status), out.getvalue(), errors.getvalue(), ""))
    question.sendall(said.encode(errors="surrogateescape"))


if __name__ == "__main__":
    _serve()
