"""Volumes that can be reached in more than one way, or are called otherwise than they were."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import Accepted, Finish, Refused
from tests.integration.test_hostile_ids import an_outbound, write_down
from tests.integration.test_hostile_peer import (
    SIZE,
    Target,
    guest,
    make_image,
    running,
    saved,
    shared_offer,
    target,
    until_idle,
)
from tests.support.hostile import (
    Guest,
    greeted,
    new_migration,
    sync_offer,
    transferring,
    volume_offer,
)
from tests.support.images import make_cdrom
from tests.support.journals import query
from tests.support.partitions import add_partition

__all__ = ["guest", "running", "saved", "target"]

_PRECIOUS = b"precious"
_OURS = b"THE PEER'S BYTES"


async def _try(target: Target, name: str, size: int = SIZE, *, pool: str = "images") -> object:
    """Send a volume as far as the host lets it come."""
    offer = replace(sync_offer(replace(volume_offer(name, size), pool=pool)), overwrite=True)
    async with transferring(target.evil, offer) as transfer:
        said = await transfer.begin()
        if isinstance(said, Accepted):
            await transfer.copy(0, head=_OURS)
            await transfer.control.ask(Finish())
        return said


def _codes(said: object) -> set[str]:
    assert isinstance(said, Refused), said
    return {one.code for one in said.problems}


def _disk_of_a_guest_that_is_off(target: Target) -> Path:
    """Return the disk of a guest of this host."""
    disk = Path(make_image(target.host.images / "web-root", 1))
    with disk.open("r+b") as file:
        file.write(_PRECIOUS)
    _name(target, disk)
    return disk


def _name(target: Target, disk: Path) -> None:
    """Have the configuration of that guest name a disk."""
    text = f"name='web'\nuuid='{'1' * 8}-1111-1111-1111-{'1' * 12}'\nmemory=2\n"
    file = target.host.folder / "xen" / "web.cfg"
    file.write_text(f"{text}disk=['{disk},raw,xvda,w']\n")


@contextmanager
def _bound(target: Target) -> Iterator[Path]:
    """Mount the folder of the pool a second time."""
    folder = target.host.folder / "bound"
    folder.mkdir()
    subprocess.run(["mount", "--bind", target.host.images, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_a_hard_link_to_a_guests_disk_is_its_disk(running: Target) -> None:
    running.evil.introduce(overwrite=True)
    disk = _disk_of_a_guest_that_is_off(running)
    alias = running.host.images / "web-root.alias"
    os.link(disk, alias)
    assert "guest-here" in _codes(await _try(running, alias.name, disk.stat().st_size))
    assert disk.read_bytes().startswith(_PRECIOUS)


@pytest.mark.root
async def test_a_disk_that_is_named_by_another_mount(running: Target) -> None:
    running.evil.introduce(overwrite=True)
    disk = _disk_of_a_guest_that_is_off(running)
    with _bound(running) as folder:
        _name(running, folder / disk.name)
        assert "guest-here" in _codes(await _try(running, disk.name, disk.stat().st_size))
        # Nor is one made where a guest of this host has a disk that is away.
        _name(running, folder / "web-new")
        assert "guest-here" in _codes(await _try(running, "web-new"))
    assert disk.read_bytes().startswith(_PRECIOUS)


async def test_a_guests_disk_is_no_cdrom_by_another_name(running: Target, saved: Guest) -> None:
    running.evil.introduce()
    disk = running.host.images / "web-root"
    make_cdrom(disk, 1)
    os.truncate(disk, SIZE)
    other = running.host.folder / "web-disk"
    os.link(disk, other)
    _name(running, other)
    drive = shared_offer(home="images", name=disk.name, cdrom=True, writable=False, path="/x")
    offer = saved.named("reader").offer(SIZE)
    assert offer.guest is not None
    wanted = replace(offer, guest=replace(offer.guest, shared=(replace(drive, size=SIZE),)))
    async with running.evil.linked() as link:
        found = await (await greeted(link)).ask(wanted)
    assert "permission" in {one.code for one in found.problems}, found


async def _last_copy(target: Target, saved: Guest, name: str) -> Path:
    """Have the copy of a guest of another peer here of which nobody knows where it is."""
    lost = saved.named(name)
    async with transferring(target.good, lost.offer(SIZE)) as transfer:
        assert isinstance(await transfer.begin(keep_partial=True), Accepted)
        await transfer.copy(head=_PRECIOUS)
    await until_idle(target)
    row = an_outbound(new_migration(), lost.name, lost.uuid, "lost")
    write_down(target, "outbound", **row | {"peer": "good"})
    return target.host.images / f"{name}-xvda"


async def test_two_pools_of_one_folder(running: Target, saved: Guest) -> None:
    pool = running.host.settings["pools"]["images"]
    running.host.write_config(pools={"images": pool, "second": dict(pool)}, default_pool="images")
    running.host.stop()
    running.host.start()
    running.evil.introduce(overwrite=True, pools=("images", "second"))
    copy = await _last_copy(running, saved, "lost-twice")
    for name in ("images", "second"):
        assert "unsettled" in _codes(await _try(running, copy.name, pool=name))
    assert copy.read_bytes().startswith(_PRECIOUS)


@pytest.mark.parametrize(("how", "quota"), [("pool", 2 * SIZE), ("file", 7 * SIZE // 2)])
async def test_what_is_noted_of_a_volume_goes_with_it(
    running: Target, saved: Guest, how: str, quota: int
) -> None:
    running.evil.introduce(quota=quota)
    assert isinstance(await _try(running, f"its-{how}", SIZE + SIZE // 2), Accepted)
    copy = await _last_copy(running, saved, f"lost-{how}")
    running.evil.introduce(quota=quota, overwrite=True)
    pool = "images"
    if how == "pool":
        pool = "disks"
        _call_pool(running, "images", pool)
    else:
        running.host.stop()
        copy = copy.rename(copy.with_name("renamed"))
        its = running.host.images / f"its-{how}"
        its.rename(its.with_name("its.renamed"))
        running.host.start()
    try:
        assert "unsettled" in _codes(await _try(running, copy.name, pool=pool))
        assert copy.read_bytes().startswith(_PRECIOUS)
        assert "quota" in _codes(await _try(running, "more", pool=pool))
    finally:
        if how == "pool":
            _call_pool(running, pool, "images")


def _call_pool(target: Target, before: str, now: str) -> None:
    """Have the pool called otherwise in all of the host's configuration."""
    target.host.stop()
    for file in (target.host.folder / "etc" / "peers.d").glob("*.yaml"):
        file.write_text(file.read_text().replace(f'"{before}"', f'"{now}"'))
    settings = target.host.settings["pools"][before]
    target.host.write_config(pools={now: settings}, default_pool=now)
    target.host.start()


