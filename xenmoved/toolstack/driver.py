"""What the drivers of `xl` and `xm` have in common."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from xenmoved.toolstack.backends import Backends, OpenByBackends
from xenmoved.toolstack.cold import ColdIncoming, ColdOutgoing
from xenmoved.toolstack.commands import Commands
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.created import CreatedIncoming
from xenmoved.toolstack.domains import check_name, parse_info
from xenmoved.toolstack.interface import Arrival, Domain, DomainStatus, HostInfo, ToolstackError
from xenmoved.toolstack.lookup import Known, Lookup
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.restart import RestartOutgoing

_MIB = 1 << 20
_MOST_WORDS = 64


def host_info(toolstack: str, text: str) -> HostInfo:
    """Read the output of `xl info` or `xm info`, whose memory is in MiB."""
    values = parse_info(text)
    version = values.get("xen_version") or ".".join(
        values.get(key, "") for key in ("xen_major", "xen_minor")
    ) + values.get("xen_extra", "")
    try:
        return HostInfo(
            toolstack=toolstack,
            xen_version=version,
            free_memory=int(values["free_memory"]) * _MIB,
            total_memory=int(values["total_memory"]) * _MIB,
            kinds=_kinds(values.get("xen_caps", "").split()),
            features=_features(values.get("hw_caps", "")),
            shadow=_has_shadow(version, values.get("virt_caps", "").split()),
        )
    except (KeyError, ValueError) as error:
        raise ToolstackError(
            f"expected free_memory and total_memory in MiB from `{toolstack} info`: {error}."
        ) from error


def _kinds(capabilities: Sequence[str]) -> frozenset[str]:
    """Return the kinds of guests that Xen says it can run (arch_get_xen_caps, xen/arch/x86)."""
    pv = {"pv"} if any(one.startswith("xen-") for one in capabilities) else set()
    hvm = {"hvm", "pvh"} if any(one.startswith("hvm-") for one in capabilities) else set()
    return frozenset(pv | hvm)


def _has_shadow(version: str, capabilities: Sequence[str]) -> bool:
    """Whether Xen was built with shadow paging, True where it does not tell.

    Since 4.14 it names `shadow` among what it has; since then it may be without, as Debian 13
    has it. Without it no write of a PV guest to its memory is followed (xen/arch/x86/mm/paging.c).
    """
    release = re.match(r"(\d+)\.(\d+)", version)
    tells = release is not None and (int(release[1]), int(release[2])) >= (4, 14)
    return not (tells and capabilities) or "shadow" in capabilities


def _features(words: str) -> tuple[int, ...]:
    """Read words in hexadecimal with colons between them, () where it is something else."""
    try:
        found = tuple(int(word, 16) for word in words.split(":"))
    except ValueError:
        return ()
    return found if len(found) <= _MOST_WORDS and max(found) < 1 << 32 else ()


def find_bridges(sysfs_net: Path) -> set[str]:
    """Names of the Linux bridges among the host's network devices."""
    if not sysfs_net.is_dir():
        return set()
    return {device.name for device in sysfs_net.iterdir() if (device / "bridge").is_dir()}


def find_switches(sysfs_net: Path) -> set[str]:
    """Names of the host's network devices that may be bridges of Open vSwitch.

    Such a bridge is a device without hardware or a guest behind it, that is on no bridge itself;
    sysfs does not tell more. One that is none is found when a guest is put on it.
    """
    if not sysfs_net.is_dir():
        return set()
    others = ("bridge", "brport", "device", "bonding", "master")
    return {
        device.name
        for device in sysfs_net.iterdir()
        if device.is_dir()
        and device.name != "lo"
        and not any((device / one).exists() for one in others)
    }


class Driver(ABC):
    """A `Toolstack`, but for what `xl` and `xm` do each in its own way.

    `command` is the command line up to the tool's own arguments. `boot_folders` are the folders
    from which an arriving guest may be booted again (see `vetting`).
    """

    name: str
    _advice: ClassVar[str]
    """What to ask oneself where the tool does not answer."""
    _tells_of_shutdown: ClassVar[bool]
    """Whether its table of domains shows why one has shut down."""

    def __init__(
        self,
        command: Sequence[str],
        config_dir: Path = Path("/etc/xen"),
        sysfs_net: Path = Path("/sys/class/net"),
        boot_folders: Readable = BOOT_FOLDERS,
        backends: Backends = Backends(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self._commands = Commands(command)
        self._lookup = Lookup(self._commands)
        self.configs = ConfigFolder(config_dir, boot_folders)
        self._sysfs_net = sysfs_net
        self._boot_folders = boot_folders
        self._backends = backends

    async def host(self) -> HostInfo:
        """Version and memory of this host."""
        result = await self._commands.run("info", advice=self._advice)
        return host_info(self.name, result.stdout)

    async def domains(self) -> list[DomainStatus]:
        """Every domain but dom0."""
        return await self._lookup.all()

    @abstractmethod
    async def describe(self, domain: DomainStatus) -> Domain:
        """Describe a domain of this host. Raises DomainNotFound when it has gone away."""

    async def describe_all(self) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        """Every domain but dom0 with its description, or with why it cannot be described."""
        return await self._lookup.describe_all(self._listed, self.describe)

    @abstractmethod
    async def _listed(self) -> Known:
        """Return what describes those domains that the tool lists all at once."""

    @abstractmethod
    async def compose_config(self, name: str) -> str | None:
        """Text of a configuration file from how a domain runs, None where none can be made."""

    @staticmethod
    @abstractmethod
    def _read_list(text: str) -> Sequence[tuple[str, str, str]]:
        """Read names, ids and uuids of domains from `list -l`."""

    async def opened(self, domain: Domain) -> OpenByBackends:
        """Tell what the backends of a running domain have open. Raises StorageError."""
        return await asyncio.to_thread(self._backends.opened, domain.domid)

    async def bridges(self) -> set[str]:
        """Names of the network bridges of the kernel that exist on this host."""
        return find_bridges(self._sysfs_net)

    async def switches(self) -> set[str]:
        """Names of the network devices of this host that may be bridges of Open vSwitch."""
        return find_switches(self._sysfs_net)

    def outgoing_cold(self, migration: str, name: str, spool: Path, uuid: str) -> ColdOutgoing:
        """Image without memory of a domain that does not run."""
        ledger = ColdOutgoing.ledger(migration, spool)
        return ColdOutgoing(self._lookup, self.configs, check_name(name), uuid, ledger)

    def outgoing_restart(
        self, migration: str, name: str, spool: Path, uuid: str, patience: float
    ) -> RestartOutgoing:
        """Image without memory of a domain that runs, and is shut down."""
        return RestartOutgoing(
            self._lookup,
            self.configs,
            migration,
            check_name(name),
            uuid,
            spool=spool,
            patience=patience,
            tells=self._tells_of_shutdown,
            compose=self.compose_config,
        )

    def incoming_restart(
        self, migration: str, arrival: Arrival, spool: Path, text: str
    ) -> CreatedIncoming:
        """Receiver for a domain that was shut down, and is created from a text of the peer's."""
        check_name(arrival.name)
        return CreatedIncoming(
            self._lookup,
            migration,
            arrival,
            spool,
            read=self._read_list,
            configs=self.configs,
            text=text,
        )

    def incoming_cold(self, arrival: Arrival) -> ColdIncoming:
        """Receiver for a domain that does not run, and is not started."""
        check_name(arrival.name)
        return ColdIncoming(self._lookup, arrival)
