"""Two hosts with their daemons, and the cable between them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tests.lab import cable, storage
from tests.lab.errors import HostError, LabError
from tests.lab.host import Host
from tests.lab.image import ROOT, HostImage

T = TypeVar("T")

RUNNING: Final = "XENMOVED_LAB"
"""Environment variable that names the folder of a pair that runs."""

RESULTS: Final = ROOT / "lab-results"
CONFIG: Final = "/etc/xenmoved/xenmoved.yaml"
DISKS: Final = {"small-root": 64, "debian-root": 512}
"""Volumes of the group that exist on both hosts, in MiB: the daemon's pool `disks`."""

_POOLS: Final = f"""
listen:
  address: {{address}}

pools:
  images: {{{{kind: dir, path: {storage.IMAGES}}}}}
  disks:
    kind: block
    devices: [{", ".join(f"/dev/{storage.GROUP}/{name}" for name in DISKS)}]
  plain: {{{{kind: lvm, group: {storage.GROUP}}}}}
  thin:
    kind: lvm-thin
    group: {storage.GROUP}
    thin_pool: {storage.THIN_POOL}
    overcommit: true
  zvols: {{{{kind: zfs, dataset: {storage.ZVOLS}, sparse: true}}}}

default_pool: images
"""

_began: Final = time.monotonic()


def say(text: str) -> None:
    """Tell what is going on, and when."""
    print(f"lab {time.monotonic() - _began:5.0f}s: {text}", flush=True)


class Pair:
    """host-a (`a`) and host-b (`b`), with their files in `folder`.

    Whoever calls `start` calls `close`, whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.a, self.b = (Host(name, folder) for name in cable.NODES)
        self.hosts = (self.a, self.b)

    def start(self, *images: HostImage) -> None:
        """Boot both hosts, make their storage, start their daemons and let them know each other.

        Each has an image of its own, or both the only one.
        """
        say(f"booting two hosts; their files are in {self.folder}")
        for host, image in zip(self.hosts, images * (2 // len(images)), strict=True):
            host.start(image)
        self.each(self._set_up)
        self._introduce(self.a, self.b)
        self._introduce(self.b, self.a)

    def each(self, work: Callable[[Host], T]) -> tuple[T, T]:
        """Do the same on both hosts at once."""
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(work, self.hosts)
        return first, second

    def _set_up(self, host: Host) -> None:
        host.wait()
        say(f"{host.name} has booted: {host.run('uname -r').stdout.strip()}, Xen")
        # It has one processor, of which guests that write all the time would take half.
        host.run("xl sched-credit2 -d Domain-0 -w 1024")
        storage.prepare(host)
        for name, size in DISKS.items():
            storage.make_lv(host, name, size)
        host.run(f"cat >> {CONFIG}", stdin=_POOLS.format(address=host.address))
        host.run("xenmoved --check-config && systemctl enable --now xenmoved.service")
        say(f"{host.name} has its storage and its daemon")

    def _introduce(self, host: Host, peer: Host) -> None:
        """Let `host` send guests to `peer`, and `peer` send guests to it, as README.md says."""
        shown = peer.run("xenmovectl identity").stdout
        pools = ",".join(("disks", *storage.KINDS))
        options = f"--allow migrate,sync --pools {pools} --guests '*' --overwrite"
        added = host.run(
            f"xenmovectl peer add {peer.name} {peer.address} {options}",
            stdin="yes\n",
            terminal=True,
        ).stdout
        fingerprint = next(word for word in shown.split() if word.startswith("SHA256:"))
        if fingerprint not in added:
            raise LabError(f"{host.name} was shown another key than {peer.name} has:\n{added}")
        say(f"{host.name} knows {peer.name}")

    def cut(self) -> None:
        """Break the network between the hosts."""
        cable.cut(self.folder)

    def heal(self) -> None:
        """Let it work again."""
        cable.heal(self.folder)

    def slow(self, rate: str, delay: str = "0ms") -> None:
        """Make it slow, in both directions; rate and delay as tc has them: 8mbit, 20ms."""
        self.each(lambda host: host.run(cable.slowing(rate, delay)))

    def unslow(self) -> None:
        """Make it fast again."""
        self.each(lambda host: host.run(cable.UNSLOWED))

    def tidy(self) -> None:
        """Remove what tests leave behind: guests, their configuration, consoles and image files."""
        self.heal()
        self.each(lambda host: host.run(_TIDY))

    def keep(self, folder: Path) -> None:
        """Copy consoles and journals to a folder, for those who want to know what happened."""
        folder.mkdir(parents=True, exist_ok=True)
        for host in self.hosts:
            for path in self.folder.glob(f"{host.name}.*"):
                if path.suffix in (".console", ".log"):
                    shutil.copy(path, folder)
            for name, command in _RECORDS.items():
                try:
                    text = host.run(command, check=False, timeout=60).stdout
                except (HostError, subprocess.TimeoutExpired) as error:
                    text = f"{error}\n"
                (folder / f"{host.name}.{name}").write_text(text)
        say(f"consoles and journals are in {folder}")

    def close(self) -> None:
        """End what was started here."""
        for host in self.hosts:
            host.stop()


@contextmanager
def booted(*images: HostImage) -> Iterator[Pair]:
    """A pair for as long as the context lasts. It is in /tmp, as paths of sockets are bounded."""
    with tempfile.TemporaryDirectory(prefix="xenmoved-lab-", dir="/tmp") as folder:
        pair = Pair(Path(folder))
        try:
            pair.start(*images)
            yield pair
        except BaseException:
            pair.keep(RESULTS / "unfinished")
            raise
        finally:
            say("ending the hosts")
            pair.close()


_TIDY: Final = f"""
fsfreeze -u {storage.IMAGES} 2>/dev/null
{cable.UNSLOWED}
xl list | awk 'NR > 1 && $1 != "Domain-0" {{ print $2 }}' | xargs -r -n 1 xl destroy
rm -rf /etc/xen/*.cfg /etc/xen/*.cfg.* /etc/xen/*.auto.* /etc/xen/auto/*
rm -f /var/log/xen/console/* {storage.IMAGES}/*
zfs list -H -t volume -o name -r {storage.ZVOLS} | xargs -r -n 1 zfs destroy -r
lvs --noheadings -o vg_name,lv_name --separator / -S 'lv_name=~"^kinds-"' {storage.GROUP} |
    xargs -r lvremove -q -y
"""

_RECORDS: Final = {
    "journal": "journalctl --no-pager -o short-precise -b",
    "xenmoved.journal": "journalctl --no-pager -o short-precise -u xenmoved",
    "guests.console": "tail -n 200 /var/log/xen/console/*.log",
    "xen.log": "xl dmesg; xl list; tail -n 200 /var/log/xen/xl-*.log",
    "jobs": "xenmovectl jobs --all --json; ls -lR /var/lib/xenmoved /etc/xen/auto /etc/xen/*.cfg*",
}
