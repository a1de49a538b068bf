"""Ends of a volume channel that are fed with bytes, however these are cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protocol import blocksync, streams
from protocol.frames import Bytes, FrameDecoder


class _Fed:
    """An end with the decoder that gives it frames."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decoder = FrameDecoder(self.kinds)  # type: ignore[attr-defined]

    def receive(self, data: Bytes) -> Iterator[Any]:
        """Yield what the end makes of the frames that `data` completes."""
        self.decoder.feed(data)
        while (frame := self.decoder.next_frame()) is not None:
            yield self.take(frame)  # type: ignore[attr-defined]


class VolumeSender(_Fed, blocksync.VolumeSender):
    pass


class VolumeReceiver(_Fed, blocksync.VolumeReceiver):
    pass


class StreamSender(_Fed, streams.StreamSender):
    pass


class StreamReceiver(_Fed, streams.StreamReceiver):
    pass
