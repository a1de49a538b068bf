"""Whether the guest that comes is the one that was announced. Pure.

What this host has weighed is what a peer announced: how large the guest is, which interfaces and
disks it has. What comes is read from libxl's JSON, from xend's S-expression or from the text of a
configuration file, each by the reader that describes this host's own guests, and compared here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from protocol.messages import GuestSize
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.interface import Announced, Arrival, Disk, Domain, Nic, NotAnnounced
from xenmoved.toolstack.sizes import complete
from xenmoved.units import format_size

_MEMORY: Final = {
    "memory": "of memory",
    "maximum": "as the most memory that it may be given",
    "beside": "for Xen to keep beside its memory",
}
_COUNTS: Final = {"vcpus": "vcpus in use", "max_vcpus": "vcpus"}


def require_announced(found: Domain, arrival: Arrival) -> None:
    """Raise NotAnnounced, with all that differs, unless a guest is the announced one."""
    if told := list(_differences(found, arrival)):
        text = f"{arrival.announced_name} is not what was announced: {'; '.join(told[:20])}."
        raise NotAnnounced(text)


def announced_format(vdev: str, arrival: Arrival) -> str:
    """Return the format of a disk in what comes from the peer."""
    source = arrival.sources.get(vdev)
    return (source.format if source is not None else "") or arrival.formats.get(vdev, "raw")


def _differences(found: Domain, arrival: Arrival) -> Iterator[str]:
    if found.name != arrival.announced_name:
        yield f"its name is {found.name[:200]!r}"
    # A configuration file need not say it.
    if found.uuid and found.uuid != normal_uuid(arrival.uuid):
        yield f"its uuid is {found.uuid}, and {arrival.uuid or 'none'} was announced"
    if arrival.announced is not None:
        if found.kind != arrival.announced.kind:
            yield f"it is of type {found.kind}, and {arrival.announced.kind} was announced"
        yield from _larger(found.size, arrival.announced.size)
        yield from _interfaces(found.nics, arrival.announced)
    for disk in found.disks:
        yield from _disk(disk, arrival)
    for vdev in sorted(arrival.disks.keys() - {disk.vdev for disk in found.disks}):
        yield f"disk {vdev!r} was announced, and is not there"


def _larger(found: GuestSize, announced: GuestSize) -> Iterator[str]:
    """Tell in what a guest is larger: it may be smaller, as what it gave back is free."""
    announced = complete(announced)
    for field, meaning in (_MEMORY | _COUNTS).items():
        has, said = getattr(found, field), getattr(announced, field)
        if has > said:
            show = format_size if field in _MEMORY else str
            yield f"it has {show(has)} {meaning}, and {show(said)} was announced"


def _interfaces(found: tuple[Nic, ...], announced: Announced) -> Iterator[str]:
    came, said = Counter(map(_shown, found)), Counter(map(_shown, announced.nics))
    for nic in sorted((came - said).elements()):
        yield f"interface {nic} was not announced"
    for nic in sorted((said - came).elements()):
        yield f"interface {nic} was announced, and is not there"


def _shown(nic: Nic) -> str:
    bridge = repr(nic.bridge[:40]) if nic.bridge else "no bridge"
    return f"{(nic.mac or 'without an address')[:40].lower()} on {bridge}"


def _disk(disk: Disk, arrival: Arrival) -> Iterator[str]:
    if (source := arrival.sources.get(disk.vdev)) is None:
        return
    what = f"disk {disk.vdev[:40]!r}"
    if disk.path != source.path:
        yield f"{what} is at {disk.path[:200]!r}, and was announced at {source.path[:200]!r}"
    if disk.cdrom != source.cdrom:
        yield f"{what} {_is(disk.cdrom)} a CD-ROM, and was announced otherwise"
    if (disk.writable and not disk.cdrom) != source.writable:
        yield f"{what} {_is(disk.writable)} writable, and was announced otherwise"


def _is(fact: bool) -> str:
    return "is" if fact else "is not"
