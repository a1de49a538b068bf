"""Domains that the toolstack lists and cannot describe: none of the guests, and no error.

A dying domain, a zombie without a name, and a stub or xenstore domain are on every host beside the
guests of these tests. What such a domain still has open is in use.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, RESIDENT, Dom0, Guest, digest, image, problems, unique
from xenmoved.control.api import Done
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.migration.report import Volumes
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="attaches loop devices")

Hosts = tuple[Dom0, Dom0]

ENDING = [
    {"name": "(null)", "domid": 9001, "state": "--ps-d"},
    {"name": "ended", "domid": 9002, "state": "---s-d"},
    {"name": "(null)", "domid": 9003, "state": "------"},
]
# xend makes up a configuration for each that runs and has a name.
BARE = {"xl": [*ENDING, {"name": "xenstore", "domid": 9004, "state": "-b----"}], "xm": ENDING}


@pytest.fixture(params=["xl", "xm"])
def beside(request: pytest.FixtureRequest) -> Hosts:
    """Two hosts that have such domains."""
    a, b = request.getfixturevalue("hosts" if request.param == "xl" else "xm_hosts")
    for host in (a, b):
        (host.xen.root / "host.json").write_text(json.dumps({"bare_domains": BARE[host.tool]}))
    return a, b


def booted(host: Dom0) -> Guest:
    name = unique("web")
    return host.boot(name, [image(host.images / f"{name}-root", 2, data=1)], extra=QUIET)


@contextmanager
def backend(volume: Path) -> Iterator[None]:
    """Hold a volume as blkback does for a domain that is not gone yet."""
    command = ["losetup", "--find", "--show", volume]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def codes(answer: object) -> set[str]:
    return {each.code for each in problems(answer)}


@pytest.mark.sampled
def test_guests_are_listed_moved_and_their_copies_dropped(beside: Hosts) -> None:
    a, b = beside
    guest = booted(a)
    listed = a.ask(ListVolumes())
    assert isinstance(listed, Volumes)
    assert listed.problems == ()
    a.migrate(guest.name, mode=Mode.SAVE)
    b.assert_runs(guest.name)
    drop = DropVolumes(None, guest.name, confirmed=True)
    with backend(guest.disks[0]):
        assert codes(a.ask(drop)) == {"volume-in-use"}
        assert codes(b.try_migrate(guest.name, "host-a")) == {"volume-in-use"}
    assert isinstance(a.ask(drop), Done)
    assert not guest.disks[0].exists()


@pytest.mark.sampled
def test_a_cold_guest_moves(beside: Hosts) -> None:
    a, b = beside
    guest = booted(a)
    a.xen.run(a.tool, "destroy", guest.name)
    a.migrate(guest.name, mode=Mode.COLD)
    assert digest(b.images / guest.disks[0].name) == digest(guest.disks[0])


@pytest.mark.thorough
def test_a_cold_guest_whose_disk_is_still_open_does_not_move(hosts: Hosts) -> None:
    """Whichever the toolstack: it is waited for, for a while, and then said."""
    a, _ = hosts
    guest = booted(a)
    a.xen.run(a.tool, "destroy", guest.name)
    with backend(guest.disks[0]):
        assert "volume-in-use" in codes(a.try_migrate(guest.name, mode=Mode.COLD))


@pytest.mark.sampled
def test_a_host_is_evacuated(beside: Hosts) -> None:
    a, b = beside
    guest = booted(b)
    done = b.ctl("evacuate", "host-a", "--mode", "save", "--json")
    assert done.returncode == 0, done
    last = json.loads(done.stdout.splitlines()[-1])
    assert {each["guest"]: each["fate"] for each in last["guests"]} == {guest.name: "moved"}
    a.assert_runs(guest.name)
    a.assert_runs(RESIDENT)


@pytest.mark.thorough
def test_old_copies_are_dropped_unless_they_are_in_use(beside: Hosts) -> None:
    a, _ = beside
    guest = booted(a)
    held = booted(a)
    for one in (guest, held):
        a.migrate(one.name, mode=Mode.SAVE)
    a.write_config(retain={"age": "1s"})
    try:
        with backend(held.disks[0]):
            a.stop()
            a.start()
            wait_until(lambda: not guest.disks[0].exists(), "the end of an old copy", 20)
            assert held.disks[0].exists()
    finally:
        a.write_config(retain={"age": "never"})
