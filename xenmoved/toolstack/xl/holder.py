"""Keeps the pipes of an `xl migrate`, so that it notices nothing of a restart of the daemon.

Run by `xl` itself, in place of the `ssh` to a receiver: the stream comes in on stdin, and what
`xl` expects a receiver to say goes out on stdout. A script that imports nothing of the program, so
that it starts at once. It serves a Unix socket: whoever connects is told the state and gets the
descriptor of the stream; then each packet is a command, answered by the state after it.

    waiting     `start` greets the sender as a receiver would; this connection is the owner
    streaming   `ready`: the owner has the whole image. If the owner's connection ends before, or at
                `back`, this process ends, and `xl` lets the domain run on
    kept        the domain is `xl`'s no more; this stays until it is told what was decided:
                `done`: the domain lives elsewhere, `xl` destroys it; `back`: `xl` resumes it
    done, back  `xl` was told

It ends when `xl` has ended. Only this process writes to `xl`, and each time together with a change
of its state, so that the state says what `xl` has been told, whoever crashed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final

# The words of tools/xl/xl.h.
BANNER: Final = b"xl migration receiver ready, send binary domain data.\n"
READY: Final = b"domain received, ready to unpause\0"
GO: Final = b"domain is yours, you are cleared to unpause\0"
REPORT: Final = b"my copy unpause results are as follows\0"

WAITING: Final = "waiting"
STREAMING: Final = "streaming"
KEPT: Final = "kept"
START: Final = "start"
HAVE_ALL: Final = "ready"
DONE: Final = "done"
BACK: Final = "back"

PACKET: Final = 64
_START_TIMEOUT: Final = 60_000  # milliseconds
_CREDENTIALS: Final = struct.Struct("3i")
_STREAM, _ANSWERS = 0, 1

# What a command of the owner, or of anybody, does in a state: what is said to `xl`, the next state.
_OWNER: Final = {
    (WAITING, START): (BANNER, STREAMING),
    (STREAMING, HAVE_ALL): (READY, KEPT),
}
_ANYBODY: Final = {
    (KEPT, DONE): (REPORT + b"\0", DONE),
    (KEPT, BACK): (REPORT + b"\1" + GO, BACK),
}


class Holder:
    """The state and the connections."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._state = WAITING
        self._owner: socket.socket | None = None
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        for descriptor in (_STREAM, _ANSWERS):
            self._poll.register(descriptor, 0)  # tells only that the other end was closed

    def run(self) -> None:
        """Serve until `xl` has ended, or is to see an end."""
        while events := self._poll.poll(_START_TIMEOUT if self._state == WAITING else None):
            for descriptor, _ in events:
                if descriptor in (_STREAM, _ANSWERS):
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                elif not self._serve(self._connections[descriptor]):
                    return

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        size = _CREDENTIALS.size
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.geteuid()):
            connection.close()
            return
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [self._state.encode()], [_STREAM])

    def _serve(self, connection: socket.socket) -> bool:
        """Carry out a command or note the end of a connection. False when all ends here."""
        try:
            command = connection.recv(PACKET).decode("ascii", "replace")
        except OSError:
            command = ""
        if not command:
            self._poll.unregister(connection)
            del self._connections[connection.fileno()]
            connection.close()
            return connection is not self._owner or self._state != STREAMING
        if command == BACK and self._state in (WAITING, STREAMING):
            return False
        if self._state == WAITING and command == START:
            self._owner = connection
        table = _OWNER | _ANYBODY if connection is self._owner else _ANYBODY
        if (step := table.get((self._state, command))) is not None:
            words, self._state = step
            os.write(_ANSWERS, words)  # less than a pipe takes at once, and it is empty
        with contextlib.suppress(OSError):
            connection.send(self._state.encode())
        return True


def listen(path: Path) -> socket.socket:
    """Serve a socket that only its owner can reach, by way of its folder: names are short."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o177)
    listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    listener.listen()
    os.close(folder)
    return listener


def outlive() -> None:
    """Survive what ends or stops the daemon, and have the kernel look for memory elsewhere."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(PermissionError):  # leads its own session already
        os.setsid()
    os.chdir("/")
    with contextlib.suppress(OSError):  # not permitted without root
        Path("/proc/self/oom_score_adj").write_text("-1000")


if __name__ == "__main__":
    outlive()
    Holder(listen(Path(sys.argv[1]))).run()
