"""Key of this host: made at the first start, used as host key and as client key."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh


class IdentityError(Exception):
    """The key file cannot be used. The message says why and what to do."""


def load_identity(path: Path) -> asyncssh.SSHKey:
    """Return the key in `path`, making one with mode 0600 when there is no such file.

    Raises IdentityError when the file is readable to others, or is not an ed25519 private key.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _make_identity(path)
    if mode & 0o077:
        raise IdentityError(
            f"{path}: mode {mode & 0o777:04o} lets others read the key: chmod 600 it, and replace "
            "it if somebody may have"
        )
    try:
        key = asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError) as error:
        raise IdentityError(f"{path}: not a usable private key: {error}") from None
    if key.algorithm != b"ssh-ed25519":
        raise IdentityError(f"{path}: must be an ed25519 key, not {key.algorithm.decode()}")
    return key


def public_text(key: asyncssh.SSHKey) -> str:
    """Return the public half as ``ssh-ed25519 AAAA…``, without a comment."""
    return " ".join(key.export_public_key().decode("ascii").split()[:2])


def parse_public(text: str) -> asyncssh.SSHKey:
    """Return the public key of a line ``ssh-ed25519 AAAA…``. Raises asyncssh.KeyImportError."""
    return asyncssh.import_public_key(text)


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Return the SHA-256 fingerprint as ``SHA256:…``, as ssh-keygen -l shows it."""
    return key.get_fingerprint()


def _make_identity(path: Path) -> asyncssh.SSHKey:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="xenmoved")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.export_private_key())
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return key
