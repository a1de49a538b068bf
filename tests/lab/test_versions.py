"""From one version of Xen to the same or a newer one, and never to an older one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab import guests, image
from tests.lab.image import DEBIAN_12, DEBIAN_13, Release
from tests.lab.pair import RESULTS, Pair, booted
from tests.lab.test_moves import moves

pytestmark = pytest.mark.slow

_POOLS = guests.BACKENDS["blkback"].options


@pytest.fixture(scope="module", params=[(DEBIAN_12, DEBIAN_13), (DEBIAN_13, DEBIAN_13)], ids=str)
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, tuple[Release, Release]]]:
    """A pair of hosts of two releases, the older one first."""
    releases: tuple[Release, Release] = request.param
    with booted(*(image.make(one) for one in releases)) as pair:
        failed = request.session.testsfailed
        yield pair, releases
        if request.session.testsfailed > failed:
            pair.keep(RESULTS / re.sub(r"[^\w.-]+", "-", f"versions-{releases[0].xen}"))


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_moves_to_the_same_or_a_newer_xen(
    hosts: tuple[Pair, tuple[Release, Release]], kind: str
) -> None:
    pair, (older, newer) = hosts
    pair.tidy()
    guest = guests.of_kind(pair.a, kind, "blkback")
    guest.create(pair.a)
    # Debian 13 has a Xen without what copies the memory of a PV guest while it runs.
    mode = "save" if kind == "pv" and older is DEBIAN_13 else "live"
    planned = pair.a.run(f"xenmovectl --json plan {guest.name} host-b {_POOLS}").stdout
    assert json.loads(planned)["mode"] == mode
    moves(pair.a, pair.b, guest, f"{mode} {_POOLS}", guest.await_writes(pair.a, 0))
    if older is newer:
        moves(pair.b, pair.a, guest, f"save {_POOLS}", guest.seq(pair.b))
        guest.destroy(pair.a)
        return
    said = pair.b.run(f"xenmovectl --json plan {guest.name} host-a {_POOLS}", check=False).stdout
    codes = [one["code"] for one in json.loads(said)["problems"]]
    assert codes == ["xen-version"], said
    guest.destroy(pair.b)


def test_a_guest_is_saved_for_a_newer_xen(hosts: tuple[Pair, tuple[Release, Release]]) -> None:
    pair, _ = hosts
    pair.tidy()
    guest = guests.of_kind(pair.a, "pvh", "blkback")
    guest.create(pair.a)
    moves(pair.a, pair.b, guest, f"save {_POOLS}", guest.await_writes(pair.a, 0))
    guest.destroy(pair.b)
