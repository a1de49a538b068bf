"""Lent buffers: never lent again while somebody looks at them, and not many of them."""

from __future__ import annotations

import random

from xenmoved.link.loans import Loans


def test_a_buffer_is_lent_again_when_no_view_of_it_is_left() -> None:
    loans = Loans(1000, 4)
    view = loans.take()
    assert len(view) == 1000
    first = id(view.obj)
    part = memoryview(view)[10:20:3]
    del view
    other = loans.take()
    assert id(other.obj) != first
    del part
    third = loans.take()
    assert id(third.obj) == first
    assert len(third) == 1000


def test_one_that_is_kept_for_long_keeps_no_other_from_being_used_again() -> None:
    loans = Loans(1000, 4)
    kept = loans.take()
    kept[:] = b"k" * 1000
    seen = set()
    for _ in range(100):
        view = loans.take()
        view[:] = b"x" * 1000
        seen.add(id(view.obj))
        del view
    assert bytes(kept) == b"k" * 1000
    assert len(seen) <= 5


def test_what_is_lent_beyond_the_bound_is_forgotten_and_stays_whole() -> None:
    loans, rng = Loans(64, 5), random.Random(1)
    held: list[tuple[memoryview, bytes]] = []
    for number in range(500):
        view = loans.take()
        view[:] = bytes((number % 256,)) * 64
        held.append((view, bytes(view)))
        del view
        while len(held) > 12 or (held and rng.random() < 0.4):
            held.pop(rng.randrange(len(held)))
        assert all(one == copy for one, copy in held)
        assert len(loans._free) + len(loans._lent) <= 5
