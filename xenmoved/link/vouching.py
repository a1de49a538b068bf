"""Certificates in the place of keys, at both ends of a connection.

asyncssh has certificates, but tells nobody which one it takes: only the key of its authority can be
looked at before, and afterwards nothing of it. So what it does with one is replaced here, by
methods of its own: where a later release had them under other names, no certificate would be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import asyncssh

from xenmoved.link.options import CERTIFICATES
from xenmoved.trust.certificate import Certificate, text_of_blob
from xenmoved.trust.refusals import Refusal

_PREFIX = len(CERTIFICATES[0]).to_bytes(4, "big") + CERTIFICATES[0].encode()


class Trust(Protocol):
    """What the listener asks about those who connect: `xenmoved.trust.roster.Roster`."""

    def peer_of_key(self, key: str) -> str | None:
        """Return the peer to which a public key is pinned. Raises Refusal if it is revoked."""

    def admit(self, untrusted_text: str) -> Certificate:
        """Return a certificate that is believed. Raises Refusal."""

    def proven(self, certificate: Certificate) -> None:
        """Note what a peer has proven."""

    def stands(self, certificate: Certificate) -> bool:
        """Whether a connection that began with a certificate may go on."""

    def revoked(self, key: str) -> bool:
        """Whether nothing is believed of a public key any more."""

    def current(self, certificate: Certificate) -> bool:
        """Whether a certificate that was believed has not expired."""

    def settles(self, key: str) -> str | None:
        """Return the peer whose migrations a key may ask about."""


def key_pair(key: asyncssh.SSHKey, certificate: Certificate) -> tuple[Any, Any]:
    """Return a key as asyncssh takes it to prove it with its certificate first, or without."""
    return key, asyncssh.import_certificate(certificate.text)


def key_of(certificate: Certificate) -> asyncssh.SSHKey:
    """Return the key for which a certificate vouches."""
    return asyncssh.import_public_key(certificate.key)


def take_host_certificate(connection: Any, judge: Callable[[str], Certificate]) -> None:
    """Have a client take a host only with a certificate that `judge` returns; it raises Refusal.

    It is judged once: when keys are exchanged again, the host has to prove the same.
    """
    accepted: dict[bytes, asyncssh.SSHKey] = {}

    def validate(_host: str, _address: str, _port: int, untrusted: bytes) -> asyncssh.SSHKey:
        if untrusted not in accepted:
            if accepted:
                raise ValueError("another certificate than before")
            try:
                key = key_of(judge(text_of_blob(untrusted)))
            except Refusal as refusal:
                raise ValueError(str(refusal)) from None
            accepted[untrusted] = key
        return accepted[untrusted]

    connection._validate_host_key = validate


def take_login_certificate(
    connection: Any, judge: Callable[[str, str], Certificate | None]
) -> None:
    """Have a server take a certificate for a login if `judge`, asked with the user, returns it.

    Whatever is no certificate goes on to be a plain key.
    """

    async def validate(username: str, untrusted: bytes) -> asyncssh.SSHKey | None:
        if not untrusted.startswith(_PREFIX):
            return None
        certificate = judge(username, text_of_blob(untrusted))
        return key_of(certificate) if certificate is not None else None

    connection._validate_client_certificate = validate
