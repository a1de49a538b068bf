"""What a path or descriptor is, and that a change of it is noticed."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.backing import backing_of, backing_of_device, check_backing
from storage.devices.volume import BlockDevice
from storage.errors import VolumeNotFound, VolumeReplaced, VolumeResized
from storage.opening import open_source

SIZE = 1 << 20


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"x" * SIZE)
    return path


@pytest.fixture
def loop(image: Path) -> Iterator[Path]:
    node = Path(run("losetup", "--find", "--show", image))
    yield node
    run("losetup", "-d", node)


def test_a_file_is_itself_by_every_name_and_no_copy_is(image: Path, tmp_path: Path):
    link, hard, copy = tmp_path / "link", tmp_path / "hard", tmp_path / "copy"
    link.symlink_to(image)
    hard.hardlink_to(image)
    copy.write_bytes(image.read_bytes())
    assert backing_of(link) == backing_of(hard) == backing_of(image)
    assert backing_of(copy).what != backing_of(image).what
    assert backing_of(image).size == SIZE


def test_what_is_not_there_is_said_so(tmp_path: Path):
    with pytest.raises(VolumeNotFound, match="gone"):
        backing_of(tmp_path / "gone")


CHANGES = {
    "moved over": lambda path, other: other.replace(path),
    "linked elsewhere": lambda path, other: (path.unlink(), path.symlink_to(other)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_file_behind_the_path_is_noticed(image: Path, tmp_path: Path, change):
    other = tmp_path / "other"
    other.write_bytes(b"y" * SIZE)
    volume = open_source(image)
    opened = volume.backing()
    check_backing(image, opened)
    change(image, other)
    with pytest.raises(VolumeReplaced, match="image"):
        check_backing(image, opened)
    volume.close()


def test_what_was_removed_is_told_from_what_was_replaced(image: Path):
    opened = backing_of(image)
    image.unlink()
    with pytest.raises(VolumeNotFound):
        check_backing(image, opened)


@pytest.mark.parametrize("size", [SIZE // 2, SIZE + 1])
def test_another_size_of_a_file_is_noticed(image: Path, size: int):
    volume = open_source(image)
    opened = volume.backing()
    os.truncate(image, size)
    with pytest.raises(VolumeResized, match=f"{size} bytes now, and had {SIZE}"):
        check_backing(image, opened)
    volume.close()


@pytest.mark.root
def test_a_loop_device_names_the_file_behind_it_not_its_text(image: Path, loop: Path):
    backing = backing_of(loop)
    assert backing.file == backing_of(image).what
    assert backing.serves(backing_of(image))
    assert backing_of_device(loop.stat().st_rdev) == backing
    image.rename(image.with_name("renamed"))
    image.write_bytes(b"z" * SIZE)
    assert backing_of(loop) == backing
    assert not backing.serves(backing_of(image))


@pytest.mark.root
def test_a_loop_device_that_begins_within_a_file_does_not_serve_it(image: Path):
    node = Path(run("losetup", "--find", "--show", "--offset", 4096, image))
    try:
        assert not backing_of(node).serves(backing_of(image))
    finally:
        run("losetup", "-d", node)


@pytest.mark.root
def test_a_loop_device_that_is_enlarged_is_noticed(image: Path, loop: Path):
    volume = BlockDevice.open(str(loop), name="loop", writable=False)
    opened = volume.backing()
    os.truncate(image, 2 * SIZE)
    check_backing(loop, opened)
    run("losetup", "-c", loop)
    with pytest.raises(VolumeResized):
        check_backing(loop, opened)
    volume.close()


@pytest.mark.root
def test_a_link_that_leads_to_another_device_is_noticed(image: Path, loop: Path, tmp_path: Path):
    link, second = tmp_path / "disk", tmp_path / "second"
    second.write_bytes(b"y" * SIZE)
    other = Path(run("losetup", "--find", "--show", second))
    try:
        link.symlink_to(loop)
        volume = open_source(link)
        opened = volume.backing()
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(VolumeReplaced, match="leads to"):
            check_backing(link, opened)
        volume.close()
    finally:
        run("losetup", "-d", other)


@pytest.mark.root
def test_a_device_number_that_is_given_again_is_another_device(image: Path, tmp_path: Path):
    node = Path(run("losetup", "--find", "--show", image))
    first = backing_of(node)
    run("losetup", "-d", node)
    run("losetup", node, image)
    try:
        assert backing_of(node).what != first.what
    finally:
        run("losetup", "-d", node)
