"""Programs that people run, in a guest that moves: PostgreSQL, fio, a file server.

    python -m tests.lab.loads [--moves N]

A Debian guest with three disks of different kinds has PostgreSQL under pgbench, fio with random
writes to two of them that it verifies, and a file server. A client on host-b commits and downloads
all the time, on the same two TCP connections through all moves, and keeps its own record of what
PostgreSQL has acknowledged. After each live move, there or back, everything still works, nothing
was found damaged, and every acknowledged commit is there. In the end the guest is moved by plain
`xl migrate`, which moves no disk, to have a pause to compare with: that guest is of no use then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Final

from tests.lab import blackout, image, moving, storage
from tests.lab.errors import LabError
from tests.lab.guests import Guest, from_host, same_pools
from tests.lab.host import Host
from tests.lab.pair import Pair, booted, say

_ADDRESS: Final = "10.77.0.9"
_FOLDER: Final = "/var/tmp/client"
_CLIENT: Final = image.LAB / "guest_loads" / "client"
_POOLS: Final = ("plain", "thin", "images")
_UNITS: Final = ("pgbench", "fio@xvdb", "fio@xvdc")
_PATIENCE: Final = 1200.0
_PYTHON: Final = "PYTHONPATH=/opt/tests /usr/lib/xenmoved/bin/python"

_STATUS: Final = f"""
import urllib.request
print(urllib.request.urlopen("http://{_ADDRESS}:8000/status", timeout=60).read().decode())
"""

_MISSING: Final = f"""
import psycopg
acknowledged = set(map(int, open("{_FOLDER}/acknowledged").read().split("\\n")[:-1]))
with psycopg.connect(host="{_ADDRESS}", user="postgres") as connection:
    there = {{n for (n,) in connection.execute("select n from acknowledged")}}
print(len(acknowledged), len(acknowledged - there))
"""


def make_guest(pair: Pair) -> Guest:
    """Start the guest on host-a."""
    sizes = (1200, 64, 64)
    paths = [
        storage.make(pair.a, pool, f"kinds-loads-{number}", size)
        for number, (pool, size) in enumerate(zip(_POOLS, sizes, strict=True))
    ]
    pair.a.run(f"dd if={storage.EXTRA} of={paths[0]} bs=1M conv=sparse,fsync", timeout=1200)
    boot = from_host("pv", "root", "quiet root=/dev/xvda ro net.ifnames=0")
    disks = tuple(f"{path},raw,xvd{letter},w" for path, letter in zip(paths, "abc", strict=True))
    guest = Guest("loads", 320, boot, disks, "00:16:3e:77:00:09")
    guest.create(pair.a)
    return guest


def status(host: Host) -> dict[str, str]:
    """Return what systemd says of what runs in the guest, {} when it does not answer."""
    said = host.run(["python3", "-c", _STATUS], check=False, timeout=120).stdout
    found: dict[str, str] = json.loads(said) if said.startswith("{") else {}
    return found


def await_loads(pair: Pair) -> None:
    """Wait until everything works in the guest. Raises LabError."""
    deadline = time.monotonic() + _PATIENCE
    while (found := status(pair.b)) != dict.fromkeys(_UNITS, "active"):
        if time.monotonic() > deadline:
            raise LabError(f"not everything runs in the guest: {found}")
        time.sleep(5)


class Client:
    """The client on host-b."""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.put(f"{_FOLDER}/client", _CLIENT.read_text())
        run = f"{_PYTHON} {_FOLDER}/client {_ADDRESS} {_FOLDER}"
        host.run(f"rm -f {_FOLDER}/seen {_FOLDER}/acknowledged")
        host.run(f"systemd-run -q --unit client bash -c '{run} > {_FOLDER}/log 2>&1'")

    def seen(self) -> dict[str, Any]:
        """Return what it saw since this was asked last. Raises AssertionError when it failed."""
        count = f"wc -l < {_FOLDER}/seen 2>/dev/null || echo 0"
        before = self._host.run(count).stdout
        self._host.run("systemctl kill --signal USR1 client")
        self._host.run(f"until [ $({count}) -gt {before.strip()} ]; do sleep 0.2; done")
        found: dict[str, Any] = json.loads(self._host.run(f"tail -n 1 {_FOLDER}/seen").stdout)
        assert not found["errors"], (found, self._host.read(f"{_FOLDER}/log"))
        return found

    def await_more(self, before: dict[str, Any]) -> dict[str, Any]:
        """Wait until it has committed and downloaded more; return the longest pauses, too."""
        deadline, longest = time.monotonic() + _PATIENCE, before
        while True:
            found = self.seen()
            for pause in ("commit_pause", "download_pause"):
                found[pause] = max(found[pause], longest[pause])
            if all(found[what] > before[what] for what in ("commits", "downloads")):
                return found
            if time.monotonic() > deadline:
                raise LabError(f"the client does not get on: {found}")
            longest = found
            time.sleep(5)

    def require_commits(self) -> int:
        """See that every acknowledged commit is there; return how many there are."""
        said = self._host.run(f"{_PYTHON} -", stdin=_MISSING).stdout.split()
        acknowledged, missing = map(int, said)
        assert not missing, f"{missing} of {acknowledged} acknowledged commits are gone"
        return acknowledged


def move(pair: Pair, guest: Guest, client: Client, number: int) -> None:
    """Move the guest live, there or back, and see that everything goes on."""
    source, target = (pair.a, pair.b) if number % 2 else (pair.b, pair.a)
    client.seen()
    report = moving.migrate(source, target, guest, f"--mode live {same_pools(_POOLS)}")
    found = client.await_more(client.seen())
    assert (running := status(pair.b)) == dict.fromkeys(_UNITS, "active"), running
    say(
        f"move {number}: blackout {report['blackout']:.1f} s, longest commit "
        f"{found['commit_pause']:.1f} s, longest read {found['download_pause']:.1f} s; "
        f"{client.require_commits()} commits, all there"
    )


def plain(pair: Pair, guest: Guest, client: Client) -> None:
    """Move the guest by `xl migrate` to disks that were equal, for the pause alone."""
    for path in guest.paths:
        blackout.compare(pair, path)
    client.seen()
    pair.a.run(f"xl migrate -s '{blackout.SSH}' {guest.name} {pair.b.address}", timeout=1200)
    time.sleep(60)
    found = client.seen()
    say(
        f"plain xl migrate: longest commit {found['commit_pause']:.1f} s, longest read "
        f"{found['download_pause']:.1f} s"
    )


def main() -> None:
    """Move the guest, and print what its client saw."""
    parser = argparse.ArgumentParser(
        prog="tests.lab.loads", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--moves", type=int, default=10, help="live moves, there and back by turns")
    arguments = parser.parse_args()
    with booted(image.with_loads(image.make())) as pair:
        blackout.connect(pair)
        guest = make_guest(pair)
        await_loads(pair)
        client = Client(pair.b)
        for number in range(1, arguments.moves + 1):
            move(pair, guest, client, number)
        if arguments.moves % 2 == 0:
            plain(pair, guest, client)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
