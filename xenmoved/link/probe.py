"""How much a link carries, tried for a moment."""

from __future__ import annotations

from time import monotonic
from typing import Final

from xenmoved.link.channel import Purpose
from xenmoved.link.client import PeerLink

_PIECE: Final = bytes(256 * 1024)
_MOST: Final = 512 * 2**20


async def measure(link: PeerLink, seconds: float) -> float:
    """Return bytes a second that the link carried, having tried it for about so many seconds.

    Raises LinkError.
    """
    channel = await link.open(Purpose.PROBE)
    try:
        began, sent = monotonic(), 0
        while monotonic() - began < seconds and sent < _MOST:
            await channel.send(_PIECE)
            sent += len(_PIECE)
        channel.finish()
        while await channel.receive():
            pass
        return sent / (monotonic() - began)
    finally:
        channel.close()
