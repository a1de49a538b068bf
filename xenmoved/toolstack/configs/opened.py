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
from xenmoved.toolstack.interface import ToolstackError

_PATH: Final = re.compile(r"""(?=/)[^\s'",;\[\]()]+""")
_DISK_PATH: Final = re.compile(r"""(?:(?<=phy:)|(?=/))[^\s'",;\[\]()]+""")
"""After `phy:` the path of a disk may be below /dev."""
_IMAGES: Final = re.compile(r"\b(qcow2?|vhd|qed|vmdk|vdi)\b", re.IGNORECASE)
_OF_PARTS: Final = policy.words("bootloader_args bootargs vif vif2 vfb")
"""Keys in parts of which any text may stand, and that have no disk opened."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a configuration has a toolstack open: absolute paths, and the formats of images.

    `doubtful` are texts in which paths were only searched for: one with blanks in it may be there,
    and is not among `paths`.
    """

    paths: frozenset[str]
    formats: frozenset[str]
    doubtful: tuple[str, ...]


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
    doubtful: list[str] = []
    for key, value in said:
        if key != "disk":
            paths.update(_PATH.findall(value))
        elif (path := _plain_disk(value)) is not None:
            paths.add(path)
        else:
            doubtful.append(value)
            paths |= {
                path if path.startswith("/") else f"/dev/{path}"
                for path in _DISK_PATH.findall(value)
            }
    formats = {word.lower() for _, value in said for word in _IMAGES.findall(value)}
    return Opened(frozenset(filter(None, paths)), frozenset(formats), tuple(doubtful))


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


def _plain_disk(spec: str) -> str | None:
    """Return the path of a disk, "" for an empty drive, None where it is not certain."""
    if "\\" in spec:
        return None
    try:
        path = describe_disk(spec).path
    except ToolstackError:
        return None
    return path if path.startswith("/") or not path else None
