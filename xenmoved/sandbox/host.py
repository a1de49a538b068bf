"""One emulated host: a folder that holds its domains, sockets, consoles and bridges.

DIR/lock                    taken (flock) to change the set of domains or their names
DIR/next-domid              the next domain id
DIR/domains/ID.config       a domain's configuration, as libxl keeps it
DIR/domains/ID.state        two letters, written by the guest: paused, reason of shutdown
DIR/domains/ID.pid          the guest process and its start time
DIR/domains/ID.sock         the guest's control socket
DIR/console/NAME.log        what the guest printed
DIR/sys/class/net/BR/bridge bridges, made from DIR/bridges (one name a line)
DIR/sys/bus/xen-backend/devices/vbd-ID-NUMBER/physical_device
                            which block device serves a disk, as blkback tells it
DIR/proc/PID                links to the processes of guests, which serve their files themselves
DIR/faults.json             failures to provoke, by verb (written by tests)
DIR/host.json               {"total_memory": MiB, "xen_version": "4.17.3"}

Commands are started by the dozen, and importing is most of what they do: so this module and the
ones that every command imports do without `pathlib` and `typing`, and what only some commands need
(`json`, `signal`) is imported where it is needed. Records of domains are in the form of `marshal`.
"""

from __future__ import annotations

import fcntl
import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

DOM0_MEMORY = 1024  # MiB
DEFAULT_TOTAL_MEMORY = 16384  # MiB
INCOMING = "--incoming"
MIGRATED_AWAY = "--migratedaway"

# Reason of a shutdown as kept in the state file, and the letter that `xl list` prints for it.
SUSPENDED = "s"
CRASHED = "c"
REBOOTED = "r"
POWERED_OFF = "o"
NOT_SHUT_DOWN = "-"


class CommandFailed(Exception):
    """An emulated command ends with this text on stderr and this exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class NameTaken(CommandFailed):
    """Another domain of this host has the name."""


class Domain:
    """A domain as recorded in the folder. It may still be under construction, with no process."""

    __slots__ = ("config", "domid")

    def __init__(self, domid: int, config: dict[str, Any]) -> None:
        self.domid = domid
        self.config = config

    @property
    def name(self) -> str:
        """Present name, which a migration changes for a while."""
        return str(self.config["c_info"]["name"])

    @property
    def uuid(self) -> str:
        """Identity that survives migrations."""
        return str(self.config["c_info"]["uuid"])

    @property
    def memory(self) -> int:
        """Memory in MiB."""
        return int(self.config["b_info"]["target_memkb"]) // 1024

    @property
    def vcpus(self) -> int:
        """Number of virtual processors."""
        return int(self.config["b_info"].get("max_vcpus", 1))


class _Lock:
    """A lock on a file, held while the context lasts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


