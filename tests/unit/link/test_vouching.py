"""Certificates over real SSH on loopback: who is believed, and what both ends are told if not."""

import asyncio
import base64
import time
from contextlib import asynccontextmanager

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_key,
)

from xenmoved.config.keys import fingerprint_of
from xenmoved.config.model import Config, Fleet, Peer
from xenmoved.link import client as client_module
from xenmoved.link import server as server_module
from xenmoved.link.channel import Purpose
from xenmoved.link.client import connect
from xenmoved.link.errors import LinkError, NotAuthorized, NotTrusted, WrongHostKey
from xenmoved.link.identity import parse_public
from xenmoved.link.server import LinkServer
from xenmoved.trust.certificate import ALGORITHM, Certificate, public_text, read_certificate, sign
from xenmoved.trust.roster import Roster

pytestmark = pytest.mark.long

AUTHORITY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
HOUR = 3600


def make_key():
    return asyncssh.generate_private_key("ssh-ed25519")


def text_of(key):
    return " ".join(key.export_public_key().decode().split()[:2])


A, B, X = make_key(), make_key(), make_key()


def signed(key, name, *, by=AUTHORITY, groups=("hosts",), after=-60, before=HOUR):
    now = int(time.time())
    span = {"valid_after": now + after, "valid_before": now + before}
    return sign(by, text_of(key), name=name, groups=groups, **span)


def odd(
    key,
    *,
    kind=SSHCertificateType.HOST,
    principals=(b"host:host-b", b"group:hosts"),
    option=None,
    by=AUTHORITY,
):
    """Return the line of a certificate that `sign` would not make."""
    now = int(time.time())
    builder = (
        SSHCertificateBuilder()
        .public_key(load_ssh_public_key(text_of(key).encode()))
        .serial(7)
        .type(kind)
        .key_id(b"host-b")
        .valid_after(now - 60)
        .valid_before(now + HOUR)
    )
    builder = builder.valid_principals(list(principals)) if principals else builder
    builder = builder if principals else builder.valid_for_all_principals()
    if option:
        builder = builder.add_critical_option(option, b"")
    return builder.sign(by).public_bytes().decode()


def shown(line, key):
    """Return something that a host shows as its certificate, whatever it is."""
    return Certificate("?", (), text_of(key), "", 0, 0, 0, line)


def forged(key, certificate):
    """Return a key pair that offers any bytes as its certificate."""
    [pair] = asyncssh.load_keypairs([key])
    pair.algorithm = ALGORITHM.encode()
    pair.host_key_algorithms = [pair.algorithm]
    pair.public_data = certificate.blob
    return pair


class Host:
    """A listener with a fleet, and what it dials with."""

    def __init__(self, name, key, *, peers=None, certificate=None, **fleet):
        here = Fleet(
            file=None,
            authorities=(public_text(AUTHORITY.public_key()),),
            groups={"hosts": {}},
            **fleet,
        )
        self.config = Config(node=name, fleet=here, peers=peers or {})
        self.name, self.key = name, key
        self.roster = Roster(lambda: self.config)
        self.server = LinkServer(key, self.roster, 30)
        self.certificate = certificate or signed(key, name)
        self.server.show(self.certificate)
        self.came = asyncio.Queue()
        self.port = 0

    def dial(self, other, *, name=None, pinned=None, certificate=None, **options):
        name = name or other.name
        return connect(
            name,
            "127.0.0.1",
            other.port,
            identity=options.pop("identity", self.key),
            pinned=pinned,
            judge=lambda untrusted: self.roster.admit_as(name, untrusted),
            certificate=certificate or self.certificate,
            timeout=5,
            keepalive=30,
            **options,
        )


@asynccontextmanager
async def listening(*hosts):
    for host in hosts:
        host.port = await host.server.start(
            "127.0.0.1", 0, lambda *come, host=host: host.came.put_nowait(come)
        )
    try:
        yield
    finally:
        for host in hosts:
            await host.server.stop()


