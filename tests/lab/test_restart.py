"""Guests that are shut down on one real host and started on the other."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Final

import pytest

from tests.lab import guests, moving
from tests.lab.errors import LabError
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import Pair

_SEQ: Final = re.compile(r"writer: seq (\d+) ")
_GOES_ON: Final = re.compile(r"writer: instance \S+ goes on at seq (\d+)")
_PATIENCE: Final = 300.0


def forget_console(host: Host, guest: Guest) -> None:
    """Empty what a guest has written to its console on a host: that it stopped was in order."""
    host.run(f"truncate -s 0 /var/log/xen/console/guest-{guest.name}*.log", check=False)


def last_seq(host: Host, guest: Guest) -> int:
    """Return the last write that a guest told of on a host where it was shut down."""
    return max((int(seq) for seq in _SEQ.findall(guest.console(host))), default=0)


def domid(host: Host, guest: Guest) -> str:
    """Return the id of a guest's domain on a host."""
    return host.run(f"xl domid {guest.name}").stdout.strip()


def disobedient(host: Host, what: str) -> tuple[Guest, str]:
    """Start a guest that does something else than to power off: see `guest/init`.

    Returns it, and the id of its domain.
    """
    small = guests.small(host)
    guest = replace(small, boot=small.boot.replace("quiet", f"quiet shutdown={what}"))
    forget_console(host, guest)
    guest.create(host)
    guest.await_writes(host, 0)
    return guest, domid(host, guest)


def stays(pair: Pair, guest: Guest, code: str) -> None:
    """Try to move a guest from host-a, which must fail with a problem."""
    words = "--overwrite --quiet --mode restart --shutdown-timeout 90s"
    pair.a.run(f"xenmovectl migrate {guest.name} host-b {words}", check=False, timeout=1200)
    report = moving.job(pair.a, guest)
    assert (report["state"], report["problem"]["code"]) == ("failed", code), report
    assert guest.name not in pair.b.run("xl list").stdout
    assert pair.a.read(guest.config), "its configuration is in use"


@pytest.mark.slow
def test_there_and_back(pair: Pair) -> None:
    guest = guests.small(pair.a)
    guest.create(pair.a)
    guest.await_writes(pair.a, 0)
    for source, target in ((pair.a, pair.b), (pair.b, pair.a)):
        forget_console(target, guest)
        options = "--mode restart --verify --shutdown-timeout 10m"
        report = moving.migrate(source, target, guest, options)
        moving.assert_moved(source, target, guest)
        moving.assert_verified(report)
        left = last_seq(source, guest)
        there = guest.await_writes(target, left)
        guest.await_writes(target, there, verified=True)
        begun = _GOES_ON.search(guest.console(target))
        assert begun is not None and int(begun[1]) >= left, "its disks are not as it left them"
    guest.destroy(pair.a)


@pytest.mark.slow
def test_one_that_ignores_the_request_runs_on(pair: Pair) -> None:
    guest, before = disobedient(pair.a, "ignore")
    stays(pair, guest, "not-shut-down")
    assert domid(pair.a, guest) == before
    guest.await_writes(pair.a, guest.seq(pair.a))
    guest.destroy(pair.a)


@pytest.mark.slow
def test_one_that_reboots_instead_is_not_moved(pair: Pair) -> None:
    guest, before = disobedient(pair.a, "reboot")
    stays(pair, guest, "guest-restarted")
    deadline = time.monotonic() + _PATIENCE
    while not (guest.runs_on(pair.a) and _GOES_ON.search(guest.console(pair.a))):
        if time.monotonic() > deadline:
            raise LabError(f"{guest.name} has not come back within {_PATIENCE:g} s")
        time.sleep(2)
    assert domid(pair.a, guest) != before
    guest.destroy(pair.a)
