"""What an operator hears of this host's own certificate, and when."""

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xenmoved.config.keys import fingerprint_of
from xenmoved.config.model import Fleet
from xenmoved.trust.certificate import public_text, sign
from xenmoved.trust.own import FILE, OwnCertificate, install, load_own
from xenmoved.trust.validity import DAY, warnings

AUTHORITY, KEY, OTHER = (Ed25519PrivateKey.generate() for _ in range(3))
NOW = int(time.time())


def fleet(**said):
    return Fleet(file=None, authorities=(public_text(AUTHORITY.public_key()),), **said)


def own(days=365.0, *, of=365.0, by=AUTHORITY, key=KEY):
    """A certificate that is valid for so many days from now, of so many in all."""
    before = NOW + int(days * DAY)
    span = {"valid_after": before - int(of * DAY), "valid_before": before}
    signed = sign(by, public_text(key.public_key()), name="host-a", groups=["hosts"], **span)
    return OwnCertificate(signed)


def codes(certificate, among=None):
    return [code for code, text, hint in warnings(certificate, among or fleet(), "host-a", NOW)]


@pytest.mark.parametrize(
    ("days", "of", "code"),
    [
        (364, 365, None),
        (15, 365, None),
        (13, 365, "certificate-expires"),
        (0.01, 365, "certificate-expires"),
        (-0.01, 365, "certificate-expired"),
        (4, 10, None),
        (2, 10, "certificate-expires"),
        (370, 365, "certificate-early"),
    ],
)
def test_it_is_told_before_others_refuse_it(days, of, code):
    assert codes(own(days, of=of)) == ([code] if code else [])


def test_what_others_refuse_is_told():
    revoked = fingerprint_of(public_text(KEY.public_key()))
    assert codes(own(), fleet(revoked=(revoked,))) == ["certificate-revoked"]
    serial = own()
    by_serial = fleet(revoked=(str(serial.certificate.serial),))
    assert codes(serial, by_serial) == ["certificate-revoked"]
    assert codes(own(), by_serial) == []
    assert codes(own(by=OTHER)) == ["certificate-authority"]
    assert codes(OwnCertificate()) == ["not-enrolled"]
    [(_, _, hint)] = warnings(OwnCertificate(), fleet(), "host-a", NOW)
    steps = ("identity --request > host-a.pub", "ca sign host-a.pub", "enroll host-a-cert.pub")
    assert [step for step in steps if step in hint] == list(steps)


def test_without_a_fleet_nothing_is_told():
    assert warnings(OwnCertificate(), None, "host-a", NOW) == []
    assert warnings(own(-1), None, "host-a", NOW) == []


def test_what_is_installed_is_read_again(tmp_path):
    known = public_text(KEY.public_key())
    assert load_own(tmp_path, "host-a", known) == OwnCertificate()
    certificate = own().certificate
    install(tmp_path, certificate)
    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    assert load_own(tmp_path, "host-a", known).certificate == certificate


@pytest.mark.parametrize(
    ("node", "key", "text", "said"),
    [
        ("host-b", KEY, None, "it is for host-a, and this host is host-b"),
        ("host-a", OTHER, None, "for another key than the one that this host has now"),
        ("host-a", KEY, "ssh-ed25519-cert-v01@openssh.com AAAA", "damaged"),
        ("host-a", KEY, "", "no certificate"),
    ],
)
def test_one_that_does_not_fit_is_not_used_and_that_is_told(tmp_path, node, key, text, said):
    install(tmp_path, own().certificate)
    if text is not None:
        (tmp_path / FILE).write_text(text)
    loaded = load_own(tmp_path, node, public_text(key.public_key()))
    assert loaded.certificate is None
    [(_, told, hint)] = warnings(loaded, fleet(), node, NOW)
    assert said in told
    assert hint


def test_one_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / FILE).mkdir()
    loaded = load_own(tmp_path, "host-a", public_text(KEY.public_key()))
    assert "cannot be read: Is a directory" in str(loaded.refusal)
