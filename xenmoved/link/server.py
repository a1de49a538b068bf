"""The listener for peers that send guests here."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import asyncssh
from asyncssh.channel import SSHServerChannel

from protocol.codec import MessageSet
from protocol.messages import PEER
from xenmoved.link.bounds import refuse_requests
from xenmoved.link.bulk import Bulk, drop_ignored
from xenmoved.link.channel import WINDOW, Channel, Purpose
from xenmoved.link.flow import Flow
from xenmoved.link.identity import public_text
from xenmoved.link.options import CHANNEL_OPTIONS, SETTLING, USERNAME, ssh_options
from xenmoved.link.round_trip import round_trip
from xenmoved.link.vouching import Trust, key_pair, take_login_certificate
from xenmoved.trust.certificate import Certificate
from xenmoved.trust.refusals import Refusal

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
_LONGEST_REASON: Final = 300


@dataclass(slots=True, eq=False)
class Visitor:
    """An authenticated connection from a peer.

    One that is `settling` has proven no more than the key with which migrations began, and may only
    ask for their fate.
    """

    peer: str
    connection: asyncssh.SSHServerConnection
    key: str = ""
    """The public key that it has proven."""
    certificate: Certificate | None = None
    """What vouched for the key, None where it is pinned."""
    settling: bool = False
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

    `trust` is asked anew for every connection, so that peers may be added while the server runs.
    """

    def __init__(self, identity: asyncssh.SSHKey, trust: Trust, keepalive: float) -> None:
        self._identity = identity
        self._certificate: Certificate | None = None
        self.trust = trust
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
            server_host_keys=self._host_keys(),
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

    def show(self, certificate: Certificate | None) -> None:
        """Prove this host to new connections with a certificate, too, or with none any more."""
        self._certificate = certificate
        if self._acceptor is not None:
            self._acceptor.update(server_host_keys=self._host_keys())

    def _host_keys(self) -> list[object]:
        if self._certificate is None:
            return [self._identity]
        return [key_pair(self._identity, self._certificate)]

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
        for visitor in self.visitors:
            if visitor.peer == peer:
                visitor.connection.abort()

    def drop_revoked(self) -> None:
        """End the connections of which the keys or certificates are not believed any more."""
        for visitor in self.visitors:
            if visitor.settling:
                continue
            proven = visitor.certificate
            if self.trust.revoked(visitor.key) or not (proven is None or self.trust.stands(proven)):
                log.warning("%s is cut off: what it proved is not believed now", visitor.peer)
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

    def admit(self, visitor: Visitor) -> None:
        """Take in a peer that has proven its key."""
        if visitor.certificate is not None:
            self.trust.proven(visitor.certificate)
        others = self._like(visitor)
        if len(others) >= MAX_CONNECTIONS:
            log.warning("%s has %d connections: its oldest is dropped", visitor.peer, len(others))
            others[0].connection.abort()
        self.visitors.append(visitor)

    def _like(self, visitor: Visitor) -> list[Visitor]:
        """Return the connections that count together: whoever only settles pushes out no other."""
        who = visitor.peer, visitor.settling
        return [one for one in self.visitors if (one.peer, one.settling) == who]

    def refused(self, address: str, text: str) -> None:
        """Say why somebody was not taken in; whoever does it often does not fill the log."""
        now = monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            log.warning("a host at %s was not taken in: %s", address, text)

    def session(self, visitor: Visitor) -> tuple[SSHServerChannel[bytes], Channel] | None:
        """Return a new channel of the visitor, None when its peer has too many.

        What a peer may have us keep for it is bounded: the more channels it has open, the smaller
        are the windows of further ones. The first nine have the whole `WINDOW`.
        """
        windows = [channel.window for one in self._like(visitor) for channel in one.channels]
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
        self._address = ""
        self._proof: Visitor | None = None
        """What is proven if the key that was asked about last is."""
        self._visitor: Visitor | None = None
        self._refusal: Refusal | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._address = _address(conn)
        drop_ignored(conn)
        Flow.watch(conn, lambda: self._visitor.peer if self._visitor else self._address)
        refuse_requests(conn)
        take_login_certificate(conn, self._judge)
        self._server.greet(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.proven(self._connection)
        if self._visitor is not None:
            self._visitor.gone = True
            self._server.visitors.remove(self._visitor)
            log.info("connection from %s ended%s", self._visitor.peer, f": {exc}" if exc else "")
        else:
            self._tell_refused(exc)

    def _tell_refused(self, untrusted_exc: Exception | None) -> None:
        if self._refusal is not None:
            what = f"what it proves is not believed: {self._refusal}; {self._refusal.hint}"
            self._server.refused(self._address, what)
        elif isinstance(untrusted_exc, asyncssh.HostKeyNotVerifiable):
            why = "".join(filter(str.isprintable, str(untrusted_exc)))[:_LONGEST_REASON]
            what = f"it does not believe that this host is who it is: {why}"
            self._server.refused(self._address, what)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    # Each is asked once for a mere offer and again with the signature; what was asked last is what
    # was proven when auth_completed comes.

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._proof, connection, known = None, self._connection, public_text(key)
        if connection is None:
            return False
        if username == SETTLING and (peer := self._server.trust.settles(known)) is not None:
            self._proof = Visitor(peer, connection, known, settling=True)
        elif username == USERNAME:
            try:
                if (name := self._server.trust.peer_of_key(known)) is not None:
                    self._proof = Visitor(name, connection, known)
            except Refusal as refusal:
                self._refuse(refusal)
        return self._proof is not None

    def _judge(self, username: str, untrusted_text: str) -> Certificate | None:
        self._proof = None
        if username != USERNAME or self._connection is None:
            return None
        try:
            certificate = self._server.trust.admit(untrusted_text)
        except Refusal as refusal:
            self._refuse(refusal)
            return None
        self._proof = Visitor(certificate.name, self._connection, certificate.key, certificate)
        return certificate

    def _refuse(self, refusal: Refusal) -> None:
        """Tell the other side why, the first time."""
        if self._refusal is None and self._connection is not None:
            self._connection.send_auth_banner(f"{refusal}\n{refusal.hint}\n")
            self._refusal = refusal

    def auth_completed(self) -> None:
        if self._connection is None or self._proof is None:
            raise asyncssh.PermissionDenied("no peer has this key")
        self._server.proven(self._connection)
        Bulk.carry(self._connection)
        self._visitor = self._proof
        self._server.admit(self._visitor)
        only = ", to settle what is in doubt" if self._visitor.settling else ""
        log.info("connection from %s (%s)%s", self._visitor.peer, self._address, only)

    def session_requested(self) -> tuple[SSHServerChannel[bytes], Channel] | bool:
        if self._visitor is None:
            return False
        return self._server.session(self._visitor) or False


def _address(connection: asyncssh.SSHServerConnection) -> str:
    name = connection.get_extra_info("peername")
    return str(name[0]) if name else "an unknown address"
