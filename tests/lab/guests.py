"""Guests that write to their disks and memory all the time, and check what they read."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from tests.lab import storage
from tests.lab.errors import LabError
from tests.lab.host import Host

_CONSOLES: Final = "/var/log/xen/console"
_SEQ: Final = re.compile(r"writer: seq (\d+) (ok|all verified)")
_PROGRESS_TIMEOUT: Final = 600.0


class GuestFault(AssertionError):
    """A guest found its data lost, stale, damaged or written by another."""


@dataclass(frozen=True)
class Guest:
    """A guest's configuration. `boot` and `disks` are as in xl.cfg(5)."""

    name: str
    memory: int
    boot: str
    disks: tuple[str, ...]
    mac: str
    bridge: str = "xenbr0"

    @property
    def config(self) -> str:
        """The path of its configuration file on a host."""
        return f"/etc/xen/{self.name}.cfg"

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of its disks on the host that it was made for."""
        return tuple(disk.removeprefix("phy:").partition(",")[0] for disk in self.disks)

    @property
    def volumes(self) -> tuple[str, ...]:
        """The names of its disks in their pools."""
        return tuple(path.rpartition("/")[2] for path in self.paths)

    def config_text(self) -> str:
        """Its configuration file."""
        disks = "".join(f"    {disk!r},\n" for disk in self.disks)
        return (
            f'name = "{self.name}"\n'
            f"{self.boot}"
            f"memory = {self.memory}\n"
            f"disk = [\n{disks}]\n"
            f'vif = ["mac={self.mac},bridge={self.bridge}"]\n'
            'on_crash = "preserve"\n'
        )

    def create(self, host: Host, *, autostart: bool = False) -> None:
        """Write its configuration on a host and start it there. Its disks are there already."""
        host.put(self.config, self.config_text())
        if autostart:
            host.run(f"mkdir -p /etc/xen/auto && ln -s ../{self.name}.cfg /etc/xen/auto/")
        host.run(f"xl create -q {self.config}")

    def destroy(self, host: Host) -> None:
        """End it as if its power failed."""
        host.run(f"xl destroy {self.name}")

    def runs_on(self, host: Host) -> bool:
        """Whether it is on a host and not stopped."""
        table = host.run("xl list").stdout.splitlines()
        states = [line.split()[4] for line in table if line.split()[0] == self.name]
        return bool(states) and not set("psc") & set(states[0])

    def console(self, host: Host) -> str:
        """All that it wrote to its console while it was on a host.

        The console daemon names a file after the name that a domain has when it first writes:
        that of one that arrives is NAME--incoming.
        """
        files = f"{_CONSOLES}/guest-{self.name}.log {_CONSOLES}/guest-{self.name}--incoming.log"
        return host.run(f"cat $(ls -tr {files} 2>/dev/null) /dev/null").stdout

    def seq(self, host: Host) -> int:
        """Number of its last write that its console on a host tells of, 0 without any.

        Raises GuestFault when it has found a fault.
        """
        text = self.console(host)
        for line in text.splitlines():
            if "writer: FAULT" in line or "writer: stopped" in line or "Kernel panic" in line:
                raise GuestFault(f"{self.name} on {host.name}: {line.strip()}")
        return max((int(found[1]) for found in _SEQ.finditer(text)), default=0)

    def verified_seq(self, host: Host) -> int:
        """Number of the write after which it last verified everything on a host."""
        found = [int(one[1]) for one in _SEQ.finditer(self.console(host)) if one[2] != "ok"]
        return max(found, default=0)

    def await_writes(self, host: Host, beyond: int, *, verified: bool = False) -> int:
        """Wait until it has written, or verified all, beyond a number. Return where it is."""
        deadline = time.monotonic() + _PROGRESS_TIMEOUT
        while True:
            seq = self.seq(host)
            reached = self.verified_seq(host) if verified else seq
            if reached > beyond:
                return reached
            if time.monotonic() > deadline:
                tail = "\n".join(self.console(host).splitlines()[-15:])
                raise LabError(
                    f"{self.name} on {host.name} is at seq {seq}, and not beyond {beyond} within "
                    f"{_PROGRESS_TIMEOUT:g} s. Its console ends:\n{tail}"
                )
            time.sleep(1)


def from_host(kind: str, initrd: str, extra: str) -> str:
    """Return the settings of a guest that boots what its host has in /boot."""
    return (
        f'type = "{kind}"\n'
        'kernel = "/boot/guest-vmlinux"\n'
        f'ramdisk = "/boot/guest-{initrd}.initrd"\n'
        f'extra = "console=hvc0 mitigations=off {extra}"\n'
        "vcpus = 1\n"
    )


def writing(
    name: str, disks: tuple[str, ...], mac: str, *, options: str = "", kind: str = "pv"
) -> Guest:
    """A guest that needs ext4 on its first disk; `options` are those of `guest/init`."""
    boot = from_host(kind, "small", f"quiet {options}".rstrip())
    return Guest(name, 128, boot, disks, mac)


def small(host: Host) -> Guest:
    """The small guest, with its disks on a host: ext4 on a logical volume, and an image file."""
    image = storage.make_image(host, "small-data", 32)
    host.run(f"mkfs.ext4 -q -F /dev/{storage.GROUP}/small-root")
    disks = (f"phy:/dev/{storage.GROUP}/small-root,xvda,w", f"{image},raw,xvdb,w")
    return writing("small", disks, "00:16:3e:77:00:01")


def on_all_kinds(host: Host) -> Guest:
    """A guest with a disk of each kind, none of which it fills: ext4 on the first one."""
    paths = [storage.make(host, kind, f"kinds-{kind}", 64) for kind in storage.KINDS]
    host.run(f"mkfs.ext4 -q -F {paths[0]}")
    disks = tuple(f"{path},raw,xvd{letter},w" for path, letter in zip(paths, "abcd", strict=True))
    return writing("kinds", disks, "00:16:3e:77:00:04", options="written=8")


def on_zvols(host: Host) -> Guest:
    """A guest like the small one, with both disks on zvols of a host."""
    root, data = (
        storage.make_zvol(host, f"zvols-{part}", size)
        for part, size in (("root", 64), ("data", 32))
    )
    host.run(f"mkfs.ext4 -q -F {root}")
    disks = (f"phy:{root},xvda,w", f"phy:{data},xvdb,w")
    return writing("zvols", disks, "00:16:3e:77:00:03")


def debian(host: Host) -> Guest:
    """A Debian with systemd, its root file system on a logical volume of a host."""
    path = f"/dev/{storage.GROUP}/debian-root"
    host.run(f"dd if={storage.DEBIAN_IMAGE} of={path} bs=1M conv=sparse,fsync", timeout=300)
    boot = from_host("pv", "root", "root=/dev/xvda ro net.ifnames=0")
    return Guest("debian", 320, boot, (f"phy:{path},xvda,w",), "00:16:3e:77:00:02")


KINDS: Final = ("pv", "pygrub", "pvh", "hvm", "desktop", "emulated")
"""How a guest is virtualised and booted; `emulated` is an HVM guest that has no drivers for Xen's
disks, `desktop` one with two processors and a screen that VNC shows."""


def same_pools(pools: tuple[str, ...]) -> str:
    """Return the options that have disks in these pools go to those of the same names."""
    return " ".join(f"--pool {pool}={pool}" for pool in pools)


@dataclass(frozen=True)
class Backend:
    """In which of the pools `storage.KINDS` the two disks of a guest are, and who serves them."""

    pools: tuple[str, str]
    settings: str = ""

    @property
    def options(self) -> str:
        """What has disks go to the same pools of another host."""
        return same_pools(self.pools)


BACKENDS: Final = {
    "blkback": Backend(("plain", "images")),
    "snapshots": Backend(("thin", "zvols")),
    "qdisk": Backend(("plain", "images"), ",backendtype=qdisk"),
}
"""Who serves the disks of a guest in dom0: the kernel, from LVM and a loop device, or from LVM's
thin volumes and zvols; or QEMU."""

_PC: Final = """\
type = "hvm"
vcpus = 1
boot = "c"
{controller}vga = "none"
nographic = 1
vnc = 0
serial = "pty"
"""
_AHCI: Final = 'hdtype = "ahci"\n'
"""A boot loader reads from it in a third of the time that it takes from IDE."""
_DESKTOP: Final = """\
type = "hvm"
vcpus = 2
boot = "c"
hdtype = "ahci"
vga = "stdvga"
vnc = 1
vnclisten = "127.0.0.1"
serial = "pty"
"""
_PYGRUB: Final = """\
type = "pv"
vcpus = 1
bootloader = "pygrub"
"""
_BOOTED: Final = {
    "pygrub": _PYGRUB,
    "hvm": _PC.format(controller=_AHCI),
    "desktop": _DESKTOP,
    "emulated": _PC.format(controller=""),
}


def of_kind(host: Host, kind: str, backend: str) -> Guest:
    """A guest of one of `KINDS`, with two disks of one of `BACKENDS`.

    As HVM, and with pygrub, it boots from its first disk.
    """
    name, where = f"kinds-{kind}-{backend}", BACKENDS[backend]
    pc = kind in ("hvm", "desktop", "emulated")
    root, data = (
        storage.make(host, pool, f"{name}-{part}", size)
        for pool, part, size in zip(where.pools, ("root", "data"), (64, 16), strict=True)
    )
    letters = "hd" if pc else "xvd"
    disks = tuple(
        f"{path},raw,{letters}{letter},w{where.settings}"
        for path, letter in zip((root, data), "ab", strict=True)
    )
    mac = f"00:16:3e:77:01:{KINDS.index(kind):x}{list(BACKENDS).index(backend)}"
    if kind in ("pv", "pvh"):
        host.run(f"mkfs.ext4 -q -F {root}")
        return writing(name, disks, mac, kind=kind)
    host.run(f"dd if=/boot/guest-bootable.img of={root} bs=1M conv=sparse,fsync")
    if kind == "emulated":
        change = "sed -i 's/^DEFAULT .*/DEFAULT emulated/' /mnt/extlinux.conf"
        host.run(f"mount {root} /mnt && {change} && umount /mnt")
    return Guest(name, 160, _BOOTED[kind], disks, mac)
