"""Numbers as a page shows them: with three digits."""

from __future__ import annotations

from typing import Final

SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE: Final = 60
_HOUR: Final = 3600


def size(count: float) -> str:
    """Return a number of bytes."""
    exponent = 0
    while exponent < len(SIZES) - 1 and round(count / 1024**exponent) >= 1000:
        exponent += 1
    return f"{digits(count / 1024**exponent)} {SIZES[exponent]}"


def rate(per_second: float) -> str:
    """Return bytes a second."""
    return f"{size(per_second)}/s"


def duration(seconds: float) -> str:
    """Return a duration: ``42 ms``, ``4.25 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 0.9995:
        return f"{digits(seconds * 1000)} ms"
    if seconds < _MINUTE - 0.05:
        return f"{digits(seconds)} s"
    whole = round(seconds)
    if whole < _HOUR:
        return _pair(whole, _MINUTE, "min", 1, "s")
    return _pair(round(whole / _MINUTE) * _MINUTE, _HOUR, "h", _MINUTE, "min")


def digits(value: float) -> str:
    """Return a number with three digits, or all of those before the point; no zeros at the end."""
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _pair(value: int, large: int, large_unit: str, small: int, small_unit: str) -> str:
    text = f"{value // large} {large_unit}"
    rest = value % large // small
    return f"{text} {rest} {small_unit}" if rest else text
