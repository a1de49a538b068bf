"""Addresses of hosts, as operators write them."""

import pytest

from xenmoved.config.addresses import parse_address, parse_listen_address

RIGHT = (
    *("192.0.2.7", "::1", "2001:db8::7", "fe80::1%eth0", "localhost", "host-b", "host_b", "9lives"),
    *("host-b.example.com", "host-b.example.com.", "x" * 63 + ".example", "XN--MNCHEN-3YA.example"),
)

WRONG = {
    "127.0.0.1:7299": "has a port in it: say `port: 7299` beside it",
    "host-b:7222": "has a port in it",
    "host-b:70000": "has a port in it",
    "[::1]:7222": "has a port in it",
    "[::1]": "leave them out",
    "256.1.1.1": "is no IPv4 address",
    "192.0.2": "is no IPv4 address",
    "host.7": "is no IPv4 address",
    "0192.0.2.7": "is no IPv4 address",
    "2001:db8::1/64": "is no IPv6 address",
    "1::2::3": "is no IPv6 address",
    "%eth0": "is no IPv6 address",
    "host%eth0": "is no IPv6 address",
    "fe80::1": "link-local: say on which link",
    "host..dot": "nothing between two dots",
    ".host": "nothing between two dots",
    "..": "nothing between two dots",
    ".": "nothing between two dots",
    "x" * 64 + ".example": "more than 63 characters",
    "a." * 130: "1 to 253 characters",
    "": "1 to 253 characters",
    "-host": "'-host' is not of letters",
    "host-.example": "'host-' is not of letters",
    "http://host": "has a port in it|is not of letters|no IPv6 address",
    "host b": "is not of letters",
    "münchen.example": "is not of letters",
    "*": "is not of letters",
    "a\nb": "is not of letters",
}


@pytest.mark.parametrize("written", RIGHT)
def test_names_and_addresses_are_taken_as_they_are(written: str):
    assert parse_address(written) == written
    assert parse_listen_address(written) == written


@pytest.mark.parametrize(("written", "why"), WRONG.items(), ids=repr)
def test_what_cannot_be_an_address_is_refused_with_what_would_be_right(written: str, why: str):
    with pytest.raises(ValueError, match=why):
        parse_address(written)


@pytest.mark.parametrize("written", [None, 5, ["host"], 1.5, True])
def test_only_text_is_an_address(written: object):
    with pytest.raises(ValueError, match="must be a host name or an IP address"):
        parse_address(written)


def test_all_addresses_are_a_place_to_listen_only():
    assert parse_listen_address("*") == "*"
    with pytest.raises(ValueError, match=r"for all of this host's"):
        parse_listen_address("host..b")
