"""Volumes that were being made when the daemon was killed: ours go, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.crash import EXECUTES, GUEST, PATIENCE, SETTINGS, CrashHost
from xenmoved.sandbox.harness import make_image, wait_until

DISKS = ("web-root", "web-data", "web-log")
PASS = "freeze=0@"
"""Goes by a point: only the first armed one counts."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CrashHost]]:
    root = tmp_path_factory.mktemp("provisioning")
    found = [CrashHost(root, name, "xl", SETTINGS) for name in ("host-a", "host-b")]
    try:
        for host in found:
            host.start()
        found[0].trust(found[1])
        found[1].trust(found[0])
        disks = [make_image(found[0].images / name, 1) for name in DISKS]
        found[0].xen.create(GUEST, disks, memory=2, extra="sandbox.rate=1 sandbox.dirty=1")
        yield found
    finally:
        for host in found:
            host.close()


@pytest.fixture
def clean(hosts: list[CrashHost]) -> Iterator[list[CrashHost]]:
    yield hosts
    for path in hosts[1].images.iterdir():
        path.unlink()


def _kill_at_the_third(hosts: list[CrashHost], point: str) -> CrashHost:
    """Have the target killed at a point of making the third volume; its daemon is dead then."""
    source, target = hosts
    target.arm(*[f"{PASS}landing:{point}"] * 2, f"kill@landing:{point}")
    source.migrate(target)
    wait_until(lambda: target.dead, "the end of the target", PATIENCE)
    assert target.fired
    return target


def _start_again(hosts: list[CrashHost]) -> None:
    source, target = hosts
    target.start()

    def quiet() -> bool:
        return not any(host.unsettled() or host.jobs() for host in hosts)

    wait_until(quiet, "the end of the migration", PATIENCE)
    assert source.domains()[GUEST] in EXECUTES


@pytest.mark.sampled
@pytest.mark.parametrize("point", ["noted:before", "noted:after", "in-place:after"])
def test_what_was_made_is_removed(clean: list[CrashHost], point: str) -> None:
    target = _kill_at_the_third(clean, point)
    assert {"web-root", "web-data"} <= target.volumes()
    _start_again(clean)
    assert target.volumes() == set()
    assert target.query("SELECT * FROM made") == []


@pytest.mark.sampled
@pytest.mark.parametrize("point", ["noted:before", "noted:after"])
def test_what_somebody_made_by_hand_meanwhile_stays(clean: list[CrashHost], point: str) -> None:
    target = _kill_at_the_third(clean, point)
    by_hand = make_image(target.images / "web-log", 1)
    _start_again(clean)
    assert target.volumes() == {"web-log"}
    assert by_hand.stat().st_size == 2**20
    assert target.query("SELECT * FROM made") == []
    assert target.query("SELECT * FROM owners WHERE name='web-log'") == []


def test_what_may_be_somebody_elses_stays_and_is_told_of(clean: list[CrashHost]) -> None:
    """It was made, and the daemon killed before it could note which one it is."""
    target = _kill_at_the_third(clean, "in-place:before")
    assert target.volumes() == set(DISKS)
    _start_again(clean)
    assert target.volumes() == {"web-log"}
    assert "volume images:web-log stays, as it is not certain" in target.log()


def test_one_that_was_replaced_by_hand_stays(clean: list[CrashHost]) -> None:
    target = _kill_at_the_third(clean, "in-place:after")
    replaced = target.images / "web-root"
    replaced.unlink()
    make_image(replaced, 1)
    _start_again(clean)
    assert target.volumes() == {"web-root"}
