"""What is shown of an authority's certificates. Quick to import."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from protocol.schema import U63, Length, Name, Text


class CertificateState(StrEnum):
    """What has become of a certificate. `EARLY`: it is not valid yet."""

    VALID = "valid"
    EARLY = "early"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate that an authority has signed. Moments are in seconds since 1970."""

    name: Name
    serial: U63
    groups: Annotated[tuple[Name, ...], Length(0, 1000)]
    fingerprint: Text
    valid_after: U63
    valid_before: U63
    state: CertificateState


@dataclass(frozen=True, slots=True)
class Certificates:
    """What an authority has signed, the newest of each host last."""

    folder: Text
    fingerprint: Text
    certificates: Annotated[tuple[CertificateRow, ...], Length(0, 100_000)]
