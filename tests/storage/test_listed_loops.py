"""Which loop devices, and devices made of them, are volumes of a pool of devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import open_pool
from storage.contracts import Pool
from storage.devices.whole_files import why_not_whole
from storage.errors import PoolFull, UnsupportedVolume
from storage.identify import file_identity
from tests.support.partitions import add_partition

pytestmark = pytest.mark.root

Attach = Callable[..., Path]
MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disks"
    path.write_bytes(bytes(4 * MIB))
    return path


def listing(device: Path) -> Pool:
    return open_pool("p", "block", {"devices": {"disk": device}})


def refused(device: Path, message: str) -> None:
    """See that a device is no volume, whatever is asked of its pool."""
    pool = listing(device)
    for ask in (
        lambda: pool.find("disk"),
        pool.volumes,
        lambda: pool.open("disk", writable=False),
        lambda: pool.open("disk", writable=True),
        lambda: pool.create("disk", MIB),
    ):
        with pytest.raises(UnsupportedVolume, match=rf"volume p:disk: {device} .*{message}"):
            ask()
    assert pool.locate(str(device)) is None


def accepted(device: Path, size: int = 4 * MIB) -> None:
    pool = listing(device)
    found = pool.find("disk")
    assert found is not None
    assert found.size == size
    assert pool.volumes() == [found]
    assert pool.locate(str(device)) == "disk"
    with pytest.raises(PoolFull):
        pool.create("disk", MIB)
    pool.open("disk", writable=True).close()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--offset", f"{MIB}"), f"from {MIB} to its end"),
        (("--sizelimit", f"{MIB}"), f"from 0 to {MIB}"),
        (("--offset", f"{MIB}", "--sizelimit", f"{MIB}"), f"from {MIB} to {2 * MIB}"),
    ],
)
def test_one_that_shows_a_part(
    file: Path, tmp_path: Path, attach: Attach, options: tuple[str, ...], part: str
) -> None:
    device = attach(file, "--partscan", *options)
    advice = f"list {tmp_path} as a pool of kind dir"
    refused(device, f"is a loop device that shows only a part of {file}, {part}: {advice}")
    partition = add_partition(device, 1, 0, MIB // 2, tmp_path / "part")
    refused(partition, f"is made of {device}, a loop device that shows only a part of {file}")
    # But what is of other volumes there is seen.
    (entry,) = listing(device).everything()
    assert entry.identity
    assert entry.identity != file_identity(file)


def test_one_on_another_device(file: Path, tmp_path: Path, attach: Attach) -> None:
    disk = attach(file, "--partscan")
    refused(attach(disk), f"is a loop device on {disk}: list the device that it is on")
    partition = add_partition(disk, 1, MIB, MIB, tmp_path / "part")
    upper = attach(partition, "--partscan")
    refused(upper, f"is a loop device on {partition}")
    again = add_partition(upper, 1, 0, MIB // 2, tmp_path / "part of a part")
    refused(again, f"is made of {upper}, a loop device on {partition}")


def test_one_whose_file_was_replaced(file: Path, tmp_path: Path, attach: Attach) -> None:
    device = attach(file)
    (tmp_path / "other").write_bytes(bytes(4 * MIB))
    (tmp_path / "other").replace(file)
    refused(device, "whose file is not certain")


def test_one_that_shows_all_of_a_file(file: Path, tmp_path: Path, attach: Attach) -> None:
    accepted(attach(file))
    device = attach(file, "--partscan", "--sizelimit", str(4 * MIB))
    accepted(device)
    found = listing(device).find("disk")
    assert found is not None
    assert str(found.identity) == str(file_identity(file)) != ""
    accepted(add_partition(device, 1, MIB, MIB, tmp_path / "part"), MIB)
    with file.open("ab") as opened:
        opened.truncate(8 * MIB)
    refused(device, f"from 0 to {4 * MIB}")


@pytest.mark.parametrize("offset", [0, MIB])
def test_what_is_mapped_to_one(file: Path, tmp_path: Path, attach: Attach, offset: int) -> None:
    """As the device mapper has it in sysfs."""
    node, loop = attach(file), attach(file, "--offset", str(offset))
    mapping = tmp_path / "dm-1"
    (mapping / "dm").mkdir(parents=True)
    (tmp_path / "dm-0/slaves").mkdir(parents=True)
    (mapping / "slaves").mkdir()
    (mapping / "slaves/dm-0").symlink_to(tmp_path / "dm-0")
    (tmp_path / f"dm-0/slaves/{loop.name}").symlink_to(f"/sys/block/{loop.name}")
    number = node.stat().st_rdev
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(mapping)
    why = why_not_whole(node, tmp_path)
    if offset:
        assert why is not None
        assert why.startswith(f"{node} is made of {loop}, a loop device that shows only a part of")
    else:
        assert why is None


def test_what_has_no_loop_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nothing", "/dev/null"):
        assert why_not_whole(path) is None
