"""The memory of a guest: all that it knows is in here, and this is what an image carries.

It lives in a memfd of the guest process, which `xl` maps as a real toolstack maps foreign memory.
Behind the pages lies one byte a page that the guest sets after it wrote there ("log dirty").

    pages 0-3   what never changes: identity, knobs, layout of disks (length, checksum, JSON)
    page 4      sequence number
    page 5      checksum over all other pages, valid while the guest is suspended, and their bytes:
                a host may have given the guest more memory than it has taken yet
    then        one entry (sequence number, checksum, flags) for every unit of the working area
    then        filler that is dirtied all the time, a part of it incompressible
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import zlib

from xenmoved.sandbox.blocks import CHUNK, CHUNK_UNITS, UNIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE = 4096
_SEQUENCE_AT = 4 * PAGE
_SEAL_AT = 5 * PAGE
_TABLE_AT = 6 * PAGE
_ENTRY = struct.Struct("<QII")
_WORD = struct.Struct("<Q")
_SEAL = struct.Struct("<QQ")
_STATIC = struct.Struct("<II")
_CHUNK_ENTRIES = _ENTRY.size * CHUNK_UNITS

DEFAULT_KNOBS: dict[str, float] = {
    "rate": 2.0,  # MiB/s written to the disks
    "writes": 0.0,  # writes a second; instead of rate when not 0
    "share": 0.25,  # share of every disk that is written to
    "zero": 0.1,  # share of the writes that are zeroes
    "checks": 50.0,  # blocks a second that are re-read
    "dirty": 1.0,  # MiB/s of memory
}


class MemoryDamaged(Exception):
    """The memory is not what the guest left when it was suspended."""


def allocate(mebibytes: int) -> int:
    """Return a descriptor of fresh guest memory, all zero."""
    pages = mebibytes * 256
    descriptor = os.memfd_create("xen-guest-memory")
    os.ftruncate(descriptor, pages * (PAGE + 1))
    return descriptor


def knobs_from(command_line: str) -> dict[str, float]:
    """Knobs from the guest's kernel command line: words like `sandbox.rate=2`."""
    knobs = dict(DEFAULT_KNOBS)
    for word in command_line.split():
        key, _, value = word.removeprefix("sandbox.").partition("=")
        if word.startswith("sandbox.") and key in knobs:
            knobs[key] = float(value)
    return knobs


