"""Logging: to the journal in its own protocol where systemd runs us, to stderr otherwise.

Messages say what they are about by context, not by text:

    with log_context(job="m-4711", domain="web"):
        log.info("copying")            # 12:30:45 info [job=m-4711 domain=web] copying

The context follows tasks and threads that are started inside it. In the journal it becomes fields,
so that ``journalctl XENMOVED_DOMAIN=web`` shows one guest's moves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Final

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "xenmoved"

_LONGEST_MESSAGE = 64 * 1024
_QUIET_LIBRARIES = ("asyncssh", "asyncio")

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))


@contextlib.contextmanager
def log_context(
    *, job: str | None = None, domain: str | None = None, peer: str | None = None
) -> Iterator[None]:
    """Say what messages inside are about. What is None is inherited from outside."""
    given = {"job": job, "domain": domain, "peer": peer}
    merged = {**_context.get(), **{key: value for key, value in given.items() if value is not None}}
    token = _context.set(merged)
    try:
        yield
    finally:
        _context.reset(token)


def printable(text: str) -> str:
    """Return text on one line with whatever could move a cursor or start a line as escapes.

    Text of peers and guests must pass here on its way to a terminal or log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def setup(level: str, environment: Mapping[str, str] = os.environ) -> None:
    """Log messages of at least this level, and nothing else than that, from now on.

    May be called again, to change the level.
    """
    handler: logging.Handler
    if stderr_is_journal(environment):
        handler = JournalHandler()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PlainFormatter())
    handler.addFilter(_add_context)
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for previous in root.handlers[:]:
        root.removeHandler(previous)
        previous.close()
    root.addHandler(handler)
    root.setLevel(number)
    for name in _QUIET_LIBRARIES:
        # At "info" they tell of every channel and packet window.
        quietest = number if number == logging.DEBUG else max(number, logging.WARNING)
        logging.getLogger(name).setLevel(quietest)


def stderr_is_journal(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected our stderr to the journal, and nobody redirected it since."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class PlainFormatter(logging.Formatter):
    """One line for each message: ``HH:MM:SS level [job=... domain=...] text``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        about = " ".join(f"{key}={printable(value)}" for key, value in _about(record).items())
        level = record.levelname.lower()
        return f"{clock} {level} {f'[{about}] ' if about else ''}{_text(record)}"


class JournalHandler(logging.Handler):
    """Sends records to journald in its native protocol, with fields beside the message.

    Never waits: when the journal does not read, messages are lost, and the next one that gets
    through tells how many.
    """

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._path = path
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            message = _text(record)
            if self._lost:
                message = f"({self._lost} messages before this one were lost) {message}"
            datagram = _journal_datagram(record, message)
        except Exception:
            self.handleError(record)
            return
        try:
            # Not connected: the socket is another one after journald was restarted.
            self._socket.sendto(datagram, str(self._path))
            self._lost = 0
        except OSError:
            self._lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _add_context(record: logging.LogRecord) -> bool:
    record.about = _context.get()
    return True


def _about(record: logging.LogRecord) -> Mapping[str, str]:
    about: Mapping[str, str] = getattr(record, "about", {})
    return about


def _text(record: logging.LogRecord) -> str:
    lines = [printable(record.getMessage())]
    if record.exc_info:
        # Indented, so that no line of an exception's text can pass for a message.
        trace = logging.Formatter().formatException(record.exc_info)
        lines += [f"    {printable(line)}" for line in trace.splitlines()]
    return "\n".join(lines)


def _journal_datagram(record: logging.LogRecord, message: str) -> bytes:
    fields = {
        "MESSAGE": message[:_LONGEST_MESSAGE],
        "PRIORITY": _priority(record.levelno),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **{f"XENMOVED_{key.upper()}": printable(value) for key, value in _about(record).items()},
    }
    return b"".join(_journal_field(name, value) for name, value in fields.items())


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%s=%s\n" % (name.encode(), data)


def _priority(level: int) -> str:
    # As in syslog(3): 2 critical, 3 error, 4 warning, 6 info, 7 debug.
    for least, priority in (
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
    ):
        if level >= least:
            return priority
    return "7"
