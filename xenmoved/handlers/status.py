"""How the daemon is."""

from __future__ import annotations

import xenmoved
from xenmoved.control.api import GetStatus, Status
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.link.identity import fingerprint
from xenmoved.migration.doubts import alarms


@answers(GetStatus)
async def status(services: Services, _: GetStatus) -> Status:
    """Describe the daemon, its jobs that have not ended, and what needs an operator now."""
    host = services.host
    info = await host.toolstack.host()
    return Status(
        node=host.config.node,
        version=xenmoved.__version__,
        toolstack=info.toolstack,
        xen_version=info.xen_version,
        free_memory=info.free_memory,
        listening=f"{host.config.listen.address} port {services.port}",
        fingerprint=fingerprint(services.identity),
        peers=len(host.roster.all()),
        jobs=tuple(job.report() for job in host.jobs.live)[:1000],
        alarms=(*host.certificate_alarms(), *await alarms(host))[:1000],
    )
