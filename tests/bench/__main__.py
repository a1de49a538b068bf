"""Speed of `xenmovectl sync` beside what a user would pick instead, on the same data in one run.

    python -m tests.bench [--size MIB] [--runs N] [--dir DIR] [--cap SECONDS] [--case CASE]...
                          [--alone] [--json FILE]

The last case is the memory of a guest that is saved. "loops" are the processor seconds of the event
loops for each GiB, at the source and the target: of them each daemon has one, on one processor.

Everything lies in one folder, by default in memory, so that the programs are compared and not the
disk; with another --dir the page cache is dropped before each run. Every copy is durable when its
time is taken, and is compared with its source afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.contenders import (
    FAST_CIPHER,
    Contender,
    Dd,
    OpenSsh,
    Ours,
    Rsync,
    Run,
    missing_tools,
)
from xenmoved.sandbox.pair import sandbox_pair

BLOCK = 64 * 1024
SPARSE_SIZE = 100 * 2**30
HUGE_SIZE = 2**40
SPARSE_DATA = 256

READ_AND_HASH = """
import sys
from blake3 import blake3
buffer = bytearray(256 * 1024)
with open(sys.argv[1], "rb", buffering=0) as file:
    while count := file.readinto(buffer):
        blake3(memoryview(buffer)[:count]).digest()
"""
FLOORS = {
    "read by dd": ["dd", "if={}", "of=/dev/null", "bs=1M", "status=none"],
    "read and BLAKE3, one thread each": [sys.executable, "-c", READ_AND_HASH, "{}"],
}
"""What no program that looks at both volumes can be faster than: alone, and with a safe hash."""

Prepare = Callable[[Contender, Path, Path], None]
Results = dict[str, dict[str, list[Run]]]


def main() -> None:
    """Measure and print; exits the process."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="of each volume")
    parser.add_argument("--runs", type=int, default=3, help="of each case; the median counts")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="default: %(default)s")
    parser.add_argument("--cap", type=float, default=60, help="seconds after which others end")
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    parser.add_argument("--alone", action="store_true", help="no other programs beside ours")
    parser.add_argument("--json", type=Path, default=Path("bench-results/sync.json"))
    arguments = parser.parse_args()
    if not arguments.alone and (missing := missing_tools()):
        sys.exit(
            f"error: the programs to compare with are missing: apt-get install {' '.join(missing)}"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.dir)))
        results = measure(folder, arguments, stack)
    Console(width=110).print(table(results, arguments.size))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    plain = {c: {n: [asdict(r) for r in rs] for n, rs in by.items()} for c, by in results.items()}
    arguments.json.write_text(json.dumps(plain, indent=1))
    print(f"written to {arguments.json}")


def measure(folder: Path, arguments: argparse.Namespace, stack: ExitStack) -> Results:
    """Run every case with every contender, in turns."""
    settings = {"transfer": {"compression": "off"}}
    source_host, target_host = stack.enter_context(
        sandbox_pair(folder / "hosts", settings=settings, overcommit=True)
    )
    ours = Ours(source_host, target_host)
    others: list[Contender] = []
    fast: list[Contender] = []
    if not arguments.alone:
        server = OpenSsh(folder / "ssh")
        stack.callback(server.close)
        whole = (Rsync(server, whole_file=True), Rsync(server, whole_file=False))
        others = [Dd(server), *whole]
        fast = [
            Dd(server, cipher=FAST_CIPHER),
            Rsync(server, whole_file=True, cipher=FAST_CIPHER),
        ]
    source, target = folder / "source.img", target_host.images / "target.img"
    random_file(source, arguments.size)
    in_memory = str(folder).startswith("/dev/shm")
    results: Results = {}

    def case(
        name: str, contenders: list[Contender], prepare: Prepare, runs: int, path: Path
    ) -> None:
        if arguments.case and name not in arguments.case:
            return
        by_name = results.setdefault(name, {})
        for _ in range(runs):
            for contender in contenders:
                prepare(contender, path, target)
                if not in_memory:
                    drop_caches()
                run = contender.run(path, target, arguments.cap)
                if not run.capped:
                    check_same(path, target)
                by_name.setdefault(contender.name, []).append(run)
                print(f"{name:>24}  {contender.name:<32} {run.wall:7.2f} s", flush=True)

    all_of_them: list[Contender] = [ours, *others]
    case("initial copy", [*all_of_them, *fast], fresh, arguments.runs, source)
    case("identical", all_of_them, identical, arguments.runs, source)
    case("1 % changed", all_of_them, changed, arguments.runs, source)
    if not arguments.case or "memory" in arguments.case:
        results["memory"] = {
            ours.name: [ours.move_memory(arguments.size) for _ in range(arguments.runs)]
        }
    if arguments.case:
        return results
    identical(ours, source, target)
    results["both volumes at once"] = {
        name: [together(command, source, target) for _ in range(arguments.runs)]
        for name, command in FLOORS.items()
    }
    target.unlink()
    sparse = folder / "sparse.img"
    sparse_file(sparse, SPARSE_SIZE)
    case("100 GiB sparse", all_of_them, fresh, 1, sparse)
    case("100 GiB sparse again", [ours], identical, 1, sparse)
    sparse_file(sparse, HUGE_SIZE)
    case("1 TiB sparse", [ours], fresh, 1, sparse)
    return results


