"""Live migration by the driver of `xl` against the emulated one, step by step."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.toolstack_pair import RUNNING, Pair, pass_on, roll_back
from xenmoved.sandbox.harness import make_image
from xenmoved.toolstack.commands import find_tagged_processes
from xenmoved.toolstack.interface import DomainState, Settled, ToolstackError
from xenmoved.toolstack.xl import holder as xl_holder
from xenmoved.toolstack.xl import outgoing as xl_outgoing

REPOSITORY = Path(__file__).resolve().parents[2]
AWAY = {"web--migratedaway": DomainState.SUSPENDED}


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path, "xl", live=True)
    yield made
    made.here.emulated.stop()
    made.there.emulated.stop()
    # A test that failed may leave them waiting for a decision, for which they would wait for ever.
    asyncio.run(kill(made, "migrate", xl_holder.__file__))


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Bound what a broken test waits for."""
    monkeypatch.setattr(xl_outgoing, "_ROLLBACK_TIMEOUT", 15.0)


async def holders(pair):
    found = await find_tagged_processes(pair.migration)
    return [process for process in found if xl_holder.__file__ in process.argv]


async def no_holder(pair):
    """Wait until the holder has ended, which nobody else waits for."""
    for _ in range(100):
        if not await holders(pair):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the holder does not end")


async def kill(pair, *words):
    """Kill what has one of the words among its arguments."""
    for process in await find_tagged_processes(pair.migration):
        if any(word in process.argv for word in words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


async def test_move(pair):
    source, target = await pair.received()
    assert await pair.here.states() == AWAY
    await target.build()
    assert DomainState.RUNNING not in (await pair.there.states()).values()
    await target.commit()
    assert await pair.there.states() == RUNNING
    for _ in range(2):
        await source.discard()
    await pair.later_outgoing().discard()
    assert await pair.here.states() == {}
    assert await pair.left() == []
    await no_holder(pair)
    assert not list(pair.here.spool.glob("*"))
    verdict = pair.there.emulated.check("web")
    assert verdict["ok"] and verdict["blocks"]


async def test_the_guest_runs_and_writes_while_its_memory_is_copied(pair):
    pair.here.emulated.faults(migrate={"delay_per_mib": 0.3})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    before = pair.image.read_bytes()
    passing = asyncio.ensure_future(pass_on(source, target))
    suspension = asyncio.ensure_future(source.suspended())
    states = set()
    while True:
        state = (await pair.here.states())["web"]
        if source._streamed >= 2 << 20:  # all of its memory once
            break
        states.add(state)
        assert not suspension.done()
        await asyncio.sleep(0.02)
    assert states == {DomainState.RUNNING}
    assert pair.image.read_bytes() != before
    await suspension
    assert set((await pair.here.states()).values()) == {DomainState.SUSPENDED}
    await passing
    assert "iteration 1:" in (pair.here.spool / f"{pair.migration}.migrate.log").read_text()
    await roll_back(pair, source, target)


async def test_rollback_after_the_hand_over_needs_no_resume_of_xen(pair):
    old_xl(pair)
    source, target = await pair.received()
    await target.build()
    with pytest.raises(ToolstackError):
        await source.start(pair.had)
    await roll_back(pair, source, target, times=2)
    await no_holder(pair)


def old_xl(pair, **faults):
    """Have an `xl` that cannot resume a domain, as before Xen 4.20."""
    pair.here.emulated.faults(resume={"fail": "command not implemented"}, **faults)


@pytest.mark.sampled
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.5])
async def test_rollback_while_it_begins(pair, delay):
    old_xl(pair, migrate={"delay_per_mib": 0.2})
    source = pair.outgoing()
    starting = asyncio.ensure_future(source.start(pair.had))
    await asyncio.sleep(delay)
    starting.cancel()
    await asyncio.wait([starting])
    await roll_back(pair, source, pair.incoming())
    await no_holder(pair)


async def test_cancelling_leaves_everything_to_rollback(pair):
    old_xl(pair)
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    moving = asyncio.ensure_future(pass_on(source, target))
    await source.suspended()
    moving.cancel()
    await asyncio.wait([moving])
    await roll_back(pair, source, target)


