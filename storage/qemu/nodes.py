"""Which of a QEMU's block nodes a guest's disk is.

A device of the guest has one node, on top of a tree: perhaps filters, then a format, beneath it a
protocol, and backing files. Whatever the guest writes passes the top, and what is read there is
what the guest sees.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from storage.backing import backing_of
from storage.contracts import Backing
from storage.errors import QemuError, StorageError, UnsupportedVolume

_PSEUDO: Final = "json:"
_DEPTH: Final = 32
_RAW: Final = "raw"


@dataclass(frozen=True, slots=True)
class DiskNode:
    """The top node of a guest's disk. `format` is by QEMU's name, `size` what the guest sees.

    `cluster` is the size of the clusters of an image in bytes, 0 where it has none.
    """

    name: str
    format: str
    size: int
    cluster: int = 0


def find_nodes(query_block: object, path: str | os.PathLike[str]) -> tuple[DiskNode, ...]:
    """Return the nodes of the disk at `path`, given QEMU's answer to `query-block`.

    A raw image may have several, one for each device of the guest that it is: an emulated one, and
    that of the guest's drivers for Xen, which take over from it. Raises `UnsupportedVolume` when
    QEMU has it for no device, has another image for several, of which only one has the content, or
    has one that is not to be copied as content; `QemuError` for an answer that is none.
    """
    name = os.fspath(path)
    wanted = backing_of(name)
    try:
        found = [one for one in _inserted(query_block) if _is(one["file"], wanted)]
        for one in found:
            _refuse_unfit(name, one["image"])
        nodes = tuple(
            DiskNode(
                one["node-name"],
                one["image"]["format"],
                one["image"]["virtual-size"],
                one["image"].get("cluster-size", 0),
            )
            for one in found
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise QemuError(f"{name}: what QEMU says of its disks is not understood: {error}") from None
    if not nodes:
        raise UnsupportedVolume(f"{name}: QEMU has it for no device of the guest")
    if len(nodes) > 1 and any(node.format != _RAW for node in nodes):
        raise UnsupportedVolume(
            f"{name}: QEMU has it open for {len(nodes)} devices of the guest: one that is emulated "
            "goes when the guest's own drivers for Xen are there"
        )
    return nodes


def _inserted(query_block: Any) -> Iterator[Mapping[str, Any]]:
    """Yield what devices have, each node once."""
    seen: set[str] = set()
    for device in query_block:
        inserted = device.get("inserted")
        if inserted is not None and inserted["node-name"] not in seen:
            seen.add(inserted["node-name"])
            yield inserted


def _is(filename: str, wanted: Backing) -> bool:
    """Whether what QEMU calls a file leads to the same thing, or to its file by a loop device."""
    path = _path_in(filename)
    if not path.startswith("/"):
        return False
    try:
        return backing_of(path).serves(wanted)
    except StorageError:  # nothing is there any more
        return False


def _path_in(filename: str) -> str:
    """Return the path in a name of QEMU's, "" where there is none.

    Nodes with options that no name can say are called by all that they were made of.
    """
    if not filename.startswith(_PSEUDO):
        return filename.removeprefix("file:")
    try:
        made_of = json.loads(filename.removeprefix(_PSEUDO))
    except ValueError:
        return ""
    for _ in range(_DEPTH):
        if not isinstance(made_of, dict):
            break
        if isinstance(made_of.get("filename"), str):
            return str(made_of["filename"])
        made_of = made_of.get("file")
    return ""


def _refuse_unfit(name: str, image: Mapping[str, Any]) -> None:
    """Refuse what would be another disk as plain content, or is in places that nobody named."""
    details = image.get("format-specific", {}).get("data", {})
    if image.get("encrypted"):
        raise UnsupportedVolume(
            f"{name} is encrypted by QEMU: its copy would be in the clear; move it while the guest "
            "is off"
        )
    if "data-file" in details:
        raise UnsupportedVolume(
            f"{name} keeps its data in another file, {details['data-file']}: convert it "
            "(qemu-img convert)"
        )
