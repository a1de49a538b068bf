"""Guests with disks in images, each with a real QEMU that serves it and the monitor of libxl's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias

from protocol.messages import Mode
from tests.support.dom0 import MIB, QUIET, Dom0, Guest, unique
from tests.support.qemu import Emulator, content, make_image, start_emulator
from xenmoved.jobs.report import JobReport, Phase

QEMU_NAMES: Final = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc"}
SIZE: Final = 16 * MIB

Serve: TypeAlias = Callable[..., tuple[Guest, Path, Emulator]]


def server(cleanup: ExitStack, host: Dom0) -> Serve:
    """Return what starts a guest with a disk in an image, and the QEMU that serves it."""

    def start(
        kind: str, *options: str, vdev: str = "xvda", lines: str = "", ending: str = ""
    ) -> tuple[Guest, Path, Emulator]:
        name = unique("web")
        disk = make_image(
            host.images / f"{name}.{ending or kind}", QEMU_NAMES[kind], SIZE, *options
        )
        spec = f"format={kind},vdev={vdev},target={disk}"
        guest = host.boot(name, [disk], specs=[spec], extra=QUIET, lines=lines)
        emulator = serve_again(host, name, disk, kind)
        cleanup.callback(emulator.end)
        emulator.write("hd0", 2 * MIB, 3 * MIB, fill=7)
        return guest, disk, emulator

    return start


def serve_again(host: Dom0, guest: str, disk: Path, kind: str) -> Emulator:
    """Start the QEMU of a guest that runs on a host. The caller's to end."""
    domain = host.domain(guest)
    assert domain is not None
    monitors = host.xen.root / "run"
    monitors.mkdir(exist_ok=True)
    disks = {"hd0": (f"{QEMU_NAMES[kind]},file.locking=off", disk)}
    return start_emulator(monitors, disks, domid=domain.domid)


def seen(emulator: Emulator, kind: str) -> bytes:
    """End a QEMU; return what its guest has seen of the disk."""
    emulator.io("hd0", "flush")
    emulator.end()
    return content(emulator.disks["hd0"], QEMU_NAMES[kind])


def gone(emulator: Emulator) -> None:
    """End a QEMU, and remove its monitors, as libxl does."""
    emulator.end()
    for monitor in emulator.folder.glob("qmp-*"):
        monitor.unlink()


def quit_qemu(emulator: Emulator) -> None:
    """Have a QEMU close its disks and end, as it does with its domain."""
    emulator.process.terminate()
    emulator.process.wait(20)
    gone(emulator)


def held(host: Dom0, guest: Guest, mode: Mode, **options: Any) -> JobReport:
    """Begin a migration, and return when it waits for its operator, all but done."""
    job = host.begin(guest.name, mode=mode, hold=True, **options)
    return host.until(job.job, lambda report: report.phase is Phase.HOLD)
