"""The save-file header and the stream of libxl, written and read.

    header      32-byte magic; u32 byte order, mandatory flags, optional flags, length of the rest;
                the rest: u32 length of the configuration, JSON, NUL
    libxl       big-endian "LibxlFmt", version, options; then records, of which only LIBXC_CONTEXT
                and END are written
    libxc       image header, domain header, records up to an END of its own

Records are {u32 type, u32 length}, padded to 8 bytes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time

from xenmoved.sandbox.host import CommandFailed
from xenmoved.sandbox.ram import PAGE, MemoryDamaged, Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAGIC = b"Xen saved domain, xl format\n \0 \r"
BYTE_ORDER = 0x01020304
FLAG_JSON = 1
FLAG_STREAM_V2 = 2
HEADER = struct.Struct("=32sIIII")
MAX_OPTIONAL = 16 << 20

LIBXL_HEADER = struct.Struct(">QII")
LIBXL_IDENT = 0x4C6962786C466D74  # "LibxlFmt"
LIBXL_VERSION = 2
RECORD = struct.Struct("=II")
LIBXL_END = 0
LIBXL_LIBXC_CONTEXT = 1
LIBXL_KNOWN = (2, 3)  # emulator records, skipped

LIBXC_HEADER = struct.Struct(">QIIHHI")
LIBXC_MARKER = 0xFFFFFFFFFFFFFFFF
LIBXC_ID = 0x58454E46
LIBXC_VERSION = 3
DOMAIN_HEADER = struct.Struct("=IHHII")
LIBXC_END = 0
LIBXC_PAGE_DATA = 1
LIBXC_STATIC_DATA_END = 0x10
MAX_RECORD = 128 << 20
BATCH = 256  # pages
END = RECORD.pack(0, 0)


class StreamFailed(CommandFailed):
    """The stream could not be written, or is not what it must be."""


class Output:
    """The writing end, with the failures that a test asked for."""

    def __init__(self, descriptor: int, faults: dict[str, Any]) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._limit: int | None = faults.get("fail_after_bytes")
        self._corrupt_at: int = faults.get("corrupt_byte_at", -1)
        self._delay: float = faults.get("delay_per_mib", 0.0)

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises StreamFailed."""
        if 0 <= self._corrupt_at - self._written < len(data):
            at = self._corrupt_at - self._written
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        if self._delay:
            time.sleep(self._delay * len(data) / (1 << 20))
        view = memoryview(data)
        try:
            while view:
                if self._limit is not None and self._written + len(view) > self._limit:
                    if self._limit > self._written:
                        os.write(self._descriptor, view[: self._limit - self._written])
                    raise OSError(28, "No space left on device")
                done = os.write(self._descriptor, view)
                self._written += done
                view = view[done:]
        except OSError as error:
            raise StreamFailed(
                "libxl: error: libxl_aoutils.c:539:datacopier_writable: "
                f"unable to write stream: {error.strerror}\n"
                "libxl: error: libxl_stream_write.c:347:stream_complete: stream failed"
            ) from error


def read_exactly(descriptor: int, length: int, what: str) -> bytes:
    """Read exactly `length` bytes. Raises StreamFailed."""
    parts = []
    left = length
    while left:
        part = os.read(descriptor, min(left, 1 << 20))
        if not part:
            raise StreamFailed(
                "libxl: error: libxl_utils.c:507:libxl_read_exactly: "
                f"file/stream truncated reading {what}"
            )
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def config_blob(config: dict[str, Any]) -> bytes:
    """Encode a configuration as a header carries it: JSON and a trailing NUL."""
    return json.dumps(config, indent=2).encode() + b"\0"


def write_header(output: Output, config: dict[str, Any], target: str) -> None:
    """Write the save-file header."""
    blob = config_blob(config)
    optional = struct.pack("=I", len(blob)) + blob
    flags = FLAG_JSON | FLAG_STREAM_V2
    output.write(HEADER.pack(MAGIC, BYTE_ORDER, flags, 0, len(optional)) + optional)
    print(
        f"Saving to {target} new xl format (info 0x{flags:x}/0x0/{len(optional)})", file=sys.stderr
    )


def read_header(descriptor: int, source: str) -> dict[str, Any]:
    """Read the save-file header; returns the configuration."""
    magic, order, mandatory, optional, length = HEADER.unpack(
        read_exactly(descriptor, HEADER.size, "header")
    )
    if magic != MAGIC:
        raise StreamFailed("File has wrong magic number - corrupt or for a different tool?")
    if order != BYTE_ORDER:
        raise StreamFailed("File has wrong byte order")
    print(
        f"Loading new save file {source} (new xl fmt info 0x{mandatory:x}/0x{optional:x}/{length})",
        file=sys.stderr,
    )
    unknown = mandatory & ~(FLAG_JSON | FLAG_STREAM_V2)
    if unknown:
        raise StreamFailed(
            f"Savefile has mandatory flag(s) 0x{unknown:x} which are not supported; need newer xl"
        )
    if mandatory != FLAG_JSON | FLAG_STREAM_V2 or length > MAX_OPTIONAL:
        raise StreamFailed("the sandbox reads only JSON configurations and streams of version 2")
    data = read_exactly(descriptor, length, "optdata")
    size = struct.unpack_from("=I", data)[0] if length >= 4 else length
    if size > length - 4:
        raise StreamFailed("Savefile truncated.")
    print(" Savefile contains xl domain config in JSON format", file=sys.stderr)
    print("Parsing config from <saved>", file=sys.stderr)
    try:
        config: dict[str, Any] = json.loads(data[4 : 4 + size].rstrip(b"\0"))
    except ValueError as error:
        raise StreamFailed("libxl: error: unable to generate config from JSON") from error
    return config


