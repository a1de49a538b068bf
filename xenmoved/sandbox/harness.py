"""Driving emulated hosts from Python: for the demo and for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid as uuids
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenmoved.sandbox import xl
from xenmoved.sandbox.build import PACKAGE_ROOT
from xenmoved.sandbox.host import Host
from xenmoved.sandbox.main import verdict

if TYPE_CHECKING:
    from collections.abc import Callable


# The end is short, as most commands take less time than it takes to take an interpreter down.
START = (
    "import os, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from xenmoved.sandbox.main import main; status = main(); sys.stdout.flush(); os._exit(status)"
)


class EmulatedHost:
    """One emulated host. Hosts whose folders have the same parent share a witness folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *args: str) -> list[str]:
        """Return the command line for `xl …`, `xm …`, `check` or `stop`, absolute in all parts."""
        return [sys.executable, "-S", "-c", START, PACKAGE_ROOT, "--root", str(self.root), *args]

    def run(self, *args: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command; `status` is what it must end with, None for whatever."""
        done = subprocess.run(self.command(*args), capture_output=True, text=True, check=False)
        if status is not None and done.returncode != status:
            raise AssertionError(f"{args} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def xl(self, *args: str, status: int | None = 0) -> str:
        """Run an `xl` command; returns what it printed, or its complaint when it fails."""
        done = self.run("xl", *args, status=status)
        return done.stderr if done.returncode else done.stdout

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command without waiting for it."""
        return subprocess.Popen(self.command(*args), **options)

    @property
    def folder(self) -> Host:
        """What the commands find and leave, for those who only look."""
        return Host(self.root, self.root.parent / "witness")

    def state(self, name: str) -> str | None:
        """Return the state column of a domain, None when there is no such domain."""
        folder = self.folder
        domain = folder.find(name)
        return None if domain is None else xl.state_letters(folder, domain)

    def wait_for(self, name: str, state: str | None, timeout: float = 10.0) -> None:
        """Wait until a domain has a state, where `-b----` stands for any that executes."""
        wanted = ("-b----", "r-----") if state == "-b----" else (state,)
        wait_until(lambda: self.state(name) in wanted, f"{name} in state {state}", timeout)

    def check(self, name: str) -> dict[str, Any]:
        """Make a guest verify everything that it wrote; returns its verdict."""
        return verdict(self.folder, name)

    def console(self, name: str) -> str:
        """Return what a guest has printed here."""
        path = self.root / "console" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def faults(self, **by_verb: dict[str, Any]) -> None:
        """Set what the commands shall do wrong; underscores stand for dashes in verbs."""
        self.root.mkdir(parents=True, exist_ok=True)
        text = json.dumps({verb.replace("_", "-"): one for verb, one in by_verb.items()})
        written = self.root / "faults.json.new"
        written.write_text(text)
        written.replace(self.root / "faults.json")  # whoever waits for their end reads all the time

    def create(
        self,
        name: str,
        disks: list[Path],
        *args: str,
        memory: int = 2,
        extra: str = "",
        lines: str = "",
    ) -> str:
        """Start a guest that writes to `disks` (images or block devices); returns its uuid.

        `lines` are more of its configuration.
        """
        uuid = str(uuids.uuid4())
        kinds = ["phy" if disk.is_block_device() else "file" for disk in disks]
        specs = [
            f"{kind}:{disk},xvd{chr(ord('a') + i)},w"
            for i, (kind, disk) in enumerate(zip(kinds, disks, strict=True))
        ]
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{name}.cfg"
        path.write_text(
            f"name = {name!r}\nuuid = {uuid!r}\nmemory = {memory}\ndisk = {specs!r}\n"
            f"vif = ['bridge=xenbr0']\nextra = {extra!r}\n{lines}"
        )
        self.xl("create", *args, str(path))
        return uuid

    def stop(self) -> None:
        """Destroy every guest."""
        if self.root.is_dir():
            self.run("stop")


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Wait for a condition. Raises AssertionError naming `what` in the end.

    It is looked at less often as time goes on: a look may be as much work as what it waits for.
    """
    deadline = time.monotonic() + timeout
    pause = 0.01
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.15)


def make_image(path: Path, mebibytes: int) -> Path:
    """Make a sparse image file."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), mebibytes << 20)
    return path
