"""What hooks are told of the interfaces of a guest that is on this host."""

from __future__ import annotations

import logging
from dataclasses import replace

from protocol.messages import Mode
from storage.errors import StorageError
from xenmoved.hooks.about import MOST, HookInput, HookInterface, interface
from xenmoved.migration.host import Host
from xenmoved.migration.target.scripts import wiring_for
from xenmoved.toolstack.interface import Domain, ToolstackError, named
from xenmoved.toolstack.wiring import CAUTIOUS

log = logging.getLogger(__name__)


def interfaces_of(domain: Domain) -> tuple[HookInterface, ...]:
    """Return what is told of the interfaces of a guest of this host."""
    return tuple(interface(nic, nic.bridge) for nic in domain.nics[:MOST])


async def interfaces_here(host: Host, about: HookInput) -> tuple[HookInterface, ...] | None:
    """Return the interfaces that a guest which has come has now, None where that is not known.

    It may have gone on, or have ended, meanwhile. What it has as its address may be anybody's,
    whatever script takes it for a filter or a route: only those are told that this host allows to
    the peer from which it came.
    """
    toolstack = host.toolstack
    try:
        if about.mode is Mode.COLD:
            domain = await toolstack.configs.describe(about.guest)
        else:
            status = named(about.guest, await toolstack.domains())
            domain = await toolstack.describe(status) if status is not None else None
    except (ToolstackError, StorageError, OSError) as error:
        log.info("hooks are told of the interfaces that were announced: %s", error)
        return None
    if domain is None or domain.uuid not in ("", about.uuid):
        return None
    peer = host.roster.get(about.peer)
    wiring = wiring_for(host, peer) if peer is not None else CAUTIOUS
    return tuple(
        replace(one, addresses=tuple(filter(wiring.routes, one.addresses)))
        for one in interfaces_of(domain)
    )
