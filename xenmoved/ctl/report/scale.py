"""Axes: where a value is, and which values are marked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from xenmoved.ctl.report import units

Tick = tuple[float, str]
"""A value that an axis marks, and what is written there."""

_TIMES: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600 * hours for hours in (1, 2, 3, 6, 12)),
)
_DAY: Final = 86400
_LOG_FACTORS: Final = (2, 4, 16, 256, 1024, 1024**2)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low` to `high` onto coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value; values beyond the ends are put there."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def time_ticks(span: float, most: int) -> list[Tick]:
    """Mark seconds from 0 to `span`, in at most so many steps, with the unit that fits."""
    step = _time_step(span, most)
    values = _multiples(step, span)
    return [(value, _time_label(value, step, values[-1]) if value else "0") for value in values]


def size_ticks(high: float, most: int, *, per_second: bool = False) -> list[Tick]:
    """Mark bytes from 0 to at least `high`, in at most so many steps, all in one unit.

    The last of them is where the axis ends.
    """
    exponent = _exponent(high)
    unit = 1024**exponent
    step = max(_round_step(high / unit / most), 1 if exponent == 0 else 0)
    count = max(1, math.ceil(high / unit / step - 1e-9))
    end = f" {units.SIZES[exponent]}{'/s' if per_second else ''}"
    return [(i * step * unit, f"{_trimmed(i * step)}{end}" if i else "0") for i in range(count + 1)]


def log_size_ticks(low: float, high: float, most: int) -> list[Tick]:
    """Mark powers of two from at most `low` to at least `high`, in at most so many steps."""
    for factor in _LOG_FACTORS:
        first = math.floor(math.log(max(low, 1.0), factor) + 1e-9)
        last = max(math.ceil(math.log(max(high, 1.0), factor) - 1e-9), first + 1)
        if last - first <= most or factor == _LOG_FACTORS[-1]:
            break
    values = [float(factor**power) for power in range(first, last + 1)]
    return [(value, _power_label(value)) for value in values]


def _time_step(span: float, most: int) -> float:
    if span / most < _TIMES[0]:
        return min(_round_step(span / most), 1.0)
    for step in _TIMES:
        if span / step <= most:
            return step
    return _round_step(span / _DAY / most) * _DAY


def _time_label(value: float, step: float, last: float) -> str:
    if step < 1:
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if step < 0.1:
            return f"{value * 1000:.{max(0, decimals - 3)}f} ms"
        return f"{value:.{decimals}f} s"
    if step < 60:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes}:{seconds:02} min" if last >= 60 else f"{seconds} s"
    if step < 3600:
        hours, minutes = divmod(round(value) // 60, 60)
        return f"{hours}:{minutes:02} h" if last >= 3600 else f"{minutes} min"
    if step < _DAY:
        return f"{round(value) // 3600} h"
    return f"{_trimmed(value / _DAY)} d"


def _multiples(step: float, span: float) -> list[float]:
    return [i * step for i in range(math.floor(span / step + 1e-9) + 1)]


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 with a power of ten that is no less."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _exponent(count: float) -> int:
    exponent = 0
    while exponent < len(units.SIZES) - 1 and count >= 1024 ** (exponent + 1):
        exponent += 1
    return exponent


def _power_label(value: float) -> str:
    exponent = _exponent(value)
    return f"{round(value / 1024**exponent)} {units.SIZES[exponent]}"


def _trimmed(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
