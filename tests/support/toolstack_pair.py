"""Two emulated hosts without daemons, and a guest that a driver moves between them."""

import asyncio
import os
import time

from storage.backing import backing_of
from xenmoved.sandbox.harness import EmulatedHost, make_image
from xenmoved.toolstack.commands import find_tagged_processes, running_command
from xenmoved.toolstack.interface import Arrival, DomainState
from xenmoved.toolstack.xl.driver import XlToolstack
from xenmoved.toolstack.xm.driver import XmToolstack

RUNNING = {"web": DomainState.RUNNING}


class Side:
    """One host: its emulator, its driver, its spool."""

    def __init__(self, root, kind):
        self.emulated = EmulatedHost(root)
        make = XlToolstack if kind == "xl" else XmToolstack
        self.driver = make(self.emulated.command(kind), root / "etc", root / "sys/class/net")
        self.spool = root / "spool"

    async def states(self):
        return {domain.name: domain.state for domain in await self.driver.domains()}


class Pair:
    """A guest on one host and another host to move it to."""

    def __init__(self, folder, kind, live=False, lines="", extra=""):
        self.kind, self.live = kind, live
        self.here, self.there = Side(folder / "a", kind), Side(folder / "b", kind)
        self.image = make_image(folder / "disk.img", 4)
        self.uuid = self.here.emulated.create(
            "web", [self.image], memory=2, lines=lines, extra=extra
        )
        self.migration = f"m-{os.getpid()}-{time.monotonic_ns()}"
        self.arrival = Arrival("web", self.uuid, {"xvda": str(self.image)})
        self.had = {str(self.image): backing_of(self.image)}

    def outgoing(self):
        return self.here.driver.outgoing(self.migration, "web", self.here.spool, live=self.live)

    def later_outgoing(self):
        """The image as a later process finds it, which is not told how it was begun."""
        return self.here.driver.outgoing(self.migration, "web", self.here.spool)

    def incoming(self):
        return self.there.driver.incoming(self.migration, self.arrival, self.there.spool)

    async def received(self):
        """Both images, with everything passed on but the end."""
        source, target = self.outgoing(), self.incoming()
        await target.start()
        await source.start(self.had)
        await asyncio.gather(source.suspended(), pass_on(source, target))
        return source, target

    async def receivers(self):
        tagged = await find_tagged_processes(self.migration)
        return running_command(tagged, "migrate-receive") + running_command(tagged, "restore")

    async def left(self):
        """Nothing of the migration may be left but the guest that runs."""
        tagged = await find_tagged_processes(self.migration)
        return [
            p for verb in ("save", "migrate", "restore") for p in running_command(tagged, verb)
        ] + (await self.receivers())


async def pass_on(source, target):
    """Pass the whole image on to the target, but for its end, which the target keeps back."""
    async for piece in source.stream():
        await target.write(piece)


async def roll_back(pair, source, target, times=1):
    """Give up on both sides, in this process or as a later one would."""
    for _ in range(times):
        await target.abort()
        await source.rollback()
    assert await pair.here.states() == RUNNING
    assert await pair.there.states() == {}
    assert await pair.left() == []
    assert pair.here.emulated.check("web")["ok"]
    assert not list(pair.here.spool.glob("*"))
    assert not list(pair.there.spool.glob("*"))
