"""Which processes there are."""

from __future__ import annotations

from pathlib import Path


def start_time(process: int) -> int | None:
    """Return when a process was started, in the kernel's ticks, or None when it is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])
