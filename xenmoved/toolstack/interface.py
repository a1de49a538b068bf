"""What the daemon needs of a Xen toolstack, and all that it may ask.

Nothing outside this package runs a Xen command. Two drivers implement `Toolstack`: `xl` (libxl) and
`xm` (Xen before 4.5). Facts that they rest on are described where they are used.

Images know how to settle themselves after a crash: an `OutgoingImage` or `IncomingImage` may be
constructed for a migration that an earlier daemon process began, and `rollback`, `discard`,
`abort` and `settle` then work from what they find on the host. To make that possible every process
that a driver starts for a migration carries `MIGRATION_VARIABLE` in its environment, so that a
later daemon finds it in /proc.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from protocol.messages import GuestSize
from storage.contracts import Backing
from xenmoved.toolstack.backends import OpenByBackends
from xenmoved.toolstack.sizes import weight
from xenmoved.toolstack.wiring import CAUTIOUS, Wiring

if TYPE_CHECKING:
    from xenmoved.toolstack.guest_configs import GuestConfigs

MIGRATION_VARIABLE: Final = "XENMOVED_MIGRATION"

STALL: Final = 60.0
SUSPEND_PATIENCE: Final = 90.0
"""Seconds that a toolstack may take to suspend a domain: libxl itself gives the guest 60."""


class ToolstackError(Exception):
    """A toolstack command failed or answered what it must not. The message is complete."""


class NoConfiguration(ToolstackError):
    """A domain that is none of the guests: being destroyed, or of another kind (a stub domain)."""


class NotAnnounced(ToolstackError):
    """What came is not what the peer announced. The message has both values of all that differs."""


class DomainNotFound(ToolstackError):
    """There is no domain of that name."""


class ToolstackStalled(ToolstackError):
    """A toolstack process that is at work has moved no byte for too long."""


class StartFailed(ToolstackError):
    """The domain could not be started here and its copy is destroyed: it will never run here."""


class DomainState(StrEnum):
    """State of a domain as the toolstack reports it."""

    RUNNING = "running"  # running or blocked: its processors may execute
    PAUSED = "paused"
    SUSPENDED = "suspended"  # stopped by a suspend request, as during a save
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    DYING = "dying"


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """One line of the list of domains. Memory in bytes."""

    name: str
    domid: int
    memory: int
    state: DomainState


def guests_among(
    described: Iterable[tuple[DomainStatus, Domain | ToolstackError]],
) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
    """Leave out the domains that are none of the guests.

    What one of them may still have open is told by whoever opens or removes a volume.
    """
    return [one for one in described if not isinstance(one[1], NoConfiguration)]


def named(name: str, domains: Iterable[DomainStatus]) -> DomainStatus | None:
    """Return the one of these domains that has a name, None without one."""
    return next((domain for domain in domains if domain.name == name), None)


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtual disk of a domain, as configured.

    `path` is what the backend opens, "" for an empty drive. `backend` is phy, tap, qdisk,
    standalone or unknown.
    """

    vdev: str
    path: str
    backend: str
    format: str
    writable: bool
    cdrom: bool
    script: str | None
    backend_domid: int


