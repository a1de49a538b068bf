"""Errors of the protocol package.

SchemaError      plain data does not fit the declared type: where, and why
ProtocolError    the other side broke the protocol; the connection is closed, migrations are aborted
  ReleasesDiffer   it did not: its release and this one have too little in common
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable codes of protocol errors; they are part of the wire specification."""

    BAD_FRAME = "bad-frame"
    TOO_LARGE = "too-large"
    BAD_MESSAGE = "bad-message"
    UNKNOWN_MESSAGE = "unknown-message"
    UNEXPECTED = "unexpected"
    OUT_OF_RANGE = "out-of-range"
    VERSION = "version"
    DIGEST = "digest"
    CREDIT = "credit"


class SchemaError(ValueError):
    """Plain data does not fit the declared type.

    `path` names the place as a chain of keys and indices, `reason` says what is wrong there.
    """

    def __init__(self, path: tuple[str | int, ...], reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{self.where}: {reason}" if path else reason)

    @property
    def where(self) -> str:
        """The path as text, such as ``peers.host-b.allow[0]``."""
        text = ""
        for part in self.path:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                text += f".{part}" if text else part
        return text


class ProtocolError(Exception):
    """The other side broke the protocol."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{reason} ({code})")


class ReleasesDiffer(ProtocolError):
    """Two releases have no version in common, or one lacks what is required.

    `peer_is_older`: the `peer` is the one to be upgraded. `needed` is to what, in words.
    """

    def __init__(self, peer: str, reason: str, needed: str, *, peer_is_older: bool) -> None:
        super().__init__(Code.VERSION, reason)
        self.peer = peer
        self.needed = needed
        self.peer_is_older = peer_is_older
