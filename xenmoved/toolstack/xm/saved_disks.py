"""What the disks of a domain were when it was saved to a file that ends it.

Restored from that file, a domain opens its disks by their paths again. Where one leads to something
else by then (`mv`, another link, another device), its memory would go on with another disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from storage.backing import backing_of, compare_backings
from storage.contracts import Backing
from storage.errors import StorageError
from xenmoved.toolstack.durable import boot_id, in_thread, write_file
from xenmoved.toolstack.interface import Disk, ToolstackError

_BOOT: Final = "boot"


class SavedDisks:
    """A note of a domain's disks, in a file beside its image."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def note(self, disks: Iterable[Disk]) -> None:
        """Write down what the disks are now. Raises ToolstackError."""
        await in_thread(self._note, [disk.path for disk in disks if disk.path.startswith("/")])

    def _note(self, paths: list[str]) -> None:
        try:
            found = {path: backing_of(path) for path in paths}
        except StorageError as error:
            raise ToolstackError(str(error)) from error
        disks = {path: asdict(one) for path, one in found.items()}
        write_file(self.file, json.dumps({_BOOT: boot_id(), "disks": disks}))

    async def require_same(self, domain: str, image: Path) -> None:
        """See that the paths lead to what was noted, if anything was. Raises ToolstackError.

        After the host was started anew devices have other numbers, and only sizes can be compared.
        """
        await in_thread(self._require_same, domain, image)

    def _require_same(self, domain: str, image: Path) -> None:
        try:
            noted = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        same_boot = noted[_BOOT] == boot_id()
        for path, fields in noted["disks"].items():
            then = Backing(**fields)
            try:
                now = backing_of(path)
                compare_backings(path, then if same_boot else replace(now, size=then.size), now)
            except StorageError as error:
                raise ToolstackError(
                    f"domain {domain} is saved in {image}, and not restored: {error}. Put back "
                    "what was there: it is tried again. If it is the disk that the domain had, "
                    "and only came back as another device (a volume that was activated again), "
                    f"restore it by hand: xm restore {image}"
                ) from error
