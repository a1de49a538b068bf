"""A volume at another size than its own: cut off, or gone on with in zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.contracts import Extent, Volume
from storage.errors import VolumeError
from storage.opening import open_source
from storage.window import window
from tests.support.volumes import BLOCK, aligned, read

SIZE = 3 * BLOCK


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("window") / "disk"
    path.write_bytes(b"a" * BLOCK + bytes(BLOCK) + b"c" * BLOCK)
    return path


@settings(max_examples=60)
@given(size=st.integers(0, 2 * SIZE), offset=st.integers(0, 2 * SIZE), length=st.integers(1, SIZE))
def test_it_reads_as_the_volume_and_zeros_behind(
    path: Path, size: int, offset: int, length: int
) -> None:
    volume = open_source(str(path))
    try:
        shown = window(volume, size)
        if offset + length > size:
            with pytest.raises(VolumeError, match="beyond its end|the volume has"):
                read(shown, offset, length)
        else:
            whole = path.read_bytes() + bytes(SIZE)
            assert read(shown, offset, length) == whole[offset : offset + length]
    finally:
        volume.close()


@pytest.mark.parametrize("size", [0, BLOCK, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE])
def test_its_data_is_the_volumes_as_far_as_it_goes(path: Path, size: int) -> None:
    volume = open_source(str(path))
    shown = window(volume, size)
    assert shown.size == size
    for extent in shown.data_extents():
        assert extent.end <= min(size, SIZE)
    covered = {at for extent in shown.data_extents() for at in range(extent.offset, extent.end)}
    assert {at for at in range(min(size, SIZE)) if not BLOCK <= at < 2 * BLOCK} <= covered
    assert shown.backing() == volume.backing()
    volume.close()


class Recorder:
    """What a window does not do itself."""

    name, size, alignment = "disk", SIZE, 1

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def write(self, offset: int, buffer: memoryview) -> None:
        self.calls.append(("write", offset, len(buffer)))

    def zero(self, offset: int, length: int) -> None:
        self.calls.append(("zero", offset, length))

    def flush(self) -> None:
        self.calls.append(("flush", 0, 0))

    def close(self) -> None:
        self.calls.append(("close", 0, 0))


@pytest.mark.parametrize(("size", "end"), [(BLOCK, BLOCK), (2 * SIZE, SIZE)])
def test_nothing_is_written_beyond_it_or_the_volume(size: int, end: int) -> None:
    volume = Recorder()
    shown: Volume = window(volume, size)  # type: ignore[arg-type]
    shown.write(end - 512, aligned(b"x" * 512))
    shown.zero(0, end)
    for offset, length in ((end, 1), (end - 1, 2), (-1, 1)):
        with pytest.raises(VolumeError):
            shown.zero(offset, length)
        with pytest.raises(VolumeError):
            shown.write(offset, aligned(b"x" * length))
    shown.flush()
    shown.close()
    assert volume.calls == [
        ("write", end - 512, 512),
        ("zero", 0, end),
        ("flush", 0, 0),
        ("close", 0, 0),
    ]


def test_at_its_own_size_it_is_the_volume() -> None:
    volume = Recorder()
    assert window(volume, SIZE) is volume  # type: ignore[arg-type, comparison-overlap]


def test_extents_are_cut() -> None:
    volume = Recorder()
    volume.data_extents = lambda: iter([Extent(0, 10), Extent(20, 30)])  # type: ignore[attr-defined]
    assert [*window(volume, 25).data_extents()] == [Extent(0, 10), Extent(20, 5)]  # type: ignore[arg-type]
