"""Bulk channels, opened for what belongs to a migration."""

from __future__ import annotations

from protocol.messages import PEER, Attach, MigrationId
from xenmoved.link.channel import Channel, Purpose
from xenmoved.link.client import PeerLink


async def open_attached(
    link: PeerLink, purpose: Purpose, migration: MigrationId, volume: int = 0
) -> Channel:
    """Open a volume or memory channel and say at once what it is for. Raises LinkError.

    The target waits only so long for that word, and whatever is done here meanwhile may be slow.
    """
    channel = await link.open(purpose)
    try:
        await channel.send(PEER.encode(Attach(migration, volume)))
    except BaseException:
        channel.close()
        raise
    return channel
