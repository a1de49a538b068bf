"""Whether a guest that comes can be started at boot beside all others of this host."""

from __future__ import annotations

from protocol.messages import GuestOffer, Remark
from xenmoved.migration.host import Host
from xenmoved.remarks import to_look_at
from xenmoved.toolstack.interface import DomainStatus, HostInfo, ToolstackError
from xenmoved.units import format_size

NOT_AT_BOOT = "not-at-boot"


async def memory_at_boot(host: Host, guest: GuestOffer) -> int:
    """Return how many bytes a guest takes that is to be started at boot, 0 if it is not to be."""
    if not guest.autostart or (text := guest.config_text) is None:
        return 0
    try:
        return (await host.toolstack.configs.describe_text(guest.name, text)).memory
    except ToolstackError:  # it waits for its operator, and starts nothing
        return 0


async def too_much_at_boot(
    host: Host, guest: GuestOffer, info: HostInfo, here: list[DomainStatus]
) -> str:
    """Return why a guest is not started at boot here, "" if it may be.

    Those that come first take the memory, and the operator's own come first; but who else is there
    would find none if anything is started beside them that was never weighed.
    """
    if not (needed := await memory_at_boot(host, guest)):
        return ""
    name = guest.target_name
    started = await host.toolstack.configs.at_boot()
    taken = sum(memory for other, memory in started.items() if other != name)
    taken += host.promises.at_boot(name)
    room = info.free_memory + sum(domain.memory for domain in here)
    if taken + needed <= room:
        return ""
    return (
        f"{name} is not started at boot on {host.config.node}: it takes {format_size(needed)}, "
        f"what is started there takes {format_size(taken)} of {format_size(room)} for guests"
    )


def not_at_boot(node: str, why: str) -> Remark:
    """Return the remark that a guest is not started at boot."""
    hint = f"on {node}, take others out of auto and link its file there, or start it by hand"
    return to_look_at(NOT_AT_BOOT, why, hint)
