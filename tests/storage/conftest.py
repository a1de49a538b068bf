"""Loop devices, mounts and volumes on them, undone whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from storage_support import BACKENDS, Backend, run

from storage.blockdev import BlockDevice
from storage.contracts import Volume
from storage.rawfile import RawFile


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root for loop devices and mounts"))


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def attach(cleanup: ExitStack) -> Callable[..., Path]:
    """Attach a loop device to a file, with options of losetup."""

    def attach_one(backing: Path, *options: str) -> Path:
        device = Path(run("losetup", "--find", "--show", *options, backing))
        cleanup.callback(run, "losetup", "--detach", device)
        return device

    return attach_one


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


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name.startswith("file") else pytest.mark.root)
        for name in BACKENDS
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    kind, size = BACKENDS[request.param]
    backing = tmp_path / "backing.img"
    backing.touch()
    os.truncate(backing, size)
    if kind == "file":
        return Backend(backing, backing, size, 1, RawFile)
    device = request.getfixturevalue("attach")(backing, "--sector-size", kind)
    return Backend(device, backing, size, int(kind), BlockDevice)
