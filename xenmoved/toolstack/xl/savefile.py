"""The image that `xl save` writes, on its way into `xl migrate-receive`. Sans-IO.

An image is a save-file header (tools/xl/xl.h), the domain's configuration as JSON, and a libxl
stream (docs/specs/libxl-migration-stream.pandoc), in which a libxc stream is nested. `ImageFilter`
takes the bytes as they come and

- rewrites the configuration for this host and refuses what must not come from another one;
- follows the records, and keeps back the END record of the libxl stream, wherever it is: while
  that is missing the toolstack opens no disk. Trusting that the last bytes to arrive are the end
  would let a sender put an END earlier.

`ImageFollower` only follows the records, to know where an image ends that does not end its pipe.

Memory: the header with its configuration (at most 1 MiB), then at most one record header.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Final, NoReturn

from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.readable import Readable, require_given
from xenmoved.toolstack.vetting import rewrite_config

MAGIC: Final = b"Xen saved domain, xl format\n \0 \r"
BYTEORDER: Final = 0x01020304
FLAG_JSON: Final = 1
FLAG_STREAM_V2: Final = 2
CONFIG_LIMIT: Final = 1 << 20
END_RECORD: Final = bytes(8)

LIBXL_IDENT: Final = b"LibxlFmt"
LIBXL_VERSION: Final = 2
LIBXC_MARKER: Final = b"\xff" * 8 + b"XENF"

_HEADER: Final = struct.Struct("=32sIIII")
_U32: Final = struct.Struct("=I")
_LIBXL_HEADER: Final = struct.Struct(">8sII")
_LIBXC_HEADERS: Final = struct.Struct(">12sIH6xIHHII")
_RECORD: Final = struct.Struct("<II")

_END: Final = 0
_LIBXC_CONTEXT: Final = 1
_LIBXL_RECORDS: Final = (_END, _LIBXC_CONTEXT, 2, 3)
_OPTIONAL: Final = 1 << 31


def encode_header(config: bytes) -> bytes:
    """Build a save-file header for a JSON configuration, given without its trailing NUL."""
    body = _U32.pack(len(config) + 1) + config + b"\0"
    return _HEADER.pack(MAGIC, BYTEORDER, FLAG_JSON | FLAG_STREAM_V2, 0, len(body)) + body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _rewritten(
    config: bytes, arrival: Arrival, boot_folders: Readable, left_out: list[str]
) -> bytes:
    try:
        value = json.loads(config, parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise ToolstackError("the image's configuration is not a JSON object.")
        problems = rewrite_config(value, arrival, boot_folders, left_out)
        if problems:
            raise ToolstackError(
                f"the configuration of {arrival.announced_name} in the image is refused: "
                f"{'; '.join(problems[:20])}."
            )
        return json.dumps(value, allow_nan=False).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise ToolstackError(f"the image's configuration is no valid JSON: {error}.") from error


class ImageFollower:
    """Checks the form of one image. Feed it pieces of any size."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pending = bytearray()
        self._wanted = _HEADER.size
        self._next: Callable[[bytes], bytes] = self._header
        self._skip = 0
        self._nested = False
        self._failure: ToolstackError | None = None
        self.configured = False
        self.complete = False

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take the next bytes, return what the toolstack may have of them now.

        Raises ToolstackError when the image is unacceptable, and again whenever it is fed after.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._feed(memoryview(data))
        except ToolstackError as error:
            self._failure = error
            self._pending.clear()
            raise

    def finish(self) -> bytes:
        """Return the END record that was kept back. Raises ToolstackError unless all came."""
        if self._failure is not None:
            raise self._failure
        if not self.complete:
            raise ToolstackError(f"the image of {self._name} is incomplete: it has no END record.")
        return END_RECORD

    def _feed(self, rest: memoryview) -> list[bytes | memoryview]:
        out: list[bytes | memoryview] = []
        while rest:
            if self.complete:
                raise ToolstackError("the image goes on after its END record.")
            if self._skip:
                body, rest = rest[: self._skip], rest[self._skip :]
                self._skip -= len(body)
                out.append(body)
                continue
            missing = self._wanted - len(self._pending)
            self._pending += rest[:missing]
            rest = rest[missing:]
            if len(self._pending) == self._wanted:
                unit = bytes(self._pending)
                self._pending.clear()
                if passed := self._next(unit):
                    out.append(passed)
        return out

    def _expect(self, size: int, handler: Callable[[bytes], bytes]) -> None:
        self._wanted = size
        self._next = handler

    def _header(self, unit: bytes) -> bytes:
        magic, byteorder, mandatory, optional, length = _HEADER.unpack(unit)
        if magic != MAGIC:
            raise ToolstackError("the image does not begin as one that `xl` saved (wrong magic).")
        if byteorder != BYTEORDER:
            raise ToolstackError("the image is of a host with another byte order.")
        if mandatory != FLAG_JSON | FLAG_STREAM_V2 or optional:
            raise ToolstackError(
                f"the image has flags {mandatory:#x}/{optional:#x}, expected 0x3/0x0 "
                "(JSON configuration, stream version 2)."
            )
        if not _U32.size < length <= _U32.size + CONFIG_LIMIT:
            raise ToolstackError(
                f"the image's configuration has {length} bytes, expected up to {CONFIG_LIMIT}."
            )
        self._expect(length, self._config)
        return b""

    def _config(self, unit: bytes) -> bytes:
        (length,) = _U32.unpack_from(unit)
        text = unit[_U32.size :]
        if length != len(text) or not text.endswith(b"\0"):
            raise ToolstackError("the image's configuration has contradictory lengths.")
        self._expect(_LIBXL_HEADER.size, self._libxl_header)
        header = encode_header(self._adapt(text[:-1]))
        self.configured = True
        return header

    def _adapt(self, config: bytes) -> bytes:
        return config

    def _libxl_header(self, unit: bytes) -> bytes:
        ident, version, options = _LIBXL_HEADER.unpack(unit)
        if ident != LIBXL_IDENT or version != LIBXL_VERSION or options != 0:
            raise ToolstackError(
                "the image's libxl stream is not little-endian version 2: "
                f"{ident!r} {version} {options:#x}."
            )
        self._expect(_RECORD.size, self._libxl_record)
        return unit

    def _libxl_record(self, unit: bytes) -> bytes:
        kind, length = _RECORD.unpack(unit)
        if kind not in _LIBXL_RECORDS and not kind & _OPTIONAL:
            raise ToolstackError(f"the image has an unexpected libxl record of type {kind:#x}.")
        if kind == _END:
            if length:
                raise ToolstackError("the image's END record is not empty.")
            self.complete = True
            return b""
        if kind == _LIBXC_CONTEXT:
            # A second one would have the toolstack read memory again into a built domain.
            if length or self._nested:
                raise ToolstackError("the image's LIBXC_CONTEXT record is malformed or repeated.")
            self._nested = True
            self._expect(_LIBXC_HEADERS.size, self._libxc_headers)
            return unit
        self._skip = length + -length % 8
        return unit

    def _libxc_headers(self, unit: bytes) -> bytes:
        marker, version, options, *_ = _LIBXC_HEADERS.unpack(unit)
        if marker != LIBXC_MARKER or version not in (2, 3) or options != 0:
            raise ToolstackError(
                "the image's libxc stream is not little-endian version 2 or 3: "
                f"{marker!r} {version} {options:#x}."
            )
        self._expect(_RECORD.size, self._libxc_record)
        return unit

    def _libxc_record(self, unit: bytes) -> bytes:
        kind, length = _RECORD.unpack(unit)
        if kind == _END:
            if length:
                raise ToolstackError("the END record of the image's memory is not empty.")
            self._expect(_RECORD.size, self._libxl_record)
            return unit
        self._skip = length + -length % 8
        return unit


class ImageFilter(ImageFollower):
    """Checks and adapts one image. Feed it pieces of any size, pass on what it returns."""

    def __init__(self, arrival: Arrival, boot_folders: Readable = BOOT_FOLDERS) -> None:
        super().__init__(arrival.name)
        self._arrival = arrival
        self._boot_folders = boot_folders.for_one()
        self.left_out: list[str] = []
        """What the domain comes without, once `configured`."""

    def _adapt(self, config: bytes) -> bytes:
        return _rewritten(config, self._arrival, self._boot_folders, self.left_out)

    def judge_again(self) -> None:
        """See that the guest may be given still what it is booted from. Blocks.

        Raises ToolstackError.
        """
        require_given(self._boot_folders, self._arrival.announced_name)
