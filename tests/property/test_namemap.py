"""Patterns of volume names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenmoved.namemap import STARS, check_rule, matches, new_name

NAMES = st.text(st.sampled_from("ab-._+0"), min_size=1, max_size=12)
PARTS = st.lists(st.text(st.sampled_from("ab-"), max_size=3), min_size=1, max_size=STARS + 1)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("vm-web-root", "vm-*-root", "*-disk0", "web-disk0"),
        ("vm-web-root", "vm-*-swap", "*-disk1", None),
        ("web", "web", "shop", "shop"),
        ("web-root", "web", "shop", None),
        ("web-root", "*", "old-*", "old-web-root"),
        ("a-b-c", "*-*", "*+*", "a+b-c"),
        ("a-b-c", "*-*", "*", "a"),
        ("vm--root", "vm-*-root", "*-disk0", "-disk0"),
        ("webXroot", "web.root", "x", None),
        ("a.b", "*.b", "*", "a"),
    ],
)
def test_what_a_rule_makes_of_a_name(name, old, new, expected):
    check_rule(old, new)
    assert new_name(name, {old: new}) == expected
    assert matches(name, old) is (expected is not None)


def test_the_first_that_matches_counts():
    rules = {"vm-*-root": "*-disk0", "vm-*": "*", "*": "other"}
    assert [new_name(name, rules) for name in ("vm-a-root", "vm-a-b", "x")] == [
        "a-disk0",
        "a-b",
        "other",
    ]
    assert new_name("x", {}) is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("", "a", "no pattern"),
        ("a", "", "no pattern"),
        ("a/b", "c", "no pattern"),
        ("a", "b c", "no pattern"),
        ("a**", "b", "no pattern"),
        ("a", "*", "more \\* than"),
        ("*-*-*-*", "a", "more than 3"),
        ("a" * 201, "a", "no pattern"),
    ],
)
def test_what_is_no_rule(old, new, why):
    with pytest.raises(ValueError, match=why):
        check_rule(old, new)


@given(PARTS, st.lists(NAMES, min_size=STARS, max_size=STARS))
def test_what_was_put_together_by_a_pattern_matches_it(parts, fillings):
    old = "*".join(parts)
    name = parts[0] + "".join(map("".join, zip(fillings, parts[1:], strict=False)))
    assert matches(name, old)
    assert new_name(name, {old: old}) == name


@given(NAMES, PARTS)
def test_it_matches_as_an_expression_of_dots_and_stars_does(name, parts):
    expected = re.fullmatch(".*".join(map(re.escape, parts)), name) is not None
    assert matches(name, "*".join(parts)) is expected


@given(NAMES)
def test_a_rule_and_its_reverse_undo_each_other(name):
    there = new_name(f"vm-{name}-root", {"vm-*-root": "*-disk0"})
    assert there == f"{name}-disk0"
    assert new_name(there, {"*-disk0": "vm-*-root"}) == f"vm-{name}-root"