async def test_a_guest_that_is_paused_meanwhile_is_not_taken_for_suspended(pair):
    old_xl(pair, migrate={"delay_per_mib": 0.2})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    pair.here.emulated.xl("pause", "web")
    with pytest.raises(ToolstackError, match="didn't acknowledge suspend"):
        await pass_on(source, target)
    with pytest.raises(ToolstackError, match="didn't acknowledge suspend"):
        await source.suspended()
    await roll_back(pair, source, target)


async def test_a_guest_that_ends_meanwhile(pair):
    pair.here.emulated.faults(migrate={"delay_per_mib": 0.2})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    passing = asyncio.ensure_future(pass_on(source, target))
    pair.here.emulated.xl("shutdown", "web")
    with pytest.raises(ToolstackError, match=r"ended by itself|failed to suspend"):
        await source.suspended()
    with pytest.raises(ToolstackError, match="failed to suspend"):
        await passing
    await source.rollback()
    await target.abort()
    assert await pair.here.states() == {}
    assert await pair.left() == []


async def test_a_stream_that_cannot_be_written(pair):
    old_xl(pair, migrate={"fail_after_bytes": 500_000})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    with pytest.raises(ToolstackError, match="No space left"):
        await pass_on(source, target)
    await roll_back(pair, source, target)


async def test_a_name_that_another_migration_left_behind(pair):
    old = make_image(pair.image.with_name("old"), 4)
    pair.here.emulated.create("web--migratedaway", [old])
    driver = pair.here.driver
    obstacle = driver.live_obstacle("web", await driver.domains())
    assert "xl destroy web--migratedaway" in obstacle
    with pytest.raises(ToolstackError, match="xl destroy web--migratedaway"):
        await pair.outgoing().start(pair.had)
    await pair.later_outgoing().rollback()
    states = await pair.here.states()
    assert states == {**RUNNING, "web--migratedaway": DomainState.RUNNING}


async def test_a_name_that_is_taken_in_the_last_moment(pair):
    old_xl(pair, migrate={"delay_per_mib": 0.2})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    other = make_image(pair.image.with_name("other"), 4)
    pair.here.emulated.create("web--migratedaway", [other])
    with pytest.raises(ToolstackError, match="already exists"):
        await pass_on(source, target)
    pair.here.emulated.xl("destroy", "web--migratedaway")
    await roll_back(pair, source, target)


async def test_killing_the_holder_before_the_hand_over(pair):
    old_xl(pair, migrate={"delay_per_mib": 0.2})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    passing = asyncio.ensure_future(pass_on(source, target))
    await asyncio.sleep(0.2)
    await kill(pair, xl_holder.__file__)
    with pytest.raises(ToolstackError, match=r"incomplete|hand over"):
        await passing
    await roll_back(pair, source, target)


@pytest.mark.sampled
@pytest.mark.parametrize("victim", [xl_holder.__file__, "migrate"], ids=["holder", "xl"])
async def test_killing_either_process_after_the_hand_over(pair, victim):
    source, target = await pair.received()
    old_xl(pair)
    await kill(pair, victim)
    await target.abort()
    for image in (source, pair.later_outgoing()):
        with pytest.raises(ToolstackError, match=r"suspended.*`xl destroy \d+`"):
            await image.rollback()
    pair.here.emulated.faults()
    await roll_back(pair, pair.later_outgoing(), target)


@pytest.mark.parametrize("victim", [xl_holder.__file__, "migrate"], ids=["holder", "xl"])
async def test_killing_either_process_does_not_keep_a_guest_that_left(pair, victim):
    source, target = await pair.received()
    await target.build()
    await target.commit()
    await kill(pair, victim)
    await pair.later_outgoing().discard()
    assert await pair.here.states() == {}
    assert await pair.there.states() == RUNNING
    assert pair.there.emulated.check("web")["ok"]
    assert await pair.left() == []
    await source.discard()


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_signals_do_not_end_the_holder(pair, number):
    old_xl(pair)
    source, target = await pair.received()
    (holder,) = await holders(pair)
    os.kill(holder.pid, number)
    await asyncio.sleep(0.2)
    assert await pair.here.states() == AWAY
    await roll_back(pair, source, target)


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from xenmoved.toolstack.xl import live as xl_live
from xenmoved.toolstack.interface import Arrival
from xenmoved.toolstack.xl.driver import XlToolstack

