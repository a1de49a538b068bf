"""How fast a fully allocated image moves by its content, beside a raw disk of the same bytes.

    python -m tests.bench.images [--size MIB] [--runs N] [--dir DIR] [--case CASE]...

Guests on two emulated hosts, with disks full of data; everything lies in one folder, by default in
memory, so that the ways are compared and not the disk. A guest that is off is sent once. The disk
of one that runs is read by a real QEMU, and what counts is its first round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from protocol.messages import Mode
from tests.bench.__main__ import random_file
from tests.support.qemu import Emulator, content, qemu_obstacle, start_emulator
from xenmoved.control.api import StartMigration
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.pair import SandboxHost, sandbox_pair

QEMU_NAMES: Final = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc"}


@dataclass(frozen=True, slots=True)
class Way:
    """A guest whose disk is in one format here, and in another one there."""

    name: str
    here: str
    there: str
    mode: Mode

    @property
    def disk(self) -> str:
        """What the disk is called here."""
        return "web" if self.here == "raw" else f"web.{self.here}"


WAYS: Final = (
    Way("off: raw to raw", "raw", "raw", Mode.COLD),
    Way("off: raw to qcow2", "raw", "qcow2", Mode.COLD),
    Way("off: qcow2 to raw", "qcow2", "raw", Mode.COLD),
    Way("off: raw to vhd", "raw", "vhd", Mode.COLD),
    Way("runs: raw to raw", "raw", "raw", Mode.SAVE),
    Way("runs: qcow2 to raw", "qcow2", "raw", Mode.SAVE),
    Way("runs: qcow2 to qcow2", "qcow2", "qcow2", Mode.SAVE),
)
"""The first of each kind is what the others are compared with."""


def main() -> None:
    """Measure and print; exits the process."""
    parser = argparse.ArgumentParser(prog="tests.bench.images", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the disk")
    parser.add_argument("--runs", type=int, default=3, help="of each case; the median counts")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="default: %(default)s")
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    arguments = parser.parse_args()
    if (obstacle := qemu_obstacle()) is not None:
        sys.exit(f"error: {obstacle}")
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="xm-") as folder:
        plain = Path(folder) / "plain"
        random_file(plain, arguments.size)
        # In turns, as the machine may have other work.
        for _ in range(arguments.runs):
            for way in WAYS:
                if arguments.case and way.name not in arguments.case:
                    continue
                with tempfile.TemporaryDirectory(dir=folder) as hosts:
                    rate = measure(Path(hosts), plain, way)
                rates.setdefault(way.name, []).append(rate)
                print(f"{way.name:>24} {rate:8.0f} MiB/s", flush=True)
    Console(width=110).print(table(rates, arguments.size))


def measure(folder: Path, plain: Path, way: Way) -> float:
    """Move a guest with such a disk once; return the rate of its first round in MiB a second."""
    settings = {"transfer": {"compression": "off"}}
    with sandbox_pair(folder, settings=settings, overcommit=True) as (source, target):
        disk = source.images / way.disk
        convert(plain, disk, way.here)
        wanted = f"web.{way.there}"
        options = TransferOptions(volumes={disk.name: wanted})
        with guest(source, disk, way):
            job = source.ask(StartMigration("web", "host-b", way.mode, options))
            report: JobReport = source.finish(job.job, timeout=600)
        if report.state is not JobState.DONE:
            raise RuntimeError(f"{way.name}: {report.problem}")
        arrived = content(target.images / wanted, QEMU_NAMES[way.there])
        if arrived != plain.read_bytes():
            raise RuntimeError(f"{way.name}: the copy differs")
    return plain.stat().st_size / 2**20 / seconds_of_copying(report)


def seconds_of_copying(report: JobReport) -> float:
    """Return how long the disk was copied, from the end of all preparations on."""
    at = {one.phase.value: one.at for one in report.phases}
    return min(at[later] for later in ("suspend", "ready") if later in at) - at["pre-copy"]


@contextmanager
def guest(host: SandboxHost, disk: Path, way: Way) -> Iterator[None]:
    """Have a guest with a disk, off or running, with its QEMU."""
    spec = f"format={way.here},vdev=xvda,target={disk}"
    file = host.folder / "xen" / "web.cfg"
    quiet = "sandbox.rate=0 sandbox.checks=0 sandbox.dirty=0"
    file.write_text(f"name = 'web'\nmemory = 2\ndisk = ['{spec}']\nextra = '{quiet}'\n")
    if way.mode is Mode.COLD:
        yield
        return
    host.xen.run("xl", "create", str(file))
    found = host.xen.folder.find("web")
    assert found is not None
    emulator = serve(host, found.domid, disk, QEMU_NAMES[way.here])
    try:
        yield
    finally:
        emulator.end()


def serve(host: SandboxHost, domid: int, disk: Path, kind: str) -> Emulator:
    """Start the QEMU of a guest."""
    monitors = host.xen.root / "run"
    monitors.mkdir(exist_ok=True)
    return start_emulator(monitors, {"hd0": (f"{kind},file.locking=off", disk)}, domid=domid)


def convert(plain: Path, disk: Path, kind: str) -> None:
    """Make a fully allocated image of a raw file."""
    options = ["-o", "force_size=on"] if kind == "vhd" else []
    command = ["qemu-img", "convert", "-S", "0", "-f", "raw", "-O", QEMU_NAMES[kind], *options]
    subprocess.run([*command, str(plain), str(disk)], check=True)
    os.sync()


def table(rates: dict[str, list[float]], size: int) -> Table:
    """Return the medians, with ratios to the raw disk."""
    shown = Table(title=f"moving a disk of {size} MiB, medians")
    for column in ("case", "MiB/s", "of raw"):
        shown.add_column(column, justify="left" if column == "case" else "right")
    base: dict[str, float] = {}
    for way in WAYS:
        if way.name in rates:
            rate = statistics.median(rates[way.name])
            first = base.setdefault(way.mode.value, rate)
            shown.add_row(way.name, f"{rate:.0f}", f"{rate / first:.0%}")
    return shown


if __name__ == "__main__":
    main()
