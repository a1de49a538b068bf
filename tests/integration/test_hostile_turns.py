"""What a peer says out of turn, or of names that others had."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from protocol.messages import Abort, Accepted, HandOver, Receiving, Refused
from storage.identify import file_identity
from tests.integration.test_hostile_peer import SIZE, Target, guest, running, saved, target
from tests.support.hostile import (
    Guest,
    greeted,
    new_migration,
    sync_offer,
    transferring,
    volume_offer,
    with_config,
)
from tests.support.journals import query

__all__ = ["guest", "running", "saved", "target"]


def _descriptors(target: Target) -> int:
    """Return how many files the daemon has open: a receiver of memory has some of them."""
    return len(list(Path(f"/proc/{target.pid}/fd").iterdir()))


async def test_a_guest_that_was_given_up_is_not_received(target: Target, guest: Guest) -> None:
    config = json.loads(json.dumps(guest.config))
    config["disks"] = []
    bare = Guest(with_config(guest.image, config))
    before = _descriptors(target)
    for _ in range(3):
        async with transferring(target.evil, bare.offer(SIZE, ())) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
            await (await greeted(transfer.link)).ask(Abort(transfer.migration, "enough"))
            said = await transfer.control.ask(HandOver(bare.size))
            assert not isinstance(said, Receiving), said
    await asyncio.sleep(1)
    assert _descriptors(target) <= before
    assert "incoming" not in target.host.xen.xl("list")


async def test_a_name_that_is_taken_again_takes_nothing_from_a_renamed_volume(
    target: Target,
) -> None:
    images = target.host.images
    theirs = images / "web"
    theirs.write_bytes(b"theirs" + bytes(SIZE - 6))
    query(
        target.host,
        "INSERT INTO owners (pool,name,owner,guest,identity,migration) VALUES (?,?,?,?,?,?)",
        *("images", "web", str(uuid4()), "theirs", str(file_identity(theirs)), new_migration()),
    )
    old = theirs.rename(images / "web-old")
    target.evil.introduce(overwrite=True)
    for name, expected in (("web-old", Refused), ("web", Accepted), ("web-old", Refused)):
        offer = replace(sync_offer(volume_offer(name, SIZE)), overwrite=True)
        async with transferring(target.evil, offer) as transfer:
            assert isinstance(await transfer.begin(), expected)
    assert old.read_bytes().startswith(b"theirs")
    old.unlink()
    (images / "web").unlink()
