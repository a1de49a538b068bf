"""Public keys of peers, as text.

The check is made here in a few lines because the client reads configurations too, and must start
faster than an SSH library can be imported.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

ALGORITHM: Final = "ssh-ed25519"

_KEY_LENGTH = 32
_EXAMPLE = f"paste the peer's whole public key, '{ALGORITHM} AAAA...'"


def parse_public_key(written: object) -> str:
    """Return the key as ``ssh-ed25519 AAAA...``, without its comment. Raises ValueError.

    Two texts denote the same key exactly if the results are equal.
    """
    words = written.split() if isinstance(written, str) else []
    if len(words) < 2:
        raise ValueError(f"is no public key: {_EXAMPLE}")
    algorithm, text = words[0], words[1]
    if algorithm != ALGORITHM:
        raise ValueError(f"is a key of type {algorithm!r}, must be {ALGORITHM}: {_EXAMPLE}")
    try:
        blob = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"is damaged (not base64), perhaps cut off: {_EXAMPLE}") from None
    # RFC 8709: two strings, each with its length in front: the algorithm, then the key.
    name, rest = _string(blob)
    key, tail = _string(rest)
    if name != ALGORITHM.encode():
        raise ValueError(f"is damaged (holds no {ALGORITHM} key): {_EXAMPLE}")
    if len(key) != _KEY_LENGTH or tail:
        raise ValueError(f"is damaged (wrong length), perhaps cut off: {_EXAMPLE}")
    return f"{ALGORITHM} {base64.b64encode(blob).decode()}"


def fingerprint_of(key: str) -> str:
    """Return the fingerprint of a parsed key as ``SHA256:...``, as ssh-keygen -l shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _string(blob: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length], blob[4 + length :]
