"""Disk images with a format of their own, which are copied as they are: qcow2 and VHD.

Their headers can name other files, which whoever starts the guest would open: the backing file of a
qcow2 image, its external data file, the parent of a VHD. So an image moves only if it stands alone.
What is looked at has to be what QEMU and blktap look at. A qcow2 image is read from its beginning.
Of a VHD the end counts: QEMU takes its length as a whole number of sectors, rounded up.
"""

from __future__ import annotations

from typing import Final

from storage.contracts import Volume
from storage.errors import UnfitImage
from storage.files.headers import SECTOR, qcow_header, read_range, vhd_footers

_QCOW_EXTERNAL_DATA: Final = 1 << 2
_QCOW_HARMLESS: Final = 0b11011
"""Not closed properly, damaged, compressed otherwise, with subclusters."""

_VHD_FIXED, _VHD_DYNAMIC = 2, 3
_SMALLEST: Final = 512

_DESCRIPTORS_AT: Final = 16 * 2048
_DESCRIPTORS: Final = (b"CD001", b"BEA01")


def require_standalone(volume: Volume, image_format: str) -> int:
    """See that a volume is an image of that format, "qcow2" or "vhd", that needs no other file.

    Returns the size in bytes of the disk in it, to which the image may grow in use. Raises
    `UnfitImage` with what is wrong, and `VolumeError`.
    """
    if volume.size < _SMALLEST:
        raise _unfit(volume, f"is no {image_format} image: it has {volume.size} bytes")
    check = {"qcow2": _check_qcow2, "vhd": _check_vhd}[image_format]
    return check(volume)


def clusters(volume: Volume) -> int:
    """Return the bytes of a cluster of a qcow2 image, 0 for another one. Raises VolumeError."""
    header = qcow_header(volume)
    return 1 << header.cluster_bits if header is not None and header.cluster_bits < 32 else 0


def is_cdrom(volume: Volume) -> bool:
    """Tell whether a volume is an image of a CD-ROM or DVD (ISO 9660, UDF). Raises `VolumeError`.

    Its descriptors begin at sector 16, and say so behind their first byte.
    """
    if volume.size < _DESCRIPTORS_AT + _SMALLEST:
        return False
    return read_range(volume, _DESCRIPTORS_AT, _SMALLEST)[1:6] in _DESCRIPTORS


def _check_qcow2(volume: Volume) -> int:
    header = qcow_header(volume)
    if header is None or header.version not in (2, 3):
        raise _unfit(volume, "is no qcow2 image of version 2 or 3")
    if header.backing_at:
        raise _unfit(volume, "has a backing file: merge it into the image (qemu-img rebase -b '')")
    if header.features & _QCOW_EXTERNAL_DATA:
        raise _unfit(volume, "keeps its data in another file: convert it (qemu-img convert)")
    if unknown := header.features & ~_QCOW_HARMLESS:
        raise _unfit(volume, f"has qcow2 features that are not known here: {unknown:#x}")
    return header.disk_size


def _check_vhd(volume: Volume) -> int:
    """Look at all footers, wherever one may be read.

    With a length that is no whole number of sectors, but for the byte that may be missing, QEMU
    would read a footer at another place.
    """
    if volume.size % SECTOR not in (0, SECTOR - 1):
        why = f"has {volume.size} bytes, no whole number of sectors: convert it (qemu-img convert)"
        raise _unfit(volume, why)
    if not (footers := vhd_footers(volume)):
        raise _unfit(volume, "is no VHD image: it has no footer")
    if any(footer.differs for footer in footers):
        raise _unfit(volume, "is a difference to another VHD: convert it (qemu-img convert)")
    if unknown := {footer.kind for footer in footers} - {_VHD_FIXED, _VHD_DYNAMIC}:
        raise _unfit(volume, f"is a VHD of a type that is not known here: {min(unknown)}")
    return max(size for footer in footers for size in footer.sizes)


def _unfit(volume: Volume, why: str) -> UnfitImage:
    return UnfitImage(f"volume {volume.name} {why}")
