"""Doubts are settled, and nothing else is done, where two hosts believe each other no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.messages import Problem
from tests.support.crash import PATIENCE, CrashHost, World
from tests.support.fleets import Fleet
from xenmoved.control.api import Failure
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until

pytestmark = pytest.mark.long


class FleetWorld(World):
    """Two hosts that trust each other by their certificates."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fleet = Fleet[CrashHost](root)

    def _introduce(self) -> None:
        for host in self.hosts:
            self.fleet.hosts[host.name] = host
        self.fleet.list_hosts(self.fleet.hosts)
        self.fleet.hand_out()
        for host in self.hosts:
            self.fleet.enroll(host.name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FleetWorld]:
    """A world of its own: what is revoked stays revoked."""
    world = FleetWorld(tmp_path)
    try:
        world.start()
        yield world
    except BaseException:
        world.print_logs()
        raise
    finally:
        world.close()


def revoke(world: FleetWorld, *names: str) -> None:
    """Revoke hosts, everywhere."""
    for name in names:
        world.fleet.authority.revoke(name)
    world.fleet.hand_out()


def expire(world: FleetWorld, *names: str) -> None:
    """Have certificates that have expired."""
    ended = int(time.time()) - 60
    for name in names:
        key = world.fleet.hosts[name].identity().key
        world.fleet.put(name, world.fleet.signed_badly(key, name, valid_before=ended))


def forget(world: FleetWorld, *names: str) -> None:
    """Take hosts out of the fleet file, and the authority of all out of it, too."""
    stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQQWIEa+DzXbNZh5jtYi3fkSUTLuYIWflPJWQwtrmQW"
    world.fleet.edit(authorities=[stranger], hosts={})
    world.fleet.hand_out()


def refusal(answer: object) -> Problem:
    """Return why a migration cannot begin."""
    assert isinstance(answer, Failure), answer
    return answer.problems[0]


@pytest.mark.sampled
@pytest.mark.parametrize("end", ["started", "aborted"])
@pytest.mark.parametrize(
    ("distrust", "names", "code"),
    [
        (revoke, ("host-a",), "not-authorized"),
        (revoke, ("host-b",), "certificate-revoked"),
        (revoke, ("host-a", "host-b"), "certificate-revoked"),
        (expire, ("host-a", "host-b"), "certificate-expired"),
        (forget, ("host-a", "host-b"), "peer-unknown"),
    ],
)
def test_a_doubt_is_settled_by_the_keys_with_which_it_began(
    world: FleetWorld,
    distrust: Callable[..., None],
    names: tuple[str, ...],
    code: str,
    end: str,
) -> None:
    source, target = world.hosts
    fault = "kill@inbound:started:after" if end == "started" else "kill@answer:Commit:before"
    target.arm(fault)
    source.migrate(target)
    wait_until(lambda: target.dead, "the end of the target's daemon", PATIENCE)
    wait_until(lambda: source.last_job().state is JobState.IN_DOUBT, "the doubt", PATIENCE)
    if distrust is expire:  # asks the daemons for their keys
        world.restart_dead()
    distrust(world, *names)
    world.restart_dead()
    world.wait_quiet()
    assert world.owner() is (target if end == "started" else source)
    if end == "started":
        assert source.last_job().state is JobState.DONE
    owner = world.owner()
    found = refusal(owner.migrate(world.other(owner)))
    assert found.code in (code, "not-authorized", "certificate-revoked"), found
    assert "to settle what is in doubt" in target.log() or distrust is expire
