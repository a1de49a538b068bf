"""JSON Schemas of declared types: for plain data as `protocol.schema.plain` makes it, in JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from enum import Enum, IntEnum
from typing import Annotated, Any, Final, Union, get_args, get_origin

from protocol.schema import Length, Pattern, Range, Since

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_SCALARS: Final = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
}
_LENGTHS: Final = {
    str: ("minLength", "maxLength"),
    tuple: ("minItems", "maxItems"),
    dict: ("minProperties", "maxProperties"),
}


class Definitions:
    """The schemas of dataclasses and enums by the names of their classes, to be put in `$defs`."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._kinds: dict[str, type] = {}

    def object(self, kind: type) -> Schema:
        """Return the schema of a dataclass, and define what it is made of.

        It allows for fields that a later release adds. Raises TypeError where a field is of a type
        that JSON does not have, and where two types have one name.
        """
        hints = typing.get_type_hints(kind, include_extras=True)
        names = [field.name for field in dataclasses.fields(kind)]
        return {
            **_named(kind),
            "type": "object",
            "properties": {name: self._value(hints[name]) for name in names},
            "required": names,
        }

    def _value(self, kind: Any) -> Schema:
        if get_origin(kind) is Annotated:
            base, *notes = get_args(kind)
            return self._value(base) | {k: v for note in notes for k, v in _bound(base, note)}
        if get_origin(kind) is not None:
            return self._compound(get_origin(kind), get_args(kind))
        if kind in _SCALARS:
            return {"type": _SCALARS[kind]}
        if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Enum)):
            return self._reference(typing.cast(type, kind))
        raise TypeError(f"{kind} cannot be described for JSON")

    def _compound(self, origin: Any, args: tuple[Any, ...]) -> Schema:
        if origin in (Union, types.UnionType):
            return {"anyOf": [self._value(arg) for arg in args]}
        if origin is tuple:
            return {"type": "array", "items": self._value(args[0])}
        if origin is dict:
            keys, values = map(self._value, args)
            return {"type": "object", "propertyNames": keys, "additionalProperties": values}
        raise TypeError(f"{origin} cannot be described for JSON")

    def _reference(self, kind: type) -> Schema:
        name = kind.__name__
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"{kind} and {self._kinds[name]} have one name")
        if name not in self.schemas:
            self.schemas[name] = _choice(kind) if issubclass(kind, Enum) else self.object(kind)
        return {"$ref": f"#/$defs/{name}"}


def _choice(kind: type[Enum]) -> Schema:
    scalar = "integer" if issubclass(kind, IntEnum) else "string"
    return {**_named(kind), "type": scalar, "enum": [member.value for member in kind]}


def _named(kind: type) -> Schema:
    paragraphs = (kind.__doc__ or "").split("\n\n")
    described = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()
    return {"title": kind.__name__, "description": described}


def _bound(base: Any, note: object) -> Iterable[tuple[str, object]]:
    match note:
        case Range(low, high):
            return ("minimum", low), ("maximum", high)
        case Length(shortest, longest):
            least, most = _LENGTHS[get_origin(base) or base]
            return (least, shortest), (most, longest)
        case Pattern(regex):
            return (("pattern", f"^(?:{regex})$"),)
        case Since():
            return ()
    raise TypeError(f"{note} cannot be described for JSON")
