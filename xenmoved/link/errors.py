"""Errors of the link.

LinkError
├── LinkLost          an established connection or channel ended
├── PeerUnreachable   no connection could be made
├── WrongHostKey      the host at the address proves another key than the pinned one
├── NotTrusted        its certificate is not believed
└── NotAuthorized     the peer does not accept this host's key
"""

from __future__ import annotations


class LinkError(Exception):
    """Base of the errors of this package. Messages are complete; `hint` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class LinkLost(LinkError):
    """An established connection or channel ended."""


class PeerUnreachable(LinkError):
    """No connection could be made."""


class WrongHostKey(LinkError):
    """The host at the address proves another key than the pinned one."""


class NotTrusted(LinkError):
    """The certificate of the host at the address is not believed. `code` says why."""

    def __init__(self, text: str, hint: str, code: str) -> None:
        super().__init__(text, hint)
        self.code = code


class NotAuthorized(LinkError):
    """The peer does not accept this host's key, or its certificate."""
