"""The control socket of a guest: one JSON line each way for every connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket

from xenmoved.sandbox.host import CommandFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TIMEOUT = 120.0
MAX_LINE = 1 << 20


@contextlib.contextmanager
def short_name(path: str) -> Iterator[str]:
    """Another name of a socket that fits in the 107 bytes that the kernel allows."""
    parent, _, name = path.rpartition("/")
    folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{name}"
    finally:
        os.close(folder)


def listen(path: str) -> socket.socket:
    """Open the listening end, for the guest."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with short_name(path) as name:
        server.bind(name)
    server.listen(16)
    return server


def read_line(connection: socket.socket) -> bytes:
    """Everything up to the end of the line, or of the connection."""
    parts = []
    total = 0
    while total < MAX_LINE:
        part = connection.recv(65536)
        parts.append(part)
        total += len(part)
        if not part or part.endswith(b"\n"):
            break
    return b"".join(parts)


def request(path: str, operation: str, timeout: float | None = TIMEOUT) -> dict[str, Any]:
    """Ask a guest. Raises CommandFailed with the guest's words when it refuses or is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with short_name(path) as name:
                connection.connect(name)
            connection.sendall(json.dumps({"operation": operation}).encode() + b"\n")
            line = read_line(connection)
        except OSError as error:
            raise CommandFailed(f"libxl: error: the guest does not answer: {error}") from error
    if not line:
        raise CommandFailed("libxl: error: the guest does not answer")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise CommandFailed(answer["error"])
    return answer


def wait_for_end(path: str) -> None:
    """Return when the guest process has ended."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        contextlib.suppress(OSError),
    ):
        with short_name(path) as name:
            connection.connect(name)
        connection.sendall(b'{"operation": "watch"}\n')
        read_line(connection)
