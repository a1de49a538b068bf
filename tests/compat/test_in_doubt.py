"""Daemons that are killed while a guest moves, and started again with another release.

So each release takes up the journals of those before it, with a migration in every state; and two
that have nothing in common but what is frozen settle who owns the guest.
"""

import pytest

from protocol.messages import OLDEST
from tests.crash.test_save_mode import TRIGGERS
from tests.support.crash import GUEST, PATIENCE
from tests.support.releases import FAR, NEXT, PRESENT, earlier_releases
from xenmoved.sandbox.harness import wait_until

_NEWER = {**{one.name: PRESENT for one in earlier_releases()}, PRESENT: NEXT}
_LAST = earlier_releases()[0].name
_TOGETHER = {NEXT, PRESENT, *(one.name for one in earlier_releases() if one.version >= OLDEST)}
_CRITICAL = ("outbound:commit-sent:after", "inbound:committed:after")
_LINK = "cut@outgoing:start:after"
STATES = (
    ("outbound:copying:after", "", True),
    ("outbound:handing-over:after", "", True),
    ("outbound:commit-sent:after", "", None),
    ("outbound:done:after", "", False),
    ("outbound:aborted:after", "build fails", True),
    ("inbound:receiving:after", "", True),
    ("inbound:ready:after", "", True),
    ("inbound:committed:after", "", None),
    ("inbound:started:after", "", False),
    ("inbound:aborted:after", "start fails", True),
)
"""A state when it was written down, what the target does wrong, and whether the guest stays."""
COLD_STATES = (
    ("outbound:copying:after", (), True),
    ("outbound:handing-over:after", (), True),
    ("outbound:commit-sent:after", (), None),
    ("outbound:done:after", (), False),
    ("outbound:aborted:after", (_LINK,), True),
    ("inbound:receiving:after", (), True),
    ("inbound:ready:after", (), True),
    ("inbound:committed:after", (), None),
    ("inbound:started:after", (), False),
    ("inbound:aborted:after", (_LINK,), True),
)
"""Of a guest that does not run: no toolstack can fail, so that it is the link that does."""


def killed_at(world, point, trigger, mode="save", first=()):
    """Have the guest move until the daemon that comes to a point is killed there; return it.

    `first` are faults of the source that come before.
    """
    source, target = world.pair
    target.xen.faults(**TRIGGERS[trigger])
    here = source if point.startswith(("outbound", "outgoing")) else target
    if here is source:
        here.arm(*first, f"kill@{point}")
    else:
        source.arm(*first)
        here.arm(f"kill@{point}")
    source.ctl("migrate", "web", target.name, "--mode", mode, "--detach")
    wait_until(lambda: here.dead, f"the end of {here.name} at {point}", PATIENCE * 2)
    assert here.fired
    return here


def started_with(host, release):
    """Install a release on a host whose daemon was killed, and start it."""
    host.install(release)
    host.start()


def settled(world, stays):
    """Check that somebody has the guest, and nobody anything left to do; return its host."""
    world.wait_quiet(PATIENCE * 4)
    world.pair[1].xen.faults()
    owner = world.owner()
    if stays is not None:
        assert owner is world.pair[0 if stays else 1]


def cases(states, wanted):
    """Every state with every release; those that are not wanted only when they are asked for."""
    for old in _NEWER:
        for point, trigger, stays in states:
            marks = [pytest.mark.thorough if wanted(old, point) else pytest.mark.slow]
            yield pytest.param(old, point, trigger, stays, id=f"{old}-{point}", marks=marks)


def of_the_last_release_or_critical(old, point):
    return old == _LAST or point in _CRITICAL


def critical_of_the_last_releases(old, point):
    return old in (_LAST, PRESENT) and point in _CRITICAL


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("old", "point", "trigger", "stays"), list(cases(STATES, of_the_last_release_or_critical))
)
def test_a_side_is_upgraded_in_mid_migration(world_of, old, point, trigger, stays):
    new = _NEWER[old]
    world = world_of(old, old)
    here = killed_at(world, point, trigger)
    started_with(here, new)
    settled(world, stays)
    world.other(here).restart(new)
    world.move("save")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("old", "point", "first", "stays"), list(cases(COLD_STATES, critical_of_the_last_releases))
)
def test_a_side_is_upgraded_while_a_guest_moves_that_is_off(world_of, old, point, first, stays):
    new = _NEWER[old]
    world = world_of(old, old)
    world.pair[0].xen.xl("destroy", GUEST)
    here = killed_at(world, point, "", mode="cold", first=first)
    started_with(here, new)
    world.wait_quiet(PATIENCE * 4)
    owner = world.start_stopped()
    assert stays is None or owner is world.pair[0 if stays else 1]
    assert world.owner() is owner
    world.other(here).restart(new)
    world.move_cold()


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("old", [one for one in _NEWER if one in _TOGETHER])
@pytest.mark.parametrize(
    ("point", "trigger", "stays"),
    [
        ("outbound:handing-over:after", "", True),
        ("outgoing:stream:middle", "", True),
        *(one for one in STATES if one[0] in _CRITICAL),
        ("outbound:aborted:after", "build fails", True),
    ],
)
def test_what_keeps_the_pipes_of_a_live_migration_is_taken_up(world_of, old, point, trigger, stays):
    """It is a process of the release before, and so is what it says to the daemon."""
    world = world_of(old, old)
    here = killed_at(world, point, trigger, mode="live")
    started_with(here, _NEWER[old])
    settled(world, stays)
    world.move("live")


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("point", _CRITICAL)
@pytest.mark.parametrize(
    ("old", "new"), [(PRESENT, FAR), *((one, PRESENT) for one in _NEWER if one not in _TOGETHER)]
)
def test_both_sides_are_upgraded_in_mid_migration(world_of, old, new, point):
    world = world_of(old, old)
    here = killed_at(world, point, "", mode="live")
    there = world.other(here)
    there.stop(9)
    started_with(there, new)
    started_with(here, new)
    settled(world, None)
    world.move("live")


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_remarks_of_a_far_release_are_heard(world_of):
    """A guest has moved, and its target is upgraded further before the source has heard of it."""
    world = world_of(PRESENT, PRESENT)
    source, target = world.pair
    source.arm("kill@ask:Recall:before")
    source.ctl("migrate", "web", target.name, "--mode", "save", "--detach")
    wait_until(lambda: source.dead, "the end of the source", PATIENCE * 2)
    target.restart(FAR)
    started_with(source, PRESENT)
    world.wait_quiet(PATIENCE * 4)
    assert world.owner() is target
    heard = "SELECT count(*) FROM jobs WHERE report LIKE '%\"unheard\"%'"
    wait_until(lambda: source.query(heard) == [(0,)], "the remarks", PATIENCE * 2)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_an_older_release_does_not_touch_the_journal_of_a_newer_one(world_of):
    """Which still has a migration in it; the newer one goes on with that when it is back."""
    world = world_of(NEXT, NEXT)
    source = killed_at(world, "outbound:commit-sent:after", "")
    state = source.folder / "state"

    def contents():
        return {file.name: file.read_bytes() for file in state.glob("journal.db*")}

    before = contents()
    source.install(PRESENT)
    source.launch()
    assert source.process.wait(60) == 1
    assert "is of a newer release" in source.log()
    assert "install that release again" in source.log()
    assert contents() == before
    started_with(source, NEXT)
    settled(world, None)
