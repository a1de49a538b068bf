"""The driver of `xm`, the toolstack of Xen before 4.5."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from xenmoved.toolstack.cold import ColdOutgoing
from xenmoved.toolstack.configs.folder import is_block_device
from xenmoved.toolstack.domains import check_name
from xenmoved.toolstack.driver import Driver
from xenmoved.toolstack.interface import (
    SHUTDOWN_PATIENCE,
    Arrival,
    Domain,
    DomainStatus,
    NoConfiguration,
    OutgoingImage,
    ToolstackError,
)
from xenmoved.toolstack.lookup import Known
from xenmoved.toolstack.restart import RestartOutgoing
from xenmoved.toolstack.wiring import UNKNOWN
from xenmoved.toolstack.xm.domain import parse_xm_domain, rewrite_xm_config
from xenmoved.toolstack.xm.incoming import XmIncoming, read_list
from xenmoved.toolstack.xm.outgoing import XmOutgoing
from xenmoved.toolstack.xm.sexpr import Sexpr, child_value, name_of, parse_all


class XmToolstack(Driver):
    """`Toolstack` of `xm`."""

    name = "xm"
    _advice = "Is xend running?"
    _tells_of_shutdown = False

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
            found = rewrite_xm_config(moved, here, self._boot_folders.unseen, is_block_device, left)
            return tuple(found), tuple(left)
        except ToolstackError as error:
            return (str(error),), ()

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
        if RestartOutgoing.was_begun(migration, spool):
            return self.outgoing_restart(migration, name, spool, "", SHUTDOWN_PATIENCE)
        if live:
            raise ToolstackError(f"domain {name} cannot be moved live: this host has `xm`.")
        return XmOutgoing(self._lookup, migration, check_name(name), spool)

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

    @staticmethod
    def _read_list(text: str) -> list[tuple[str, str, str]]:
        return read_list(text)

    async def compose_config(self, name: str) -> str | None:
        """Return None: what `xm list -l` tells is no file that `xm create` takes."""
        return None
