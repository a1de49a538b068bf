"""What is shown of an authority's certificates. Quick to import."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CertificateState(StrEnum):
    """What has become of a certificate. `EARLY`: it is not valid yet."""

    VALID = "valid"
    EARLY = "early"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate that an authority has signed. Moments are in seconds since 1970."""

    name: str
    serial: int
    groups: tuple[str, ...]
    fingerprint: str
    valid_after: int
    valid_before: int
    state: CertificateState


@dataclass(frozen=True, slots=True)
class Certificates:
    """What an authority has signed, the newest of each host last."""

    folder: str
    fingerprint: str
    certificates: tuple[CertificateRow, ...]
