"""Reads YAML into plain data, and remembers on which line everything was.

Scalars follow YAML 1.2, since the surprises of 1.1 (``off`` is false, ``010`` is eight, ``12:30``
is a number) have no place in a configuration. Duplicate keys, merge keys and tags are refused.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from protocol.errors import SchemaError
from xenmoved.config.errors import ConfigError, ConfigProblem

KeyPath = tuple[str | int, ...]

_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Document:
    """A file's plain data. `data` is an empty map for an empty file."""

    file: Path
    data: object
    lines: dict[KeyPath, int] = field(repr=False)

    def problem(self, path: KeyPath, reason: str) -> ConfigProblem:
        """Describe what is wrong at `path`, with the line of it or of what encloses it."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return ConfigProblem(self.file, self.lines.get(known), SchemaError(path, "").where, reason)


def read_yaml(file: Path, problems: list[ConfigProblem]) -> Document | None:
    """Read a file. What is wrong is added to `problems`; None when nothing of it can be used."""
    try:
        text = _read_protected(file)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document(file, {}, {})
        if node is None:
            return document
        builder = _Builder(loader, document, problems)
        return Document(file, builder.plain(node, ()), document.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        problems.append(ConfigProblem(file, line, "", f"is not valid YAML: {error.problem}"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        problems.append(ConfigProblem(file, None, "", f"is not valid YAML: {reason}"))
    return None


def check_protected(file: Path, status: os.stat_result) -> None:
    """Raise ConfigError if anybody may write a file or directory that decides what peers may do."""
    if status.st_mode & stat.S_IWOTH:
        reason = f"is writable by everybody; run: chmod o-w {file}"
        raise ConfigError([ConfigProblem(file, None, "", reason)])


def _read_protected(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            # The open file is asked, so that it cannot be exchanged between check and use.
            check_protected(file, os.fstat(stream.fileno()))
            return stream.read().decode()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    raise ConfigError([ConfigProblem(file, None, "", reason)])


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class declares it like this


for _tag, _regex, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("int", r"(?:0|-?[1-9][0-9]*)\Z", "-0123456789"),
    ("float", r"-?[0-9]+\.[0-9]+\Z", "-0123456789"),
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_regex), list(_first))


@dataclass(frozen=True, slots=True)
class _Builder:
    loader: _Loader
    document: Document
    problems: list[ConfigProblem]

    def plain(self, node: yaml.Node, path: KeyPath) -> object:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _DEEPEST:
            # An alias may stand for what contains it, so this is not only a matter of taste.
            self.problems.append(self.document.problem(path[:_DEEPEST], "is nested too deep"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._map(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self.problems.append(self.document.problem(path, f"cannot be read as {node.tag}"))
            return None

    def _map(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        data: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(path, line, "a key must be text")
                continue
            inner = (*path, key)
            if key in data:
                first = self.document.lines[inner]
                self._refuse(inner, line, f"is there twice (first on line {first})")
                continue
            self.document.lines[inner] = line
            data[key] = self.plain(value_node, inner)
        return data

    def _refuse(self, path: KeyPath, line: int, reason: str) -> None:
        where = SchemaError(path, "").where
        self.problems.append(ConfigProblem(self.document.file, line, where, reason))
