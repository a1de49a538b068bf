"""What the hooks of this host are told of a guest that leaves."""

from __future__ import annotations

from xenmoved.hooks.about import MOST, Direction, HookInput, interface, volumes
from xenmoved.hooks.events import HookEvent
from xenmoved.migration.host import Host
from xenmoved.migration.source.offer import Sending


def about_departure(host: Host, peer: str, sending: Sending) -> HookInput:
    """Return what they are told before it leaves."""
    guest, facts = sending.offer.guest, sending.facts
    assert guest is not None
    assert facts is not None
    copied = [volume.vdev for volume in sending.offer.volumes if volume.vdev is not None]
    paths = [(vdev, disk.disk.path) for vdev, disk in facts.disks.items()]
    return HookInput(
        event=HookEvent.BEFORE_DEPARTURE,
        plan=False,
        host=host.config.node,
        peer=peer,
        direction=Direction.DEPARTURE,
        job=None,
        mode=sending.offer.mode,
        guest=guest.name,
        other_name=guest.target_name if guest.wish is not None else "",
        uuid=guest.uuid,
        interfaces=tuple(interface(nic, nic.bridge) for nic in facts.nics[:MOST]),
        volumes=volumes(paths, copied),
    )
