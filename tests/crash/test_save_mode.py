"""Every step of a save-mode migration, with the source, the target or the link ended there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support.crash import PATIENCE, World
from xenmoved.sandbox.harness import wait_until

VICTIMS = ("source", "target", "link")


@dataclass(frozen=True)
class Step:
    """A point of `faulty_daemon`, what makes the migration pass it, and where the guest then is.

    `trigger` is what the target's emulated toolstack does wrong. `first` are faults that come
    before. `stays` tells whether the guest must be at the source in the end, None: either.
    With `reconnects`, that does not hold for a link that is cut: the migration goes on without it.
    """

    point: str
    trigger: str = ""
    first: tuple[str, ...] = ()
    stays: bool | None = None
    reconnects: bool = False

    @property
    def at_source(self) -> bool:
        return self.point.split(":")[0] in ("outbound", "outgoing", "holder", "ask")


TRIGGERS = {
    "": {},
    "build fails": {"migrate_receive": {"fail": "no room"}},
    "start fails": {"migrate_receive": {"unpause_status": 1}},
    "restore fails": {"restore": {"fail": "no room"}},
    "create fails": {"create": {"fail": "no room"}},
}

STEPS = (
    Step("inbound:receiving:after", stays=True),
    Step("outbound:phase-pre-copy", stays=True),
    Step("outbound:handing-over:after", stays=True),
    Step("outgoing:stream:middle", stays=True),
    Step("inbound:ready:after", stays=True),
    Step("outbound:commit-sent:after"),
    Step("inbound:committed:after"),
    Step("incoming:commit:after", stays=False),
    Step("inbound:started:after", stays=False),
    Step("outbound:done:after", stays=False),
    Step("inbound:aborted:after", "build fails", stays=True),
    Step("outbound:aborted:after", "build fails", stays=True),
    Step("outgoing:rollback:before", "start fails", stays=True),
    Step("ask:Inquire:after", first=("cut@ask:Commit:before",)),
)
"""Every state of a migration, and every way in which it fails, at its most dangerous moment."""

MORE_STEPS = (
    Step("landing:make:after", stays=True),
    Step("ask:HandOver:before", stays=True),
    Step("outbound:phase-final-delta", stays=True),
    Step("incoming:build:after", stays=True),
    Step("outgoing:discard:after", stays=False),
    Step("outbound:copying:before", stays=True, reconnects=True),
    Step("outbound:phase-provision", stays=True),
    Step("ask:Begin:before", stays=True),
    Step("ask:Begin:after", stays=True),
    Step("answer:Begin:before", stays=True),
    Step("inbound:receiving:before", stays=True),
    Step("inbound:phase-provision", stays=True),
    Step("inbound:phase-pre-copy", stays=True),
    Step("ask:HandOver:after", stays=True),
    Step("answer:HandOver:before", stays=True),
    Step("inbound:phase-suspend", stays=True),
    Step("incoming:start:before", stays=True),
    Step("answer:HandOver:after", stays=True),
    Step("outbound:phase-suspend", stays=True),
    Step("outbound:handing-over:before", stays=True),
    Step("outgoing:start:before", stays=True),
    Step("outgoing:suspended:before", stays=True),
    Step("outgoing:suspended:after", stays=True),
    Step("outgoing:stream:before", stays=True),
    Step("incoming:write:before", stays=True),
    Step("outbound:phase-ready", stays=True),
    Step("answer:Seal:before", stays=True),
    Step("inbound:phase-ready", stays=True),
    Step("inbound:ready:before", stays=True),
    Step("answer:Seal:after", stays=True),
    Step("ask:Seal:after", stays=True),
    Step("outbound:phase-commit", stays=True, reconnects=True),
    Step("ask:Commit:before"),
    Step("inbound:phase-commit"),
    Step("incoming:commit:before"),
    Step("inbound:started:before", stays=False),
    Step("inbound:phase-tidy", stays=False),
    Step("inbound:settled:after", stays=False),
    Step("ask:Commit:after", stays=False),
    Step("outgoing:discard:before", stays=False),
    Step("outbound:phase-tidy", stays=False),
    Step("outbound:settled:after", stays=False),
    Step("ask:Recall:before", stays=False),
    Step("answer:Recall:before", stays=False),
    Step("ask:Recall:after", stays=False),
    Step("incoming:abort:before", "build fails", stays=True),
    Step("answer:Abort:before", "build fails", stays=True),
    Step("ask:Abort:after", "build fails", stays=True),
    Step("outbound:settled:before", stays=False),
    Step("inbound:settled:before", stays=False),
    Step("ask:Offer:after", stays=True, reconnects=True),
    Step("outbound:copying:after", stays=True, reconnects=True),
    Step("landing:make:before", stays=True),
    Step("answer:Begin:after", stays=True),
    Step("incoming:start:after", stays=True),
    Step("outgoing:start:after", stays=True),
    Step("incoming:write:after", stays=True),
    Step("outgoing:stream:after", stays=True),
    Step("ask:Seal:before", stays=True),
    Step("incoming:build:before", stays=True),
    Step("answer:Seal:sent"),
    Step("outbound:commit-sent:before", stays=True, reconnects=True),
    Step("answer:Commit:before"),
    Step("inbound:committed:before"),
    Step("answer:Commit:after", stays=False),
    Step("answer:Commit:sent", stays=False),
    Step("outbound:done:before", stays=False),
    Step("incoming:abort:after", "build fails", stays=True),
    Step("outbound:aborted:before", "build fails", stays=True),
    Step("outgoing:rollback:after", "build fails", stays=True),
    Step("ask:Abort:before", "build fails", stays=True),
    Step("answer:Abort:after", "build fails", stays=True),
    Step("inbound:aborted:before", "start fails", stays=True),
    Step("inbound:settled:before", "start fails", stays=True),
    Step("outbound:aborted:before", "start fails", stays=True),
    Step("ask:Inquire:before", first=("cut@ask:Commit:before",)),
)
"""Every other moment."""

XM_STEPS = (
    Step("outbound:handing-over:after", stays=True),
    Step("outgoing:start:after", stays=True),
    Step("outgoing:stream:middle", stays=True),
    Step("outgoing:stream:after", stays=True),
    Step("incoming:write:after", stays=True),
    Step("inbound:ready:after", stays=True),
    Step("outbound:commit-sent:after"),
    Step("inbound:committed:after", stays=False),
    Step("incoming:commit:after", stays=False),
    Step("inbound:started:after", stays=False),
    Step("outbound:done:after", stays=False),
    Step("outgoing:discard:after", stays=False),
    Step("inbound:aborted:after", "restore fails", stays=True),
    Step("outgoing:rollback:before", "restore fails", stays=True),
    Step("outgoing:rollback:after", "restore fails", stays=True),
    Step("ask:Inquire:after", first=("cut@ask:Commit:before",)),
)


def crash(world: World, step: Step, victim: str, mode: Mode = Mode.SAVE) -> None:
    """Migrate, with the fault at its step; return when all is settled again."""
    source = world.source
    target = world.other(source)
    here = source if step.at_source else target
    hit = {"source": source, "target": target}.get(victim)
    action = "cut" if hit is None else "kill" if hit is here else f"kill={hit.pid}"
    target.xen.faults(**TRIGGERS[step.trigger])
    here.arm(*step.first, f"{action}@{step.point}")
    source.migrate(target, mode)
    wait_until(lambda: here.fired, f"the fault at {step.point}", PATIENCE)
    if hit is not None:
        wait_until(lambda: hit.dead, f"the end of the {victim}", PATIENCE)
    world.restart_dead()
    world.wait_quiet()
    target.xen.faults()
    owner = world.owner()
    if step.stays is not None and not (step.reconnects and victim == "link"):
        assert owner is (source if step.stays else target)


def matrix(steps: tuple[Step, ...], slow: Callable[[Step, str], bool]) -> list[Any]:
    """Every step with every victim; those that `slow` picks run only when they are asked for."""
    return [
        pytest.param(
            step,
            victim,
            id="-".join([step.point, *step.trigger.split(), victim]),
            marks=[pytest.mark.slow] if slow(step, victim) else [],
        )
        for step in steps
        for victim in VICTIMS
    ]


CRITICAL = (
    "outbound:handing-over:after",
    "inbound:ready:after",
    "outbound:commit-sent:after",
    "inbound:committed:after",
)


def by_default(step: Step, victim: str) -> bool:
    """Whether a pair runs in the quick suite: every step, with its victims in turn, and all victims
    where the ownership changes hands.
    """
    if step not in STEPS:
        return False
    return step.point in CRITICAL or VICTIMS[STEPS.index(step) % len(VICTIMS)] == victim


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "victim"),
    matrix((*STEPS, *MORE_STEPS), lambda step, victim: not by_default(step, victim)),
)
def test_one_owner_after_a_crash(worlds, step, victim):
    with worlds.use() as world:
        crash(world, step, victim)


XM_ESSENTIAL = (
    ("outgoing:stream:after", "source"),
    ("outbound:commit-sent:after", "source"),
    ("inbound:committed:after", "target"),
    ("outgoing:rollback:before", "source"),
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "victim"),
    matrix(XM_STEPS, lambda step, victim: (step.point, victim) not in XM_ESSENTIAL),
)
def test_one_owner_after_a_crash_with_xm(worlds, step, victim):
    with worlds.use("xm") as world:
        crash(world, step, victim)
