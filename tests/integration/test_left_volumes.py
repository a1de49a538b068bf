"""What a peer has written is known as its own only while nobody else can have written to it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from pathlib import Path

import pytest
from blake3 import blake3

from protocol.fingerprints import BLOCK_SIZE
from protocol.messages import (
    Abort,
    Accepted,
    BeginRound,
    Credit,
    Fate,
    Finish,
    Finished,
    HandOver,
    Offer,
    Ready,
    Receiving,
    Refused,
)
from tests.integration.test_hostile_peer import (
    QUICKLY,
    SIZE,
    Target,
    guest,
    running,
    saved,
    target,
    until,
)
from tests.support.hostile import Guest, Transfer, greeted, sync_offer, transferring, volume_offer
from xenmoved.control.api import ListJobs

__all__ = ["guest", "running", "saved", "target"]  # fixtures

SECRET = b"an operator's secret".ljust(BLOCK_SIZE, b"!")


LOOT = sync_offer(volume_offer("loot", SIZE))


def use(volume: Path) -> None:
    """Do what an operator does with a volume that has come: it is his."""
    with volume.open("r+b", buffering=0) as file:
        file.write(SECRET)


async def finish(transfer: Transfer) -> None:
    """Have a sync finished, all of it right."""
    assert isinstance(await transfer.begin(), Accepted)
    await transfer.copy(head=b"the peer's own")
    assert isinstance(await transfer.control.ask(Finish()), Finished)


async def comes_again(target: Target, offer: Offer, volume: Path) -> bool:
    """Whether the peer may have the volume compared; whatever it hears, it is not the secret."""
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        if isinstance(said, Refused):
            assert [problem.code for problem in said.problems] == ["volume-exists"]
            return False
        assert isinstance(said, Accepted)
        assert not said.volumes[0].zeroed
        told = await fingerprints(transfer)
        assert blake3(volume.read_bytes()[:BLOCK_SIZE]).digest() in told
        return True


async def fingerprints(transfer: Transfer) -> bytes:
    """Return what the target tells of a volume."""
    bulk = await transfer.attached()
    await bulk.say(BeginRound(1, True), Credit(100))
    told = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.7):
            while piece := await bulk.channel.receive():
                told += bytes(piece)
    return told


async def let_go(target: Target, volume: Path) -> None:
    """Wait until the target has noticed that its peer is gone."""

    async def is_free() -> bool:
        with volume.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return not target.host.ask(ListJobs(ended=False)).jobs
        return False

    await until(is_free, "the target to let go of the volume")


def kill(target: Target, used: Path | None = None) -> None:
    """Have the daemon lose all that it has not written down; a volume is `used` meanwhile."""
    target.host.stop(signal.SIGKILL)
    if used is not None:
        use(used)
    target.host.start(XENMOVED_LIMITS=QUICKLY)


async def test_a_peer_that_stays_when_its_sync_is_finished_learns_nothing(target: Target) -> None:
    volume = target.host.images / "loot"
    async with transferring(target.evil, LOOT) as transfer:
        await finish(transfer)
        use(volume)
    await let_go(target, volume)
    assert not await comes_again(target, LOOT, volume)
    assert volume.read_bytes().startswith(SECRET)
    volume.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("used", [False, True])
async def test_a_daemon_that_is_killed_when_a_sync_is_finished(
    running: Target, *, used: bool
) -> None:
    volume = running.host.images / "loot"
    async with transferring(running.evil, LOOT) as transfer:
        await finish(transfer)
        kill(running, volume if used else None)
    assert await comes_again(running, LOOT, volume) is not used
    volume.unlink()


async def test_a_daemon_that_is_killed_in_a_sync_knows_nothing_of_its_volume(
    running: Target,
) -> None:
    volume = running.host.images / "loot"
    async with transferring(running.evil, LOOT) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.copy(head=b"the peer's own")
        kill(running, volume)
    assert not await comes_again(running, LOOT, volume)
    volume.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("used", [False, True])
async def test_a_sync_that_breaks_off_is_gone_on_with_while_nobody_wrote(
    target: Target, *, used: bool
) -> None:
    volume = target.host.images / "loot"
    async with transferring(target.evil, LOOT) as transfer:
        assert isinstance(await transfer.begin(), Accepted)
        await transfer.copy(head=b"the peer's own")
    await let_go(target, volume)
    if used:
        use(volume)
    assert await comes_again(target, LOOT, volume) is not used
    await let_go(target, volume)
    volume.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("used", [False, True])
async def test_what_is_kept_of_a_guest_that_did_not_come(
    running: Target, guest: Guest, *, killed: bool, used: bool
) -> None:
    offer = guest.offer(SIZE)
    volume = running.host.images / f"{guest.name}-xvda"
    async with transferring(running.evil, offer) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy(head=b"the peer's own")
        if killed:
            kill(running, volume if used else None)
    await let_go(running, volume)
    if used and not killed:
        use(volume)
    assert await comes_again(running, offer, volume) is not (used or killed)
    await let_go(running, volume)
    volume.unlink(missing_ok=True)


@pytest.mark.sampled
@pytest.mark.parametrize("used", [False, True])
async def test_what_is_kept_of_a_guest_that_was_ready(
    running: Target, guest: Guest, *, used: bool
) -> None:
    offer = guest.offer(SIZE)
    volume = running.host.images / f"{guest.name}-xvda"
    async with transferring(running.evil, offer) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy(head=b"the peer's own")
        assert isinstance(await transfer.control.ask(HandOver(guest.size)), Receiving)
        assert isinstance(
            await transfer.control.ask(await transfer.send_memory(guest.image)), Ready
        )
        other = await greeted(transfer.link)
        assert isinstance(await other.ask(Abort(transfer.migration, "no")), Fate)
    await let_go(running, volume)
    if used:
        use(volume)
    assert await comes_again(running, offer, volume) is not used
    await let_go(running, volume)
    volume.unlink()
