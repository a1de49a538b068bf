"""Five hosts, one fleet file and one authority: nobody has pinned anybody's key."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.dom0 import QUIET, Dom0, image, problems, the_problem, unique
from tests.support.fleets import Fleet
from xenmoved.control.api import Done
from xenmoved.control.peer_api import Enroll, ListPeers, PeerPing, PingPeer
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.long
FIRST = ("host-a", "host-b", "host-c", "host-d")


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet[Dom0]]:
    """Four hosts that are enrolled."""
    fleet = Fleet[Dom0](tmp_path_factory.mktemp("fleet"))
    try:
        for name in FIRST:
            fleet.add(Dom0(fleet.root, name))
        fleet.list_hosts(FIRST)
        fleet.hand_out()
        for name in FIRST:
            fleet.enroll(name)
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def fleet(enrolled: Fleet[Dom0]) -> Iterator[Fleet[Dom0]]:
    """The four hosts; what a test does to the fleet file is undone."""
    before = enrolled.file.read_bytes()
    yield enrolled
    for name in enrolled.hosts.keys() - set(FIRST):
        enrolled.hosts.pop(name).close()
    if enrolled.file.read_bytes() != before:
        enrolled.file.write_bytes(before)
        enrolled.hand_out()
    for host in enrolled.hosts.values():
        host.clean()
        assert "Traceback" not in host.log(), host.log()


def boot(host: Dom0) -> str:
    """Start a guest with a disk; return its name."""
    name = unique("guest")
    host.boot(name, [image(host.images / f"{name}-root", 4, data=1)], extra=QUIET)
    return name


def answers(host: Dom0, peer: str) -> bool:
    """Whether a peer takes this host in."""
    return isinstance(host.ask(PingPeer(peer)), PeerPing)


def test_guests_move_between_hosts_that_pinned_nothing(fleet: Fleet[Dom0]) -> None:
    a, b, c, d = (fleet.hosts[name] for name in FIRST)
    guest = boot(a)
    for source, target in ((a, b), (b, c), (c, d)):
        source.migrate(guest, target.name)
        assert target.domain(guest) is not None
    for host in (a, b, c, d):
        assert not list((host.config_file.parent).glob("peers.d/*"))
        rows = host.ask(ListPeers()).peers
        assert [row.name for row in rows] == [name for name in FIRST if name != host.name]
        assert not any(row.pinned for row in rows)
    (row,) = (row for row in a.ask(ListPeers()).peers if row.name == "host-b")
    assert (row.groups, row.pools) == (("hosts",), ("images",)), "of pools, those that are here"
    assert "by its certificate: hosts" in a.ctl("peer", "list").stdout


def test_a_host_is_added_by_one_signature(fleet: Fleet[Dom0]) -> None:
    a = fleet.hosts["host-a"]
    logs = {name: len(fleet.hosts[name].log()) for name in FIRST}
    e = fleet.add(Dom0(fleet.root, "host-e"))
    fleet.hand_out(["host-e"])
    the_problem(e.ask(PingPeer("host-a")), "not-authorized")
    assert "not-enrolled" in e.ctl("status", "--json").stdout
    request = fleet.root / "host-e.pub"
    request.write_text(e.ctl("identity", "--request").stdout)
    signing = ("--dir", str(fleet.root / "ca"))
    signed = e.ctl("ca", "sign", str(request), "--group", "hosts", *signing)
    assert signed.returncode == 0, signed.stderr
    shown = e.ctl("enroll", str(fleet.root / "ca" / "host-e-cert.pub"))
    assert "host-e is enrolled, in hosts, until" in shown.stdout, shown.stderr
    guest = boot(e)
    e.migrate(guest, "host-a")
    assert a.domain(guest) is not None
    for name in FIRST:
        assert "configuration read" not in fleet.hosts[name].log()[logs[name] :]
    found = the_problem(a.try_migrate(guest, "host-e"), "peer-unreachable")
    assert found.text == "nobody has said where host-e is"
    assert "`hosts` of the fleet file" in found.hint


def test_a_host_that_is_not_listed_is_reached_where_the_file_says(fleet: Fleet[Dom0]) -> None:
    a = fleet.hosts["host-a"]
    fleet.edit(unlisted="{name}.localdomain.invalid")
    fleet.hand_out()
    found = the_problem(a.ask(PingPeer("host-z")), "peer-unreachable")
    assert "host-z.localdomain.invalid port 7222" in found.text


def test_a_revoked_host_is_cut_off_and_refused_at_both_ends(fleet: Fleet[Dom0]) -> None:
    a, b, c = (fleet.hosts[name] for name in FIRST[:3])
    disk = image(b.images / unique("volume"), 16)
    job = b.begin_sync(disk, "host-a", rate_limit=2**22)
    b.until_sent(job.job, 2**20)
    other = image(c.images / unique("volume"), 8)
    undisturbed = c.begin_sync(other, "host-a", rate_limit=2**22)
    fleet.authority.revoke("host-b")
    fleet.hand_out(["host-a", "host-c"])
    the_problem(b.finish(job.job), "link-lost")
    assert c.finish(undisturbed.job).state is JobState.DONE
    found = the_problem(b.ask(PingPeer("host-a")), "not-authorized")
    assert "does not believe this host's certificate: it is revoked (key)" in found.text
    found = the_problem(a.ask(PingPeer("host-b")), "certificate-revoked")
    assert "the certificate of host-b (127.0.0.1 port" in found.text
    wait_until(lambda: "is not believed: it is revoked (key)" in a.log(), "what is logged")
    assert answers(a, "host-c")
    fleet.hand_out(["host-b"])
    shown = b.ctl("status")
    assert "revoked by the fleet file" in shown.stdout
    assert shown.returncode == 7


def test_a_certificate_is_renewed_without_a_restart(fleet: Fleet[Dom0]) -> None:
    a, b = fleet.hosts["host-a"], fleet.hosts["host-b"]
    assert answers(b, "host-a")
    assert a.process is not None and b.process is not None
    before = (a.process.pid, b.process.pid)
    span = {"valid_after": _soon(-300 * 86400), "valid_before": _soon(86400)}
    fleet.put("host-b", fleet.signed_badly(b.identity().key, "host-b", **span))
    shown = b.ctl("status")
    assert "certificate of this host expires on" in shown.stdout
    assert "xenmovectl ca renew host-b" in shown.stdout
    (renewed,) = fleet.authority.renew(["host-b"], 400 * 86400.0)
    assert isinstance(b.ask(Enroll(renewed.text)), Done)
    assert b.ctl("status").returncode == 0
    assert answers(a, "host-b") and answers(b, "host-a")
    assert (a.process.pid, b.process.pid) == before


def _soon(seconds: float) -> int:
    return int(time.time() + seconds)


def test_an_expired_certificate_is_refused_at_both_ends(fleet: Fleet[Dom0]) -> None:
    a, b = fleet.hosts["host-a"], fleet.hosts["host-b"]
    key = b.identity().key
    good = (b.folder / "state" / "identity-cert.pub").read_text()
    fleet.put("host-b", fleet.signed_badly(key, "host-b", valid_before=_soon(-60)))
    b.stop()  # what was connected before goes on as it was
    b.start()
    try:
        found = the_problem(b.ask(PingPeer("host-a")), "not-authorized")
        assert "certificate: it expired on" in found.text
        assert "on host-a it is" in found.text, "clocks can be compared"
        assert "xenmovectl ca renew host-b" in found.hint
        found = the_problem(a.ask(PingPeer("host-b")), "certificate-expired")
        assert "xenmovectl ca renew host-b" in found.hint
        assert "expired on" in b.ctl("status").stdout
        fleet.put("host-b", fleet.signed_badly(key, "host-b", valid_after=_soon(3000)))
        found = the_problem(b.ask(PingPeer("host-a")), "not-authorized")
        assert "it is not valid before" in found.text
        assert "clocks" in found.hint
        the_problem(a.ask(PingPeer("host-b")), "certificate-early")
    finally:
        (b.folder / "state" / "identity-cert.pub").write_text(good)
        b.reload()
    assert answers(a, "host-b")


@pytest.mark.thorough
def test_what_runs_when_a_certificate_expires_comes_to_its_end(fleet: Fleet[Dom0]) -> None:
    b = fleet.hosts["host-b"]
    good = (b.folder / "state" / "identity-cert.pub").read_text()
    guest = boot(b)
    big = image(b.images / unique("volume"), 48)
    ends = _soon(15)
    fleet.put("host-b", fleet.signed_badly(b.identity().key, "host-b", valid_before=ends))
    try:
        job = b.begin_sync(big, "host-a", rate_limit=2**21)
        b.until_sent(job.job, 2**18)
        wait_until(lambda: _soon(0) > ends, "the end of the certificate", 30)
        the_problem(b.ask(PingPeer("host-a")), "certificate-expired")
        assert problems(b.try_migrate(guest, "host-a"))[0].code == "certificate-expired"
        assert b.finish(job.job).state is JobState.DONE
    finally:
        (b.folder / "state" / "identity-cert.pub").write_text(good)
        b.reload()
    assert answers(b, "host-a")


def test_a_host_uses_no_certificate_but_its_own(fleet: Fleet[Dom0]) -> None:
    a, b = fleet.hosts["host-a"], fleet.hosts["host-b"]
    key, other = a.identity().key, b.identity().key
    for wrong, code, said in (
        (fleet.signed_badly(key, "host-z"), "certificate-other", "for host-z, and this host is"),
        (fleet.signed_badly(other, "host-a"), "certificate-other", "for another key"),
        (
            fleet.signed_badly(key, "host-a", valid_before=_soon(-1)),
            "certificate-expired",
            "expired",
        ),
    ):
        found = the_problem(a.ask(Enroll(wrong.text)), code)
        assert said in found.text
    the_problem(a.ask(Enroll("nonsense")), "certificate-damaged")
    assert answers(a, "host-b"), "nothing was changed"


def test_a_fleet_file_that_is_wrong_changes_nothing(fleet: Fleet[Dom0]) -> None:
    a = fleet.hosts["host-a"]
    file = a.config_file.parent / "fleet.yaml"
    text = file.read_text()
    twice = text.replace("  host-b:\n", "  host-b:\n    address: 192.0.2.9\n  host-b:\n", 1)
    assert twice != text
    file.write_text(twice)
    a.reload()
    assert "hosts.host-b: is there twice" in a.log()
    assert answers(a, "host-b")
    file.unlink()
    a.reload()
    the_problem(a.ask(PingPeer("host-b")), "peer-unknown")
    file.write_text(text)
    a.reload()
    assert answers(a, "host-b")


def test_an_own_entry_goes_before_the_fleet_file(fleet: Fleet[Dom0]) -> None:
    a, b = fleet.hosts["host-a"], fleet.hosts["host-b"]
    own = a.config_file.parent / "peers.d" / "host-b.yaml"
    own.parent.mkdir(exist_ok=True)
    own.write_text("allow: {guests: ['other-*'], memory: 1GiB}\n")
    a.reload()
    try:
        guest = boot(b)
        answer = b.ask(PingPeer("host-a"))
        assert (answer.guests, answer.memory) == (("other-*",), 2**30)
        assert answer.actions == ("migrate", "sync"), "the rest is that of the group"
        assert problems(b.try_migrate(guest, "host-a"))
    finally:
        own.unlink()
        a.reload()
    assert b.ask(PingPeer("host-a")).guests == ("*",)
