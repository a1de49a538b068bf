"""How long a guest stands still: live with its disk, plain `xl migrate`, and the old way.

    python -m tests.lab.blackout [--runs N]

A guest with a disk of 1 GiB, to which it writes all the time, is moved from host-a to host-b

live    by `xenmovectl migrate`, onto a disk that is empty
plain   by `xl migrate`, which moves no disk: what `live` has to be measured by. The disks are made
        identical beforehand, but for what the guest writes meanwhile: it is of no use afterwards
old     as scripts do it: its disk is compared and copied while it runs, then `xl save`, the disk is
        compared and copied again, the image copied, `xl restore`

and meanwhile pinged by host-b, ten times a second: the blackout is the longest pause between two
answers. Only the ratios mean anything, as the processors are emulated.

After that it prints what the blackouts of `live` were spent on, and what Xen's own scripts took on
host-b, which attach the disk and the network: for how long any ran, and the processes of that time.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.lab import image, moving, storage
from tests.lab.errors import LabError
from tests.lab.guests import Guest, writing
from tests.lab.host import Host
from tests.lab.pair import Pair, booted, say

_SIZE: Final = 1024  # MiB
_DISK: Final = f"/dev/{storage.GROUP}/blackout"
_ADDRESS: Final = "10.77.0.9"
SSH: Final = "ssh -i /root/.ssh/blackout -o StrictHostKeyChecking=no -o LogLevel=ERROR"

_PING: Final = f"""
import os, select, socket, struct, sys, time
ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
def checksum(data):
    total = sum(struct.unpack(f"!{{len(data) // 2}}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff
last, longest, number, stop = None, 0.0, 0, sys.stdin
while not select.select([stop], [], [], 0)[0]:
    number += 1
    head = struct.pack("!BBHHH", 8, 0, 0, 77, number & 0xffff)
    packet = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
    try:
        ping.sendto(packet, ("{_ADDRESS}", 0))
    except OSError:
        pass
    until = time.monotonic() + 0.1
    while (left := until - time.monotonic()) > 0 and select.select([ping], [], [], left)[0]:
        answer, (whose, _) = ping.recvfrom(1500)
        if whose == "{_ADDRESS}" and answer[20] == 0:
            now = time.monotonic()
            longest = max(longest, now - last if last else 0.0)
            last = now
print(longest)
"""
"""Pings until something comes on its standard input, then tells the longest pause in seconds."""

_COMPARE: Final = """
import hashlib, struct, subprocess, sys
path, size, there = sys.argv[1], 1 << 20, sys.argv[2:]
with open(path, "r+b", buffering=0) as disk:
    if not there:
        while piece := disk.read(size):
            sys.stdout.buffer.write(hashlib.sha1(piece).digest())
            sys.stdout.buffer.flush()
        disk.seek(0)
        while head := sys.stdin.buffer.read(4):
            disk.seek(struct.unpack("!I", head)[0] * size)
            disk.write(sys.stdin.buffer.read(size))
        sys.exit()
    peer = subprocess.Popen(there, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    different, number = [], 0
    while piece := disk.read(size):
        if hashlib.sha1(piece).digest() != peer.stdout.read(20):
            different.append(number)
        number += 1
    for number in different:
        disk.seek(number * size)
        peer.stdin.write(struct.pack("!I", number) + disk.read(size))
    peer.stdin.close()
    sys.exit(peer.wait())
"""
"""What such scripts do: compares a disk block by block over ssh, and copies what differs."""


class Pinger:
    """Pings the guest from host-b for as long as the context lasts; then `longest` is known."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.longest = 0.0

    def __enter__(self) -> Pinger:
        host = self._pair.b
        host.put("/tmp/ping.py", _PING)
        host.run("rm -f /tmp/stop && mkfifo /tmp/stop")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        said = self._pair.b.run("exec 3<>/tmp/stop; python3 /tmp/ping.py <&3", timeout=3600)
        self.longest = float(said.stdout)

    def __exit__(self, *_: object) -> None:
        self._pair.b.run("echo stop > /tmp/stop")
        self._thread.join()


_TRACE: Final = "/sys/kernel/tracing/instances/scripts"
_EXEC: Final = re.compile(r" ([\d.]+): sched_process_exec: filename=(\S+) pid=(\d+) ")
_EXIT: Final = re.compile(r" ([\d.]+): sched_process_exit: comm=\S+ pid=(\d+) ")


class Scripts:
    """What Xen's scripts did on host-b while the context lasted.

    `seconds` is how long any ran, `processes` what was begun meanwhile: by them, mostly.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.seconds, self.processes = 0.0, 0

    def __enter__(self) -> Scripts:
        events = f"{_TRACE}/events/sched"
        self._host.run(
            f"mkdir -p {_TRACE} && echo 4096 > {_TRACE}/buffer_size_kb && echo > {_TRACE}/trace && "
            f"echo 1 > {events}/sched_process_exec/enable && "
            f"echo 1 > {events}/sched_process_exit/enable"
        )
        return self

    def __exit__(self, *_: object) -> None:
        text = self._host.run(f"cat {_TRACE}/trace; rmdir {_TRACE}").stdout
        begun = [(float(one[1]), one[2], one[3]) for one in _EXEC.finditer(text)]
        ended = {one[2]: float(one[1]) for one in _EXIT.finditer(text)}
        last = 0.0
        for at, file, process in begun:
            end = ended.get(process, at)
            if file.startswith("/etc/xen/scripts/") and end > last:
                self.seconds += end - max(at, last)
                self.processes += sum(max(at, last) <= one < end for one, _, _ in begun)
                last = end


def connect(pair: Pair) -> None:
    """Connect the bridges of the two hosts, and let host-a into host-b."""
    for host in pair.hosts:
        host.run(
            f"ip link set eth1 master xenbr0 && ip address del {host.address}/24 dev eth1 && "
            f"ip address add {host.address}/24 dev xenbr0 && ip link set xenbr0 up"
        )
        host.put("/root/compare.py", _COMPARE)
    key = pair.a.run(
        "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/blackout && cat /root/.ssh/blackout.pub"
    ).stdout
    pair.b.run("cat >> /root/.ssh/authorized_keys", stdin=key)


def fresh_guest(pair: Pair) -> Guest:
    """Start the guest on host-a, on a new file system; the disk of host-b is empty."""
    pair.tidy()
    pair.each(lambda host: host.run(f"blkdiscard -z {_DISK}"))
    pair.a.run(f"mkfs.ext4 -q -F {_DISK}")
    disks = (f"phy:{_DISK},xvda,w",)
    guest = writing("small", disks, "00:16:3e:77:00:03", options=f"address={_ADDRESS}/24")
    guest.create(pair.a)
    guest.await_writes(pair.a, 0)
    return guest


def live(pair: Pair, guest: Guest) -> dict[str, Any]:
    """Our way."""
    report = moving.migrate(pair.a, pair.b, guest, "--mode live")
    guest.await_writes(pair.b, guest.seq(pair.a), verified=True)
    return report


def plain(pair: Pair, guest: Guest) -> None:
    """`xl migrate` alone."""
    compare(pair)
    pair.a.run(f"xl migrate -s '{SSH}' {guest.name} {pair.b.address}", timeout=1200)


def old(pair: Pair, guest: Guest) -> None:
    """The way of scripts."""
    compare(pair)
    pair.a.run(f"xl save {guest.name} /var/tmp/image")
    compare(pair)
    copy = f"{SSH} {pair.b.address} 'cat > /var/tmp/image' < /var/tmp/image"
    pair.a.run(f"{copy} && rm /var/tmp/image", timeout=1200)
    pair.b.run("xl restore /var/tmp/image && rm /var/tmp/image")


def compare(pair: Pair, disk: str = _DISK) -> None:
    """Make a disk of host-b equal to that of host-a, which is read anew."""
    pair.each(lambda host: host.run("sync; echo 3 > /proc/sys/vm/drop_caches"))
    there = f"{SSH} {pair.b.address} python3 /root/compare.py {disk}"
    pair.a.run(f"python3 /root/compare.py {disk} {there}", timeout=3600)


WAYS: Final[dict[str, Callable[[Pair, Guest], dict[str, Any] | None]]] = {
    "live": live,
    "plain": plain,
    "old": old,
}


@dataclass(frozen=True)
class Measured:
    """A migration: its blackout in seconds, what our own record says it was spent on, scripts."""

    blackout: float
    parts: dict[str, float]
    scripts: Scripts


def measure(pair: Pair, way: str) -> Measured:
    """Move a new guest, and return how that went."""
    guest = fresh_guest(pair)
    with Pinger(pair) as pinger, Scripts(pair.b) as scripts:
        report = WAYS[way](pair, guest)
        pair.b.run("sleep 5")
    say(f"{way}: {pinger.longest:.1f} s")
    parts = {one["what"]: one["seconds"] for one in report["blackout_parts"]} if report else {}
    return Measured(pinger.longest, parts, scripts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="tests.lab.blackout", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--runs", type=int, default=3, help="migrations of each kind")
    arguments = parser.parse_args()
    with booted(image.make()) as pair:
        connect(pair)
        pair.each(lambda host: storage.make_lv(host, "blackout", _SIZE))
        found: dict[str, list[Measured]] = {way: [] for way in WAYS}
        for _ in range(arguments.runs):
            for way, measured in found.items():
                measured.append(measure(pair, way))
    show(found)


def show(found: dict[str, list[Measured]]) -> None:
    """Print what was measured, of each way."""
    medians = {way: statistics.median(one.blackout for one in all_) for way, all_ in found.items()}
    print(f"{'way':<6} {'median s':>9} {'times live':>11}   all")
    for way, median in medians.items():
        shown = " ".join(f"{one.blackout:.1f}" for one in found[way])
        print(f"{way:<6} {median:>9.1f} {median / medians['live']:>11.2f}   {shown}")
    for part in found["live"][0].parts:
        seconds = statistics.median(one.parts.get(part, 0.0) for one in found["live"])
        print(f"live: {part:<24} {seconds:>5.1f} s")
    for way, measured in found.items():
        seconds = statistics.median(one.scripts.seconds for one in measured)
        processes = statistics.median(one.scripts.processes for one in measured)
        print(f"{way}: scripts {seconds:.1f} s, {processes:g} processes")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
