"""The frames of a channel, read by one reader for as long as the channel lives."""

from __future__ import annotations

from typing import Final

from protocol.codec import MessageSet
from protocol.frames import Frame, FrameDecoder, Kind
from protocol.messages import PEER
from xenmoved.link.channel import Channel

_MESSAGE: Final = frozenset({Kind.MESSAGE})


class Framed:
    """A channel whose frames are taken one by one; pass it on, and the next reader goes on.

    Each reader says what kinds of frames it takes. Nothing is parsed of a frame before somebody
    asks for it, so that who takes other kinds can go on after any frame. `messages` are those of
    the version that both sides speak on it.
    """

    def __init__(self, channel: Channel, messages: MessageSet = PEER) -> None:
        self.channel = channel
        self.messages = messages
        self._decoder = FrameDecoder(_MESSAGE)

    @property
    def pending(self) -> bool:
        """Whether bytes have come that belong to no frame that was taken."""
        return self._decoder.pending

    def frame_at_hand(self, kinds: frozenset[Kind]) -> Frame | None:
        """Return the next frame if all of it has come and was received. Raises ProtocolError."""
        self._decoder.allowed = kinds
        return self._decoder.next_frame()

    async def frame(self, kinds: frozenset[Kind]) -> Frame | None:
        """Return the next frame, None at the end of the channel, which may come within a frame.

        Raises ProtocolError or LinkLost.
        """
        while (frame := self.frame_at_hand(kinds)) is None:
            untrusted_data = await self.channel.receive()
            if not untrusted_data:
                return None
            self._decoder.feed(untrusted_data)
        return frame

    async def message(self) -> object | None:
        """Return the next frame as a message, likewise."""
        frame = await self.frame(_MESSAGE)
        return self.messages.decode(frame.untrusted_body) if frame is not None else None