def write_libxl_start(output: Output) -> None:
    """Write what comes before the libxc stream."""
    output.write(
        LIBXL_HEADER.pack(LIBXL_IDENT, LIBXL_VERSION, 0) + RECORD.pack(LIBXL_LIBXC_CONTEXT, 0)
    )


def write_libxc_start(output: Output, kind: str) -> None:
    """Write the headers of the libxc stream."""
    output.write(
        LIBXC_HEADER.pack(LIBXC_MARKER, LIBXC_ID, LIBXC_VERSION, 0, 0, 0)
        + DOMAIN_HEADER.pack(1 if kind == "pv" else 2, 12, 0, 4, 17)
        + RECORD.pack(LIBXC_STATIC_DATA_END, 0)
    )


def write_pages(output: Output, memory: Ram, numbers: Sequence[int]) -> None:
    """Write pages, which count as clean from then on."""
    for first in range(0, len(numbers), BATCH):
        batch = numbers[first : first + BATCH]
        count = len(batch)
        head = struct.pack(f"=II{count}Q", count, 0, *batch)
        data = b"".join([memory.take(number) for number in batch])
        output.write(RECORD.pack(LIBXC_PAGE_DATA, len(head) + len(data)) + head + data)


def read_libxl_start(descriptor: int) -> None:
    """Read what comes before the libxc stream."""
    ident, version, options = LIBXL_HEADER.unpack(
        read_exactly(descriptor, LIBXL_HEADER.size, "stream header")
    )
    if (ident, version, options) != (LIBXL_IDENT, LIBXL_VERSION, 0):
        raise StreamFailed("libxl: error: libxl_stream_read.c:346:stream_header_done: bad header")
    kind, length = RECORD.unpack(read_exactly(descriptor, RECORD.size, "record header"))
    if (kind, length) != (LIBXL_LIBXC_CONTEXT, 0):
        raise StreamFailed(f"libxl: error: unrecognised record 0x{kind:08x}")


def read_libxc(descriptor: int, memory: Ram) -> None:
    """Read the libxc stream into memory, up to its own END, and verify the memory."""
    marker, ident, version, *_ = LIBXC_HEADER.unpack(
        read_exactly(descriptor, LIBXC_HEADER.size, "image header")
    )
    if (marker, ident, version) != (LIBXC_MARKER, LIBXC_ID, LIBXC_VERSION):
        raise StreamFailed("xc: error: Invalid image header: Internal error")
    read_exactly(descriptor, DOMAIN_HEADER.size, "domain header")
    while True:
        kind, length = RECORD.unpack(read_exactly(descriptor, RECORD.size, "record header"))
        if length > MAX_RECORD:
            raise StreamFailed(f"xc: error: Record (0x{kind:08x}) length {length} exceeds maximum")
        data = read_exactly(descriptor, -(-length // 8) * 8, "record")
        if kind == LIBXC_END:
            break
        if kind == LIBXC_PAGE_DATA:
            _place_pages(memory, data)
        elif kind != LIBXC_STATIC_DATA_END:
            raise StreamFailed(f"xc: error: Mandatory record 0x{kind:08x} not handled")
    try:
        memory.verify()
    except MemoryDamaged as error:
        raise StreamFailed(f"xc: error: Restore failed: {error}") from error


def _place_pages(memory: Ram, data: bytes) -> None:
    count = struct.unpack_from("=I", data)[0] if len(data) >= 8 else 0
    start = 8 + 8 * count
    if len(data) != start + count * PAGE or not count:
        raise StreamFailed("xc: error: PAGE_DATA record of the wrong length: Internal error")
    numbers = struct.unpack_from(f"={count}Q", data, 8)
    for i, number in enumerate(numbers):
        if number >= memory.pages:
            raise StreamFailed(f"xc: error: pfn {number:#x} outside domain maximum")
        memory.put(number, data[start + i * PAGE : start + (i + 1) * PAGE])


def read_libxl_end(descriptor: int) -> None:
    """Read the rest of the libxl stream, up to and with its END, and not a byte more."""
    while True:
        kind, length = RECORD.unpack(read_exactly(descriptor, RECORD.size, "record header"))
        if kind == LIBXL_END:
            return
        if kind not in LIBXL_KNOWN or length > MAX_RECORD:
            raise StreamFailed(f"libxl: error: unrecognised record 0x{kind:08x}")
        read_exactly(descriptor, -(-length // 8) * 8, "record")
