"""The fleet file: what is right in it, what is wrong, and what holds for a host."""

import pytest

from protocol.messages import Action
from xenmoved.choices import CdromChoice
from xenmoved.config.errors import ConfigError
from xenmoved.config.fleet import peer_of_fleet
from xenmoved.config.keys import fingerprint_of
from xenmoved.config.loader import load, load_again

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQQWIEa+DzXbNZh5jtYi3fkSUTLuYIWflPJWQwtrmQW"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGSciHtIoRRHl7E9d9FR22R633Uz0MRBWtgLLQVU2RcI"
FLEET = f"""\
authorities: [{KEY}]
unlisted: '{{name}}.example.net'
hosts:
  host-a: {{address: 192.0.2.1}}
  host-b: {{address: 192.0.2.2, port: 7000}}
defaults:
  allow: {{quota: 1TiB, guests: ['x-*']}}
  shared: [images, nowhere, /srv/iso/*]
  pools: {{hdd: images, ssd: nowhere}}
  cdrom: eject
groups:
  web: {{actions: [migrate], pools: [images, nowhere], guests: ['web-*']}}
  db: {{actions: [sync], pools: [nowhere], guests: ['db-*'], quota: 10GiB}}
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "xenmoved.yaml"
    file.write_text("node: host-a\npools: {images: {kind: dir, path: /srv/images}}\n")
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return file


def fleet_text(file, text):
    (file.parent / "fleet.yaml").write_text(text)


def wrong(file):
    with pytest.raises(ConfigError) as refused:
        load(file)
    return str(refused.value)


def test_a_group_and_the_defaults_make_what_a_host_may_do(file):
    fleet = load(file).fleet
    peer = peer_of_fleet(fleet, "host-b", ("web", "unheard-of"))
    assert (peer.address, peer.port, peer.key) == ("192.0.2.2", 7000, None)
    assert peer.allow.actions == (Action.MIGRATE,)
    assert (peer.allow.pools, peer.allow.guests) == (("images",), ("web-*",))
    assert peer.allow.quota == 2**40
    assert (peer.shared, peer.pools) == (("images", "/srv/iso/*"), {"hdd": "images"})
    assert peer.cdrom is CdromChoice.EJECT


def test_of_several_groups_the_first_of_the_file_counts_and_nothing_is_mixed(file):
    fleet = load(file).fleet
    for groups in (("web", "db"), ("db", "web")):
        peer = peer_of_fleet(fleet, "host-b", groups)
        assert (peer.allow.actions, peer.allow.guests) == ((Action.MIGRATE,), ("web-*",))
    peer = peer_of_fleet(fleet, "host-b", ("db",))
    assert (peer.allow.actions, peer.allow.pools) == ((Action.SYNC,), ())
    assert peer.allow.quota == 10 * 2**30


def test_without_a_group_a_host_may_do_nothing(file):
    assert peer_of_fleet(load(file).fleet, "host-b").allow.actions == ()


def test_a_host_that_is_not_listed_is_reached_by_its_name_or_not_at_all(file):
    assert peer_of_fleet(load(file).fleet, "host-z").address == "host-z.example.net"
    fleet_text(file, FLEET.replace("unlisted", "#"))
    fleet = load(file).fleet
    assert peer_of_fleet(fleet, "host-z") is None
    assert peer_of_fleet(fleet, "host-z", ("web",)).address is None, "it can come"


def test_an_own_entry_goes_before_key_by_key(file):
    own = file.parent / "peers.d" / "host-b.yaml"
    own.parent.mkdir()
    own.write_text("allow: {guests: ['only-*']}\nport: 99\n")
    peer = peer_of_fleet(load(file).fleet, "host-b", ("web",))
    assert (peer.allow.guests, peer.allow.actions) == (("only-*",), (Action.MIGRATE,))
    assert (peer.address, peer.port) == ("192.0.2.2", 99)


def test_an_own_entry_that_becomes_wrong_does_not_allow_more(file):
    """Without what it said the group would count alone."""
    own = file.parent / "peers.d" / "host-b.yaml"
    own.parent.mkdir()
    own.write_text("allow: {guests: ['only-*']}\n")
    used = load(file)
    for text in ("allow: {guest: ['only-*']}\n", "a: [", "allow: {pools: [gone]}\n"):
        own.write_text(text)
        config, problems = load_again(file, used)
        assert problems
        assert peer_of_fleet(config.fleet, "host-b", ("web",)).allow.guests == ("only-*",)


def test_without_a_fleet_file_every_entry_needs_its_key(file):
    (file.parent / "fleet.yaml").unlink()
    (file.parent / "peers.d").mkdir()
    (file.parent / "peers.d" / "host-b.yaml").write_text("allow: {guests: ['only-*']}\n")
    said = wrong(file)
    assert "key: missing" in said
    assert "address: missing" in said


def test_the_file_may_be_elsewhere_and_must_be_there_then(file, tmp_path):
    elsewhere = tmp_path / "other.yaml"
    file.write_text(file.read_text() + f"fleet: {elsewhere}\n")
    assert "cannot be read: No such file" in wrong(file)
    elsewhere.write_text(FLEET)
    assert load(file).fleet.file == elsewhere
    file.write_text(file.read_text().replace(f"fleet: {elsewhere}", "fleet: nearby"))
    assert "fleet: must be an absolute path" in wrong(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  host-b:", "  host-a:", "hosts.host-a: is there twice (first on line 4)"),
        ("  host-b:", "  Host-A:", "hosts.Host-A: differs from 'host-a' in capitals only"),
        ("192.0.2.2, port: 7000", "192.0.2.1", "is also the address and port of 'host-a'"),
        (f"[{KEY}]", "[]", "authorities: "),
        (f"[{KEY}]", "[ssh-rsa AAAA]", "authorities[0]: is a key of type 'ssh-rsa'"),
        ("authorities", "authority", "perhaps 'authorities' is meant"),
        ("{name}.example", "name.example", "unlisted: must have {name} in it once"),
        ("{name}.example", "{name}..example", "nothing between two dots"),
        ("hosts:\n", "revoked: [-1]\nhosts:\n", "revoked[0]: -1 is neither the serial"),
        ("hosts:\n", f"revoked: ['{OTHER}']\nhosts:\n", "nor the fingerprint of a key"),
        ("hosts:\n", f"revoked: ['{fingerprint_of(KEY)}']\nhosts:\n", "authorities[0]: is revoked"),
        ("  cdrom: eject", "  address: 192.0.2.9", "defaults.address: is each host's own"),
        ("  cdrom: eject", f"  key: {OTHER}", "defaults.key: is each host's own"),
        ("  cdrom: eject", "  cdrom: burn", "defaults.cdrom: "),
        ("guests: ['web-*']", "guest: ['web-*']", "perhaps 'guests' is meant"),
        ("pools: [nowhere], ", "", "groups.db: allows actions and no pools"),
        ("hosts:\n", "own: {host-b: {}}\nhosts:\n", "own: unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(file, old, new, said):
    assert old in FLEET
    fleet_text(file, FLEET.replace(old, new, 1))
    assert said in wrong(file)
    assert "fleet.yaml" in wrong(file)


def test_nobody_else_may_write_it(file):
    (file.parent / "fleet.yaml").chmod(0o666)
    assert "is writable by everybody" in wrong(file)


def test_fingerprints_are_those_of_ssh():
    assert fingerprint_of(KEY).startswith("SHA256:")
    assert len(fingerprint_of(KEY)) == len("SHA256:") + 43
