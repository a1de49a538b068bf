"""How the disk of a guest lies on this host: raw, or in an image that this host makes.

What a peer sends is the same in both cases, the content as the guest sees it. An image is made and
written by QEMU's tools here; no byte of its own structure comes from a peer. It is a new file, or
the image that the guest left behind here when it went to that very peer: of that one only the
content is compared and written. (Images of guests that are off, which come as they are, are
`storage.files.images`'.)
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from protocol.messages import ImageFormat, Offer, VolumeOffer
from storage.contracts import Pool, VolumeInfo
from storage.errors import StorageError, UnsupportedVolume
from storage.names import check_name
from storage.qemu.image import ImageVolume, most_content, require_tools
from xenmoved.config.model import Peer
from xenmoved.journal.records import Form, Holding
from xenmoved.migration.host import Host
from xenmoved.migration.image_names import name_of_content, name_of_image
from xenmoved.migration.target.reuse import is_image_of, owner_of
from xenmoved.migration.volume_notes import is_of, why_not_as_left
from xenmoved.migration.whereabouts import Whereabouts
from xenmoved.namemap import new_name
from xenmoved.problems import Obstructed, problem

log = logging.getLogger(__name__)

_SECTOR: Final = 512
"""Bytes of which the content of every image is a whole number."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a volume is called here, and the format in which a guest's disk lies in it.

    `content` is the size in bytes of the disk that is in an image which the guest left behind here.
    """

    name: str
    format: ImageFormat
    content: int | None = None

    def is_image_of(self, volume: VolumeOffer) -> bool:
        """Whether what arrives, laid out as it comes, is the content of an image here."""
        return is_image_of(volume, self.format)

    def size_of(self, volume: VolumeOffer) -> int:
        """Return how large a new disk is for a volume."""
        if self.is_image_of(volume):
            return -(-volume.size // _SECTOR) * _SECTOR
        return volume.size


def form_of(volume: VolumeOffer, here: ImageFormat) -> tuple[Form, str]:
    """Return what is noted of a new volume: whether it is an image that was made here, and which.

    One that comes as it is could be anything until all of it is here: it is no copy to go on with.
    """
    return (Form.IMAGE, here.value) if is_image_of(volume, here) else (Form.RAW, "")


def local_name(peer: Peer, volume: VolumeOffer) -> str:
    """Return what a volume is to be called here: as was asked for, or as this host has it."""
    return volume.wish or new_name(volume.name, peer.volumes) or volume.name


async def lay_out(host: Host, peer: Peer, offer: Offer, volume: VolumeOffer, pool: Pool) -> Layout:
    """Say how a volume, as it comes, is to lie in a pool. Raises StorageError, Obstructed.

    What is there under its name stays in its format. Without one that was asked for, the image is
    found of which it is the content.
    """
    name = local_name(peer, volume)
    wanted = volume.wanted
    if volume.format is not ImageFormat.RAW:
        return Layout(name, volume.format)
    if offer.guest is None:
        return Layout(name, ImageFormat.RAW)
    info = await asyncio.to_thread(pool.find, name)
    if info is not None:
        left = await _left(host, peer, offer, volume, info)
        if left is None or (wanted is not None and left.format != wanted):
            return Layout(name, wanted or ImageFormat.RAW)
        return await _as_it_is(host, pool, name, left)
    if (
        volume.wish is None
        and (image := await _left_image(host, peer, offer, volume, pool)) is not None
    ):
        return image
    kind = wanted or ImageFormat(pool.disk_format)
    if kind is not ImageFormat.RAW:
        await _require_possible(host, volume, kind)
        name = name if volume.wish is not None else name_of_image(name, kind)
        check_name(pool.name, name)
    return Layout(name, kind)


async def _left(
    host: Host, peer: Peer, offer: Offer, volume: VolumeOffer, info: VolumeInfo
) -> Holding | None:
    """Return what was noted of a volume if it is a copy of a guest's, and an image."""
    holding = await host.journal.holding(info.pool, info.name, info.identity)
    return holding if holding is not None and _is_left(holding, info, peer, offer, volume) else None


def _is_left(
    holding: Holding, info: VolumeInfo, peer: Peer, offer: Offer, volume: VolumeOffer
) -> bool:
    return (
        holding.form is not Form.RAW
        and is_of(holding, owner_of(peer.name, offer), peer.name, volume.moved_by)
        and why_not_as_left(holding, info) is None
    )


async def _left_image(
    host: Host, peer: Peer, offer: Offer, volume: VolumeOffer, pool: Pool
) -> Layout | None:
    """Return the image of which a volume is the content, None where nothing certain is known."""
    called = local_name(peer, volume)
    owner = owner_of(peer.name, offer)
    images = [
        holding
        for holding in await host.journal.retained()
        if holding.form is not Form.RAW and is_of(holding, owner, peer.name, volume.moved_by)
    ]
    whereabouts = Whereabouts(host.pools)
    for holding in images:
        place = holding.pool, holding.name, holding.identity
        info = (await asyncio.to_thread(whereabouts.look_for, *place)).info
        if info is None or not _is_left(holding, info, peer, offer, volume):
            continue
        name = await asyncio.to_thread(pool.locate, info.path)
        if name is None or name_of_content(name, ImageFormat(holding.format)) != called:
            continue
        try:
            return await _as_it_is(host, pool, name, holding)
        except StorageError as error:
            log.warning("the image %s is not used: %s", info.path, error)
    return None


async def _as_it_is(host: Host, pool: Pool, name: str, left: Holding) -> Layout:
    """Look how large the disk in an image is. Raises StorageError."""

    def look() -> int:
        image = ImageVolume.open(
            pool.path(name),
            left.format,
            name=f"{pool.name}:{name}",
            writable=False,
            standalone=True,
            folder=host.qemu_sockets,
        )
        image.close()
        return image.size

    if not pool.holds_files:
        raise UnsupportedVolume(f"{pool.name}:{name} is an image, and no file: it is not written")
    return Layout(name, ImageFormat(left.format), await asyncio.to_thread(look))


async def _require_possible(host: Host, volume: VolumeOffer, kind: ImageFormat) -> None:
    """See that an image can be made here. Raises Obstructed, StorageError."""
    what = f"{volume.name} is to be a {kind} image on {host.config.node}"
    if host.toolstack.name != "xl":
        text = f"{what}, and its toolstack, {host.toolstack.name}, has none"
        hint = "have it raw there: see `format` of its pools, and --volume"
        raise Obstructed([problem("disk", text, hint)])
    if volume.size > (most := most_content(kind)):
        text = f"{what}, and has {volume.size} bytes: such an image has {most} at most"
        raise Obstructed([problem("volume-too-large", text, "choose another format there")])
    await asyncio.to_thread(require_tools)
