"""The peers of this host by name, and which of them somebody has proven to be.

A name is believed because of a key that is pinned to it in the configuration, or else because of a
certificate. A pinned key goes before: no certificate gives its name to another key, or it another
name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from xenmoved.config.fleet import peer_of_fleet
from xenmoved.config.keys import fingerprint_of
from xenmoved.config.model import Config, Fleet, Peer
from xenmoved.trust.certificate import Certificate, is_revoked, read_certificate
from xenmoved.trust.refusals import Flaw, Refusal, moment

log = logging.getLogger(__name__)


class Roster:
    """Who the peers are. `config` returns the configuration that is in use.

    What the certificates of peers say of their groups is known once they have proven them, in
    either direction.
    """

    def __init__(
        self, config: Callable[[], Config], clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._clock = clock
        self._proven: dict[str, Certificate] = {}
        self._settling: dict[str, str] = {}

    def get(self, name: str) -> Peer | None:
        """Return what is configured of a peer, None where nobody of that name is known."""
        config = self._config()
        peer = config.peers.get(name)
        if peer is not None and peer.key is not None:
            return peer
        if config.fleet is None or name == config.node:
            return None
        proven = self._proven.get(name)
        return peer_of_fleet(config.fleet, name, proven.groups if proven is not None else ())

    def all(self) -> list[Peer]:
        """Return the peers that are configured, listed in the fleet, or have come, by name."""
        config = self._config()
        listed = config.fleet.hosts if config.fleet is not None else {}
        found = (self.get(name) for name in sorted({*config.peers, *listed, *self._proven}))
        return [peer for peer in found if peer is not None]

    def groups(self, name: str) -> tuple[str, ...]:
        """Return the groups that a peer has proven to be in."""
        proven = self._proven.get(name)
        return proven.groups if proven is not None else ()

    def peer_of_key(self, key: str) -> str | None:
        """Return the peer to which a public key is pinned. Raises Refusal if it is revoked."""
        config = self._config()
        name = next((name for name, peer in config.peers.items() if peer.key == key), None)
        if name is not None and self.revoked(key):
            text = f"its key is revoked by the fleet file, though it is pinned to {name}"
            raise Refusal(Flaw.REVOKED, text, "give it a new key, or take it out of `revoked`")
        return name

    def revoked(self, key: str) -> bool:
        """Whether nothing is believed of a public key any more, certificate or not."""
        fleet = self._config().fleet
        return fleet is not None and fleet.revokes(key)

    def admit(self, untrusted_text: str) -> Certificate:
        """Return a certificate that is believed. Raises Refusal.

        That its key was proven is for the caller to see to, and then to call `proven`.
        """
        certificate = read_certificate(untrusted_text)
        self._judge(certificate)
        return certificate

    def admit_as(self, name: str, untrusted_text: str) -> Certificate:
        """Return a certificate that is believed, of the host that is meant. Raises Refusal."""
        certificate = self.admit(untrusted_text)
        if certificate.name != name:
            text = f"it is that of {certificate.name}, not of {name}"
            hint = f"correct the address of {name} in the fleet file, or what DNS says of it"
            raise Refusal(Flaw.OTHER, text, hint)
        return certificate

    def proven(self, certificate: Certificate) -> None:
        """Note what a peer has proven, which holds until it proves something else."""
        before = self._proven.get(certificate.name)
        if before is not None and before.key != certificate.key:
            log.warning(
                "%s proves another key than before, %s: what is here of %s counts as its own",
                certificate.name,
                fingerprint_of(certificate.key),
                certificate.name,
            )
        self._proven[certificate.name] = certificate

    def stands(self, certificate: Certificate) -> bool:
        """Whether a connection that began with a certificate may go on.

        So it may when that expires: what is under way comes to its end, and nothing else begins.
        """
        try:
            self._judge(certificate)
        except Refusal as refusal:
            return refusal.flaw is Flaw.EXPIRED
        return True

    def current(self, certificate: Certificate) -> bool:
        """Whether a certificate that was believed has not expired."""
        return self._clock() < certificate.valid_before

    def forget_revoked(self) -> None:
        """Forget what was proven by certificates that are not believed any more."""
        kept = {name: one for name, one in self._proven.items() if self.stands(one)}
        self._proven = kept

    def may_settle(self, key: str, peer: str) -> None:
        """Let a key, with which migrations of a peer began, ask for their fate from now on."""
        self._settling[key] = peer

    def settles(self, key: str) -> str | None:
        """Return the peer whose migrations a key may ask about, whatever else is thought of it."""
        return self._settling.get(key)

    def _judge(self, certificate: Certificate) -> None:
        """Raise Refusal unless a certificate is believed. What ends by itself is looked at last."""
        config = self._config()
        fleet = config.fleet
        if fleet is None or certificate.authority not in fleet.authorities:
            text = f"it is signed by an authority that {config.node} does not trust"
            hint = "see that all hosts have the same fleet file, with that authority in it"
            raise Refusal(Flaw.AUTHORITY, text, hint)
        if is_revoked(certificate, fleet):
            what = "key" if fleet.revokes(certificate.key) else f"serial {certificate.serial}"
            hint = (
                "if that host is to be trusted again: sign it anew (xenmovectl ca sign), after a "
                "revoked key with a new one: remove `identity` in its state_dir, restart xenmoved"
            )
            raise Refusal(Flaw.REVOKED, f"it is revoked ({what})", hint)
        if certificate.name == config.node:
            text = f"it is that of {config.node}, which is the name of the other host itself"
            raise Refusal(Flaw.OTHER, text, "give every host a `node` and certificate of its own")
        self._judge_pinned(config, certificate)
        self._judge_groups(fleet, certificate)
        self._judge_time(config.node, certificate)

    @staticmethod
    def _judge_pinned(config: Config, certificate: Certificate) -> None:
        name, key = certificate.name, certificate.key
        pinned = config.peers.get(name)
        hint = f"see the entry of that peer on {config.node}: xenmovectl peer list"
        if pinned is not None and pinned.key is not None and pinned.key != key:
            text = f"it is that of {name}, to which {config.node} has pinned another key"
            raise Refusal(Flaw.PINNED, text, hint)
        for other, peer in config.peers.items():
            if peer.key == key and other != name:
                text = f"it is that of {name}, and {config.node} has its key pinned to {other}"
                raise Refusal(Flaw.PINNED, text, hint)

    @staticmethod
    def _judge_groups(fleet: Fleet, certificate: Certificate) -> None:
        if "allow" in fleet.own.get(certificate.name, {}):
            return
        if not any(group in fleet.groups for group in certificate.groups):
            known = ", ".join(fleet.groups) or "none"
            text = f"none of its groups ({', '.join(certificate.groups)}) is in the fleet file"
            hint = f"have it signed with one of these, or add its group there: {known}"
            raise Refusal(Flaw.GROUPS, text[:500], hint[:500])

    def _judge_time(self, node: str, certificate: Certificate) -> None:
        now = self._clock()
        if now < certificate.valid_after:
            text = (
                f"it is not valid before {moment(certificate.valid_after)}, and on {node} it is "
                f"{moment(now)}"
            )
            raise Refusal(Flaw.EARLY, text, "compare the clocks of both hosts")
        if now >= certificate.valid_before:
            text = (
                f"it expired on {moment(certificate.valid_before)}; on {node} it is {moment(now)}"
            )
            name = certificate.name
            hint = (
                f"if the clocks are right: xenmovectl ca renew {name}, where the authority is, "
                f"then on {name}: xenmovectl enroll"
            )
            raise Refusal(Flaw.EXPIRED, text, hint)
