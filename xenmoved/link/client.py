"""The connection to a peer that this host sends guests to."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Final, cast

import asyncssh

from xenmoved.link.bounds import refuse_requests
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.errors import LinkError, LinkLost, NotAuthorized, PeerUnreachable, WrongHostKey
from xenmoved.link.flow import Flow
from xenmoved.link.identity import fingerprint
from xenmoved.link.lean import drop_ignored
from xenmoved.link.options import CHANNEL_OPTIONS, USERNAME, ssh_options
from xenmoved.link.round_trip import round_trip
from xenmoved.tasks import at_most

OPEN_TIMEOUT: Final = 60.0
"""Seconds that a peer, which may be very busy, may take to open a channel."""


class _PinnedClient(asyncssh.SSHClient):
    """Accepts exactly one host key."""

    def __init__(self, pinned: asyncssh.SSHKey) -> None:
        self._pinned = pinned.public_data
        self.offered: asyncssh.SSHKey | None = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.offered = key
        return key.public_data == self._pinned


class PeerLink:
    """An authenticated connection to one peer. Made by `connect`."""

    def __init__(self, peer: str, connection: asyncssh.SSHClientConnection) -> None:
        self.peer = peer
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
    pinned: asyncssh.SSHKey,
    timeout: float,
    keepalive: float,
) -> PeerLink:
    """Connect to a peer and check its key. Times in seconds.

    Raises PeerUnreachable, WrongHostKey or NotAuthorized.
    """
    client = _PinnedClient(pinned)
    where = f"{peer} ({address} port {port})"
    before = _cancellations()
    try:
        connection = await asyncssh.connect(
            address,
            port,
            username=USERNAME,
            client_factory=lambda: client,
            client_keys=[identity],
            agent_path=None,
            known_hosts=([], [], []),
            server_host_key_algs=["ssh-ed25519"],
            preferred_auth="publickey",
            connect_timeout=timeout,
            login_timeout=timeout,
            **ssh_options(keepalive),
        )
    except asyncssh.HostKeyNotVerifiable:
        raise _wrong_key(where, client.offered, pinned) from None
    except asyncssh.PermissionDenied:
        raise NotAuthorized(
            f"{where} does not know this host's key",
            f"on {peer}, add this host: xenmovectl peer add (key: xenmovectl identity)",
        ) from None
    except (OSError, asyncssh.Error) as error:
        _heed_cancellation(before)
        if client.offered is not None and client.offered.public_data != pinned.public_data:
            raise _wrong_key(where, client.offered, pinned) from None
        reason = _reason(error) or f"no answer within {timeout:g} s"
        raise PeerUnreachable(
            f"cannot connect to {where}: {reason}",
            "check that xenmoved runs there, its address and port, and the firewall between",
        ) from None
    try:
        _heed_cancellation(before)
    except asyncio.CancelledError:
        connection.abort()
        raise
    drop_ignored(connection)
    Flow.watch(connection, lambda: peer)
    refuse_requests(connection)
    return PeerLink(peer, connection)


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
                address, port, config=None, server_host_key_algs=["ssh-ed25519"]
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
