"""The greeting with which either end begins a dialogue."""

from __future__ import annotations

import xenmoved
from protocol.messages import (
    CAPABILITIES,
    VERSION,
    Hello,
)


def hello(node: str) -> Hello:
    """Return this release's greeting."""
    return Hello(VERSION, f"xenmoved {xenmoved.__version__}", node, CAPABILITIES)
