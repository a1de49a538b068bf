"""One byte stream on a connection, with back-pressure in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import asyncssh
from asyncssh.channel import SSHChannel

from protocol.frames import Bytes
from xenmoved.link.bounds import Pieces, join_pieces, refuse_requests
from xenmoved.link.bulk import Bulk
from xenmoved.link.errors import LinkLost
from xenmoved.link.flow import Flow

PACKET_SIZE: Final = 1024 * 1024
"""Largest SSH packet accepted: a whole bulk frame goes in one, which halves the cost per byte."""
WINDOW: Final = 4 * 1024 * 1024
"""Bytes that the other side may send on a channel before we have taken them."""


class Purpose(StrEnum):
    """What a channel is for: the subsystem that is asked for when it is opened."""

    CONTROL = "xenmoved-control"
    VOLUME = "xenmoved-volume"
    MEMORY = "xenmoved-memory"
    PROBE = "xenmoved-probe"


class Channel(asyncssh.SSHClientSession[bytes], asyncssh.SSHServerSession[bytes]):
    """A byte stream on a connection; the same class serves both ends.

    Pieces that several tasks send stay whole; one task may receive at a time. When the channel ends
    without an orderly end of file, both raise LinkLost. `window` is what it was opened with; no
    more than that waits to be sent, and no more than twice as much to be received.
    """

    def __init__(
        self,
        peer: str,
        accept: Callable[[Purpose, Channel], bool] | None = None,
        on_closed: Callable[[Channel], None] | None = None,
        window: int = WINDOW,
    ) -> None:
        self.peer = peer
        self.window = window
        self.sent_bytes = 0
        self._accept = accept
        self._on_closed = on_closed
        self._channel: SSHChannel[bytes] | None = None
        self._flow = Flow()
        self._bulk: Bulk | None = None
        self._most_at_once = 0
        self._full = False
        self._unread = Pieces()
        self._unread_size = 0
        self._paused = False
        self._resuming = False
        self._ended = False
        self._lost: LinkLost | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._opened = asyncio.Event()

    async def send(self, *pieces: Bytes) -> None:
        """Send pieces as one, waiting while too much is unsent. Raises LinkLost.

        They are not looked at any more when this returns.
        """
        size = sum(map(len, pieces))
        await self._writable.wait()
        while self._has_no_room(size):
            self._opened.clear()
            await self._opened.wait()
            await self._writable.wait()
        if self._lost is not None or self._channel is None:
            raise self._lost or LinkLost(f"the channel to {self.peer} is closed")
        if self._bulk is None or not self._bulk.send(self._channel, pieces, size):
            try:
                self._channel.write(b"".join(pieces))
            except OSError as error:
                raise LinkLost(f"the channel to {self.peer} is closed: {error}") from None
        self.sent_bytes += size

    def _has_no_room(self, size: int) -> bool:
        """Tell whether a packet that goes past asyncssh is to wait for the other side's window.

        Only one that will fit, when the other side has taken what it has: asyncssh opens a window
        again as soon as less than half of it is left. What is larger asyncssh sends in parts.
        """
        channel = self._channel
        return (
            channel is not None
            and self._lost is None
            and self._bulk is not None
            and self._bulk.takes(size)
            and size <= self._most_at_once
            and channel._send_state == "open"
            and (bool(channel._send_buf) or channel._send_window < size)
        )

    async def receive(self) -> Bytes:
        """Return the next piece of the stream, empty at its end. Raises LinkLost.

        A view of memory that is used again when no view of it is left: copy to keep a part.
        """
        while not self._unread:
            if self._ended:
                return b""
            if self._lost is not None:
                raise self._lost
            self._readable.clear()
            await self._readable.wait()
        data: Bytes = self._unread.pop(0)[0]
        self._unread_size -= len(data)
        if self._paused and self._unread_size < self.window // 2:
            self._resume_reading()
        return data

    def finish(self) -> None:
        """Tell the other side that nothing more comes from here."""
        if self._channel is not None and self._lost is None:
            self._channel.write_eof()

    def close(self) -> None:
        """Close the channel, dropping what is unread. Idempotent.

        When something is unsent, the other side does not learn of an end by `finish`.
        """
        if self._channel is not None:
            self._channel.close()

    async def wait_closed(self) -> None:
        """Wait until the channel is closed on both sides."""
        await self._closed.wait()

    # What follows is called by asyncssh.

    def connection_made(self, chan: SSHChannel[bytes]) -> None:
        """Keep the transport of this channel."""
        self._channel = chan
        join_pieces(chan)
        refuse_requests(chan)
        chan.set_write_buffer_limits(high=self.window)
        self._bulk = Bulk.of(chan.get_connection())
        if self._bulk is not None:
            self._most_at_once = chan._send_window // 2
            self._heed_window(chan)
        self._flow = Flow.of(chan.get_connection())
        self._flow.join(self._look)
        self._look()

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept only the purposes that exist, and only on the listening side."""
        if self._accept is None or subsystem not in set(Purpose):
            return False
        return self._accept(Purpose(subsystem), self)

    def data_received(self, data: Bytes, datatype: Any) -> None:
        """Queue what came; stop reading when too much is waiting."""
        self._unread.append((data, None))
        self._unread_size += len(data)
        if not self._resuming:
            self._pause_if_full()
        self._readable.set()

    def eof_received(self) -> bool:
        """Note an orderly end; keep our own direction open."""
        self._ended = True
        self._readable.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits."""
        reason = f": {exc}" if exc is not None else ""
        self._lost = LinkLost(f"lost the channel to {self.peer}{reason}")
        self._flow.leave(self._look)
        self._readable.set()
        self._opened.set()
        self._look()
        self._closed.set()
        if self._on_closed is not None:
            self._on_closed(self)

    def pause_writing(self) -> None:
        """Make `send` wait."""
        self._full = True
        self._look()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._full = False
        self._look()

    def _heed_window(self, chan: Any) -> None:
        """Have `send` look again whenever asyncssh would: the window was opened, or it closes."""
        flush = chan._flush_send_buf

        def flush_and_tell() -> None:
            flush()
            self._opened.set()

        chan._flush_send_buf = flush_and_tell

    def _look(self) -> None:
        """Let `send` wait while there is too much unsent, here or on the whole connection."""
        if self._lost is None and (self._full or self._flow.full):
            self._writable.clear()
        else:
            self._writable.set()

    def _pause_if_full(self) -> None:
        if not self._paused and self._unread_size >= self.window and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()

    def _resume_reading(self) -> None:
        # asyncssh opens the whole window again with the first piece that it delivers, though more
        # may lie in its buffer. Pausing before that buffer is empty would thus let it grow by a
        # window each time; so take all of it, at most a window, and only then look again.
        self._paused, self._resuming = False, True
        if self._channel is not None:
            self._channel.resume_reading()
        self._resuming = False
        self._pause_if_full()
