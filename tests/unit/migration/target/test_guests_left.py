"""How many guests a peer may leave, with disks here and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.handover import TargetState
from protocol.messages import (
    Action,
    GuestOffer,
    GuestSize,
    HypervisorOffer,
    Offer,
    OfferedMode,
    SharedOffer,
)
from tests.support.hostile import volume_offer
from xenmoved.config.model import Peer
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Inbound
from xenmoved.migration.target import guests_left
from xenmoved.migration.target.guests_left import MOST_BARE_GUESTS, MOST_GUESTS, too_many

GUEST = GuestOffer(
    name="web",
    uuid="99999999-2222-3333-4444-555555555555",
    kind="pv",
    toolstack="xl",
    hypervisor=HypervisorOffer("4.17.3", ()),
    size=GuestSize(1 << 20, 1 << 20, 0, 1, 1),
    nics=(),
    config=b"name = 'web'",
    autostart=False,
    boot_order=None,
    wish=None,
    bridges={},
    shared=(),
    ejected=("xvdd",),
)
OFFER = Offer(Action.MIGRATE, OfferedMode.COLD, False, GUEST, ())
CDROM = SharedOffer("xvdc", "/iso", 1 << 20, False, True, None, None, None, None)


def uuid(number: int) -> str:
    return f"11111111-2222-3333-4444-{number:012}"


def entry(number: int, state: TargetState = TargetState.STARTED, **changes: Any) -> Inbound:
    """A guest of the peer `b` that has nothing but drives."""
    details = {
        **{"name": f"off{number}", "uuid": uuid(number), "keep_partial": False, "config": "x"},
        **{"disks": {"xvdc": "/iso", "xvdd": ""}, "read_only": ["xvdc"]},
        **{"autostart": False, "cold": number % 2 == 0},
    }
    job = f"{number:08}"
    return Inbound(f"m{number}", state, "b", "", job, details | changes)


def renamed(name: str) -> Offer:
    """The offer of a guest of another name."""
    return replace(OFFER, guest=replace(GUEST, name=name))


def files(count: int) -> list[str]:
    """Configurations of the first guests: every other one has no uuid in it."""
    return [
        f"name = 'off{number}'\n" + (f"uuid = '{uuid(number)}'\n" if number % 2 else "")
        for number in range(count)
    ]


async def codes(
    journal: Journal,
    offer: Offer,
    texts: list[str],
    running: Mapping[str, str] | None = None,
    received: frozenset[str] = frozenset(),
) -> list[str]:
    """Return what stands against an offer of the peer `b`."""

    async def waiting() -> frozenset[str]:
        return received

    host: Any = SimpleNamespace(
        journal=journal,
        config=SimpleNamespace(node="host-a"),
        toolstack=SimpleNamespace(configs=SimpleNamespace(received=waiting)),
    )
    found = await too_many(
        host,
        Peer("b", "b", ""),
        offer,
        {f"/etc/xen/file-{n}": text for n, text in enumerate(texts)},
        running or {},
    )
    return [one.code for one in found]


async def test_guests_that_are_off_without_a_disk_are_counted_by_their_files(
    journal: Journal,
) -> None:
    most = MOST_BARE_GUESTS
    for number in range(most):
        await journal.record_inbound(entry(number), settled=True)
    with_cdrom = replace(OFFER, guest=replace(GUEST, shared=(CDROM,)))
    for offer in (OFFER, with_cdrom, replace(OFFER, mode=OfferedMode.SAVE)):
        assert await codes(journal, offer, files(most)) == ["guests-off"]
    # Nor is it more than it was where one is there no more, or runs.
    assert await codes(journal, OFFER, files(most - 1)) == []
    assert await codes(journal, OFFER, files(most), {"off3": uuid(3)}) == []
    # A text that waits for its operator is one that was left, too.
    assert await codes(journal, OFFER, files(most - 1), received=frozenset({"off63"})) == [
        "guests-off"
    ]
    # One that comes again is none more.
    assert await codes(journal, renamed("off3"), files(most)) == []
    # What takes space, or is another host's, has bounds of its own.
    with_disk = replace(OFFER, volumes=(volume_offer("web-root", 1 << 20, "xvda"),))
    shared = replace(OFFER, guest=replace(GUEST, shared=(replace(CDROM, writable=True),)))
    for offer in (with_disk, shared, replace(OFFER, action=Action.SYNC, guest=None)):
        assert await codes(journal, offer, files(most)) == []


@pytest.mark.thorough
async def test_guests_with_disks_are_bounded_too(journal: Journal) -> None:
    most = MOST_GUESTS
    for number in range(most):
        await journal.record_inbound(entry(number, disks={"xvda": "/images/a"}), settled=True)
    with_disk = replace(OFFER, volumes=(volume_offer("web-root", 1, "xvda"),))
    for offer in (OFFER, with_disk):
        assert await codes(journal, offer, files(most)) == ["guests-off"]
        assert await codes(journal, offer, files(most - 1)) == []
        # Those that run may all end.
        running = {f"off{number}": uuid(number) for number in range(most)}
        assert await codes(journal, offer, files(most), running) == ["guests-off"]


async def test_domains_count_whatever_is_written_about_them(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests_left, "MOST_BARE_GUESTS", 3)
    monkeypatch.setattr(guests_left, "MOST_GUESTS", 3)
    for number in range(3):
        await journal.record_inbound(entry(number, disks={"xvda": "/images/a"}), settled=True)
    with_disk = replace(OFFER, volumes=(volume_offer("web-root", 1, "xvda"),))
    most = {f"off{number}": uuid(number) for number in range(3)}
    assert await codes(journal, with_disk, [], most) == ["guests-off"]
    assert await codes(journal, with_disk, files(1), most) == ["guests-off"]  # one is one
    assert await codes(journal, with_disk, [], {**most, "off1": ""}) == ["guests-off"]
    # One that was renamed here is the same one; one that its file gave another uuid, too.
    assert await codes(journal, with_disk, [], {f"{n}x": u for n, u in most.items()}) == [
        "guests-off"
    ]
    assert await codes(journal, with_disk, [], {**most, "off2": uuid(77)}) == ["guests-off"]
    del most["off2"]
    assert await codes(journal, with_disk, [], {**most, "ours": uuid(77)}) == []
    assert await codes(journal, with_disk, files(3), most) == ["guests-off"]


async def test_only_guests_of_the_peer_without_a_disk_that_came_or_come_count(
    journal: Journal,
) -> None:
    most = MOST_BARE_GUESTS
    for number in range(most - 1):
        await journal.record_inbound(entry(number), settled=True)
    texts = files(most + 9)
    others = (
        entry(most, disks={"xvda": "/images/a"}),
        entry(most + 1, TargetState.ABORTED),
        replace(entry(most + 2), peer="c"),
        replace(entry(0), migration="it was here before"),
    )
    for other in others:
        await journal.record_inbound(other, settled=True)
    assert await codes(journal, OFFER, texts) == []
    # One that is on its way has no file yet.
    await journal.record_inbound(entry(most + 20, TargetState.RECEIVING))
    assert await codes(journal, OFFER, texts) == ["guests-off"]
