"""What the header of a disk image says, and which other files it names.

Formats: QEMU, docs/interop/qcow2.txt (all versions) and qed_spec.txt; Microsoft, Virtual Hard Disk
Image Format Specification 1.0; VMware, Virtual Disk Format 5.0. Only headers are read, and no more
of them than a known number of small pieces, whatever they say: they may be anybody's word.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from storage.buffers import AlignedBuffer
from storage.contracts import Volume

QCOW_MAGIC: Final = b"QFI\xfb"
_QCOW_HEAD: Final = struct.Struct(">4sIQII")
_QCOW_SIZE: Final = struct.Struct(">Q")
_QCOW_SIZE_AT: Final = 24
_QCOW_FEATURES: Final = struct.Struct(">Q")
_QCOW_FEATURES_AT: Final = 72
_QCOW_LENGTH: Final = struct.Struct(">I")
_QCOW_LENGTH_AT: Final = 100
_QCOW_HEADER: Final = 104
_QCOW2_HEADER: Final = 72
"""Length of the header of version 2; that of later ones is in it."""
_EXTENSION: Final = struct.Struct(">II")
_BACKING_FORMAT: Final = 0xE2792ACA
_DATA_FILE: Final = 0x44415441

_VHD_MAGIC: Final = b"conectix"
_VHD_TYPE: Final = struct.Struct(">I")
_VHD_TYPE_AT: Final = 60
_VHD_SIZE: Final = struct.Struct(">QHBB")
_VHD_SIZE_AT: Final = 48
_VHD_DYNAMIC_AT: Final = struct.Struct(">16xQ")
_VHD_FOOTER: Final = 512
_VHD_DIFFERENCING: Final = 4
_VHD_HEADER: Final = 1024
_VHD_PARENT_ID: Final = slice(40, 56)
_VHD_PARENT: Final = slice(64, 576)
_VHD_LOCATOR: Final = struct.Struct(">4sIII Q")
_VHD_LOCATORS: Final = 8
_VHD_LOCATORS_AT: Final = 576
_VHD_URL: Final = b"MacX"

_QED_MAGIC: Final = b"QED\0"
_QED_FEATURES: Final = struct.Struct("<16xQ")
_QED_BACKING: Final = struct.Struct("<56xII")
_QED_HAS_BACKING, _QED_RAW_BACKING = 1, 4

_VMDK_MAGIC: Final = b"KDMV"
_VMDK_DESCRIPTOR: Final = struct.Struct("<28xQQ")
_VMDK_TEXT: Final = b"# Disk DescriptorFile"
_VMDK_NAMES: Final = re.compile(
    r'^[ \t]*(?:parentFileNameHint[ \t]*=[ \t]*|RW .*?|RDONLY .*?|NOACCESS .*?)"([^"\n]+)"',
    re.MULTILINE,
)

SECTOR: Final = 512
_LONGEST: Final = 4096
"""Bytes of a name. QEMU takes 1023 at most; one by `json:` has much beside the name."""
_MOST_EXTENSIONS: Final = 64
_LONGEST_TEXT: Final = 20480
_DEEPEST: Final = 16

_RAW: Final = frozenset(("raw", "file", "host_device", "host_cdrom"))
_STRING: Final = re.compile(r"""(?s)"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'""")
_ESCAPED: Final = re.compile(r"(?s)\\(?:u(?P<code>[0-9A-Fa-f]{4})|(?P<one>.))")
_CONTROLS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Named:
    """A file that an image names; `image` unless it is said to be none itself."""

    name: str
    image: bool = True


@dataclass(frozen=True, slots=True)
class QcowHeader:
    """What a qcow or qcow2 image says of itself. `cluster_bits` counts in qcow2 alone."""

    version: int
    cluster_bits: int
    disk_size: int
    features: int
    backing_at: int
    backing_length: int
    length: int


@dataclass(frozen=True, slots=True)
class VhdFooter:
    """One of the footers of a VHD: the type of the image, and the sizes that its disk may have."""

    kind: int
    sizes: tuple[int, int]
    header_at: int

    @property
    def differs(self) -> bool:
        """Whether it is a difference to another image."""
        return self.kind == _VHD_DIFFERENCING


