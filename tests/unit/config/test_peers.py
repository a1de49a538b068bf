"""Peers: what they may do, and their files of their own."""

import base64
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from xenmoved.choices import CdromChoice
from xenmoved.config import peers as peer_files
from xenmoved.config.errors import ConfigError, PeerExists, PeerNotFound
from xenmoved.config.loader import load, load_again, peer_from
from xenmoved.config.model import Action, Allow, Peer
from xenmoved.config.peers import remove_peer, write_peer


def _key(number: int) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32, "big")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


HOST_B = Peer(name="host-b", address="fd00::2", key=_key(1))
GENEROUS = Allow(
    actions=(Action.MIGRATE, Action.SYNC),
    pools=("images",),
    guests=("web-*", "no"),
    quota=500 * 2**30 + 1,
    memory=8 * 2**30,
    vcpus=4,
    overwrite=True,
    scripts=("vif-route",),
    ip=("192.0.2.0/24", "2001:db8::/64"),
    gatewaydev=("eth0", "no"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "xenmoved.yaml"
    file.write_text(
        "node: host-a\n"
        "pools: {images: {kind: dir, path: /srv}}\n"
        "peers:\n"
        f"  host-m: {{address: host-m, key: {_key(9)}}}\n"
    )
    file.chmod(0o644)
    return file


def _drop_in(file: Path, name: str, text: str) -> Path:
    directory = file.parent / "peers.d"
    directory.mkdir(mode=0o755, exist_ok=True)
    written = directory / name
    written.write_text(text)
    written.chmod(0o644)
    return written


def _error(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value)


def test_a_peer_may_do_nothing_unless_it_is_allowed():
    assert not any(HOST_B.may(action, "web-1") for action in Action)
    assert not HOST_B.may_use("images")


def test_a_peer_may_do_what_is_allowed_with_guests_that_are():
    allow = Allow(actions=(Action.SYNC,), pools=("images",), guests=("web-*", "mail?"))
    peer = Peer(name="b", address="b", key=_key(1), allow=allow)
    assert peer.may(Action.SYNC, "web-1")
    assert peer.may(Action.SYNC, "mail2")
    assert not peer.may(Action.SYNC, "mail")
    assert not peer.may(Action.SYNC, "Web-1")
    assert not peer.may(Action.SYNC, "my-web-1")
    assert not peer.may(Action.MIGRATE, "web-1")
    assert peer.may_use("images")
    assert not peer.may_use("image*")


def test_files_of_peers_are_read_with_the_main_file(file):
    _drop_in(file, "host-b.yaml", f"address: fd00::2\nkey: {_key(1)}\n")
    _drop_in(file, ".host-c.yaml", "half written")
    _drop_in(file, "host-c.yaml~", "an editor's copy")
    peers = load(file).peers
    assert set(peers) == {"host-m", "host-b"}
    assert peers["host-b"] == HOST_B


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "b.yaml",
            f"address: b\nkey: {_key(1)}\nprot: 1\n",
            ":3: prot: unknown key, perhaps 'port'",
        ),
        ("b.yaml", "address: b\n", ":1: key: missing"),
        ("b.yaml", "", ": address: missing"),
        ("b.yaml", "[]", ":1: must be a map, not a list"),
        ("b.yaml", "a: [", ":1: is not valid YAML: "),
        ("b c.yaml", f"address: b\nkey: {_key(1)}\n", ":1: must be a name of letters"),
        ("b.yaml", f"address: b\nkey: {_key(9)}\n", ":2: key: is also the key of peer 'host-m'"),
        ("host-a.yaml", f"address: b\nkey: {_key(1)}\n", ":1: is the name of this host itself"),
        ("b.yml", f"address: b\nkey: {_key(1)}\n", ": would be ignored; rename it to b.yaml"),
        (
            "b.yaml",
            f"address: b\nkey: {_key(1)}\nallow:\n"
            "  actions: [sync]\n  guests: ['*']\n  pools: [x]\n",
            ":6: allow.pools[0]: there is no pool 'x' (pools: images)",
        ),
    ],
)
def test_a_problem_names_the_file_of_the_peer(file, name, text, problem):
    written = _drop_in(file, name, text)
    assert f"{written}{problem}" in _error(file)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("scripts: [/etc/xen/scripts/vif-route]", "allow.scripts[0]: must be the name of a script"),
        ("scripts: ['*']", "allow.scripts[0]: must be the name of a script, without its folder"),
        ("ip: true", "allow.ip: must be a list of networks such as 192.0.2.0/24, is True"),
        ("ip: [192.0.2.1/24]", "allow.ip: '192.0.2.1/24' is no network such as 192.0.2.0/24"),
        ("gatewaydev: ['*/x']", "allow.gatewaydev[0]: must be the name of a network device"),
        ("gatewaydev: ['*']", "allow.gatewaydev[0]: must be the name of a network device"),
    ],
)
def test_what_interfaces_may_have(file, said, problem):
    _drop_in(file, "b.yaml", f"address: b\nkey: {_key(1)}\nallow:\n  {said}\n")
    assert problem in _error(file)


