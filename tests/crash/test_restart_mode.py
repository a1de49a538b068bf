"""A guest that is shut down and started elsewhere, with the source, the target or the link ended.

Whatever its next life finds on its disks must be what its last one left there: the emulated guest
compares that when it boots, on either host.
"""

import pytest

from protocol.messages import Mode
from tests.crash.test_save_mode import Step, crash, matrix
from tests.support.crash import SHUTDOWN, Worlds


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    made = Worlds(tmp_path_factory.mktemp, **SHUTDOWN)
    yield made
    made.close()


STEPS = (
    Step("outbound:phase-pre-copy", stays=True),
    Step("ask:HandOver:after", stays=True),
    Step("outbound:phase-shutdown", stays=True),
    Step("outbound:handing-over:after", stays=True),
    Step("outgoing:start:before", stays=True),
    Step("outgoing:start:after", stays=True),
    Step("outgoing:suspended:after", stays=True),
    Step("outbound:phase-final-delta", stays=True),
    Step("outbound:phase-ready", stays=True),
    Step("answer:Seal:before", stays=True),
    Step("incoming:build:before", stays=True),
    Step("incoming:build:after", stays=True),
    Step("inbound:ready:after", stays=True),
    Step("ask:Seal:after", stays=True),
    Step("outbound:commit-sent:after"),
    Step("inbound:committed:after"),
    Step("incoming:commit:after", stays=False),
    Step("inbound:started:after", stays=False),
    Step("outbound:done:after", stays=False),
    Step("outgoing:discard:before", stays=False),
    Step("outgoing:discard:after", stays=False),
    Step("inbound:aborted:after", "create fails", stays=True),
    Step("outbound:aborted:after", "create fails", stays=True),
    Step("outgoing:rollback:before", "create fails", stays=True),
    Step("outgoing:rollback:after", "create fails", stays=True),
    Step("incoming:abort:after", "create fails", stays=True),
    Step("outgoing:rollback:before", stays=True, first=("cut@outgoing:start:after",)),
    Step("outgoing:rollback:after", stays=True, first=("cut@outgoing:suspended:after",)),
    Step("ask:Inquire:after", first=("cut@ask:Commit:before",)),
)

ESSENTIAL = (
    ("outgoing:start:after", "source"),
    ("outgoing:suspended:after", "link"),
    ("inbound:ready:after", "target"),
    ("outbound:commit-sent:after", "source"),
    ("inbound:committed:after", "target"),
    ("outgoing:rollback:before", "source"),
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("step", "victim"),
    matrix(STEPS, lambda step, victim: (step.point, victim) not in ESSENTIAL),
)
def test_one_owner_after_a_crash(worlds, step, victim):
    with worlds.use() as world:
        crash(world, step, victim, Mode.RESTART)


ESSENTIAL_XM = (
    ("outgoing:suspended:after", "source"),
    ("inbound:committed:after", "target"),
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("step", "victim"),
    matrix(STEPS, lambda step, victim: (step.point, victim) not in ESSENTIAL_XM),
)
def test_one_owner_after_a_crash_with_xm(worlds, step, victim):
    with worlds.use("xm") as world:
        crash(world, step, victim, Mode.RESTART)
