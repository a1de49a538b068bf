"""Elements of HTML and SVG. Names of guests, volumes and peers come from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Final

from xenmoved.logs import printable

_EMPTY: Final = frozenset({"meta", "br"})


class Markup(str):
    """Text that is markup. All other text is made harmless when it becomes part of an element."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element. In the names of attributes ``_`` stands for ``-``; None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Return markup and text one after the other."""
    return Markup("".join(_text(child) for child in children))


def _text(content: str) -> str:
    return content if isinstance(content, Markup) else escape(printable(content))


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
