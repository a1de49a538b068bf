"""What a trip is disturbed with.

A victim is a generator, resumed four times: before the trip, at the moment, when the disturbance is
to be over, and when both hosts say that nothing is left to do. After the last it has put back what
is not the program's to put back, such as a disk that it replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from protocol.messages import Mode
from tests.soak.statefs import StateFilesystem
from tests.support.crash import DISKS, EXECUTES, GUEST, PATIENCE, CrashHost, World
from xenmoved.control.peer_api import ListPeers
from xenmoved.jobs.report import Phase
from xenmoved.sandbox.cable import Cable
from xenmoved.sandbox.harness import wait_until

SIZE = 8 << 20
STEP = 1 << 20
NOTICED = 20.0
"""Seconds within which a daemon has noticed that the connection of a peer has ended."""
_FIRST_QEMU_LOCK = 100
_COPYING = (Phase.PREFLIGHT, Phase.PROVISION, Phase.PRE_COPY)
_VERBS = {
    "xl": ("create destroy domid info list migrate migrate-receive pause rename restore resume "
           "save unpause"),
    "xm": "create destroy info list pause rename restore save unpause",
}  # fmt: skip


@dataclass
class Scene:
    """One trip, with what may be done to it."""

    world: World
    source: CrashHost
    target: CrashHost
    cables: list[Cable]
    filesystems: dict[str, StateFilesystem]
    choose: random.Random
    cold: bool
    killed: list[CrashHost] = field(default_factory=list)
    spoilt: bool = False
    """Whether somebody else had to do with what may have become a copy that is kept."""

    @property
    def disk(self) -> Path:
        """One of the guest's disks at the source."""
        return self.source.images / self.choose.choice(DISKS)

    def aside(self, name: str) -> Path:
        """Name a file on the file system of the source's images, and not among them."""
        folder = self.source.folder / "aside"
        folder.mkdir(exist_ok=True)
        return folder / name

    def other_image(self) -> Path:
        """Make an image that is none of the guest's."""
        file = self.aside("other")
        file.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        return file

    def kill(self, *hosts: CrashHost) -> None:
        """Kill daemons, and wait until each of the others has noticed."""
        for host in hosts:
            os.kill(host.pid, signal.SIGKILL)
            assert host.process is not None
            host.process.wait()
        self.killed += hosts

    def wait_disconnected(self) -> None:
        """Wait until every daemon knows that the connections from the other one have ended.

        From then on nothing begins that the other one does not know of.
        """
        alive = [host for host in self.world.hosts if not host.dead]
        wait_until(
            lambda: (
                not any(p.connected_from for host in alive for p in host.ask(ListPeers()).peers)
            ),
            "the daemons to notice that the connection has ended",
            NOTICED,
        )