class Ram:
    """A mapping of guest memory."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0)
        self.pages = len(self._map) // (PAGE + 1)
        self.bytes = self.pages * PAGE
        self._dirty_at = self.bytes

    # --- what a toolstack does with it ---

    def page(self, number: int) -> bytes:
        """Content of one page."""
        return self._map[number * PAGE : (number + 1) * PAGE]

    def dirty(self) -> list[int]:
        """Pages written since they were last taken, without forgetting them."""
        marks = self._map[self._dirty_at :]
        found = []
        at = marks.find(1)
        while at >= 0:
            found.append(at)
            at = marks.find(1, at + 1)
        return found

    def take(self, number: int) -> bytes:
        """Content of one page, no longer counted as dirty unless it is written again.

        The mark goes first: a write that overlaps the copy sets it again afterwards.
        """
        self._map[self._dirty_at + number] = 0
        return self.page(number)

    def put(self, number: int, data: bytes) -> None:
        """Set one page of a domain that is being built."""
        self._map[number * PAGE : (number + 1) * PAGE] = data

    def verify(self) -> None:
        """Raise MemoryDamaged unless the content is exactly that of the suspended guest."""
        seal, sealed = _SEAL.unpack_from(self._map, _SEAL_AT)
        if seal != self._checksum(sealed):
            raise MemoryDamaged("checksum of the guest's memory does not match")

    # --- what the guest does with it ---

    def store(self, offset: int, data: bytes) -> None:
        """Write and log as dirty."""
        self._map[offset : offset + len(data)] = data
        first, last = offset // PAGE, (offset + len(data) - 1) // PAGE
        for number in range(first, last + 1):
            self._map[self._dirty_at + number] = 1

    def seal(self) -> None:
        """Note the checksum over everything, as the last thing before a suspension."""
        self.store(_SEAL_AT, _SEAL.pack(self._checksum(self.bytes), self.bytes))

    def _checksum(self, end: int) -> int:
        with memoryview(self._map) as view:
            value = zlib.crc32(view[:_SEAL_AT])
            value = zlib.crc32(view[_TABLE_AT:end], value)
        return value | 1 << 32  # never 0, which is what fresh memory holds

    @property
    def sequence(self) -> int:
        """Number of the last thing that the guest did."""
        return int(_WORD.unpack_from(self._map, _SEQUENCE_AT)[0])

    @sequence.setter
    def sequence(self, value: int) -> None:
        self.store(_SEQUENCE_AT, _WORD.pack(value))

    def boot(self, uuid: str, knobs: dict[str, float], disks: list[tuple[str, int]]) -> None:
        """Lay out fresh memory for writable disks, given as (vdev, bytes)."""
        at = _TABLE_AT
        room = self.bytes // 2 // max(len(disks), 1) // _CHUNK_ENTRIES
        layout = []
        for vdev, size in disks:
            total = size // CHUNK
            working = min(max(int(total * knobs["share"]), min(total, 1)), room)
            layout.append(
                {"vdev": vdev, "size": size, "total": total, "working": working, "table": at}
            )
            at += working * _CHUNK_ENTRIES
        filler = -(-at // PAGE)
        static = {"uuid": uuid, "knobs": knobs, "disks": layout, "filler": filler}
        text = json.dumps(static).encode()
        if _STATIC.size + len(text) > _SEQUENCE_AT or filler >= self.pages:
            raise MemoryDamaged("too little memory for that many disks")
        self.store(0, _STATIC.pack(len(text), zlib.crc32(text)) + text)
        for first in range(filler, self.pages, 256):
            count = min(256, self.pages - first)
            random_part = os.urandom(count * PAGE // 2)
            self.store(first * PAGE, random_part + b"\x5a" * (count * PAGE - len(random_part)))

    def static(self) -> dict[str, Any]:
        """Return what `boot` laid down."""
        length, checksum = _STATIC.unpack_from(self._map)
        text = self._map[_STATIC.size : _STATIC.size + length]
        if zlib.crc32(text) != checksum:
            raise MemoryDamaged("there is no guest in this memory")
        return dict(json.loads(text))

    def dirty_filler(self, filler: int) -> None:
        """Write one page that holds nothing of interest."""
        self.store(random.randrange(filler, self.pages) * PAGE, random.randbytes(PAGE))

    def table(self, layout: dict[str, Any]) -> Table:
        """Return the entries of one disk."""
        return Table(self, self._map, layout)


class Table:
    """What the guest remembers of one disk: the last write of every unit of its working area.

    The working area is spread evenly over the disk in chunks. `index` counts its units.
    """

    def __init__(self, ram: Ram, mapping: mmap.mmap, layout: dict[str, Any]) -> None:
        self._ram = ram
        self._map = mapping
        self._at: int = layout["table"]
        self._total: int = layout["total"]
        self.working: int = layout["working"]
        self.vdev: str = layout["vdev"]
        self.size: int = layout["size"]

    def unit(self, index: int) -> int:
        """Place on the disk, in units, of a unit of the working area."""
        chunk, rest = divmod(index, CHUNK_UNITS)
        return chunk * self._total // self.working * CHUNK_UNITS + rest

    def offset(self, index: int) -> int:
        """Place on the disk in bytes."""
        return self.unit(index) * UNIT

    def get(self, index: int) -> tuple[int, int, bool]:
        """Sequence number of the last write (0: never), its checksum, whether it was zeroes."""
        entry = _ENTRY.unpack_from(self._map, self._at + index * _ENTRY.size)
        return entry[0], entry[1], bool(entry[2])

    def set(self, index: int, sequence: int, checksum: int, zeroes: bool) -> None:
        """Remember a write."""
        self._ram.store(
            self._at + index * _ENTRY.size, _ENTRY.pack(sequence, checksum, int(zeroes))
        )

    def written(self) -> list[int]:
        """Every index that was ever written."""
        end = self._at + self.working * _CHUNK_ENTRIES
        entries = _ENTRY.iter_unpack(self._map[self._at : end])
        return [index for index, entry in enumerate(entries) if entry[0]]
