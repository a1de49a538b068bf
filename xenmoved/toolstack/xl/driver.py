"""The driver of `xl`, the toolstack of Xen 4.2 and later."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from xenmoved.toolstack.cold import ColdOutgoing
from xenmoved.toolstack.configs.compose import compose
from xenmoved.toolstack.domains import (
    PASSTHROUGH,
    check_name,
    config_uuid,
    load_list,
    parse_domain,
)
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
from xenmoved.toolstack.vetting import rewrite_config
from xenmoved.toolstack.wiring import UNKNOWN
from xenmoved.toolstack.xl.incoming import XlIncoming
from xenmoved.toolstack.xl.live import XlLive, stale_copy
from xenmoved.toolstack.xl.outgoing import XlOutgoing

_IMAGES: Final = frozenset(("qcow2", "vhd"))


class XlToolstack(Driver):
    """`Toolstack` of `xl`."""

    name = "xl"
    _advice = "Is this host running Xen?"
    _tells_of_shutdown = True

    async def describe(self, domain: DomainStatus) -> Domain:
        """Describe a domain of this host. Raises DomainNotFound when it has gone away."""
        check_name(domain.name)
        return self._described(domain, await self._entry(domain))

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
        # What becomes of an image is found by who moves it.
        formats = {disk.vdev: disk.format for disk in domain.disks if disk.format in _IMAGES}
        here = Arrival(domain.name, domain.uuid, disks, formats=formats, wiring=UNKNOWN)
        left: list[str] = []
        try:
            return tuple(rewrite_config(config, here, self._boot_folders.unseen, left)), tuple(left)
        except (ToolstackError, RecursionError) as error:
            return (str(error),), ()

    def live_obstacle(self, name: str, domains: Sequence[DomainStatus]) -> str | None:
        """Why the memory of one of the `domains` cannot be copied while it runs, None if it can."""
        return stale_copy(name, domains)

    def outgoing(
        self, migration: str, name: str, spool: Path, *, live: bool = False
    ) -> OutgoingImage:
        """Image of the local domain `name` for a migration; `spool` is a folder it may use."""
        if ColdOutgoing.was_begun(migration, spool):
            return self.outgoing_cold(migration, name, spool, "")
        if RestartOutgoing.was_begun(migration, spool):
            return self.outgoing_restart(migration, name, spool, "", SHUTDOWN_PATIENCE)
        make = XlLive if live or XlLive.was_begun(migration, spool) else XlOutgoing
        return make(self._lookup, migration, check_name(name), spool)

    def incoming(self, migration: str, arrival: Arrival, spool: Path) -> XlIncoming:
        """Receiver for a domain; `spool` is a folder it may use."""
        check_name(arrival.name)
        return XlIncoming(self._lookup, migration, arrival, spool, self._boot_folders)

    @staticmethod
    def _read_list(text: str) -> list[tuple[str, str, str]]:
        found = []
        for entry in load_list(text):
            config = entry.get("config")
            create = config.get("c_info") if isinstance(config, dict) else None
            name = create.get("name") if isinstance(create, dict) else None
            found.append((str(name or ""), str(entry.get("domid")), config_uuid(entry)))
        return found

    async def compose_config(self, name: str) -> str | None:
        """Text of a configuration file from how a domain runs."""
        domain = await self._lookup.get(check_name(name))
        config = (await self._entry(domain)).get("config")
        return compose(config) if isinstance(config, dict) else None