def test_a_peer_that_is_in_both_places_is_refused(file):
    written = _drop_in(file, "host-m.yaml", f"address: b\nkey: {_key(1)}\n")
    assert _error(file) == f"{written}:1: peer is there twice, see {file}:4: peers.host-m"


def test_problems_of_all_files_are_told_at_once(file):
    _drop_in(file, "host-b.yaml", "port: x")
    _drop_in(file, "host-c.yaml", "port: y")
    file.write_text("node: 5")
    lines = _error(file).splitlines()
    assert lines[0].startswith(f"{file}:1: node")
    assert sum("port: must be an integer" in line for line in lines) == 2


def test_files_that_everybody_may_write_are_refused(file):
    written = _drop_in(file, "host-b.yaml", f"address: b\nkey: {_key(1)}\n")
    written.chmod(0o646)
    assert _error(file) == f"{written}: is writable by everybody; run: chmod o-w {written}"
    written.chmod(0o644)
    written.parent.chmod(0o777)
    assert f"{written.parent}: is writable by everybody" in _error(file)


@pytest.mark.parametrize("allow", [Allow(), GENEROUS])
def test_a_written_peer_is_read_back_as_it_was(file, allow):
    peer = Peer(name="host-b", address="fd00::2", key=_key(1), port=7000, allow=allow)
    written = write_peer(file, peer)
    assert written == file.parent / "peers.d" / "host-b.yaml"
    assert load(file).peers["host-b"] == peer
    assert written.read_text().startswith("# Peer host-b, ")
    assert stat.S_IMODE(written.stat().st_mode) == 0o644
    assert list(written.parent.iterdir()) == [written]


def test_a_peer_is_replaced_only_on_demand(file):
    write_peer(file, HOST_B)
    other = Peer(name="host-b", address="elsewhere", key=_key(2))
    with pytest.raises(PeerExists, match="exists already"):
        write_peer(file, other)
    assert load(file).peers["host-b"] == HOST_B
    write_peer(file, other, replace=True)
    assert load(file).peers["host-b"] == other


def test_a_peer_of_the_main_file_is_not_replaced(file):
    peer = Peer(name="host-m", address="b", key=_key(1))
    with pytest.raises(PeerExists, match=r"peers.host-m: is in this file; edit it there"):
        write_peer(file, peer, replace=True)
    assert not (file.parent / "peers.d").exists()


@pytest.mark.parametrize(
    ("peer", "problem"),
    [
        (Peer(name="../b", address="b", key=_key(1)), "must be a name of letters"),
        (Peer(name="b", address="b\nport: 1", key=_key(1)), "is no IPv6 address"),
        (Peer(name="b", address="b", key="ssh-ed25519 AAAA"), "key: is damaged"),
        (Peer(name="b", address="b", key=_key(9)), "key: is also the key of peer 'host-m'"),
        (Peer(name="b", address="b", key=_key(1), port=0), "port: must be from 1 to 65535"),
        (
            Peer(name="b", address="b", key=_key(1), allow=Allow(actions=(Action.SYNC,))),
            "allow.pools: is empty",
        ),
    ],
)
def test_a_peer_that_the_daemon_would_refuse_is_not_written(file, peer, problem):
    with pytest.raises(ConfigError) as caught:
        write_peer(file, peer)
    assert problem in str(caught.value)
    assert not (file.parent / "peers.d").exists()


