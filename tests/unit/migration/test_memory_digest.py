"""The digest of a saved image: of all of it, in its order, off the event loop, a little behind."""

from __future__ import annotations

import random
import threading

import pytest
from blake3 import blake3

from xenmoved.migration import memory_digest
from xenmoved.migration.memory_digest import MemoryDigest


@pytest.mark.parametrize("sizes", [[], [1], [256 * 1024] * 40, [1] * 3000, [5, 3_000_000, 7]])
async def test_it_is_that_of_all_pieces_in_their_order(sizes: list[int]) -> None:
    pieces = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    digest = MemoryDigest()
    for piece in pieces:
        await digest.add(memoryview(piece))
        assert len(digest._gathered) < 256
        assert digest._gathered_size < 2 * 2**20
    assert digest.size == sum(sizes)
    assert await digest.value() == blake3(b"".join(pieces)).digest()
    await digest.add(b"more")
    assert await digest.value() == blake3(b"".join(pieces) + b"more").digest()


async def test_large_pieces_are_hashed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    class Watched:
        def update(self, _: object) -> None:
            threads.add(threading.current_thread())

        def digest(self) -> bytes:
            return b""

    monkeypatch.setattr(memory_digest, "blake3", Watched)
    digest = MemoryDigest()
    for _ in range(20):
        await digest.add(bytes(2**20))
    await digest.value()
    assert threads and threading.main_thread() not in threads
