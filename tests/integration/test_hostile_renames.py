"""What an operator renames stays what it is, whoever gets its name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from protocol.handover import Word
from protocol.messages import Accepted, Commit, HandOver, Ready
from tests.integration.test_hostile_aliases import _PRECIOUS, _codes, _last_copy, _try
from tests.integration.test_hostile_guest import sent
from tests.integration.test_hostile_peer import (
    QUICKLY,
    SIZE,
    Target,
    guest,
    running,
    saved,
    target,
    until_idle,
)
from tests.support.hostile import Guest, transferring

__all__ = ["guest", "running", "saved", "target"]


@pytest.fixture(autouse=True)
def clean(running: Target) -> Iterator[None]:
    """Leave nothing to the next test."""
    yield
    for path in running.host.images.iterdir():
        path.unlink()
    running.evil.introduce()


@contextmanager
def _while_it_is_off(target: Target, restart: bool) -> Iterator[None]:
    """Rename things while the daemon is off, or while it runs."""
    if restart:
        target.host.stop()
    yield
    if restart:
        target.host.start(XENMOVED_LIMITS=QUICKLY)


@pytest.mark.parametrize("restart", [True, False], ids=["off", "running"])
@pytest.mark.parametrize("how", ["rotated", "swapped"])
async def test_a_last_copy_is_not_what_took_its_name(
    running: Target, saved: Guest, how: str, restart: bool
) -> None:
    """As with ``mv copy copy.2; mv other copy``: the other one was this peer's."""
    running.evil.introduce()
    its = running.host.images / f"its-{how}-{restart}"
    assert isinstance(await _try(running, its.name, SIZE + SIZE // 2), Accepted)
    copy = await _last_copy(running, saved, f"lost-{how}-{restart}")
    running.evil.introduce(overwrite=True)
    size = copy.stat().st_size
    with _while_it_is_off(running, restart):
        now = copy.rename(copy.with_name(f"{copy.name}.2"))
        its.rename(copy)
        if how == "swapped":
            now = now.rename(its)
    if how == "rotated":
        # The peer makes another one of the name that is free.
        assert isinstance(await _try(running, its.name), Accepted)
    assert "unsettled" in _codes(await _try(running, now.name, size))
    assert now.read_bytes().startswith(_PRECIOUS)
    assert isinstance(await _try(running, copy.name, SIZE + SIZE // 2), Accepted), "it is its own"


@pytest.mark.parametrize("restart", [True, False], ids=["off", "running"])
async def test_what_a_peer_has_sent_counts_whatever_it_is_called(
    running: Target, restart: bool
) -> None:
    running.evil.introduce(quota=3 * SIZE)
    images = running.host.images
    for name in ("q1", "q2"):
        assert isinstance(await _try(running, name, SIZE + SIZE // 2), Accepted)
    assert _codes(await _try(running, "q9")) == {"quota"}
    with _while_it_is_off(running, restart):
        (images / "q2").rename(images / "q3")
        (images / "q1").rename(images / "q2")
    assert _codes(await _try(running, "q9")) == {"quota"}
    with _while_it_is_off(running, restart):
        (images / "q2").rename(images / "q2 (old)")  # as no volume can be called
    assert _codes(await _try(running, "q9")) == {"quota"}
    (images / "q2 (old)").unlink()
    assert isinstance(await _try(running, "q9"), Accepted)


@pytest.mark.parametrize("restart", [True, False], ids=["off", "running"])
async def test_who_is_at_home_by_the_journal_is_so_when_its_disk_was_renamed(
    running: Target, guest: Guest, restart: bool
) -> None:
    """It came from another peer, it is off, and its file was not taken into use."""
    offer = guest.offer(SIZE)
    assert offer.guest is not None
    async with transferring(running.good, offer) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.copy(0, head=_PRECIOUS)
        await transfer.control.ask(HandOver(offer.guest.size))
        seal = await transfer.send_memory(guest.image)
        assert isinstance(await transfer.control.ask(seal), Ready)
        fate = await transfer.control.ask(Commit(transfer.migration))
        assert fate.word is Word.STARTED
    await until_idle(running)
    running.host.xen.xl("destroy", guest.name)
    with _while_it_is_off(running, restart):
        disk = running.host.images / f"{guest.name}-xvda"
        disk.rename(disk.with_name("another-name"))
    for name in ("elsewhere", disk.name):
        wanted = replace(offer, volumes=(replace(offer.volumes[0], name=name),))
        assert _codes(await sent(running, wanted, guest.image)) == {"guest-here"}


async def test_what_took_the_name_of_a_volume_that_was_made_keeps_its_note(
    running: Target, saved: Guest
) -> None:
    """The migration for which that was made has failed, with the daemon killed meanwhile."""
    running.evil.introduce()
    copy = await _last_copy(running, saved, "lost-then")
    size, failing = copy.stat().st_size, saved.named("failing")
    its = running.host.images / f"{failing.name}-xvda"
    async with transferring(running.evil, failing.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        running.host.stop(signal.SIGKILL)
        its.rename(aside := running.host.folder / "aside")
        copy.rename(its)
        running.host.start(XENMOVED_LIMITS=QUICKLY)
    await until_idle(running)
    running.evil.introduce(overwrite=True)
    assert "unsettled" in _codes(await _try(running, its.name, size))
    assert its.read_bytes().startswith(_PRECIOUS)
    aside.unlink()