@dataclass(frozen=True, slots=True)
class Nic:
    """A virtual network interface. What `ip` says of addresses tells it from no other."""

    mac: str | None
    bridge: str | None
    script: str | None = None
    ip: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's description. `kind` is pv, pvh or hvm.

    `passthrough` names host devices given to the guest, which can never move. `obstacles` says all
    that a receiver of the same toolstack would refuse in its configuration, whatever the target,
    and `left_out` what it would leave out.
    """

    name: str
    uuid: str
    domid: int
    kind: str
    size: GuestSize
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    passthrough: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """Bytes that it takes of a host when it is started."""
        return weight(self.kind, self.size)


@dataclass(frozen=True, slots=True)
class HostInfo:
    """The host as the toolstack sees it. Memory in bytes. `xen_version` like "4.17.3".

    `kinds` are those of guests that its Xen can run on its processors, empty where it does not
    tell. `features` are the words of what its processors can do, in an order that Xen's version
    may change. With `shadow` its Xen can follow what a PV guest writes to memory.
    """

    toolstack: str
    xen_version: str
    free_memory: int
    total_memory: int
    kinds: frozenset[str] = frozenset()
    features: tuple[int, ...] = ()
    shadow: bool = True


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """What the peer announced that its configuration says of a disk: `path` is never opened."""

    path: str
    writable: bool
    cdrom: bool
    format: str = ""  # "" in records of earlier releases: it is raw, or as it is here


@dataclass(frozen=True, slots=True)
class Announced:
    """What the peer announced of a guest beside its name, uuid and disks. `nics` as they are there.

    This is what this host has weighed; a guest that comes as something else is refused.
    """

    kind: str
    size: GuestSize
    nics: tuple[Nic, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an incoming domain is to look on this host.

    `disks` maps each vdev to the local path that replaces the peer's, "" for a CD-ROM drive that is
    to be empty here; `bridges` maps bridge names. A disk in the image that is not in `disks` is
    refused: paths named by a peer are never opened. `source_name` is what the peer calls it, "" for
    the same name. The disks in `read_only` are refused unless they are read-only. `formats` has
    those in which disks lie here, where they are not raw.

    A guest has exactly these disks when it comes, and each in `sources` as it was announced: what
    was copied to the local path is what the guest knows. What else it is, is in `announced`; None
    where nobody announced anything (see `announced.require_announced`). `wiring` is what its
    interfaces may have of this host, `boot_order` what the name of its new entry of `auto` is to
    begin with. One that `returns` went from here to where it comes from: what was set aside under
    its name is its own. Else only what names one of its disks is that `stayed` here when a guest of
    this name went from here to where it comes from: another guest's may have been called so.
    """

    name: str
    uuid: str
    disks: Mapping[str, str]
    bridges: Mapping[str, str] = field(default_factory=dict)
    source_name: str = ""
    read_only: frozenset[str] = frozenset()
    formats: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceDisk] = field(default_factory=dict)
    announced: Announced | None = None
    wiring: Wiring = CAUTIOUS
    boot_order: str = ""
    returns: bool = True
    stayed: frozenset[str] = frozenset()

    @property
    def kept_disks(self) -> frozenset[str]:
        """Those of `own_disks` that stayed here when it went from here."""
        stayed = {self.disks.get(vdev) for vdev in self.stayed}
        return frozenset(path for path in self.own_disks if path in stayed)

    @property
    def own_disks(self) -> frozenset[str]:
        """Local paths of the disks that the guest writes: no other guest has them."""
        return frozenset(
            path for vdev, path in self.disks.items() if path and vdev not in self.read_only
        )

    @property
    def announced_name(self) -> str:
        """The name in what comes from the peer."""
        return self.source_name or self.name


class Settled(StrEnum):
    """What became of an incoming domain, as found on the host.

    ENDED: it was cleared to start here, and then this host was restarted. Whether it had begun to
    run nobody can know; it belongs here, and ended as with a power failure.
    """

    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"


class OutgoingImage(Protocol):
    """A running domain being turned into a stream. Construction has no effect.

    A live image begins while the domain runs, and it is the toolstack that suspends it, when little
    is left to send. Nothing can hold it at that point: what has to happen before the suspension
    has to be done, or far enough, before `start`. Taking nothing from `stream` only delays it.
    """

    async def start(self, disks: Mapping[str, Backing]) -> None:
        """Begin to save the domain: to suspend it or, live, to copy its memory while it runs.

        `disks` tells what the domain has, by the path of each disk. A toolstack that ends a domain
        by saving it restores it with these very disks only: not where a path leads elsewhere then.
        From here until `rollback` it may be suspended at any moment.
        """

    async def suspended(self) -> None:
        """Wait until the domain no longer executes. Raises ToolstackError if the save failed.

        A live image gets there only while `stream` is consumed.
        """

    def stream(self, patience: float = STALL) -> AsyncIterator[bytes]:
        """Yield the image in pieces of at most 512 KiB, to its end.

        Ends normally only after the toolstack has said that the image is whole and the domain can
        no longer run by itself. Raises ToolstackError otherwise, and ToolstackStalled when it gives
        nothing for `patience` seconds; while it may be waiting for the guest to be suspended, for
        `SUSPEND_PATIENCE` if that is more.
        """

    async def rollback(self) -> None:
        """Make the domain run here again, whatever step was reached. Idempotent.

        Works in a later process too. Raises ToolstackError if the domain cannot be made to run,
        with what to do by hand; a domain that ended by itself meanwhile is not an error.
        """

    async def discard(self) -> None:
        """Remove the suspended domain (and any image file): it now lives elsewhere. Idempotent."""


