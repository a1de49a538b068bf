"""What every volume does, on each backend."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.contracts import Volume
from storage.errors import VolumeError, VolumeInUse
from storage.extents import complement
from tests.support.volumes import Backend, aligned, read

Opened = Callable[[Volume], Volume]


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def whole(volume: Volume) -> bytes:
    return read(volume, 0, volume.size)


def _require_calls(backend: Backend) -> None:
    if backend.is_image:
        pytest.skip("its tool writes, and is slowed down in test_qemu_images.py")


def test_size_and_alignment_are_exact(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=False))
    assert volume.size == backend.size
    assert volume.alignment == backend.alignment
    assert volume.size % volume.alignment == 0
    assert volume.name.startswith("test:")


def test_what_was_written_is_there_after_reopening(backend: Backend) -> None:
    content = pattern(backend.size)
    volume = backend.open(writable=True)
    volume.write(0, aligned(content))
    volume.flush()
    volume.close()
    assert backend.content() == content
    volume = backend.open(writable=False)
    assert whole(volume) == content
    volume.close()


def test_last_sector_alone(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=True))
    last = backend.size - backend.alignment
    content = pattern(backend.alignment)
    volume.write(last, aligned(content))
    assert read(volume, last, backend.alignment) == content
    assert whole(volume) == bytes(last) + content


@pytest.mark.parametrize("shift", [1, 512, 4095])
def test_buffers_need_not_be_aligned(backend: Backend, opened: Opened, shift: int) -> None:
    volume = opened(backend.open(writable=True))
    content = pattern(backend.size)
    padded = bytearray(shift) + content
    volume.write(0, memoryview(padded)[shift:])
    assert whole(volume) == content
    volume.write(0, memoryview(bytes(shift) + content[::-1])[shift:])  # read-only memory
    target = bytearray(shift + backend.size)
    volume.read_into(0, memoryview(target)[shift:])
    assert target == bytes(shift) + content[::-1]


def test_zero_reads_as_zeros_and_touches_nothing_else(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=True))
    content = bytearray(pattern(backend.size))
    volume.write(0, aligned(bytes(content)))
    start = backend.alignment if backend.size > backend.alignment else 0
    end = max(backend.size - 2 * backend.alignment, start + backend.alignment)
    volume.zero(start, end - start)
    content[start:end] = bytes(end - start)
    assert whole(volume) == content
    volume.flush()
    assert backend.content() == content


def test_zero_gives_space_back(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=True))
    if backend.space is None:
        pytest.skip("its space is always taken")
    volume.write(0, aligned(pattern(backend.size)))
    volume.flush()
    assert backend.space() > 0
    volume.zero(0, backend.size)
    volume.flush()
    # A last file system block that the volume shares with nobody may stay, zeroed.
    assert backend.space() <= (0 if backend.size % 4096 == 0 else 4096)
    assert whole(volume) == bytes(backend.size)


def test_empty_ranges_do_nothing(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=True))
    volume.write(backend.size, memoryview(bytearray()))
    volume.read_into(backend.size, memoryview(bytearray()))
    volume.zero(backend.size, 0)
    assert whole(volume) == bytes(backend.size)


@pytest.mark.parametrize("where", ["beyond", "across", "before"])
def test_ranges_outside_are_refused(backend: Backend, opened: Opened, where: str) -> None:
    volume = opened(backend.open(writable=True))
    offset = {"beyond": backend.size, "across": backend.size - 4096, "before": -4096}[where]
    buffer = aligned(b"x" * 8192)
    for call in (volume.read_into, volume.write, lambda at, b: volume.zero(at, len(b))):
        with pytest.raises(VolumeError, match=rf"test:.* 8192 bytes at {offset}: .*{backend.size}"):
            call(offset, buffer)
    assert whole(volume) == bytes(backend.size)
    volume.flush()
    assert len(backend.content()) == backend.size


def test_divided_sectors_are_refused(backend: Backend, opened: Opened) -> None:
    if backend.alignment == 1:
        pytest.skip("files have no sectors")
    volume = opened(backend.open(writable=True))
    half = backend.alignment // 2
    for offset, length in ((half, half), (0, half)):
        with pytest.raises(VolumeError, match=f"sectors of {backend.alignment} bytes"):
            volume.write(offset, aligned(bytes(length)))
        with pytest.raises(VolumeError, match=f"sectors of {backend.alignment} bytes"):
            volume.zero(offset, length)


def test_read_only_volumes_are_not_changed(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=False))
    with pytest.raises(VolumeError, match="reading only"):
        volume.write(0, aligned(b"x" * backend.alignment))
    with pytest.raises(VolumeError, match="reading only"):
        volume.zero(0, backend.alignment)


def test_writable_is_exclusive(backend: Backend, opened: Opened) -> None:
    first = backend.open(writable=True)
    with pytest.raises(VolumeInUse, match=rf"in use: locked by process {os.getpid()}"):
        backend.open(writable=True)
    first.close()
    opened(backend.open(writable=True))


def test_writable_is_refused_beside_a_reader(backend: Backend, opened: Opened) -> None:
    reader = backend.open(writable=False)
    opened(backend.open(writable=False))
    with pytest.raises(VolumeInUse, match=rf"locked by process {os.getpid()}"):
        backend.open(writable=True)
    reader.close()


def test_reading_is_possible_beside_a_writer(backend: Backend, opened: Opened) -> None:
    if backend.is_image:
        pytest.skip("what its tool has not written yet, another one does not see")
    writer = opened(backend.open(writable=True))
    reader = opened(backend.open(writable=False))
    content = pattern(backend.size)
    writer.write(0, aligned(content))
    assert whole(reader) == content


def test_closed_volumes_say_so(backend: Backend) -> None:
    volume = backend.open(writable=True)
    volume.close()
    volume.close()
    for call in (
        lambda: volume.read_into(0, aligned(bytes(backend.alignment))),
        lambda: volume.write(0, aligned(bytes(backend.alignment))),
        lambda: volume.zero(0, backend.alignment),
        volume.flush,
    ):
        with pytest.raises(VolumeError, match="closed"):
            call()


def test_close_waits_for_a_write_under_way(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require_calls(backend)
    volume = backend.open(writable=True)
    content = pattern(backend.alignment)
    writing, go_on = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(fd: int, buffer: memoryview, offset: int) -> int:
        writing.set()
        assert go_on.wait(10)
        return pwrite(fd, buffer, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    writer = threading.Thread(target=volume.write, args=(0, aligned(content)))
    writer.start()
    assert writing.wait(10)
    closer = threading.Thread(target=volume.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    go_on.set()
    closer.join(10)
    writer.join(10)
    assert not closer.is_alive()
    monkeypatch.undo()
    volume = backend.open(writable=False)
    assert read(volume, 0, backend.alignment) == content
    volume.close()


def test_short_transfers_are_continued(
    backend: Backend, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require_calls(backend)
    volume = opened(backend.open(writable=True))
    content = pattern(backend.size)
    pwrite, preadv = os.pwrite, os.preadv
    calls = []

    def short_write(fd: int, buffer: memoryview, offset: int) -> int:
        calls.append("write")
        return pwrite(fd, buffer[:4096], offset)

    def short_read(fd: int, buffers: list[memoryview], offset: int) -> int:
        calls.append("read")
        return preadv(fd, [buffers[0][:4096]], offset)

    monkeypatch.setattr(os, "pwrite", short_write)
    monkeypatch.setattr(os, "preadv", short_read)
    volume.write(0, aligned(content))
    assert whole(volume) == content
    pieces = -(-backend.size // 4096)
    assert (calls.count("write"), calls.count("read")) == (pieces, pieces)


def test_many_threads_write_different_ranges(backend: Backend, opened: Opened) -> None:
    volume = opened(backend.open(writable=True))
    content = pattern(backend.size)
    step = 4096 * 3
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for start in range(number * step, backend.size, 4 * step):
                piece = content[start : start + step]
                volume.write(start, memoryview(bytearray(b"?" + piece))[1:])  # not aligned
                assert read(volume, start, len(piece)) == piece
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert whole(volume) == content


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "zero", "flush", "reopen"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1),
        st.integers(0, 255),
    ),
    max_size=12,
)


@pytest.mark.sampled
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations)
def test_behaves_like_plain_memory(backend: Backend, steps: list) -> None:
    model = bytearray(backend.size)
    volume = backend.open(writable=True)
    try:
        volume.zero(0, backend.size)
        sectors = backend.size // backend.alignment
        for action, where, share, fill in steps:
            start = int(where * sectors) * backend.alignment
            length = int(share * (backend.size - start)) // backend.alignment * backend.alignment
            if action == "write":
                # A written zero is data or not, as the backend likes; reads cannot tell.
                content = bytes([fill]) * length
                volume.write(start, aligned(content) if length else memoryview(content))
                model[start : start + length] = content
            elif action == "zero":
                volume.zero(start, length)
                model[start : start + length] = bytes(length)
            elif action == "flush":
                volume.flush()
            else:
                volume.close()
                volume = backend.open(writable=True)
            if length:
                assert read(volume, start, length) == model[start : start + length]
        assert whole(volume) == model
        found = list(volume.data_extents())
        assert all(extent.length > 0 for extent in found)
        assert all(a.end <= b.offset for a, b in pairwise(found))
        assert not found or (found[0].offset >= 0 and found[-1].end <= backend.size)
        for hole in complement(found, backend.size):
            assert not any(model[hole.offset : hole.end])
    finally:
        volume.close()
