"""Files as tools and handbooks write them go there and back, with what starts them at boot.

`pytest -rP` shows a table of what was changed in each, in each mode.
"""

from __future__ import annotations

import os
import uuid as uuids
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.jobs.report import JobState

XEN_TOOLS = """\
#
# Configuration file for the Xen instance {name}, created
# by xen-tools 4.9.2 on Thu Jun  3 10:12:01 2021.
#

#
#  Kernel + memory size
#


bootloader = 'pygrub'

vcpus       = '1'
memory      = '2'


#
#  Disk device(s).
#
root        = '/dev/xvda2 ro {quiet}'
disk        = [
                  'file:{disk},xvda2,w',
                  'file:{swap},xvda1,w',
              ]


#
#  Physical volumes
#


#
#  Hostname
#
name        = '{name}'

#
#  Networking
#
dhcp        = 'dhcp'
vif         = [ 'mac=00:16:3E:12:34:56' ]

#
#  Behaviour
#
on_poweroff = 'destroy'
on_reboot   = 'restart'
on_crash    = 'restart'
"""
VIRT_INSTALL = """\
name = "{name}"
uuid = "{uuid}"
maxmem = 2
memory = 2
vcpus = 1
localtime = 0
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "restart"
vif = [ "mac=00:16:3E:66:92:9C,bridge=xenbr0,script=vif-bridge" ]
kernel = "/boot/vmlinuz"
ramdisk = "/boot/initrd"
cmdline = "root=/dev/xvda1 console=hvc0 {quiet}"
disk = [ "format=raw,vdev=xvda,access=rw,target={disk}" ]
"""
XLEXAMPLE_PV = """\
# =====================================================================
# Example PV Linux guest configuration
# =====================================================================

# Guest name
name = "{name}"

# 128-bit UUID for the domain as a hexadecimal number.
# Use "uuidgen" to generate one if required.
#uuid = "XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX"

# Kernel image to boot
kernel = "/boot/vmlinuz"

# Ramdisk (optional)
#ramdisk = "/boot/initrd.gz"

# Kernel command line options
extra = "root=/dev/xvda1 {quiet}"

# Initial memory allocation (MB)
memory = 2

# Number of VCPUS
vcpus = 2

# Network devices
vif = [ '' ]

# Disk Devices
disk = [ '{disk},raw,xvda,rw' ]
"""
XLEXAMPLE_HVM = """\
# This configures an HVM rather than PV guest
type = "hvm"

# Guest name
name = "{name}"

# Enable Microsoft Hyper-V compatibile paravirtualisation
#viridian = 1
memory = 2
vcpus = 2
vif = [ '' ]
disk = [ '{disk},raw,xvda,rw' ]
# Guest VGA console configuration, either SDL or VNC
sdl = 0
vnc = 1
extra = "{quiet}"
"""
SUSE = """\
# Automatically generated xen config file
name="{name}"
description="None"
uuid="{uuid}"
memory=2
maxmem=2
vcpus=1
on_poweroff="destroy"
on_reboot="restart"
on_crash="destroy"
localtime=0
keymap="en-us"
builder="linux"
bootloader="/usr/bin/pygrub"
bootargs=""
extra="{quiet}"
disk=[ 'file:{disk},xvda,w', ',hdc:cdrom,r', ]
vif=[ 'mac=00:16:3e:2b:8d:5f,bridge=xenbr0', ]
vfb=['type=vnc,vncunused=1']
"""
HANDBOOK = """\
# Kernel of the distribution's boot loader; see the wiki
kernel = '/usr/lib/grub-xen/grub-x86_64-xen.bin'
extra  = "(hd0,0)/boot/grub/menu.lst {quiet}"

memory = 2 ; vcpus = 1
name   = "{name}"
vif    = [ 'mac=00:16:3e:00:00:01, bridge=xenbr0, rate=10Mb/s@50ms' ]
disk   = [ 'tap:aio:{disk},xvda1,w',   # root
           # 'phy:/dev/vg0/old,xvdc,w',
         ]
disk  += [ "file:{swap},xvda2,w" ]
on_crash = 'restart'
"""
UMLAUTS = HANDBOOK.replace("see the wiki", "für den Kühlraum")


@dataclass
class Case:
    """A file, and how it lies on the host: `entry` in auto leads to it, if there is one.

    `place` is NAME.cfg, another name in the folder of configurations, `elsewhere` with a link to it
    from NAME.cfg or from auto, or `auto` itself.
    """

    text: str
    entry: str | None = "NAME.cfg"
    place: str = "NAME.cfg"
    encoding: str = "utf-8"
    line_end: str = "\n"
    mode: int = 0o640
    name: str = ""
    written: bytes = b""
    path: Path = field(default_factory=Path)


CASES = {
    "xen-tools": lambda: Case(XEN_TOOLS, "01-NAME.cfg"),
    "virt-install": lambda: Case(VIRT_INSTALL, None, mode=0o600),
    "xlexample.pvlinux": lambda: Case(XLEXAMPLE_PV, "NAME", "pvlinux.cfg"),
    "xlexample.hvm": lambda: Case(XLEXAMPLE_HVM),
    "SUSE": lambda: Case(SUSE, "NAME", "vm/NAME"),
    "handbook": lambda: Case(HANDBOOK, "10-NAME", "elsewhere", mode=0o644),
    "handbook, in auto": lambda: Case(HANDBOOK, "20-NAME", "auto"),
    "Latin-1": lambda: Case(UMLAUTS, "NAME.cfg", encoding="latin-1"),
    "UTF-8 with a mark, CRLF": lambda: Case(UMLAUTS, "NAME", "NAME", "utf-8-sig", "\r\n"),
}


