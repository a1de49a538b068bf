"""What tells a volume of this host from every other that was or will be under its name."""

from __future__ import annotations

from typing import Final


class Identity:
    """The identity of a volume. One that is not known is false, and equal to none, not to itself.

    So nothing that compares identities can take two volumes for one because it knows neither.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def __bool__(self) -> bool:
        return self._text != ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and bool(self) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Identity({self._text!r})"


UNKNOWN: Final = Identity()
