"""What concerns all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later search for garbage."""
    gc.collect()
    gc.freeze()
