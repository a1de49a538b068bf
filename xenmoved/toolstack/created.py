"""A domain that is created here from its configuration, as it was shut down at the source.

What starts it is the text that is installed when it has come: adapted to this host, and vetted, or
an operator's of this host where the peer's was only composed. It is built paused, and runs when the
hand-over says so, as one that comes with its memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from xenmoved.files import write_file
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.configs.text import uuid_in
from xenmoved.toolstack.durable import in_thread
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.lookup import Lookup
from xenmoved.toolstack.paused import PausedIncoming, Read


class CreatedIncoming(PausedIncoming):
    """`IncomingImage` without memory: `text` is what the peer has sent to start it from."""

    verb: ClassVar[str] = "create"
    build_timeout: ClassVar[float] = 600.0

    def __init__(
        self,
        lookup: Lookup,
        migration: str,
        arrival: Arrival,
        spool: Path,
        *,
        read: Read,
        configs: ConfigFolder,
        text: str,
    ) -> None:
        super().__init__(lookup, migration, arrival, spool, file=f"{migration}.cfg", read=read)
        self._configs = configs
        self._text = text

    @property
    def left_out(self) -> tuple[str, ...]:
        """Nothing: what its file comes without is remarked when that is installed."""
        return ()

    async def start(self) -> None:
        """See that it can be created here. Raises ToolstackError."""
        await self._get_ready()
        await self._adapted()

    async def _adapted(self) -> str:
        """Return the text that starts it here, as the very guest that it is."""
        text = await self._configs.text_for(self._arrival.name, self._text, self._arrival)
        return text if uuid_in(text) else f"{text.rstrip()}\nuuid = '{self._arrival.uuid}'\n"

    async def write(self, data: bytes | memoryview) -> None:
        """Refuse memory."""
        raise ToolstackError(
            f"domain {self._arrival.name} was announced as one that is started anew, and memory of "
            "it came."
        )

    async def build(self) -> None:
        """Create the domain, paused."""
        if self._built:
            return
        await in_thread(write_file, self._file, await self._adapted())
        await self._build()
