"""The end of a save: a write that a device model has under way is in the disk that moves."""

from __future__ import annotations

from typing import Final

import pytest

from tests.lab import guests, storage
from tests.lab.guests import BACKENDS, Guest
from tests.lab.host import Host
from tests.lab.pair import Pair, say
from tests.lab.test_moves import moves

_MOVES: Final = 20

_HOLD: Final = """
until pgrep -x libxl-save-help >/dev/null; do sleep 0.1; done
trap 'fsfreeze -u {folder}' EXIT
fsfreeze -f {folder}
for _ in $(seq 600); do
    state=$(xl list {guest} 2>/dev/null | awk 'NR == 2 {{ print $5 }}')
    case $state in *s*) break ;; esac
    sleep 0.2
done
sleep 5
echo "held with the state $state"
"""
"""Freezes the file system with a disk of the guest when its save begins, so that its device model
cannot end what it writes, until 5 s after the guest was suspended."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "save"])
def test_writes_that_a_device_model_ends_late(pair: Pair, mode: str) -> None:
    guest = guests.of_kind(pair.a, "emulated", "blkback")
    guest.create(pair.a)
    seq = guest.await_writes(pair.a, 0)
    for number in range(1, _MOVES // 2 + 1):
        source, target = (pair.a, pair.b) if number % 2 else (pair.b, pair.a)
        held = _hold(source, guest)
        moves(source, target, guest, f"{mode} {BACKENDS['blkback'].options}", seq)
        seq = guest.seq(target)
        said = source.run(f"cat {held}").stdout
        assert "held with the state" in said and "s" in said.rpartition(" ")[2], said
        say(f"move {number} of {_MOVES // 2}, {mode}: nothing is missing")
    guest.destroy(target)


def _hold(host: Host, guest: Guest) -> str:
    """Have the file system held at the next save, and return where it is told."""
    told = "/run/held"
    script = _HOLD.format(folder=storage.IMAGES, guest=guest.name)
    host.put("/run/hold.sh", script)
    host.run(f"rm -f {told}; systemd-run -q --collect bash -c 'bash /run/hold.sh > {told}'")
    return told
