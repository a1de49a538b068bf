"""Whether a guest that comes can be started at boot beside all others of this host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from protocol.messages import GuestOffer, Remark
from xenmoved.migration.host import Host
from xenmoved.migration.target.expected import Expected
from xenmoved.remarks import to_look_at
from xenmoved.toolstack.interface import DomainStatus, HostInfo, ToolstackError
from xenmoved.units import format_size

NOT_AT_BOOT = "not-at-boot"
_MOST_NAMED: Final = 8


class AtBoot(NamedTuple):
    """How many bytes a guest takes when this host starts it at boot, 0 if that is not done."""

    memory: int = 0
    why_not: str = ""
    """Why it is not started, although it is at the source."""
    unweighed: tuple[str, ...] = ()
    """Entries because of which it is not, which no peer is told."""


NO_START: Final = AtBoot()
"""Of a guest that is not started at boot where it comes from either."""


async def weigh_at_boot(
    host: Host, guest: GuestOffer, info: HostInfo, here: list[DomainStatus], *, returns: bool
) -> AtBoot:
    """Find out whether a guest can be started at boot here.

    Those that come first take the memory, and the operator's own come first; but who else is there
    would find none if anything is started beside them that was never weighed. One that `returns`
    to where its operator had it started at boot needs no more than that, if it is no larger.
    """
    if not guest.autostart or (text := guest.config_text) is None:
        return NO_START
    configs, name, node = host.toolstack.configs, guest.target_name, host.config.node
    try:
        needed = await configs.most_with(name, guest.uuid, text)
    except ToolstackError:  # it waits for its operator, and starts nothing
        return NO_START
    if returns and needed and needed <= await configs.left_at_boot(name, guest.uuid):
        return AtBoot(needed)
    started = await configs.at_boot(name, guest.uuid)
    if needed is None or started.unweighed:
        return AtBoot(
            why_not=f"{name} is not started at boot on {node}: there is no telling how much memory "
            "all takes that is started there",
            unweighed=_few(started.unweighed),
        )
    taken = started.memory + host.promises.at_boot(name)
    room = info.free_memory + sum(domain.memory for domain in here)
    if taken + needed <= room:
        return AtBoot(needed)
    return AtBoot(
        why_not=f"{name} is not started at boot on {node}: it takes "
        f"{format_size(needed)}, what is started there takes {format_size(taken)} of "
        f"{format_size(room)} for guests"
    )


def _few(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of the entries as are named, and how many more there are."""
    more = len(entries) - _MOST_NAMED
    return (*entries[:_MOST_NAMED], f"{more} more") if more > 0 else entries


def not_at_boot(node: str, why: str) -> Remark:
    """Return the remark that a guest is not started at boot."""
    hint = f"on {node}, take others out of auto and link its file there, or start it by hand"
    return to_look_at(NOT_AT_BOOT, why, hint)


def as_here(come: Expected, remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Return remarks on a guest that comes as the operator of this host has them.

    They say which entries of `auto` cannot be weighed: how these are called is not for a peer.
    """
    if not come.unweighed:
        return tuple(remarks)
    own = to_look_at(
        NOT_AT_BOOT,
        f"{come.not_at_boot}; no memory can be read for {', '.join(come.unweighed)} in auto",
        "have each lead to a file that can be read and says it as a plain number (memory = 4096), "
        f"or take it out of auto; then link the file of {come.name} there",
    )
    return tuple(own if one.code == NOT_AT_BOOT else one for one in remarks)
