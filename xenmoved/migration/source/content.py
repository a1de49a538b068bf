"""Disks whose content is sent, and not the image in which it lies.

While a guest runs its QEMU reads it for us. Of one that is off QEMU's own tool does, where another
format is wanted at the target; it goes as it is otherwise. The offer has the format of the image,
and the size that the guest sees; how it lies there is the target's to say. Nothing of ours, and
nothing at the target, looks into the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from protocol.messages import ImageFormat, Mode, Offer, Placement, Remark, VolumeOffer
from storage.backing import backing_of
from storage.contracts import Backing
from storage.errors import StorageError
from storage.qemu import guest_disk
from storage.qemu.additions import GuestQemu
from storage.qemu.image import ImageVolume
from storage.tracking.choice import TrackingKind, TrackingMethod, tracking_method
from xenmoved.journal.records import Form
from xenmoved.migration.source.obstacles import disk_problems, image_hint
from xenmoved.problems import Obstructed, problem
from xenmoved.remarks import good_to_know
from xenmoved.toolstack.interface import Disk

_WANTED_SINCE: Final = 8


@dataclass(frozen=True, slots=True)
class ImageReader:
    """What reads an image of a guest that is off: QEMU's tool, with its sockets in a folder."""

    format: ImageFormat
    folder: Path

    def open(self, path: str) -> ImageVolume:
        """Open an image, which nobody else may have open, for reading. Raises StorageError."""
        return ImageVolume.open(
            path,
            self.format,
            name=path,
            writable=False,
            exclusive=True,
            standalone=True,
            folder=self.folder,
        )

    def look(self, path: str) -> tuple[Backing, int]:
        """Tell what is at a path, with the size of the content, and of its clusters, 0 for none.

        Blocks. Raises StorageError.
        """
        image = self.open(path)
        try:
            return image.backing(), image.cluster
        finally:
            image.close()


Reader: TypeAlias = GuestQemu | ImageReader
"""What reads the content of an image for us."""


def form_of(offered: VolumeOffer, mode: Mode) -> Form:
    """Return in what form a disk is here, and goes from here."""
    if offered.format is ImageFormat.RAW:
        return Form.RAW
    return Form.CONTENT if offered.is_content(mode) else Form.IMAGE


def look(path: str, opened: Backing, reader: Reader | None) -> Backing:
    """Tell what a path leads to now; with a reader, as content, `opened` as such. Blocks.

    Raises StorageError.
    """
    if isinstance(reader, GuestQemu):
        return guest_disk.look(reader, path)
    return settled(path, opened, content=reader is not None)


def measure_content(guest: str, disk: Disk, reader: Reader | None) -> tuple[Backing, int]:
    """Return what a disk in an image is as content, and the size of its clusters, 0 for none.

    Blocks. Raises Obstructed, and StorageError for an image of a guest that is off.
    """
    if reader is None:
        raise Obstructed(disk_problems(guest, disk, cold=False, asked=False))
    if isinstance(reader, ImageReader):
        return reader.look(disk.path)
    try:
        return guest_disk.look(reader, disk.path), guest_disk.cluster_of(reader, disk.path)
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
        if qemu is not None and offered.is_content(mode)
        else tracking_method(path, qemu)
        for offered, path, qemu in each
    )


def settled(path: str, opened: Backing, *, content: bool) -> Backing:
    """Tell what a path leads to, whose content nobody changes. Blocks. Raises StorageError."""
    there = backing_of(path)
    return replace(there, size=opened.size, sector=opened.sector) if content else there


def require_understood(offer: Offer, version: int | None, peer: str) -> None:
    """See that a peer, with which a version is spoken, hears what is wanted. Raises Obstructed.

    An older release is not told: it makes raw volumes, and takes images as they are.
    """
    if version is not None and version >= _WANTED_SINCE:
        return
    found = [
        problem(
            "peer-too-old",
            f"{one.name} is to be {one.wanted} on {peer}, whose release knows nothing of that",
            f"upgrade {peer}, or leave out the ending .{one.wanted} that --volume asks for",
        )
        for one in offer.volumes
        if one.wanted not in (None, one.format if offer.by_file else ImageFormat.RAW)
    ]
    if found:
        raise Obstructed(found)


def converted(offer: Offer, placements: Sequence[Placement], peer: str) -> list[Remark]:
    """Say which disks will lie in another form at the target, as it has placed them."""
    found = []
    for one, place in zip(offer.volumes, placements, strict=False):
        as_it_is = one.format is not ImageFormat.RAW and not one.is_content(offer.way)
        if as_it_is or one.format is place.format is ImageFormat.RAW:
            continue
        text = f"disk {one.vdev} is in the format {one.format}, and will be {place.format}"
        if one.format == place.format:
            text = f"disk {one.vdev} is in the format {one.format}, and in an image of {peer} then"
        hint = f"{one.path} stays here as it is; what the guest sees of it is copied"
        found.append(good_to_know("converted", text, hint))
    return found
