"""How things that go wrong reach an operator: a code, a text and what to do next.

JobError            carries the problems that ended a piece of work
├── Refused         found beforehand: nothing was changed
├── PeerFailed      the other host says why it cannot go on
└── AbortRequested  the operator ended the job
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.errors import ProtocolError
from protocol.messages import Problem
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    VolumeExists,
    VolumeFull,
    VolumeInUse,
    VolumeNotFound,
)
from xenmoved.link.errors import (
    LinkError,
    LinkLost,
    NotAuthorized,
    PeerUnreachable,
    WrongHostKey,
)
from xenmoved.sync.source import VerificationFailed
from xenmoved.toolstack.interface import DomainNotFound, StartFailed, ToolstackError

_LIMIT: Final = 4000

_CODES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (VolumeFull, "volume-full"),
    (PoolFull, "pool-full"),
    (VolumeInUse, "volume-in-use"),
    (VolumeNotFound, "volume-missing"),
    (VolumeExists, "volume-exists"),
    (InvalidVolumeName, "volume-name"),
    (StorageError, "storage"),
    (WrongHostKey, "wrong-host-key"),
    (NotAuthorized, "not-authorized"),
    (PeerUnreachable, "peer-unreachable"),
    (LinkLost, "link-lost"),
    (LinkError, "link"),
    (ProtocolError, "protocol"),
    (VerificationFailed, "verification-failed"),
    (DomainNotFound, "guest-unknown"),
    (StartFailed, "start-failed"),
    (ToolstackError, "toolstack"),
    (OSError, "system"),
)


class JobError(Exception):
    """A piece of work ended for these reasons."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.text for problem in self.problems))


class Refused(JobError):
    """Found beforehand: nothing was changed."""


class PeerFailed(JobError):
    """The other host says why it cannot go on."""


class AbortRequested(JobError):
    """The operator ended the job."""


def problem(code: str, text: str, hint: str = "") -> Problem:
    """Return a problem whose texts fit a message."""
    return Problem(code, text[:_LIMIT], hint[:_LIMIT])


def problems_of(error: BaseException) -> tuple[Problem, ...]:
    """Return what an exception (or group of them) means to an operator, most telling first.

    Of several errors at once, those that are only the consequence of a lost link come last.
    """
    leaves = list(_leaves(error))
    leaves.sort(key=lambda leaf: isinstance(leaf, LinkLost))
    found: list[Problem] = []
    for leaf in leaves:
        described = leaf.problems if isinstance(leaf, JobError) else (_describe(leaf),)
        found += [item for item in described if item not in found]
    return tuple(found)


def is_expected(error: BaseException) -> bool:
    """Whether all of an exception is of kinds that say what went wrong, not a bug of ours."""
    kinds: tuple[type[BaseException], ...] = (JobError, *(kind for kind, _ in _CODES))
    return all(isinstance(leaf, kinds) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _describe(error: BaseException) -> Problem:
    hint = error.hint if isinstance(error, LinkError) else ""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return problem(code, str(error) or kind.__name__, hint)
    return problem(
        "internal",
        f"internal error: {type(error).__name__}: {error}",
        "this is a mistake in xenmoved: please report it with the daemon's log",
    )
