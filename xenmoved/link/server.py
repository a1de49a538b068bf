"""The listener for peers that send guests here."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import asyncssh
from asyncssh.channel import SSHServerChannel

from protocol.codec import MessageSet
from protocol.messages import PEER
from xenmoved.link.bounds import refuse_requests
from xenmoved.link.channel import WINDOW, Channel, Purpose
from xenmoved.link.flow import Flow
from xenmoved.link.lean import drop_ignored
from xenmoved.link.options import CHANNEL_OPTIONS, USERNAME, ssh_options
from xenmoved.link.round_trip import round_trip

log = logging.getLogger(__name__)

LOGIN_TIMEOUT: Final = 10.0
"""Seconds that a connection may take to prove its key."""
MAX_UNPROVEN: Final = 16
"""Connections that have not proven a key yet. For a further one, the oldest of the address that has
most of them is dropped, so that a flood from one address does not keep out another."""
MAX_CONNECTIONS: Final = 8
"""Connections of one peer. It needs one, and more only until old ones are known to be dead: for a
further one, its oldest is dropped."""
MAX_CHANNELS: Final = 256
"""Open channels of one peer."""
_WINDOWS: Final = 64 * 1024 * 1024
"""Bytes of the windows of one peer's channels together, if the least windows are left out."""
_LEAST_WINDOW: Final = 64 * 1024

_QUIET: Final = 10.0


@dataclass(slots=True, eq=False)
class Visitor:
    """An authenticated connection from a peer."""

    peer: str
    connection: asyncssh.SSHServerConnection
    channels: set[Channel] = field(default_factory=set)
    gone: bool = False
    """Whether the connection has ended."""
    messages: MessageSet = PEER
    """Those of the version that was agreed on when it greeted last: one release has all of it."""

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back, as far as the kernel knows."""
        return round_trip(self.connection)


Serve = Callable[[Visitor, Purpose, Channel], None]


class LinkServer:
    """Accepts connections of known peers, and hands their channels to the `serve` of `start`.

    `peer_of_key` maps the public data of pinned keys to peer names, and is asked anew for every
    connection, so that peers may be added while the server runs.
    """

    def __init__(
        self,
        identity: asyncssh.SSHKey,
        peer_of_key: Callable[[], Mapping[bytes, str]],
        keepalive: float,
    ) -> None:
        self._identity = identity
        self._peer_of_key = peer_of_key
        self._keepalive = keepalive
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._serve: Serve | None = None
        self.visitors: list[Visitor] = []  # the oldest first
        self._quiet_until = 0.0
        self._unproven: dict[asyncssh.SSHServerConnection, str] = {}  # addresses, oldest first

    async def start(self, address: str | None, port: int, serve: Serve) -> int:
        """Listen; returns the port (for port 0). None is every address. Raises OSError."""
        self._serve = serve
        self._acceptor = await asyncssh.create_server(
            lambda: _Gatekeeper(self),
            address or "",
            port,
            server_host_keys=[self._identity],
            login_timeout=LOGIN_TIMEOUT,
            allow_pty=False,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            server_version="xenmoved",
            **ssh_options(self._keepalive),
        )
        return self._acceptor.get_port()

    @property
    def unproven(self) -> int:
        """Number of connections that have not proven a key yet."""
        return len(self._unproven)

    def greet(self, connection: asyncssh.SSHServerConnection) -> None:
        """Count a new connection as unproven, and make room for it."""
        self._unproven[connection] = _address(connection)
        if len(self._unproven) <= MAX_UNPROVEN:
            return
        crowd = Counter(self._unproven.values()).most_common(1)[0][0]
        oldest = next(one for one, address in self._unproven.items() if address == crowd)
        now = monotonic()
        if now >= self._quiet_until:  # whoever floods us shall not fill the log as well
            self._quiet_until = now + _QUIET
            log.warning("too many connections without a key: some from %s are dropped", crowd)
        del self._unproven[oldest]
        oldest.abort()

    def proven(self, connection: asyncssh.SSHServerConnection) -> None:
        """Count a connection as unproven no more: it has proven its key, or is gone."""
        self._unproven.pop(connection, None)

    def drop(self, peer: str) -> None:
        """End the connections of a peer, as when it was removed."""
        for visitor in self._of(peer):
            visitor.connection.abort()

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        connections = [visitor.connection for visitor in self.visitors]
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(c.wait_closed() for c in connections), return_exceptions=True)

    def peer_of(self, key: asyncssh.SSHKey) -> str | None:
        """Return the name of the peer with this key."""
        return self._peer_of_key().get(key.public_data)

    def admit(self, visitor: Visitor) -> None:
        """Take in a peer that has proven its key."""
        others = self._of(visitor.peer)
        if len(others) >= MAX_CONNECTIONS:
            log.warning("%s has %d connections: its oldest is dropped", visitor.peer, len(others))
            others[0].connection.abort()
        self.visitors.append(visitor)

    def _of(self, peer: str) -> list[Visitor]:
        return [visitor for visitor in self.visitors if visitor.peer == peer]

    def session(self, visitor: Visitor) -> tuple[SSHServerChannel[bytes], Channel] | None:
        """Return a new channel of the visitor, None when its peer has too many.

        What a peer may have us keep for it is bounded: the more channels it has open, the smaller
        are the windows of further ones. The first nine have the whole `WINDOW`.
        """
        windows = [channel.window for one in self._of(visitor.peer) for channel in one.channels]
        if len(windows) >= MAX_CHANNELS:
            log.warning("%s has %d channels open: one more refused", visitor.peer, MAX_CHANNELS)
            return None
        window = min(WINDOW, max(_LEAST_WINDOW, (_WINDOWS - sum(windows)) // 8))

        def accept(purpose: Purpose, channel: Channel) -> bool:
            assert self._serve is not None, "there are no visitors before the start"
            self._serve(visitor, purpose, channel)
            return True

        channel = Channel(visitor.peer, accept, visitor.channels.discard, window)
        visitor.channels.add(channel)
        options = {**CHANNEL_OPTIONS, "window": window}
        return visitor.connection.create_server_channel(**options), channel


class _Gatekeeper(asyncssh.SSHServer):
    """Authentication of one connection, then its sessions. Everything else is refused."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None
        self._peer: str | None = None
        self._visitor: Visitor | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        drop_ignored(conn)
        Flow.watch(conn, lambda: self._visitor.peer if self._visitor else _address(conn))
        refuse_requests(conn)
        self._server.greet(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.proven(self._connection)
        if self._visitor is None:
            return
        self._visitor.gone = True
        self._server.visitors.remove(self._visitor)
        log.info("connection from %s ended%s", self._visitor.peer, f": {exc}" if exc else "")

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        # Asked once for a mere offer and again with the signature; the last asked is the one that
        # was proven when auth_completed comes.
        self._peer = self._server.peer_of(key) if username == USERNAME else None
        return self._peer is not None

    def auth_completed(self) -> None:
        if self._connection is None or self._peer is None:
            raise asyncssh.PermissionDenied("no peer has this key")
        self._server.proven(self._connection)
        self._visitor = Visitor(self._peer, self._connection)
        self._server.admit(self._visitor)
        log.info("connection from %s (%s)", self._peer, _address(self._connection))

    def session_requested(self) -> tuple[SSHServerChannel[bytes], Channel] | bool:
        if self._visitor is None:
            return False
        return self._server.session(self._visitor) or False


def _address(connection: asyncssh.SSHServerConnection) -> str:
    name = connection.get_extra_info("peername")
    return str(name[0]) if name else "an unknown address"
