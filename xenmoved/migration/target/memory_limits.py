"""Whether a guest is small enough to come: what its host may bring, and what is free here."""

from __future__ import annotations

from protocol.messages import GuestOffer, GuestSize, Mode, Offer, Problem
from xenmoved.config.model import Peer
from xenmoved.migration.host import Host
from xenmoved.problems import problem
from xenmoved.toolstack.interface import Announced, ToolstackError
from xenmoved.toolstack.sizes import complete, weight
from xenmoved.units import format_size


async def size_problems(host: Host, peer: Peer, free: int, offer: Offer) -> list[Problem]:
    """Find what is too large about a guest that is offered, now or when it boots from its file."""
    guest = offer.guest
    assert guest is not None
    found = _beyond_limits(host, peer, guest.name, guest.size)
    if offer.mode is Mode.COLD:
        return found
    found += _without_room(host, peer, free, guest.name, weight(guest.kind, guest.size))
    return found or await _file_problems(host, peer, guest)


async def resize_problems(
    host: Host, peer: str, name: str, guest: Announced, migration: str
) -> list[Problem]:
    """Find what is too large about a guest that is no more of the size that was offered.

    What is promised for its own `migration` is free for it.
    """
    known, info = host.peer(peer), await host.toolstack.host()
    free = info.free_memory - host.promises.memory(await host.toolstack.domains(), migration)
    found = _beyond_limits(host, known, name, guest.size)
    return found + _without_room(host, known, max(0, free), name, weight(guest.kind, guest.size))


def most_memory(size: GuestSize) -> int:
    """Bytes that a guest may come to take, but for what Xen keeps beside every one of its size."""
    usual = (16 << 20) + size.maximum // 64 + size.max_vcpus * (2 << 20)
    return max(size.memory, size.maximum) + max(0, size.beside - usual)


def _beyond_limits(
    host: Host, peer: Peer, name: str, size: GuestSize, said: str = ""
) -> list[Problem]:
    """Find what a peer may not bring. `said` is what says so, where it is not the guest itself."""
    node, allow, found, size = host.config.node, peer.allow, [], complete(size)
    raised = f"or raise `allow` of peer {peer.name} on {node}"
    if allow.memory is not None and (most := most_memory(size)) > allow.memory:
        text = (
            f"{name} may be given {format_size(most)} of memory{said}, and {peer.name} may bring "
            f"guests of up to {format_size(allow.memory)} to {node}"
        )
        hint = f"on {peer.name}, have it start with less (maxmem, memory); {raised}"
        found.append(problem("memory-limit", text, hint))
    if allow.vcpus is not None and size.max_vcpus > allow.vcpus:
        text = (
            f"{name} has {size.max_vcpus} vcpus{said}, and {peer.name} may bring guests with up to "
            f"{allow.vcpus} to {node}"
        )
        hint = f"on {peer.name}, have it start with fewer (vcpus, maxvcpus); {raised}"
        found.append(problem("vcpus-limit", text, hint))
    return found


def _without_room(host: Host, peer: Peer, free: int, name: str, needed: int) -> list[Problem]:
    """Find out whether there is memory for what a guest takes at once."""
    if needed <= free:
        return []
    node = host.config.node
    text = f"{name} has {format_size(needed)} of memory now, {node} has {format_size(free)} free"
    smaller = f"{host.toolstack.name} mem-set {name} {free * 9 // 10 >> 20}"
    hint = (
        f"free memory on {node}, where guests on their way count; or, on {peer.name}, have the "
        f"guest give some back: {smaller}"
    )
    return [problem("memory", text, hint)]


async def _file_problems(host: Host, peer: Peer, guest: GuestOffer) -> list[Problem]:
    """Find what a peer may not bring of what a guest would be when it boots from its file.

    A text that cannot be described is not installed, so nothing boots from it.
    """
    if (text := guest.config_text) is None:
        return []
    try:
        configured = await host.toolstack.configs.describe_text(guest.name, text)
    except ToolstackError:
        return []
    said = ", as its configuration file says for its next start"
    return _beyond_limits(host, peer, guest.name, configured.size, said)
