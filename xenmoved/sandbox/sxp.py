"""S-expressions as xend wrote them."""

from __future__ import annotations

import re

Node = str | list["Node"]

_TOKEN = re.compile(r"""\s*(?:([()])|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s()'"]+))""")
_PLAIN = re.compile(r"[^\s()'\"]+")


class Malformed(Exception):
    """The text is not one S-expression."""


def parse(text: str) -> Node:
    """Read one expression."""
    stack: list[list[Node]] = [[]]
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Malformed(f"unexpected character at {at}")
        at = match.end()
        bracket, single, double, word = match.groups()
        if bracket == "(":
            stack.append([])
        elif bracket == ")":
            if len(stack) == 1:
                raise Malformed("unbalanced")
            done = stack.pop()
            stack[-1].append(done)
        else:
            quoted = single if single is not None else double
            stack[-1].append(word if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise Malformed("unbalanced")
    return stack[0][0]


def render(node: Node, indent: int | None = None) -> str:
    """Write an expression, on one line or as `xm list -l` shows it."""
    if isinstance(node, str):
        if node == "" or _PLAIN.fullmatch(node):
            return node
        return "'" + re.sub(r"(['\\])", r"\\\1", node) + "'"
    if indent is None or not any(isinstance(child, list) for child in node):
        return "(" + " ".join(render(child) for child in node) + ")"
    inner = "\n" + " " * (indent + 4)
    head = [render(child) for child in node if isinstance(child, str)]
    rest = [render(child, indent + 4) for child in node if isinstance(child, list)]
    return "(" + inner.join([" ".join(head), *rest]) + "\n" + " " * indent + ")"


def child(node: Node, key: str) -> list[Node] | None:
    """Find the first `(key …)` among the children."""
    return next(iter(children(node, key)), None)


def children(node: Node, key: str) -> list[list[Node]]:
    """Find every `(key …)` among the children."""
    return [one for one in node if isinstance(one, list) and one and one[0] == key]


def value(node: Node, key: str, default: str = "") -> str:
    """Return the word in `(key word)`."""
    found = child(node, key)
    return found[1] if found and len(found) > 1 and isinstance(found[1], str) else default
