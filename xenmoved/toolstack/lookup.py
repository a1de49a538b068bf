"""Finding and ending domains, the same way with either toolstack."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from xenmoved.toolstack.commands import Commands
from xenmoved.toolstack.domains import parse_table
from xenmoved.toolstack.interface import (
    Domain,
    DomainNotFound,
    DomainState,
    DomainStatus,
    NoConfiguration,
    ToolstackError,
    named,
)

STOPPED: Final = (DomainState.PAUSED, DomainState.SUSPENDED)

_DESTROY_TIMEOUT: Final = 120.0
_GONE_TIMEOUT: Final = 60.0
_POLL: Final = 0.1
_UUID: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_NAMELESS: Final = "(null)"
"""What `xl list` prints for a domain that xenstore knows no name of."""

Known = Callable[[DomainStatus], Domain | None]
"""Tells what a list of all domains says of one, None when it is not in it."""


def require_named(name: str, domains: Sequence[DomainStatus]) -> DomainStatus:
    """Return the one of a host's domains that has a name. Raises DomainNotFound."""
    if (found := named(name, domains)) is None:
        raise DomainNotFound(f"there is no domain {name} on this host.")
    return found


class Lookup:
    """The domains of this host, by the table that the toolstack's `list` prints."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    async def all(self) -> list[DomainStatus]:
        """Every domain but dom0."""
        result = await self.commands.run("list")
        return [domain for domain in parse_table(result.stdout) if domain.domid != 0]

    async def find(self, name: str) -> DomainStatus | None:
        """Find the domain of that name, None without one.

        By the whole table: `list NAME` fails in the same way for no such domain and for any other
        reason, and takes a name of digits for an id.
        """
        return named(name, await self.all())

    async def get(self, name: str) -> DomainStatus:
        """Find the domain of that name. Raises DomainNotFound."""
        return require_named(name, await self.all())

    async def describe_all(
        self,
        listed: Callable[[], Awaitable[Known]],
        describe: Callable[[DomainStatus], Awaitable[Domain]],
    ) -> list[tuple[DomainStatus, Domain | ToolstackError]]:
        """Describe every domain but dom0: by what is `listed` of all, else by asking for it alone.

        What is being destroyed, has no name or no configuration comes with NoConfiguration.
        Most hosts that a guest comes to have none: nothing more is asked then.
        """
        if not (statuses := await self.all()):
            return []
        known = await listed()
        found: list[tuple[DomainStatus, Domain | ToolstackError]] = []
        for status in statuses:
            try:
                found.append((status, known(status) or await describe(status)))
            except DomainNotFound:
                continue  # it has gone away meanwhile
            except ToolstackError as error:
                gone = status.state is DomainState.DYING or status.name == _NAMELESS
                found.append((status, NoConfiguration(str(error)) if gone else error))
        return found

    async def uuids(self, domain: DomainStatus) -> list[str]:
        """Return what Xen itself knows as the uuid of a domain that has no configuration yet.

        `xl list -l` leaves such a one out (tools/xl/xl_info.c).
        """
        result = await self.commands.run("list", "-v", str(domain.domid))
        return _UUID.findall(result.stdout.lower())

    async def unpause(self, domain: DomainStatus) -> None:
        """Unpause exactly this domain."""
        await self.commands.run(
            "unpause",
            str(domain.domid),
            advice=f"Domain {domain.name} stays paused; unpause it by hand when the cause is gone.",
        )

    async def rename(self, domain: DomainStatus, name: str) -> None:
        """Give exactly this domain another name."""
        await self.commands.run(
            "rename",
            str(domain.domid),
            name,
            advice=f"Domain {domain.name} (id {domain.domid}) is {name}; rename it by hand.",
        )

    async def destroy_stopped(
        self, domain: DomainStatus, stopped: Collection[DomainState] = STOPPED
    ) -> None:
        """Destroy exactly this domain, which was seen paused or suspended, and see it gone.

        By its id, so that another domain that takes the name meanwhile is not hit. A domain that
        runs is never destroyed: raises ToolstackError.
        """
        if domain.state not in stopped:
            raise ToolstackError(
                f"domain {domain.name} (id {domain.domid}) is {domain.state}, where a paused or "
                "suspended one was to be destroyed; it is left alone. Find out who resumed it."
            )
        result = await self.commands.run(
            "destroy", str(domain.domid), timeout=_DESTROY_TIMEOUT, check=False
        )
        deadline = time.monotonic() + _GONE_TIMEOUT
        while time.monotonic() < deadline:
            left = next((one for one in await self.all() if one.domid == domain.domid), None)
            # A dying domain runs no more; Xen frees it when its last shared page is returned.
            if left is None or left.state is DomainState.DYING:
                return
            if result.status != 0:
                break
            await asyncio.sleep(_POLL)
        if result.status == 0:
            raise ToolstackError(
                f"domain {domain.name} (id {domain.domid}) is still there {_GONE_TIMEOUT:g} s "
                "after it was destroyed; see what keeps it."
            )
        raise result.error(
            f"Domain {domain.name} (id {domain.domid}) is still there; destroy it by hand."
        )
