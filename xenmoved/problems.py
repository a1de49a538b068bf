"""How things that go wrong reach an operator: a code, a text and what to do next.

JobError            carries the problems that ended a piece of work
├── Obstructed      found beforehand: nothing was changed
├── PeerFailed      the other host says why it cannot go on
└── AbortRequested  the operator ended the job
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from protocol.errors import ProtocolError, ReleasesDiffer
from protocol.messages import Problem
from storage.errors import (
    InvalidVolumeName,
    PoolFull,
    StorageError,
    UnfitImage,
    UnsupportedVolume,
    VolumeExists,
    VolumeFull,
    VolumeInUse,
    VolumeNotFound,
    VolumeReplaced,
    VolumeResized,
    VolumeWritten,
)
from xenmoved.codes import LINK_LOST, code_of_peer
from xenmoved.journal.database import JournalFailed
from xenmoved.link.errors import (
    LinkError,
    LinkLost,
    NotAuthorized,
    NotTrusted,
    PeerUnreachable,
    WrongHostKey,
)
from xenmoved.sync.source import VerificationFailed
from xenmoved.tasks import TookTooLong
from xenmoved.toolstack.interface import (
    DomainNotFound,
    NotAnnounced,
    StartFailed,
    ToolstackError,
    ToolstackStalled,
)

_LIMIT: Final = 4000

_LOGS: Final = "look at /var/log/xen and the log of xenmoved on that host"
_AS_IT_IS: Final = "start it again: it then sends what is there now"
_SPACE: Final = "make space there, or choose another pool with --pool"

_KINDS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (VolumeFull, "volume-full", _SPACE),
    (PoolFull, "pool-full", _SPACE),
    (VolumeReplaced, "disk-replaced", _AS_IT_IS),
    (VolumeResized, "disk-resized", _AS_IT_IS),
    (VolumeInUse, "volume-in-use", "only a volume that nobody uses can be written"),
    (
        VolumeWritten,
        "volume-written",
        "see which program that was, and keep it off the volume; nothing was lost: try again",
    ),
    (VolumeNotFound, "volume-missing", "xenmovectl list shows the disks of guests"),
    (VolumeExists, "volume-exists", "rename or remove it there"),
    (InvalidVolumeName, "volume-name", "rename it"),
    (UnsupportedVolume, "volume-kind", "only regular files and block devices can be sent"),
    (UnfitImage, "image", "it must be of the format in the guest's configuration, and stand alone"),
    (StorageError, "storage", "look at that disk, and at the kernel's log of its host"),
    (WrongHostKey, "wrong-host-key", ""),
    (NotAuthorized, "not-authorized", ""),
    (
        PeerUnreachable,
        "peer-unreachable",
        "check that xenmoved runs there, its address and port, and the firewall between",
    ),
    (LinkLost, LINK_LOST, "check the network and the log of the other host, then try again"),
    (LinkError, "link", "look at the log of xenmoved on the other host"),
    (ProtocolError, "protocol", "see that both hosts have the same release of xenmoved"),
    (
        VerificationFailed,
        "verification-failed",
        "a disk or the memory of one of the two hosts cannot be trusted: look at their logs",
    ),
    (DomainNotFound, "guest-unknown", "xenmovectl list shows the guests of this host"),
    (StartFailed, "start-failed", _LOGS),
    (
        ToolstackStalled,
        "stalled",
        "see what that process waits for, and /var/log/xen; timeouts.stall sets this limit",
    ),
    (
        NotAnnounced,
        "not-announced",
        "if it was changed meanwhile, have it moved again, as it is now; it goes on where it was",
    ),
    (ToolstackError, "toolstack", _LOGS),
    (TookTooLong, "timeout", "look what keeps it, and at the logs of xenmoved on both hosts"),
    (
        JournalFailed,
        "journal",
        "make space there, or mend its disk: xenmoved goes on by itself when it can write again",
    ),
    (OSError, "system", "look at the log of xenmoved"),
)
"""Kinds of errors, the most special first, with their codes and what to do."""


class JobError(Exception):
    """A piece of work ended for these reasons."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.text for problem in self.problems))


class Obstructed(JobError):
    """Found beforehand: nothing was changed."""


class PeerFailed(JobError):
    """The other host says why it cannot go on."""


class AbortRequested(JobError):
    """The operator ended the job."""


def from_peer(untrusted_problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return what a peer has to object, with codes that nothing here acts upon."""
    return tuple(replace(one, code=code_of_peer(one.code)) for one in untrusted_problems)


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
    """Whether all of an exception is of kinds that say what went wrong, not a bug of ours.

    One without a text says nothing, whatever its kind, and belongs into the log with its traceback.
    """
    kinds: tuple[type[BaseException], ...] = (JobError, *(kind for kind, _, _ in _KINDS))
    return all(isinstance(leaf, kinds) and str(leaf) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _describe(error: BaseException) -> Problem:
    if isinstance(error, ReleasesDiffer):
        return _differing(error)
    if isinstance(error, NotTrusted):
        return problem(error.code, str(error), error.hint)
    own = error.hint if isinstance(error, LinkError) else ""
    for kind, code, hint in _KINDS:
        if isinstance(error, kind) and str(error):
            return problem(code, str(error), own or hint)
    return problem(
        "internal",
        f"internal error: {type(error).__name__}: {str(error) or f'in {_place(error)}'}",
        "this is a mistake in xenmoved: please report it with the daemon's log",
    )


def _differing(error: ReleasesDiffer) -> Problem:
    """Say which of two hosts is to be upgraded, and to what."""
    older = error.peer_is_older
    upgrade = f"upgrade xenmoved on {error.peer if older else 'this host'} to a release"
    hint = f"{upgrade} {error.needed}; a guest in doubt between the two is settled nevertheless"
    return problem("peer-too-old" if older else "peer-too-new", error.reason, hint)


def _place(error: BaseException) -> str:
    """Return where in the program an exception came up, for one that has no text."""
    frames = traceback.extract_tb(error.__traceback__)
    return " from ".join(f"{PurePath(one.filename).name}:{one.lineno}" for one in frames[:-4:-1])
