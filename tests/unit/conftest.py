"""What unit tests of several packages use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from xenmoved.journal.database import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """Return an open journal with nothing in it."""
    opened = Journal(tmp_path / "journal.db")
    await opened.open()
    yield opened
    await opened.close()
