"""Disks that are not copied: those that both hosts share, and CD-ROMs.

The source says which they are (`sort_disks`). The target takes one only if its own configuration
says that the two hosts share it, or, for a CD-ROM, if it is in a pool that the peer may use.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol.errors import SchemaError
from protocol.messages import GuestOffer, ImageFormat, Problem, SharedOffer
from protocol.schema import build, plain
from storage.contracts import Backing, VolumeIdentity
from storage.descriptor import make_durable
from storage.errors import StorageError
from storage.files.images import is_cdrom, require_standalone
from storage.opening import open_source
from storage.places import Place, around, place_at, places_at
from storage.shared_identity import shared_identity
from xenmoved.choices import CdromChoice
from xenmoved.config.model import Peer
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.host import Host
from xenmoved.migration.volume_notes import synced_from
from xenmoved.migration.whereabouts import Whereabouts
from xenmoved.problems import problem, problems_of
from xenmoved.toolstack.interface import Disk
from xenmoved.toolstack.readable import why_unreadable

IMAGES: Final = frozenset(ImageFormat) - {ImageFormat.RAW}
"""Formats of disks that are files with a structure of their own, which move as they are."""

_CDROM_HINT: Final = (
    "say --cdrom eject to have its drive empty there, --cdrom require if {peer} has it too, or "
    "eject it first"
)


@dataclass(slots=True)
class SortedDisks:
    """The disks of a guest by what becomes of them."""

    copied: list[Disk] = field(default_factory=list)
    shared: list[SharedOffer] = field(default_factory=list)
    ejected: list[Disk] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


async def sort_disks(
    host: Host, disks: Sequence[Disk], peer: Peer | None, peer_name: str, options: TransferOptions
) -> SortedDisks:
    """Tell what becomes of each disk that a guest needs at a peer, None: one not configured."""
    found = SortedDisks()
    choice = options.cdrom or (peer.cdrom if peer is not None else CdromChoice.REFUSE)
    for disk in disks:
        located = await asyncio.to_thread(host.pool_of, disk.path) if disk.path else None
        home, name = (located[0].name, located[1]) if located is not None else (None, None)
        in_pool = peer is not None and home in peer.shared
        shared = in_pool or (peer is not None and peer.shares_path(disk.path))
        if not (disk.cdrom or shared):
            found.copied.append(disk)
        elif disk.cdrom and choice is CdromChoice.EJECT:
            found.ejected.append(disk)
        elif disk.cdrom and not shared and choice is not CdromChoice.REQUIRE:
            text = f"disk {disk.vdev} holds the CD-ROM {disk.path}"
            found.problems.append(problem("cdrom", text, _CDROM_HINT.format(peer=peer_name)))
        else:
            by_pool = in_pool or (disk.cdrom and not shared)
            pool = options.pools.get(home) if home is not None and by_pool else None
            offered = await asyncio.to_thread(
                _describe, disk, name if by_pool else None, home if by_pool else None, pool
            )
            if isinstance(offered, SharedOffer):
                found.shared.append(offered)
            else:
                found.problems += offered
    return found


def _describe(
    disk: Disk, name: str | None, home: str | None, pool: str | None
) -> SharedOffer | tuple[Problem, ...]:
    """Describe a disk that stays where it is, or say why it cannot be."""
    writable = disk.writable and not disk.cdrom
    if disk.format in IMAGES and not disk.cdrom:
        text = f"disk {disk.vdev} is shared, and has the format {disk.format}"
        return (problem("disk", text, "only raw disks can be shared: convert it with qemu-img"),)
    try:
        size = measure(disk.path).size
        # Of what is only alike, and not the same, nothing else can be compared.
        told = None if disk.cdrom else str(shared_identity(disk.path)) or None
        offered = SharedOffer(
            disk.vdev, disk.path, size, writable, disk.cdrom, name, pool, home, told
        )
        return build(SharedOffer, plain(offered))
    except StorageError as error:
        return problems_of(error)
    except SchemaError as error:
        text = f"disk {disk.vdev} is at {disk.path!r}, which cannot be named to another host"
        return (problem("disk", f"{text}: {error}", "attach it by another path"),)


def measure(path: str) -> Backing:
    """Return the size and sectors of a file or device. Raises StorageError."""
    return measure_disk(path, ImageFormat.RAW, exclusive=False)[0]


def measure_disk(path: str, image_format: ImageFormat, *, exclusive: bool) -> tuple[Backing, int]:
    """Return the size and sectors of a file or device, and the size of the disk in it.

    Raises StorageError, also when it is not of that format, or needs other files.
    """
    volume = open_source(path, exclusive=exclusive)
    try:
        size = volume.size
        if image_format is not ImageFormat.RAW:
            size = require_standalone(volume, image_format)
        return volume.backing(), size
    finally:
        volume.close()


async def flush_shared(guest: GuestOffer | None) -> None:
    """Have the other host see all that a guest, which stands still now, wrote to shared disks.

    Raises StorageError.
    """
    for disk in guest.shared if guest is not None else ():
        if disk.writable:
            await asyncio.to_thread(make_durable, disk.path)


def shared_pool(peer: Peer, disk: SharedOffer) -> str | None:
    """Return the pool here of a disk that was named by its pool, None for one by its path."""
    if disk.home is None or disk.name is None:
        return None
    return disk.pool or peer.pools.get(disk.home, disk.home)


def denied(host: Host, peer: Peer, disk: SharedOffer) -> Problem | None:
    """Say why a peer may not have a disk of this host, whether it exists or not."""
    node, pool = host.config.node, shared_pool(peer, disk)
    if pool is not None:
        if pool in host.pools and (pool in peer.shared or (disk.cdrom and peer.may_use(pool))):
            return None
        text = f"{node} does not share a pool {pool} with {peer.name}, for disk {disk.vdev}"
    elif peer.shares_path(disk.path):
        return None
    else:
        text = f"{node} does not share {disk.path} with {peer.name}, for disk {disk.vdev}"
    hint = f"on {node}, see `shared` of peer {peer.name} in the configuration"
    return problem("permission", text, f"{hint}; or --cdrom eject" if disk.cdrom else hint)


async def look_at_shared(
    host: Host,
    peer: Peer,
    disks: Sequence[SharedOffer],
    in_use: Mapping[str, Sequence[str]],
    written: Collection[Place],
) -> tuple[list[Problem], tuple[str, ...]]:
    """Check disks that are not copied and that the peer may use; return their paths here.

    `in_use` has the paths of the disks of each domain here, `written` the places of those that
    some guest of this host writes.
    """
    found: list[Problem] = []
    paths: list[str] = []
    for disk in disks:
        copied = await _is_a_copy(host, peer, disk)
        path, problems = await asyncio.to_thread(_look, host, peer, disk, written, copied=copied)
        paths.append(path)
        found += problems
        users = await asyncio.to_thread(_users, path, in_use)
        if disk.writable and users and not problems:
            text = f"{path} on {host.config.node} is in use: disk of {', '.join(users)}"
            found.append(problem("volume-in-use", text, "two guests must not write to one disk"))
    return found, tuple(paths)


def _users(path: str, in_use: Mapping[str, Sequence[str]]) -> list[str]:
    places = {place_at(path), *around(path)}
    return [domain for domain, used in in_use.items() if places & places_at(filter(None, used))]


async def _is_a_copy(host: Host, peer: Peer, disk: SharedOffer) -> bool:
    """Whether a volume came here in any pool, but for what this very peer sent without a guest."""
    if (pool := shared_pool(peer, disk)) is None or disk.name is None:
        return False
    try:
        info = await asyncio.to_thread(host.pools[pool].find, disk.name)
    except StorageError:
        return True  # it is told of where it is looked at
    if info is None:
        return False
    there = await asyncio.to_thread(Whereabouts(host.pools).look)
    if there.is_twice(info.identity) or there.overlapping(info):
        return True  # or the other one did
    for other in host.pools.values():
        name = await asyncio.to_thread(other.locate, info.path)
        if name is None:
            continue
        holding = await host.journal.holding(other.name, name, info.identity)
        if holding is not None and holding.owner != synced_from(peer.name):
            return True
    return False


def _look(
    host: Host, peer: Peer, disk: SharedOffer, written: Collection[Place], *, copied: bool
) -> tuple[str, list[Problem]]:
    """Look at a disk; one that was `copied` here is that of a guest, or what another peer sent."""
    node, pool = host.config.node, shared_pool(peer, disk)
    what = f"the CD-ROM {disk.path}" if disk.cdrom else f"the shared disk {disk.path}"
    path = disk.path
    try:
        if pool is not None and disk.name is not None:
            path = host.pools[pool].path(disk.name)
            size = info.size if (info := host.pools[pool].find(disk.name)) is not None else None
        else:
            size = measure(path).size if os.path.lexists(path) else None
        a_disk = copied or not {place_at(path), *around(path)}.isdisjoint(written)
        withheld = (
            _withheld(node, peer, pool, path, a_disk=a_disk, cdrom=disk.cdrom)
            if size is not None
            else None
        )
    except StorageError as error:
        return path, list(problems_of(error))
    if size is None:
        hint = "mount or connect it there" + ("; or --cdrom eject" if disk.cdrom else "")
        return path, [problem("shared-missing", f"{node} does not have {what}: no {path}", hint)]
    if withheld is not None:
        return path, [withheld]
    if size != disk.size:
        text = f"{what} is another one on {node}: {path} has {size} bytes there, not {disk.size}"
        return path, [problem("shared-differs", text, "both hosts must see the very same")]
    here, there = shared_identity(path), VolumeIdentity(disk.identity or "")
    # Where nothing tells on both hosts, it is what `shared` of both says. Of CD-ROMs none is asked.
    if not disk.cdrom and (here or there) and here != there:
        known = f"{path} is {here or 'not known'} there, not {there or 'known here'}"
        text = f"{what} is another one on {node}: {known}"
        return path, [problem("shared-differs", text, "both hosts must see the very same")]
    return path, []


def _withheld(
    node: str, peer: Peer, pool: str | None, path: str, *, a_disk: bool, cdrom: bool
) -> Problem | None:
    """Say why a peer may not have a disk that is here, though it may ask for it.

    Of a pool that is not shared it may have CD-ROMs: anything else is a disk, maybe of another
    guest, and nothing is told of that. Nor is one that is known as `a_disk` a CD-ROM, though a file
    system of one is on it. Raises StorageError.
    """
    hint = f"see `shared` of peer {peer.name} on {node}"
    if pool is None and leads_astray(peer, path):
        text = f"{path} on {node} leads to {os.path.realpath(path)}, which is not shared"
        return problem("permission", text, hint)
    if pool is None and cdrom and (why := unreadable_cdrom(path)) is not None:
        return problem("permission", f"{path} on {node} is not for guests of {peer.name}", why)
    if pool is not None and pool not in peer.shared and (a_disk or not _holds_cdrom(path)):
        text = f"{path} on {node} is no image of a CD-ROM, and {peer.name} may have no other"
        return problem("permission", text, f"{hint}; or --cdrom eject")
    return None


def unreadable_cdrom(path: str) -> str | None:
    """Return why a guest may not read the image of a CD-ROM that is in no pool, None if it may.

    A drive is for whoever it is shared with. Blocks.
    """
    real = os.path.realpath(path)
    return None if Path(real).is_block_device() else why_unreadable(real)


def _holds_cdrom(path: str) -> bool:
    volume = open_source(path)
    try:
        return is_cdrom(volume)
    finally:
        volume.close()


def leads_astray(peer: Peer, path: str) -> bool:
    """Whether a link leads out of what is shared. Blocks.

    /dev is full of links, and only root's.
    """
    real = os.path.realpath(path)
    return not (path.startswith("/dev/") or real == path or peer.shares_path(real))
