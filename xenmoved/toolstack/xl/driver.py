"""The driver of `xl`, the toolstack of Xen 4.2 and later."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from xenmoved.toolstack.backends import Backends, Opened
from xenmoved.toolstack.cold import ColdIncoming, ColdOutgoing
from xenmoved.toolstack.commands import Commands
from xenmoved.toolstack.configs.compose import compose
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.domains import (
    PASSTHROUGH,
    check_name,
    load_list,
    parse_domain,
    parse_info,
)
from xenmoved.toolstack.interface import (
    Arrival,
    Domain,
    DomainStatus,
    HostInfo,
    NoConfiguration,
    OutgoingImage,
    ToolstackError,
)
from xenmoved.toolstack.lookup import Known, Lookup
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.vetting import rewrite_config
from xenmoved.toolstack.wiring import UNKNOWN
from xenmoved.toolstack.xl.incoming import XlIncoming
from xenmoved.toolstack.xl.live import XlLive, stale_copy
from xenmoved.toolstack.xl.outgoing import XlOutgoing

_MIB = 1 << 20


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
        )
    except (KeyError, ValueError) as error:
        raise ToolstackError(
            f"expected free_memory and total_memory in MiB from `{toolstack} info`: {error}."
        ) from error


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


class XlToolstack:
    """`Toolstack` of `xl`.

    `command` is the command line up to xl's own arguments. `boot_folders` are the folders from
    which an arriving guest may be booted again (see `vetting`).
    """

    name = "xl"

    def __init__(
        self,
        command: Sequence[str] = ("/usr/sbin/xl",),
        config_dir: Path = Path("/etc/xen"),
        sysfs_net: Path = Path("/sys/class/net"),
        boot_folders: tuple[str, ...] = BOOT_FOLDERS,
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
        result = await self._commands.run("info", advice="Is this host running Xen?")
        return host_info(self.name, result.stdout)

    async def domains(self) -> list[DomainStatus]:
        """Every domain but dom0."""
        return await self._lookup.all()

    async def describe(self, domain: DomainStatus) -> Domain:
        """Describe a domain of this host. Raises DomainNotFound when it has gone away."""
        check_name(domain.name)
        return self._described(domain, await self._entry(domain))

    async def describe_all(self) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        """Every domain but dom0 with its description, or with why it cannot be described."""
        return await self._lookup.describe_all(self._listed, self.describe)

    async def _listed(self) -> Known:
        entries: dict[object, Mapping[str, object]] = {}
        with contextlib.suppress(ToolstackError):  # then each is asked for by itself
            result = await self._commands.run("list", "-l")
            entries = {entry.get("domid"): entry for entry in load_list(result.stdout)}

        def known(status: DomainStatus) -> Domain | None:
            entry = entries.get(status.domid)
            return self._described(status, entry) if entry is not None else None

        return known

    def _described(self, status: DomainStatus, entry: Mapping[str, object]) -> Domain:
        domain = parse_domain(entry)
        size = dataclasses.replace(domain.size, memory=max(status.memory, domain.size.memory))
        domain = dataclasses.replace(domain, name=status.name, size=size)
        obstacles, left_out = self._judged(domain, entry)
        return dataclasses.replace(domain, obstacles=obstacles, left_out=left_out)

    async def _entry(self, domain: DomainStatus) -> Mapping[str, object]:
        """Return what `xl list -l` has of a domain. Raises DomainNotFound when it has gone away."""
        result = await self._commands.run("list", "-l", str(domain.domid), check=False)
        if result.status != 0:
            await self._lookup.get(domain.name)
            raise result.error(f"Domain {domain.name} cannot be described.")
        entries = [
            entry for entry in load_list(result.stdout) if entry.get("domid") == domain.domid
        ]
        if not entries:
            raise NoConfiguration(f"domain {domain.name} (id {domain.domid}) has no configuration.")
        if len(entries) != 1:
            raise ToolstackError(f"expected one domain with id {domain.domid} from `xl list -l`.")
        return entries[0]

    def _judged(
        self, domain: Domain, entry: Mapping[str, object]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Find what any host of this kind would refuse, passthrough aside, and would leave out."""
        config = copy.deepcopy(entry["config"])
        assert isinstance(config, dict)  # as parse_domain has found
        config["c_info"]["name"] = domain.name
        for key in PASSTHROUGH:
            config.pop(key, None)
        for key in ("ioports", "irqs", "iomem"):
            config["b_info"].pop(key, None)
        disks = {disk.vdev: disk.path for disk in domain.disks if disk.path}
        here = Arrival(domain.name, domain.uuid, disks, wiring=UNKNOWN)
        left: list[str] = []
        try:
            return tuple(rewrite_config(config, here, self._boot_folders, left)), tuple(left)
        except (ToolstackError, RecursionError) as error:
            return (str(error),), ()

    async def opened(self, domain: Domain) -> Opened:
        """Tell what the backends of a running domain have open. Raises StorageError."""
        return await asyncio.to_thread(self._backends.opened, domain.domid)

    async def bridges(self) -> set[str]:
        """Names of the network bridges of the kernel that exist on this host."""
        return find_bridges(self._sysfs_net)

    async def switches(self) -> set[str]:
        """Names of the network devices of this host that may be bridges of Open vSwitch."""
        return find_switches(self._sysfs_net)

    def live_obstacle(self, name: str, domains: Sequence[DomainStatus]) -> str | None:
        """Why the memory of one of the `domains` cannot be copied while it runs, None if it can."""
        return stale_copy(name, domains)

    def outgoing(
        self, migration: str, name: str, spool: Path, *, live: bool = False
    ) -> OutgoingImage:
        """Image of the local domain `name` for a migration; `spool` is a folder it may use."""
        if ColdOutgoing.was_begun(migration, spool):
            return self.outgoing_cold(migration, name, spool, "")
        make = XlLive if live or XlLive.was_begun(migration, spool) else XlOutgoing
        return make(self._lookup, migration, check_name(name), spool)

    def outgoing_cold(self, migration: str, name: str, spool: Path, uuid: str) -> ColdOutgoing:
        """Image without memory of a domain that does not run."""
        ledger = ColdOutgoing.ledger(migration, spool)
        return ColdOutgoing(self._lookup, self.configs, check_name(name), uuid, ledger)

    def incoming(self, migration: str, arrival: Arrival, spool: Path) -> XlIncoming:
        """Receiver for a domain; `spool` is a folder it may use."""
        check_name(arrival.name)
        return XlIncoming(self._lookup, migration, arrival, spool, self._boot_folders)

    def incoming_cold(self, arrival: Arrival) -> ColdIncoming:
        """Receiver for a domain that does not run, and is not started."""
        check_name(arrival.name)
        return ColdIncoming(self._lookup, arrival)

    async def compose_config(self, name: str) -> str | None:
        """Text of a configuration file from how a domain runs."""
        domain = await self._lookup.get(check_name(name))
        config = (await self._entry(domain)).get("config")
        return compose(config) if isinstance(config, dict) else None
