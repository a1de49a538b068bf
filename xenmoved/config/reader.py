"""Builds configuration objects from plain data, finding every problem and not only the first."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Union, get_args, get_origin

from protocol.errors import SchemaError
from protocol.schema import Length, Pattern, Range, build, type_name
from xenmoved.config.errors import ConfigProblem
from xenmoved.config.fields import NAME_PATTERN, Parsed
from xenmoved.config.yamlfile import Document, KeyPath


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads parts of one document. Where a part is wrong, `problems` grows and None is returned."""

    document: Document
    problems: list[ConfigProblem]

    def refuse(self, path: KeyPath, reason: str) -> None:
        """Note a problem."""
        self.problems.append(self.document.problem(path, reason))

    def check_name(self, name: str, path: KeyPath) -> bool:
        """Tell whether a key can name a peer or pool, and note the problem if it cannot."""
        if re.fullmatch(NAME_PATTERN.regex, name):
            return True
        self.refuse(path, f"must be {NAME_PATTERN.what}")
        return False

    def map(self, data: object, path: KeyPath) -> dict[str, Any]:
        """Return a map; a section of which every line is a comment is an empty one."""
        if isinstance(data, dict):
            return data
        if data is not None:
            self.refuse(path, f"must be a map, not {type_name(data)}")
        return {}

    def fields(
        self,
        kind: type,
        data: object,
        path: KeyPath,
        *,
        besides: Collection[str] = (),
        kinds: Mapping[Any, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Return those arguments for the dataclass `kind` that are in `data` and right.

        Keys in `besides` are left to the caller; `kinds` has declarations to be read as others.
        """
        hints = typing.get_type_hints(kind, include_extras=True)
        declared = {f.name: f for f in dataclasses.fields(kind) if f.name not in besides}
        section = self.map(data, path)
        found: dict[str, Any] = {}
        for key, item in section.items():
            if key in declared:
                found[key] = self.value(kinds.get(hints[key], hints[key]), item, (*path, key))
            elif key not in besides:
                self.refuse((*path, key), _unknown_key(key, [*declared, *besides]))
        for name, declaration in declared.items():
            if (
                name not in section
                and declaration.default is dataclasses.MISSING
                and declaration.default_factory is dataclasses.MISSING
            ):
                self.refuse((*path, name), "missing")
        return found

    def value(self, kind: Any, data: object, path: KeyPath) -> Any:
        """Return a value of the declared kind."""
        notes: tuple[object, ...] = ()
        if get_origin(kind) is Annotated:
            kind, *rest = get_args(kind)
            notes = tuple(rest)
        parsed = next((note for note in notes if isinstance(note, Parsed)), None)
        if parsed is not None:
            return self._parsed(parsed, notes, data, path)
        if get_origin(kind) in (Union, types.UnionType):
            (inner,) = (member for member in get_args(kind) if member is not types.NoneType)
            return None if data is None else self.value(inner, data, path)
        if dataclasses.is_dataclass(kind):
            before = len(self.problems)
            arguments = self.fields(typing.cast(type, kind), data, path)
            return typing.cast(Any, kind)(**arguments) if len(self.problems) == before else None
        if get_origin(kind) is tuple and isinstance(data, list):
            item_kind = get_args(kind)[0]
            return tuple(
                self.value(item_kind, item, (*path, index)) for index, item in enumerate(data)
            )
        return self._plain(Annotated[kind, *notes] if notes else kind, data, path)

    def _parsed(
        self, parsed: Parsed, notes: tuple[object, ...], data: object, path: KeyPath
    ) -> Any:
        try:
            value = parsed.parse(data)
        except ValueError as error:
            self.refuse(path, str(error))
            return None
        bounds = tuple(note for note in notes if isinstance(note, Range | Length | Pattern))
        if bounds:
            self._plain(Annotated[type(value), *bounds], value, path)
        return value

    def _plain(self, kind: Any, data: object, path: KeyPath) -> Any:
        try:
            return build(kind, data, lenient=True)
        except SchemaError as error:
            reason = error.reason
            if kind is bool:
                reason += ": write true or false"
            elif isinstance(data, bool | int | float) and reason.startswith("must be a string"):
                reason += ": put it in quotes"
            self.refuse((*path, *error.path), reason)
            return None


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"unknown key, perhaps {close[0]!r} is meant"
    return f"unknown key (known: {', '.join(known)})"