@contextmanager
def _with_pools(target: Target, **pools: dict[str, object]) -> Iterator[None]:
    """Have the host and its peer know of other pools beside that of images."""
    images = target.host.settings["pools"]["images"]

    def configure(**others: dict[str, object]) -> None:
        target.evil.introduce()
        target.host.stop()
        target.host.write_config(pools={"images": images, **others}, default_pool="images")
        target.host.start()

    configure(**pools)
    try:
        target.evil.introduce(overwrite=True, pools=("images", *pools))
        yield
    finally:
        configure()


@pytest.mark.root
async def test_a_copy_that_is_a_device_in_another_pool(running: Target, saved: Guest) -> None:
    copy = await _last_copy(running, saved, "lost-device")
    device = _run("losetup", "--find", "--show", copy)
    try:
        with _with_pools(running, devices={"kind": "block", "devices": {"disk": device}}):
            assert "unsettled" in _codes(await _try(running, "disk", pool="devices"))
        assert copy.read_bytes().startswith(_PRECIOUS)
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def _disk_with_a_partition(folder: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Make a file, and have two loop devices on it, the first of which has a partition."""
    file = folder / "disk"
    file.touch()
    os.truncate(file, 8 * SIZE)
    with ExitStack() as stack:
        disks = []
        for _ in range(2):
            disks.append(Path(_run("losetup", "--find", "--show", "--partscan", file)))
            stack.callback(_run, "losetup", "--detach", disks[-1])
        part = add_partition(disks[0], 1, SIZE, 4 * SIZE, folder / "part")
        part.write_bytes(_PRECIOUS.ljust(SIZE, b"\0"))
        _run("sync")
        yield disks[0], disks[1], part


@pytest.mark.root
async def test_a_loop_device_on_a_part_of_a_guests_disk(running: Target, tmp_path: Path) -> None:
    with _disk_with_a_partition(tmp_path) as (disk, other, part):
        upper = _run("losetup", "--find", "--show", part)
        try:
            _name(running, disk)
            with _with_pools(running, devices={"kind": "block", "devices": {"disk": upper}}):
                assert _codes(await _try(running, "disk", 2 * SIZE, pool="devices")) == {
                    "volume-kind"
                }
        finally:
            _run("losetup", "--detach", upper)
        # Nor is a disk written to by another loop device on its file.
        _name(running, part)
        for listed in (disk, other):
            with _with_pools(running, devices={"kind": "block", "devices": {"disk": str(listed)}}):
                said = await _try(running, "disk", 8 * SIZE, pool="devices")
                assert "guest-here" in _codes(said)
        _run("sync")
        assert (tmp_path / "disk").read_bytes()[SIZE:].startswith(_PRECIOUS)


@pytest.mark.root
async def test_a_part_of_a_file_that_an_earlier_release_noted(
    running: Target, saved: Guest
) -> None:
    running.evil.introduce()
    copy = await _last_copy(running, saved, "lost-part")
    ((identity,),) = query(running.host, "SELECT identity FROM owners WHERE name=?", copy.name)
    running.host.stop()
    for part in ("from 0", f"from {SIZE // 2}"):
        of_loop = f"loop on {identity} {part}"
        query(running.host, "UPDATE owners SET identity=? WHERE name=?", of_loop, copy.name)
        running.host.start()
        running.evil.introduce(overwrite=True)
        assert "unsettled" in _codes(await _try(running, copy.name))
        assert copy.read_bytes().startswith(_PRECIOUS)
        running.host.stop()
    running.host.start()


@pytest.mark.root
async def test_a_pool_and_its_block_copy(running: Target, tmp_path: Path) -> None:
    image, pools = tmp_path / "image", {}
    image.touch()
    os.truncate(image, 32 * SIZE)
    _run("mkfs.ext4", "-q", "-F", "-I", "256", image)
    with ExitStack() as stack:
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            _run("mount", "-o", "loop", image, folder)
            stack.callback(_run, "umount", folder)
            if name == "first":
                (folder / "disk").write_bytes(_PRECIOUS.ljust(SIZE, b"\0"))
                _run("sync", "-f", folder)
                image = Path(shutil.copy(image, tmp_path / "copy"))
            pools[name] = {"kind": "dir", "path": str(folder)}
        with _with_pools(running, **pools):
            for name in pools:
                assert "volume-twice" in _codes(await _try(running, "disk", pool=name))
                assert (tmp_path / name / "disk").read_bytes().startswith(_PRECIOUS)


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
