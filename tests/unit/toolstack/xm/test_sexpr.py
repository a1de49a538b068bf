"""S-expressions."""

import re

import pytest

from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.xm.sexpr import child_value, children, name_of, parse_all, to_string


def test_parse():
    assert parse_all("(a (b c) () 'd e' \"f'\" g'h)  atom # (not this\n(x)") == [
        ["a", ["b", "c"], [], "d e", "f'", "g'h"],
        "atom",
        ["x"],
    ]
    assert parse_all(" \n") == []


def test_escapes():
    assert parse_all(r"""('a\'b' "c\"d" 'e\\f' '\x41\102\n\t')""") == [
        ["a'b", 'c"d', "e\\f", "AB\n\t"]
    ]


@pytest.mark.parametrize(
    "text", ["(", "(a", ")", "(a))", "'open", "(a [b])", "'\\q'", "'\\777'", "(" * 40 + ")" * 40]
)
def test_malformed(text):
    with pytest.raises(ToolstackError):
        parse_all(text)


def test_size_limit():
    with pytest.raises(ToolstackError, match="characters"):
        parse_all(" " * (1 << 20) + " ")


@pytest.mark.parametrize(
    "expression",
    ["a", "", "two words", "it's", 'say "x"', "back\\slash", "tab\tnl\n", "\x00\xff", "#(", "!x"],
)
def test_round_trip(expression):
    nested = ["list", expression, [expression]]
    assert parse_all(to_string(nested)) == [nested]


def test_access():
    domain = parse_all("(domain (name web) (device (vif)) (device (vbd)) (empty) loose)")[0]
    assert name_of(domain) == "domain"
    assert name_of([]) == name_of("x") == name_of([["a"]]) == ""
    assert child_value(domain, "name") == "web"
    assert child_value(domain, "empty") is child_value(domain, "absent") is None
    assert child_value(domain, "device") is None
    assert list(children(domain, "device")) == [["device", ["vif"]], ["device", ["vbd"]]]


@pytest.mark.parametrize(
    "text", ["(vncpasswd hun;ter2)", "(vncpasswd 'hunter2", r"(a 'hunter\q2')"]
)
def test_nothing_of_a_text_is_shown(text):
    with pytest.raises(ToolstackError) as refused:
        parse_all(text)
    assert not re.search("hun|ter|[2q]", re.sub(r"character \d+", "", str(refused.value)))