def test_nothing_is_left_when_writing_fails(file, monkeypatch):
    def fail(_descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(peer_files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_peer(file, HOST_B)
    assert list((file.parent / "peers.d").iterdir()) == []


def test_a_peer_is_removed_with_its_file(file):
    written = write_peer(file, HOST_B)
    assert remove_peer(file, "host-b") == written
    assert set(load(file).peers) == {"host-m"}
    for name in ("host-b", "host-m"):
        with pytest.raises(PeerNotFound, match="does not exist; a peer of the main file is"):
            remove_peer(file, name)


def test_a_name_cannot_lead_out_of_the_folder(file):
    with pytest.raises(ConfigError, match="must be a name of letters"):
        remove_peer(file, "../xenmoved")
    assert file.exists()


def test_a_peer_from_plain_data(file):
    data = {"address": "fd00::2", "key": f"{_key(1)} root@host-b"}
    assert peer_from("host-b", data, file) == HOST_B
    with pytest.raises(ConfigError, match="prot: unknown key"):
        peer_from("host-b", {**data, "prot": 1}, file)


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/dev/disk/by-id/scsi-36001", True),
        ("/dev/disk/by-id/scsi-1/part1", False),
        ("/dev/disk/by-id/ata-1", False),
        ("/srv/nfs/web/root.img", True),
        ("/srv/nfs/root.img", False),
        ("/srv/nfs/../nfs/root.img", False),
        ("/srv/nfs/web/../../../etc/shadow", False),
        ("/x/srv/nfs/web/root.img", False),
        ("images", False),
    ],
)
def test_paths_that_are_shared(path, shared):
    places = ("images", "/dev/disk/by-id/scsi-*", "/srv/nfs/*/*.img")
    assert replace(HOST_B, shared=places).shares_path(path) is shared
    assert not HOST_B.shares_path(path)


def test_what_a_peer_is_called_otherwise_is_kept_in_its_file(file):
    peer = replace(
        HOST_B,
        pools={"hdd": "images"},
        volumes={"vm-*-root": "*-disk0", "*": "x-*"},
        bridges={"xenbr0": "br-lan"},
        shared=("images", "/srv/nfs/*"),
        cdrom=CdromChoice.REQUIRE,
    )
    write_peer(file, peer)
    read = load(file).peers["host-b"]
    assert read == peer
    assert list(read.volumes) == ["vm-*-root", "*"]


WRONG_PEERS = {
    "a typing error": f"adress: b\nkey: {_key(1)}\n",
    "an address that cannot be": f"address: host-b..example.com\nkey: {_key(1)}\n",
    "no YAML": "a: [",
    "the key of another": f"address: b\nkey: {_key(9)}\n",
    "a pool that is not there": (
        f"address: b\nkey: {_key(1)}\nallow: {{actions: [sync], guests: ['*'], pools: [nowhere]}}\n"
    ),
}


@pytest.mark.parametrize("text", WRONG_PEERS.values(), ids=WRONG_PEERS)
def test_a_wrong_entry_of_a_peer_leaves_it_and_the_others_as_they_are(file, text):
    _drop_in(file, "host-b.yaml", f"address: fd00::2\nkey: {_key(1)}\n")
    _drop_in(file, "host-c.yaml", f"address: c\nkey: {_key(2)}\n")
    used = load(file)
    before = used.peers
    written = _drop_in(file, "host-b.yaml", text)
    _drop_in(file, "host-c.yaml", f"address: c.example\nkey: {_key(2)}\n")
    _drop_in(file, "host-d.yaml", "port: x\n")  # new, and wrong
    config, problems = load_again(file, used)
    assert set(config.peers) == {"host-m", "host-b", "host-c"}
    assert config.peers["host-b"] == before["host-b"]
    assert config.peers["host-c"].address == "c.example"
    assert {problem.file.name for problem in problems} == {written.name, "host-d.yaml"}
    _error(file)  # a daemon that starts has nothing to keep


def test_what_is_wrong_with_the_main_file_changes_nothing(file):
    used = load(file)
    file.write_text(file.read_text() + "\nlog_level: loud\n")
    with pytest.raises(ConfigError, match="log_level"):
        load_again(file, used)
