"""Arithmetic on lists of extents.

Results are always *normal*: sorted by offset, without empty extents, without two extents that
overlap or touch. Arguments need not be. Everything is in bytes, and nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from storage.contracts import Extent

_by_offset = attrgetter("offset")


def merge(extents: Iterable[Extent]) -> list[Extent]:
    """Sort the extents, join those that overlap or touch and leave out empty ones."""
    merged: list[Extent] = []
    start = end = 0
    for extent in sorted(extents, key=_by_offset):
        if extent.length <= 0:
            continue
        if start < end and extent.offset <= end:
            end = max(end, extent.end)
            continue
        if start < end:
            merged.append(Extent(start, end - start))
        start, end = extent.offset, extent.end
    if start < end:
        merged.append(Extent(start, end - start))
    return merged


def align(extents: Iterable[Extent], block: int, size: int) -> list[Extent]:
    """Grow the extents outward to multiples of `block`, within a volume of `size` bytes.

    What lies outside ``[0, size)`` is cut off, so that the last extent may end at a `size` that is
    no multiple of `block`.
    """
    grown: list[Extent] = []
    for extent in extents:
        if extent.length <= 0:
            continue
        start = max(0, extent.offset // block * block)
        end = min(size, -(-extent.end // block) * block)
        if start < end:
            grown.append(Extent(start, end - start))
    return merge(grown)


def intersect(left: Iterable[Extent], right: Iterable[Extent]) -> list[Extent]:
    """Bytes that are in both."""
    ours, theirs = merge(left), merge(right)
    common: list[Extent] = []
    i = j = 0
    while i < len(ours) and j < len(theirs):
        a, b = ours[i], theirs[j]
        start, end = max(a.offset, b.offset), min(a.end, b.end)
        if start < end:
            common.append(Extent(start, end - start))
        if a.end <= b.end:
            i += 1
        else:
            j += 1
    return common


def subtract(left: Iterable[Extent], right: Iterable[Extent]) -> list[Extent]:
    """Bytes of `left` that are not in `right`."""
    removed = merge(right)
    kept: list[Extent] = []
    first = 0
    for extent in merge(left):
        while first < len(removed) and removed[first].end <= extent.offset:
            first += 1
        start = extent.offset
        following = first
        while following < len(removed) and removed[following].offset < extent.end:
            hole = removed[following]
            if start < hole.offset:
                kept.append(Extent(start, hole.offset - start))
            start = max(start, hole.end)
            following += 1
        if start < extent.end:
            kept.append(Extent(start, extent.end - start))
    return kept


def complement(extents: Iterable[Extent], size: int) -> list[Extent]:
    """Bytes of a volume of `size` bytes that are in no extent."""
    return subtract([Extent(0, size)], extents)


def total(extents: Iterable[Extent]) -> int:
    """Bytes in all extents together; bytes in two extents count twice unless merged before."""
    return sum(extent.length for extent in extents)


def pieces(extents: Iterable[Extent], limit: int, block: int) -> Iterator[Extent]:
    """Cut each extent into pieces of at most `limit` bytes, in the order given.

    Cuts fall on multiples of `block`, also when an extent begins between two. Raises `ValueError`
    when `limit` is smaller than `block`, since such cuts need not exist.
    """
    if block <= 0 or limit < block:
        raise ValueError(f"pieces of at most {limit} bytes cannot be cut at multiples of {block}")
    return _pieces(extents, limit, block)


def _pieces(extents: Iterable[Extent], limit: int, block: int) -> Iterator[Extent]:
    for extent in extents:
        start = extent.offset
        while extent.end - start > limit:
            cut = (start + limit) // block * block
            yield Extent(start, cut - start)
            start = cut
        if start < extent.end:
            yield Extent(start, extent.end - start)
