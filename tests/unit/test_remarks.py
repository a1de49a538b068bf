"""What becomes of remarks on their way to an operator."""

from __future__ import annotations

from protocol.messages import Remark, Weight
from xenmoved.remarks import (
    MOST,
    from_peer,
    good_to_know,
    left_out,
    to_look_at,
    together,
)

ODD = "two\nlines\x1b[2J\x00"


def test_together_they_are_few_and_the_urgent_ones_come_first():
    fine = [good_to_know("x", str(number)) for number in range(100)]
    urgent = to_look_at("y", "now", "do it")
    found = together(fine, [urgent], fine, [urgent])
    assert found[0] == urgent
    assert len(found) == MOST
    assert found[1:] == tuple(fine[: MOST - 1])


def test_what_a_peer_says_moves_no_cursor():
    (one,) = from_peer([Remark(Weight.INFO, ODD * 20, ODD * 400, ODD * 400)])
    for text in (one.code, one.text, one.hint):
        assert text.isprintable()
    assert (len(one.code), len(one.text), len(one.hint)) == (200, 4000, 4000)


def test_what_is_left_out_is_said_once():
    assert [one.text for one in left_out("web", ["a", "b", "a"])] == [
        "web comes without a",
        "web comes without b",
    ]
