"""The client's end of the control socket: blocking, and quick to import."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder, Kind
from xenmoved.control.message_set import CONTROL


class DaemonUnavailable(Exception):
    """The daemon cannot be reached. The message says why and what to do."""


class AccessDenied(DaemonUnavailable):
    """The control socket is there but not for this user."""


class ControlClient:
    """A connection to the local daemon. Use as a context manager."""

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        self._path = path
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder({Kind.MESSAGE})

    def __enter__(self) -> Self:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._timeout)
        try:
            connection.connect(str(self._path))
        except PermissionError:
            connection.close()
            raise AccessDenied(
                f"no permission to use {self._path}: run as root, or as a member of the group "
                "that control.group in the configuration names"
            ) from None
        except OSError as error:
            connection.close()
            reason = (error.strerror or str(error)).lower()
            raise DaemonUnavailable(
                f"xenmoved does not answer at {self._path} ({reason}): is it running? "
                "try: systemctl status xenmoved"
            ) from None
        self._socket = connection
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    def ask(self, request: object) -> Any:
        """Send a request and return its answer (`Failure` too). Raises DaemonUnavailable."""
        self._send(request)
        return self._next()

    def watch(self, request: object) -> Iterator[Any]:
        """Send a request and yield its answers; stop at the one that says that it is the last."""
        self._send(request)
        while (answer := self._next_or_end()) is not None:
            yield answer

    def _send(self, request: object) -> None:
        assert self._socket is not None, "used outside its context"
        # When the daemon has closed already, its last words are still there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(CONTROL.encode(request))

    def _next(self) -> Any:
        answer = self._next_or_end()
        if answer is None:
            raise DaemonUnavailable("xenmoved closed the connection: see its log for the reason")
        return answer

    def _next_or_end(self) -> Any:
        assert self._socket is not None, "used outside its context"
        try:
            while (frame := self._decoder.next_frame()) is None:
                data = self._socket.recv(256 * 1024)
                if not data:
                    return None
                self._decoder.feed(data)
            return CONTROL.decode(frame.untrusted_body)
        except TimeoutError:
            raise DaemonUnavailable(f"xenmoved gave no answer in {self._timeout:g} s") from None
        except (OSError, ProtocolError) as error:
            raise DaemonUnavailable(f"lost the connection to xenmoved: {error}") from None
