"""A guest that is called otherwise on the other host, with a host ended while it moves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support.crash import DISKS, EXECUTES, GUEST, PATIENCE, CrashHost, World
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.harness import wait_until

OTHER = "shop"
THERE: dict[str, Any] = {
    "rename": OTHER,
    "volumes": {"web-*": "shop-*"},
    "bridges": {"xenbr0": "br-lan"},
}
BACK: dict[str, Any] = {
    "rename": GUEST,
    "volumes": {"shop-*": "web-*"},
    "bridges": {"br-lan": "xenbr0"},
}
VOLUMES = {GUEST: set(DISKS), OTHER: {"shop-root", "shop-data"}}
BRIDGES = {GUEST: "xenbr0", OTHER: "br-lan"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two hosts, one guest; every test leaves it on the first one, under its first name."""
    made = World(tmp_path_factory.mktemp("w"))
    try:
        made.start()
        second = made.hosts[1]
        (second.xen.root / "bridges").write_text("xenbr0\nbr-lan\n")
        second.xen.xl("list")
        yield made
    finally:
        for host in made.hosts:
            print(f"--- {host.name}\n{host.log()[-8000:]}")
        made.close()


def owner(world: World) -> tuple[CrashHost, str]:
    """Return the only host that has the guest, and what it calls it; all is as it must be there."""
    found = [(host, name) for host in world.hosts for name in host.domains()]
    assert len(found) == 1, found
    ((host, name),) = found
    other = world.other(host)
    assert host.domains()[name] in EXECUTES
    verdict = host.check(name)
    assert verdict["ok"], verdict
    assert verdict["blocks"] > 0
    assert host.volumes() >= VOLUMES[name]
    domain = host.xen_folder.find(name)
    assert domain is not None
    assert {nic["bridge"] for nic in domain.config["nics"]} == {BRIDGES[name]}
    text = (host.config_dir / f"{name}.cfg").read_text()
    assert f"name = '{name}'" in text
    assert f"bridge={BRIDGES[name]}" in text
    assert set(re.findall(r"images/([\w-]+)", text)) == VOLUMES[name]
    assert (host.config_dir / "auto" / f"{name}.cfg").exists()
    assert not list(other.config_dir.glob("*.cfg")), "two hosts would start it"
    assert not list((other.config_dir / "auto").iterdir()), "two hosts would start it at boot"
    for one in world.hosts:
        assert not list(one.config_dir.glob("*.received"))
        assert not list(one.config_dir.glob("*.held"))
        assert list(one.spool.iterdir()) == []
    return host, name


STEPS = (
    ("inbound:ready:after", "target", Mode.LIVE, GUEST),
    ("inbound:committed:after", "target", Mode.LIVE, None),
    ("inbound:committed:after", "target", Mode.SAVE, None),
    ("incoming:commit:after", "target", Mode.SAVE, OTHER),
    ("inbound:started:after", "target", Mode.LIVE, OTHER),
    ("outbound:handing-over:after", "source", Mode.LIVE, GUEST),
    ("outbound:commit-sent:after", "source", Mode.LIVE, None),
    ("outbound:commit-sent:after", "source", Mode.SAVE, None),
    ("outbound:done:after", "source", Mode.LIVE, OTHER),
    ("outgoing:discard:after", "source", Mode.SAVE, OTHER),
)


BY_DEFAULT = (
    ("inbound:committed:after", Mode.LIVE),
    ("inbound:started:after", Mode.LIVE),
    ("outbound:commit-sent:after", Mode.LIVE),
    ("outgoing:discard:after", Mode.SAVE),
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("point", "victim", "mode", "expected"),
    [
        pytest.param(*step, marks=[] if (step[0], step[2]) in BY_DEFAULT else [pytest.mark.slow])
        for step in STEPS
    ],
)
def test_the_names_outlive_a_crash(
    world: World, point: str, victim: str, mode: Mode, expected: str | None
) -> None:
    source, target = world.hosts
    hit = source if victim == "source" else target
    hit.arm(f"kill@{point}")
    source.migrate(target, mode, **THERE)
    wait_until(lambda: hit.dead, f"the end of the {victim}", PATIENCE)
    world.restart_dead()
    world.wait_quiet()

    host, name = owner(world)
    assert expected in (None, name)
    assert host is (source if name == GUEST else target)
    leaving, arriving = source.last_job(), target.last_job()
    assert (leaving.guest, leaving.other_name) == (GUEST, OTHER)
    assert (arriving.guest, arriving.other_name) == (OTHER, GUEST)
    if name == GUEST:
        assert not VOLUMES[OTHER] & target.volumes()
        report = source.migrate(target, mode, **THERE)
        assert source.finish(report.job).state is JobState.DONE
        world.wait_quiet()
        assert owner(world) == (target, OTHER)

    answer = target.ctl("migrate", OTHER, source.name, "--rename", GUEST, *typed(BACK))
    assert answer.returncode == 0, answer
    world.wait_quiet()
    assert owner(world) == (source, GUEST)
    for path in target.images.iterdir():
        path.unlink()


def typed(wishes: dict[str, Any]) -> list[str]:
    return [
        word
        for option in ("volumes", "bridges")
        for old, new in wishes[option].items()
        for word in (f"--{option.removesuffix('s')}", f"{old}={new}")
    ]


@pytest.mark.thorough
def test_a_doubt_says_both_names(world: World) -> None:
    source, target = world.hosts
    source.arm(f"kill={target.pid}@ask:Commit:before")
    answer = source.migrate(target, **THERE)
    assert isinstance(answer, JobReport)
    wait_until(
        lambda: any(job.state is JobState.IN_DOUBT for job in source.jobs()), "doubt", PATIENCE
    )
    both = f"{GUEST} (called {OTHER} on {target.name})"
    assert both in source.ctl("recover").stdout
    risk = source.ctl("recover", GUEST, "--keep-here")
    assert f"that no domain {both} is there" in " ".join(risk.stderr.split())
    assert source.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 0
    world.restart_dead()
    world.wait_quiet()
    assert owner(world) == (source, GUEST)
