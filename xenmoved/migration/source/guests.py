"""The guests of this host as `xenmovectl list` shows them, with why some cannot move."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from storage.errors import StorageError
from xenmoved.guestnames import misnamed_here
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.host import Host
from xenmoved.migration.report import DiskRow, GuestRow
from xenmoved.migration.source.obstacles import disk_obstacle, guest_obstacles
from xenmoved.migration.source.volume_offers import volume_offer
from xenmoved.migration.uncopied_disks import measure
from xenmoved.problems import Obstructed
from xenmoved.toolstack.configs.keeping import MOVED
from xenmoved.toolstack.configs.text import named as name_in
from xenmoved.toolstack.interface import (
    Disk,
    Domain,
    DomainState,
    DomainStatus,
    ToolstackError,
    guests_among,
)

_OFF: Final = "off"


async def guest_rows(host: Host) -> list[GuestRow]:
    """Describe every guest of this host, with why it cannot move."""
    described = guests_among(await host.toolstack.describe_all())
    return [await asyncio.to_thread(_guest_row, host, *one) for one in described]


async def stopped_rows(host: Host, running: Collection[str]) -> list[GuestRow]:
    """Describe every guest that does not run and has a configuration here, likewise."""
    texts = await host.toolstack.configs.read_all()
    # What is set aside is of a guest that is leaving.
    here = (text for file, text in texts.items() if not file.endswith(MOVED))
    names = {name for text in here if (name := name_in(text)) is not None}
    return [await _stopped_row(host, name) for name in sorted(names.difference(running))]


async def _stopped_row(host: Host, name: str) -> GuestRow:
    off = DomainStatus(name, 0, 0, DomainState.SHUTDOWN)
    try:
        domain = await host.toolstack.configs.describe(name)
    except ToolstackError as error:
        return replace(_guest_row(host, off, error), state=_OFF)
    if domain is None:
        gone = ToolstackError(f"no file here is sure to be the one of {name}")
        return replace(_guest_row(host, off, gone), state=_OFF)
    return await asyncio.to_thread(_guest_row, host, None, domain)


def _guest_row(
    host: Host, status: DomainStatus | None, domain: Domain | ToolstackError
) -> GuestRow:
    """Describe a guest with why it cannot move; without a status it does not run."""
    if isinstance(domain, ToolstackError):
        assert status is not None
        obstacles: tuple[str, ...] = (str(domain)[:4000],)
        return GuestRow(
            status.name, status.domid, "", status.memory, status.state.value, (), obstacles
        )
    state = status.state if status is not None else None
    asked = host.qemu_of(domain.domid) is not None
    disks = [_disk_row(host, disk, cold=status is None, asked=asked) for disk in domain.disks]
    misnamed = misnamed_here(domain.name, host.toolstack.name)
    found = [f"{misnamed.text}: {misnamed.hint}"] if misnamed is not None else []
    found += [item.text for item in guest_obstacles(domain, state, asked=asked)]
    found += [f"{domain.name}: {disk.obstacle}" for disk in disks if disk.obstacle]
    return GuestRow(
        name=domain.name,
        domid=domain.domid,
        kind=domain.kind,
        memory=domain.memory,
        state=state.value if state is not None else _OFF,
        disks=tuple(disks),
        obstacles=tuple(dict.fromkeys(found)),
    )


def _disk_row(host: Host, disk: Disk, *, cold: bool, asked: bool) -> DiskRow:
    obstacle, size, peers = None, None, host.roster.all()
    if disk.path or not disk.cdrom:
        found = disk_obstacle(disk, cold=cold, asked=asked)
        obstacle = found[0] if found is not None else None
        try:
            there = measure(disk.path)
            size = there.size
            if not (disk.cdrom or any(peer.shares_path(disk.path) for peer in peers)):
                volume_offer(host, disk.path, there, disk, TransferOptions())
        except StorageError as error:
            obstacle = obstacle or str(error)
        except Obstructed as error:
            hint = error.problems[0].hint
            obstacle = obstacle or f"disk {disk.vdev} cannot have its name there: {hint}"
    located = host.pool_of(disk.path) if disk.path else None
    volume = f"{located[0].name}:{located[1]}" if located is not None else None
    return DiskRow(disk.vdev, disk.path, volume, size, disk.writable, obstacle)
