"""Guests of this host: what they are, what moving one would be, and moving it."""

from __future__ import annotations

from xenmoved.control.api import Guests, ListGuests, Plan, PlanMigration, StartMigration
from xenmoved.handlers.dispatch import Services, answers
from xenmoved.handlers.plans import make_plan
from xenmoved.jobs.report import JobReport
from xenmoved.migration.source.guests import guest_rows, stopped_rows
from xenmoved.migration.source.preflight import choose, preflight


@answers(ListGuests)
async def list_guests(services: Services, _: ListGuests) -> Guests:
    """Describe the guests of this host, also those that are off."""
    rows = await guest_rows(services.host)
    rows += await stopped_rows(services.host, {row.name for row in rows})
    return Guests(tuple(rows)[:4096])


@answers(PlanMigration)
async def plan(services: Services, request: PlanMigration) -> Plan:
    """Look at both hosts, and tell what a migration would be."""
    host, options = services.host, request.options
    move = await choose(host, request.guest, request.peer, request.mode)
    return await make_plan(host, await preflight(host, move, options), options)


@answers(StartMigration)
async def migrate(services: Services, request: StartMigration) -> JobReport:
    """Begin a migration."""
    move = await choose(services.host, request.guest, request.peer, request.mode)
    return (await services.starter.migrate(move, request.options)).report()
