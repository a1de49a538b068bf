"""The demonstration: a guest that never stops writing moves to another host and back.

Two daemons on this machine, each with an emulated Xen host, talk over real SSH and copy real disks.
Exits with 0 only if the guest found every block that it ever wrote, and ran nowhere twice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from storage.tracking.tracefs import borrowed_tracefs
from xenmoved.control.api import GetJob, ListJobs
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.ending import ends_cleanly, undisturbed_end
from xenmoved.sandbox.harness import make_image
from xenmoved.sandbox.pair import SandboxHost
from xenmoved.units import format_size

GUEST = "web1"
_ROOT_DISK, _DATA_DISK = "web1-root", "web1-data"
_MEMORY = 64  # MiB


def main() -> None:
    """Run the demonstration; exits the process."""
    parser = argparse.ArgumentParser(prog="xenmoved.sandbox.demo", description=__doc__)
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of each disk")
    parser.add_argument("--rate", type=float, default=4, metavar="MIB", help="written a second")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with (
        ends_cleanly("The demonstration was ended; nothing is left of it."),
        borrowed_tracefs(),
        tempfile.TemporaryDirectory(prefix="xenmoved-demo-") as folder,
        undisturbed_end(),
        ExitStack() as stack,
    ):
        good = _demonstrate(console, Path(folder), stack, arguments.size, arguments.rate)
    sys.exit(0 if good else 1)


def _demonstrate(console: Console, folder: Path, stack: ExitStack, size: int, rate: float) -> bool:
    hosts = [_host(folder, name, size, stack) for name in ("host-a", "host-b")]
    for host in hosts:
        stack.callback(host.close)
        host.start()
    first, second = hosts
    first.trust(second)
    second.trust(first)
    _create_guest(first, size, rate)
    console.print(
        f"Two daemons run on this machine. {GUEST} runs on {first.name}: {_MEMORY} MiB of memory, "
        f"two disks of {size} MiB (one half full), {rate:g} MiB written every second.\n"
    )
    time.sleep(2)
    moves = []
    for source, target in ((first, second), (second, first)):
        console.rule(f"xenmovectl migrate {GUEST} {target.name}")
        if not _migrate(source, target):
            console.print("[red]The migration failed.[/] The daemon's log:")
            console.print(source.log(), markup=False)
            return False
        report = _last_job(source)
        moves.append(report)
        verdict = target.xen.check(GUEST)
        good = _verified(console, source, target, verdict)
        if not good or report.state is not JobState.DONE:
            return False
        time.sleep(2)
    console.print(_summary(moves))
    there, back = (
        sum(one.wire_bytes for volume in report.volumes for one in volume.rounds)
        for report in moves
    )
    console.print(
        f"Disks: {format_size(there)} travelled there, {format_size(back)} on the way back: only "
        "what differs."
    )
    console.print(
        f"[green]{GUEST} moved to {second.name} and back, and found every block that it wrote."
    )
    return True


def _host(folder: Path, name: str, size: int, stack: ExitStack) -> SandboxHost:
    """Set up a host whose pools are a folder of images and, for root, a loop device."""
    settings: dict[str, Any] = {}
    if os.geteuid() == 0 and (device := stack.enter_context(_loop_device(folder, name, size))):
        settings["pools"] = {
            "images": {"kind": "dir", "path": str(folder / name / "images")},
            "disks": {"kind": "block", "devices": {_DATA_DISK: device}},
        }
    return SandboxHost(folder, name, settings=settings)


@contextmanager
def _loop_device(folder: Path, name: str, size: int) -> Iterator[str | None]:
    backing = folder / f"{name}.disk"
    make_image(backing, size)
    done = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    device = done.stdout.strip() if done.returncode == 0 else None
    try:
        yield device
    finally:
        if device is not None:
            subprocess.run(["losetup", "--detach", device], check=False)


def _create_guest(host: SandboxHost, size: int, rate: float) -> None:
    pools = host.settings["pools"]
    root, data = host.images / _ROOT_DISK, host.images / _DATA_DISK
    make_image(root, size)
    with root.open("r+b") as file:  # the guest's own data from before
        for _ in range(size // 2):
            file.write(os.urandom(2**20))
    if "disks" in pools:
        data = Path(pools["disks"]["devices"][_DATA_DISK])
    else:
        make_image(data, size)
    extra = f"sandbox.rate={rate}"
    host.xen.create(GUEST, [root, data], memory=_MEMORY, extra=extra)
    config = host.folder / "xen" / f"{GUEST}.cfg"
    config.write_text(
        f'name = "{GUEST}"\nmemory = {_MEMORY}\n'
        f'disk = ["format=raw,vdev=xvda,target={root}", "format=raw,vdev=xvdb,target={data}"]\n'
    )


def _migrate(source: SandboxHost, target: SandboxHost) -> bool:
    """Run the real client, on this terminal."""
    # The first time the loop device there is not known to be a copy of the guest's disk.
    command = ["migrate", GUEST, target.name, "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-m", "xenmoved.ctl.main", "--socket", str(source.socket), *command],
        check=False,
    )
    return done.returncode == 0


def _last_job(host: SandboxHost) -> JobReport:
    jobs = host.ask(ListJobs(ended=True)).jobs
    job = next(one.job for one in jobs if one.kind == "migrate")
    report: JobReport = host.ask(GetJob(job))  # the list leaves out the rounds
    return report


def _verified(
    console: Console, source: SandboxHost, target: SandboxHost, verdict: dict[str, Any]
) -> bool:
    gone = source.xen.state(GUEST) is None
    good = bool(verdict["ok"]) and gone
    console.print(
        f"\n{GUEST} on {target.name}: "
        + (
            f"[green]all {verdict['blocks']} blocks that it wrote are right[/], "
            f"{verdict['sequence']} writes in sequence"
            if verdict["ok"]
            else f"[red]{verdict['failures']}[/]"
        )
        + (f"; gone from {source.name}\n" if gone else f"; [red]still on {source.name}[/]\n")
    )
    return good


def _summary(moves: list[JobReport]) -> Table:
    table = Table(title="What travelled", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("to", "disk", "round", "same", "diff", "zero", "sent", "MiB/s", "blackout"):
        justify: Literal["left", "right"] = "left" if column in ("to", "disk") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for report in moves:
        blackout = f"{report.blackout:.2f} s" if report.blackout is not None else "?"
        for volume in report.volumes:
            for one in volume.rounds:
                table.add_row(
                    report.peer,
                    volume.target,
                    str(one.number),
                    *(str(count) for count in (one.same, one.diff, one.zero)),
                    format_size(one.wire_bytes),
                    f"{one.examined / 2**20 / max(one.seconds, 1e-3):.0f}",
                    blackout,
                )
                blackout = ""
        table.add_row(
            report.peer,
            "memory",
            "",
            "",
            "",
            "",
            format_size(report.memory_sent),
            "",
            "",
            end_section=True,
        )
    return table


if __name__ == "__main__":
    main()
