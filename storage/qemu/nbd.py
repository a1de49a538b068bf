"""Connections to NBD servers on Unix sockets, by libnbd (its C interface, libnbd(3)).

Nothing waits longer for a server than it is told to: requests are begun, and libnbd is polled until
they end. A request that does not is given up with its connection, as its memory must not be filled
any more when somebody else has it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any, Final, NamedTuple

from storage.contracts import Extent
from storage.errors import VolumeError

PATIENCE: Final = 30.0
"""Seconds that a request may take: disks take seconds when they are in trouble, no more."""
HELLO: Final = 5.0
"""Seconds that it may take to be connected."""
MOST_AT_ONCE: Final = 8 << 20
"""Bytes of one request. Servers take at least 32 MiB."""
_MOST_ASKED: Final = 1 << 31
"""Bytes of a volume that are asked about at once; lengths have 32 bits."""

_LIBRARY: Final = "libnbd.so.0"
_SIZE_MINIMUM: Final = 0
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "nbd_create": (c_void_p, ()),
    "nbd_close": (None, (c_void_p,)),
    "nbd_get_error": (c_char_p, ()),
    "nbd_get_errno": (c_int, ()),
    "nbd_set_export_name": (c_int, (c_void_p, c_char_p)),
    "nbd_add_meta_context": (c_int, (c_void_p, c_char_p)),
    "nbd_can_meta_context": (c_int, (c_void_p, c_char_p)),
    "nbd_aio_connect_unix": (c_int, (c_void_p, c_char_p)),
    "nbd_aio_is_ready": (c_int, (c_void_p,)),
    "nbd_aio_is_connecting": (c_int, (c_void_p,)),
    "nbd_poll": (c_int, (c_void_p, c_int)),
    "nbd_get_size": (c_int64, (c_void_p,)),
    "nbd_get_block_size": (c_int64, (c_void_p, c_int)),
    "nbd_aio_command_completed": (c_int, (c_void_p, c_uint64)),
}


class _Callback(ctypes.Structure):
    """A function that libnbd calls, as it is passed: by value."""

    _fields_ = (("callback", c_void_p), ("user_data", c_void_p), ("free", c_void_p))


_COMMANDS: Final[dict[str, tuple[Any, ...]]] = {
    "nbd_aio_pread": (c_void_p, c_void_p, c_size_t, c_uint64, _Callback, c_uint32),
    "nbd_aio_pwrite": (c_void_p, c_void_p, c_size_t, c_uint64, _Callback, c_uint32),
    "nbd_aio_zero": (c_void_p, c_uint64, c_uint64, _Callback, c_uint32),
    "nbd_aio_flush": (c_void_p, _Callback, c_uint32),
    "nbd_aio_block_status": (c_void_p, c_uint64, c_uint64, _Callback, _Callback, c_uint32),
}
_ExtentCallback = ctypes.CFUNCTYPE(
    c_int, c_void_p, c_char_p, c_uint64, POINTER(c_uint32), c_size_t, POINTER(c_int)
)
_NOTHING: Final = _Callback(None, None, None)


class Described(NamedTuple):
    """What a server says of a range: flags, whose meaning is the context's."""

    extent: Extent
    flags: int


def require_libnbd() -> None:
    """See that libnbd is there. Raises `VolumeError`."""
    _library()


