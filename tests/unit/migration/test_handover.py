"""The walk of a hand-over table: recorded first, carried out then, and told where it went wrong."""

import asyncio

import pytest

from protocol.handover import (
    InvalidTransition,
    SourceAction,
    SourceEvent,
    SourceState,
    TargetEvent,
    TargetState,
    source_step,
    target_step,
)
from xenmoved.migration.handover import Instead, Walk


class Role:
    """Records what a walk asks for, in order."""

    def __init__(self, table=source_step, state=SourceState.COPYING, then=None, instead=None):
        self.done = []
        self.then = then or {}
        self.instead = instead or {}
        self.walk = Walk(table, state, self.write_down, self.carry_out, self.at_rest)

    async def write_down(self, step):
        self.done.append(f"write {step.state}")
        return self.instead.pop(step.state, None)

    async def carry_out(self, action):
        self.done.append(f"{action} in {self.walk.state}")
        found = self.then.pop(action, None)
        if isinstance(found, Exception):
            raise found
        return found

    async def at_rest(self):
        self.done.append(f"rest in {self.walk.state}")


async def test_each_state_is_recorded_before_its_actions_and_before_what_follows():
    role = Role(
        state=SourceState.HANDING_OVER,
        then={
            SourceAction.SEND_COMMIT: SourceEvent.LINK_LOST,
            SourceAction.ASK_TARGET: SourceEvent.TARGET_STARTED,
        },
    )
    await role.walk.take(SourceEvent.TARGET_READY)
    assert role.done == [
        "write commit-sent",
        "send-commit in commit-sent",
        "write commit-sent",
        "ask-target in commit-sent",
        "write done",
        "discard-guest in done",
        "rest in done",
    ]


async def test_what_cannot_be_recorded_is_not_entered_and_nothing_of_it_done():
    role = Role(instead={SourceState.HANDING_OVER: Instead(SourceEvent.FAILED)})
    await role.walk.take(SourceEvent.SUSPENDING)
    assert role.done == [
        "write handing-over",
        "write aborted",
        "send-abort in aborted",
        "rest in aborted",
    ]


async def test_a_walk_that_stops_stays_in_its_state():
    role = Role(
        target_step, TargetState.COMMITTED, instead={TargetState.STARTED: Instead(event=None)}
    )
    await role.walk.take(TargetEvent.GUEST_RUNS)
    assert role.done == ["write started", "rest in committed"]


async def test_an_action_that_raises_leaves_the_recorded_state():
    role = Role(then={SourceAction.HOLD_AUTOSTART: OSError("no space")})
    with pytest.raises(OSError, match="no space"):
        await role.walk.take(SourceEvent.SUSPENDING)
    assert role.walk.state is SourceState.HANDING_OVER


async def test_an_event_out_of_its_states_is_dropped():
    role = Role(target_step, TargetState.STARTED)
    await role.walk.take(TargetEvent.READY_TIMEOUT, (TargetState.READY,))
    assert role.done == ["rest in started"]


async def test_events_are_taken_one_after_the_other():
    role = Role(target_step, TargetState.READY)
    going_on = asyncio.Event()

    async def carry_out(action):
        role.done.append(f"begin {action}")
        await going_on.wait()
        role.done.append(f"end {action}")
        return TargetEvent.GUEST_RUNS if action == "start-guest" else None

    role.walk = Walk(target_step, TargetState.READY, role.write_down, carry_out)
    first = asyncio.create_task(role.walk.take(TargetEvent.COMMIT))
    await asyncio.sleep(0)
    second = asyncio.create_task(role.walk.take(TargetEvent.ABORT))
    await asyncio.sleep(0)
    going_on.set()
    await asyncio.gather(first, second)
    assert role.done == [
        "write committed",
        "begin start-guest",
        "end start-guest",
        "write started",
        "begin send-started",
        "end send-started",
        "write ran-twice",
        "begin send-started",
        "end send-started",
    ]


async def test_an_invalid_transition_tells_the_steps_that_led_there():
    role = Role()
    await role.walk.take(SourceEvent.SUSPENDING)
    await role.walk.take(SourceEvent.FAILED)
    with pytest.raises(InvalidTransition) as raised:
        await role.walk.take(SourceEvent.SUSPENDING)
    assert str(raised.value) == (
        "the source cannot take suspending in state aborted; before that: "
        "suspending in copying -> handing-over, failed in handing-over -> aborted"
    )


async def test_the_last_twenty_steps_are_kept():
    role = Role(state=SourceState.KEPT)
    for _ in range(30):
        await role.walk.take(SourceEvent.TARGET_FORGOT)
    with pytest.raises(InvalidTransition) as raised:
        await role.walk.take(SourceEvent.SUSPENDING)
    assert str(raised.value).count("target-forgot in kept -> kept") == 20
