"""How this host is, for monitoring."""

from __future__ import annotations

import asyncio
from typing import Final

import xenmoved
from protocol.errors import ProtocolError
from xenmoved.control.health_api import (
    GetHealth,
    Health,
    PeerHealth,
    TrackerHealth,
)
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.link.errors import LinkError
from xenmoved.migration.doubts import list_doubts
from xenmoved.migration.host import Host
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.problems import JobError, problems_of
from xenmoved.tasks import TookTooLong, at_most

_POOLS_AGE: Final = 30.0
_COPIES_AGE: Final = 300.0
"""Seconds for which what was seen is good enough: many may ask, and to look takes commands."""
_PATIENCE: Final = 10.0
"""Seconds for pools, volumes and peers, which are asked at the same time."""
_AT_ONCE: Final = 128
"""Peers that are asked at the same time."""


@answers(GetHealth)
async def health(services: Services, request: GetHealth) -> Health:
    """Describe everything that monitoring has to know of, good or bad."""
    host = services.host
    doubts, pools, copies, peers = await asyncio.gather(
        list_doubts(host, reach=False),
        services.space.pools(_POOLS_AGE, _PATIENCE),
        services.space.copies(_COPIES_AGE, _PATIENCE),
        _peers(host, reach=request.reach),
    )
    live = host.jobs.live
    return Health(
        node=host.config.node,
        version=xenmoved.__version__,
        jobs=min(len(live), 65535),
        alarms=(*host.certificate_alarms(), *doubts.alarms)[:1000],
        doubts=doubts.doubts,
        trackers=tuple(
            TrackerHealth(job.job, job.guest, job.fallbacks) for job in live if job.fallbacks
        )[:1000],
        pools=pools[:1000],
        copies=copies.copies[:4096],
        unseen=copies.problem,
        peers=peers,
    )


async def _peers(host: Host, *, reach: bool) -> tuple[PeerHealth, ...] | None:
    """Ask every peer, a few at a time, whether it answers and which release it is."""
    if not reach:
        return None
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(name: str) -> PeerHealth:
        async with turns:
            return await _peer(host, name)

    return tuple(await asyncio.gather(*map(ask, [one.name for one in host.roster.all()][:1000])))


async def _peer(host: Host, name: str) -> PeerHealth:
    try:
        limit = at_most(_PATIENCE, f"{name} did not answer")
        async with limit, open_dialogue(host, name, settling=True) as dialogue:
            return PeerHealth(name, dialogue.peer_hello.software, None)
    except (TookTooLong, LinkError, ProtocolError, JobError) as error:
        return PeerHealth(name, "", problems_of(error)[0])
