"""What a peer may have asyncssh keep for it, beside the bytes that windows count.

Windows count bytes, and a piece of two bytes takes fifty times as much when it is kept by itself:
small ones are joined. Requests that asyncssh would deal with later than they come, or would keep
something of, are refused at once: nobody needs them here.
"""

from __future__ import annotations

from typing import Any, Final, SupportsIndex

_SMALL: Final = 4096
_JOINED: Final = 64 * 1024

_LATER: Final = (
    "tcpip_forward_global",
    "cancel_tcpip_forward_global",
    "streamlocal_forward_at_openssh_dot_com_global",
    "cancel_streamlocal_forward_at_openssh_dot_com_global",
    "hostkeys_00_at_openssh_dot_com_global",
    "hostkeys_prove_00_at_openssh_dot_com_global",
)
"""Requests about a whole connection: of those that wait for a task, any number would wait."""
_KEPT: Final = ("env", "pty_req", "x11_req", "auth_agent_req_at_openssh_dot_com")
"""Requests about a channel, likewise; and each name of a variable would be kept."""


class Pieces(list[tuple[Any, Any]]):
    """Pieces that wait, each with its type as asyncssh has it; small ones become one."""

    def append(self, piece: tuple[Any, Any]) -> None:
        """Add a piece, to the last one if both are small."""
        data, kind = piece
        if self and len(data) < _SMALL:
            last, of = self[-1]
            if of == kind and len(last) + len(data) <= _JOINED:
                if isinstance(last, bytearray):
                    last += data
                    return
                if len(last) < _SMALL:
                    self[-1] = bytearray(last) + data, kind
                    return
        super().append(piece)

    def pop(self, index: SupportsIndex = -1) -> tuple[Any, Any]:
        """Remove a piece and return it, as what will not grow: bytes, or the view that came."""
        data, kind = super().pop(index)
        return bytes(data) if isinstance(data, bytearray) else data, kind


def join_pieces(channel: Any) -> None:
    """Have a channel of asyncssh join small pieces that it cannot send, or deliver, yet."""
    channel._recv_buf = Pieces(channel._recv_buf)
    channel._send_buf = Pieces(channel._send_buf)


def refuse_requests(one: Any) -> None:
    """Have a connection, or a channel, of asyncssh answer at once that it has no such request."""
    for name in (*_LATER, *_KEPT):
        if hasattr(one, handler := f"_process_{name}_request"):
            setattr(one, handler, None)
