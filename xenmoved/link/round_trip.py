"""How long it takes to a peer and back, as the kernel has seen it: nothing is sent for it."""

from __future__ import annotations

import socket
import struct
from typing import Final, Protocol

_RTT: Final = struct.Struct("=68xI")
"""`tcpi_rtt` of `struct tcp_info` (linux/tcp.h): the smoothed round trip time in microseconds."""


class _Connection(Protocol):
    """What is asked of a connection of asyncssh."""

    def get_extra_info(self, name: str) -> object:
        """Return what is known of the transport by a name, None for nothing."""


def round_trip(connection: _Connection) -> float | None:
    """Return the seconds to the other side of a connection and back, None when nothing tells."""
    transport: socket.socket | None = connection.get_extra_info("socket")  # type: ignore[assignment]
    if transport is None:
        return None
    try:
        told = transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    except OSError:  # it has just ended
        return None
    (microseconds,) = _RTT.unpack(told) if len(told) == _RTT.size else (0,)
    return microseconds / 1e6 if microseconds else None
