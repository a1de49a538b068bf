"""Volumes of this host: which there are, dropping copies that are kept, sending one."""

from __future__ import annotations

from xenmoved.control.api import Done, StartSync
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.jobs.report import JobReport
from xenmoved.migration.report import Volumes
from xenmoved.migration.retained import drop_chosen, list_volumes
from xenmoved.migration.source.sync import begin_sync


@answers(ListVolumes)
async def describe_volumes(services: Services, _: ListVolumes) -> Volumes:
    """Describe the volumes of every pool, and who needs them."""
    return await list_volumes(services.host)


@answers(DropVolumes)
async def drop_volumes(services: Services, request: DropVolumes) -> Volumes | Done:
    """Drop copies that are kept, or tell which these would be."""
    found = await drop_chosen(
        services.host, volume=request.volume, guest=request.guest, confirmed=request.confirmed
    )
    if not request.confirmed:
        return found
    return Done(f"dropped {', '.join(f'{row.pool}:{row.name}' for row in found.volumes)}")


@answers(StartSync)
async def sync(services: Services, request: StartSync) -> JobReport:
    """Begin to send a volume without a guest."""
    job = await begin_sync(
        services.host,
        services.tasks,
        request.volume,
        request.peer,
        target=request.target,
        options=request.options,
        only_pools=not services.by_root,
    )
    return job.report()
