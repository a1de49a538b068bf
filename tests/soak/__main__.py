"""Move a guest to and fro, and disturb it at random moments; afterwards one host has it.

    python -m tests.soak [--migrations N] [--seed SEED] [--workers N] [--modes …] [--victims …]

Each migration has a victim, of those in `victims.py`: a daemon that is killed, the cable between
the hosts, a disk that becomes another, a journal that cannot be written, a toolstack that fails, or
nobody. When both hosts say that nothing is left to do, which they must within a limit, exactly one
of them runs the guest, the guest finds every block as it wrote it, both daemons live, and nothing
is left half-made. Every violation is printed with the seed that repeats its choices (not its
timing) and the logs of both daemons.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from protocol.messages import Mode
from tests.soak.course import Course, Trip
from tests.soak.victims import VICTIMS
from xenmoved.control.client import DaemonUnavailable

KEEP_CHANCE = 0.5
"""How often the volumes that a guest left behind stay for the way back."""
PROGRESS = 10


def plan(seed: int, count: int, modes: Sequence[str], victims: Sequence[str]) -> list[Trip]:
    """Choose trips; `xm` stands for a save with xm."""
    choose = random.Random(seed)
    trips = []
    for _ in range(count):
        mode = choose.choice(modes)
        kind = "xm" if mode == "xm" else choose.choice(("xl", "hvm"))
        tool = "xm" if kind == "xm" else "xl"
        chosen = Mode.SAVE if mode == "xm" else Mode(mode)
        suiting = [v for v in victims if tool in VICTIMS[v].tools and chosen in VICTIMS[v].modes]
        victim = choose.choice(suiting or ["nobody"])
        moment, pause = choose.random() * 1.1, choose.choice((0.0, 0.3, 2.0))
        trips.append(Trip(kind, chosen, victim, moment, pause, choose.randrange(10**6)))
    return trips


def run(
    seed: int, count: int, modes: Sequence[str], victims: Sequence[str]
) -> Counter[tuple[str, str, str]]:
    """Make so many trips in worlds of this process. Raises AssertionError with all details."""
    counts: Counter[tuple[str, str, str]] = Counter()
    courses: dict[str, Course] = {}
    choose = random.Random(~seed)
    with tempfile.TemporaryDirectory(prefix="xm-soak-", ignore_cleanup_errors=True) as folder:
        try:
            for number, trip in enumerate(plan(seed, count, modes, victims)):
                if trip.kind not in courses:
                    courses[trip.kind] = Course(Path(folder) / trip.kind, trip.kind)
                course = courses[trip.kind]
                try:
                    how = course.travel(trip)
                    if choose.random() > KEEP_CHANCE:
                        course.world.forget_volumes()
                except (AssertionError, DaemonUnavailable):
                    logs = "\n".join(f"--- {h.name}\n{h.log()[-8000:]}" for h in course.world.hosts)
                    raise AssertionError(
                        f"seed {seed}, trip {number}: {trip}\n{traceback.format_exc()}\n{logs}"
                    ) from None
                mode = trip.kind if trip.kind == "xm" else f"{trip.mode.value} {trip.kind}"
                counts[(mode, trip.victim, how)] += 1
        finally:
            for course in courses.values():
                course.close()
    return counts


def main() -> None:
    """Run and print tables; exits the process, with 1 after a violation."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--migrations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--modes", default="save,live,cold,xm", help="default: %(default)s")
    parser.add_argument("--victims", default=",".join(VICTIMS), help="default: %(default)s")
    arguments = parser.parse_args()
    print(f"{arguments.migrations} migrations, seed {arguments.seed}", flush=True)
    victims = arguments.victims.split(",")
    if os.geteuid() != 0 and (left_out := [name for name in victims if VICTIMS[name].root]):
        print(f"left out, as only root can do that: {', '.join(left_out)}", flush=True)
        victims = [name for name in victims if name not in left_out]
    began = time.monotonic()
    counts: Counter[tuple[str, str, str]] = Counter()
    violations = 0
    with ProcessPoolExecutor(arguments.workers) as pool:
        work = [
            pool.submit(run, arguments.seed + batch, PROGRESS, arguments.modes.split(","), victims)
            for batch in range(-(-arguments.migrations // PROGRESS))
        ]
        for done in as_completed(work):
            if (error := done.exception()) is not None:
                violations += 1
                print(f"VIOLATION: {error}", flush=True)
            else:
                counts += done.result()
            print(f"{counts.total()} done, {time.monotonic() - began:.0f} s", flush=True)
    for column, title in enumerate(("mode", "victim")):
        print(f"\n{title:<12} {'moved':>6} {'stayed':>6}")
        for name in sorted({key[column] for key in counts}):
            how = Counter({key: n for key, n in counts.items() if key[column] == name})
            moved, stayed = (
                sum(n for key, n in how.items() if key[2] == word) for word in ("moved", "stayed")
            )
            print(f"{name:<12} {moved:>6} {stayed:>6}")
    if violations:
        sys.exit(f"{violations} violations")
    print(f"{counts.total()} migrations, exactly one owner each time")


if __name__ == "__main__":
    main()
