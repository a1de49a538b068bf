"""How many guests that are off, and have no disk here, a peer may leave on this host.

Nothing else bounds them: a guest that runs takes memory, a disk takes space in a pool, and a
configuration file takes time at every look at this host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from protocol.messages import Offer, Problem
from xenmoved.config.model import Peer
from xenmoved.journal.records import Inbound
from xenmoved.migration.host import Host
from xenmoved.migration.target.expected import Expected
from xenmoved.problems import problem
from xenmoved.toolstack.configs.text import named, uuid_in

MOST_BARE_GUESTS: Final = 64
"""Guests of one peer without a disk that they may write, on their way or off here."""


async def too_many(
    host: Host, peer: Peer, offer: Offer, texts: Iterable[str], running: Collection[str]
) -> list[Problem]:
    """See that a guest without a disk of its own is not one too many of this peer.

    `texts` are the configurations here, and `running` the names of the domains. Raises
    JournalFailed.
    """
    guest = offer.guest
    if guest is None or offer.volumes or any(disk.writable for disk in guest.shared):
        return []
    bare = [one for one in await host.journal.arrivals_from(peer.name) if _is_bare(one)]
    if len(bare) < MOST_BARE_GUESTS:
        return []
    said = {(uuid_in(text), named(text)) for text in texts}
    uuids, names = {uuid for uuid, _ in said}, {name for uuid, name in said if not uuid}
    off = {one.guest for one in bare if one.uuid in uuids or one.guest in names} - {*running}
    coming = {one.guest for one in await host.journal.unsettled_inbound() if one in bare}
    if len(off | coming) < MOST_BARE_GUESTS:
        return []
    node = host.config.node
    text = (
        f"{node} has {len(off | coming)} guests of {peer.name} that are off and have no disks "
        "there, or are on their way, and takes no more"
    )
    hint = f"on {node}, remove the configuration files of those that are not needed, or start them"
    return [problem("guests-off", text, hint)]


def _is_bare(one: Inbound) -> bool:
    expected = Expected.of(one)
    return all(not path or vdev in expected.read_only for vdev, path in expected.disks.items())
