"""The steps in which a live migration differs, with the source, the target or the link ended there.

The source's `xl` cannot resume a domain that another left suspended, as before Xen 4.20: whatever
becomes of the daemon, what `xl migrate` began must be ended by `xl migrate`.
"""

import pytest

from protocol.messages import Mode
from tests.crash.test_save_mode import Step, crash, matrix
from tests.support.crash import PATIENCE
from xenmoved.sandbox.harness import wait_until

STEPS = (
    Step("outbound:handing-over:after", stays=True),
    Step("holder:start:before", stays=True),
    Step("outgoing:start:after", stays=True),
    Step("outgoing:stream:middle", stays=True),
    Step("outbound:phase-final-delta", stays=True),
    Step("holder:ready:before", stays=True),
    Step("holder:ready:after", stays=True),
    Step("outgoing:stream:after", stays=True),
    Step("inbound:ready:after", stays=True),
    Step("outbound:commit-sent:after"),
    Step("inbound:committed:after"),
    Step("inbound:started:after", stays=False),
    Step("outbound:done:after", stays=False),
    Step("holder:done:before", stays=False),
    Step("holder:done:after", stays=False),
    Step("holder:back:before", "build fails", stays=True),
    Step("holder:back:after", "build fails", stays=True),
    Step("outgoing:rollback:before", "start fails", stays=True),
    Step("holder:back:after", "start fails", stays=True),
    Step("ask:Inquire:after", first=("cut@ask:Commit:before",)),
)

BY_DEFAULT = (
    ("holder:ready:before", "source"),
    ("holder:ready:after", "source"),
    ("outbound:commit-sent:after", "source"),
    ("inbound:committed:after", "target"),
    ("holder:done:after", "source"),
    ("holder:back:after", "source"),
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "victim"),
    matrix(STEPS, lambda step, victim: (step.point, victim) not in BY_DEFAULT),
)
def test_one_owner_after_a_crash(worlds, step, victim):
    with worlds.use() as world:
        source = world.source
        source.xen.faults(resume={"fail": "command not implemented"})
        crash(world, step, victim, Mode.LIVE)
        source.xen.faults()


def test_a_guest_is_taken_back_when_what_the_toolstack_noted_is_lost(worlds):
    """A file system that had an error may have lost files: the journal says enough."""
    with worlds.use() as world:
        source = world.source
        source.arm("kill@holder:ready:after")
        source.migrate(world.other(source), Mode.LIVE)
        wait_until(lambda: source.dead, "the end of the daemon", PATIENCE)
        for left in source.spool.rglob("*.log"):
            left.unlink()
        world.restart_dead()
        world.wait_quiet()
        assert world.owner() is source
