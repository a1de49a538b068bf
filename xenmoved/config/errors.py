"""Errors of the configuration: each says where, what is wrong and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong. `line` and `key` are left out where there are none."""

    file: Path
    line: int | None
    key: str
    reason: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.reason) if part)


def _in_reading_order(problem: ConfigProblem) -> tuple[int, str, int]:
    # The main file lies less deep than those of single peers, so that it comes first.
    return len(problem.file.parts), str(problem.file), problem.line or 0


class ConfigError(Exception):
    """The configuration cannot be used. `problems` are all that were found, one line each."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(sorted(problems, key=_in_reading_order))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PeerExists(ConfigError):
    """A peer of that name is already configured."""


class PeerNotFound(ConfigError):
    """No file of its own defines that peer."""
