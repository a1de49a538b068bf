"""A few commands to a QEMU, over its QMP socket.

The socket of a domain's QEMU is libxl's, which needs it at any time and waits for a while only. It
serves one client at a time. So one connects for a moment, and whatever happens leaves in time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from storage.errors import QemuError, QemuRefusal, reason

T = TypeVar("T")

PATIENCE: Final = 5.0
"""Seconds for all that is done in one session. libxl itself waits for 10."""
_FAREWELL: Final = 0.5
_PAUSE: Final = 0.02


class _Confused(QemuError):
    """QEMU has told the new client of an event first, which was for the one before it (seen)."""


class Session:
    """An open connection. Not for several threads."""

    def __init__(self, path: str, deadline: float) -> None:
        """Use `session`. `deadline` is by `time.monotonic`."""
        from qemu.qmp import QMPClient  # slow to import, and only needed here

        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what goes wrong is raised
        self._path = path
        self._deadline = deadline
        self._client = QMPClient()
        self._socket = _connect(path, deadline)
        # Threads that wait have no loop of their own, and that of the daemon must not wait.
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        try:
            self._run(self._client.connect(self._socket), "to say hello")
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Carry out a command; return QEMU's answer.

        Raises `QemuRefusal` when QEMU does not do it, `QemuError` when nobody knows whether it did.
        """
        return self._run(self._client.execute(command, arguments), command)

    def close(self) -> None:
        """Disconnect, waiting for nobody. Idempotent."""
        with suppress(Exception):  # how it ended was told by what was asked last
            self._runner.run(asyncio.wait_for(self._client.disconnect(), _FAREWELL))
        self._runner.close()
        self._socket.close()

    def _run(self, work: Coroutine[Any, Any, T], what: str) -> T:
        from qemu.qmp import ExecuteError, QMPError
        from qemu.qmp.qmp_client import GreetingError, NegotiationError

        left = max(0.0, self._deadline - time.monotonic())
        try:
            return self._runner.run(asyncio.wait_for(work, left))
        except ExecuteError as error:
            raise QemuRefusal(f"QEMU at {self._path} refuses {what}: {error}") from error
        except TimeoutError:
            raise _silent(self._path, what) from None
        except (QMPError, OSError, EOFError) as error:
            why = error.__cause__ or error
            kind = _Confused if isinstance(why, (GreetingError, NegotiationError)) else QemuError
            said = str(why) or "it closed the connection"
            raise kind(f"QEMU at {self._path} fails {what}: {said}") from error


@contextmanager
def session(path: str, *, patience: float = PATIENCE) -> Iterator[Session]:
    """Be connected to the QEMU whose socket is at `path`, for `patience` seconds at most.

    Raises `QemuError` when it cannot be reached in that time, because somebody else is connected,
    or it has ended or is frozen.
    """
    opened = _open(path, time.monotonic() + patience)
    try:
        yield opened
    finally:
        opened.close()


def _open(path: str, deadline: float) -> Session:
    while True:
        try:
            return Session(path, deadline)
        except _Confused:
            time.sleep(_PAUSE)


def _connect(path: str, deadline: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(max(_PAUSE, deadline - time.monotonic()))
            connection.connect(path)
            connection.setblocking(False)
            return connection
        except OSError as error:
            connection.close()
            # Others wait already: QEMU has room for one.
            if not isinstance(error, BlockingIOError):
                raise QemuError(f"QEMU at {path} cannot be reached: {reason(error)}") from error
        if time.monotonic() > deadline:
            raise _silent(path, "to accept a connection")
        time.sleep(_PAUSE)


def _silent(path: str, what: str) -> QemuError:
    return QemuError(
        f"QEMU at {path} did not answer in time ({what}): it is frozen or busy, or somebody else "
        "is connected"
    )