class Host:
    """The state folder of one emulated host and the operations on its set of domains."""

    def __init__(self, root: str | os.PathLike[str], witness: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.witness = os.fspath(witness)
        self.folder = f"{self.root}/domains"
        self.proc = f"{self.root}/proc"
        self.vbds = f"{self.root}/sys/bus/xen-backend/devices"
        if not os.path.isdir(self.folder):
            for path in (self.folder, f"{self.root}/console", self.proc, self.vbds, self.witness):
                os.makedirs(path, exist_ok=True)
        self._make_bridges()

    def _make_bridges(self) -> None:
        listed = f"{self.root}/bridges"
        try:
            names = read(listed).split()
        except FileNotFoundError:
            names = ["xenbr0"]
            write(listed, "xenbr0\n")
        for name in names:
            os.makedirs(f"{self.root}/sys/class/net/{name}/bridge", exist_ok=True)

    def faults(self, verb: str) -> dict[str, Any]:
        """Failures that a test wants this verb to show."""
        return dict(self._optional_json("faults.json").get(verb, {}))

    def settings(self) -> dict[str, Any]:
        """Properties of the host set by whoever made the sandbox."""
        return self._optional_json("host.json")

    def _optional_json(self, name: str) -> dict[str, Any]:
        try:
            text = read(f"{self.root}/{name}")
        except FileNotFoundError:
            return {}
        import json

        return dict(json.loads(text))

    def locked(self) -> _Lock:
        """Exclude every other command that changes the set of domains, while entered."""
        return _Lock(f"{self.root}/lock")

    def path(self, domid: int, suffix: str) -> str:
        """Name a file that belongs to one domain."""
        return f"{self.folder}/{domid}.{suffix}"

    def console(self, name: str) -> str:
        """Name the console log, the same file whatever a migration calls the domain meanwhile."""
        return f"{self.root}/console/{name.removesuffix(INCOMING)}.log"

    def domains(self) -> list[Domain]:
        """Every domain but dom0, by id.

        A guest process that was killed from outside takes its domain with it, as when a host loses
        power; one that powered off or reboots stays until its monitor or somebody else destroys it.
        """
        found = []
        for domid in self._recorded():
            domain = self.load(domid)
            if domain is not None and (
                self.process(domain.domid) is not None
                or not os.path.exists(self.path(domain.domid, "pid"))
                or self.flags(domain.domid)[1] in (POWERED_OFF, REBOOTED)
            ):
                found.append(domain)
        return found

    def _recorded(self) -> list[int]:
        """Ids of all domains that have a record, in order."""
        names = (entry.partition(".") for entry in os.listdir(self.folder))
        return sorted(int(stem) for stem, _, suffix in names if stem and suffix == "config")

    def load(self, domid: int) -> Domain | None:
        """Read the record of one domain."""
        try:
            with open(self.path(domid, "config"), "rb") as file:
                return Domain(domid, marshal.load(file))
        except FileNotFoundError:
            return None

    def find(self, qualifier: str) -> Domain | None:
        """Look a domain up by id or name."""
        by_id = int(qualifier) if qualifier.isdecimal() else None
        for domain in self.domains():
            if domain.domid == by_id or (by_id is None and domain.name == qualifier):
                return domain
        return None

    def add(self, config: dict[str, Any]) -> Domain:
        """Record a new domain, paused and without a process."""
        with self.locked():
            present = self.domains()
            kept = {domain.domid for domain in present}
            for domid in self._recorded():
                if domid not in kept:
                    self._forget(domid)
            counter = f"{self.root}/next-domid"
            domid = int(read(counter)) if os.path.exists(counter) else 1
            domain = Domain(domid, config)
            replace(counter, b"%d\n" % (domid + 1))
            self._require_free(domain.name, domid, present)
            if domain.memory > self.free_memory(present):
                raise CommandFailed("failed to free memory for the domain")
            self.publish(domid, paused=True, shutdown=NOT_SHUT_DOWN)
            self.store(domain)
        return domain

    def rename(self, domain: Domain, name: str) -> None:
        """Give the domain another name. Raises NameTaken."""
        with self.locked():
            self._require_free(name, domain.domid, self.domains())
            # Others may have changed the record since this command read it.
            if (now := self.load(domain.domid)) is not None:
                domain.config = now.config
            domain.config["c_info"]["name"] = name
            self.store(domain)

    @staticmethod
    def _require_free(name: str, domid: int, present: list[Domain]) -> None:
        if any(other.name == name and other.domid != domid for other in present):
            raise NameTaken(
                "libxl: error: libxl_domain.c:81:libxl__domain_rename: "
                f'Domain {domid}:Domain with name "{name}" already exists.'
            )

    def store(self, domain: Domain) -> None:
        """Write the record. The caller holds the lock or is the only one to know the domain."""
        replace(self.path(domain.domid, "config"), marshal.dumps(domain.config))

    def publish(self, domid: int, *, paused: bool, shutdown: str) -> None:
        """Write what `flags` returns."""
        replace(self.path(domid, "state"), f"{'p' if paused else '-'}{shutdown}".encode())

    def flags(self, domid: int) -> tuple[bool, str]:
        """Whether the domain is paused, and the reason of its shutdown."""
        try:
            text = read(self.path(domid, "state"))
        except FileNotFoundError:
            return True, NOT_SHUT_DOWN
        return text[0] == "p", text[1]

    def process(self, domid: int) -> int | None:
        """Process id of the guest, None when it has none or has ended."""
        try:
            pid, started = read(self.path(domid, "pid")).split()
        except (FileNotFoundError, ValueError):
            return None
        status = process_status(int(pid))
        alive = status is not None and status[0] != "Z" and status[19] == started
        return int(pid) if alive else None

    def destroy(self, domain: Domain) -> None:
        """End the guest at once and forget it; returns when it has let go of its disks."""
        pid = self.process(domain.domid)
        if pid is not None:
            kill(pid)
        with self.locked():
            self._forget(domain.domid)
        # A guest that was just being started may have told its pid only now.
        pid = self.process(domain.domid)
        if pid is not None:
            kill(pid)
            with self.locked():
                self._forget(domain.domid)

    def show_backends(self, domid: int, pid: int, devices: dict[int, int]) -> None:
        """Show what serves a domain's disks: a process, and block devices by numbers of disks."""
        link = f"{self.proc}/{pid}"
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(f"/proc/{pid}", link)
        self._hide_devices(domid)
        for number, device in devices.items():
            folder = f"{self.vbds}/vbd-{domid}-{number}"
            os.makedirs(folder, exist_ok=True)
            write(f"{folder}/physical_device", f"{os.major(device):x}:{os.minor(device):x}\n")

    def _hide_backends(self, domid: int) -> None:
        try:
            pid, _ = read(self.path(domid, "pid")).split()
            os.unlink(f"{self.proc}/{pid}")
        except (FileNotFoundError, ValueError):
            pass  # it had no process yet
        self._hide_devices(domid)

    def _hide_devices(self, domid: int) -> None:
        for name in os.listdir(self.vbds):
            if name.startswith(f"vbd-{domid}-"):
                os.unlink(f"{self.vbds}/{name}/physical_device")
                os.rmdir(f"{self.vbds}/{name}")

    def _forget(self, domid: int) -> None:
        self._hide_backends(domid)
        for suffix in ("config", "state", "sock", "pid"):
            path = self.path(domid, suffix)
            if os.path.lexists(path):
                os.unlink(path)

    def total_memory(self) -> int:
        """Memory of the host in MiB."""
        return int(self.settings().get("total_memory", DEFAULT_TOTAL_MEMORY))

    def free_memory(self, present: list[Domain]) -> int:
        """Memory in MiB that no domain uses."""
        return self.total_memory() - DOM0_MEMORY - sum(domain.memory for domain in present)


def read(path: str) -> str:
    """Return the text of a file."""
    with open(path) as file:
        return file.read()


def write(path: str, text: str) -> None:
    """Write a file."""
    with open(path, "w") as file:
        file.write(text)


def replace(path: str, content: bytes) -> None:
    """Write a small file so that a reader sees the old or the new content, never a part."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def process_status(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state letter on."""
    try:
        text = read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def kill(pid: int) -> None:
    """Kill a process and wait until it is gone."""
    import select
    import signal

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        if not waiter.poll(30_000):
            raise CommandFailed(f"process {pid} does not end")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
