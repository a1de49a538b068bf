"""Whose something is that lasts longer than who asked for it: its name says so.

Names begin with a process and its start time. Sockets are known by the kernel's list of those at
which somebody listens: to connect would be to say something.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Final

from storage.processes import start_time

_NAME: Final = re.compile(r"xenmoved-(?P<process>\d+)-(?P<started>\d+)-.+")
_SOCKETS: Final = Path("/proc/net/unix")
_ACCEPTING: Final = 1 << 16  # __SO_ACCEPTCON

_numbers = itertools.count(1)


def own_prefix() -> str:
    """Return how all names of this process begin."""
    process = os.getpid()
    return f"xenmoved-{process}-{start_time(process)}-"


def own_name() -> str:
    """Return a name of this process that nothing else has."""
    return f"{own_prefix()}{next(_numbers)}"


def is_orphan(name: str) -> bool:
    """Whether a name is of a process of this program that is gone."""
    match = _NAME.fullmatch(name)
    return match is not None and start_time(int(match["process"])) != int(match["started"])


def listening() -> set[str]:
    """Return the names of all sockets at which processes listen, as they call them."""
    lines = _SOCKETS.read_text(errors="replace").splitlines()[1:]
    found = (line.split(maxsplit=7) for line in lines)
    return {words[7] for words in found if len(words) > 7 and int(words[3], 16) & _ACCEPTING}


def is_listening(path: Path) -> bool:
    """Whether a process listens at a socket."""
    return str(path) in listening()


def stale_sockets(folder: Path, suffix: str) -> list[Path]:
    """Return the sockets in a folder that were made for processes that are gone.

    Those of a QEMU with another root are not seen there, and known all the same.
    """
    known = {Path(path) for path in listening()} | set(folder.glob(f"xenmoved-*{suffix}"))
    ours = [path for path in known if path.parent == folder and path.name.endswith(suffix)]
    return sorted(path for path in ours if is_orphan(path.name))