class IncomingImage(Protocol):
    """A stream being turned into a domain that stays paused until told. Construction does nothing.

    The last bytes of the stream are withheld from the toolstack until `build`, so that it cannot
    open a disk before every volume is complete, whatever the peer sends.
    """

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the guest comes without, as it may not come from another host; known once built."""

    async def start(self) -> None:
        """Begin to receive."""

    async def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the image. Raises ToolstackError when it is unacceptable."""

    async def build(self) -> None:
        """Build the domain, paused: the image is complete and all volumes are durable."""

    async def commit(self) -> None:
        """Let the domain run. Raises StartFailed when it will certainly never run here."""

    async def abort(self) -> None:
        """Destroy what was built, remove spool files. Idempotent; works in a later process too.

        Never touches a domain that was committed and runs.
        """

    async def declare_never_started(self) -> None:
        """Note what an operator says: `abort` then destroys it although it was committed.

        A domain that runs is not touched even so. Idempotent; does nothing where nothing was built.
        """

    async def settle(self) -> Settled:
        """After a crash between commit and its outcome: wait until it is decided, and tell.

        When it tells ABSENT nothing of the copy is left and it will never run here.
        """


class Toolstack(Protocol):
    """One kind of Xen toolstack on this host."""

    name: str

    @property
    def configs(self) -> GuestConfigs:
        """Configuration files of its guests."""

    async def host(self) -> HostInfo:
        """Version and memory of this host."""

    async def domains(self) -> list[DomainStatus]:
        """Every domain but dom0."""

    async def describe(self, domain: DomainStatus) -> Domain:
        """Describe a domain of this host. Raises DomainNotFound when it has gone away."""

    async def describe_all(self) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        """Every domain but dom0 with its description, or with why it cannot be described."""

    async def opened(self, domain: Domain) -> OpenByBackends:
        """Tell what the backends of a running domain have open. Raises StorageError."""

    async def bridges(self) -> set[str]:
        """Names of the network bridges of the kernel that exist on this host."""

    async def switches(self) -> set[str]:
        """Names of the network devices of this host that may be bridges of Open vSwitch."""

    def live_obstacle(self, name: str, domains: Sequence[DomainStatus]) -> str | None:
        """Why the memory of one of the `domains` cannot be copied while it runs, None if it can.

        They are all those of this host.
        """

    def outgoing(
        self, migration: str, name: str, spool: Path, *, live: bool = False
    ) -> OutgoingImage:
        """Image of the local domain `name` for a migration; `spool` is a folder it may use.

        With `live` its memory is copied while it runs; raises ToolstackError where the toolstack
        cannot. `rollback` and `discard` find out by themselves how an earlier process began.
        """

    def outgoing_cold(self, migration: str, name: str, spool: Path, uuid: str) -> OutgoingImage:
        """Image without memory of a domain that does not run.

        `start` disables its configuration, so that nobody starts it, and `rollback` enables it.
        """

    def incoming(self, migration: str, arrival: Arrival, spool: Path) -> IncomingImage:
        """Receiver for a domain; `spool` is a folder it may use."""

    def incoming_cold(self, arrival: Arrival) -> IncomingImage:
        """Receiver for a domain that does not run, and is not started."""

    async def compose_config(self, name: str) -> str | None:
        """Text of a configuration file from how a domain runs, None where none can be made.

        Raises DomainNotFound.
        """
