"""What a guest has changes while it is copied, as operators do it: it stays, and runs on."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

from tests.lab import guests, moving, storage
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import Pair, say

_PATIENCE: Final = 600.0

_LARGER: Final = {
    "images": "truncate -s 96M {path} && losetup -c $(losetup -nO name -j {path})",
    "plain": "lvextend -q -L 96M {path}",
    "thin": "lvextend -q -L 96M {path}",
    "zvols": f"zfs set volsize=96M {storage.ZVOLS}/{{name}}",
}
"""How the disk of a running guest is enlarged."""


def in_phase(host: Host, guest: Guest, phase: str) -> None:
    """Wait until the job of a guest is in a phase."""
    deadline = time.monotonic() + _PATIENCE
    while (report := moving.job(host, guest))["phase"] != phase:
        assert report["state"] == "running", report
        assert time.monotonic() < deadline, report
        time.sleep(1)


def ended(host: Host, guest: Guest) -> dict[str, Any]:
    """Wait until the job of a guest has ended, and return its record."""
    deadline = time.monotonic() + _PATIENCE
    while (report := moving.job(host, guest))["state"] == "running":
        assert time.monotonic() < deadline, report
        time.sleep(1)
    return report


def stays(pair: Pair, guest: Guest, change: str, *codes: str) -> None:
    """Change something while a guest is held, then have it move: assert that it stays for that.

    `codes` are those that may be given, by the moment at which it is seen.
    """
    seq = guest.await_writes(pair.a, 0)
    pair.a.run(f"xenmovectl migrate {guest.name} host-b --hold --detach --overwrite")
    in_phase(pair.a, guest, "hold")
    pair.a.run(change)
    pair.a.run(f"xenmovectl cutover {guest.name}", check=False)
    report = ended(pair.a, guest)
    say(f"{change}: {report['problem']}")
    assert report["state"] == "failed"
    assert report["problem"]["code"] in codes
    assert moving.owner(pair, guest) is pair.a
    guest.await_writes(pair.a, guest.await_writes(pair.a, seq), verified=True)
    assert guest.name not in pair.b.run("xl list").stdout


def on_kind(host: Host, kind: str) -> Guest:
    """A guest with one disk of a kind."""
    path = storage.make(host, kind, f"kinds-{kind}", 64)
    host.run(f"mkfs.ext4 -q -F {path}")
    return guests.writing(
        "kinds", (f"{path},raw,xvda,w",), "00:16:3e:77:00:05", options="written=8"
    )


@pytest.mark.slow
def test_a_logical_volume_that_is_extended_stays(pair: Pair) -> None:
    guest = on_kind(pair.a, "plain")
    guest.create(pair.a)
    stays(pair, guest, _LARGER["plain"].format(path=guest.paths[0]), "disk-resized")
    report = moving.migrate(pair.a, pair.b, guest, "--verify")
    assert report["volumes"][0]["size"] == 96 << 20
    moving.assert_moved(pair.a, pair.b, guest)
    guest.await_writes(pair.b, guest.seq(pair.b), verified=True)
    guest.destroy(pair.b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", storage.KINDS)
def test_a_disk_that_is_enlarged_stays(pair: Pair, kind: str) -> None:
    guest = on_kind(pair.a, kind)
    guest.create(pair.a)
    change = _LARGER[kind].format(path=guest.paths[0], name=guest.volumes[0])
    stays(pair, guest, change, "disk-resized")
    guest.destroy(pair.a)


@pytest.mark.slow
def test_a_logical_volume_whose_name_another_one_has_stays(pair: Pair) -> None:
    guest = on_kind(pair.a, "plain")
    guest.create(pair.a)
    storage.make(pair.a, "plain", "kinds-other", 64)
    name, group = guest.volumes[0], storage.GROUP
    change = f"lvrename -q {group} {name} kinds-old && lvrename -q {group} kinds-other {name}"
    stays(pair, guest, change, "disk-replaced")
    guest.destroy(pair.a)


@pytest.mark.slow
def test_a_disk_that_is_attached_or_a_guest_that_is_started_anew_stays(pair: Pair) -> None:
    guest = on_kind(pair.a, "plain")
    guest.create(pair.a)
    other = storage.make(pair.a, "plain", "kinds-other", 8)
    stays(pair, guest, f"xl block-attach {guest.name} phy:{other},xvdb,w", "disk-added")
    pair.a.run(f"xl block-detach {guest.name} xvdb")
    anew = f"xl destroy {guest.name} && sleep 5 && xl create -q {guest.config}"
    stays(pair, guest, anew, "guest-restarted", "guest-gone")
    guest.destroy(pair.a)
