"""A guest that does not run, with the source, the target or the link ended while it moves."""

import pytest

from protocol.messages import Mode
from tests.crash.test_save_mode import Step
from tests.support.crash import GUEST, PATIENCE
from xenmoved.sandbox.harness import wait_until

STEPS = (
    (Step("outbound:handing-over:after", stays=True), "source"),
    (Step("outgoing:start:after", stays=True), "source"),
    (Step("outgoing:suspended:after", stays=True), "link"),
    (Step("inbound:ready:after", stays=True), "target"),
    (Step("outbound:commit-sent:after"), "source"),
    (Step("inbound:committed:after"), "target"),
    (Step("inbound:started:after", stays=False), "target"),
    (Step("outbound:done:after", stays=False), "source"),
    (Step("outgoing:discard:after", stays=False), "source"),
    (Step("outgoing:rollback:before", stays=True, first=("cut@outgoing:start:after",)), "source"),
    (Step("outgoing:rollback:after", stays=True, first=("cut@outgoing:start:after",)), "source"),
)

BY_DEFAULT = (
    "inbound:ready:after",
    "outbound:commit-sent:after",
    "inbound:committed:after",
    "outgoing:rollback:after",
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "victim"),
    [
        pytest.param(
            step,
            victim,
            id=step.point,
            marks=[] if step.point in BY_DEFAULT else [pytest.mark.slow],
        )
        for step, victim in STEPS
    ],
)
def test_one_configuration_after_a_crash(worlds, step, victim):
    with worlds.use() as world:
        source = world.source
        target = world.other(source)
        source.xen.xl("destroy", GUEST)
        here = source if step.at_source else target
        here.arm(*step.first, f"{'cut' if victim == 'link' else 'kill'}@{step.point}")
        source.migrate(target, Mode.COLD)
        wait_until(lambda: here.fired, f"the fault at {step.point}", PATIENCE)
        if victim != "link":
            wait_until(lambda: here.dead, f"the end of the {victim}", PATIENCE)
        world.restart_dead()
        world.wait_quiet()

        owner = world.start_stopped()
        assert step.stays is None or owner is (source if step.stays else target)
        assert world.owner() is owner
