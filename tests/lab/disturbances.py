"""What may happen to two hosts while a guest moves, and how it is put right again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.lab import storage
from tests.lab.host import Host
from tests.lab.pair import Pair

DISTURBANCES: Final = (
    "source killed",
    "target killed",
    "network cut",
    "pool full",
    "target reset",
)

_KILL: Final = "kill -9 $(systemctl show -P MainPID xenmoved)"
_FILLER: Final = f"{storage.IMAGES}/filler"
_FILL: Final = f"fallocate -l $(df --output=avail -B1 {storage.IMAGES} | tail -1) {_FILLER} || true"


def disturb(pair: Pair, what: str, source: Host, target: Host) -> None:
    """Have one of them happen, now; a daemon that is killed is one that runs."""
    deeds: dict[str, Callable[[], object]] = {
        "source killed": lambda: source.run(_KILL),
        "target killed": lambda: target.run(_KILL),
        "network cut": pair.cut,
        "pool full": lambda: target.run(_FILL),
        "target reset": target.reset,
    }
    deeds[what]()


def mend(pair: Pair, target: Host) -> None:
    """Put everything right again; systemd starts daemons that were killed."""
    pair.heal()
    target.wait()
    target.run(f"rm -f {_FILLER}")
