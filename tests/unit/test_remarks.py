"""What becomes of remarks on their way to an operator."""

from __future__ import annotations

import json
from dataclasses import replace

from protocol.messages import Remark, Weight
from xenmoved.remarks import (
    MOST,
    MOST_BYTES,
    MOST_LEFT_OUT,
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
    assert len(found) <= MOST
    assert found[1:-1] == tuple(fine[: len(found) - 2])
    assert found[-1].code == "more"
    assert together(found) == found == together(found[:1], found)
    assert together(fine[:9]) == tuple(fine[:9])


def test_together_they_are_small():
    wide = [to_look_at("y", f"{number}" + "\N{SNOWMAN}" * 90, "do") for number in range(40)]
    found = together(wide)
    assert 1 < len(found) < 20
    assert len(json.dumps([one.text for one in found])) < MOST_BYTES + 1024
    huge = to_look_at("z", "x" * 4000, "y" * 4000)
    assert together([huge, huge])[0] == huge
    assert [one.code for one in together([huge, *wide[:1], replace(huge, code="q")])] == [
        *("z", "y", "more")
    ]


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


def test_of_much_that_is_left_out_little_is_named():
    found = left_out("web", map(str, [*range(MOST_LEFT_OUT + 30), 0]))
    assert len(found) == MOST_LEFT_OUT + 1
    assert (
        found[-1].text == "web comes without 30 more settings that may not come from another host"
    )
