"""How many guests a peer may leave on this host, with disks here and without.

Each takes time at every look at this host: as a domain that runs, whatever is written about it, and
by the configuration file that it leaves, used or waiting for its operator (`.received`). Those that
run may end at any time, all at once, and leave that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
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
MOST_GUESTS: Final = 1024
"""Guests of one peer, on their way or here: more than a host has to evacuate."""


async def too_many(
    host: Host, peer: Peer, offer: Offer, texts: Mapping[str, str], running: Mapping[str, str]
) -> list[Problem]:
    """See that a guest is not one too many of this peer, and not one without a disk of its own.

    `texts` are the configurations here by path, and `running` the uuids of the domains by name, ""
    where one cannot be described. Raises JournalFailed, ToolstackError.
    """
    if (guest := offer.guest) is None:
        return []
    arrived = await host.journal.arrivals_from(peer.name)
    if len(arrived) < MOST_BARE_GUESTS:
        return []
    said = {(uuid_in(text), named(text)) for text in texts.values()}
    uuids = {uuid for uuid, _ in said}
    names = {name for uuid, name in said if not uuid} | await host.toolstack.configs.received()
    # What is in a guest's place is its file, whatever it says.
    names |= {PurePath(file).name.removesuffix(".cfg") for file in texts}
    # One that was renamed has its uuid still; one started from a file without a uuid has its name.
    domains = {uuid for uuid in running.values() if uuid}
    coming = {one.migration for one in await host.journal.unsettled_inbound()}
    left = [
        one
        for one in arrived
        if one.guest != guest.target_name
        and (
            one.migration in coming
            or one.uuid in uuids | domains
            or one.guest in names
            or one.guest in running
        )
    ]
    found = _problem(host, peer, left, MOST_GUESTS, "run or have a configuration file there")
    if found is None and not offer.volumes and not any(disk.writable for disk in guest.shared):
        off = (
            one
            for one in left
            if one.migration in coming or not (one.uuid in domains or one.guest in running)
        )
        bare = [one for one in off if _is_bare(one)]
        found = _problem(host, peer, bare, MOST_BARE_GUESTS, "are off and have no disks there")
    return [found] if found is not None else []


def _problem(
    host: Host, peer: Peer, left: Sequence[Inbound], most: int, state: str
) -> Problem | None:
    if (count := len({one.guest for one in left})) < most:
        return None
    node = host.config.node
    text = (
        f"{node} has {count} guests of {peer.name} that {state}, or are on their way, and takes no "
        "more"
    )
    hint = (
        f"on {node}, shut down those that are not needed and remove their configuration files "
        "(*.received too)"
    )
    return problem("guests-off", text, hint)


def _is_bare(one: Inbound) -> bool:
    expected = Expected.of(one)
    return all(not path or vdev in expected.read_only for vdev, path in expected.disks.items())
