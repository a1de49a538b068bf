"""How a volume is offered: what it is here, what reads it, and what is wished of it there."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from protocol.errors import SchemaError
from protocol.messages import ImageFormat, Mode, VolumeName, VolumeOffer
from protocol.schema import build
from storage.contracts import Backing
from storage.qemu.additions import GuestQemu
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.host import Host
from xenmoved.migration.image_names import format_in, name_of_content
from xenmoved.migration.source.content import ImageReader, Reader, measure_content
from xenmoved.migration.source.renames import wanted_name, wanted_pool
from xenmoved.migration.uncopied_disks import IMAGES, measure_disk
from xenmoved.migration.volume_notes import moved_by, when_let_go
from xenmoved.namemap import proposed_name
from xenmoved.problems import Obstructed, problem
from xenmoved.toolstack.interface import Disk


async def offer_disk(
    host: Host,
    guest: str,
    disk: Disk,
    qemu: GuestQemu | None,
    options: TransferOptions,
    *,
    mode: Mode,
) -> tuple[VolumeOffer, Backing, Reader | None]:
    """Offer a disk that is copied; tell what it is here, and what reads it if it is content.

    Raises StorageError, Obstructed.
    """
    kind = ImageFormat(disk.format if disk.format in IMAGES else "raw")
    wish = wanted_name(options, name_here(host, disk.path))
    wanted = format_in(wish) if wish is not None else None
    cold = mode is Mode.COLD
    if kind is ImageFormat.RAW or (cold and wanted in (None, kind)):
        attempt = partial(measure_disk, disk.path, kind, exclusive=cold)
        there, disk_size = await when_let_go(partial(asyncio.to_thread, attempt))
        reader, cluster = None, 0
    else:
        reader = ImageReader(kind, host.qemu_sockets) if cold else qemu
        measuring = partial(measure_content, guest, disk, reader)
        there, cluster = await when_let_go(partial(asyncio.to_thread, measuring))
        disk_size = there.size
    offered = volume_offer(host, disk.path, there, disk, options)
    offered = replace(
        offered,
        format=kind,
        disk_size=disk_size,
        moved_by=await moved_by(host, disk.path),
        wanted=wanted,
        cluster=cluster if kind is ImageFormat.QCOW2 else 0,
    )
    if offered.is_content(mode):
        offered = replace(offered, name=name_of_content(offered.name, kind))
    return offered, there, reader


def volume_offer(
    host: Host, path: str, found: Backing, disk: Disk | None, options: TransferOptions
) -> VolumeOffer:
    """Name a volume for the target: as its pool here has it, or after its file.

    One whose name no other host can take goes under the name that was asked for. Raises Obstructed.
    """
    located = host.pool_of(path)
    name = name_here(host, path)
    home = located[0].name if located is not None else None
    pool, wish = wanted_pool(options, home), wanted_name(options, name)
    try:
        build(VolumeName, name)
    except SchemaError as error:
        if wish is None:
            rule = shlex.quote(f"{name}={proposed_name(name)}")
            hint = f"give it another name there: --volume {rule}"
            raise Obstructed([problem("volume-name", f"{path}: {error}", hint)]) from None
        name = wish
    return VolumeOffer(
        name=name,
        size=found.size,
        vdev=disk.vdev if disk is not None else None,
        pool=pool,
        home=home,
        wish=wish,
        format=ImageFormat.RAW,
        disk_size=found.size,
        sector=found.sector,
        path=disk.path if disk is not None else None,
        writable=disk.writable if disk is not None else True,
        moved_by=None,
    )


def name_here(host: Host, path: str) -> str:
    """Return what a volume is called here: by its pool, or after its file."""
    located = host.pool_of(path)
    return located[1] if located is not None else PurePath(path).name
