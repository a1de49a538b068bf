"""The connection to a peer that this host sends guests to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import asyncssh

from xenmoved.link.bounds import refuse_requests
from xenmoved.link.bulk import Bulk, drop_ignored
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.errors import (
    LinkError,
    LinkLost,
    NotAuthorized,
    NotTrusted,
    PeerUnreachable,
    WrongHostKey,
)
from xenmoved.link.flow import Flow
from xenmoved.link.identity import fingerprint, public_text
from xenmoved.link.options import (
    CERTIFICATES,
    CHANNEL_OPTIONS,
    KEYS,
    SETTLING,
    USERNAME,
    ssh_options,
)
from xenmoved.link.round_trip import round_trip
from xenmoved.link.vouching import key_pair, take_host_certificate
from xenmoved.tasks import at_most
from xenmoved.trust.certificate import Certificate
from xenmoved.trust.refusals import Refusal

Judge = Callable[[str], Certificate]
"""Returns the certificate of a line if it is believed, and the peer's. Raises Refusal."""

_LONGEST_SAID: Final = 500
OPEN_TIMEOUT: Final = 60.0
"""Seconds that a peer, which may be very busy, may take to open a channel."""


class _Client(asyncssh.SSHClient):
    """Knows what the host said to this one before it took it in."""

    def __init__(self) -> None:
        self.said = ""

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.said = msg


class _PinnedClient(_Client):
    """Accepts exactly one host key."""

    def __init__(self, pinned: asyncssh.SSHKey) -> None:
        super().__init__()
        self.pinned = pinned
        self.offered: asyncssh.SSHKey | None = None

    @property
    def deceived(self) -> bool:
        """Whether the host has shown another key."""
        return self.offered is not None and self.offered.public_data != self.pinned.public_data

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.offered = key
        return not self.deceived


class _VouchedClient(_Client):
    """Accepts a host with a certificate that is believed."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self._judge = judge
        self.certificate: Certificate | None = None
        self.refusal: Refusal | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        take_host_certificate(conn, self._take)

    def _take(self, untrusted_text: str) -> Certificate:
        try:
            self.certificate = self._judge(untrusted_text)
        except Refusal as refusal:
            self.refusal = refusal
            raise
        return self.certificate


class PeerLink:
    """An authenticated connection to one peer. Made by `connect`."""

    def __init__(
        self,
        peer: str,
        connection: asyncssh.SSHClientConnection,
        key: str = "",
        *,
        certificate: Certificate | None = None,
        shown: Certificate | None = None,
    ) -> None:
        self.peer = peer
        self.certificate = certificate
        """What the peer has proven, None where its key is pinned."""
        self.key = key
        """The public key that the peer has proven."""
        self.shown = shown
        """What this host has shown of itself."""
        self._connection = connection

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.is_closed()

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back, as far as the kernel knows."""
        return round_trip(self._connection)

    async def open(self, purpose: Purpose) -> Channel:
        """Open a channel. Raises LinkError when the peer refuses or the connection is gone."""
        options: dict[str, Any] = CHANNEL_OPTIONS
        what = f"{self.peer} opened no {purpose} channel"
        try:
            async with at_most(OPEN_TIMEOUT, what, LinkError):
                _, channel = await self._connection.create_session(
                    lambda: Channel(self.peer), subsystem=purpose.value, **options
                )
        except asyncssh.ChannelOpenError as error:
            await asyncio.sleep(0)  # a connection that ends refuses channels first, then is closed
            if self.closed:
                raise LinkLost(f"lost the connection to {self.peer}: {error.reason}") from None
            raise LinkError(f"{self.peer} refuses a {purpose} channel: {error.reason}") from None
        except (OSError, asyncssh.Error) as error:
            raise LinkLost(f"lost the connection to {self.peer}: {error}") from None
        return cast(Channel, channel)

    async def close(self) -> None:
        """Close the connection with every channel on it. Idempotent."""
        self._connection.close()
        await self._connection.wait_closed()

    def abort(self) -> None:
        """Drop the connection without a word. Idempotent."""
        self._connection.abort()


