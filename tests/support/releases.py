"""Releases of this program beside the present one, each in a folder from which its daemon runs.

Earlier ones come out of the repository's history. The next one is made from the present source by
what a release may add: `tests.compat.next_release`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from protocol.messages import Mode
from tests.compat.next_release import FAR_CHANGES, NEXT_CHANGES, Change
from tests.support.crash import GUEST, CrashHost, World
from tests.support.preloaded import REPOSITORY
from tests.support.wire_tables import RELEASES
from xenmoved.sandbox.harness import wait_until
from xenmoved.sandbox.pair import DaemonProcess, SandboxHost

PRESENT: Final = "present"
NEXT: Final = "next"
FAR: Final = "far"
_COPIED: Final = ("protocol", "storage", "xenmoved", "tests/support")


@dataclass(frozen=True)
class Release:
    """An earlier release, as it stands in releases.txt."""

    name: str
    commit: str
    version: int
    unknown: frozenset[str]


@cache
def earlier_releases() -> tuple[Release, ...]:
    """Return the earlier releases, the newest first."""
    lines = RELEASES.read_text(encoding="utf-8").splitlines()
    return tuple(_release(line) for line in lines if line and not line.startswith("#"))


def _release(line: str) -> Release:
    known, _, unknown = line.partition(" without ")
    name, commit, version = known.split()
    return Release(name, commit, int(version), frozenset(unknown.split()))


def without_history() -> str | None:
    """Return why earlier releases cannot be had here, None where they can."""
    for release in earlier_releases():
        command = ("git", "-C", str(REPOSITORY), "cat-file", "-e", f"{release.commit}^{{commit}}")
        try:
            found = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return "there is no git here"
        if not found:
            return f"the history here does not go back to {release.name} ({release.commit[:7]})"
    return None


class Trees:
    """The folders of the releases, each made when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def tree(self, name: str) -> Path:
        """Return the folder from which a release runs."""
        if name == PRESENT:
            return REPOSITORY
        folder = self._root / name
        if not folder.exists():
            partial = self._root / f"{name}.partial"
            if name in (NEXT, FAR):
                _copy_changed(partial, NEXT_CHANGES if name == NEXT else FAR_CHANGES)
            else:
                _unpack(_commit(name), partial)
            partial.rename(folder)
        return folder


def _commit(name: str) -> str:
    return next(one.commit for one in earlier_releases() if one.name == name)


def _unpack(commit: str, folder: Path) -> None:
    command = ("git", "-C", str(REPOSITORY), "archive", commit)
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def _copy_changed(folder: Path, changes: Sequence[Change]) -> None:
    for part in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / part, folder / part, ignore=ignored)
    for change in changes:
        change.apply(folder)


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which Python takes everything from a tree."""
    return {**os.environ, "PYTHONPATH": str(tree)}


class ReleaseHost(CrashHost):
    """A host whose daemon, and whose `xenmovectl`, is of the release that was installed last.

    They are asked by their own client alone: the control socket is for one release.
    """

    def __init__(
        self, root: Path, name: str, trees: Trees, release: str, settings: dict[str, Any]
    ) -> None:
        super().__init__(root, name, "xl", settings)
        self._launcher = self._launch
        self._trees = trees
        self.install(release)

    def install(self, release: str) -> None:
        """Have this release from the next start on."""
        self.release = release
        self.tree = self._trees.tree(release)
        unknown = {one.name: one.unknown for one in earlier_releases()}.get(release, frozenset())
        whole = self.settings
        known = {key: value for key, value in whole.items() if key not in unknown}
        toolstack = {key: one for key, one in whole["toolstack"].items() if key not in unknown}
        self.settings = {**known, "toolstack": toolstack}
        self.write_config()
        self.settings = whole

    def _launch(
        self, arguments: Sequence[str], log: BinaryIO, variables: Mapping[str, str]
    ) -> DaemonProcess:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.faulty_daemon", *arguments],
            cwd=self.tree,
            env={**variables, "PYTHONPATH": str(self.tree)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the daemon listens to its client."""

        def ready() -> bool:
            assert not self.dead, f"{self.name} ({self.release}) did not start: {self.log()}"
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(self.socket)) == 0

        wait_until(ready, f"{self.name} ({self.release}) to answer", timeout)

    def restart(self, release: str) -> None:
        """End the daemon, in order, and start that of a release."""
        self.stop()
        self.install(release)
        self.start()

    def ctl(self, *args: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the `xenmovectl` of this release."""
        return subprocess.run(
            [sys.executable, "-m", "xenmoved.ctl.main", "--socket", str(self.socket), *args],
            cwd=self.tree,
            env={**environment(self.tree), "COLUMNS": "300"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def done(self, *args: str) -> str:
        """Run `xenmovectl`, which must succeed, be it with remarks; returns what it printed."""
        ended = self.ctl(*args)
        remarks = 7
        assert ended.returncode in (0, remarks), (self.name, self.release, args, ended)
        return ended.stdout

    def trust(self, other: SandboxHost, **allow: Any) -> None:
        """Add the other host as a peer that may do everything here."""
        shown = other.ctl("identity").stdout
        key = next(word for word in shown.split("'") if word.startswith("ssh-ed25519"))
        may = ("--allow", "migrate,sync", "--pools", "images", "--guests", "*", "--overwrite")
        self.done("peer", "add", other.name, f"127.0.0.1:{other.port}", "--key", key, *may)

    def migrate(self, to: SandboxHost, mode: Mode = Mode.SAVE, **_: Any) -> Any:
        """Have a migration begin, and do not wait for its end."""
        return self.ctl("migrate", GUEST, to.name, "--mode", mode.value, "--detach")

    def jobs(self) -> tuple[Any, ...]:
        """Reports of jobs that have not ended, as they are in the journal."""
        return tuple(self.query("SELECT report FROM jobs WHERE NOT ended"))


class ReleaseWorld(World):
    """Two hosts with releases of their own, and the guest of `World` on the first."""

    def __init__(self, root: Path, trees: Trees, first: str, second: str) -> None:
        self._trees = trees
        self._releases = {"host-a": first, "host-b": second}
        super().__init__(root)

    def _host(self, root: Path, name: str, settings: dict[str, Any]) -> ReleaseHost:
        return ReleaseHost(root, name, self._trees, self._releases[name], settings)

    @property
    def pair(self) -> tuple[ReleaseHost, ReleaseHost]:
        """Both hosts."""
        one, other = self.hosts
        assert isinstance(one, ReleaseHost)
        assert isinstance(other, ReleaseHost)
        return one, other

    def move(self, mode: str) -> None:
        """Move the guest to the other host, undisturbed, and see that it is there."""
        source, target = self.pair if self.source is self.pair[0] else reversed(self.pair)
        source.done("migrate", GUEST, target.name, "--mode", mode)
        self.wait_quiet()
        assert self.owner() is target

    def move_cold(self) -> None:
        """Move it while it does not run, and start it there."""
        source, target = self.pair if self.source is self.pair[0] else reversed(self.pair)
        source.xen.xl("destroy", GUEST)
        source.done("migrate", GUEST, target.name, "--mode", "cold")
        self.wait_quiet()
        assert self.start_stopped() is target
