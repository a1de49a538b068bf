"""Two ends of a connection of asyncssh whose bytes a test carries from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from xenmoved.link import trial
from xenmoved.link.bulk import Bulk
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.flow import Flow
from xenmoved.link.options import CHANNEL_OPTIONS

HEAD = 10
"""Bytes of a packet of channel data before the data: padding length, message, channel, length."""


class Held:
    """A transport that keeps what is written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.written = bytearray()

    def write(self, data: Any) -> None:
        """Keep a copy: who wrote may change it."""
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class End:
    """One end: its connection, the channel on it, and what it was given and has lost."""

    def __init__(self, connection: Any, bulk: Bulk | None) -> None:
        self.connection = connection
        self.bulk = bulk
        self.channel: Channel = None  # type: ignore[assignment]  # opened a moment later
        self.lost: BaseException | None = None
        self._held: Held | None = None
        force_close = connection._force_close

        def note(exc: BaseException | None) -> None:
            self.lost = self.lost or exc
            force_close(exc)

        connection._force_close = note

    @property
    def alive(self) -> bool:
        """Whether the connection goes on."""
        return self.connection._transport is not None

    def hold(self) -> None:
        """Read nothing any more, and keep what is sent."""
        transport = self.connection._transport
        transport.pause_reading()
        self._held = self.connection._transport = Held(transport)

    def take_sent(self) -> bytes:
        """Return what was sent since this was asked for."""
        assert self._held is not None
        sent = bytes(self._held.written)
        self._held.written.clear()
        return sent

    def feed(self, stream: bytes, cuts: Iterable[int] = ()) -> None:
        """Have the end receive bytes, cut at these places."""
        bounds = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
        for begin, end in pairwise(bounds):
            self._feed(stream[begin:end])

    def _feed(self, piece: bytes) -> None:
        while piece and self.alive:
            if self.bulk is None:
                self.connection.data_received(piece)
                return
            buffer = self.bulk.get_buffer(65536)
            count = min(len(buffer), len(piece))
            assert count
            buffer[:count] = piece[:count]
            self.bulk.buffer_updated(count)
            piece = piece[count:]

    def seal(self, plain: bytes) -> bytes:
        """Return a packet with any content as it would send it next, with its key."""
        length = len(plain).to_bytes(4, "big")
        connection = self.connection
        packet, mac = connection._send_encryption.encrypt_packet(
            connection._send_seq, length, plain
        )
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        return packet + mac

    def unread(self) -> bytes:
        """Return what the channel was given and nobody has taken."""
        return b"".join(bytes(piece) for piece, _ in self.channel._unread)


def data_packet(number: int, data: bytes, **changed: int) -> bytes:
    """Return the inside of a packet of channel data, with some of its fields changed."""
    padding = changed.get("padding", 4 + -(HEAD + len(data) + 4) % 16)
    length = changed.get("length", len(data))
    fields = (number).to_bytes(4, "big") + length.to_bytes(4, "big")
    return bytes((padding % 256, changed.get("kind", 94))) + fields + data + bytes(padding)


@asynccontextmanager
async def wired(
    near_bulk: bool, far_bulk: bool, window: int | None = None
) -> AsyncIterator[tuple[End, End]]:
    """Yield client and server with a channel between them, each with `bulk` or without."""
    async with trial._connected() as (client, server, come):
        ends = []
        for connection, with_bulk in ((client, near_bulk), (server, far_bulk)):
            connection._rekey_bytes = 2**40
            Flow.watch(connection, lambda: "the other end")
            bulk = Bulk(connection) if with_bulk else None
            if bulk is not None:
                bulk.begin()
            ends.append(End(connection, bulk))
        near, far = ends
        options: dict[str, Any] = {**CHANNEL_OPTIONS, **({"window": window} if window else {})}
        _, near.channel = await client.create_session(
            lambda: Channel("far", window=options["window"]),
            subsystem=Purpose.PROBE,
            **options,
        )
        far.channel = await asyncio.wait_for(come.get(), 5)
        await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            yield near, far
