"""Why a certificate, or a key, is not believed: what is wrong, and what is to be done next."""

from __future__ import annotations

from enum import StrEnum
from time import localtime, strftime


class Flaw(StrEnum):
    """What is wrong with a certificate. The values are codes of problems."""

    DAMAGED = "certificate-damaged"
    KIND = "certificate-kind"
    OPTIONS = "certificate-options"
    NAMES = "certificate-names"
    GROUPS = "certificate-groups"
    AUTHORITY = "certificate-authority"
    REVOKED = "certificate-revoked"
    EARLY = "certificate-early"
    EXPIRED = "certificate-expired"
    OTHER = "certificate-other"
    """It is right, and another host's than the one that is meant."""
    PINNED = "certificate-pinned"
    """The configuration pins another key to that name, or that key to another name."""


class Refusal(Exception):
    """A certificate is not believed. The text says what is wrong with "it", `hint` what to do."""

    def __init__(self, flaw: Flaw, text: str, hint: str) -> None:
        super().__init__(text)
        self.flaw = flaw
        self.hint = hint


def moment(seconds: float) -> str:
    """Return a moment (seconds since 1970) in local time, as far as minutes."""
    try:
        return strftime("%Y-%m-%d %H:%M %Z", localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "the end of time"