def read_range(volume: Volume, offset: int, length: int) -> bytes:
    """Read a range, wherever the volume's sectors begin; less where it ends. Raises VolumeError."""
    length = min(length, volume.size - offset)
    if length <= 0:
        return b""
    first = offset // volume.alignment * volume.alignment
    end = -(-(offset + length) // volume.alignment) * volume.alignment
    buffer = AlignedBuffer(end - first).view
    volume.read_into(first, buffer)
    return bytes(buffer[offset - first : offset - first + length])


def qcow_header(volume: Volume) -> QcowHeader | None:
    """Read the header of a qcow or qcow2 image, None where there is none. Raises VolumeError."""
    head = read_range(volume, 0, _QCOW_HEADER).ljust(_QCOW_HEADER, b"\0")
    magic, version, at, length, bits = _QCOW_HEAD.unpack_from(head)
    if magic != QCOW_MAGIC:
        return None
    (size,) = _QCOW_SIZE.unpack_from(head, _QCOW_SIZE_AT)
    (features,) = _QCOW_FEATURES.unpack_from(head, _QCOW_FEATURES_AT) if version > 2 else (0,)
    (own,) = _QCOW_LENGTH.unpack_from(head, _QCOW_LENGTH_AT) if version > 2 else (_QCOW2_HEADER,)
    return QcowHeader(version, bits, size, features, at, length, own)


def vhd_footers(volume: Volume) -> list[VhdFooter]:
    """Read the footers of a VHD, none where it is none. Raises VolumeError.

    There is a copy at the beginning, which all but fixed images have. The one at the end may be a
    byte short: that of images by Virtual PC before 2004 is.
    """
    found = []
    for offset in (0, volume.size - _VHD_FOOTER, volume.size - _VHD_FOOTER + 1):
        footer = read_range(volume, max(0, offset), _VHD_FOOTER - 1)
        if footer.startswith(_VHD_MAGIC) and len(footer) == _VHD_FOOTER - 1:
            (kind,) = _VHD_TYPE.unpack_from(footer, _VHD_TYPE_AT)
            size, cylinders, heads, sectors = _VHD_SIZE.unpack_from(footer, _VHD_SIZE_AT)
            (header_at,) = _VHD_DYNAMIC_AT.unpack_from(footer)
            # Which of the two counts is for whoever opens it to say.
            sizes = size, cylinders * heads * sectors * SECTOR
            found.append(VhdFooter(kind, sizes, header_at))
    return found


def named_in(volume: Volume) -> list[Named]:
    """Return the files that an image of any format names, none for what is no image.

    A name may be relative to the image's folder. Raises VolumeError.
    """
    if (qcow := qcow_header(volume)) is not None:
        return list(_of_qcow(volume, qcow))
    head = read_range(volume, 0, SECTOR).ljust(SECTOR, b"\0")
    if head.startswith(_QED_MAGIC):
        return list(_of_qed(volume, head))
    if head.startswith((_VMDK_MAGIC, _VMDK_TEXT)):
        return list(_of_vmdk(volume, head))
    differing = {one.header_at for one in vhd_footers(volume) if one.differs}
    return [named for at in sorted(differing) for named in _of_vhd(volume, at)]


def _of_qcow(volume: Volume, header: QcowHeader) -> Iterator[Named]:
    extensions = dict(_extensions(volume, header)) if header.version > 1 else {}
    if header.backing_at:
        name = read_range(volume, header.backing_at, min(header.backing_length, _LONGEST))
        said = extensions.get(_BACKING_FORMAT, b"").decode("utf-8", "replace")
        yield from _as_qemu_reads(_text(name), image=said not in _RAW)
    if (name := extensions.get(_DATA_FILE, b"")) != b"":
        yield from _as_qemu_reads(_text(name), image=False)


def _extensions(volume: Volume, header: QcowHeader) -> Iterator[tuple[int, bytes]]:
    at = header.length
    for _ in range(_MOST_EXTENSIONS):
        if len(head := read_range(volume, at, _EXTENSION.size)) < _EXTENSION.size:
            return
        kind, length = _EXTENSION.unpack(head)
        if kind == 0:
            return
        if kind in (_BACKING_FORMAT, _DATA_FILE):
            yield kind, read_range(volume, at + _EXTENSION.size, min(length, _LONGEST))
        at += _EXTENSION.size + length + -length % 8


def _of_qed(volume: Volume, head: bytes) -> Iterator[Named]:
    (features,) = _QED_FEATURES.unpack_from(head)
    at, length = _QED_BACKING.unpack_from(head)
    if features & _QED_HAS_BACKING:
        name = read_range(volume, at, min(length, _LONGEST))
        yield from _as_qemu_reads(_text(name), image=not features & _QED_RAW_BACKING)


def _of_vmdk(volume: Volume, head: bytes) -> Iterator[Named]:
    at, length = 0, _LONGEST_TEXT
    if head.startswith(_VMDK_MAGIC):
        at, length = (SECTOR * number for number in _VMDK_DESCRIPTOR.unpack_from(head))
    text = _text(read_range(volume, at, min(length, _LONGEST_TEXT)))
    for name in _VMDK_NAMES.findall(text):
        yield from _as_qemu_reads(name, image=True)


def _of_vhd(volume: Volume, at: int) -> Iterator[Named]:
    """Read what blktap looks for a parent by: its locators, and its name in this folder."""
    header = read_range(volume, at, _VHD_HEADER)
    if len(header) < _VHD_HEADER:
        return
    # Without an id the parent is raw.
    image = any(header[_VHD_PARENT_ID])
    names = [header[_VHD_PARENT].decode("utf-16-be", "replace").partition("\0")[0]]
    for number in range(_VHD_LOCATORS):
        place = _VHD_LOCATORS_AT + number * _VHD_LOCATOR.size
        code, _, length, _, offset = _VHD_LOCATOR.unpack_from(header, place)
        text = read_range(volume, offset, min(length, _LONGEST)) if any(code) else b""
        if code == _VHD_URL:
            names.append(_text(text).removeprefix("file://"))
        else:
            name = text.decode("utf-16-le", "replace").partition("\0")[0].replace("\\", "/")
            names.append(re.sub(r"\A[A-Za-z]:", "", name))
    yield from (Named(name, image) for name in dict.fromkeys(names) if name)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _as_qemu_reads(name: str, *, image: bool, depth: int = 0) -> Iterator[Named]:
    """Take a name as QEMU does: plain, behind protocols, or a set of options in JSON.

    Where that is not certain it is taken for more than QEMU would: what is named is only kept.
    """
    if not name or depth > _DEEPEST:
        return
    if name.startswith("json:"):
        text = name.removeprefix("json:")
        try:
            options = json.loads(text)
        except (ValueError, RecursionError):  # QEMU takes more than that for JSON
            options = list(_strings_in(text))
        yield from _in_options(options, image=image, depth=depth + 1)
        return
    yield Named(name, image)
    first, colon, rest = name.partition(":")
    if colon:  # `blkverify:` has two names
        yield Named(first, image)
        yield from _as_qemu_reads(rest, image=image, depth=depth + 1)


def _strings_in(text: str) -> Iterator[str]:
    """Return all strings of what QEMU takes for JSON, in quotes of either kind."""
    for match in _STRING.finditer(text):
        quoted = match["double"] if match["double"] is not None else match["single"]
        yield _ESCAPED.sub(_unescaped, quoted)


def _unescaped(match: re.Match[str]) -> str:
    code = match["code"]
    return chr(int(code, 16)) if code is not None else _CONTROLS.get(match["one"], match["one"])


def _in_options(options: object, *, image: bool, depth: int) -> Iterator[Named]:
    if depth > _DEEPEST:
        return
    if isinstance(options, str):
        yield from _as_qemu_reads(options, image=image, depth=depth + 1)
    elif isinstance(options, list):
        for one in options:
            yield from _in_options(one, image=image, depth=depth + 1)
    elif isinstance(options, dict):
        driver = options.get("driver")
        if driver in _RAW - {"file"}:
            image = False
        elif isinstance(driver, str) and driver not in _RAW:
            image = True
        for key, value in options.items():
            if key.rpartition(".")[2] != "driver":
                yield from _in_options(value, image=image, depth=depth + 1)
