"""S-expressions as xend reads and writes them (xen.git before 4.5, tools/python/xen/xend/sxp.py).

An expression is an atom (str) or a list. Atoms are bare words or strings in single or double
quotes with C-like escapes; `#` starts a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from xenmoved.toolstack.interface import ToolstackError

SIZE_LIMIT: Final = 1 << 20
DEPTH_LIMIT: Final = 32

Sexpr = str | list["Sexpr"]

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\n\v\f\r]+|\#[^\n]*)
      | (?P<open>\()
      | (?P<close>\))
      | (?P<single>'(?:[^'\\]|\\.)*')
      | (?P<double>"(?:[^"\\]|\\.)*")
      | (?P<atom>[^ \t\n\v\f\r(){}<>\[\];\#'"][^ \t\n\v\f\r(){}<>\[\];\#]*)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED: Final = {
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "\\": "\\",
    "'": "'",
    '"': '"',
}
_BARE: Final = re.compile(r"[A-Za-z0-9._:/~-]+|@", re.ASCII)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        value = int(code, 8)
        if value > 0xFF:
            raise ToolstackError("S-expression has an escape out of range.")
        return chr(value)
    # xend keeps the backslash of an escape that it does not know and drops the character. Nothing
    # that it writes contains one, and guessing would hide a difference between its eyes and ours.
    if code not in _NAMED:
        raise ToolstackError("S-expression has an unknown escape.")
    return _NAMED[code]


def parse_all(text: str) -> list[Sexpr]:
    """Every expression in `text`, in order.

    Raises ToolstackError when it is malformed, over 1 MiB or nested over 32 deep.
    """
    if len(text) > SIZE_LIMIT:
        raise ToolstackError(f"S-expression of over {SIZE_LIMIT} characters.")
    top: list[Sexpr] = []
    stack: list[list[Sexpr]] = [top]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            # Not what stands there: it may be in the middle of a password.
            raise ToolstackError(f"malformed S-expression at character {position}.")
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "open":
            if len(stack) > DEPTH_LIMIT:
                raise ToolstackError(f"S-expression nested over {DEPTH_LIMIT} deep.")
            child: list[Sexpr] = []
            stack[-1].append(child)
            stack.append(child)
        elif kind == "close":
            if len(stack) == 1:
                raise ToolstackError(f"S-expression has an extra `)` at character {position - 1}.")
            stack.pop()
        elif kind in ("single", "double"):
            stack[-1].append(_ESCAPE.sub(_unescape, token[1:-1]))
        elif kind == "atom":
            stack[-1].append(token)
    if len(stack) > 1:
        raise ToolstackError("S-expression ends inside a list.")
    return top


def to_string(expression: Sexpr) -> str:
    """Write an expression, quoted the way xend's parser reads back."""
    if isinstance(expression, list):
        return f"({' '.join(to_string(child) for child in expression)})"
    if _BARE.fullmatch(expression):
        return expression
    return "'" + "".join(_quoted(char) for char in expression) + "'"


def _quoted(char: str) -> str:
    if char in "'\\":
        return "\\" + char
    if char.isascii() and char.isprintable():
        return char
    raw = char.encode("latin-1" if char <= "\xff" else "utf-8")
    return "".join(f"\\{byte:03o}" for byte in raw)


def name_of(expression: Sexpr) -> str:
    """Get the first atom of a list, "" when there is none."""
    if isinstance(expression, list) and expression and isinstance(expression[0], str):
        return expression[0]
    return ""


def children(expression: Sexpr, name: str) -> Iterator[list[Sexpr]]:
    """Find the lists directly inside `expression` whose first atom is `name`."""
    if isinstance(expression, list):
        for child in expression[1:]:
            if isinstance(child, list) and name_of(child) == name:
                yield child


def child_value(expression: Sexpr, name: str) -> str | None:
    """Get the atom that follows `name` in the first such list, None without one."""
    for child in children(expression, name):
        if len(child) > 1 and isinstance(child[1], str):
            return child[1]
        return None
    return None