def end(step):
    if step == {step!r}:
        os.kill(os.getpid(), 9)

class Connection(xl_live.HolderConnection):
    async def tell(self, command):
        end("before " + command)
        if command == "ready":
            await asyncio.sleep(0.3)  # the guest stands still
        state = await super().tell(command)
        end(command)
        return state

class Live(xl_live.XlLive):
    async def _take_stream(self):
        end("spawned")
        await super()._take_stream()

async def main():
    xl_live.HolderConnection = Connection
    driver = XlToolstack({source!r})
    source = Live(driver._lookup, {migration!r}, "web", Path({source_spool!r}))
    arrival = Arrival("web", {uuid!r}, {disks!r})
    target = XlToolstack({target!r}).incoming({migration!r}, arrival, Path({target_spool!r}))
    await target.start()
    await source.start({{}})
    waiting = asyncio.ensure_future(source.suspended())
    async for piece in source.stream():
        await target.write(piece)
        end("half")
    await waiting
    end("taken")
    await target.build()
    end("built")
    if {decision!r} == "back":
        await target.abort()
        await source.rollback()
    else:
        await target.commit()
        end("committed")
        await source.discard()

asyncio.run(main())
"""


async def crash(pair, step, decision="done"):
    """Move the guest in a process that is killed at a step."""
    text = SCRIPT.format(
        repository=str(REPOSITORY),
        source=pair.here.emulated.command("xl"),
        target=pair.there.emulated.command("xl"),
        source_spool=str(pair.here.spool),
        target_spool=str(pair.there.spool),
        migration=pair.migration,
        uuid=pair.uuid,
        disks=dict(pair.arrival.disks),
        step=step,
        decision=decision,
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", text], check=False, capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["start", "half", "before ready"])
async def test_a_crash_before_the_hand_over_lets_the_guest_run_on(pair, step):
    old_xl(pair, migrate={"delay_per_mib": 0.1})
    await crash(pair, step)
    pair.here.emulated.wait_for("web", "-b----")
    await no_holder(pair)
    assert pair.here.emulated.check("web")["ok"]
    await roll_back(pair, pair.later_outgoing(), pair.incoming(), times=2)


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["spawned", "before start"])
async def test_a_crash_before_anything_was_sent(pair, step):
    old_xl(pair)
    await crash(pair, step)
    await roll_back(pair, pair.later_outgoing(), pair.incoming())
    await no_holder(pair)


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["ready", "taken", "built", "before back", "back"])
async def test_taking_back_after_a_crash_in_the_hand_over(pair, step):
    old_xl(pair)
    await crash(pair, step, decision="back")
    if step != "back":
        pair.here.emulated.wait_for("web--migratedaway", "---ss-")
        assert len(await holders(pair)) == 1
    await roll_back(pair, pair.later_outgoing(), pair.incoming(), times=2)
    await no_holder(pair)


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["committed", "before done", "done"])
async def test_giving_away_after_a_crash(pair, step):
    old_xl(pair)
    await crash(pair, step)
    assert await pair.incoming().settle() is Settled.RUNNING
    for _ in range(2):
        await pair.later_outgoing().discard()
    assert await pair.here.states() == {}
    assert await pair.there.states() == RUNNING
    assert pair.there.emulated.check("web")["ok"]
    assert await pair.left() == []
    await no_holder(pair)


async def test_xm_cannot(tmp_path):
    made = Pair(tmp_path, "xm", live=True)
    try:
        driver = made.here.driver
        assert "connection" in driver.live_obstacle("web", await driver.domains())
        with pytest.raises(ToolstackError, match="xm"):
            made.outgoing()
    finally:
        made.here.emulated.stop()
