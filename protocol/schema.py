"""Builds typed, validated objects from plain data, and back.

Plain data is what msgpack and YAML give: None, booleans, integers, floats, strings, bytes, lists
and maps with string keys. A type is declared as a frozen dataclass whose fields are annotated with

    bool, int, float, str, bytes, None, an Enum with string values, a literal string,
    tuple[T, ...], dict[str, T], T | None, another dataclass,
    Annotated[T, Range(...)], Annotated[T, Length(...)], Annotated[T, Pattern(...)],
    Annotated[T, Since(...)]

Nothing is converted silently: a string is not a number, 1 is not true. An integer is accepted where
a float is declared. Unknown keys are errors. Every integer needs a `Range` and every string, bytes,
tuple and dict a `Length` or `Pattern`, unless the declaration says otherwise with `lenient=True`
(for trusted input only, such as configuration); this is checked when a reader is made, so a message
type with an unbounded field cannot be used on the wire.

A field with `Since` is there from that version on: who reads or writes for an earlier one does as
if it were not declared, and has its default.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from protocol.errors import SchemaError

T = TypeVar("T")
Path = tuple[str | int, ...]
Reader = Callable[[object, Path], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """Bounds of the length of a string (in characters), bytes, tuple or dict, both included."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the whole string must match. `what` names it in messages."""

    regex: str
    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class Since:
    """The version from which on there is a field, which must have a default for those before."""

    version: int


class _How(NamedTuple):
    """What a reader is made for: trusted input, and of which version (None: all fields)."""

    lenient: bool
    version: int | None


