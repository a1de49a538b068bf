"""The certificate of this host, beside its key: where it is kept, and whether it is of use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenmoved.files import write_file
from xenmoved.trust.certificate import Certificate, read_certificate
from xenmoved.trust.refusals import Flaw, Refusal

FILE: Final = "identity-cert.pub"
"""Called as OpenSSH calls the certificate of a key `identity`."""
_ASK_AGAIN: Final = (
    "have the present key signed: xenmovectl identity --request, xenmovectl ca sign --replace, "
    "xenmovectl enroll"
)


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """What this host has: a `certificate` that fits it, or why it has none that does.

    Both are None where nobody has enrolled it.
    """

    certificate: Certificate | None = None
    refusal: Refusal | None = None


def load_own(state_dir: Path, node: str, key: str) -> OwnCertificate:
    """Return the certificate of this host, whose public key is `key`."""
    try:
        return _read_own(state_dir, node, key)
    except OSError as error:
        text = f"{state_dir / FILE} cannot be read: {error.strerror}"
        return OwnCertificate(None, Refusal(Flaw.DAMAGED, text, _ASK_AGAIN))


def seen_own(state_dir: Path, node: str) -> OwnCertificate:
    """Return likewise what can be seen without the key of this host. Raises OSError."""
    return _read_own(state_dir, node, None)


def _read_own(state_dir: Path, node: str, key: str | None) -> OwnCertificate:
    try:
        text = (state_dir / FILE).read_text("ascii", errors="replace")
        return OwnCertificate(fitting(text, node, key))
    except FileNotFoundError:
        return OwnCertificate()
    except Refusal as refusal:
        return OwnCertificate(None, refusal)


def fitting(untrusted_text: str, node: str, key: str | None) -> Certificate:
    """Return a certificate that is for this host, and its key if that is known. Raises Refusal."""
    certificate = read_certificate(untrusted_text)
    if certificate.name != node:
        text = f"it is for {certificate.name}, and this host is {node}"
        hint = f"have it signed with --name {node}, or correct `node` in the configuration"
        raise Refusal(Flaw.OTHER, text, hint)
    if key is not None and certificate.key != key:
        text = "it is for another key than the one that this host has now"
        raise Refusal(Flaw.OTHER, text, _ASK_AGAIN)
    return certificate


def install(state_dir: Path, certificate: Certificate) -> Path:
    """Keep a certificate, all of it or nothing; return its file. Raises OSError."""
    target = state_dir / FILE
    write_file(target, f"{certificate.text} {certificate.name}\n", 0o644)
    return target
