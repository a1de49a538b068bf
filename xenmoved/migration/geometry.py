"""Whether a disk of a certain geometry can be a volume of another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocol.messages import ImageFormat, Problem, Remark, VolumeOffer
from xenmoved.problems import problem
from xenmoved.remarks import good_to_know
from xenmoved.units import format_size

_MUCH_LARGER: Final = 4
_SLACK: Final = 16 << 30


def most_there(size: int) -> int:
    """Return how large a volume may be that one of `size` bytes is copied to.

    Each host keeps something for every block there, and reads it in full.
    """
    return _MUCH_LARGER * size + _SLACK


def misfits(
    offer: VolumeOffer, shown: str, size: int, sector: int, alignment: int, *, guest: bool
) -> Iterator[Problem]:
    """Find why an offered volume cannot be put into another one, `shown` to the operator as such.

    That one has `size` bytes, shows a guest logical sectors of `sector` bytes, and holds copies
    whose size is a multiple of `alignment`. Without a `guest` nobody looks at the sectors.
    """
    what = f"{offer.name} has {offer.size} bytes"
    if offer.size == 0:
        yield problem("volume-size", f"{what}: there is nothing to send", "is it the right one?")
    if size < offer.size:
        text = f"{shown} is too small: {size} bytes, the source has {offer.size}"
        yield problem("volume-too-small", text, "enlarge it there, or remove it")
    if size > (most := most_there(offer.size)):
        text = f"{shown} is too large: {size} bytes, the source has {offer.size}"
        hint = f"have one of {most} bytes at most there, or enlarge the disk here first"
        yield problem("volume-too-large", text, hint)
    # The guest never sees the sectors of what lies beneath a qcow2 or VHD image.
    if guest and offer.format is ImageFormat.RAW and sector != offer.sector:
        text = (
            f"{shown} has sectors of {sector} bytes, and the guest knows disk {offer.vdev} with "
            f"sectors of {offer.sector}: it would not find its partitions and file systems there"
        )
        hint = (
            f"choose a pool with sectors of {offer.sector} bytes there with --pool "
            "(blockdev --getss tells those of a device; image files have 512)"
        )
        yield problem("sector-size", text, hint)
    elif offer.size % alignment:
        whole = -(-offer.size // alignment) * alignment
        text = f"{what}, which is no whole number of the sectors of {alignment} bytes of {shown}"
        hint = (
            "choose a pool of kind dir there with --pool: files can have any size; or, while "
            f"nobody uses it, enlarge it here to {whole} bytes (truncate -s {whole})"
        )
        yield problem("volume-size", text, hint)


def enlargement(offer: VolumeOffer, size: int, shown: str) -> Remark | None:
    """Say that a guest's disk will have `size` bytes from now on, None where it stays as it is."""
    if size <= offer.size:
        return None
    more = size - offer.size
    text = (
        f"disk {offer.vdev} has {offer.size} bytes and will have {size} as {shown}: "
        f"{format_size(more)} of zeros are added"
    )
    hint = (
        "the guest may use them; on the way back the volume here must be as large: enlarge it "
        "then, before the guest returns"
    )
    return good_to_know("larger", text, hint)
