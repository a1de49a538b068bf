"""Loop devices, mounts and volumes on them, undone whatever happens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest

from storage.contracts import Volume
from storage.devices.volume import BlockDevice
from storage.files.volume import RawFile
from storage.qemu.image import FORMATS, ImageVolume, create_image
from tests.support.lvm import Group, volume_group
from tests.support.qemu import content, only_with_qemu, short_folder
from tests.support.volumes import (
    BACKENDS,
    BLOCK,
    Backend,
    attach_loop,
    only_where_possible,
    run,
)
from tests.support.zfs import Tank, zfs_tank


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def attach(cleanup: ExitStack) -> Callable[..., Path]:
    """Attach a loop device to a file, with options of losetup."""
    return partial(attach_loop, cleanup)


@pytest.fixture
def mount(cleanup: ExitStack) -> Callable[..., Path]:
    """Mount something, with options of mount."""

    def mount_one(source: str | Path, target: Path, *options: str) -> Path:
        target.mkdir(exist_ok=True)
        run("mount", *options, source, target)
        cleanup.callback(run, "umount", target)
        return target

    return mount_one


@pytest.fixture
def opened(cleanup: ExitStack) -> Callable[[Volume], Volume]:
    """Close a volume at the end of the test."""

    def keep(volume: Volume) -> Volume:
        cleanup.callback(volume.close)
        return volume

    return keep


LOCAL_BACKENDS = [
    pytest.param(name, marks=[] if name.startswith("file") else pytest.mark.root)
    for name in BACKENDS
]


@pytest.fixture(params=LOCAL_BACKENDS)
def local_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A file or a loop device of one kind."""
    return _local_backend(request, tmp_path)


@pytest.fixture(
    params=[
        *LOCAL_BACKENDS,
        *(pytest.param(kind, marks=only_where_possible("lvm")) for kind in ("lvm", "lvm-thin")),
        pytest.param("zfs", marks=only_where_possible("zfs")),
        *(pytest.param(kind, marks=only_with_qemu) for kind in FORMATS),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A volume of one kind, zeroed. Its size is that of four blocks at least."""
    if request.param in BACKENDS:
        return _local_backend(request, tmp_path)
    if request.param == "zfs":
        return request.getfixturevalue("tank").backend()
    if request.param in FORMATS:
        sockets = short_folder()
        request.addfinalizer(partial(shutil.rmtree, sockets, ignore_errors=True))
        return _image_backend(request.param, tmp_path, sockets)
    return request.getfixturevalue("lvm_group_of")(request.param).backend()


def _image_backend(kind: str, folder: Path, sockets: Path) -> Backend:
    size, image = 4 * BLOCK, folder / f"backing.{kind}"
    create_image(image, kind, size)
    opener = partial(ImageVolume.open, image, kind, folder=sockets)
    return Backend(image, size, 1, opener, reader=partial(content, image, FORMATS[kind]))


def _local_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    kind, size = BACKENDS[request.param]
    backing = tmp_path / "backing.img"
    backing.touch()
    os.truncate(backing, size)

    def space() -> int:
        return backing.stat().st_blocks * 512

    if kind == "file":
        return Backend(backing, size, 1, partial(RawFile.open, str(backing)), space)
    device = request.getfixturevalue("attach")(backing, "--sector-size", kind)
    return Backend(backing, size, int(kind), partial(BlockDevice.open, str(device)), space)


@pytest.fixture(scope="session")
def lvm_group_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Group]]:
    """A volume group for each kind of pool, on a loop device. They take long to make."""
    with ExitStack() as stack:

        @cache
        def group_of(kind: str) -> Group:
            return stack.enter_context(volume_group(tmp_path_factory.mktemp("group"), kind))

        yield group_of


@pytest.fixture(scope="session")
def tank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tank]:
    """A file system of ZFS for zvols."""
    with zfs_tank(tmp_path_factory.mktemp("tank")) as made:
        yield made
