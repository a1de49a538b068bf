"""The greeting with which either end begins a dialogue."""

from __future__ import annotations

import xenmoved
from protocol.messages import Hello, greeting


def hello(node: str) -> Hello:
    """Return this release's greeting."""
    return greeting(f"xenmoved {xenmoved.__version__}", node)
