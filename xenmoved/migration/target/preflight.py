"""What stands in the way of taking an offer: the target's preflight. Changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from protocol.errors import Code, ProtocolError
from protocol.messages import (
    Action,
    ImageFormat,
    Offer,
    Placement,
    Problem,
    Remark,
    VolumeOffer,
)
from storage.contracts import Pool, VolumeInfo
from storage.errors import StorageError
from storage.places import place_at, places_at
from storage.qemu.image import CLUSTERS
from xenmoved.codes import NOT_KEPT, RECEIVED
from xenmoved.config.model import Peer
from xenmoved.migration.bridges import bridge_problems, local_bridges
from xenmoved.migration.geometry import misfits
from xenmoved.migration.host import Host
from xenmoved.migration.promises import of_quota, unfilled
from xenmoved.migration.target.at_boot import NO_START, AtBoot, weigh_at_boot
from xenmoved.migration.target.at_home import off_here, on_the_way, running_here
from xenmoved.migration.target.boot_files import boot_problems, foresee
from xenmoved.migration.target.expected import Expected, expect, laid_out
from xenmoved.migration.target.guests_left import too_many
from xenmoved.migration.target.hypervisor import hypervisor_problems, hypervisor_remarks
from xenmoved.migration.target.layouts import Layout, lay_out
from xenmoved.migration.target.memory_limits import size_problems
from xenmoved.migration.target.reuse import NEEDED_HINT, Claim, reuse
from xenmoved.migration.target.scripts import denied_scripts, missing_scripts, wiring_for
from xenmoved.migration.target.space import free_space, quota_used
from xenmoved.migration.uncopied_disks import denied, look_at_shared, shared_pool
from xenmoved.migration.volume_needs import (
    Imagery,
    Needs,
    claims,
    imagery,
    needs,
    with_disks_beneath,
)
from xenmoved.problems import Obstructed, problem, problems_of
from xenmoved.remarks import together
from xenmoved.toolstack.interface import Domain
from xenmoved.toolstack.wiring import CAUTIOUS, Wiring
from xenmoved.units import format_size

_DROP: Final = (
    "drop it there (xenmovectl volumes drop), or call this one otherwise: --volume OLD=NEW"
)


@dataclass(frozen=True, slots=True)
class Assessment:
    """Every problem at once; the rest only without problems.

    `placements` is where each volume would go, `shared` the path here of each disk that is not
    copied, `bridges` the name here of each bridge of the guest, `wiring` what else its interfaces
    may have, and `remarks` what there will be to remark when it has come. One that `returns` went
    from here to the peer that it comes from; `stayed` are the disks that it left here then, also
    where it has another uuid since. `at_boot` says whether it is started at boot.
    """

    problems: tuple[Problem, ...]
    placements: tuple[Placement, ...] = ()
    shared: tuple[str, ...] = ()
    bridges: dict[str, str] = field(default_factory=dict)
    wiring: Wiring = CAUTIOUS
    returns: bool = False
    stayed: frozenset[str] = frozenset()
    at_boot: AtBoot = NO_START
    remarks: tuple[Remark, ...] = ()

    def disks(self, host: Host, offer: Offer) -> dict[str, str]:
        """Return the path here of each disk of the guest, by vdev."""
        assert offer.guest is not None
        placed = {
            volume.vdev: host.pools[placement.pool].path(placement.name)
            for volume, placement in zip(offer.volumes, self.placements, strict=True)
            if volume.vdev is not None
        }
        shared = zip(offer.guest.shared, self.shared, strict=True)
        return placed | {disk.vdev: path for disk, path in shared}

    def expected(self, host: Host, offer: Offer, *, keep_partial: bool) -> Expected:
        """Return what is to be kept of the guest of an offer that is accepted."""
        formats = {
            volume.vdev: placement.format
            for volume, placement in zip(offer.volumes, self.placements, strict=True)
            if volume.vdev is not None
        }
        found = expect(
            offer,
            self.disks(host, offer),
            self.bridges,
            self.wiring,
            formats=formats,
            stayed=self.stayed,
            returns=self.returns,
            keep_partial=keep_partial,
        )
        if not (why_not := self.at_boot.why_not):
            return found
        unweighed = list(self.at_boot.unweighed)
        return replace(found, autostart=False, not_at_boot=why_not, unweighed=unweighed)


async def assess(
    host: Host, peer: Peer, offer: Offer, arriving: Mapping[str, Sequence[str]]
) -> Assessment:
    """Look at everything that an offer needs.

    `arriving` has the guests that are on their way already, with the paths of their disks. Raises
    ProtocolError for an offer that cannot be an honest one.
    """
    _require_honest(offer)
    if denied := _permission(host, peer, offer):
        return Assessment(tuple(denied))  # a peer learns nothing about what it may not use
    problems: list[Problem] = []
    present: list[Problem] = []
    shared: tuple[str, ...] = ()
    bridges: dict[str, str] = {}
    compared: list[Remark] = []
    here = await host.toolstack.describe_all()
    in_use: dict[str, Sequence[str]] = {
        peer.shown(name, f"another guest on its way ({number})"): paths
        for number, (name, paths) in enumerate(arriving.items(), 1)
    }
    in_use |= {
        peer.shown(domain.name, f"another guest (domain {status.domid})"): await asyncio.to_thread(
            with_disks_beneath, domain.disks
        )
        for status, domain in here
        if isinstance(domain, Domain)
    }
    needed = await needs(host, here=here, coming=offer.guest, peer=peer)
    if (guest := offer.guest) is not None:
        if not UUID(guest.uuid).int:
            why = f"{guest.name} has the uuid of domain 0, which is no guest's"
            hint = "give it another (`uuid`) in its configuration, and start it anew"
            problems.append(problem("guest-uuid", why, hint))
        info = await host.toolstack.host()
        bridges = local_bridges(peer, guest)
        uuids = {
            one.name: domain.uuid if isinstance(domain, Domain) else "" for one, domain in here
        }
        present = running_here(host, info, guest, uuids, arriving, peer=peer)
        present += await on_the_way(host, guest)
        problems += present
        problems += await too_many(host, peer, offer, needed.texts, uuids)
        problems += await bridge_problems(host, peer, guest)
        problems += await missing_scripts(host, guest)
        problems += hypervisor_problems(host.config.node, info, peer.name, offer)
        compared = hypervisor_remarks(host.config.node, info, peer.name, offer)
        if (text := guest.config_text) is not None:
            problems += await boot_problems(host, guest.name, text, at_once=offer.by_file)
        stands_against, shared = await look_at_shared(
            host, peer, guest.shared, in_use, needed.written
        )
        problems += stands_against
        free = info.free_memory - host.promises.memory(status for status, _ in here)
        problems += await size_problems(host, peer, max(0, free), offer)
    checker = _VolumeChecks(host, peer, offer, in_use, needed)
    placements = [await checker.place(volume) for volume in laid_out(offer).volumes]
    problems += checker.problems + await checker.space_problems()
    if guest is not None and not present:
        # Beside a domain of that name or uuid its file says no more.
        problems += await off_here(host, offer, needed, placements, shared, peer=peer)
    if problems:
        return Assessment(tuple(problems))
    placed = tuple(place for place in placements if place is not None)
    last = await host.journal.went_to(guest.target_name) if guest is not None else None
    returns = guest is not None and last == (peer.name, guest.uuid)
    at_boot = NO_START
    if guest is not None:
        at_boot = await weigh_at_boot(host, guest, info, [one for one, _ in here], returns=returns)
    found = Assessment(
        *((), placed, shared, bridges, wiring_for(host, peer)),
        returns=returns,
        stayed=frozenset(checker.stayed),
        at_boot=at_boot,
    )
    foreseen = await _foreseen(host, offer, found)
    fatal = (NOT_KEPT, RECEIVED) if offer.restart else (NOT_KEPT,)  # it is started from that
    if lost := [one for one in foreseen if one.code in fatal]:
        return Assessment(tuple(problem(one.code, one.text, one.hint) for one in lost))
    return replace(found, remarks=together(compared, foreseen))


async def _foreseen(host: Host, offer: Offer, found: Assessment) -> tuple[Remark, ...]:
    """Return what there will be to remark on a guest that comes as it is offered."""
    if offer.guest is None:
        return ()
    return await foresee(host, found.expected(host, offer, keep_partial=False))


def _require_honest(offer: Offer) -> None:
    """See that an offer has a guest if it must, and each disk once, as what it can be.

    Raises ProtocolError.
    """
    if (offer.action is Action.MIGRATE) != (offer.guest is not None):
        raise ProtocolError(Code.OUT_OF_RANGE, f"an offer to {offer.action} and its guest")
    vdevs = [volume.vdev for volume in offer.volumes if volume.vdev is not None]
    if (guest := offer.guest) is not None:
        if guest.size.vcpus > guest.size.max_vcpus:
            raise ProtocolError(Code.OUT_OF_RANGE, "more vcpus in use than there are")
        vdevs += [*(disk.vdev for disk in guest.shared), *guest.ejected]
        if any(disk.cdrom and disk.writable for disk in guest.shared):
            raise ProtocolError(Code.OUT_OF_RANGE, "a CD-ROM that can be written")
    if offer.restart and (not offer.by_file or offer.guest is None):
        raise ProtocolError(Code.OUT_OF_RANGE, "what is to be restarted is no guest, or not off")
    if offer.restart and any(one.format is not ImageFormat.RAW for one in offer.volumes):
        raise ProtocolError(Code.OUT_OF_RANGE, "an image of a guest that is to be started anew")
    if any(
        one.format is ImageFormat.RAW and one.disk_size != one.size
        for one in laid_out(offer).volumes
    ):
        raise ProtocolError(Code.OUT_OF_RANGE, "a raw volume that holds a disk of another size")
    if any(volume.cluster not in (0, *CLUSTERS) for volume in offer.volumes):
        raise ProtocolError(Code.OUT_OF_RANGE, "clusters of a size that cannot be")
    if twice := [vdev for vdev, count in Counter(vdevs).items() if count > 1]:
        raise ProtocolError(Code.OUT_OF_RANGE, f"two disks are called {twice[0]}")


def chosen_pool(host: Host, peer: Peer, volume: VolumeOffer) -> str | None:
    """Return the name of the pool for a volume.

    It is the one asked for, or the one that this host has for the volume's pool at the source, or
    one that is called like that one if the peer may use it, or this host's default.
    """
    if volume.pool is not None:
        return volume.pool
    if volume.home is not None and volume.home in peer.pools:
        return peer.pools[volume.home]
    if volume.home is not None and volume.home in host.pools and peer.may_use(volume.home):
        return volume.home
    return host.config.default_pool


def _permission(host: Host, peer: Peer, offer: Offer) -> list[Problem]:
    node = host.config.node
    hint = f"on {node}, see `allow` of peer {peer.name} in the configuration"
    found = []
    if offer.action not in peer.allow.actions:
        found.append(problem("permission", f"{node} does not let {peer.name} {offer.action}", hint))
    elif offer.guest is not None and not peer.may(offer.action, offer.guest.target_name):
        text = f"{node} does not take a guest called {offer.guest.target_name} from {peer.name}"
        found.append(problem("permission", text, hint))
    for pool in dict.fromkeys(chosen_pool(host, peer, volume) for volume in offer.volumes):
        if pool is None:
            text = f"{node} has no default pool for new volumes"
            found.append(problem("pool", text, "name one with --pool, or set default_pool there"))
        elif not peer.may_use(pool) or pool not in host.pools:
            text = f"{node} has no pool {pool} that {peer.name} may use"
            found.append(problem("permission", text, hint))
    if (guest := offer.guest) is None:
        return found
    found += denied_scripts(host, peer, guest)
    return found + [one for disk in guest.shared if (one := denied(host, peer, disk)) is not None]


class _VolumeChecks:
    """The checks of an offer's volumes, with what they add up to."""

    def __init__(
        self,
        host: Host,
        peer: Peer,
        offer: Offer,
        in_use: Mapping[str, Sequence[str]],
        found: Needs,
    ) -> None:
        self._host = host
        self._peer = peer
        self._offer = offer
        self._disks = in_use
        self._needs = found
        self._placements: list[Placement] = []
        self._made = 0
        self._imagery: list[Imagery] | None = None
        self._others: Needs | None = None
        # What is shared is not a place for a copy of something else.
        self._taken = {
            (shared_pool(peer, disk), disk.name)
            for disk in (offer.guest.shared if offer.guest is not None else ())
        }
        self._paths: set[object] = set()
        self.problems: list[Problem] = []
        self.stayed: set[str] = set()
        """Disks of a guest that stayed here when it went from here."""

    async def place(self, volume: VolumeOffer) -> Placement | None:
        """Find where a volume goes, noting what is wrong."""
        placement = await self._place(volume)
        if placement is not None:
            self._placements.append(placement)
            self._made += of_quota(placement.size, volume.disk_size) if placement.fresh else 0
        return placement

    async def _place(self, volume: VolumeOffer) -> Placement | None:
        pool = self._host.pools[chosen_pool(self._host, self._peer, volume) or ""]
        try:
            layout = await lay_out(self._host, self._peer, self._offer, volume, pool)
        except (StorageError, Obstructed) as error:
            self.problems += problems_of(error)
            return None
        name = layout.name
        shown = f"{pool.name}:{name}"
        # Pools may have a folder or a device in common.
        path = await asyncio.to_thread(_place_of, pool, name)
        if (pool.name, name) in self._taken or path in self._paths:
            text = f"two disks of the guest would both become {shown}"
            hint = "call one otherwise there (--volume), put one elsewhere (--pool), or rename it"
            self._note("volume-name", text, hint)
            return None
        self._taken.add((pool.name, name))
        self._paths.add(path)
        self._check_format(volume, pool, layout.format)
        try:
            info = await asyncio.to_thread(pool.find, name)
            prospect = await asyncio.to_thread(pool.prospect, name, layout.size_of(volume))
        except StorageError as error:
            self.problems += problems_of(error)
            return None
        if (there := info or prospect) is None:
            text = f"{self._node} has no volume {shown}, and cannot make one in that pool"
            hint = f"make one of {volume.size} bytes there and list it in the configuration"
            self._note("volume-missing", text, hint)
            return None
        if layout.content is not None:
            there = replace(there, size=layout.content)
        may_be_image = not layout.is_image_of(volume) and await self._check_images(
            volume, shown, there.path
        )
        if info is None or layout.content is not None or not layout.is_image_of(volume):
            self.problems += misfits(
                volume,
                f"{shown} on {self._node}",
                there.size,
                there.sector,
                there.alignment,
                guest=self._offer.guest is not None,
            )
        if info is None:
            self._check_promised(shown, there.path)
            self.problems += claims(await self._needs_of_others(), there, NEEDED_HINT)
            return Placement(pool.name, name, True, True, there.size, layout.format)
        found = await self._reuse(volume, pool, info, layout, may_be_image=may_be_image)
        return replace(found, size=there.size) if found is not None else None

    async def _reuse(
        self,
        volume: VolumeOffer,
        pool: Pool,
        info: VolumeInfo,
        layout: Layout,
        *,
        may_be_image: bool,
    ) -> Placement | None:
        """Note what stands against writing to a volume that is there."""
        name, shown = info.name, f"{info.pool}:{info.name}"
        if pool.name in self._peer.shared or self._peer.shares_path(info.path):
            text = (
                f"{shown} on {self._node} is shared with {self._peer.name}: it may be the very one"
            )
            hint = f"on {self._peer.name}, see `shared` of peer {self._node}; or call it otherwise"
            self._note("volume-shared", text, hint)
        users = await asyncio.to_thread(self._users, pool, info)
        if info.in_use is not None:
            users.append(info.in_use)
        if users:
            text = f"{shown} on {self._node} is in use: {', '.join(users)}"
            self._note("volume-in-use", text, "only a volume that nobody uses can be written")
            return None
        if may_be_image:
            return None
        claim = Claim(self._peer, self._offer, volume, layout.format)
        found = await reuse(self._host, claim, info, self._needs)
        self.problems += found.problems
        new = layout.is_image_of(volume) and layout.content is None and not found.problems
        if new or volume.format is not ImageFormat.RAW:
            text = f"{shown} on {self._node} exists, and a {layout.format} image goes to a new file"
            self._note("volume-exists", text, _DROP)
        if found.stayed and volume.vdev is not None:
            self.stayed.add(volume.vdev)
        return Placement(pool.name, name, False, not found.kept, info.size, layout.format)

    async def _needs_of_others(self) -> Needs:
        """Return who needs what, but for the guest itself: its own file may be here before it."""
        if (guest := self._offer.guest) is None:
            return self._needs
        if self._others is None:
            name, uuid = guest.target_name, guest.uuid
            files = await self._host.toolstack.configs.files(name, uuid)
            mine = {str(file.path) for file in files if file.is_of(name, uuid) is not False}
            self._others = self._needs.without(mine)
        return self._others

    def _check_format(self, volume: VolumeOffer, pool: Pool, here: ImageFormat) -> None:
        """Note it when a volume that is to be an image would be none here."""
        if here is ImageFormat.RAW:
            return
        what = f"{volume.name} is to be an image in the format {here}"
        if not pool.holds_files:
            text = f"{what}, and pool {pool.name} on {self._node} has no files"
            self._note("pool", text, "choose a pool of kind dir with --pool")

    async def _check_images(self, volume: VolumeOffer, shown: str, path: str) -> bool:
        """Note it, and tell, when a configuration here may take what is written for an image.

        Whoever writes an image can have the one who starts its guest open any file: its bytes are
        looked at only when it comes as one, of the format that it is taken for.
        """
        if self._imagery is None:
            self._imagery = await imagery(self._host)
        place = await asyncio.to_thread(place_at, path)
        found = [
            one
            for one in self._imagery
            if one.formats != {volume.format.value} and one.may_open(path, place)
        ]
        for one in found:
            file = self._peer.shown_file(one.file, one.guest)
            text = f"{shown} on {self._node} may be taken for an image: {file} names it"
            self._note("volume-image", f"{text}, and disks that are not raw", _DROP)
        return bool(found)

    async def space_problems(self) -> list[Problem]:
        """Check all volumes together against the space of their pools and the quota."""
        found = []
        for name in dict.fromkeys(place.pool for place in self._placements if place.zeroed):
            pool = self._host.pools[name]
            capacity = await asyncio.to_thread(pool.capacity)
            free = await free_space(self._host, name, capacity) if capacity is not None else None
            needed = await asyncio.to_thread(unfilled, pool, self._placements)
            if free is not None and needed > free:
                text = (
                    f"pool {name} on {self._node} has {format_size(free)} free, "
                    f"{format_size(needed)} are needed"
                )
                hint = "free space there, or choose with --pool; what is on its way there counts"
                found.append(problem("pool-full", text, hint))
        quota = self._peer.allow.quota
        if quota is not None and self._made:
            used = await quota_used(self._host, self._peer.name)
            if used + self._made > quota:
                text = (
                    f"{self._peer.name} may take {format_size(quota)} on {self._node}: it has "
                    f"{format_size(used)}, {format_size(self._made)} more are needed"
                )
                found.append(problem("quota", text, "remove old copies there or raise the quota"))
        return found

    @property
    def _node(self) -> str:
        return self._host.config.node

    def _check_promised(self, shown: str, path: str) -> None:
        """Note it when a volume that is not there yet is about to be made for somebody else."""
        place = place_at(path)
        for other, paths in self._disks.items():
            if place in places_at(filter(None, paths)):
                text = f"{shown} on {self._node} is about to be made for {other}"
                hint = (
                    "wait for the end of that, or call this one otherwise there: --volume OLD=NEW"
                )
                self._note("volume-name", text, hint)

    def _users(self, pool: Pool, info: VolumeInfo) -> list[str]:
        place = place_at(info.path)
        return [
            f"disk of {domain}"
            for domain, paths in self._disks.items()
            if any(
                path and (place_at(path) == place or pool.locate(path) == info.name)
                for path in paths
            )
        ]

    def _note(self, code: str, text: str, hint: str) -> None:
        self.problems.append(problem(code, text, hint))


def _place_of(pool: Pool, name: str) -> object:
    """Return what two names have in common that lead to one place, whether anything is there."""
    try:
        return place_at(pool.path(name))
    except StorageError:  # it is told of later
        return (pool.name, name)
