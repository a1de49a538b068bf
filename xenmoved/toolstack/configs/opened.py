"""Which files of this host a toolstack opens for the guest of a configuration file.

Only what a toolstack takes for the name of a file counts. A path that stands elsewhere, in a
comment or in the guest's kernel command line, may be anybody's word: it may have come from another
host. In a text that is no list of plain assignments, so perhaps a program, all that looks like a
path counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from xenmoved.toolstack import policy
from xenmoved.toolstack.configs.device_text import describe_disk
from xenmoved.toolstack.configs.per_text import per_text
from xenmoved.toolstack.configs.text import own_disks, statements
from xenmoved.toolstack.interface import Disk, ToolstackError

_PATH: Final = re.compile(r"""(?=/)[^\s'",;\[\]()]+""")
_DISK_PATH: Final = re.compile(r"""(?:(?<=phy:)|(?=/))[^\s'",;\[\]()]+""")
"""After `phy:` the path of a disk may be below /dev."""
_IMAGES: Final = re.compile(r"\b(qcow2?|vhd|qed|vmdk|vdi)\b", re.IGNORECASE)
_OF_PARTS: Final = policy.words("bootloader_args bootargs vif vif2 vfb")
"""Keys in parts of which any text may stand, and that have no disk opened."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a configuration has a toolstack open: absolute paths, and the formats of images.

    `images` are the paths of those that may be opened as images, with what their headers name. Of
    a disk that is said to be raw nothing is: its guest writes what looks like a header.
    `doubtful` are texts in which paths were only searched for: one with blanks in it may be there,
    and is not among `paths`.
    """

    paths: frozenset[str]
    formats: frozenset[str]
    doubtful: tuple[str, ...]
    images: frozenset[str] = frozenset()


@per_text
def opened(text: str) -> Opened:
    """Find what a configuration has a toolstack open."""
    try:
        said = [
            (one.key, text[start:end])
            for one in statements(text)
            if not _is_free(one.key)
            for start, end in one.strings
        ]
    except ToolstackError:
        said = [("disk", text)]
    paths: set[str] = set()
    images: set[str] = set()
    doubtful: list[str] = []
    for key, value in said:
        if key != "disk":
            named = set(_PATH.findall(value))
            is_image = not _is_plain_file(key)
        elif (disk := _plain_disk(value)) is not None:
            named, is_image = {disk.path}, disk.format != "raw"
        else:
            doubtful.append(value)
            found = _DISK_PATH.findall(value)
            named = {path if path.startswith("/") else f"/dev/{path}" for path in found}
            is_image = _IMAGES.search(value) is not None
        paths |= named
        images |= named if is_image else set()
    formats = {word.lower() for _, value in said for word in _IMAGES.findall(value)}
    return Opened(
        frozenset(filter(None, paths)),
        frozenset(formats),
        tuple(doubtful),
        frozenset(filter(None, images)),
    )


def written(text: str) -> frozenset[str]:
    """Return the paths of the disks that a configuration's guest writes.

    Where that is not certain, of all that it has opened.
    """
    said = own_disks(text)
    return opened(text).paths if said is None else said


def _is_free(key: str) -> bool:
    """Whether a peer may write any path there, as nothing is opened by it."""
    rule = policy.DOMAIN.get(key)
    return key in _OF_PARTS or (rule is not None and rule.pattern.fullmatch("/") is not None)


def _is_plain_file(key: str) -> bool:
    """Whether what is named there is read as it is: nobody looks for a disk in it."""
    rule = policy.DOMAIN.get(key)
    return key == "bootloader" or (rule is not None and rule.path)


def _plain_disk(spec: str) -> Disk | None:
    """Describe a disk, with the path "" for an empty drive, None where it is not certain."""
    if "\\" in spec:
        return None
    try:
        disk = describe_disk(spec)
    except ToolstackError:
        return None
    return disk if disk.path.startswith("/") or not disk.path else None