def fresh(_contender: Contender, _source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)


def identical(contender: Contender, source: Path, target: Path) -> None:
    """Have the contender make it: ours compares with a copy only that it knows as its own."""
    target.unlink(missing_ok=True)
    contender.run(source, target, 600)


def changed(contender: Contender, source: Path, target: Path) -> None:
    identical(contender, source, target)
    blocks = source.stat().st_size // BLOCK
    with source.open("r+b") as file:
        for block in random.sample(range(blocks), blocks // 100):
            file.seek(block * BLOCK)
            file.write(os.urandom(4096))


def together(command: list[str], *paths: Path) -> Run:
    """Run a command on each of the files at the same time."""
    began = time.monotonic()
    readers = [subprocess.Popen([part.format(path) for part in command]) for path in paths]
    for reader in readers:
        reader.wait()
    return Run(time.monotonic() - began, 0.0, None)


def random_file(path: Path, mebibytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(2**20))


def sparse_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(SPARSE_DATA):
            file.seek(size // SPARSE_DATA * number)
            file.write(os.urandom(2**20))


def check_same(source: Path, target: Path) -> None:
    """Compare two files where they have data. Raises RuntimeError."""
    if source.stat().st_size != target.stat().st_size:
        raise RuntimeError("the copy has another size")
    with source.open("rb") as ours, target.open("rb") as theirs:
        for number in {os.fstat(f.fileno()).st_ino: f for f in (ours, theirs)}.values():
            position, end = 0, source.stat().st_size
            while position < end:
                try:
                    position = os.lseek(number.fileno(), position, os.SEEK_DATA)
                except OSError:
                    break
                if os.pread(ours.fileno(), 2**20, position) != os.pread(
                    theirs.fileno(), 2**20, position
                ):
                    raise RuntimeError(f"the copy differs near {position}")
                position += 2**20


def drop_caches() -> None:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def table(results: Results, size: int) -> Table:
    """Return the medians, with ratios to ours."""
    shown = Table(title=f"sync of {size} MiB volumes, medians")
    columns = ("case", "program", "wall s", "times ours", "CPU s", "loops s/GiB", "peak MiB")
    for column in columns:
        shown.add_column(column, justify="left" if column in ("case", "program") else "right")
    for name, by_name in results.items():
        base = statistics.median(run.wall for run in next(iter(by_name.values())))
        for program, runs in by_name.items():
            wall = statistics.median(run.wall for run in runs)
            more = "> " if any(run.capped for run in runs) else ""
            peaks = [run.peak_memory for run in runs if run.peak_memory is not None]
            shown.add_row(
                name if program == next(iter(by_name)) else "",
                program,
                f"{more}{wall:.2f}",
                f"{more}{wall / base:.2f}",
                f"{statistics.median(run.cpu for run in runs):.2f}" if not more else "",
                "" if "sparse" in name else _loops(runs, size),
                f"{max(peaks) / 2**20:.0f}" if peaks else "",
                end_section=program == list(by_name)[-1],
            )
    return shown


def _loops(runs: list[Run], size: int) -> str:
    """Return the least processor seconds of the loops for each GiB: others only add to it."""
    ends = zip(*(run.loops for run in runs if run.loops is not None), strict=True)
    return ", ".join(f"{min(seconds) * 1024 / size:.2f}" for seconds in ends)


if __name__ == "__main__":
    main()
