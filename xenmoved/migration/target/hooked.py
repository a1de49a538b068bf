"""What the hooks of this host are told of a guest that comes.

All of it is a peer's word until the guest is here: names and paths are validated, bridges and
volumes are this host's, and what is no address is left out.
"""

from __future__ import annotations

from protocol.messages import Mode
from xenmoved.hooks.about import MOST, Direction, HookInput, interface, volumes
from xenmoved.hooks.events import HookEvent
from xenmoved.migration.host import Host
from xenmoved.migration.target.expected import Expected


def about_arrival(host: Host, peer: str, expected: Expected, mode: Mode) -> HookInput:
    """Return what they are told before it comes."""
    arrival = expected.arrival
    nics = arrival.announced.nics if arrival.announced is not None else ()
    bridges = expected.bridges
    return HookInput(
        event=HookEvent.BEFORE_ARRIVAL,
        plan=False,
        host=host.config.node,
        peer=peer,
        direction=Direction.ARRIVAL,
        job=None,
        mode=mode,
        guest=expected.name,
        other_name=expected.source_name,
        uuid=expected.uuid,
        interfaces=tuple(
            interface(nic, bridges.get(nic.bridge, nic.bridge) if nic.bridge else None)
            for nic in nics[:MOST]
        ),
        volumes=volumes(expected.disks.items(), set(expected.disks) - set(expected.shared)),
    )