U8 = Annotated[int, Range(0, 2**8 - 1)]
U16 = Annotated[int, Range(0, 2**16 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U63 = Annotated[int, Range(0, 2**63 - 1)]
Text = Annotated[str, Length(0, 4096)]
Name = Annotated[str, Length(1, 200)]


def build(
    kind: type[T], untrusted_data: object, *, lenient: bool = False, version: int | None = None
) -> T:
    """Return an instance of `kind` made from plain data of a version. Raises SchemaError."""
    reader: Reader = _reader(typing.cast(Any, kind), _How(lenient, version))
    return typing.cast(T, reader(untrusted_data, ()))


def plain(value: object, version: int | None = None) -> object:
    """Return the plain data of an object, as a version has it: the inverse of `build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = field_names(type(value), version)
        return {name: plain(getattr(value, name), version) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(item, version) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item, version) for key, item in value.items()}
    return value


@cache
def field_names(kind: type, version: int | None = None) -> tuple[str, ...]:
    """Return the fields that a dataclass has in a version, None: all of them.

    Raises TypeError where one that came later has no default.
    """
    fields = dataclasses.fields(kind)
    if version is None:
        return tuple(field.name for field in fields)
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in fields:
        first = first_version(hints[field.name])
        if first and not has_default(field):
            raise TypeError(f"{kind.__name__}.{field.name} came with version {first}: no default")
        if version >= first:
            found.append(field.name)
    return tuple(found)


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field may be left out."""
    nothing = dataclasses.MISSING
    return field.default is not nothing or field.default_factory is not nothing


def first_version(hint: Any) -> int:
    """Return the version from which on there is a field with this annotation, 0: from the first."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return max((note.version for note in notes if isinstance(note, Since)), default=0)


def type_name(value: object) -> str:
    """Name the type of plain data for a message, in words that a YAML writer knows."""
    names: dict[type, str] = {
        type(None): "nothing",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        bytes: "bytes",
        list: "a list",
        dict: "a map",
    }
    return names.get(type(value), type(value).__name__)


@cache
def _reader(kind: Any, how: _How) -> Reader:
    bounds: tuple[object, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        bounds = tuple(b for b in rest if isinstance(b, Range | Length | Pattern))
    base = _base_reader(kind, how)
    if not how.lenient and not bounds and _needs_bounds(kind):
        raise TypeError(f"{kind} has no bounds")
    if not bounds:
        return base
    checks = [_check(b) for b in bounds]
    plain_type = {tuple: list, dict: dict}.get(get_origin(kind))

    def read(data: object, path: Path) -> Any:
        # The length of a list or map is checked first, so that no work is done on an oversized one.
        if plain_type is not None and isinstance(data, plain_type):
            for check in checks:
                check(data, path)
            return base(data, path)
        value = base(data, path)
        for check in checks:
            check(value, path)
        return value

    return read


def _needs_bounds(kind: Any) -> bool:
    return kind in (int, float, str, bytes) or get_origin(kind) in (tuple, dict)


def _base_reader(kind: Any, how: _How) -> Reader:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        reader = _optional_reader(kind, how)
    elif origin is tuple:
        reader = _tuple_reader(get_args(kind), how)
    elif origin is dict:
        reader = _dict_reader(get_args(kind), how)
    elif origin is Literal:
        reader = _choice_reader({value: value for value in get_args(kind)})
    elif isinstance(kind, type) and issubclass(kind, Enum):
        reader = _choice_reader({member.value: member for member in kind})
    elif dataclasses.is_dataclass(kind):
        reader = _dataclass_reader(typing.cast(type, kind), how)
    elif kind in (bool, int, float, str, bytes, type(None)):
        reader = _scalar_reader(kind)
    else:
        raise TypeError(f"{kind} cannot be declared in a schema")
    return reader


def _scalar_reader(kind: type) -> Reader:
    wanted = type_name(kind())

    def read(data: object, path: Path) -> Any:
        if kind is float and type(data) is int:
            return float(data)
        if type(data) is not kind:
            raise SchemaError(path, f"must be {wanted}, not {type_name(data)}")
        return data

    return read


def _optional_reader(kind: Any, how: _How) -> Reader:
    members = [member for member in get_args(kind) if member is not type(None)]
    if len(members) != 1 or len(get_args(kind)) != 2:
        raise TypeError(f"{kind}: the only union in a schema is T | None")
    inner = _reader(members[0], how)
    return lambda data, path: None if data is None else inner(data, path)


def _tuple_reader(args: tuple[Any, ...], how: _How) -> Reader:
    if len(args) != 2 or args[1] is not Ellipsis:
        raise TypeError("the only tuple in a schema is tuple[T, ...]")
    inner = _reader(args[0], how)

    def read(data: object, path: Path) -> Any:
        if not isinstance(data, list):
            raise SchemaError(path, f"must be a list, not {type_name(data)}")
        return tuple(inner(item, (*path, index)) for index, item in enumerate(data))

    return read


def _dict_reader(args: tuple[Any, ...], how: _How) -> Reader:
    key_reader = _reader(args[0], how)
    inner = _reader(args[1], how)

    def read(data: object, path: Path) -> Any:
        if not isinstance(data, dict):
            raise SchemaError(path, f"must be a map, not {type_name(data)}")
        return {
            key_reader(key, (*path, _key_text(key))): inner(item, (*path, _key_text(key)))
            for key, item in data.items()
        }

    return read


def _choice_reader(choices: Mapping[object, object]) -> Reader:
    wanted = ", ".join(str(choice) for choice in choices)

    def read(data: object, path: Path) -> Any:
        if not isinstance(data, str) or data not in choices:
            raise SchemaError(path, f"must be one of: {wanted} (is {_shown(data)})")
        return choices[data]

    return read


def _dataclass_reader(kind: type, how: _How) -> Reader:
    hints = typing.get_type_hints(kind, include_extras=True)
    names = field_names(kind, how.version)
    fields = {name: _reader(hints[name], how) for name in names}
    required = [f.name for f in dataclasses.fields(kind) if f.name in names and not has_default(f)]

    def read(data: object, path: Path) -> Any:
        if not isinstance(data, dict):
            raise SchemaError(path, f"must be a map, not {type_name(data)}")
        for key in data:
            if key not in fields:
                known = ", ".join(fields)
                raise SchemaError((*path, _key_text(key)), f"unknown key (known: {known})")
        for name in required:
            if name not in data:
                raise SchemaError((*path, name), "missing")
        return kind(**{key: fields[key](item, (*path, key)) for key, item in data.items()})

    return read


def _check(bound: object) -> Callable[[Any, Path], None]:
    match bound:
        case Range(low, high):

            def check_range(value: Any, path: Path) -> None:
                # NaN is below no bound and above none, so the test is for being inside.
                if not low <= value <= high:
                    raise SchemaError(path, f"must be from {low:.15g} to {high:.15g}, is {value}")

            return check_range
        case Length(low_length, high_length):

            def check_length(value: Any, path: Path) -> None:
                if not low_length <= len(value) <= high_length:
                    raise SchemaError(
                        path, f"length must be {low_length} to {high_length}, is {len(value)}"
                    )

            return check_length
        case Pattern(regex, what):
            compiled = re.compile(regex)

            def check_pattern(value: Any, path: Path) -> None:
                if not compiled.fullmatch(value):
                    raise SchemaError(path, f"must be {what}, is {_shown(value)}")

            return check_pattern
    raise TypeError(f"{bound} is no bound")


def _key_text(key: object) -> str:
    return key[:80] if isinstance(key, str) else _shown(key)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
