"""A peer, and what lies beneath the images of guests that are at home, there or not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import Accepted, Refused
from tests.integration.test_hostile_aliases import _PRECIOUS, _try
from tests.integration.test_hostile_peer import (
    SIZE,
    Target,
    guest,
    running,
    saved,
    shared_offer,
    target,
)
from tests.support.hostile import (
    Guest,
    greeted,
)
from tests.support.images import make_cdrom

__all__ = ["guest", "running", "saved", "target"]

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")

_UUID = f"{'1' * 8}-1111-1111-1111-{'1' * 12}"

_QUIET = "extra='sandbox.rate=0 sandbox.checks=0 sandbox.dirty=0'\n"

Overlay = Callable[[str, str], Path]
"""Makes an image on top of a file of the pool, by its name and the format of that."""


@pytest.fixture
def overlay(target: Target) -> Iterator[Overlay]:
    """Images that are the disks of a guest of this host, which is off, one above the other."""
    target.evil.introduce(overwrite=True)
    made: list[Path] = []
    file = target.host.folder / "xen" / "home.cfg"

    def make(backing: str, image_format: str = "raw") -> Path:
        path = target.host.images / f"over-{len(made)}.qcow2"
        wish = ["-u", "-f", "qcow2", "-b", backing, "-F", image_format, str(path), str(SIZE)]
        subprocess.run(["qemu-img", "create", "-q", *wish], check=True)
        made.append(path)
        text = f"name='home'\nuuid='{_UUID}'\nmemory=2\ndisk=['{path},qcow2,xvda,w']\n"
        file.write_text(text)
        return path

    yield make
    target.evil.introduce()
    file.unlink(missing_ok=True)
    for path in (*made, *target.host.images.glob("base*")):
        path.unlink(missing_ok=True)


def _base(target: Target) -> Path:
    base = target.host.images / "base"
    base.write_bytes(_PRECIOUS + bytes(SIZE - len(_PRECIOUS)))
    return base


def _needed(said: object) -> str:
    assert isinstance(said, Refused), said
    (found,) = [one.text for one in said.problems if one.code == "guest-here"]
    return found


@pytest.mark.parametrize("backing", ["base", "file:{0}/base", '{{"driver":"raw"}}'])
async def test_the_base_of_an_image_is_not_emptied(
    target: Target, overlay: Overlay, backing: str
) -> None:
    base = _base(target)
    if backing.startswith("{{"):
        options = '"driver":"raw","file":{"driver":"file","filename":"'
        overlay("json:{" + options + str(base) + '"}}')
    else:
        overlay(backing.format(target.host.images))
    assert "beneath an image that is named in" in _needed(await _try(target, "base"))
    assert base.read_bytes().startswith(_PRECIOUS)


async def test_nor_is_one_deep_down(target: Target, overlay: Overlay) -> None:
    base = _base(target)
    first = overlay("base")
    overlay(str(overlay(first.name, "qcow2")), "qcow2")
    before = first.read_bytes()
    _needed(await _try(target, "base"))
    assert isinstance(await _try(target, first.name), Refused)
    assert first.read_bytes() == before
    assert base.read_bytes().startswith(_PRECIOUS)


async def test_none_is_made_where_it_will_be(target: Target, overlay: Overlay) -> None:
    """The base is away for a while, or a link in the middle."""
    over = overlay("base-away")
    _needed(await _try(target, "base-away"))
    overlay(over.name, "qcow2")
    _needed(await _try(target, "base-away"))
    over.unlink()
    _needed(await _try(target, over.name))
    assert not over.exists()


async def test_a_raw_disk_needs_nothing_that_its_guest_writes_into_it(
    target: Target, overlay: Overlay
) -> None:
    over = overlay("base")
    file = target.host.folder / "xen" / "home.cfg"
    file.write_text(file.read_text().replace(",qcow2,", ",raw,"))
    assert isinstance(await _try(target, "base"), Accepted)
    assert over.exists()


async def test_the_base_of_a_disk_is_no_cdrom(
    target: Target, overlay: Overlay, guest: Guest
) -> None:
    base = target.host.images / "base"
    make_cdrom(base, 1)
    overlay("base")
    disk = shared_offer(home="images", name="base", cdrom=True, writable=False, path="/x")
    offer = guest.offer(SIZE)
    assert offer.guest is not None
    wanted = replace(offer, guest=replace(offer.guest, shared=(disk,)))
    async with target.evil.linked() as link:
        found = await (await greeted(link)).ask(wanted)
    assert "is no image of a CD-ROM" in " ".join(one.text for one in found.problems)


async def test_the_base_of_a_running_guests_disk(target: Target, overlay: Overlay) -> None:
    """Of a guest without a file."""
    base = _base(target)
    over = overlay("base")
    (target.host.folder / "xen" / "home.cfg").unlink()
    file = target.host.folder / "runs"
    file.write_text(f"name='runs'\nmemory=2\n{_QUIET}disk=['{over},qcow2,xvda,w']\n")
    target.host.xen.xl("create", str(file))
    try:
        said = await _try(target, "base")
        assert isinstance(said, Refused)
        assert "is in use: disk of runs" in " ".join(one.text for one in said.problems)
    finally:
        target.host.xen.xl("destroy", "runs")
    assert base.read_bytes().startswith(_PRECIOUS)
