"""Which of the configuration files here is a guest's.

xl keeps no path of the file that a domain was created from, and several files may have a guest's
name in them: one for the installation beside one for daily use, or a copy of former times. What
tells is, the best first: what was noted while it could be seen, the process of `xl create` that
waits for the domain's end, the uuid, the entry of `auto`, and how the file is called. None is taken
because of where its name comes in the alphabet.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Final

from storage.places import places_at
from xenmoved.toolstack.configs.text import TEXT_LIMIT, named, own_disks, uuid_in
from xenmoved.toolstack.interface import ToolstackError

_PROC: Final = Path("/proc")


class Evidence(IntEnum):
    """Why a file is taken for a guest's, the weakest reason first."""

    SAID = 1
    CALLED = 2
    AT_BOOT = 3
    UUID = 4
    CREATED = 5
    NOTED = 6


_REASONS: Final = {
    Evidence.SAID: "the guest's name is in it",
    Evidence.CALLED: "it is called like the guest",
    Evidence.AT_BOOT: "the guest is started at boot from it",
    Evidence.UUID: "the guest's uuid is in it",
    Evidence.CREATED: "the guest was created from it",
    Evidence.NOTED: "the guest was held with it",
}


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A configuration file that is a guest's, or lies in its place.

    `name` and `uuid` are of the domain that it says it is for, None and "" where it does not tell.
    Its text has every byte of the file: those that are not UTF-8 as surrogates (PEP 383).
    """

    path: Path
    text: str
    name: str | None
    uuid: str
    evidence: frozenset[Evidence] = frozenset()
    changed: float = 0.0

    def is_of(self, name: str, uuid: str, disks: Collection[str] | None = None) -> bool | None:
        """Whether it is the file of the domain with this name and uuid, None if nothing tells.

        The name alone never does: where it says no uuid it is another domain's unless it names one
        of `disks`, the paths of those that this domain writes, where these are known.
        """
        if self.name not in (None, name):
            return False
        if self.uuid and uuid:
            return self.uuid == uuid
        if disks is None:
            return None
        return None if self.writes(disks) else False

    def writes(self, disks: Collection[str]) -> bool:
        """Whether its domain is certain to write one of these disks."""
        return not places_at(disks).isdisjoint(places_at(own_disks(self.text) or ()))

    def rank(self) -> tuple[Sequence[Evidence], float]:
        """Return what sorts files by how likely they are the guest's."""
        return sorted(self.evidence, reverse=True), self.changed

    def reason(self, other: GuestFile) -> str:
        """Say why this one is taken rather than the other."""
        more = self.evidence - other.evidence
        return _REASONS[max(more)] if more else "it was changed last"


def read_text(path: Path) -> str | None:
    """Text of a file with every byte of it, None without one. Raises ToolstackError."""
    try:
        with path.open("rb") as file:
            raw = file.read(TEXT_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ToolstackError(f"cannot read {path}: {error.strerror}.") from error
    if len(raw) > TEXT_LIMIT:
        raise ToolstackError(f"{path} is larger than {TEXT_LIMIT} bytes.")
    return raw.decode("utf-8", "surrogateescape")


def look_at(path: Path) -> GuestFile | None:
    """Look at what a path leads to, None where that is no file that can be read."""
    try:
        status = path.stat()
        text = read_text(path) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ToolstackError):
        return None
    if text is None:
        return None
    return GuestFile(path, text, named(text), uuid_in(text), changed=status.st_mtime)


def created_from(folder: Path, proc: Path = _PROC) -> set[str]:
    """Real paths of the files from which `xl create` made domains that are still here.

    The process that waits for a domain's end has the command line of the one that made it. It has
    left the folder where it was started: a relative path is taken for one below `folder`.
    """
    found: set[str] = set()
    for entry in proc.iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or entry.stat().st_uid != os.geteuid():
                continue
            words = [os.fsdecode(word) for word in (entry / "cmdline").read_bytes().split(b"\0")]
            verb = words.index("create") if "create" in words else 0
            if "xl" in map(os.path.basename, words[:verb]):
                given = (word.removeprefix("--defconfig=") for word in words[verb + 1 :])
                path = next((word for word in given if word and word[0] != "-"), None)
                found |= {os.path.realpath(folder / path)} if path is not None else set()
    return found


def find(
    name: str,
    uuid: str,
    paths: Iterable[Path],
    *,
    called: Collection[Path],
    at_boot: Collection[str],
    noted: Path | None,
    made: Callable[[], Collection[str]],
) -> list[GuestFile]:
    """Return the files among `paths` that are a guest's or in its place, the best first.

    `called` are the paths where its file belongs, `at_boot` the real paths to which the entries of
    `auto` lead. `made` is asked only when it can make a difference. Those that are another guest's
    come last. Raises ToolstackError when one of `called` cannot be read.
    """
    files: dict[str, GuestFile] = {}
    for path in paths:
        if (real := os.path.realpath(path)) in files:
            continue
        file = look_at(path)
        if file is None and path in called and path.is_file():
            read_text(path)  # raises
        if file is not None and (file.name == name or path in called):
            files[real] = file
    sure = len(files) < 2 and all(file.path in called for file in files.values())
    sources = () if sure else made()
    found: list[GuestFile] = []
    for real, file in files.items():
        reasons = {
            Evidence.SAID: file.name == name,
            Evidence.CALLED: file.path in called,
            Evidence.AT_BOOT: real in at_boot,
            Evidence.UUID: file.is_of(name, uuid) is True,
            Evidence.CREATED: real in sources,
            Evidence.NOTED: file.path == noted,
        }
        evidence = frozenset(reason for reason, holds in reasons.items() if holds)
        found.append(replace(file, evidence=evidence))
    found.sort(key=GuestFile.rank, reverse=True)
    found.sort(key=lambda file: file.is_of(name, uuid) is False)
    return found
