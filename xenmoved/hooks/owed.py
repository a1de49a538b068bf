"""What is still to be run for a job, across restarts: one small file for each.

It is written when the hooks of a job are asked for the first time, so that it is known what they
were told, and says that it is owed as soon as it is decided what became of the guest: before that
is settled in the journal. It goes when the hooks have run. These files decide nothing; they are
not in the journal, whose layout an earlier release would refuse because of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import SchemaError
from protocol.schema import build, plain
from xenmoved.files import unlink_files, write_file
from xenmoved.hooks.about import HookInput
from xenmoved.tasks import all_done, retrieve

log = logging.getLogger(__name__)

_FILE: Final = re.compile(r"([0-9a-f]{8})\.json")
_PATIENCE: Final = 10.0
"""Seconds for a file system that does not answer: hooks must not keep a guest waiting."""


@dataclass(frozen=True, slots=True)
class OwedHooks:
    """What a job told its hooks last, and whether that is still to be told."""

    about: HookInput
    owed: bool


class OwedStore:
    """The files. Nothing here raises: what cannot be kept is told in the log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, job: str, owed: OwedHooks, needed: Callable[[], bool]) -> None:
        """Write down what a job tells its hooks, where that is `needed`, which may block."""

        def work() -> None:
            if not needed():
                return
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(self._file(job), json.dumps(plain(owed)))

        await self._do(work, f"what the hooks of job {job} are told is not written down")

    async def forget(self, job: str) -> None:
        """Remove what was written down of a job."""
        what = f"{self._file(job)} is not removed: its hooks may be run once more"
        await self._do(lambda: unlink_files(self._file(job)), what)

    async def all(self) -> dict[str, OwedHooks]:
        """Return what is written down, by job; what cannot be used stays, and is logged."""
        return await asyncio.to_thread(self._all)

    def _file(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def _all(self) -> dict[str, OwedHooks]:
        found: dict[str, OwedHooks] = {}
        try:
            files = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        except OSError as error:
            log.error("hooks that are still to be run cannot be read: %s", error)
            return {}
        for file in files:
            match = _FILE.fullmatch(file.name)
            try:
                if match is None:
                    file.unlink()  # half-written
                    continue
                found[match[1]] = build(OwedHooks, json.loads(file.read_text()))
            except (OSError, ValueError, SchemaError) as error:
                log.error("%s cannot be used, its hooks are not run: %s", file, error)
        return found

    async def _do(self, work: Callable[[], None], failed: str) -> None:
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(retrieve)
        if not await all_done([task], _PATIENCE):
            log.error("%s: the file system did not answer within %g s", failed, _PATIENCE)
        elif (error := task.exception()) is not None:
            log.error("%s: %s", failed, error)
