"""What the disks of a domain were when it was saved to a file that ends it.

Restored from that file, a domain opens its disks by their paths again. Where one leads to something
else by then (`mv`, another link, another device), its memory would go on with another disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from storage.backing import backing_of, compare_backings
from storage.contracts import Backing
from storage.errors import StorageError
from xenmoved.files import write_file
from xenmoved.toolstack.durable import boot_id, in_thread

_BOOT: Final = "boot"


class SavedDisks:
    """A note of a domain's disks, in a file beside its image."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def note(self, disks: Mapping[str, Backing]) -> None:
        """Write down what the disks are, by path: what the domain has, wherever that leads now."""
        noted = {"disks": {path: asdict(one) for path, one in disks.items()}}
        await in_thread(write_file, self.file, json.dumps({_BOOT: boot_id(), **noted}))

    async def difference(self) -> str | None:
        """Tell which path does not lead to what was noted; None if all do, or nothing was noted.

        After the host was started anew devices have other numbers, and only sizes can be compared.
        """
        return await in_thread(self._difference)

    def _difference(self) -> str | None:
        try:
            noted = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        same_boot = noted[_BOOT] == boot_id()
        for path, fields in noted["disks"].items():
            then = Backing(**fields)
            try:
                now = backing_of(path)
                compare_backings(path, then if same_boot else replace(now, size=then.size), now)
            except StorageError as error:
                return str(error)
        return None
