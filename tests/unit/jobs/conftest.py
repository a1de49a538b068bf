"""The jobs of a daemon with a journal of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from xenmoved.jobs.board import JobBoard
from xenmoved.journal.database import Journal


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[JobBoard]:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    yield JobBoard(journal)
    await journal.close()
