"""The head of an image that `xm save` writes. Sans-IO.

`LinuxGuestRecord`, the length of the description as a big-endian 32-bit number, the description
as an S-expression, then what xc_save wrote (xen.git before 4.5, XendCheckpoint.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from protocol.messages import GuestSize
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.readable import Readable, require_given
from xenmoved.toolstack.xm.domain import parse_xm_domain, rewrite_xm_config
from xenmoved.toolstack.xm.sexpr import parse_all, to_string

SIGNATURE: Final = b"LinuxGuestRecord"
CONFIG_LIMIT: Final = 1 << 20
_BESIDE: Final = 32 << 20

_HEAD: Final = struct.Struct(">16si")


def encode_xm_header(config: str) -> bytes:
    """Build the head of an image for a description."""
    raw = config.encode("latin-1")
    return _HEAD.pack(SIGNATURE, len(raw)) + raw


class XmImageFilter:
    """Checks and adapts the head of one image. Feed it pieces of any size."""

    def __init__(
        self,
        arrival: Arrival,
        boot_folders: Readable,
        is_block: Callable[[str], bool],
    ) -> None:
        self._arrival = arrival
        self._boot_folders = boot_folders.for_one()
        self._is_block = is_block
        self.left_out: list[str] = []
        """What the domain comes without, once `configured`."""
        self.size: GuestSize | None = None
        """How large the domain is by its description, once `configured`."""
        self._pending = bytearray()
        self._wanted = _HEAD.size
        self._failure: ToolstackError | None = None
        self.configured = False

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take the next bytes, return what may be restored of them.

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

    def _feed(self, rest: memoryview) -> list[bytes | memoryview]:
        out: list[bytes | memoryview] = []
        while rest and not self.configured:
            missing = self._wanted - len(self._pending)
            self._pending += rest[:missing]
            rest = rest[missing:]
            if len(self._pending) < self._wanted:
                break
            if self._wanted == _HEAD.size:
                signature, length = _HEAD.unpack(self._pending)
                if signature != SIGNATURE:
                    raise ToolstackError("the image does not begin as one that `xm` saved.")
                if not 0 < length <= CONFIG_LIMIT:
                    raise ToolstackError(
                        f"the image's description has {length} bytes, expected up to "
                        f"{CONFIG_LIMIT}."
                    )
                self._wanted += length
            else:
                out.append(self._rewritten(self._pending[_HEAD.size :].decode("latin-1")))
                self._pending.clear()
                self.configured = True
        if rest:
            out.append(rest)
        return out

    def _rewritten(self, text: str) -> bytes:
        expressions = parse_all(text)
        if len(expressions) != 1:
            raise ToolstackError("the image's description is not one S-expression.")
        problems = rewrite_xm_config(
            expressions[0], self._arrival, self._boot_folders, self._is_block, self.left_out
        )
        if problems:
            raise ToolstackError(
                f"the description of {self._arrival.name} in the image is refused: "
                f"{'; '.join(problems[:20])}."
            )
        self.size = parse_xm_domain(expressions[0]).size
        return encode_xm_header(to_string(expressions[0]))

    def judge_again(self) -> None:
        """See that the guest may be given still what it is booted from. Blocks.

        Raises ToolstackError.
        """
        require_given(self._boot_folders, self._arrival.name)


def image_limit(size: GuestSize) -> int:
    """Return how many bytes an image of a domain of this size can have at most.

    A domain that stands still is saved once: each page, and for each that it may be given, whether
    there is one or not, 8 bytes of its type and a little for its batch and the list of frames, at
    most 16 bytes for 4 KiB. What it may be given is only announced, so that counts up to its
    memory. The rest has a bound of its own: the description, the vcpus, the hole below 4 GiB, the
    state of the device model and its video memory.
    """
    return size.memory + min(max(size.memory, size.maximum) // 256, size.memory) + _BESIDE
