"""What hooks are told of the interfaces of a guest that is on this host."""

from __future__ import annotations

import logging

from protocol.messages import Mode
from storage.errors import StorageError
from xenmoved.hooks.about import MOST, HookInput, HookInterface, interface
from xenmoved.toolstack.interface import Domain, Toolstack, ToolstackError, named

log = logging.getLogger(__name__)


def interfaces_of(domain: Domain) -> tuple[HookInterface, ...]:
    """Return what is told of the interfaces of a guest of this host."""
    return tuple(interface(nic, nic.bridge) for nic in domain.nics[:MOST])


async def interfaces_here(
    toolstack: Toolstack, about: HookInput
) -> tuple[HookInterface, ...] | None:
    """Return the interfaces that a guest which has come has now, None where that is not known.

    It may have gone on, or have ended, meanwhile.
    """
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
    return interfaces_of(domain)