async def connect(
    peer: str,
    address: str,
    port: int,
    *,
    identity: asyncssh.SSHKey,
    pinned: asyncssh.SSHKey | None = None,
    judge: Judge | None = None,
    timeout: float,
    keepalive: float,
    certificate: Certificate | None = None,
    settling: bool = False,
) -> PeerLink:
    """Connect to a peer and check that it is the one. Times in seconds.

    `pinned` is the key that it must prove; without one, `judge` looks at its certificate. This host
    proves itself by its `certificate`, if it has one, or else by its key; with `settling` by its
    key alone, and may then do no more than settle doubts.

    Raises PeerUnreachable, WrongHostKey, NotTrusted or NotAuthorized.
    """
    client: _Client
    if pinned is not None:
        client = _PinnedClient(pinned)
    else:
        assert judge is not None, "something has to tell who the peer is"
        client = _VouchedClient(judge)
    keys: list[Any] = [identity]
    if certificate is not None and not settling:
        keys = [key_pair(identity, certificate)]
    where = f"{peer} ({address} port {port})"
    before = _cancellations()
    try:
        connection = await asyncssh.connect(
            address,
            port,
            username=SETTLING if settling else USERNAME,
            client_factory=lambda: client,
            client_keys=keys,
            agent_path=None,
            known_hosts=([], [], []),
            server_host_key_algs=list(KEYS if pinned is not None else CERTIFICATES),
            preferred_auth="publickey",
            connect_timeout=timeout,
            login_timeout=timeout,
            **ssh_options(keepalive),
        )
    except (OSError, asyncssh.Error) as error:
        if not isinstance(error, asyncssh.HostKeyNotVerifiable | asyncssh.PermissionDenied):
            _heed_cancellation(before)
        raise _failure(where, client, error, timeout) from None
    try:
        _heed_cancellation(before)
    except asyncio.CancelledError:
        connection.abort()
        raise
    drop_ignored(connection)
    Flow.watch(connection, lambda: peer)
    refuse_requests(connection)
    proven = client.certificate if isinstance(client, _VouchedClient) else None
    key = connection.get_server_host_key()
    known = public_text(key) if key is not None else ""
    Bulk.carry(connection)
    return PeerLink(peer, connection, known, certificate=proven, shown=certificate)


def _failure(
    where: str, client: _Client, error: OSError | asyncssh.Error, timeout: float
) -> LinkError:
    """Return what it means that there is no connection."""
    if isinstance(client, _VouchedClient):
        if client.refusal is not None:
            text = f"the certificate of {where} is not believed: {client.refusal}"
            return NotTrusted(text, client.refusal.hint, client.refusal.flaw.value)
        if isinstance(error, asyncssh.KeyExchangeFailed):
            text = f"{where} shows no certificate, and no key of it is pinned"
            hint = "enrol it: `xenmovectl identity --request` there; or pin its key: peer add"
            return NotTrusted(text, hint, "certificate-missing")
    elif isinstance(client, _PinnedClient) and (
        isinstance(error, asyncssh.HostKeyNotVerifiable) or client.deceived
    ):
        return _wrong_key(where, client.offered, client.pinned)
    if isinstance(error, asyncssh.PermissionDenied):
        return _not_authorized(where, client.said)
    reason = _reason(error) or f"no answer within {timeout:g} s"
    return PeerUnreachable(
        f"cannot connect to {where}: {reason}",
        "check that xenmoved runs there, its address and port, and the firewall between",
    )


def _not_authorized(where: str, untrusted_said: str) -> NotAuthorized:
    """Return why a peer does not let this host in, as far as it says so."""
    lines = ["".join(filter(str.isprintable, one)) for one in untrusted_said.splitlines()]
    said = [line[:_LONGEST_SAID] for line in lines if line][:2]
    peer = where.partition(" ")[0]
    if not said:
        return NotAuthorized(
            f"{where} does not know this host's key",
            f"on {peer}, add this host: xenmovectl peer add (key: xenmovectl identity)",
        )
    text = f"{where} does not believe this host's certificate: {said[0]}"
    return NotAuthorized(text, f"{peer} says: {said[-1]}")


def _reason(error: OSError | asyncssh.Error) -> str:
    """Return why there is no connection, without the numbers of errors."""
    if isinstance(error, OSError) and error.errno:
        if not isinstance(error, socket.gaierror):
            return os.strerror(error.errno)
        return error.strerror or str(error)
    return str(error)


async def fetch_host_key(address: str, port: int, timeout: float) -> asyncssh.SSHKey:
    """Return the key that the host at the address proves, unchecked. Raises PeerUnreachable."""
    where = f"{address} port {port}"
    try:
        async with at_most(timeout, f"cannot get the key of {where}: no answer", PeerUnreachable):
            key = await asyncssh.get_server_host_key(
                address, port, config=None, server_host_key_algs=list(KEYS)
            )
    except (OSError, asyncssh.Error) as error:
        raise PeerUnreachable(f"cannot get the key of {where}: {_reason(error)}") from None
    if key is None:
        raise PeerUnreachable(f"cannot get the key of {where}: it shows none")
    return key


def _cancellations() -> int:
    """How often this task was cancelled; what was dealt with long ago may still count."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _heed_cancellation(before: int) -> None:
    """Raise CancelledError if it came as the attempt ended: `wait_for`, in asyncssh, drops it then.

    Whoever tries again and again to connect could not be ended otherwise.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError


def _wrong_key(
    where: str, offered: asyncssh.SSHKey | None, pinned: asyncssh.SSHKey
) -> WrongHostKey:
    shown = fingerprint(offered) if offered is not None else "none"
    return WrongHostKey(
        f"{where} proves the key {shown}, but {fingerprint(pinned)} is configured",
        "somebody may be in between; if that host was reinstalled, compare the fingerprint that "
        "`xenmovectl identity` shows there and add the peer again with --replace",
    )
