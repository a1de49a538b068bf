"""Certificates of hosts, in OpenSSH's format: read, checked, and signed.

The format is OpenSSH's PROTOCOL.certkeys; `ssh-keygen -L -f FILE` shows one. It is parsed, and its
signature checked, by the package `cryptography`. One kind is known here: a host certificate of an
ed25519 key, signed by an ed25519 key, with the principals `host:NAME` and `group:NAME`, so that
certificates for other purposes, which the same authority may sign, are worth nothing here, and
these are worth nothing to `ssh`, which looks for the names of hosts as they are.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_identity,
    load_ssh_public_key,
)

from xenmoved.config.fields import NAME_PATTERN
from xenmoved.config.model import Fleet
from xenmoved.trust.refusals import Flaw, Refusal

ALGORITHM: Final = "ssh-ed25519-cert-v01@openssh.com"

_HOST: Final = "host:"
_GROUP: Final = "group:"
_MOST_GROUPS: Final = 64
_LONGEST: Final = 16 * 1024
"""Characters of a certificate: one with all groups that it may have has less."""
_SERIAL_BITS: Final = 48
"""Of serials that are chosen: chance keeps those of all authorities apart."""
_SIGN_AGAIN: Final = "have it signed again by the authority: xenmovectl ca sign"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose form and signature are right. Whether it is believed is for `Roster`.

    `key` is the host's and `authority` that of the signer, as ``ssh-ed25519 AAAA...``. It is valid
    from `valid_after` until before `valid_before`, in seconds since 1970. `text` is its line.
    """

    name: str
    groups: tuple[str, ...]
    key: str
    authority: str
    serial: int
    valid_after: int
    valid_before: int
    text: str

    @property
    def blob(self) -> bytes:
        """The certificate as it is on the wire."""
        return base64.b64decode(self.text.split()[1])


def is_revoked(certificate: Certificate, fleet: Fleet) -> bool:
    """Whether a fleet file says that nothing is believed of a certificate any more."""
    return fleet.revokes(certificate.key) or fleet.revokes_serial(certificate.serial)


def text_of_blob(untrusted_blob: bytes) -> str:
    """Return what is on the wire as the line that it is in a file."""
    return f"{ALGORITHM} {base64.b64encode(untrusted_blob).decode()}"


def read_certificate(untrusted_text: str) -> Certificate:
    """Return the certificate of a line ``ssh-ed25519-cert-v01@openssh.com AAAA...``.

    A comment after it is dropped. Raises Refusal.
    """
    words = untrusted_text.split()
    if len(words) < 2 or len(untrusted_text) > _LONGEST:
        raise _damaged("it is no certificate of OpenSSH")
    if words[0] != ALGORITHM:
        shown = words[0][:60] if words[0].isprintable() else "of another kind"
        raise Refusal(Flaw.KIND, f"it is not {ALGORITHM}, but {shown}", _SIGN_AGAIN)
    text = f"{words[0]} {words[1]}"
    try:
        untrusted = load_ssh_public_identity(text.encode("ascii"))
        if not isinstance(untrusted, SSHCertificate):
            raise _damaged("it is no certificate of OpenSSH")
        return _checked(untrusted, text)
    except (ValueError, UnsupportedAlgorithm):  # some of it is parsed only when it is asked for
        raise _damaged("it is damaged, perhaps cut off") from None


def sign(
    signer: Ed25519PrivateKey,
    key: str,
    *,
    name: str,
    groups: Iterable[str],
    valid_after: int,
    valid_before: int,
) -> Certificate:
    """Return a new certificate for a public key, checked as every host checks it.

    Raises ValueError, or Refusal where a name or group could not be used.
    """
    names = [f"{_HOST}{name}", *(f"{_GROUP}{group}" for group in groups)]
    public = load_ssh_public_key(key.encode())
    assert isinstance(public, Ed25519PublicKey)
    builder = (
        SSHCertificateBuilder()
        .public_key(public)
        .serial(secrets.randbits(_SERIAL_BITS))
        .type(SSHCertificateType.HOST)
        .key_id(f"{_HOST}{name}".encode())
        .valid_principals([one.encode() for one in names])
        .valid_after(valid_after)
        .valid_before(valid_before)
    )
    return read_certificate(builder.sign(signer).public_bytes().decode())


def public_text(key: Ed25519PublicKey) -> str:
    """Return a public key as ``ssh-ed25519 AAAA...``."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _damaged(text: str) -> Refusal:
    return Refusal(Flaw.DAMAGED, text, "copy the whole file again, or " + _SIGN_AGAIN)


def _checked(untrusted: SSHCertificate, text: str) -> Certificate:
    """Raise Refusal unless a certificate is of the kind that is known here, and signed."""
    if untrusted.type is not SSHCertificateType.HOST:
        raise Refusal(Flaw.KIND, "it is a certificate for a user, not for a host", _SIGN_AGAIN)
    key, signer = untrusted.public_key(), untrusted.signature_key()
    if not isinstance(key, Ed25519PublicKey) or not isinstance(signer, Ed25519PublicKey):
        raise Refusal(Flaw.KIND, "it, or its authority, has a key that is not ed25519", _SIGN_AGAIN)
    try:
        untrusted.verify_cert_signature()
    except InvalidSignature:
        raise _damaged("its signature is not right") from None
    if untrusted.critical_options:
        names = _shown(untrusted.critical_options)
        text = f"it is bound to options that are not known here: {names}"
        raise Refusal(Flaw.OPTIONS, text, "upgrade xenmoved, or " + _SIGN_AGAIN)
    name, groups = _names(untrusted.valid_principals)
    return Certificate(
        name,
        groups,
        public_text(key),
        public_text(signer),
        untrusted.serial,
        untrusted.valid_after,
        untrusted.valid_before,
        text,
    )


def _names(untrusted_principals: Iterable[bytes]) -> tuple[str, tuple[str, ...]]:
    """Return the name of the host and its groups. Raises Refusal."""
    hosts: list[str] = []
    groups: list[str] = []
    for untrusted in untrusted_principals:
        untrusted_text = untrusted.decode(errors="replace")
        prefix, colon, name = untrusted_text.partition(":")
        found = {_HOST: hosts, _GROUP: groups}.get(prefix + colon)
        if found is None or not re.fullmatch(NAME_PATTERN.regex, name):
            shown = _shown([untrusted])
            text = f"it has a principal that is neither host:NAME nor group:NAME: {shown}"
            raise Refusal(Flaw.NAMES, text, _SIGN_AGAIN)
        found.append(name)
    if len(hosts) != 1:
        text = f"it names {len(hosts)} hosts (principals host:NAME), and must name one"
        raise Refusal(Flaw.NAMES, text, _SIGN_AGAIN)
    if not groups or len(groups) > _MOST_GROUPS:
        text = f"it has {len(groups) or 'no'} groups (principals group:NAME)"
        raise Refusal(Flaw.GROUPS, text, f"{_SIGN_AGAIN} --group GROUP")
    return hosts[0], tuple(dict.fromkeys(groups))


def _shown(untrusted_names: Iterable[bytes]) -> str:
    """Return what somebody else wrote, for a person to read."""
    return ", ".join(repr(name[:60].decode(errors="replace")) for name in untrusted_names)[:300]