def put(case: Case, host: Dom0, elsewhere: Path) -> None:
    """Write a file, and start the guest from it."""
    case.name = unique("web")
    disks = [image(host.images / f"{case.name}-{what}", 1) for what in ("disk", "swap")]
    used = [disk for disk, what in zip(disks, ("{disk}", "{swap}"), strict=True)]
    text = case.text.format(
        name=case.name, uuid=uuids.uuid4(), quiet=QUIET, disk=used[0], swap=used[1]
    )
    case.written = text.replace("\n", case.line_end).encode(case.encoding)
    folder, name = host.guest_configs, case.name
    entry = folder / "auto" / case.entry.replace("NAME", name) if case.entry else None
    places = {"elsewhere": elsewhere / f"{name}.cfg", "auto": entry}
    case.path = places.get(case.place) or folder / case.place.replace("NAME", name)
    case.path.parent.mkdir(exist_ok=True)
    case.path.write_bytes(case.written)
    case.path.chmod(case.mode)
    os.chown(case.path, os.getuid(), os.getgid())
    target = case.path
    if case.place == "elsewhere":
        target = folder / f"{name}.cfg"
        target.symlink_to(case.path)
    if entry is not None and case.place != "auto":
        entry.symlink_to(os.path.relpath(target, entry.parent))
    host.xen.xl("create", str(target))


def lie_of(host: Dom0, name: str) -> dict[str, object]:
    """Return all that lies on a host of a guest's files: links, bytes and modes."""
    found: dict[str, object] = {}
    for path in sorted(host.guest_configs.rglob("*")):
        if name in path.name or path.name.startswith("pvlinux"):
            status = path.lstat()
            what = path.readlink() if path.is_symlink() else status.st_mode
            data = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(host.guest_configs))] = (what, status.st_uid, data)
    return found


def move_all(cases: dict[str, Case], source: Dom0, target: Dom0, mode: Mode) -> None:
    """Move all guests at a time, and stop those that are to move while they do not run."""
    if mode is Mode.COLD:
        for case in cases.values():
            if source.domain(case.name) is not None:
                source.xen.xl("destroy", case.name)
    jobs = [source.begin(case.name, target.name, mode=mode) for case in cases.values()]
    for case, job in zip(cases.values(), jobs, strict=True):
        report = source.finish(job.job)
        assert report.state is JobState.DONE, (case.name, report.problem)


def arrived(case: Case, host: Dom0) -> Path:
    """Return the file that a guest has where it came to, and see that it is started at boot."""
    entries = [path for path in (host.guest_configs / "auto").iterdir() if case.name in path.name]
    assert len(entries) == (case.entry is not None), entries
    order, _, _ = (case.entry or "").partition("NAME")
    assert {entry.name for entry in entries} <= {f"{order}{case.name}.cfg"}, "started in order"
    path = host.guest_configs / f"{case.name}.cfg"
    assert all(entry.resolve() == path for entry in entries)
    return path


def changes(before: bytes, after: bytes) -> list[str]:
    """Return the lines of a file that were changed, as they are now."""
    pairs = zip(before.split(b"\n"), after.split(b"\n"), strict=True)
    return [now.decode("latin-1").strip() for was, now in pairs if was != now]


OFTEN = ("SUSE", "handbook, in auto")
"""Those that move in each mode whenever tests run; all of them move cold then."""


@pytest.mark.thorough
@pytest.mark.timeout(400)  # nine guests move at a time, on whatever machine this is
@pytest.mark.parametrize(
    ("mode", "chosen"),
    [
        pytest.param(Mode.COLD, tuple(CASES), id="cold"),
        pytest.param(Mode.SAVE, OFTEN, id="save"),
        pytest.param(Mode.LIVE, OFTEN, id="live"),
        pytest.param(Mode.SAVE, tuple(CASES), id="save, all", marks=pytest.mark.slow),
        pytest.param(Mode.LIVE, tuple(CASES), id="live, all", marks=pytest.mark.slow),
    ],
)
def test_there_and_back(
    hosts: tuple[Dom0, Dom0], mode: Mode, chosen: tuple[str, ...], tmp_path: Path
) -> None:
    a, b = hosts
    cases = {what: CASES[what]() for what in chosen}
    for case in cases.values():
        put(case, a, tmp_path)
    before = {what: lie_of(a, case.name) for what, case in cases.items()}
    move_all(cases, a, b, mode)
    print(f"\n{'file':<24} {'mode':<5} {'what was changed on host-b':<64} on host-a")
    rows = {}
    for what, case in cases.items():
        there = arrived(case, b).read_bytes()
        assert there == case.written.replace(bytes(a.images), bytes(b.images)), what
        rows[what] = changes(case.written, there)
    move_all(cases, b, a, mode)
    for what, case in cases.items():
        after = lie_of(a, case.name)
        assert after == before[what], what
        left = [name for name in lie_of(b, case.name) if not name.endswith(".moved")]
        assert [name for name in left if ".auto.moved/" not in name] == []
        for number, row in enumerate(rows[what]):
            head = f"{what:<24} {mode:<5}" if number == 0 else " " * 30
            shown = row.replace(str(b.images), "…")
            print(f"{head} {shown:<64} {'nothing' if number == 0 else ''}")
