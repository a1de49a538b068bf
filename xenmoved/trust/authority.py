"""The folder of an authority: its key, all that it has signed, and the fleet file.

    ca_key, ca_key.pub  its key, as ssh-keygen makes them
    issued              every certificate that it has signed, one a line
    NAME-cert.pub       the newest certificate of a host
    fleet.yaml          the fleet file, to be copied to all hosts

None of it need ever be on a host. `ssh-keygen` reads the keys and the certificates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from xenmoved.config.fleet import FLEET_FILE
from xenmoved.config.keys import fingerprint_of, parse_public_key
from xenmoved.config.model import Fleet
from xenmoved.files import write_file
from xenmoved.trust.certificate import Certificate, is_revoked, public_text, read_certificate, sign
from xenmoved.trust.fleetfile import add_revoked, load_fleet, new_text
from xenmoved.trust.refusals import Refusal
from xenmoved.trust.report import CertificateRow, Certificates, CertificateState

KEY: Final = "ca_key"
ISSUED: Final = "issued"

BACKDATED: Final = 600
"""Seconds before its signature from which a certificate is valid: clocks may differ by so much."""

Passphrase = Callable[[], bytes]
"""Asks for the passphrase of a key; called only where it has one."""


class AuthorityError(Exception):
    """The authority cannot do that. Nothing was changed. `code` and `hint` are for the operator."""

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


class Authority:
    """What an authority has in its folder. Methods raise AuthorityError, ConfigError, OSError."""

    def __init__(self, folder: Path, passphrase: Passphrase) -> None:
        self._folder = folder
        self._passphrase = passphrase

    @property
    def fleet_file(self) -> Path:
        """The fleet file that it keeps."""
        return self._folder / FLEET_FILE

    def file_of(self, name: str) -> Path:
        """Return where the newest certificate of a host is."""
        return self._folder / f"{name}-cert.pub"

    def require_new(self) -> None:
        """See that there is no key yet."""
        if (self._folder / KEY).exists():
            text = f"{self._folder / KEY} exists already"
            raise AuthorityError("authority-exists", text, "say another --dir")

    def create(self, passphrase: bytes) -> None:
        """Make the folder and a new key, protected unless the passphrase is empty.

        A fleet file that is there already is not touched.
        """
        self.require_new()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        known = public_text(key.public_key())
        kind = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, kind)
        if not self.fleet_file.exists():
            write_file(self.fleet_file, new_text(known), 0o644)
        write_file(self._folder / f"{KEY}.pub", f"{known} xenmoved authority\n", 0o644)
        write_file(self._folder / KEY, secret.decode("ascii"), 0o600)

    def report(self, name: str | None = None) -> Certificates:
        """Return what has been signed, of one host or of all."""
        fleet, now = self._fleet(), time.time()
        rows = (
            CertificateRow(
                one.name,
                one.serial,
                one.groups,
                fingerprint_of(one.key),
                one.valid_after,
                one.valid_before,
                _state(one, fleet, now),
            )
            for one in sorted(self.issued(), key=lambda one: one.name)
            if name in (None, one.name)
        )
        return Certificates(str(self._folder), fingerprint_of(self.public()), tuple(rows))

    def public(self) -> str:
        """Return its public key."""
        try:
            text = (self._folder / f"{KEY}.pub").read_text(encoding="ascii")
            return parse_public_key(text)
        except FileNotFoundError:
            text = f"there is no authority in {self._folder}"
            hint = "make one: xenmovectl ca init; or say where it is: --dir"
            raise AuthorityError("authority-missing", text, hint) from None
        except ValueError as error:
            text = f"{self._folder / KEY}.pub {error}"
            raise AuthorityError("authority-key", text, f"ssh-keygen -y -f {KEY}") from None

    def issued(self) -> list[Certificate]:
        """Return every certificate that it has signed, the oldest first."""
        self.public()
        file = self._folder / ISSUED
        if not file.exists():
            return []
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
        try:
            return [read_certificate(line) for line in lines if line.strip()]
        except Refusal as refusal:
            text = f"{file} has a line that is no certificate: {refusal}"
            raise AuthorityError("authority-issued", text, "remove that line") from None

    def sign(
        self, key: str, name: str, groups: Sequence[str], validity: float, *, replace: bool
    ) -> tuple[Certificate, tuple[str, ...]]:
        """Sign the key of a host, for so many seconds; return what was revoked for it, too.

        A name has one key and a key has one name, and the groups of a host are those that were
        signed last. With `replace`, what contradicts that is revoked.
        """
        fleet, now = self._fleet(), time.time()
        self._require_groups(fleet, groups)
        if fleet.revokes(key):
            text = f"that key is revoked: {fingerprint_of(key)}"
            hint = (
                f"make {name} a new one: remove `identity` in its state_dir, and restart xenmoved"
            )
            raise AuthorityError("certificate-revoked", text, hint)
        if key == self.public():
            text = "that is the key of the authority itself"
            raise AuthorityError("own-key", text, "give the request of a host")
        valid = [one for one in self.issued() if _state(one, fleet, now) in _STANDING]
        others = [one for one in valid if (one.name == name) != (one.key == key)]
        if others and not replace:
            raise _contradiction(others[0], name)
        changed = [one for one in valid if one.key == key and one.name == name]
        changed = [one for one in changed if set(one.groups) - set(groups)]
        secret = self._secret()
        revoked = dict.fromkeys(_to_revoke(others, changed, name))
        certificate = self._sign(secret, key, name, groups, validity)
        for item in revoked:
            self._add_revoked(item, name)
        self._keep(certificate)
        return certificate, tuple(revoked)

    def renew(self, names: Iterable[str], validity: float) -> list[Certificate]:
        """Sign anew, as they were, the newest certificates of hosts.

        Without names: of all that have a certificate that is not revoked.
        """
        fleet = self._fleet()
        newest = {one.name: one for one in self.issued() if not is_revoked(one, fleet)}
        wanted = list(dict.fromkeys(names)) or sorted(newest)
        if missing := [name for name in wanted if name not in newest]:
            text = f"no certificate of {missing[0]} is there that is not revoked"
            raise AuthorityError("certificate-unknown", text, "xenmovectl ca show lists all")
        for name in wanted:
            self._require_groups(fleet, newest[name].groups)
        secret, renewed = self._secret(), []
        for old in (newest[name] for name in wanted):
            certificate = self._sign(secret, old.key, old.name, old.groups, validity)
            self._keep(certificate)
            renewed.append(certificate)
        return renewed

    def revoke(self, name: str) -> list[str]:
        """Revoke every key that was signed for a host, and so all its certificates."""
        keys = dict.fromkeys(one.key for one in self.issued() if one.name == name)
        if not keys:
            text = f"nothing was ever signed for {name} here"
            raise AuthorityError("certificate-unknown", text, "xenmovectl ca show lists all")
        found = [fingerprint_of(key) for key in keys]
        for one in found:
            self._add_revoked(one, name)
        return found

    def revoke_serial(self, serial: int) -> str:
        """Revoke one certificate; return the name of its host."""
        names = [one.name for one in self.issued() if one.serial == serial]
        if not names:
            text = f"no certificate here has the serial {serial}"
            raise AuthorityError("certificate-unknown", text, "xenmovectl ca show lists all")
        self._add_revoked(str(serial), names[0])
        return names[0]

    def _add_revoked(self, item: str, name: str) -> None:
        add_revoked(self.fleet_file, item, f"{name}, {time.strftime('%Y-%m-%d')}")

    def _fleet(self) -> Fleet:
        self.public()  # says so where there is no authority at all
        return load_fleet(self.fleet_file)

    def _require_groups(self, fleet: Fleet, groups: Sequence[str]) -> None:
        if missing := [group for group in groups if group not in fleet.groups]:
            known = ", ".join(fleet.groups) or "none"
            text = f"there is no group {missing[0]} in {self.fleet_file}"
            raise AuthorityError("certificate-groups", text, f"groups there: {known}")

    @staticmethod
    def _sign(
        secret: Ed25519PrivateKey, key: str, name: str, groups: Sequence[str], validity: float
    ) -> Certificate:
        now = int(time.time())
        after, before = now - BACKDATED, now + int(validity)
        try:
            return sign(
                secret, key, name=name, groups=groups, valid_after=after, valid_before=before
            )
        except Refusal as refusal:
            raise AuthorityError(refusal.flaw.value, f"it cannot be signed: {refusal}") from None

    def _keep(self, certificate: Certificate) -> None:
        line = f"{certificate.text} {certificate.name}\n"
        with (self._folder / ISSUED).open("a", encoding="ascii") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        write_file(self.file_of(certificate.name), line, 0o644)

    def _secret(self) -> Ed25519PrivateKey:
        file = self._folder / KEY
        self.public()
        if (mode := file.stat().st_mode) & 0o077:
            text = f"{file}: mode {mode & 0o777:04o} lets others read the key of the authority"
            hint = "chmod 600 it; if somebody may have read it, make a new authority"
            raise AuthorityError("authority-key", text, hint)
        data = file.read_bytes()
        try:
            try:
                key = load_ssh_private_key(data, None)
            except TypeError:  # it has a passphrase
                key = load_ssh_private_key(data, self._passphrase())
        except (ValueError, UnsupportedAlgorithm, TypeError):
            text = f"{file} cannot be used with that passphrase"
            raise AuthorityError("authority-key", text, "nothing was signed: try again") from None
        if not isinstance(key, Ed25519PrivateKey) or public_text(key.public_key()) != self.public():
            text = f"{file} is not the ed25519 key whose public half is in {KEY}.pub"
            raise AuthorityError("authority-key", text, f"ssh-keygen -y -f {file}")
        return key


_STANDING: Final = (CertificateState.VALID, CertificateState.EARLY)


def _state(one: Certificate, fleet: Fleet, now: float) -> CertificateState:
    if is_revoked(one, fleet):
        return CertificateState.REVOKED
    if now >= one.valid_before:
        return CertificateState.EXPIRED
    return CertificateState.EARLY if now < one.valid_after else CertificateState.VALID


def _to_revoke(
    others: Iterable[Certificate], changed: Iterable[Certificate], name: str
) -> list[str]:
    """Return what is not to be believed any more: keys that had the name, and certificates."""
    found = [fingerprint_of(one.key) if one.name == name else str(one.serial) for one in others]
    return [*found, *(str(one.serial) for one in changed)]


def _contradiction(other: Certificate, name: str) -> AuthorityError:
    if other.name == name:
        text = f"{name} has a certificate with another key, {fingerprint_of(other.key)}"
        hint = "if that key is no more: --replace, which revokes it"
    else:
        text = f"that key has a certificate as {other.name}"
        hint = f"if that host is called {name} now: --replace, which revokes the other one"
    return AuthorityError("certificate-names", text, hint)
