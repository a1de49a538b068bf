"""What may become of a volume that is here already when a peer is to fill it.

What the journal knows as a copy of what comes, and as gone to that very peer, is compared and kept.
Of an image that is the content. What is known as one is not touched otherwise while it is there.
Anything else is used only if this host lets the peer do so, and emptied first: nobody learns what
it held. Asked when the peer asks what stands in the way, and again when the volume is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.messages import ImageFormat, Offer, Problem, VolumeOffer
from storage.contracts import VolumeInfo
from xenmoved.config.model import Peer
from xenmoved.journal.records import Form, Holding
from xenmoved.migration.host import Host
from xenmoved.migration.volume_needs import Needs, against
from xenmoved.migration.volume_notes import (
    is_blank,
    is_of,
    may_be_image,
    synced_from,
    why_not_as_left,
)
from xenmoved.problems import problem

NEEDED_HINT: Final = (
    "if nobody needs it, rename or remove it there; or have this one called otherwise: "
    "--volume OLD=NEW"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer wants to have a volume for: one of those that it offers.

    `format` is how the disk of the guest is to lie in it.
    """

    peer: Peer
    offer: Offer
    volume: VolumeOffer
    format: ImageFormat = ImageFormat.RAW


@dataclass(frozen=True, slots=True)
class Reuse:
    """What stands against writing to a volume, and whether what it holds is `kept`.

    One that is kept may have `stayed` here when the guest that comes went from here, to this very
    peer. It may also be what an attempt of that peer has left, which proves nothing of the guest.
    """

    problems: tuple[Problem, ...]
    kept: bool
    stayed: bool = False


def is_image_of(volume: VolumeOffer, here: ImageFormat) -> bool:
    """Whether what arrives, laid out as it comes, is the content of an image here."""
    return volume.format is ImageFormat.RAW and here is not ImageFormat.RAW


def owner_of(peer: str, offer: Offer) -> str:
    """Return whose data the volumes of an offer are, as the journal notes it."""
    return offer.guest.uuid if offer.guest is not None else synced_from(peer)


async def reuse(host: Host, claim: Claim, info: VolumeInfo, found: Needs) -> Reuse:
    """Say what may become of a volume, of whose users `found` tells."""
    holding = await host.journal.holding(info.pool, info.name, info.identity)
    peer, owner = claim.peer.name, owner_of(claim.peer.name, claim.offer)
    known = holding is not None and why_not_as_left(holding, info) is None
    kept = holding is not None and known and _is_copy(holding, claim)
    if holding is not None and may_be_image(holding, info) and not kept:
        text = f"{info.pool}:{info.name} on {host.config.node} is an image of a guest that was here"
        problems = [problem("volume-image", f"{text}, and nobody writes over it", NEEDED_HINT)]
        return Reuse((*problems, *against(found, info, holding, NEEDED_HINT)), kept=False)
    if needed := against(found, info, holding, NEEDED_HINT, own=kept):
        return Reuse(tuple(needed), kept)
    if holding is not None and kept:
        return Reuse((), kept, await _stayed(host, claim, holding))
    if holding is not None and known and is_blank(holding, peer):
        return Reuse((), kept)
    why = _why_not_kept(holding, info, owner, claim.peer)
    text = f"{info.pool}:{info.name} on {host.config.node} {why}"
    return Reuse(_refusal(host.config.node, claim, text), kept=False)


def _is_copy(holding: Holding, claim: Claim) -> bool:
    """Whether what was noted is a copy of what comes, in the form in which it is to lie here."""
    owner = owner_of(claim.peer.name, claim.offer)
    if not is_of(holding, owner, claim.peer.name, claim.volume.moved_by):
        return False
    image = is_image_of(claim.volume, claim.format)
    return holding.format == claim.format if image else holding.form is Form.RAW


async def _stayed(host: Host, claim: Claim, holding: Holding) -> bool:
    """Whether a copy that is kept is of when the guest, by this name, went to this peer."""
    guest = claim.offer.guest
    left = await host.journal.departure(holding.moved_by) if holding.since is not None else None
    if guest is None or left is None:
        return False
    return (left.guest, left.peer) == (guest.target_name, claim.peer.name)


def _why_not_kept(holding: Holding | None, info: VolumeInfo, owner: str, peer: Peer) -> str:
    if holding is None:
        return "exists, and is not known to be a copy of this volume"
    if (why := why_not_as_left(holding, info)) is not None:
        return why
    if holding.owner == owner:
        return (
            f"exists, and is a copy from when the guest went to {holding.place}, not to {peer.name}"
        )
    if not holding.owner:
        return f"exists, and was being emptied for {holding.place}"
    # A uuid is never the sender's business: who knows it could say that its guest has it.
    whose = peer.shown(holding.guest, "") if holding.guest else ""
    return f"exists, and is a copy of another guest's{whose and f': {whose}'}"


def _refusal(node: str, claim: Claim, text: str) -> tuple[Problem, ...]:
    """Return what is missing for a volume to be emptied: the sender's word, or this host's."""
    peer = claim.peer
    key = f"`overwrite: true` in `allow` of peer {peer.name} in the configuration of {node}"
    others = (
        f"drop it there if it is a copy that is kept (on {node}: xenmovectl volumes), rename or "
        "remove it, or have this one called otherwise there: --volume OLD=NEW"
    )
    if not claim.offer.overwrite:
        hint = f"{others}. If what is in it may be lost: --overwrite, which takes {key}"
        return (problem("volume-exists", text, hint),)
    if not peer.allow.overwrite:
        text = f"{text}; {node} does not let {peer.name} overwrite it"
        return (problem("permission", text, f"it takes {key}; or {others}"),)
    return ()
