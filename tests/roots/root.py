"""A fresh Debian in a folder. What runs there has no network and ends with this process."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from package.deb import Release
from tests.lab import cache
from tests.lab.image import mirror
from tests.lab.processes import WITH_PARENT

_ISOLATED: Final = (
    *WITH_PARENT,
    *("unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
    *("--propagation", "private"),
)
_ENVIRONMENT: Final = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
_ENTER: Final = (
    'root=$1; shift; mount -t proc proc "$root/proc"; mount -t tmpfs run "$root/run"; '
    'mkdir "$root/run/lock"; mount --rbind /dev "$root/dev"; ip link set lo up; '
    'exec chroot "$root" "$@"'
)
_PATIENCE: Final = 120
"""Seconds for a system to boot."""


class Root:
    """A system in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, script: str, *, status: int | None = 0) -> str:
        """Run a shell script as root, and return what it said, errors too.

        `status` is what it must end with, None for whatever. Processes that it leaves are ended.
        """
        enter = [*_ISOLATED, "sh", "-ec", _ENTER, "sh", self.folder]
        command = [*enter, *_ENVIRONMENT, "HOME=/root", "sh", "-ec", script]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if status is not None and done.returncode != status:
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def put(self, file: Path) -> str:
        """Copy a file into the system, and return where it is there."""
        shutil.copy(file, self.folder / "root" / file.name)
        return f"/root/{file.name}"

    def path(self, name: str) -> Path:
        """Return where a file of the system is here. It may be a link only below folders."""
        return self.folder / name.lstrip("/")

    def files(self) -> set[str]:
        """Every file and folder, but what Debian's tools note for themselves."""
        found = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        ignored = ("proc/", "dev/", "run/", "root/", "tmp/", "var/lib/dpkg/", "var/log/")
        return {f"/{name}" for name in found if not name.startswith(ignored)}


def base(name: str, release: str, packages: Sequence[str]) -> Path:
    """Return the folder of a Debian with some packages, made once, for copies of it only."""

    def make(out: Path) -> None:
        root = out / "root"
        include = f"--include={','.join(packages)}"
        # What it mounts ends with it, also when it fails.
        isolated = [*WITH_PARENT, "unshare", "--mount", "--propagation", "private"]
        debootstrap = [*isolated, "debootstrap", "--variant=minbase", include, release, str(root)]
        subprocess.run([*debootstrap, *filter(None, [mirror()])], check=True, capture_output=True)

    key = cache.fingerprint([release, *packages])
    return cache.layer(name, key, make) / "root"


@contextmanager
def copy_of(base_folder: Path) -> Iterator[Root]:
    """Make a system like this one, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="xenmoved-root-") as temporary:
        folder = Path(temporary, "root")
        subprocess.run(["cp", "-a", "--reflink=auto", base_folder, folder], check=True)
        yield Root(folder)


def without_systemd() -> Path:
    """Return a system that has OpenRC, and nothing of systemd."""
    return base("root-openrc", "bookworm", ("python3", "openrc"))


def debian(release: Release) -> Path:
    """Return a Debian as a dom0 has it, as far as the package needs it."""
    return base(f"root-{release.number}", release.name, ("python3", "systemd-sysv", "dbus"))


class Booted:
    """A system that runs, with systemd as its first process."""

    def __init__(self, process: int) -> None:
        self._enter = ("nsenter", "--target", str(process), "--all", "--root", "--wd")

    def run(self, script: str, *, status: int | None = 0) -> str:
        """Run a shell script as root, and return what it said, errors too."""
        command = [*WITH_PARENT, *self._enter, *_ENVIRONMENT, "sh", "-ec", script]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if status is not None and done.returncode != status:
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout


@contextmanager
def booted(root: Root) -> Iterator[Booted]:
    """Boot a system; everything in it is killed when the context ends."""
    script = Path(__file__).with_name("boot.sh")
    with subprocess.Popen([*_ISOLATED, "--cgroup", "sh", script, root.folder]) as boot:
        try:
            system = Booted(_first_process(boot.pid))
            said = ""
            for _ in range(_PATIENCE):
                said = system.run("systemctl is-system-running --wait 2>&1", status=None).strip()
                if said in ("running", "degraded"):
                    break
                time.sleep(1)
            else:
                raise AssertionError(f"systemd does not come up: {said}")
            yield system
        finally:
            boot.kill()


def _first_process(parent: int) -> int:
    """Return the process that has become systemd."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    for _ in range(_PATIENCE):
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(1)
    raise AssertionError("systemd does not start")
