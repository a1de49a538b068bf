"""Peers that are unknown, away, somebody else, or do not know this host."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import asyncssh
import pytest

from tests.support.dom0 import RESIDENT, Dom0, image, the_problem, unique
from xenmoved.control.api import Done
from xenmoved.control.peer_api import (
    AddPeer,
    FetchPeerKey,
    ListPeers,
    PeerKey,
    PeerPing,
    PingPeer,
    RemovePeer,
)
from xenmoved.sandbox.harness import wait_until

NOTHING = ((), (), (), None, None, None, False, False)
"""What a peer may do, as it is added."""
Hosts = tuple[Dom0, Dom0]


def stranger() -> str:
    """Return a public key that nobody has."""
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def test_an_unknown_peer(hosts: Hosts) -> None:
    a, _ = hosts
    for ask in (a.try_migrate, lambda guest, peer: a.try_sync("images:resident-root", peer)):
        found = the_problem(ask(RESIDENT, "host-x"), "peer-unknown")
        assert "no peer is called host-x" in found.text
        assert found.hint == "known peers: host-b"
    a.assert_runs(RESIDENT)


def test_a_peer_whose_daemon_is_not_running(hosts: Hosts) -> None:
    a, b = hosts
    b.stop()
    began = time.monotonic()
    found = the_problem(a.try_migrate(RESIDENT), "peer-unreachable")
    assert time.monotonic() - began < 5
    assert f"cannot connect to host-b (127.0.0.1 port {b.port})" in found.text
    assert "xenmoved runs there" in found.hint
    assert the_problem(a.ask(PingPeer("host-b")), "peer-unreachable") == found
    a.assert_runs(RESIDENT)
    b.start()
    assert not a.plan(RESIDENT).problems


def test_another_key_than_the_configured_one(hosts: Hosts) -> None:
    a, b = hosts
    a.ask(AddPeer("impostor", "127.0.0.1", b.port, stranger(), *NOTHING))
    found = the_problem(a.try_migrate(RESIDENT, "impostor"), "wrong-host-key")
    assert b.identity().fingerprint in found.text
    assert "somebody may be in between" in found.hint
    assert "--replace" in found.hint
    a.assert_runs(RESIDENT)


def test_a_peer_that_does_not_know_this_host(hosts: Hosts) -> None:
    a, b = hosts
    assert isinstance(b.ask(RemovePeer("host-a")), Done)
    found = the_problem(a.try_migrate(RESIDENT), "not-authorized")
    assert "host-b" in found.text
    assert "does not know this host's key" in found.text
    assert "xenmovectl peer add" in found.hint
    b.trust(a)
    assert not a.plan(RESIDENT).problems


def test_peers_are_added_shown_and_removed(hosts: Hosts) -> None:
    a, b = hosts
    key = stranger()
    shown = a.ctl("peer", "add", "host-c", "192.0.2.7:7000", "--key", key)
    assert shown.returncode == 0, shown.stderr
    (row,) = (one for one in a.ask(ListPeers()).peers if one.name == "host-c")
    assert (row.address, row.port, row.actions) == ("192.0.2.7", 7000, ())
    assert "host-c" in a.ctl("peer", "list").stdout

    again = a.ask(AddPeer("host-c", "192.0.2.8", 7000, key, *NOTHING))
    assert "host-c" in the_problem(again, "configuration").text
    mine = AddPeer("myself", "127.0.0.1", a.port, a.identity().key, *NOTHING)
    the_problem(a.ask(mine), "own-key")
    twice = AddPeer("host-d", "192.0.2.9", 7000, b.identity().key, *NOTHING)
    assert "host-b" in the_problem(a.ask(twice), "configuration").text

    assert a.ctl("peer", "remove", "host-c").returncode == 0
    assert [one.name for one in a.ask(ListPeers()).peers] == ["host-b"]
    assert "host-c" in the_problem(a.ask(RemovePeer("host-c")), "configuration").text
    assert not a.plan(RESIDENT).problems, "what was refused changed nothing"


def test_a_ping_measures_and_tells_what_is_allowed(hosts: Hosts) -> None:
    a, b = hosts
    answer = a.ask(PingPeer("host-b"))
    assert isinstance(answer, PeerPing), answer
    assert (answer.node, answer.toolstack, answer.guests) == ("host-b", "xl", ("*",))
    assert set(answer.pools) == set(b.settings["pools"])
    assert answer.throughput > 10e6
    assert answer.slow_because is None
    assert 0 < answer.round_trip < 5
    (row,) = a.ask(ListPeers()).peers
    assert row.connected_to
    assert b.ask(ListPeers()).peers[0].connected_from


def test_the_key_of_a_host_can_be_had_before_it_is_trusted(hosts: Hosts) -> None:
    a, b = hosts
    key = a.ask(FetchPeerKey("127.0.0.1", b.port))
    assert isinstance(key, PeerKey)
    assert (key.key, key.fingerprint) == (b.identity().key, b.identity().fingerprint)
    b.stop()
    found = the_problem(a.ask(FetchPeerKey("127.0.0.1", b.port)), "peer-unreachable")
    assert f"127.0.0.1 port {b.port}" in found.text


def test_a_removed_peer_is_cut_off_at_once(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / unique("volume"), 16)
    job = a.begin_sync(disk, rate_limit=2**22)
    a.until_sent(job.job, 2**20)
    b.ask(RemovePeer("host-a"))
    the_problem(a.finish(job.job), "link-lost")
    wait_until(lambda: b.log().count("connection from host-a ended") > 0, "the end of the link")
    the_problem(a.try_sync(disk), "not-authorized")


@pytest.mark.thorough
def test_a_connection_that_ended_unnoticed_is_made_anew(hosts: Hosts) -> None:
    a, b = hosts
    assert isinstance(a.ask(PingPeer("host-b")), PeerPing)
    assert a.process is not None
    a.process.send_signal(signal.SIGSTOP)
    b.stop()
    b.start()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(a.ask, PingPeer("host-b"))
        time.sleep(0.2)  # for both to have arrived when it looks
        a.process.send_signal(signal.SIGCONT)
        assert isinstance(answer.result(), PeerPing), answer.result()