class Connection:
    """A connection to one export. For one thread at a time.

    Methods raise `OSError`, or `TimeoutError`, which is one: after that, and after any error of the
    connection itself, everything fails.
    """

    def __init__(
        self, socket: str, export: str, contexts: Sequence[str] = (), *, patience: float = PATIENCE
    ) -> None:
        """Connect; `contexts` is what `status` can be asked for. `patience` is for each request.

        Raises also `VolumeError` where there is no libnbd.
        """
        self._library = _library()
        self._patience = patience
        self._handle: int | None = self._library.nbd_create()
        if self._handle is None:
            raise self._error()
        try:
            self._connect(socket, export, contexts)
            self.size: int = self._checked(self._library.nbd_get_size(self._handle))
            smallest = self._library.nbd_get_block_size(self._handle, _SIZE_MINIMUM)
            self.alignment: int = max(1, self._checked(smallest))
        except BaseException:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, whose memory is writable, from `offset`."""
        if buffer:
            memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
            self._do("nbd_aio_pread", memory, len(buffer), offset, _NOTHING, 0)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer` at `offset`."""
        if buffer:
            # The address of read-only memory is not to be had.
            source = bytearray(buffer) if buffer.readonly else buffer
            memory = (ctypes.c_char * len(source)).from_buffer(source)
            self._do("nbd_aio_pwrite", memory, len(source), offset, _NOTHING, 0)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, given back where the server can."""
        if length:
            self._do("nbd_aio_zero", length, offset, _NOTHING, 0)

    def flush(self) -> None:
        """Have the server make all durable that was written over any connection."""
        self._do("nbd_aio_flush", _NOTHING, 0)

    def status(self, context: str, offset: int, length: int) -> list[Described]:
        """Ask about a range that is not empty; the answer covers its beginning, or all of it."""
        found: list[Described] = []
        asked = min(length, _MOST_ASKED)

        def take(_data: int, name: bytes, at: int, entries: Any, count: int, _error: Any) -> int:
            if name.decode() == context:
                for number in range(0, count, 2):
                    here = min(entries[number], offset + asked - at)
                    if here > 0:
                        found.append(Described(Extent(at, here), entries[number + 1]))
                    at += here
            return 0

        function = _ExtentCallback(take)  # kept until the command has ended
        callback = _Callback(ctypes.cast(function, c_void_p), None, None)
        self._do("nbd_aio_block_status", asked, offset, callback, _NOTHING, 0)
        if not found:
            raise OSError(errno.EPROTO, f"the server says nothing of {context}")
        return found

    def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._handle is not None:
            self._library.nbd_close(self._handle)
            self._handle = None

    def _connect(self, socket: str, export: str, contexts: Sequence[str]) -> None:
        library, handle = self._library, self._handle
        self._checked(library.nbd_set_export_name(handle, export.encode()))
        for context in contexts:
            self._checked(library.nbd_add_meta_context(handle, context.encode()))
        deadline = time.monotonic() + HELLO
        self._checked(library.nbd_aio_connect_unix(handle, os.fsencode(socket)))
        while library.nbd_aio_is_connecting(handle):
            self._wait(deadline)
        if not library.nbd_aio_is_ready(handle):
            raise self._error()
        for context in contexts:
            if not self._checked(library.nbd_can_meta_context(handle, context.encode())):
                raise OSError(errno.EPROTO, f"the server has no {context}")

    def _do(self, command: str, *arguments: Any) -> None:
        """Begin a command and wait for its end; `arguments` keep its memory until then."""
        if self._handle is None:
            raise OSError(errno.ENOTCONN, "the connection was given up")
        deadline = time.monotonic() + self._patience
        library = self._library
        cookie = self._checked(getattr(library, command)(self._handle, *arguments))
        while not self._checked(library.nbd_aio_command_completed(self._handle, cookie)):
            self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise TimeoutError(errno.ETIMEDOUT, "the server did not answer in time")
        self._checked(self._library.nbd_poll(self._handle, max(1, min(1000, int(left * 1000)))))

    def _checked(self, result: int) -> int:
        if result < 0:
            raise self._error()
        return result

    def _error(self) -> OSError:
        """Make an error of what libnbd says of this thread's last call."""
        text = self._library.nbd_get_error() or b"the server ended the connection"
        return OSError(self._library.nbd_get_errno() or errno.EIO, text.decode(errors="replace"))


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise VolumeError(f"libnbd cannot be used: {error}; install libnbd0") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    for name, arguments in _COMMANDS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = c_int64, arguments
    return library
