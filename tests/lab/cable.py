"""The network between the two hosts: broken, healed and slowed.

    python -m tests.lab.cable FOLDER cut|heal

FOLDER is that of a lab which runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.lab import qmp

DEVICE: Final = "cable"
NODES: Final = ("host-a", "host-b")


def ends(folder: Path, node: str) -> tuple[Path, Path]:
    """Sockets of one end of the cable: its own, and that of the other end."""
    own, other = (folder / f"{name}.cable" for name in (NODES if node == NODES[0] else NODES[::-1]))
    return own, other


def netdev(folder: Path, node: str) -> str:
    """QEMU's option for one end. Frames are datagrams: either side may come and go."""
    own, other = ends(folder, node)
    return (
        f"dgram,id={DEVICE},local.type=unix,local.path={own},remote.type=unix,remote.path={other}"
    )


def cut(folder: Path) -> None:
    """Lose every frame from now on, in both directions."""
    _set_link(folder, False)


def heal(folder: Path) -> None:
    """Let frames pass again."""
    _set_link(folder, True)


def _set_link(folder: Path, up: bool) -> None:
    for node in NODES:
        qmp.execute(folder / f"{node}.qmp", "set_link", name=DEVICE, up=up)


def slowing(rate: str, delay: str) -> str:
    """Shell command of a host that bounds what it sends to `rate` (of tc: 8mbit), `delay` late."""
    return f"tc qdisc replace dev eth1 root netem rate {rate} delay {delay} limit 2000"


UNSLOWED: Final = "tc qdisc del dev eth1 root 2>/dev/null || true"

if __name__ == "__main__":
    {"cut": cut, "heal": heal}[sys.argv[2]](Path(sys.argv[1]))
