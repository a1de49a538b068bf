"""Space that is kept for the journal on a file system that others may fill."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

RESERVED: Final = 512 * 1024
"""Bytes: some hundred records of a few pages each."""


class Reserve:
    """A file with real blocks, which is removed when its space is needed. Blocks; never raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.there = False
        """Whether the space was kept when it was last looked at."""

    def make(self) -> None:
        """Take the space, unless it is kept already or there is too little."""
        with suppress(OSError):
            if self._path.stat().st_size == RESERVED:
                self.there = True
                return
        partial = self._path.with_name(f"{self._path.name}.new")
        try:
            # What cannot be compressed or shared, so that its blocks are real everywhere.
            with partial.open("wb") as file:
                file.write(os.urandom(RESERVED))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            self.there = True
        except OSError as error:
            self.there = False
            log.debug("no space is kept for the journal: %s", error)
            with suppress(OSError):
                partial.unlink()

    def give(self) -> bool:
        """Free the space; return whether there was any."""
        self.there = False
        try:
            self._path.unlink()
        except OSError:
            return False
        log.warning("the file system of the journal is full: its reserve is used")
        return True
