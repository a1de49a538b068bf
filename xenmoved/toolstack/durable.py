"""What drivers remember of a migration across a crash of the host, in small files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from xenmoved.files import unlink_files, write_file
from xenmoved.tasks import wait_through
from xenmoved.toolstack.interface import ToolstackError

T = TypeVar("T")

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def check_migration(migration: str) -> str:
    """Return `migration` when it can be part of a file name. Raises ToolstackError."""
    if _IDENTIFIER.fullmatch(migration) is None:
        raise ToolstackError(f"{migration[:128]!r} cannot be the id of a migration.")
    return migration


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run a blocking function in a thread, to its end: a cancellation is held back until then.

    Otherwise it would go on by itself and undo what is done after the cancellation.
    """
    return await wait_through(asyncio.to_thread(function, *arguments))


async def remove_files(*paths: Path) -> None:
    """Remove what exists of these files, durably when this returns."""
    await in_thread(unlink_files, *paths)


def boot_id() -> str:
    """Identify this boot of the host, "" where the kernel does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Ledger:
    """What a driver must remember of one migration across crashes: one word, and when it booted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[str, bool]:
        """Read the word, "" when none was written, and whether it is from this boot of the host."""
        try:
            word, _, boot = self.path.read_text().strip().partition(" ")
        except FileNotFoundError:
            return "", True
        return word, boot == boot_id()

    def read_with_domain(self) -> tuple[str, int | None, bool]:
        """Read a word with the id of a domain behind a colon, if there is one of this boot.

        Earlier releases wrote no id. That of another boot is of no domain now.
        """
        text, this_boot = self.read()
        word, _, domid = text.partition(":")
        return word, int(domid) if domid.isdecimal() and this_boot else None, this_boot

    async def write(self, word: str) -> None:
        """Remember a word, durably when this returns."""
        await in_thread(write_file, self.path, f"{word} {boot_id()}\n")
