"""A guest comes as what was announced, as large as its host may bring it, or it does not come."""

from __future__ import annotations

import json

import pytest

from protocol.messages import Mode
from tests.support.dom0 import MIB, QUIET, Dom0, Guest, image, the_problem, unique
from xenmoved.jobs.report import JobReport, JobState, Phase

Hosts = tuple[Dom0, Dom0]

MODES = pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])


def boot(host: Dom0, lines: str = "", memory: int = 2) -> Guest:
    name = unique("web")
    disk = image(host.images / f"{name}-root", 1)
    return host.boot(name, [disk], extra=QUIET, memory=memory, lines=lines)


def held(a: Dom0, guest: Guest, mode: Mode) -> JobReport:
    job = a.begin(guest.name, mode=mode, hold=True)
    return a.until(job.job, lambda report: report.phase is Phase.HOLD)


def codes(host: Dom0, guest: Guest, **options: object) -> list[str]:
    return [problem.code for problem in host.plan(guest.name, **options).problems]


@pytest.mark.thorough
def test_a_peer_brings_guests_up_to_its_limits(hosts: Hosts) -> None:
    a, b = hosts
    large = boot(a, "maxmem = 64\nvcpus = 4\n")
    b.trust(a, memory=64 * MIB, vcpus=4)
    assert codes(a, large) == []
    b.trust(a, memory=63 * MIB, vcpus=3)
    memory, vcpus = a.plan(large.name).problems
    assert (memory.code, vcpus.code) == ("memory-limit", "vcpus-limit")
    assert "may be given 64MiB of memory, and host-a may bring guests of up to 63MiB" in memory.text
    assert "raise `allow` of peer host-a on host-b" in memory.hint
    assert "has 4 vcpus, and host-a may bring guests with up to 3 to host-b" in vcpus.text
    assert a.try_migrate(large.name) is not None
    a.assert_runs(large.name)
    b.trust(a)
    a.migrate(large.name)
    b.assert_runs(large.name)


def test_the_limits_hold_for_the_file_from_which_a_guest_starts_one_day(hosts: Hosts) -> None:
    a, b = hosts
    guest = boot(a)
    b.trust(a, memory=64 * MIB, vcpus=4)
    with guest.config.open("a") as file:
        file.write("maxmem = 65\nvcpus = 2\nmaxvcpus = 5\n")
    for mode in (Mode.LIVE, Mode.SAVE):
        memory, vcpus = a.plan(guest.name, mode=mode).problems
        assert (memory.code, vcpus.code) == ("memory-limit", "vcpus-limit")
        assert "65MiB of memory, as its configuration file says for its next start" in memory.text
    a.xen.xl("destroy", guest.name)
    assert codes(a, guest, mode=Mode.COLD) == ["memory-limit", "vcpus-limit"]


@pytest.mark.sampled
@MODES
def test_a_guest_that_was_given_more_memory_meanwhile_is_weighed_again(
    hosts: Hosts, mode: Mode
) -> None:
    a, b = hosts
    guest = boot(a, "maxmem = 32\n")
    job = held(a, guest, mode)
    a.xen.xl("mem-set", guest.name, "16")
    a.ctl("cutover", guest.name)
    assert a.finish(job.job).state is JobState.DONE
    domain = b.domain(guest.name)
    assert domain is not None and domain.memory == 16
    b.assert_runs(guest.name)


@MODES
def test_a_guest_that_has_no_room_any_more_runs_on(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    guest = boot(a, "maxmem = 32\n")
    (b.xen.root / "host.json").write_text(json.dumps({"total_memory": 1024 + 9}))
    job = held(a, guest, mode)
    a.xen.xl("mem-set", guest.name, "16")
    a.ctl("cutover", guest.name)
    problem = the_problem(a.finish(job.job), "memory")
    assert f"{guest.name} has 16MiB of memory now, host-b has 9MiB free" in problem.text
    a.assert_runs(guest.name)
    assert b.domain(guest.name) is None


@pytest.mark.thorough
@MODES
def test_an_interface_that_was_attached_meanwhile_ends_it(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    guest = boot(a)
    job = held(a, guest, mode)
    a.xen.xl("network-attach", guest.name, "mac=00:16:3e:00:00:07", "bridge=xenbr0")
    a.ctl("cutover", guest.name)
    problem = the_problem(a.finish(job.job), "interface-changed")
    assert "the interface 00:16:3e:00:00:07, bridge xenbr0, was attached to" in problem.text
    a.assert_runs(guest.name)
    assert b.domain(guest.name) is None
    a.migrate(guest.name, mode=mode)
    b.assert_runs(guest.name)
