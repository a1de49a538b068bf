"""What an operator can configure, with the defaults.

Sizes are in bytes and durations in seconds here; the file has them as text. Nothing here knows of
files: `xenmoved.config.loader` makes these objects.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from os.path import normpath
from pathlib import Path, PurePath
from typing import Annotated, Any, Final

from protocol.messages import Action
from protocol.schema import Length, Range
from xenmoved.choices import CdromChoice, Compression
from xenmoved.config.addresses import EVERY_ADDRESS
from xenmoved.config.fields import (
    AbsolutePath,
    AddressByName,
    Age,
    BridgeNames,
    ConfigName,
    Count,
    DeviceName,
    Duration,
    GuestPattern,
    HostAddress,
    Limit,
    ListenAddress,
    Networks,
    Parsed,
    PoolNames,
    Port,
    PublicKey,
    Revoked,
    ScriptName,
    SharedPlaces,
    VolumeNames,
)
from xenmoved.config.keys import fingerprint_of
from xenmoved.units import parse_duration

DEFAULT_PORT: Final = 7222
DEFAULT_METRICS_PORT: Final = 9722


class ToolstackKind(StrEnum):
    """Which Xen toolstack runs this host's guests."""

    AUTO = "auto"
    XL = "xl"
    XM = "xm"


class LogLevel(StrEnum):
    """The least important messages that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where connections of peers are accepted."""

    address: ListenAddress = EVERY_ADDRESS
    port: Port = DEFAULT_PORT

    @property
    def host(self) -> str | None:
        """The address as sockets know it: None stands for all interfaces, IPv4 and IPv6."""
        return None if self.address == EVERY_ADDRESS else self.address


@dataclass(frozen=True, slots=True)
class Control:
    """The local socket of `xenmovectl`. Root may always use it, `group` too when it is set."""

    socket: AbsolutePath = Path("/run/xenmoved/control.sock")
    group: Annotated[str, Length(1, 32)] | None = None


@dataclass(frozen=True, slots=True)
class ToolstackConfig:
    """The Xen toolstack of this host.

    `command` is the program with its first arguments; when empty, the tool is found in PATH.
    `boot_folders` are folders, besides the usual ones, whose files an arriving guest may name as
    its kernel or ramdisk, and `root` is below what they, and boot loaders, are looked for. Without
    `monitors` nothing is asked of QEMU.
    """

    kind: ToolstackKind = ToolstackKind.AUTO
    command: tuple[Annotated[str, Length(1, 4096)], ...] = ()
    config_dir: AbsolutePath = Path("/etc/xen")
    sysfs_net: AbsolutePath = Path("/sys/class/net")
    sysfs_backends: AbsolutePath = Path("/sys/bus/xen-backend/devices")
    processes: AbsolutePath = Path("/proc")
    monitors: AbsolutePath | None = None
    boot_folders: tuple[AbsolutePath, ...] = ()
    root: AbsolutePath = Path("/")


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A place for volumes. `options` is of the type that `storage.registry` has for `kind`."""

    name: str
    kind: str
    options: object


@dataclass(frozen=True, slots=True)
class Allow:
    """What a peer may do on this host. The default allows nothing.

    `quota` limits the bytes that volumes made for this peer take in all. `memory` limits what one
    guest may be given at most, in bytes, and `vcpus` its processors. None is no limit. With
    `overwrite` it may have volumes emptied for it that are not known as copies of what it brings.

    Of network interfaces: `scripts` are those of this host that its guests may have run for them,
    `ip` the networks in which a script may route addresses to them, `gatewaydev` the network
    devices of this host that one may do it by.
    """

    actions: tuple[Action, ...] = ()
    pools: tuple[ConfigName, ...] = ()
    guests: tuple[GuestPattern, ...] = ()
    quota: Limit = None
    memory: Limit = None
    vcpus: Count = None
    overwrite: bool = False
    scripts: tuple[ScriptName, ...] = ("vif-bridge", "vif-openvswitch")
    ip: Networks = ()
    gatewaydev: tuple[DeviceName, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host that runs this program. Its key identifies it, wherever it connects from.

    Without a `key` its certificate identifies it, by the name in that; without an `address` it can
    only come here. Any other can always be sent to; what it may do here is in `allow`. `bridges`,
    `pools` and `volumes` say what is called otherwise here than there, for guests that come from
    there. `shared` names what both hosts see: pools here, and patterns of absolute paths. `cdrom`
    is about guests that are sent there.
    """

    name: ConfigName
    address: HostAddress | None = None
    key: PublicKey | None = None
    port: Port = DEFAULT_PORT
    allow: Allow = field(default_factory=Allow)
    bridges: BridgeNames = field(default_factory=dict)
    pools: PoolNames = field(default_factory=dict)
    volumes: VolumeNames = field(default_factory=dict)
    shared: SharedPlaces = ()
    cdrom: CdromChoice = CdromChoice.REFUSE

    def may(self, action: Action, guest: str) -> bool:
        """Whether the peer may do this here with a guest of that name."""
        return action in self.allow.actions and any(
            fnmatchcase(guest, pattern) for pattern in self.allow.guests
        )

    def shown(self, guest: str, other: str = "another guest") -> str:
        """Return what the peer is told of a guest: the name of one that it may bring, else `other`.

        Which other guests are here is not its business.
        """
        return guest if self.may(Action.MIGRATE, guest) else other

    def shown_file(self, file: str, guest: str | None) -> str:
        """Return likewise what it is told of the configuration file of a guest."""
        return file if guest is not None and self.shown(guest, "") else "the file of another guest"

    def may_use(self, pool: str) -> bool:
        """Whether the peer may see and make volumes of the pool, and write to its own."""
        return pool in self.allow.pools

    def shares_path(self, path: str) -> bool:
        """Whether a path is declared as shared with the peer. A `*` matches no slash."""
        patterns = (place for place in self.shared if place.startswith("/"))
        return normpath(path) == path and any(PurePath(path).match(one) for one in patterns)


