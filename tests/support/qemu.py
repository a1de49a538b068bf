"""A real QEMU with a disk of a guest, without a guest: its monitor writes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from storage.errors import VolumeError
from storage.qemu.additions import GuestQemu
from storage.qemu.monitor import session
from storage.qemu.nbd import require_libnbd
from storage.qemu.ownership import is_listening
from tests.support.volumes import run

SIZE = 8 << 20
FORMATS = {"raw": (), "qcow2": (), "vpc": ("-o", "force_size=on")}
"""Formats of disks by QEMU's names, with the options to make an image of exactly that size."""


@cache
def qemu_obstacle() -> str | None:
    """Why disks of QEMU cannot be tried on this machine."""
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: install {package}"
    try:
        require_libnbd()
    except VolumeError as error:
        return str(error)
    return None


only_with_qemu = pytest.mark.skipif(qemu_obstacle() is not None, reason=qemu_obstacle() or "")


def make_image(path: Path, kind: str, size: int = SIZE, *options: str) -> Path:
    run("qemu-img", "create", "-q", "-f", kind, *FORMATS.get(kind, ()), *options, path, str(size))
    return path


@dataclass
class Emulator:
    """A running QEMU. `monitor` is the socket that libxl would have, another one is the test's."""

    folder: Path
    process: subprocess.Popen[bytes]
    disks: dict[str, Path]
    monitor: Path
    nbd: Path

    def guest(self, **options: Any) -> GuestQemu:
        return GuestQemu(self.monitor, self.nbd, **options)

    def execute(self, command: str, **arguments: object) -> Any:
        """Carry out a command beside the product; underscores are hyphens."""
        given: dict[str, object] = {key.replace("_", "-"): one for key, one in arguments.items()}
        with session(str(self.folder / "own"), patience=20) as qemu:
            return qemu.execute(command, given)

    def io(self, disk: str, command: str) -> None:
        """Have a device of the guest read or write; see qemu-io(1)."""
        said = self.execute("human-monitor-command", command_line=f'qemu-io {disk} "{command}"')
        assert "rror" not in said, said

    def write(self, disk: str, offset: int, length: int, fill: int = 0xA5) -> None:
        self.io(disk, f"write -P {fill} {offset} {length}")

    def left(self) -> list[str]:
        """Name all that this program has in QEMU, and its NBD server."""
        nodes = self.execute("query-named-block-nodes", flat=True)
        found = [one["name"] for node in nodes for one in node.get("dirty-bitmaps", ())]
        found += [one["id"] for one in self.execute("query-block-exports")]
        try:
            self.execute("nbd-server-stop")
        except VolumeError:
            pass
        else:
            found.append("the NBD server")
        return found + [path.name for path in self.nbd.iterdir()]

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.thaw()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.nbd, ignore_errors=True)


def start_emulator(
    folder: Path, disks: dict[str, tuple[str, Path]], *options: str, domid: int = 7
) -> Emulator:
    """Start a QEMU with disks, each a device of its name with a (format, path), and options."""
    monitor = folder / f"qmp-libxenstat-{domid}"
    words = ["-machine", "none", "-nodefaults", "-display", "none", *options]
    for socket in (monitor.name, f"qmp-libxl-{domid}", "own"):
        words += ["-qmp", f"unix:{folder / socket},server=on,wait=off"]
    for name, (kind, path) in disks.items():
        words += ["-drive", f"if=none,id={name},format={kind},cache=writeback,file={path}"]
    process = subprocess.Popen(["qemu-system-x86_64", *words], cwd=folder)
    paths = {name: path for name, (_, path) in disks.items()}
    emulator = Emulator(folder, process, paths, monitor, short_folder())
    try:
        wait_until(lambda: is_listening(folder / "own") or process.poll() is not None)
        emulator.execute("query-status")
    except BaseException:
        emulator.end()
        raise
    return emulator


def short_folder() -> Path:
    """Make a folder for sockets, whose names may not be long. The caller's to remove."""
    return Path(tempfile.mkdtemp(prefix="xenmoved-"))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def content(path: Path, kind: str) -> bytes:
    """Read an image that nobody writes to, by QEMU's own tool."""
    plain = path.with_name(f"{path.name}.plain")
    run("qemu-img", "convert", "-U", "-f", kind, "-O", "raw", path, plain)
    try:
        return plain.read_bytes()
    finally:
        plain.unlink()
