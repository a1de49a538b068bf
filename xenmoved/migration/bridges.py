"""The bridges of a guest's interfaces: what they are called here, and whether they are here.

A bridge of the kernel has a name and no more. One of Open vSwitch may have a VLAN and trunks behind
it (`ovs0.100`, `ovs0.100:101:102`), which are no part of its name, where the interface is put on it
by the script `vif-openvswitch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocol.messages import GuestOffer, NicOffer, Problem
from xenmoved.config.model import Peer
from xenmoved.migration.host import Host
from xenmoved.problems import problem
from xenmoved.toolstack.interface import Nic
from xenmoved.toolstack.wiring import ROUTING_SCRIPTS, script_name

_SWITCHED: Final = re.compile(r"([^.:]+)((?:\.\d+)?(?::\d+)*)", re.ASCII)
_OPEN_VSWITCH: Final = "vif-openvswitch"


def _parts(bridge: str) -> tuple[str, str]:
    """Return the name of an Open vSwitch bridge, and the VLAN and trunks behind it."""
    match = _SWITCHED.fullmatch(bridge)
    return (match[1], match[2]) if match else (bridge, "")


def _is_switched(nic: Nic | NicOffer) -> bool:
    return script_name(nic.script or "") == _OPEN_VSWITCH


def names_of(nics: Iterable[Nic]) -> set[str]:
    """Return all names by which the bridges of interfaces may be called elsewhere."""
    named = [nic for nic in nics if nic.bridge is not None]
    whole = {nic.bridge for nic in named if nic.bridge}
    return whole | {_parts(nic.bridge)[0] for nic in named if nic.bridge and _is_switched(nic)}


def local_bridges(peer: Peer, guest: GuestOffer) -> dict[str, str]:
    """Return what each bridge is called here: as was asked for, or as this host has it."""
    return {nic.bridge: _local(peer, guest, nic, nic.bridge) for nic in guest.nics if nic.bridge}


def _local(peer: Peer, guest: GuestOffer, nic: NicOffer, bridge: str) -> str:
    names = {**peer.bridges, **guest.bridges}
    if bridge in names or not _is_switched(nic):
        return names.get(bridge, bridge)
    name, tags = _parts(bridge)
    return names.get(name, name) + tags


async def bridge_problems(host: Host, peer: Peer, guest: GuestOffer) -> list[Problem]:
    """Find the bridges that are not here."""
    node, toolstack = host.config.node, host.toolstack
    bridges, switches = await toolstack.bridges(), await toolstack.switches()
    local = local_bridges(peer, guest)
    missing: dict[str, str] = {}
    for nic in guest.nics:
        if not nic.bridge or script_name(nic.script or "") in ROUTING_SCRIPTS:
            continue
        name = local[nic.bridge]
        base = _parts(name)[0]
        if _is_switched(nic):
            if base not in switches:
                missing[base] = "Open vSwitch bridge"
        elif name not in bridges and (nic.script is not None or base not in switches):
            missing[name] = "bridge"
    known = ", ".join(sorted(bridges)) or "none"
    hint = (
        f"make it, or say --bridge OLD=NEW, or see `bridges` of peer {peer.name} there; bridges of "
        f"{node}: {known}"
    )
    return [
        problem("bridge", f"{node} has no {kind} {name}", hint)
        for name, kind in sorted(missing.items())
    ]
