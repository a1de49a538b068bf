"""What a migration would be, for an operator: made from what both hosts have found."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from protocol.messages import Mode, Placement, VolumeOffer
from storage.errors import StorageError
from storage.tracking.choice import TrackingKind, TrackingMethod
from xenmoved.control.api import Plan, PlannedBridge, PlannedDrive, PlannedVolume
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.steering import Steering
from xenmoved.link.errors import LinkError
from xenmoved.link.probe import measure
from xenmoved.migration.host import Host
from xenmoved.migration.source.estimate import (
    PROBE_SECONDS,
    Content,
    Estimate,
    Rates,
    estimate,
    look,
)
from xenmoved.migration.source.preflight import Preflight
from xenmoved.migration.source.warnings import warnings

log = logging.getLogger(__name__)


async def make_plan(host: Host, found: Preflight, options: TransferOptions) -> Plan:
    """Return the plan; how long it would take is measured where nothing stands in the way."""
    move = found.move
    guess = None if found.problems else await _estimate(host, found, options)
    return Plan(
        guest=move.guest,
        peer=move.peer,
        mode=move.mode,
        problems=found.problems[:512],
        warnings=warnings(found),
        volumes=_volumes(found),
        memory=found.sending.memory if found.sending is not None else 0,
        target_name=options.rename or move.guest,
        drives=_drives(found),
        bridges=tuple(PlannedBridge(*names) for names in sorted(found.findings.bridges.items())),
        estimate=guess.total if guess is not None else None,
        blackout=guess.blackout if guess is not None else None,
    )


async def _estimate(host: Host, found: Preflight, options: TransferOptions) -> Estimate | None:
    """Guess how long it would take; None when the link or a disk cannot be measured."""
    sending, move = found.sending, found.move
    if sending is None:
        return None
    limit = Steering.of(options, host.config.transfer).limiter.rate
    try:
        link = await host.link(move.peer)
        sent = await measure(link, PROBE_SECONDS)
        data, read = await asyncio.to_thread(look, sending.paths, host.open_source)
    except (LinkError, StorageError) as error:
        log.info("no estimate of a migration to %s: %s", move.peer, error)
        return None
    disks = [
        Content(size, placement.zeroed, lasts(method, move.mode))
        for size, placement, method in zip(data, found.placements, sending.methods, strict=False)
    ]
    rates = Rates(min(sent, limit or sent), read)
    return estimate(disks, sending.memory, rates, move.mode)


def lasts(method: TrackingMethod, mode: Mode) -> bool:
    """Whether what was written at the very last is known, too: QEMU's notes end with the guest."""
    known = {TrackingKind.TRACEFS} if mode is Mode.RESTART else set(TrackingKind)
    return method.kind in known - {TrackingKind.REHASH}


def _volumes(found: Preflight) -> tuple[PlannedVolume, ...]:
    if found.sending is None:
        return ()
    sending = found.sending
    each = zip(
        sending.offer.volumes, sending.paths, found.placements, sending.methods, strict=False
    )
    return tuple(_volume(found, *one) for one in each)


def _volume(
    found: Preflight, volume: VolumeOffer, path: str, placement: Placement, method: TrackingMethod
) -> PlannedVolume:
    planned = PlannedVolume(
        vdev=volume.vdev or "",
        source=path,
        target=f"{placement.pool}:{placement.name}",
        size=volume.size,
        fresh=placement.fresh,
        zeroed=placement.zeroed,
        format=volume.format,
    )
    if found.move.mode is Mode.COLD:
        return planned
    return replace(
        planned,
        served_by=_server_of(found, planned.vdev),
        tracking=method.kind.value,
        tracking_cost=method.cost,
    )


def _server_of(found: Preflight, vdev: str) -> str:
    """Say who serves a disk of a guest that runs, "" where nothing tells."""
    sending = found.sending
    if sending is None or sending.opened is None or sending.offer.guest is None:
        return ""
    server = sending.opened.server_of(vdev)
    if server and sending.offer.guest.kind == "hvm" and vdev.startswith(("hd", "sd")):
        return f"{server}; QEMU emulates it until drivers for Xen in the guest take over"
    return server


def _drives(found: Preflight) -> tuple[PlannedDrive, ...]:
    sending = found.sending
    if sending is None or sending.offer.guest is None or found.problems:
        return ()
    shared = zip(sending.offer.guest.shared, found.findings.shared, strict=False)
    return (
        *(PlannedDrive(one.vdev, one.path, path, one.cdrom) for one, path in shared),
        *(PlannedDrive(disk.vdev, disk.path, "", True) for disk in sending.ejected),
    )
