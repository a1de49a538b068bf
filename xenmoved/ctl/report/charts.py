"""What every plot is made of: a frame with axes, bands behind it, lines, areas, and labels.

Coordinates are in CSS pixels at full width. Widths of texts are not known here: they are estimated
for a wide font, so that labels keep their distance in every other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xenmoved.ctl.report.markup import Markup, join, tag
from xenmoved.ctl.report.scale import Scale, Tick

WIDTH: Final = 880.0
TEXT: Final = 12.0
"""Size of the letters in plots."""
_WIDE_LETTER: Final = 0.64

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PlotArea:
    """The area within the axes of a plot."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top


def plot(name: str, title: str, description: str, height: float, *content: str) -> Markup:
    """Return a plot. `name` is unique on its page; the description says what the plot shows."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *content,
        class_="plot",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def text_width(text: str, size: float = TEXT) -> float:
    """Return what a text takes at most."""
    return len(text) * size * _WIDE_LETTER


def label(at: Point, text: str, class_: str = "label", anchor: str = "start") -> Markup:
    """Return a text beginning, centred or ending (`anchor`) at a point."""
    return tag("text", text, x=at[0], y=at[1], class_=class_, text_anchor=anchor)


def line(start: Point, end: Point, class_: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def box(
    at: Point, width: float, height: float, class_: str, *, hint: str, radius: float | None = None
) -> Markup:
    """Return a rectangle; `hint` is shown by the browser to who points at it."""
    size = {"x": at[0], "y": at[1], "width": width, "height": height, "rx": radius}
    return tag("rect", tag("title", hint), class_=class_, **size)


def path(points: Sequence[Point], class_: str, *, closed: bool = False) -> Markup:
    """Return a line through points, or the area within them."""
    written = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polygon" if closed else "polyline", points=written, class_=class_)


def area(points: Sequence[Point], below: Sequence[Point], class_: str) -> Markup:
    """Return the area between a line through points and another below it."""
    return path([*points, *reversed(below)], class_, closed=True)


def rows(frame: PlotArea, scale: Scale, ticks: Sequence[Tick]) -> Markup:
    """Return lines across the frame with their labels to the left of it."""
    marks = [
        join(
            line((frame.left, scale(value)), (frame.right, scale(value)), "grid"),
            label((frame.left - 8, scale(value) + 4), text, "tick", "end"),
        )
        for value, text in ticks
    ]
    return join(*marks)


def columns(frame: PlotArea, scale: Scale, ticks: Sequence[Tick], *, lines: bool = False) -> Markup:
    """Return labels below the frame, with lines up through it if wanted.

    The last label is left out when it would be cut off.
    """
    marks = []
    for value, text in ticks:
        x = scale(value)
        if x + text_width(text) / 2 > WIDTH:
            continue
        top = frame.top if lines else frame.bottom
        marks.append(line((x, top), (x, frame.bottom + 5), "grid"))
        marks.append(label((x, frame.bottom + 19), text, "tick", "middle"))
    return join(*marks)
