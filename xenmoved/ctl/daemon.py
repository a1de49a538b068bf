"""Requests to the daemon. Each has a connection of its own; a refusal becomes a `CommandError`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.errors import SchemaError
from protocol.messages import Problem
from protocol.schema import build, plain
from xenmoved.control.api import Failure, WatchJob
from xenmoved.control.client import AccessDenied, ControlClient, DaemonUnavailable
from xenmoved.control.evacuation_api import WatchEvacuation
from xenmoved.ctl.exits import CommandError, Exit

T = TypeVar("T")

QUICK: Final = 30.0
"""Seconds in which the daemon answers whatever it need ask nobody else about."""
_SILENCE: Final = 60.0
_DENIED: Final = "access-denied"
"""Code of the problem with which the daemon turns a user away."""


class RunningDaemon:
    """The daemon at a control socket. Every method raises `CommandError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(
        self,
        request: object,
        expected: type[T],
        *,
        timeout: float | None = QUICK,
        refusal: Exit = Exit.FAILED,
    ) -> T:
        """Return the answer. `refusal` is the exit code when there is a `Failure` instead.

        Without a `timeout` (in seconds) it waits for as long as the daemon is there.
        """
        _check(request)
        try:
            with ControlClient(self._path, timeout) as client:
                answer = client.ask(request)
        except DaemonUnavailable as error:
            raise unavailable(error) from None
        return _expect(answer, expected, refusal)

    def watch(self, request: WatchJob | WatchEvacuation, expected: type[T]) -> Iterator[T]:
        """Yield reports until the daemon hangs up. The one of what has ended is the last."""
        _check(request)
        try:
            with ControlClient(self._path, request.interval + _SILENCE) as client:
                for answer in client.watch(request):
                    yield _expect(answer, expected, Exit.FAILED)
        except DaemonUnavailable as error:
            raise unavailable(error) from None


def unavailable(error: DaemonUnavailable) -> CommandError:
    """Return what it means for the command that the daemon cannot be reached."""
    if isinstance(error, AccessDenied):
        return CommandError(Exit.DENIED, (_DENIED, str(error), ""))
    return CommandError(Exit.UNREACHABLE, ("daemon-unreachable", str(error), ""))


def fields_of(problem: Problem) -> tuple[str, str, str]:
    """Return code, text and hint."""
    return problem.code, problem.text, problem.hint


def _check(request: object) -> None:
    """Find values that the daemon would hang up on, while it can still be said which."""
    try:
        build(type(request), plain(request))
    except SchemaError as error:
        raise CommandError(Exit.USAGE, ("usage", str(error), "")) from None


def _expect(answer: Any, expected: type[T], refusal: Exit) -> T:
    if isinstance(answer, Failure):
        denied = any(problem.code == _DENIED for problem in answer.problems)
        raise CommandError(Exit.DENIED if denied else refusal, *map(fields_of, answer.problems))
    if not isinstance(answer, expected):
        text = f"xenmoved gave an answer to another question: {type(answer).__name__}"
        hint = "is it of the same release as xenmovectl? see: xenmovectl --version"
        raise CommandError(Exit.UNREACHABLE, ("unexpected-answer", text, hint))
    return answer
