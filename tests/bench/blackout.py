"""How long a guest stands still when it moves live, with disks of very different sizes.

    python -m tests.bench.blackout [--runs N] [--dir DIR] [--sizes 1,64] [--data GIB] [--rate MIB]

A guest with one disk on a loop device writes at a constant rate into the same part of it, whatever
the size of the disk, and moves to and fro between two emulated hosts. Needs root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from protocol.messages import Mode
from xenmoved.control.api import StartMigration
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.pair import SandboxHost

GUEST = "writer"
GIB = 2**30
MIB = 2**20
PIECE = 16 * MIB
WORKING = 256
"""MiB of the disk that the guest writes to."""


@dataclass(frozen=True, slots=True)
class Blackout:
    """One migration. Seconds; bytes that were dirty when the last round began, and that it sent."""

    size: int
    total: float
    blackout: float
    last_round: float
    last_dirty: int
    last_sent: int


def main() -> None:
    """Measure and print; exits the process."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.blackout", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=5, help="migrations with each size")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--sizes", default="1,64", metavar="GIB,...", help="default: %(default)s")
    parser.add_argument("--data", type=int, default=8, metavar="GIB", help="at most so much data")
    parser.add_argument("--rate", type=float, default=64, metavar="MIB", help="written a second")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: loop devices need root")
    results: list[Blackout] = []
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="xm-") as folder:
            results += measure(Path(folder), size * GIB, arguments)
    Console(width=110).print(table(results))


def measure(folder: Path, size: int, arguments: argparse.Namespace) -> list[Blackout]:
    """Move a guest with a disk of that size to and fro."""
    found = []
    with ExitStack() as stack:
        hosts = [stack.enter_context(host(folder, name, size)) for name in ("host-a", "host-b")]
        hosts[0].trust(hosts[1])
        hosts[1].trust(hosts[0])
        fill(folder / "host-a.img", size, min(size * 3 // 4, arguments.data * GIB))
        disk = hosts[0].folder / "disk"
        share = WORKING * MIB / size
        extra = f"sandbox.rate={arguments.rate} sandbox.share={share} sandbox.checks=10"
        hosts[0].xen.create(GUEST, [disk], memory=64, extra=extra)
        for _ in range(arguments.runs + 1):
            report = move(*hosts)
            found.append(one := result(report, size))
            print(
                f"{size // GIB:>4} GiB: {one.total:7.1f} s in all, blackout {one.blackout:.3f} s, "
                f"last round {one.last_round:.3f} s for {one.last_dirty / MIB:.1f} MiB dirty, "
                f"{one.last_sent / MIB:.1f} sent",
                flush=True,
            )
            hosts.reverse()
        verdict = hosts[0].xen.check(GUEST)
        if not verdict["ok"]:
            raise RuntimeError(f"the guest found damage: {verdict}")
    return found[1:]  # the first one copies everything


@contextmanager
def host(folder: Path, name: str, size: int) -> Iterator[SandboxHost]:
    """Run a host with one block device of that size."""
    image = folder / f"{name}.img"
    with image.open("wb") as file:
        file.truncate(size)
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    pool = {"kind": "block", "devices": {"disk": str(folder / name / "disk")}}
    one = SandboxHost(folder, name, settings={"pools": {"disks": pool}, "default_pool": "disks"})
    try:
        (one.folder / "disk").symlink_to(device)
        one.start()
        yield one
    finally:
        one.close()
        subprocess.run(["losetup", "--detach", device], check=True)


def fill(path: Path, size: int, data: int) -> None:
    """Put data evenly all over a sparse file."""
    pieces = data // PIECE
    block = os.urandom(PIECE)
    with path.open("r+b") as file:
        for number in range(pieces):
            file.seek(size // pieces * number // PIECE * PIECE)
            file.write(os.urandom(4096) + block[4096:])
    os.sync()


def move(source: SandboxHost, target: SandboxHost) -> JobReport:
    """Move the guest live, and return how it went."""
    options = TransferOptions(overwrite=True, compression="off")
    job = source.ask(StartMigration(GUEST, target.name, Mode.LIVE, options))
    if not isinstance(job, JobReport):
        raise RuntimeError(f"refused: {job}")
    report = source.finish(job.job, timeout=1800)
    if report.state is not JobState.DONE:
        raise RuntimeError(f"failed: {report.problem}")
    return report


def result(report: JobReport, size: int) -> Blackout:
    """Take what counts from a report."""
    last = report.volumes[0].rounds[-1]
    if report.ended is None or report.blackout is None:
        raise RuntimeError("a job that is done has no end")
    took = report.ended - report.started
    return Blackout(size, took, report.blackout, last.seconds, last.total, last.data_bytes)


def table(results: list[Blackout]) -> Table:
    """Return medians for each size, with ratios to the first."""
    shown = Table(title="live migration of a writing guest, medians (and the spread)")
    columns = ("disk", "whole migration s", "blackout s", "ratio")
    for column in (*columns, "last round ms", "MiB dirty", "MiB sent"):
        shown.add_column(column, justify="right")
    base = None
    for size in dict.fromkeys(one.size for one in results):
        mine = [one for one in results if one.size == size]
        blackouts = [one.blackout for one in mine]
        blackout = statistics.median(blackouts)
        base = base or blackout
        shown.add_row(
            f"{size // GIB} GiB",
            f"{statistics.median(one.total for one in mine):.1f}",
            f"{blackout:.3f} ({min(blackouts):.3f}-{max(blackouts):.3f})",
            f"{blackout / base:.2f}",
            f"{statistics.median(one.last_round for one in mine) * 1000:.0f}",
            f"{statistics.median(one.last_dirty for one in mine) / MIB:.1f}",
            f"{statistics.median(one.last_sent for one in mine) / MIB:.1f}",
        )
    return shown


if __name__ == "__main__":
    main()