async def test_two_hosts_with_certificates_pinned_nothing():
    a, b = Host("host-a", A), Host("host-b", B)
    async with listening(b):
        link = await a.dial(b)
        assert (link.certificate.name, link.certificate.groups) == ("host-b", ("hosts",))
        await link.open(Purpose.CONTROL)
        visitor, _, _ = await b.came.get()
        assert (visitor.peer, visitor.certificate) == ("host-a", a.certificate)
        assert visitor.key == text_of(A)
        assert b.roster.groups("host-a") == ("hosts",)
        await link.close()


@pytest.mark.parametrize(
    ("line", "flaw", "said"),
    [
        (lambda: odd(B, kind=SSHCertificateType.USER), "kind", "for a user, not for a host"),
        (lambda: odd(B, option=b"force-command"), "options", "'force-command'"),
        (lambda: odd(B, principals=[b"host:host-b"]), "groups", "no groups"),
        (lambda: odd(B, principals=[b"group:hosts"]), "names", "names 0 hosts"),
        (lambda: odd(B, principals=[]), "names", "names 0 hosts"),
        (
            lambda: odd(B, principals=[b"host:host-b", b"host:host-c", b"group:hosts"]),
            "names",
            "names 2 hosts",
        ),
        (lambda: odd(B, principals=[b"host-b", b"group:hosts"]), "names", "neither host:NAME"),
        (lambda: odd(B, principals=[b"host:../b", b"group:hosts"]), "names", "'host:../b'"),
        (lambda: odd(B, by=STRANGER), "authority", "by an authority that"),
        (
            lambda: signed(B, "host-b", groups=["other"]).text,
            "groups",
            "none of its groups (other)",
        ),
        (lambda: signed(B, "host-b", before=-1).text, "expired", "expired on"),
        (lambda: signed(B, "host-b", after=HOUR // 2).text, "early", "not valid before"),
    ],
)
async def test_what_is_no_certificate_of_a_host_is_refused_at_both_ends(
    line, flaw, said, caplog, monkeypatch
):
    for module in (client_module, server_module):
        monkeypatch.setattr(module, "key_pair", forged)
    wrong = shown(line(), B)
    a, b = Host("host-a", A), Host("host-b", B, certificate=wrong)
    async with listening(a, b):
        with pytest.raises(NotTrusted) as refused:
            await a.dial(b)
        assert refused.value.code == f"certificate-{flaw}"
        assert said in str(refused.value)
        assert refused.value.hint
        await until(lambda: "does not believe that this host is who it is" in caplog.text)
        with pytest.raises(NotAuthorized) as refused:
            await b.dial(a)
        assert "does not believe this host's certificate" in str(refused.value)
        assert said in str(refused.value)
        assert "host-a says: " in refused.value.hint
        await until(lambda: "a host at 127.0.0.1 was not taken in: what it" in caplog.text)


async def until(condition):
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come")


async def test_a_host_is_who_its_certificate_says_and_nobody_else():
    """host-x is right, and wants to be host-b: at its address, and as a visitor."""
    a, x = Host("host-a", A), Host("host-x", X)
    async with listening(a, x):
        with pytest.raises(NotTrusted, match="it is that of host-x, not of host-b") as refused:
            await a.dial(x, name="host-b")
        assert refused.value.code == "certificate-other"
        link = await x.dial(a)
        await link.open(Purpose.CONTROL)
        visitor, _, _ = await a.came.get()
        assert visitor.peer == "host-x"
        await link.close()


async def test_a_certificate_of_another_key_is_worth_nothing():
    """What host-b shows to everybody is of no use to host-x, who does not have its key."""
    a, b, x = Host("host-a", A), Host("host-b", B), Host("host-x", X)
    async with listening(a, x):
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                "127.0.0.1",
                a.port,
                username="xenmoved",
                client_keys=[forged(X, b.certificate)],
                known_hosts=None,
                agent_path=None,
                config=None,
            )
        assert not a.server.visitors
        await until(lambda: a.server.unproven == 0)


async def test_a_host_that_names_this_one_is_refused():
    a = Host("host-a", A)
    thief = Host("host-a", X)
    async with listening(a):
        with pytest.raises(NotAuthorized, match="the name of the other host itself"):
            await thief.dial(a, pinned=A)


async def test_a_pinned_key_goes_before_every_certificate():
    """In both directions: of its name for another key, and of its key for another name."""
    pinned = Peer(name="host-b", address="127.0.0.1", key=text_of(B))
    a = Host("host-a", A, peers={"host-b": pinned})
    other_key, other_name = Host("host-b", X), Host("host-c", B)
    async with listening(a, other_key, other_name):
        with pytest.raises(NotAuthorized, match="pinned another key"):
            await other_key.dial(a)
        with pytest.raises(NotTrusted, match="pinned another key"):
            await a.dial(other_key)
        with pytest.raises(WrongHostKey):
            await a.dial(other_key, pinned=B)
        with pytest.raises(NotTrusted, match="has its key pinned to host-b"):
            await a.dial(other_name)
        link = await other_name.dial(a)  # the plain key, which is pinned, makes it host-b
        await link.open(Purpose.CONTROL)
        assert (await a.came.get())[0].peer == "host-b"
        await link.close()


async def test_a_key_without_its_certificate_is_nobodys():
    """A host whose certificate is not believed cannot come by its key instead."""
    a, b = Host("host-a", A), Host("host-b", B)
    async with listening(a, b):
        link = await b.dial(a)
        await link.close()
        b.certificate = None
        with pytest.raises(NotAuthorized, match="does not know this host's key"):
            await connect(
                "host-a", "127.0.0.1", a.port, identity=B, pinned=A, timeout=5, keepalive=30
            )
        b.server.show(None)
        with pytest.raises(NotTrusted, match="shows no certificate") as refused:
            await a.dial(b)
        assert refused.value.code == "certificate-missing"


@pytest.mark.parametrize("by", ["key", "serial"])
async def test_what_is_revoked_is_refused_and_cut_off(by, caplog):
    a, b = Host("host-a", A), Host("host-b", B)
    revoked = fingerprint_of(text_of(B)) if by == "key" else str(b.certificate.serial)
    async with listening(a, b):
        visit = await b.dial(a)
        link = await a.dial(b)
        assert a.roster.stands(link.certificate)
        a.config = Host("host-a", A, revoked=(revoked,)).config
        a.server.drop_revoked()
        await until(lambda: visit.closed)
        assert "host-b is cut off" in caplog.text
        assert not a.roster.stands(link.certificate)
        for attempt in (a.dial(b), b.dial(a)):
            with pytest.raises(LinkError) as refused:
                await attempt
            assert f"it is revoked ({by}" in str(refused.value)
        link.abort()
        if by == "serial":  # another certificate of that key is as good as before
            again = await b.dial(a, certificate=signed(B, "host-b"))
            await again.close()


async def test_a_revoked_key_is_refused_where_it_is_pinned_too():
    pinned = Peer(name="host-b", address="127.0.0.1", key=text_of(B))
    revoked = (fingerprint_of(text_of(B)),)
    a, b = Host("host-a", A, peers={"host-b": pinned}, revoked=revoked), Host("host-b", B)
    async with listening(a):
        with pytest.raises(NotAuthorized, match="revoked"):
            await b.dial(a)
        assert not a.server.visitors


async def test_who_settles_pushes_out_nobody_and_is_nobody_else():
    """It has proven no more than a key, and has the name of the peer that had it."""
    a, b, old = Host("host-a", A), Host("host-b", B), Host("host-b", X)
    async with listening(a):
        with pytest.raises(NotAuthorized):
            await old.dial(a, settling=True, pinned=A)
        a.roster.may_settle(text_of(X), "host-b")
        with pytest.raises(NotAuthorized):  # not as if it were trusted
            await connect(
                "host-a", "127.0.0.1", a.port, identity=X, pinned=A, timeout=5, keepalive=30
            )
        link = await b.dial(a)
        many = [await old.dial(a, settling=True, pinned=A) for _ in range(12)]
        assert not link.closed
        kinds = [visitor.settling for visitor in a.server.visitors]
        assert kinds.count(False) == 1
        assert kinds.count(True) <= 8
        for one in [link, *many]:
            one.abort()


async def test_keys_may_be_exchanged_again_after_the_certificate_has_expired():
    a, b = Host("host-a", A), Host("host-b", B)
    b.certificate = signed(B, "host-b", before=2)
    b.server.show(b.certificate)
    async with listening(b):
        link = await a.dial(b)
        await asyncio.sleep(2.5)
        assert not a.roster.current(link.certificate)
        link._connection._rekey_bytes_sent = 2**60  # keys are exchanged before the next packet
        await asyncio.sleep(0.3)
        await link.open(Purpose.CONTROL)
        assert not link.closed
        await link.close()


async def test_a_listener_shows_a_new_certificate_without_a_restart():
    a, b = Host("host-a", A), Host("host-b", B)
    async with listening(b):
        first = await a.dial(b)
        renewed = signed(B, "host-b")
        b.server.show(renewed)
        second = await a.dial(b)
        assert second.certificate.serial == renewed.serial != first.certificate.serial
        assert not first.closed
        for link in (first, second):
            await link.close()


async def test_a_banner_of_a_hostile_host_is_harmless():
    """A listener may say whatever it likes before it takes anybody in."""

    class Liar(asyncssh.SSHServer):
        def connection_made(self, conn):
            self.connection = conn

        def begin_auth(self, username):
            self.connection.send_auth_banner("\x1b]0;owned\x07" + "x" * 10000 + "\n\x1b[2Jhint\n")
            return True

        def public_key_auth_supported(self):
            return True

    acceptor = await asyncssh.create_server(
        Liar, "127.0.0.1", 0, server_host_keys=[B], server_version="xenmoved"
    )
    try:
        with pytest.raises(NotAuthorized) as refused:
            await connect(
                "host-b",
                "127.0.0.1",
                acceptor.get_port(),
                identity=A,
                pinned=parse_public(text_of(B)),
                timeout=5,
                keepalive=30,
            )
        assert "\x1b" not in str(refused.value) + refused.value.hint
        assert len(str(refused.value)) < 800
    finally:
        acceptor.close()


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 200, -1])
def test_a_damaged_certificate_is_refused(cut):
    line = signed(B, "host-b").text
    blob = bytearray(base64.b64decode(line.split()[1]))
    blob[cut if cut != -1 else len(blob) - 1] ^= 1
    for wrong in (
        f"{line.split()[0]} {base64.b64encode(bytes(blob)).decode()}",
        f"{line.split()[0]} {base64.b64encode(bytes(blob)[: len(blob) // 2]).decode()}",
        f"{line.split()[0]} {line.split()[1][:-9]}",
        f"{line.split()[0]} ****",
        line.split()[0],
        "",
        "x" * 100000,
        f"ssh-rsa-cert-v01@openssh.com {line.split()[1]}",
    ):
        with pytest.raises(Exception) as refused:
            read_certificate(wrong)
        assert type(refused.value).__name__ == "Refusal"


def test_a_name_that_passes_to_another_key_is_told(caplog):
    a = Host("host-a", A)
    for key, told in ((B, False), (B, False), (X, True)):
        a.roster.proven(signed(key, "host-b"))
        assert ("host-b proves another key than before" in caplog.text) is told
    assert a.roster.groups("host-b") == ("hosts",)


async def test_a_pinned_connection_is_cut_off_when_its_key_is_revoked():
    pinned = {"host-b": Peer(name="host-b", address="127.0.0.1", key=text_of(B))}
    a, b = Host("host-a", A, peers=pinned), Host("host-b", B)
    async with listening(a):
        link = await connect(
            "host-a", "127.0.0.1", a.port, identity=B, pinned=A, timeout=5, keepalive=30
        )
        a.server.drop_revoked()
        await asyncio.sleep(0.2)
        assert not link.closed
        assert b.name == a.server.visitors[0].peer
        a.config = Host("host-a", A, peers=pinned, revoked=(fingerprint_of(text_of(B)),)).config
        a.server.drop_revoked()
        await until(lambda: link.closed)
