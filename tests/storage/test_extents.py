"""Extent arithmetic against sets of bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.contracts import Extent
from storage.extents import align, complement, intersect, merge, pieces, subtract, total

SIZE = 120
extents = st.lists(st.builds(Extent, st.integers(0, SIZE), st.integers(0, 40)), max_size=12)


def covered(items: list[Extent]) -> set[int]:
    return {byte for item in items for byte in range(item.offset, item.end)}


def is_normal(items: list[Extent]) -> bool:
    return all(item.length > 0 for item in items) and all(
        a.end < b.offset for a, b in pairwise(items)
    )


def test_examples() -> None:
    assert merge([Extent(10, 5), Extent(0, 4), Extent(15, 1), Extent(3, 2), Extent(9, 0)]) == [
        Extent(0, 5),
        Extent(10, 6),
    ]
    assert align([Extent(5, 1), Extent(17, 2)], 4, 18) == [Extent(4, 4), Extent(16, 2)]
    assert complement([], 10) == [Extent(0, 10)]
    assert complement([Extent(0, 10)], 10) == []
    assert list(pieces([Extent(3, 10)], 4, 4)) == [
        Extent(3, 1),
        Extent(4, 4),
        Extent(8, 4),
        Extent(12, 1),
    ]
    assert total([Extent(3, 10), Extent(3, 1)]) == 11


@given(extents)
def test_merge(items: list[Extent]) -> None:
    merged = merge(items)
    assert is_normal(merged)
    assert covered(merged) == covered(items)
    assert total(merged) == len(covered(items))


@given(extents, st.integers(1, 50), st.integers(1, SIZE))
def test_align_grows_to_whole_blocks_within_the_volume(
    items: list[Extent], block: int, size: int
) -> None:
    grown = align(items, block, size)
    blocks = {byte // block for byte in covered(items)}
    assert is_normal(grown)
    assert covered(grown) == {byte for byte in range(size) if byte // block in blocks}


@given(extents, extents)
def test_set_operations(left: list[Extent], right: list[Extent]) -> None:
    for operation, expected in (
        (intersect, covered(left) & covered(right)),
        (subtract, covered(left) - covered(right)),
    ):
        result = operation(left, right)
        assert is_normal(result)
        assert covered(result) == expected


@given(extents)
def test_complement(items: list[Extent]) -> None:
    rest = complement(items, SIZE)
    assert is_normal(rest)
    assert covered(rest) == set(range(SIZE)) - covered(items)


@given(extents, st.integers(1, 20), st.integers(0, 30))
def test_pieces_tile_each_extent(items: list[Extent], block: int, more: int) -> None:
    limit = block + more
    merged = merge(items)
    cut = list(pieces(merged, limit, block))
    assert all(0 < piece.length <= limit for piece in cut)
    assert sorted(cut) == cut
    assert total(cut) == total(merged)
    assert merge(cut) == merged
    borders = {item.offset for item in merged} | {item.end for item in merged}
    for piece in cut:
        assert piece.offset in borders or piece.offset % block == 0
        assert piece.end in borders or piece.end % block == 0


def test_pieces_smaller_than_a_block_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        pieces([Extent(0, 100)], 7, 8)
