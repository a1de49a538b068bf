"""Whether a guest that comes can be started at boot beside all others of this host."""

from __future__ import annotations

from typing import Final, NamedTuple

from protocol.messages import GuestOffer, Remark
from xenmoved.migration.host import Host
from xenmoved.remarks import to_look_at
from xenmoved.toolstack.interface import DomainStatus, HostInfo, ToolstackError
from xenmoved.units import format_size

NOT_AT_BOOT = "not-at-boot"


class AtBoot(NamedTuple):
    """How many bytes a guest takes when this host starts it at boot, 0 if that is not done."""

    memory: int = 0
    why_not: str = ""
    """Why it is not started, although it is at the source."""


NO_START: Final = AtBoot()
"""Of a guest that is not started at boot where it comes from either."""


async def weigh_at_boot(
    host: Host, guest: GuestOffer, info: HostInfo, here: list[DomainStatus], *, returns: bool
) -> AtBoot:
    """Find out whether a guest can be started at boot here.

    Those that come first take the memory, and the operator's own come first; but who else is there
    would find none if anything is started beside them that was never weighed. What its operator had
    started here before it left, and now `returns`, is as it was.
    """
    if not guest.autostart or (text := guest.config_text) is None:
        return NO_START
    try:
        needed = (await host.toolstack.configs.describe_text(guest.name, text)).memory
    except ToolstackError:  # it waits for its operator, and starts nothing
        return NO_START
    if returns or not needed:
        return AtBoot(needed)
    name = guest.target_name
    started = await host.toolstack.configs.at_boot()
    taken = sum(memory for other, memory in started.items() if other != name)
    taken += host.promises.at_boot(name)
    room = info.free_memory + sum(domain.memory for domain in here)
    if taken + needed <= room:
        return AtBoot(needed)
    return AtBoot(
        why_not=f"{name} is not started at boot on {host.config.node}: it takes "
        f"{format_size(needed)}, what is started there takes {format_size(taken)} of "
        f"{format_size(room)} for guests"
    )


def not_at_boot(node: str, why: str) -> Remark:
    """Return the remark that a guest is not started at boot."""
    hint = f"on {node}, take others out of auto and link its file there, or start it by hand"
    return to_look_at(NOT_AT_BOOT, why, hint)
