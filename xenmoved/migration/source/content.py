"""Disks whose content is sent while their guest runs: images that its QEMU reads for us.

The offer has the format of the image, and the size that the guest sees; the target makes a raw
volume of it. Nothing of ours, and nothing at the target, looks into the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from protocol.messages import ImageFormat, Mode, Offer, Remark, VolumeOffer
from storage.backing import backing_of
from storage.contracts import Backing
from storage.errors import StorageError
from storage.names import MAX_NAME
from storage.qemu import guest_disk
from storage.qemu.additions import GuestQemu
from storage.tracking.choice import TrackingKind, TrackingMethod, tracking_method
from xenmoved.journal.records import Form
from xenmoved.migration.source.obstacles import disk_problems, image_hint
from xenmoved.problems import Obstructed, problem
from xenmoved.remarks import good_to_know
from xenmoved.toolstack.interface import Disk

_RAW: Final = "-raw"


def is_content(offered: VolumeOffer, mode: Mode) -> bool:
    """Whether the content of a disk is sent, not what it lies in."""
    return offered.format is not ImageFormat.RAW and mode not in (Mode.COLD, Mode.RESTART)


def form_of(offered: VolumeOffer, mode: Mode) -> Form:
    """Return in what form a disk is here, and goes from here."""
    if offered.format is ImageFormat.RAW:
        return Form.RAW
    return Form.CONTENT if is_content(offered, mode) else Form.IMAGE


def name_of_content(name: str, kind: ImageFormat) -> str:
    """Return what the content of an image is called: never as the image, nor as one is.

    Some tools go by the ending of a name. On its way back it must not meet the image, which no
    peer may write to.
    """
    cut = name.removesuffix(f".{kind}")
    return cut if cut != name else f"{name[: MAX_NAME - len(_RAW)]}{_RAW}"


def look(path: str, qemu: GuestQemu | None) -> Backing:
    """Tell what a path leads to now; with a QEMU, what it has there as content. Blocks.

    Raises StorageError.
    """
    return backing_of(path) if qemu is None else guest_disk.look(qemu, path)


def measure_content(guest: str, disk: Disk, qemu: GuestQemu | None) -> Backing:
    """Return what `look` does of a disk in an image. Blocks. Raises Obstructed."""
    if qemu is None:
        raise Obstructed(disk_problems(guest, disk, cold=False, asked=False))
    try:
        return look(disk.path, qemu)
    except StorageError as error:
        what = f"{guest}: disk {disk.vdev} has the format {disk.format}"
        text = f"{what}, and its QEMU cannot read it for xenmoved: {error}"
        raise Obstructed([problem("disk", text, image_hint(disk.format))]) from error


def methods_of(
    volumes: Sequence[VolumeOffer],
    mode: Mode,
    paths: Sequence[str],
    served: Sequence[GuestQemu | None],
) -> tuple[TrackingMethod, ...]:
    """Tell how the writes to each volume can be tracked: to content, by its QEMU alone. Blocks."""
    each = zip(volumes, paths, served, strict=True)
    return tuple(
        TrackingMethod(TrackingKind.BITMAP, f"QEMU notes what it writes to {path}")
        if is_content(offered, mode)
        else tracking_method(path, qemu)
        for offered, path, qemu in each
    )


def settled(path: str, opened: Backing, *, content: bool) -> Backing:
    """Tell what a path leads to when there is no guest any more. Blocks. Raises StorageError."""
    there = backing_of(path)
    return replace(there, size=opened.size, sector=opened.sector) if content else there


def converted(offer: Offer) -> list[Remark]:
    """Say which disks will not be images any more."""
    return [
        good_to_know(
            "converted",
            f"disk {one.vdev} is in the format {one.format}, and will be raw",
            f"{one.path} stays here as it is; what the guest sees of it is copied",
        )
        for one in offer.volumes
        if is_content(one, offer.way)
    ]
