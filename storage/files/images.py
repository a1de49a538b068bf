"""Disk images with a format of their own, which are copied as they are: qcow2 and VHD.

Their headers can name other files, which whoever starts the guest would open: the backing file of a
qcow2 image, its external data file, the parent of a VHD. So an image moves only if it stands alone.
What is looked at has to be what QEMU and blktap look at. A qcow2 image is read from its beginning.
Of a VHD the end counts: QEMU takes its length as a whole number of sectors, rounded up.

Formats: QEMU, docs/interop/qcow2.txt (versions 2 and 3); Microsoft, Virtual Hard Disk Image Format
Specification 1.0. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from typing import Final

from storage.buffers import AlignedBuffer
from storage.contracts import Volume
from storage.errors import UnfitImage

_QCOW_MAGIC: Final = b"QFI\xfb"
_QCOW_HEADER: Final = struct.Struct(">4sIQ")
_QCOW_SIZE: Final = struct.Struct(">Q")
_QCOW_SIZE_AT: Final = 24
_QCOW_FEATURES: Final = struct.Struct(">Q")
_QCOW_FEATURES_AT: Final = 72
_QCOW_EXTERNAL_DATA: Final = 1 << 2
_QCOW_HARMLESS: Final = 0b11011
"""Not closed properly, damaged, compressed otherwise, with subclusters."""

_VHD_MAGIC: Final = b"conectix"
_VHD_TYPE: Final = struct.Struct(">I")
_VHD_TYPE_AT: Final = 60
_VHD_SIZE: Final = struct.Struct(">QHBB")
_VHD_SIZE_AT: Final = 48
_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4
_VHD_FOOTER: Final = 512
_SMALLEST: Final = 512
_SECTOR: Final = 512

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


def is_cdrom(volume: Volume) -> bool:
    """Tell whether a volume is an image of a CD-ROM or DVD (ISO 9660, UDF). Raises `VolumeError`.

    Its descriptors begin at sector 16, and say so behind their first byte.
    """
    if volume.size < _DESCRIPTORS_AT + _SMALLEST:
        return False
    return _read(volume, _DESCRIPTORS_AT, _SMALLEST)[1:6] in _DESCRIPTORS


def _check_qcow2(volume: Volume) -> int:
    header = _read(volume, 0, _SMALLEST)
    magic, version, backing = _QCOW_HEADER.unpack_from(header)
    if magic != _QCOW_MAGIC or version not in (2, 3):
        raise _unfit(volume, "is no qcow2 image of version 2 or 3")
    if backing:
        raise _unfit(volume, "has a backing file: merge it into the image (qemu-img rebase -b '')")
    features = _QCOW_FEATURES.unpack_from(header, _QCOW_FEATURES_AT)[0] if version == 3 else 0
    if features & _QCOW_EXTERNAL_DATA:
        raise _unfit(volume, "keeps its data in another file: convert it (qemu-img convert)")
    if features & ~_QCOW_HARMLESS:
        raise _unfit(volume, f"has qcow2 features that are not known here: {features:#x}")
    return int(_QCOW_SIZE.unpack_from(header, _QCOW_SIZE_AT)[0])


def _check_vhd(volume: Volume) -> int:
    """Look at the footer, and at its copy at the beginning, which all but fixed images have.

    The footer may be a byte short: that of images by Virtual PC before 2004 is. Of any other length
    that is no whole number of sectors, QEMU would read a footer at another place.
    """
    if volume.size % _SECTOR not in (0, _SECTOR - 1):
        why = f"has {volume.size} bytes, no whole number of sectors: convert it (qemu-img convert)"
        raise _unfit(volume, why)
    found: list[int] = []
    sizes: list[int] = []
    for offset in (0, volume.size - _VHD_FOOTER, volume.size - _VHD_FOOTER + 1):
        footer = _read(volume, offset, _VHD_FOOTER - 1)
        if footer.startswith(_VHD_MAGIC):
            found += _VHD_TYPE.unpack_from(footer, _VHD_TYPE_AT)
            size, cylinders, heads, sectors = _VHD_SIZE.unpack_from(footer, _VHD_SIZE_AT)
            # Which of the two counts is for whoever opens it to say.
            sizes += [size, cylinders * heads * sectors * _SECTOR]
    if not found:
        raise _unfit(volume, "is no VHD image: it has no footer")
    if _VHD_DIFFERENCING in found:
        raise _unfit(volume, "is a difference to another VHD: convert it (qemu-img convert)")
    if unknown := set(found) - {_VHD_FIXED, _VHD_DYNAMIC}:
        raise _unfit(volume, f"is a VHD of a type that is not known here: {min(unknown)}")
    return max(sizes)


def _read(volume: Volume, offset: int, length: int) -> bytes:
    """Read a range, wherever the volume's sectors begin."""
    first = offset // volume.alignment * volume.alignment
    end = -(-(offset + length) // volume.alignment) * volume.alignment
    buffer = AlignedBuffer(end - first).view
    volume.read_into(first, buffer)
    return bytes(buffer[offset - first : offset - first + length])


def _unfit(volume: Volume, why: str) -> UnfitImage:
    return UnfitImage(f"volume {volume.name} {why}")
