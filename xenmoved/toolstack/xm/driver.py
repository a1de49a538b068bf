"""The driver of `xm`, the toolstack of Xen before 4.5."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from xenmoved.toolstack.backends import Backends, Opened
from xenmoved.toolstack.cold import ColdIncoming, ColdOutgoing
from xenmoved.toolstack.commands import Commands
from xenmoved.toolstack.configs.folder import ConfigFolder, is_block_device
from xenmoved.toolstack.domains import check_name
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
from xenmoved.toolstack.wiring import UNKNOWN
from xenmoved.toolstack.xl.driver import find_bridges, find_switches, host_info
from xenmoved.toolstack.xm.domain import parse_xm_domain, rewrite_xm_config
from xenmoved.toolstack.xm.incoming import XmIncoming
from xenmoved.toolstack.xm.outgoing import XmOutgoing
from xenmoved.toolstack.xm.sexpr import Sexpr, child_value, name_of, parse_all


class XmToolstack:
    """`Toolstack` of `xm`.

    `command` is the command line up to xm's own arguments. `boot_folders` are the folders from
    which an arriving guest may be booted again (see `vetting`).
    """

    name = "xm"

    def __init__(
        self,
        command: Sequence[str] = ("/usr/sbin/xm",),
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
        result = await self._commands.run("info", advice="Is xend running?")
        return host_info(self.name, result.stdout)

    async def domains(self) -> list[DomainStatus]:
        """Every domain but dom0."""
        return await self._lookup.all()

    async def describe(self, domain: DomainStatus) -> Domain:
        """Describe a domain of this host. Raises DomainNotFound when it has gone away."""
        name = check_name(domain.name)
        result = await self._commands.run("list", "-l", name, check=False)
        if result.status != 0:
            await self._lookup.get(name)
            raise result.error(f"Domain {name} cannot be described.")
        found = [
            expression
            for expression in parse_all(result.stdout)
            if name_of(expression) == "domain" and child_value(expression, "name") == name
        ]
        if not found:
            raise NoConfiguration(f"domain {name} (id {domain.domid}) has no configuration.")
        if len(found) != 1:
            raise ToolstackError(f"expected one domain {name} from `xm list -l`.")
        return self._described(domain, found[0])

    async def describe_all(self) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        """Every domain but dom0 with its description, or with why it cannot be described."""
        return await self._lookup.describe_all(self._listed, self.describe)

    async def _listed(self) -> Known:
        expressions: dict[object, Sexpr] = {}
        with contextlib.suppress(ToolstackError):  # then each is asked for by itself
            result = await self._commands.run("list", "-l")
            for expression in parse_all(result.stdout):
                if name_of(expression) == "domain":
                    expressions[child_value(expression, "name")] = expression

        def known(status: DomainStatus) -> Domain | None:
            expression = expressions.get(status.name)
            return self._described(status, expression) if expression is not None else None

        return known

    def _described(self, status: DomainStatus, expression: Sexpr) -> Domain:
        domain = parse_xm_domain(expression)
        size = dataclasses.replace(domain.size, memory=max(status.memory, domain.size.memory))
        domain = dataclasses.replace(domain, domid=status.domid, size=size)
        obstacles, left_out = self._judged(domain, expression)
        return dataclasses.replace(domain, obstacles=obstacles, left_out=left_out)

    def _judged(self, domain: Domain, expression: Sexpr) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Find what any host of this kind would refuse, passthrough aside, and would leave out."""
        assert isinstance(expression, list)  # as parse_xm_domain has found
        moved = [
            copy.deepcopy(item)
            for item in expression
            if name_of(item) != "device" or name_of(item[1]) not in domain.passthrough
        ]
        disks = {disk.vdev: disk.path for disk in domain.disks if disk.path}
        here = Arrival(domain.name, domain.uuid, disks, wiring=UNKNOWN)
        left: list[str] = []
        try:
            found = rewrite_xm_config(moved, here, self._boot_folders, is_block_device, left)
            return tuple(found), tuple(left)
        except ToolstackError as error:
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
        """Why the memory of one of the `domains` cannot be copied while it runs."""
        return (
            "`xm` copies memory from a running guest only to another xend, over a connection of "
            "its own without encryption"
        )

    def outgoing(
        self, migration: str, name: str, spool: Path, *, live: bool = False
    ) -> OutgoingImage:
        """Image of the local domain `name` for a migration; `spool` is a folder it may use."""
        if ColdOutgoing.was_begun(migration, spool):
            return self.outgoing_cold(migration, name, spool, "")
        if live:
            raise ToolstackError(f"domain {name} cannot be moved live: this host has `xm`.")
        return XmOutgoing(self._lookup, migration, check_name(name), spool, self.describe)

    def outgoing_cold(self, migration: str, name: str, spool: Path, uuid: str) -> ColdOutgoing:
        """Image without memory of a domain that does not run."""
        ledger = ColdOutgoing.ledger(migration, spool)
        return ColdOutgoing(self._lookup, self.configs, check_name(name), uuid, ledger)

    def incoming(self, migration: str, arrival: Arrival, spool: Path) -> XmIncoming:
        """Receiver for a domain; `spool` is a folder it may use."""
        check_name(arrival.name)
        return XmIncoming(
            self._lookup,
            migration,
            arrival,
            spool,
            boot_folders=self._boot_folders,
            is_block=is_block_device,
        )

    def incoming_cold(self, arrival: Arrival) -> ColdIncoming:
        """Receiver for a domain that does not run, and is not started."""
        check_name(arrival.name)
        return ColdIncoming(self._lookup, arrival)

    async def compose_config(self, name: str) -> str | None:
        """Return None: what `xm list -l` tells is no file that `xm create` takes."""
        return None
