"""Whether `bulk` and the asyncssh that is installed fit together, tried on connections in memory.

`bulk` uses names of asyncssh that may change with any version of it. They are looked at first: an
attribute that is set here and read nowhere would otherwise go unnoticed. Then `bulk` sends to
asyncssh itself and receives from it, as client and as server, through exchanges of keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncssh
from asyncssh import encryption

from xenmoved.link.bulk import Bulk, drop_ignored
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.options import CHANNEL_OPTIONS, ssh_options
from xenmoved.tasks import at_most

_LIMIT: Final = 20.0
_SIZES: Final = (262157, 70_000, 1, 262157, 4096, 262157, 300_000, 10, 262157)
_REKEY_BYTES: Final = 400_000

_CONNECTION: Final[dict[str, type | tuple[type, ...]]] = {
    "_auth_complete": bool,
    "_channels": dict,
    "_compressor": object,
    "_decompressor": object,
    "_inpbuf": bytes,
    "_kex_complete": bool,
    "_max_recv_pktlen": int,
    "_pktlen": int,
    "_recv_blocksize": int,
    "_recv_encryption": object,
    "_recv_macsize": int,
    "_recv_seq": int,
    "_rekey_bytes": int,
    "_rekey_bytes_sent": int,
    "_rekey_seconds": (int, float),
    "_rekey_time": (int, float),
    "_send_encryption": object,
    "_send_seq": int,
    "_transport": object,
}
_CONNECTION_CALLS: Final = (
    "_recv_handler",
    "_recv_packet",
    "_recv_pkthdr",
    "_reset_keepalive_timer",
    "_send",
    "data_received",
    "internal_error",
)
_CHANNEL: Final[dict[str, type | tuple[type, ...]]] = {
    "_encoding": object,
    "_recv_state": str,
    "_recv_window": int,
    "_send_buf": list,
    "_send_chan": int,
    "_send_pktsize": int,
    "_send_state": str,
    "_send_window": int,
}
_CHANNEL_CALLS: Final = ("_accept_data", "_flush_send_buf")


async def choose() -> str | None:
    """Have the connections of this process use `bulk` from now on, if it works.

    Returns None, or why not: then asyncssh does all by itself, which takes longer.
    """
    Bulk.refused = await _problem()
    return Bulk.refused


async def _problem() -> str | None:
    about = f"asyncssh {asyncssh.__version__} is not as expected"
    try:
        async with at_most(_LIMIT, "a connection in memory did not carry its bytes"):
            for side in ("client", "server"):
                await _try(side)
    except Exception as error:  # whatever a library of another shape raises
        return f"{about}: {error!r:.500}"
    return None


async def _try(side: str) -> None:
    """Send both ways, with `bulk` at one end. Raises whatever shows that it does not work."""
    async with _connected() as (client, server, come):
        connection = client if side == "client" else server
        _see("connection", connection, _CONNECTION, _CONNECTION_CALLS)
        first = connection._recv_encryption
        if type(first) is not encryption.GCMEncryption:
            raise TypeError(f"it has another cipher, {type(first).__name__}")
        bulk = Bulk(connection)
        bulk.begin()
        options: dict[str, Any] = CHANNEL_OPTIONS
        _, here = await client.create_session(
            lambda: Channel("trial"), subsystem=Purpose.PROBE, **options
        )
        there = await come.get()
        _see("channel", (here if side == "client" else there)._channel, _CHANNEL, _CHANNEL_CALLS)
        pieces = [os.urandom(size) for size in _SIZES]
        whole = b"".join(pieces)
        await asyncio.gather(
            *(_send(one, pieces) for one in (here, there)),
            *(_receive(one, whole) for one in (here, there)),
        )
        if not bulk.opened or not bulk.sealed:
            raise ValueError(f"nothing went past it ({bulk.opened}, {bulk.sealed})")
        if connection._recv_encryption is first:
            raise ValueError("no keys were exchanged")


def _see(
    what: str, found: Any, attributes: dict[str, type | tuple[type, ...]], calls: tuple[str, ...]
) -> None:
    for name, kind in attributes.items():
        if not isinstance(getattr(found, name), kind):
            raise TypeError(f"its {what} has another {name}")
    for name in calls:
        if not callable(getattr(found, name)):
            raise TypeError(f"its {what} has another {name}")


async def _send(channel: Channel, pieces: list[bytes]) -> None:
    for piece in pieces:
        await channel.send(piece)
    channel.finish()


async def _receive(channel: Channel, expected: bytes) -> None:
    came = bytearray()
    while piece := await channel.receive():
        came += piece
    if came != expected:
        raise ValueError(f"other bytes came than were sent: {len(came)} of {len(expected)}")


class _Server(asyncssh.SSHServer):
    """A server that lets everybody in, and hands over what is opened."""

    def __init__(self, come: asyncio.Queue[Channel]) -> None:
        self._come = come
        self._connection: Any = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        drop_ignored(conn)

    def begin_auth(self, username: str) -> bool:
        return False

    def session_requested(self) -> Any:
        def accept(_: Purpose, channel: Channel) -> bool:
            self._come.put_nowait(channel)
            return True

        channel = Channel("trial", accept)
        return self._connection.create_server_channel(**CHANNEL_OPTIONS), channel


@asynccontextmanager
async def _connected() -> AsyncIterator[tuple[Any, Any, asyncio.Queue[Channel]]]:
    """Yield client and server of a connection, and the channels that come to the server."""
    near, far = socket.socketpair()
    come: asyncio.Queue[Channel] = asyncio.Queue()
    options = {**ssh_options(0), "rekey_bytes": _REKEY_BYTES}
    key = asyncssh.generate_private_key("ssh-ed25519")
    with contextlib.closing(near), contextlib.closing(far):
        server, client = await asyncio.gather(
            asyncssh.run_server(
                far,
                server_factory=lambda: _Server(come),
                server_host_keys=[key],
                line_editor=False,
                gss_host=None,
                **options,
            ),
            asyncssh.connect(
                "trial",
                sock=near,
                known_hosts=None,
                username="trial",
                client_keys=None,
                agent_path=None,
                **options,
            ),
        )
        drop_ignored(client)
        try:
            yield client, server, come
        finally:
            for connection in (client, server):
                connection.abort()
            await asyncio.gather(client.wait_closed(), server.wait_closed())
