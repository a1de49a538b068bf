"""Sizes, durations and public keys as text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenmoved.config.keys import parse_public_key
from xenmoved.units import format_duration, format_size, parse_duration, parse_limit, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("512B", 512),
        ("10K", 10 * 2**10),
        ("10M", 10 * 2**20),
        ("10MiB", 10 * 2**20),
        ("500GiB", 500 * 2**30),
        ("500 GiB", 500 * 2**30),
        ("1.5G", 3 * 2**29),
        ("2TiB", 2 * 2**40),
        ("2T", 2 * 2**40),
    ],
)
def test_sizes(written, size):
    assert parse_size(written) == size


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (-1, "negative"),
        (True, "True is no size"),
        (1.5, "1.5 is no size"),
        (None, "None is no size"),
        ("", "write it like 500GiB"),
        ("GiB", "write it like 500GiB"),
        ("-5G", "write it like 500GiB"),
        ("5 G B", "write it like 500GiB"),
        ("5GB", "unknown unit 'GB' (known, all binary: B, K, M, G, T, KiB, MiB, GiB, TiB)"),
        ("5g", "unknown unit 'g'"),
        ("0.3B", "no whole number of bytes"),
    ],
)
def test_bad_sizes(written, reason):
    with pytest.raises(ValueError) as caught:
        parse_size(written)
    assert reason in str(caught.value)


@given(st.integers(0, 2**63))
def test_an_exact_size_is_read_back_as_it_was(size):
    assert parse_size(format_size(size, exact=True)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (3 * 2**29, "1.5GiB"),
        (500 * 2**30, "500GiB"),
        (2**40 + 1, "1TiB"),
        (5000 * 2**40, "5000TiB"),
    ],
)
def test_sizes_for_people(size, text):
    assert format_size(size) == text


def test_limits():
    assert parse_limit("80MiB") == parse_limit("80MiB/s") == 80 * 2**20
    assert parse_limit("unlimited") is None
    assert parse_limit(None) is None
    with pytest.raises(ValueError, match="or 'unlimited'"):
        parse_limit("fast")
    with pytest.raises(ValueError, match="more than 0, or 'unlimited'"):
        parse_limit(0)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (10, 10),
        (0.5, 0.5),
        ("10", 10),
        ("60s", 60),
        ("5m", 300),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("30d", 2592000),
    ],
)
def test_durations(written, seconds):
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (0, "more than 0"),
        ("0s", "more than 0"),
        (-1, "-1 is no duration: write it like 60s, 5m"),
        (True, "True is no duration"),
        ("soon", "'soon' is no duration"),
        ("5 days", "unknown unit 'days' (known: ms, s, m, h, d)"),
    ],
)
def test_bad_durations(written, reason):
    with pytest.raises(ValueError) as caught:
        parse_duration(written)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.45, "450ms"),
        (1.25, "1.2s"),
        (2, "2s"),
        (59.7, "1m"),
        (200, "3m 20s"),
        (7500, "2h 5m"),
        (3605, "1h"),
        (2592000, "30d"),
        (90000, "1d 1h"),
    ],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


def _key(name: bytes = b"ssh-ed25519", key: bytes = bytes(range(32)), tail: bytes = b"") -> str:
    blob = len(name).to_bytes(4, "big") + name + len(key).to_bytes(4, "big") + key + tail
    return base64.b64encode(blob).decode()


def test_a_key_is_kept_without_its_comment():
    assert parse_public_key(f"  ssh-ed25519   {_key()} root@host \n") == f"ssh-ed25519 {_key()}"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (None, "is no public key"),
        (5, "is no public key"),
        ("", "is no public key"),
        (_key(), "is no public key"),
        (f"ssh-rsa {_key(b'ssh-rsa')}", "is a key of type 'ssh-rsa', must be ssh-ed25519"),
        (f"ssh-ed25519 {_key(b'ssh-rsa')}", "holds no ssh-ed25519 key"),
        (f"ssh-ed25519 {_key(key=bytes(31))}", "wrong length"),
        (f"ssh-ed25519 {_key(tail=b'x')}", "wrong length"),
        (f"ssh-ed25519 {_key()[:40]}", "wrong length"),
        (f"ssh-ed25519 {_key()[:-1]}", "not base64"),
        ("ssh-ed25519 A!!!", "not base64"),
        ("ssh-ed25519 AAAA", "holds no ssh-ed25519 key"),
    ],
)
def test_bad_keys(written, reason):
    with pytest.raises(ValueError) as caught:
        parse_public_key(written)
    assert reason in str(caught.value)
    assert "paste the peer's whole public key" in str(caught.value)


@given(st.text() | st.binary().map(lambda blob: f"ssh-ed25519 {base64.b64encode(blob).decode()}"))
def test_whatever_is_no_key_is_refused_in_words(written):
    with pytest.raises(ValueError, match=r"public key|damaged|key of type"):
        parse_public_key(written)