@dataclass(frozen=True, slots=True)
class FleetHost:
    """Where a host is reached."""

    address: HostAddress
    port: Port = DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts that are trusted because of their certificates, and what they may do here.

    `authorities` are the keys that sign certificates; `revoked` has fingerprints of keys, of which
    nothing is believed any more, and serials of certificates. `unlisted` is where a host is reached
    that is not in `hosts`; None: nowhere. `defaults` is what an entry of a peer may say, and
    `groups` has what `allow` says for members of a group, both as plain data. `own` has what this
    host's configuration says of peers without pinning their keys.
    """

    file: Path
    authorities: tuple[PublicKey, ...]
    revoked: tuple[Revoked, ...] = ()
    unlisted: AddressByName | None = None
    hosts: Mapping[str, FleetHost] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pools: frozenset[str] = frozenset()
    """Those of this host: what the file says of others is not about it."""

    def revokes(self, key: str) -> bool:
        """Whether a public key is revoked."""
        return fingerprint_of(key) in self.revoked

    def revokes_serial(self, serial: int) -> bool:
        """Whether a certificate is revoked by its serial."""
        return str(serial) in self.revoked


@dataclass(frozen=True, slots=True)
class TransferDefaults:
    """How data moves. `rate_limit` is in bytes per second for each migration, None for no limit.

    `readers` is the number of threads that read and hash each volume. A guest that has stood still
    for `downtime_tolerance` times its --max-downtime is resumed, as long as nothing is committed.
    """

    rate_limit: Limit = None
    compression: Compression = Compression.AUTO
    verify: bool = False
    max_rounds: Annotated[int, Range(1, 100)] = 20
    readers: Annotated[int, Range(1, 64)] = 4
    downtime_tolerance: Annotated[int, Range(1, 100)] = 3


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    `ready` is how long a guest that arrived waits, paused, for the source's decision before its
    copy is destroyed; `stall` how long a transfer may make no progress; `keepalive` the interval
    of signs of life on an idle connection.
    """

    connect: Duration = 10.0
    ready: Duration = 60.0
    stall: Duration = 60.0
    keepalive: Duration = 10.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where metrics can be had by HTTP; nowhere while there is no address."""

    address: HostAddress | None = None
    port: Port = DEFAULT_METRICS_PORT


@dataclass(frozen=True, slots=True)
class Retain:
    """How long volumes are kept whose guest has moved away, in seconds; None is for ever."""

    age: Age = None


@dataclass(frozen=True, slots=True)
class HooksConfig:
    """Programs that are run before, at and after moves.

    They are in the folders of `folder` that are called like an event, and may take `limit` seconds
    each.
    """

    folder: AbsolutePath = Path("/etc/xenmoved/hooks")
    limit: Annotated[float, Parsed(parse_duration), Range(1, 300)] = 30.0


def short_hostname() -> str:
    """Return the host's name without its domain."""
    return socket.gethostname().partition(".")[0] or "localhost"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration of one daemon.

    `default_pool` takes the volumes of arriving guests for which no pool was asked; the loader
    makes it the only pool when there is just one. `fleet` is what a file of its own says.
    """

    node: ConfigName = field(default_factory=short_hostname)
    listen: Listen = field(default_factory=Listen)
    state_dir: AbsolutePath = Path("/var/lib/xenmoved")
    control: Control = field(default_factory=Control)
    toolstack: ToolstackConfig = field(default_factory=ToolstackConfig)
    pools: Mapping[str, PoolConfig] = field(default_factory=dict)
    default_pool: ConfigName | None = None
    peers: Mapping[str, Peer] = field(default_factory=dict)
    fleet: Fleet | None = None
    transfer: TransferDefaults = field(default_factory=TransferDefaults)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retain: Retain = field(default_factory=Retain)
    metrics: Metrics = field(default_factory=Metrics)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    log_level: LogLevel = LogLevel.INFO
