"""Hypothesis strategies made from the annotations of message types."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from protocol.schema import Length, Pattern, Range

_MANY = 4
"""Most items of a list that is made: examples stay small, and bounds are tested by themselves."""


def values(kind: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one for each kind of type
    """Return a strategy for every value that an annotation allows."""
    bounds: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        bounds = tuple(b for b in rest if isinstance(b, Range | Length | Pattern))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = next(member for member in get_args(kind) if member is not type(None))
        return st.none() | values(Annotated[inner, *bounds] if bounds else inner)
    if origin is tuple:
        low, high = _length(bounds)
        items = values(get_args(kind)[0])
        return st.lists(items, min_size=low, max_size=min(high, low + _MANY)).map(tuple)
    if origin is dict:
        low, high = _length(bounds)
        key, item = get_args(kind)
        return st.dictionaries(
            values(key), values(item), min_size=low, max_size=min(high, low + _MANY)
        )
    if origin is Literal:
        return st.sampled_from(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    if dataclasses.is_dataclass(kind):
        return objects(typing.cast("type[Any]", kind))
    return _scalars(kind, bounds)


def objects(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for instances of a dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})


def _scalars(kind: type, bounds: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is int:
        (bound,) = bounds
        return st.integers(int(bound.low), int(bound.high))
    if kind is float:
        (bound,) = bounds
        return st.floats(bound.low, bound.high, allow_nan=False)
    if kind is bytes:
        low, high = _length(bounds)
        return st.binary(min_size=low, max_size=min(high, low + 100))
    for bound in bounds:
        if isinstance(bound, Pattern):
            return st.from_regex(bound.regex, fullmatch=True)
    low, high = _length(bounds)
    letters = st.characters(exclude_categories=("Cs",))
    return st.text(letters, min_size=low, max_size=min(high, low + 30))


def _length(bounds: tuple[Any, ...]) -> tuple[int, int]:
    (bound,) = (b for b in bounds if isinstance(b, Length))
    return bound.low, bound.high
