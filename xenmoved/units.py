"""Sizes and durations as operators write them: ``500GiB``, ``80M``, ``60s``, ``5m``, ``30d``."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

UNLIMITED: Final = "unlimited"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SIZE_EXAMPLES = "write it like 500GiB, 10M or a number of bytes"
_EXPONENTS = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_EXPONENTS |= {f"{letter}iB": exponent for letter, exponent in _EXPONENTS.items() if exponent}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_DURATION_EXAMPLES = "write it like 60s, 5m or a number of seconds"
_SECONDS = {
    "": Fraction(1),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}


def parse_size(written: object) -> int:
    """Return a size in bytes. K, M, G, T and KiB, MiB, GiB, TiB are all binary.

    Raises ValueError, with what would be right.
    """
    if type(written) is int:
        if written < 0:
            raise ValueError(f"must not be negative, is {written}")
        return written
    match = _SIZE.fullmatch(written.strip()) if isinstance(written, str) else None
    if match is None:
        raise ValueError(f"{written!r} is no size: {_SIZE_EXAMPLES}")
    number, unit = match.groups()
    if unit not in _EXPONENTS:
        known = ", ".join(name for name in _EXPONENTS if name)
        raise ValueError(f"{written!r}: unknown unit {unit!r} (known, all binary: {known})")
    size = Fraction(number) * Fraction(1024 ** _EXPONENTS[unit])
    if size.denominator != 1:
        raise ValueError(f"{written!r} is no whole number of bytes: {_SIZE_EXAMPLES}")
    return size.numerator


def parse_limit(written: object) -> int | None:
    """Return a limit in bytes (per second, where ``/s`` may follow), None for no limit.

    Raises ValueError, with what would be right.
    """
    if written is None or written == UNLIMITED:
        return None
    try:
        limit = parse_size(written.removesuffix("/s") if isinstance(written, str) else written)
    except ValueError as error:
        raise ValueError(f"{error}, or {UNLIMITED!r}") from None
    if limit == 0:
        raise ValueError(f"must be more than 0, or {UNLIMITED!r}")
    return limit


def parse_count(written: object) -> int | None:
    """Return a limit to a number of things, None for no limit. Raises ValueError."""
    if written is None or written == UNLIMITED:
        return None
    if type(written) is not int or written < 1:
        raise ValueError(f"must be a number from 1, or {UNLIMITED!r}, is {written!r}")
    return written


def parse_duration(written: object) -> float:
    """Return a duration in seconds: more than nothing. Raises ValueError, with what is right."""
    text = str(written) if type(written) in (int, float) else written
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{written!r} is no duration: {_DURATION_EXAMPLES}")
    number, unit = match.groups()
    if unit not in _SECONDS:
        known = ", ".join(name for name in _SECONDS if name)
        raise ValueError(f"{written!r}: unknown unit {unit!r} (known: {known})")
    seconds = Fraction(number) * _SECONDS[unit]
    if seconds == 0:
        raise ValueError("must be more than 0")
    return float(seconds)


def format_size(size: int, *, exact: bool = False) -> str:
    """Return a size for people: ``1.5GiB``. If `exact`, `parse_size` gives back the same number."""
    exponent = 0
    while exponent < len(_UNITS) - 1 and size >= 1024 ** (exponent + 1):
        exponent += 1
    if exact:
        while size % 1024**exponent:
            exponent -= 1
        return f"{size // 1024**exponent}{_UNITS[exponent]}"
    return f"{size / 1024**exponent:.1f}".removesuffix(".0") + _UNITS[exponent]


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``450ms``, ``12s``, ``3m 20s``, ``2h 5m``, ``30d``."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h")]
    parts += [(whole // 60 % 60, "m"), (whole % 60, "s")]
    while parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{number}{unit}" for number, unit in parts[:2] if number)
