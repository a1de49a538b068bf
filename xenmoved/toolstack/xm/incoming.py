"""A stream becomes a domain, with xend: a spool file, then `xm restore -p`.

xend opens the disks while it restores, so the file is complete before it starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from xenmoved.files import sync_folder
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.durable import in_thread
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.lookup import Lookup
from xenmoved.toolstack.paused import PausedIncoming
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xm.savefile import XmImageFilter, image_limit
from xenmoved.toolstack.xm.sexpr import child_value, parse_all
from xenmoved.units import format_size


def read_list(text: str) -> list[tuple[str, str, str]]:
    """Read names, ids and uuids of domains from `xm list -l`."""
    return [
        (
            child_value(one, "name") or "",
            child_value(one, "domid") or "",
            normal_uuid(child_value(one, "uuid")),
        )
        for one in parse_all(text)
    ]


class XmIncoming(PausedIncoming):
    """`IncomingImage` of `xm`."""

    verb: ClassVar[str] = "restore"
    build_timeout: ClassVar[float] = 1800.0
    logs: ClassVar[str] = "/var/log/xen/xend.log"

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        arrival: Arrival,
        spool: Path,
        *,
        boot_folders: Readable,
        is_block: Callable[[str], bool],
    ) -> None:
        file = f"{arrival.name}.{migration}.xmrestore"
        super().__init__(lookup, migration, arrival, spool, file=file, read=read_list)
        self._filter = XmImageFilter(arrival, boot_folders, is_block)
        self._descriptor = -1
        self._written = 0

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the guest comes without."""
        return tuple(self._filter.left_out)

    async def start(self) -> None:
        """Begin to receive."""
        if self._descriptor >= 0:
            raise ToolstackError(f"receiving domain {self._arrival.name} was started already.")
        await self._get_ready()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._file, flags, 0o600)
        except OSError as error:
            raise ToolstackError(f"cannot write {self._file}: {error.strerror}.") from error

    def _write(self, data: bytes | memoryview) -> None:
        rest = [memoryview(piece) for piece in self._filter.feed(data)]
        self._written += sum(piece.nbytes for piece in rest)
        self._require_room()
        for piece in rest:
            while piece:
                piece = piece[os.write(self._descriptor, piece) :]  # noqa: PLW2901

    def _require_room(self) -> None:
        """See that no more comes than was announced: it lies in a file here. ToolstackError."""
        announced = self._arrival.announced
        size = announced.size if announced is not None else self._filter.size
        if size is not None and self._written > (limit := image_limit(size)):
            raise ToolstackError(
                f"the image of domain {self._arrival.name} has more than {format_size(limit)}, and "
                f"the domain {format_size(size.memory)} of memory."
            )

    async def _on_file(self, function: Callable[..., None], *arguments: object) -> None:
        if self._descriptor < 0:
            raise ToolstackError(f"receiving domain {self._arrival.name} was not started.")
        try:
            await in_thread(function, *arguments)
        except OSError as error:
            raise ToolstackError(
                f"cannot write {self._file}: {error.strerror}. It takes as much room as the "
                "domain has memory."
            ) from error

    async def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the image."""
        await self._on_file(self._write, data)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        sync_folder(self._spool)

    async def build(self) -> None:
        """Restore the domain, paused."""
        if self._built:
            return
        if not self._filter.configured:
            raise ToolstackError(f"the image of domain {self._arrival.name} is incomplete.")
        await in_thread(self._filter.judge_again)
        await self._on_file(self._sync)
        await self._build()

    async def _clean(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        await super()._clean()
