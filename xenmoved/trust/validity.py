"""What an operator must know of this host's own certificate, before others refuse it."""

from __future__ import annotations

from typing import Final

from xenmoved.config.model import Fleet
from xenmoved.trust.certificate import Certificate, is_revoked
from xenmoved.trust.own import OwnCertificate
from xenmoved.trust.refusals import Flaw, moment

DAY: Final = 86400.0
_WARN_BEFORE: Final = 14 * DAY
_OF_WHOLE: Final = 4
"""Of one that is valid for less than 56 days, the last quarter is when it is told."""
EXPIRES: Final = "certificate-expires"
NOT_ENROLLED: Final = "not-enrolled"


def warnings(
    own: OwnCertificate, fleet: Fleet | None, node: str, now: float
) -> list[tuple[str, str, str]]:
    """Return code, text and hint of what is wrong, or soon will be, with the own certificate.

    Nothing where there is no fleet: then nobody wants one.
    """
    if fleet is None:
        return []
    renew = f"where the authority is: xenmovectl ca renew {node}; then here: xenmovectl enroll FILE"
    if own.refusal is not None:
        text = f"the certificate of this host is not used: {own.refusal}"
        return [(own.refusal.flaw.value, text, own.refusal.hint)]
    if (certificate := own.certificate) is None:
        text = "this host has no certificate: no host that has not pinned its key takes it in"
        hint = (
            f"here: xenmovectl identity --request > {node}.pub; where the authority is: xenmovectl "
            f"ca sign {node}.pub --group GROUP; then here: xenmovectl enroll {node}-cert.pub"
        )
        return [(NOT_ENROLLED, text, hint)]
    return _refused_by(fleet, certificate) or _out_of_time(certificate, now, renew)


def _refused_by(fleet: Fleet, certificate: Certificate) -> list[tuple[str, str, str]]:
    if certificate.authority not in fleet.authorities:
        text = "the certificate of this host is signed by none of the authorities in the fleet file"
        return [(Flaw.AUTHORITY.value, text, "have it signed by one of them: xenmovectl ca sign")]
    if is_revoked(certificate, fleet):
        text = "the certificate of this host is revoked by the fleet file: others refuse it"
        return [(Flaw.REVOKED.value, text, "if that is no mistake, take this host out of service")]
    return []


def _out_of_time(certificate: Certificate, now: float, renew: str) -> list[tuple[str, str, str]]:
    until = moment(certificate.valid_before)
    whole = certificate.valid_before - certificate.valid_after
    if now >= certificate.valid_before:
        return [(Flaw.EXPIRED.value, f"the certificate of this host expired on {until}", renew)]
    if now < certificate.valid_after:
        text = f"the certificate of this host is not valid before {moment(certificate.valid_after)}"
        return [(Flaw.EARLY.value, text, "see that the clock of this host is right")]
    if certificate.valid_before - now < min(_WARN_BEFORE, whole / _OF_WHOLE):
        return [(EXPIRES, f"the certificate of this host expires on {until}", renew)]
    return []