Script = Callable[[Scene], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Victim:
    """A disturbance, and which trips it can come to."""

    script: Script
    root: bool = False
    tools: tuple[str, ...] = ("xl", "xm")
    modes: tuple[Mode, ...] = tuple(Mode)


# --- daemons and the link ---


def nobody(_: Scene) -> Iterator[None]:
    """Disturb nothing."""
    yield from (None, None, None)


def daemons(source: bool, target: bool) -> Script:
    """Kill daemons."""

    def script(scene: Scene) -> Iterator[None]:
        yield
        scene.kill(*[scene.source] * source, *[scene.target] * target)
        yield
        scene.wait_disconnected()
        yield

    return script


def cable(scene: Scene) -> Iterator[None]:
    """Cut the link."""
    yield
    for one in scene.cables:
        one.cut()
    yield
    scene.wait_disconnected()
    for one in scene.cables:
        one.heal()
    yield


# --- disks ---


def resized(before: int, after: int) -> Script:
    """Give a disk another size, and back."""

    def script(scene: Scene) -> Iterator[None]:
        disk = scene.disk
        if before != SIZE:
            scene.world.forget_volumes()  # such a copy would be too small
            os.truncate(disk, before)
        yield
        os.truncate(disk, after)
        yield
        if scene.world.tool == "xm":  # it may be saved in a file, for just the disk that it had
            os.truncate(disk, before)
        yield
        for file in [host.images / disk.name for host in scene.world.hosts]:
            if file.exists() and file.stat().st_size != SIZE:
                os.truncate(file, SIZE)
        scene.spoilt = True

    return script


def replaced(exchange: Callable[[Path, Path], object]) -> Script:
    """Have another file behind a disk's path.

    A guest of `xm` that was saved is restored when it is put back, as its alarm says.
    """

    def script(scene: Scene) -> Iterator[None]:
        disk, other = scene.disk, scene.other_image()
        kept = scene.aside("kept")
        os.link(disk, kept)
        yield
        exchange(disk, other)
        yield
        back_at_once = scene.world.tool == "xm"
        if back_at_once:
            kept.replace(disk)
        yield
        if not back_at_once:
            kept.replace(disk)
        scene.spoilt = True

    return script


def point_elsewhere(path: Path, other: Path) -> None:
    """Put a link in the place of a file."""
    path.unlink()
    path.symlink_to(other)


def exchanged(scene: Scene) -> Iterator[None]:
    """Detach a disk, and attach another one in its place."""
    other = scene.other_image()
    yield
    if not scene.source.xen.run("xl", "block-detach", GUEST, "xvdb", status=None).returncode:
        scene.source.xen.run("xl", "block-attach", GUEST, f"file:{other},xvdb,w", status=None)
    yield
    yield
    host = _host_of(scene)
    paths = _paths(host)
    if paths.get("xvdb") != (right := str(host.images / DISKS[1])):
        if "xvdb" in paths:
            host.xen.xl("block-detach", GUEST, "xvdb")
        host.xen.xl("block-attach", GUEST, f"file:{right},xvdb,w")


def attached(scene: Scene) -> Iterator[None]:
    """Attach one more disk."""
    other = scene.other_image()
    yield
    scene.source.xen.run("xl", "block-attach", GUEST, f"file:{other},xvdc,w", status=None)
    yield
    yield
    if "xvdc" in _paths(host := _host_of(scene)):
        host.xen.xl("block-detach", GUEST, "xvdc")


def _host_of(scene: Scene) -> CrashHost:
    return next(host for host in scene.world.hosts if GUEST in host.domains())


def _paths(host: CrashHost) -> dict[str, str]:
    domain = host.xen_folder.find(GUEST)
    assert domain is not None
    return {disk["vdev"]: disk["pdev_path"] for disk in domain.config["disks"]}


def restarted(scene: Scene) -> Iterator[None]:
    """Destroy the guest, and start it anew, as an operator may who knows nothing of the job.

    Not after it was suspended to be handed over, when it may be the other host's already.
    """
    tool, source = scene.world.tool, scene.source
    yield
    runs = source.domains().get(GUEST) in EXECUTES
    ended = runs and source.xen.run(tool, "destroy", GUEST, status=None).returncode == 0
    if ended and all(job.phase in _COPYING for job in source.jobs()):
        file = source.config_dir / f"{GUEST}.cfg"
        source.xen.run(tool, "create", str(file), status=None)
    yield
    yield
    if ended and not any(host.domains() for host in scene.world.hosts):
        scene.world.start_stopped()


def taken(by: Callable[[Path], Callable[[], object]]) -> Script:
    """Have somebody else use a volume of the target; `by` returns what lets go of it."""

    def script(scene: Scene) -> Iterator[None]:
        yield
        file = scene.target.images / scene.disk.name
        let_go = by(file) if file.exists() else None
        yield
        if let_go is not None:
            let_go()
        yield

    return script


def by_loop_device(file: Path) -> Callable[[], object]:
    """Attach a loop device."""
    command = ["losetup", "--find", "--show", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not file.exists():
        return lambda: None  # removed in this moment
    assert done.returncode == 0, done.stderr
    return lambda: subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def by_lock(file: Path) -> Callable[[], object]:
    """Open and lock it, as QEMU does."""
    try:
        opened = file.open("r+b")
    except FileNotFoundError:
        return lambda: None  # removed in this moment
    fcntl.lockf(opened, fcntl.LOCK_EX, 1, _FIRST_QEMU_LOCK)
    return opened.close


# --- the toolstack ---


def faulty(**fault: object) -> Script:
    """Have a verb of one host's toolstack do so."""

    def script(scene: Scene) -> Iterator[None]:
        verb = scene.choose.choice(_VERBS[scene.world.tool].split())
        host = scene.choose.choice(scene.world.hosts)
        yield
        host.xen.faults(**{verb: fault})
        yield
        host.xen.faults()
        yield

    return script


def stopped(scene: Scene) -> Iterator[None]:
    """Stop the processes of the toolstack that there are, and let them go on."""
    yield
    found = _toolstack_processes(scene.world)
    for process in found:
        _signal(process, signal.SIGSTOP)
    yield
    for process in found:
        _signal(process, signal.SIGCONT)
        os.close(process)
    yield


def _toolstack_processes(world: World) -> list[int]:
    """Descriptors of the toolstack's processes; guests are none of them."""
    roots = {os.fsencode(host.xen.root) for host in world.hosts}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if roots.intersection(words) and b"-xen-domid" not in words:
                found.append(os.pidfd_open(int(entry.name)))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        signal.pidfd_send_signal(process, number)


# --- the journal ---


def full(of_source: bool) -> Script:
    """Leave no space on the file system of a journal."""

    def script(scene: Scene) -> Iterator[None]:
        host = scene.source if of_source else scene.target
        yield
        scene.filesystems[host.name].fill()
        yield
        scene.filesystems[host.name].empty()
        yield

    return script


def read_only(of_source: bool) -> Script:
    """Have the file system of a journal become read-only, as after an error of its device."""

    def script(scene: Scene) -> Iterator[None]:
        host = scene.source if of_source else scene.target
        yield
        scene.filesystems[host.name].fail()
        yield
        assert not host.dead, f"{host.name} ended when its journal became read-only"
        # It needs no journal to have the guest run; only then may what it keeps there be lost. With
        # xm it is in a file there, which has to be renamed before it runs: never is it used twice.
        wait_until(
            lambda: (
                scene.cold
                or scene.world.tool == "xm"
                or any(h.domains().get(GUEST) in EXECUTES for h in scene.world.hosts)
            ),
            "the guest to run while a journal is read-only",
            PATIENCE,
        )
        scene.kill(host)
        scene.filesystems[host.name].repair()
        yield

    return script


_RUNNING = (Mode.LIVE, Mode.SAVE)

VICTIMS = {
    "nobody": Victim(nobody),
    "source": Victim(daemons(source=True, target=False)),
    "target": Victim(daemons(source=False, target=True)),
    "both": Victim(daemons(source=True, target=True)),
    "cable": Victim(cable),
    "grown": Victim(resized(SIZE, SIZE + STEP)),
    "shrunk": Victim(resized(SIZE + STEP, SIZE)),
    "moved-over": Victim(replaced(lambda path, other: other.replace(path))),
    "relinked": Victim(replaced(point_elsewhere)),
    "exchanged": Victim(exchanged, tools=("xl",), modes=_RUNNING),
    "attached": Victim(attached, tools=("xl",), modes=_RUNNING),
    "restarted": Victim(restarted, modes=_RUNNING),
    "taken-loop": Victim(taken(by_loop_device), root=True),
    "taken-lock": Victim(taken(by_lock)),
    "fails": Victim(faulty(fail="told to fail")),
    "hangs": Victim(faulty(delay=3.0)),
    "stopped": Victim(stopped),
    "full-source": Victim(full(of_source=True), root=True),
    "full-target": Victim(full(of_source=False), root=True),
    "ro-source": Victim(read_only(of_source=True), root=True),
    "ro-target": Victim(read_only(of_source=False), root=True),
}
"""Every victim by its name."""
