"""What this host would send, and why it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace

from protocol.errors import SchemaError
from protocol.messages import (
    Action,
    GuestOffer,
    HypervisorOffer,
    Mode,
    NicOffer,
    Offer,
    OfferedMode,
    Problem,
    Remark,
    VolumeOffer,
)
from protocol.schema import build, plain
from storage.contracts import Backing
from storage.errors import StorageError
from storage.qemu.additions import GuestQemu
from storage.tracking.choice import TrackingMethod
from xenmoved.guestnames import misnamed_here, misnamed_there
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.bridges import names_of
from xenmoved.migration.host import Host
from xenmoved.migration.source.content import (
    Reader,
    methods_of,
)
from xenmoved.migration.source.finding import find_guest, users_of
from xenmoved.migration.source.inventory import GuestFacts, take
from xenmoved.migration.source.obstacles import moving_disks
from xenmoved.migration.source.renames import idle_wishes
from xenmoved.migration.source.volume_offers import name_here, offer_disk, volume_offer
from xenmoved.migration.uncopied_disks import SortedDisks, measure, sort_disks
from xenmoved.problems import Obstructed, problem, problems_of
from xenmoved.remarks import left_out
from xenmoved.toolstack.backends import OpenByBackends
from xenmoved.toolstack.configs.boot_entries import order_of
from xenmoved.toolstack.interface import (
    Disk,
    Domain,
)
from xenmoved.toolstack.sizes import weight


@dataclass(frozen=True, slots=True)
class Sending:
    """An offer, the local paths of its volumes and what was found there, in the same order.

    `served` is by which QEMU a volume is written alone, None for others, `readers` what reads the
    content of an image, and `methods` how its writes can be tracked; all are empty without a guest.
    `facts` is what the guest had when it was offered, None without one, and `opened` what its
    backends had open, None where nothing tells. `ejected` are the CD-ROMs
    that it does not find on the other host. `warnings` are for the operator.
    """

    offer: Offer
    paths: tuple[str, ...]
    backings: tuple[Backing, ...]
    facts: GuestFacts | None = None
    opened: OpenByBackends | None = None
    ejected: tuple[Disk, ...] = ()
    warnings: tuple[Remark, ...] = ()
    served: tuple[GuestQemu | None, ...] = ()
    readers: tuple[Reader | None, ...] = ()
    methods: tuple[TrackingMethod, ...] = ()

    def reader(self, number: int) -> Reader | None:
        """Return what reads a volume for us, None for one that is read where it lies."""
        return self.readers[number] if self.readers else None

    @property
    def memory(self) -> int:
        """Bytes of memory that the guest takes of the other host at once."""
        guest = self.offer.guest
        if guest is None or not self.offer.starts:
            return 0
        return weight(guest.kind, guest.size)


async def make_offer(
    host: Host, guest: str, peer: str, mode: Mode, options: TransferOptions
) -> tuple[Sending | None, list[Problem]]:
    """Return what would be sent to a peer for a guest, and every problem found on this host.

    There is no offer when the guest is unknown or a disk cannot be measured.
    """
    misnamed = misnamed_here(guest, host.toolstack.name)
    if misnamed is not None:
        return None, [misnamed]
    if options.rename is not None and (misnamed := misnamed_there(options.rename)) is not None:
        return None, [misnamed]
    found = await find_guest(host, guest, peer, mode)
    problems = list(found.problems)
    if (runs := found.domain) is None or (domain := found.offered) is None:
        return None, problems
    disks = await sort_disks(host, moving_disks(domain), host.roster.get(peer), peer, options)
    problems += disks.problems
    look = await take(host, runs)
    problems += [*look.missing, *look.problems]
    volumes: list[VolumeOffer] = []
    paths: list[str] = []
    backings: list[Backing] = []
    served: list[GuestQemu | None] = []
    readers: list[Reader | None] = []
    for disk in disks.copied:
        try:
            qemu = _served_by(host, runs, disk, look.opened)
            offered, there, reader = await offer_disk(
                host, domain.name, disk, qemu, options, mode=mode
            )
            volumes.append(offered)
            paths.append(disk.path)
            backings.append(there)
            served.append(qemu)
            readers.append(reader)
        except (StorageError, Obstructed) as error:
            problems += [one for one in problems_of(error) if one not in problems]
    if not options.several:
        problems += idle_wishes(
            options,
            pools=filter(None, [v.home for v in volumes] + [disk.home for disk in disks.shared]),
            volumes=[name_here(host, disk.path) for disk in disks.copied],
            bridges=names_of(domain.nics),
        )
    if mode is Mode.RESTART:
        problems += await users_of(host, guest, paths, runs=True)
    if options.remove_source:
        problems += await asyncio.to_thread(_unremovable, host, paths)
    methods = await asyncio.to_thread(methods_of, volumes, mode, paths, served)
    left = left_out(options.rename or guest, domain.left_out)
    try:
        offer = Offer.of(
            Action.MIGRATE,
            mode,
            overwrite=options.overwrite,
            guest=await _guest_offer(host, domain, disks, options, found.config),
            volumes=tuple(volumes),
        )
        # What the other side would refuse as malformed is better said here.
        return (
            Sending(
                build(Offer, plain(offer)),
                tuple(paths),
                tuple(backings),
                look.facts,
                look.opened,
                tuple(disks.ejected),
                (*look.warnings, *found.remarks, *left),
                tuple(served),
                tuple(readers),
                methods,
            ),
            problems,
        )
    except SchemaError as error:
        return None, [*problems, problem("guest", f"{guest} cannot be described: {error}")]


def _served_by(
    host: Host, guest: Domain, disk: Disk, opened: OpenByBackends | None
) -> GuestQemu | None:
    """Return the QEMU that alone writes to a disk, None for any other."""
    if opened is None or opened.server_of(disk.vdev) != "QEMU":
        return None
    return host.qemu_of(guest.domid)


def _unremovable(host: Host, paths: Collection[str]) -> list[Problem]:
    """Find the volumes that cannot be dropped when their guest has moved."""
    hint = "leave out --remove-source, and remove the volumes by hand when it has moved"
    found = []
    for path in paths:
        located = host.pool_of(path)
        if located is None:
            found.append(problem("remove-source", f"{path} is in no pool: it would stay", hint))
        elif located[0].capacity() is None:
            text = f"{path} is in pool {located[0].name}, whose volumes are removed by hand"
            found.append(problem("remove-source", text, hint))
    return found


async def make_sync_offer(
    host: Host, volume: str, target: str | None, options: TransferOptions, only_pools: bool
) -> Sending:
    """Return the offer for a volume without a guest. Raises Obstructed or StorageError."""
    path = await asyncio.to_thread(resolve_source, host, volume, only_pools)
    there = await asyncio.to_thread(measure, path)
    offered = volume_offer(host, path, there, None, options)
    if target is not None:
        pool, _, name = target.partition(":")
        if not (pool and name):
            text = f"target {target!r} is not POOL:NAME"
            raise Obstructed([problem("usage", text, f"such as images:{offered.name}")])
        offered = replace(offered, wish=name, pool=pool)
    # Somebody who names the target volume means it, whatever is in it.
    overwrite = options.overwrite or target is not None
    offer = Offer(Action.SYNC, OfferedMode.SAVE, overwrite, None, (offered,))
    try:
        return Sending(build(Offer, plain(offer)), (path,), (there,))
    except SchemaError as error:
        text = f"{volume} cannot be sent to {target or 'a volume of that name'}: {error}"
        raise Obstructed([problem("usage", text, "choose another name for the target")]) from None


def resolve_source(host: Host, volume: str, only_pools: bool) -> str:
    """Return the path of a volume given as a path or as pool:name. Raises Obstructed.

    With `only_pools` it is the one that the pool knows: whoever asks may change links of his own.
    """
    if volume.startswith("/"):
        return _in_pool(host, volume) if only_pools else volume
    pool_name, _, name = volume.partition(":")
    pool = host.pools.get(pool_name)
    if pool is None or not name:
        known = ", ".join(sorted(host.pools)) or "none"
        raise Obstructed(
            [
                problem(
                    "usage",
                    f"{volume!r} is neither an absolute path nor POOL:NAME",
                    f"known pools: {known}",
                )
            ]
        )
    if (info := pool.find(name)) is None:
        hint = f"{host.pools[pool_name].path(name)} is not there"
        raise Obstructed(
            [problem("volume-missing", f"pool {pool_name} has no volume {name}", hint)]
        )
    return info.path


def _in_pool(host: Host, path: str) -> str:
    """Return the path of a volume as its pool knows it. Raises Obstructed when no pool has it."""
    if (located := host.pool_of(path)) is None:
        hint = "only root may send it; volumes of pools go as POOL:NAME, see xenmovectl volumes"
        raise Obstructed([problem("access-denied", f"{path} is in no pool of this host", hint)])
    pool, name = located
    return pool.path(name)


async def _guest_offer(
    host: Host, domain: Domain, disks: SortedDisks, options: TransferOptions, config: str | None
) -> GuestOffer:
    info = await host.toolstack.host()
    entry = await host.toolstack.configs.autostart(domain.name, domain.uuid)
    return GuestOffer(
        name=domain.name,
        uuid=domain.uuid,
        kind=domain.kind,
        toolstack=host.toolstack.name,
        hypervisor=HypervisorOffer(info.xen_version, info.features),
        size=domain.size,
        nics=tuple(NicOffer(nic.mac, nic.bridge, nic.script) for nic in domain.nics),
        config=config.encode("utf-8", "surrogateescape") if config is not None else None,
        autostart=entry is not None,
        boot_order=order_of(entry or "", domain.name) or None,
        wish=options.rename if options.rename != domain.name else None,
        bridges=dict(options.bridges),
        shared=tuple(disks.shared),
        ejected=tuple(disk.vdev for disk in disks.ejected),
    )
