"""Move a guest to and fro, and kill what moves it at random moments; afterwards one host has it.

    python -m tests.soak [--migrations N] [--seed SEED] [--workers N] [--modes save,live,cold,xm]

Each migration has a victim: the daemon of the source or of the target (kill -9), both, the cable
between them, or none. After everything is back, exactly one host runs the guest, the guest finds
every block as it wrote it, and nothing is left half-made. The first violation ends the run with the
seed that repeats its choices (not its timing) and the logs of both daemons.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from protocol.messages import Mode
from tests.soak.cable import Cable
from tests.support.crash import GUEST, CrashHost, World
from xenmoved.control.api import StartMigration, TransferOptions
from xenmoved.control.client import DaemonUnavailable
from xenmoved.control.reports import JobReport

VICTIMS = ("source", "target", "cable", "both", "nobody")
KEEP_CHANCE = 0.5
"""How often the volumes that a guest left behind stay for the way back."""
PROGRESS = 10
_UNCERTAIN = re.compile(r"volume images:(\S+) stays, as it is not certain")


@dataclass(frozen=True, slots=True)
class Trip:
    """One migration, its victim and the moment of its death as a share of the usual time."""

    tool: str
    mode: Mode
    victim: str
    moment: float
    pause: float


class Course:
    """A world with cables, in which one trip follows the other."""

    def __init__(self, folder: Path, tool: str) -> None:
        self.world = World(folder, tool)
        self.world.start()
        first, second = self.world.hosts
        self._cables = {first.name: Cable(second.port), second.name: Cable(first.port)}
        first.trust(second, port=self._cables[first.name].port)
        second.trust(first, port=self._cables[second.name].port)
        self._usual = dict.fromkeys(Mode, 2.0)
        self._read: dict[str, int] = {}

    def travel(self, trip: Trip) -> str:
        """Make one trip; returns how it ended. Raises AssertionError."""
        source = self.world.source
        target = self.world.other(source)
        if trip.mode is Mode.COLD:
            source.xen.xl("destroy", GUEST)
        began = time.monotonic()
        self._begin(source, target, trip.mode)
        time.sleep(max(0.0, trip.moment * self._usual[trip.mode] - (time.monotonic() - began)))
        self._disturb(trip.victim, source, target)
        if trip.victim != "nobody":
            time.sleep(trip.pause)
        self._restore()
        self.world.wait_quiet()
        self._remove_what_is_told_of()
        if trip.victim == "nobody":
            took = time.monotonic() - began
            self._usual[trip.mode] = (self._usual[trip.mode] + took) / 2
        if trip.mode is Mode.COLD:
            self.world.start_stopped()
        owner = self.world.owner()
        return "moved" if owner is target else "stayed"

    def close(self) -> None:
        """End everything."""
        self.world.close()
        for cable in self._cables.values():
            cable.close()

    @staticmethod
    def _begin(source: CrashHost, target: CrashHost, mode: Mode) -> None:
        answer = source.ask(StartMigration(GUEST, target.name, mode, TransferOptions()))
        assert isinstance(answer, JobReport), answer

    def _disturb(self, victim: str, source: CrashHost, target: CrashHost) -> None:
        killed = {"source": [source], "target": [target], "both": [source, target]}
        for host in killed.get(victim, []):
            os.kill(host.pid, signal.SIGKILL)
            assert host.process is not None
            host.process.wait()
        if victim == "cable":
            for cable in self._cables.values():
                cable.cut()

    def _remove_what_is_told_of(self) -> None:
        """Remove, as an operator would, what a daemon made and was killed before it noted it."""
        for host in self.world.hosts:
            log = host.log()
            news = log[self._read.get(host.name, 0) :]
            self._read[host.name] = len(log)
            for name in _UNCERTAIN.findall(news):
                if (file := host.images / name).exists():
                    assert file.stat().st_blocks == 0, f"{file} holds something"
                    file.unlink()

    def _restore(self) -> None:
        for cable in self._cables.values():
            cable.heal()
        self.world.restart_dead()


def plan(seed: int, count: int, modes: list[str]) -> list[Trip]:
    """Choose trips; `xm` stands for a save with xm."""
    choose = random.Random(seed)
    trips = []
    for _ in range(count):
        mode = choose.choice(modes)
        trips.append(
            Trip(
                tool="xm" if mode == "xm" else "xl",
                mode=Mode.SAVE if mode == "xm" else Mode(mode),
                victim=choose.choice(VICTIMS),
                moment=choose.random() * 1.1,
                pause=choose.choice((0.0, 0.3, 2.0)),
            )
        )
    return trips


def run(seed: int, count: int, modes: list[str]) -> Counter[tuple[str, str, str]]:
    """Make so many trips in worlds of this process. Raises AssertionError with all details."""
    counts: Counter[tuple[str, str, str]] = Counter()
    courses: dict[str, Course] = {}
    choose = random.Random(~seed)
    with tempfile.TemporaryDirectory(prefix="xm-soak-") as folder:
        try:
            for number, trip in enumerate(plan(seed, count, modes)):
                if trip.tool not in courses:
                    courses[trip.tool] = Course(Path(folder) / trip.tool, trip.tool)
                course = courses[trip.tool]
                try:
                    how = course.travel(trip)
                    if choose.random() > KEEP_CHANCE:
                        course.world.forget_volumes()
                except (AssertionError, DaemonUnavailable):
                    logs = "\n".join(f"--- {h.name}\n{h.log()[-8000:]}" for h in course.world.hosts)
                    raise AssertionError(
                        f"seed {seed}, trip {number}: {trip}\n{traceback.format_exc()}\n{logs}"
                    ) from None
                mode = trip.mode.value if trip.tool == "xl" else "xm"
                counts[(mode, trip.victim, how)] += 1
        finally:
            for course in courses.values():
                course.close()
    return counts


def main() -> None:
    """Run and print a table; exits the process, with 1 after a violation."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--migrations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--modes", default="save,live,cold,xm", help="default: %(default)s")
    arguments = parser.parse_args()
    print(f"{arguments.migrations} migrations, seed {arguments.seed}", flush=True)
    began = time.monotonic()
    batches = -(-arguments.migrations // PROGRESS)
    counts: Counter[tuple[str, str, str]] = Counter()
    with ProcessPoolExecutor(arguments.workers) as pool:
        work = [
            pool.submit(run, arguments.seed + batch, PROGRESS, arguments.modes.split(","))
            for batch in range(batches)
        ]
        for done in as_completed(work):
            try:
                counts += done.result()
            except Exception as error:
                pool.shutdown(wait=True, cancel_futures=True)
                sys.exit(f"VIOLATION: {error}")
            print(f"{counts.total()} done, {time.monotonic() - began:.0f} s", flush=True)
    print(f"\n{'mode':<6} {'victim':<8} {'moved':>6} {'stayed':>6}")
    for mode, victim in sorted({key[:2] for key in counts}):
        moved, stayed = (counts[(mode, victim, how)] for how in ("moved", "stayed"))
        print(f"{mode:<6} {victim:<8} {moved:>6} {stayed:>6}")
    print(f"{counts.total()} migrations, exactly one owner each time")


if __name__ == "__main__":
    main()
