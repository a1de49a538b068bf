"""The drivers against the emulated toolstacks, step by step."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.toolstack_pair import RUNNING, Pair, roll_back
from xenmoved.sandbox.harness import make_image
from xenmoved.toolstack import lookup, paused
from xenmoved.toolstack.commands import find_tagged_processes, running_command
from xenmoved.toolstack.detect import detect
from xenmoved.toolstack.interface import (
    Arrival,
    DomainNotFound,
    DomainState,
    NotAnnounced,
    Settled,
    StartFailed,
    ToolstackError,
)
from xenmoved.toolstack.xl import incoming as xl_incoming
from xenmoved.toolstack.xl import outgoing as xl_outgoing
from xenmoved.toolstack.xm import outgoing as xm_outgoing

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["xl", "xm"])
def pair(request, tmp_path):
    made = Pair(tmp_path, request.param)
    yield made
    made.here.emulated.stop()
    made.there.emulated.stop()


@pytest.fixture
def xl(tmp_path):
    made = Pair(tmp_path, "xl")
    yield made
    made.here.emulated.stop()
    made.there.emulated.stop()


@pytest.fixture
def xm(tmp_path):
    made = Pair(tmp_path, "xm")
    yield made
    made.here.emulated.stop()
    made.there.emulated.stop()


async def test_host_and_description(pair):
    driver = pair.here.driver
    host = await driver.host()
    assert (host.toolstack, host.xen_version) == (pair.kind, "4.17.3")
    assert 0 < host.free_memory < host.total_memory
    assert await driver.bridges() == {"xenbr0"}
    (status,) = await driver.domains()
    domain = await driver.describe(status)
    assert (domain.name, domain.uuid, domain.kind) == ("web", pair.uuid, "pv")
    assert domain.obstacles == domain.passthrough == ()
    assert domain.disks[0].path == str(pair.image)
    assert await driver.describe_all() == [(status, domain)]
    with pytest.raises(DomainNotFound):
        await driver.describe(dataclasses.replace(status, name="nobody", domid=9999))
    with pytest.raises(DomainNotFound):
        await driver.outgoing("m", "nobody", pair.here.spool).start({})


async def test_detect(pair):
    command = pair.here.emulated.command(pair.kind)
    assert (await detect("auto", command)).name == pair.kind
    with pytest.raises(ToolstackError, match="no Xen toolstack"):
        await detect("auto", ("/nonexistent/tool",))


async def test_move(pair):
    source, target = await pair.received()
    await target.build()
    with pytest.raises(ToolstackError):
        await source.start(pair.had)
    assert DomainState.RUNNING not in (await pair.there.states()).values()
    await target.commit()
    assert await pair.there.states() == RUNNING
    for _ in range(2):
        await source.discard()
        assert await target.settle() is Settled.RUNNING
        await target.abort()  # must not touch it
    assert await pair.here.states() == {}
    assert await pair.there.states() == RUNNING
    assert await pair.incoming().settle() is Settled.RUNNING
    assert await pair.left() == []
    verdict = pair.there.emulated.check("web")
    assert verdict["ok"] and verdict["blocks"]


STEPS = ["nothing", "started", "suspended", "half", "streamed", "built"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "later"),
    [
        ("suspended", True),
        ("half", True),
        ("streamed", True),
        ("built", False),
    ],
)
async def test_giving_up_after_each_step(pair, step, later):
    source, target = pair.outgoing(), pair.incoming()
    number = STEPS.index(step)
    if number >= 1:
        await target.start()
        await source.start(pair.had)
    if number >= 2:
        await source.suspended()
    if number >= 3:
        stream = source.stream()
        async for piece in stream:
            await target.write(piece)
            if number == 3:
                break
        await stream.aclose()
    if number >= 5:
        await target.build()
    if later:
        for image in (source, target):
            for end in ("_pipe", "_stdin", "_stdout"):
                if getattr(image, end, None) is not None:
                    getattr(image, end).close()
        source, target = pair.outgoing(), pair.incoming()
    await roll_back(pair, source, target, times=2 if step == "built" else 1)


@pytest.mark.sampled
@pytest.mark.parametrize("delay", [0.0, 0.15])
async def test_rollback_while_it_is_being_suspended(pair, delay):
    source, target = pair.outgoing(), pair.incoming()
    await source.start(pair.had)
    await asyncio.sleep(delay)
    await roll_back(pair, source, target)


@pytest.mark.sampled
@pytest.mark.parametrize("delay", [0.02, 0.3])
async def test_cancelling_leaves_everything_to_rollback(pair, delay):
    source, target = pair.outgoing(), pair.incoming()
    await target.start()

    async def move():
        await source.start(pair.had)
        await source.suspended()
        async for piece in source.stream():
            await target.write(piece)
        await target.build()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(move())
    await asyncio.sleep(delay)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await roll_back(pair, source, target)


async def saved(pair):
    """Save its guest, to the end of the stream; return the image."""
    source = pair.outgoing()
    await source.start(pair.had)
    await source.suspended()
    await _whole(source)
    return source


def with_another_disk(pair):
    """Put another file where the disk of its guest is, and return what that is called now."""
    kept = pair.image.rename(pair.image.with_name("kept"))
    make_image(pair.image, 4)
    return kept


@pytest.mark.parametrize("later", [False, True])
async def test_xm_restores_no_guest_on_another_disk(xm, later):
    source = await saved(xm)
    kept = with_another_disk(xm)
    if later:
        source = xm.later_outgoing()
    for _ in range(2):
        with pytest.raises(ToolstackError, match=r"Put back what was there.*xm restore /"):
            await source.rollback()
    assert await xm.here.states() == {}
    kept.replace(xm.image)
    await source.rollback()
    assert await xm.here.states() == RUNNING
    verdict = xm.here.emulated.check("web")
    assert verdict["ok"] and verdict["blocks"]
    assert not [file.name for file in xm.here.spool.iterdir() if file.suffix == ".disks"]


async def test_xm_saves_no_guest_whose_disk_was_replaced(xm):
    source = xm.outgoing()
    kept = with_another_disk(xm)
    with pytest.raises(ToolstackError, match=r"is not saved.*leads to"):
        await source.start(xm.had)
    assert await xm.here.states() == RUNNING
    await source.rollback()
    kept.replace(xm.image)
    assert xm.here.emulated.check("web")["ok"]
    assert not list(xm.here.spool.iterdir())


async def test_a_guest_of_xm_that_got_another_disk_meanwhile_is_not_unpaused(xm):
    source = await saved(xm)
    xm.here.emulated.faults(restore={"delay": 1.0})
    rolling = asyncio.ensure_future(source.rollback())
    while not running_command(await find_tagged_processes(xm.migration), "restore"):  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.01)
    kept = with_another_disk(xm)
    with pytest.raises(ToolstackError, match=r"Put back what was there.*xm restore /"):
        await rolling
    assert await xm.here.states() == {}
    kept.replace(xm.image)
    await source.rollback()
    assert await xm.here.states() == RUNNING
    assert xm.here.emulated.check("web")["ok"]


async def test_a_guest_of_xm_that_was_restored_on_another_disk_is_not_unpaused(xm):
    """A daemon was killed after it was restored, before its disks were looked at once more."""
    source = await saved(xm)
    kept = with_another_disk(xm)
    (image,) = xm.here.spool.glob("*.xmsave")
    xm.here.emulated.run(xm.kind, "restore", "-p", str(image))
    paused = await xm.here.states()
    assert paused != RUNNING
    source = xm.later_outgoing()
    for _ in range(2):
        with pytest.raises(ToolstackError, match=r"is not let run.*xm destroy.*xm unpause"):
            await source.rollback()
        assert await xm.here.states() == paused
        assert image.exists()
    xm.here.emulated.run(xm.kind, "destroy", "web")
    kept.replace(xm.image)
    await source.rollback()
    assert await xm.here.states() == RUNNING
    assert xm.here.emulated.check("web")["ok"]
    assert not [file.name for file in xm.here.spool.iterdir() if "xmsave" in file.name]


@pytest.mark.sampled
@pytest.mark.parametrize("live", [False, True])
async def test_a_device_model_writes_until_the_end_of_the_stream(tmp_path, live):
    # A write of zeros may change nothing.
    pair = Pair(tmp_path, "xl", live, lines="type = 'hvm'\n", extra="sandbox.zero=0")
    try:
        pair.here.emulated.faults(device_model={"held": True})
        source = pair.outgoing()
        await source.start(pair.had)
        memory = asyncio.ensure_future(_whole(source))
        await source.suspended()
        at_suspension = pair.image.read_bytes()
        assert not memory.done()
        pair.here.emulated.faults(device_model={})
        await memory
        at_the_end = pair.image.read_bytes()
        assert at_suspension != at_the_end
        await asyncio.sleep(0.2)
        assert pair.image.read_bytes() == at_the_end
        await source.rollback()
        assert pair.here.emulated.check("web")["ok"]
    finally:
        pair.here.emulated.stop()


async def _whole(source):
    return b"".join([bytes(piece) async for piece in source.stream()])


async def test_save_that_fails(pair):
    pair.here.emulated.faults(save={"fail_after_bytes": 500_000})
    source = pair.outgoing()
    await source.start(pair.had)
    with pytest.raises(ToolstackError, match="No space left"):
        async for _ in source.stream():
            pass
    with pytest.raises(ToolstackError, match="not saved"):
        await source.suspended()
    await source.rollback()
    assert await pair.here.states() == RUNNING


async def test_discard_never_destroys_a_running_guest(pair):
    source = pair.outgoing()
    with pytest.raises(ToolstackError, match="running"):
        await source.discard()
    assert await pair.here.states() == RUNNING


async def test_only_a_running_guest_can_be_saved(pair):
    pair.here.emulated.run(pair.kind, "pause", "web")
    with pytest.raises(ToolstackError, match="paused"):
        await pair.outgoing().start(pair.had)


async def test_a_guest_that_ended_by_itself(pair):
    pair.here.emulated.run(pair.kind, "destroy", "web")
    await pair.outgoing().rollback()
    await pair.outgoing().discard()


async def test_a_name_that_is_taken_at_the_target(pair):
    pair.there.emulated.create("web", [make_image(pair.image.with_name("other"), 4)])
    target = pair.incoming()
    with pytest.raises(ToolstackError, match="already"):
        await target.start()
    await target.abort()
    assert await pair.there.states() == RUNNING  # the other one


async def test_steps_out_of_order(pair):
    source, target = pair.outgoing(), pair.incoming()
    for step in (source.suspended(), target.write(b"x"), target.build(), target.commit()):
        with pytest.raises(ToolstackError):
            await step
    await target.start()
    for step in (target.start(), target.build(), target.commit()):
        with pytest.raises(ToolstackError):
            await step
    await target.abort()


async def test_what_the_configuration_may_not_say(pair):
    pair.arrival = Arrival("web", pair.uuid, {"xvdb": str(pair.image)})
    source, target = pair.outgoing(), pair.incoming()
    await target.start()
    await source.start(pair.had)
    with pytest.raises(NotAnnounced, match="is not what was announced"):
        async for piece in source.stream():
            await target.write(piece)
    await roll_back(pair, source, target)


async def test_a_start_that_fails(xl):
    source, target = await xl.received()
    await target.build()
    xl.there.emulated.faults(unpause={"fail": "no"})
    os.kill((await xl.receivers())[0].pid, signal.SIGKILL)
    with pytest.raises(StartFailed):
        await target.commit()
    assert await xl.there.states() == {}
    assert await target.settle() is Settled.ABSENT
    await roll_back(xl, source, target)


async def test_a_start_that_the_receiver_refuses(xl):
    xl.there.emulated.faults(migrate_receive={"unpause_status": 5})
    source, target = await xl.received()
    await target.build()
    with pytest.raises(StartFailed, match="destroying our copy"):
        await target.commit()
    assert await xl.incoming().settle() is Settled.ABSENT
    await roll_back(xl, source, target)


async def test_a_start_that_xend_refuses(xm):
    source, target = await xm.received()
    await target.build()
    xm.there.emulated.faults(unpause={"fail": "no memory"})
    with pytest.raises(StartFailed, match="no memory"):
        await target.commit()
    xm.there.emulated.faults()
    await roll_back(xm, source, target)


async def test_a_receiver_that_cannot_build(xl):
    xl.there.emulated.faults(migrate_receive={"fail": "out of cheese"})
    source, target = await xl.received()
    with pytest.raises(ToolstackError, match="out of cheese"):
        await target.build()
    await roll_back(xl, source, target)


@pytest.mark.sampled
@pytest.mark.parametrize("killed", ["save", "migrate-receive"])
async def test_killing_either_process(xl, killed):
    source, target = xl.outgoing(), xl.incoming()
    xl.here.emulated.faults(save={"delay_per_mib": 0.5})
    await target.start()
    await source.start(xl.had)
    await source.suspended()
    stream = source.stream()
    with pytest.raises(ToolstackError, match=r"SIGKILL|incomplete"):
        async for piece in stream:
            for process in running_command(await find_tagged_processes(xl.migration), killed):
                os.kill(process.pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
            await target.write(piece)
        await target.build()
    await stream.aclose()
    await roll_back(xl, source, target)


async def test_a_killed_save_on_an_old_xl_is_explained(xl):
    source = xl.outgoing()
    xl.here.emulated.faults(resume={"fail": "command not implemented"}, save={"delay_per_mib": 1.0})
    await source.start(xl.had)
    await source.suspended()
    for process in running_command(await find_tagged_processes(xl.migration), "save"):
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ToolstackError, match=r"`xl destroy \d+`"):
        await source.rollback()
    xl.here.emulated.faults()
    await source.rollback()
    assert await xl.here.states() == RUNNING


async def test_a_daemon_that_dies_after_xm_save(xm):
    source = xm.outgoing()
    await source.start(xm.had)
    await source._process.wait(20)
    assert [path.suffix for path in xm.here.spool.glob("web.*.xmsave.[pr]*")] == [".part"]
    await xm.outgoing().rollback()
    assert await xm.here.states() == RUNNING
    assert not list(xm.here.spool.glob("*"))


async def test_an_image_is_not_restored_twice(xm):
    source, target = await xm.received()
    xm.here.emulated.faults(unpause={"fail": "no"})
    with pytest.raises(ToolstackError):
        await source.rollback()
    assert await xm.here.states() == {"web": DomainState.PAUSED}
    assert [path.suffix for path in xm.here.spool.glob("web.*.xmsave.[pr]*")] == [".restored"]
    xm.here.emulated.faults()
    xm.here.emulated.run("xm", "unpause", "web")
    xm.here.emulated.run("xm", "destroy", "web")
    await xm.outgoing().rollback()  # it ended by itself: its image is out of date
    assert await xm.here.states() == {}
    await target.abort()


async def test_an_image_that_cannot_be_restored_is_kept(xm):
    source, target = await xm.received()
    xm.here.emulated.faults(restore={"fail": "out of memory"})
    with pytest.raises(ToolstackError, match=r"only copy.*xm restore"):
        await source.rollback()
    xm.here.emulated.faults()
    await roll_back(xm, source, target)


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
sys.path.insert(0, {here!r})
from xenmoved.toolstack.interface import Arrival
from xenmoved.toolstack.xl.driver import XlToolstack
from xenmoved.toolstack.xm.driver import XmToolstack

async def main():
    make = XlToolstack if {kind!r} == "xl" else XmToolstack
    source = make({source!r}).outgoing({migration!r}, "web", Path({source_spool!r}))
    arrival = Arrival("web", {uuid!r}, {disks!r})
    target = make({target!r}).incoming({migration!r}, arrival, Path({target_spool!r}))
    await target.start()
    await source.start({{}})
    await source.suspended()
    async for piece in source.stream():
        await target.write(piece)
    await target.build()
    if {step!r} == "go":
        write = target._stdin.write
        async def write_and_die(data):
            await write(data)
            os.kill(os.getpid(), 9)
        target._stdin.write = write_and_die
        await target.commit()
    if {step!r} == "ledger":
        write = target._ledger.write
        async def write_and_die(word):
            await write(word)
            os.kill(os.getpid(), 9)
        target._ledger.write = write_and_die
        await target.commit()
    if {step!r} == "commit":
        await target.commit()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def crash(pair, step):
    """Move the guest in a process that is killed at a step."""
    text = SCRIPT.format(
        repository=str(REPOSITORY),
        here=str(Path(__file__).parent),
        kind=pair.kind,
        source=pair.here.emulated.command(pair.kind),
        target=pair.there.emulated.command(pair.kind),
        source_spool=str(pair.here.spool),
        target_spool=str(pair.there.spool),
        migration=pair.migration,
        uuid=pair.uuid,
        disks=dict(pair.arrival.disks),
        step=step,
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", text], check=False, capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("step", "settled"),
    [
        ("built", Settled.ABSENT),
        ("ledger", Settled.ABSENT),
        ("go", Settled.RUNNING),
        ("commit", Settled.RUNNING),
    ],
)
async def test_settling_after_a_crash(xl, step, settled):
    await crash(xl, step)
    target = xl.incoming()
    for _ in range(2):
        assert await target.settle() is settled
    if settled is Settled.RUNNING:
        await target.abort()
        await xl.outgoing().discard()
        assert await xl.there.states() == RUNNING
        assert xl.there.emulated.check("web")["ok"]
        assert await xl.left() == []
    else:
        await roll_back(xl, xl.outgoing(), target)


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["built", "ledger", "commit"])
async def test_settling_with_xend_after_a_crash(xm, step):
    await crash(xm, step)
    if step == "built":
        await roll_back(xm, xm.outgoing(), xm.incoming())
        return
    assert await xm.incoming().settle() is Settled.RUNNING
    await xm.outgoing().discard()
    assert await xm.there.states() == RUNNING
    assert xm.there.emulated.check("web")["ok"]


async def test_a_guest_that_ran_and_ended_is_not_absent(xl):
    await crash(xl, "go")
    xl.there.emulated.wait_for("web", "-b----")
    xl.there.emulated.xl("destroy", "web")
    assert await xl.incoming().settle() is Settled.RUNNING


async def test_what_cannot_be_known_is_not_guessed(pair):
    await crash(pair, "commit" if pair.kind == "xl" else "ledger")
    pair.there.emulated.run(pair.kind, "destroy", "web")
    for log in pair.there.spool.glob("*.log"):
        log.unlink()
    with pytest.raises(ToolstackError, match="nothing tells"):
        await pair.incoming().settle()
    (ledger,) = pair.there.spool.glob("*.commit")
    assert ledger.read_text().startswith("committing")


async def test_what_xend_started_is_known_whatever_becomes_of_it(xm):
    """It may have been started anew by itself, with another id."""
    await crash(xm, "commit")
    xm.there.emulated.run("xm", "destroy", "web")
    twin(xm, "web")
    assert await xm.incoming().settle() is Settled.RUNNING
    await xm.incoming().abort()
    assert await xm.there.states() == {"web": DomainState.PAUSED}


@pytest.mark.sampled
async def test_what_was_cleared_to_start_ended_with_the_host(pair):
    await crash(pair, "commit")
    pair.there.emulated.run(pair.kind, "destroy", "web")
    for log in pair.there.spool.glob("*.log"):
        log.unlink()
    (ledger,) = pair.there.spool.glob("*.commit")
    ledger.write_text("committing of-an-earlier-boot\n")
    assert await pair.incoming().settle() is Settled.ENDED
    await pair.incoming().abort()
    assert await pair.incoming().settle() is Settled.ENDED


async def test_a_receiver_that_died_before_it_unpaused(xl):
    _, target = await xl.received()
    await target.build()
    for process in await xl.receivers():
        os.kill(process.pid, signal.SIGKILL)
    xl.there.emulated.xl("rename", "web--incoming", "web")
    assert await xl.incoming().settle() is Settled.RUNNING
    assert await xl.there.states() == RUNNING


async def test_a_twin_that_was_started_meanwhile_is_not_ours(xl):
    """It has the name and the uuid: what tells is that the receiver has not made it."""
    source, target = await xl.received()
    await target.build()
    twin = make_image(xl.image.with_name("twin"), 4)
    xl.there.emulated.create("web", [twin], lines=f"uuid = '{xl.uuid}'\n")
    with pytest.raises(StartFailed):
        await target.commit()
    assert await xl.incoming().settle() is Settled.ABSENT
    await target.abort()
    assert await xl.there.states() == RUNNING
    await source.rollback()


def twin(pair, name):
    """Make a domain with the uuid of the guest at the target, paused, as an operator may."""
    disk = make_image(pair.image.with_name("twin"), 4)
    pair.there.emulated.create(name, [disk], "-p", lines=f"uuid = '{pair.uuid}'\n")


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["web", "other"])
async def test_beside_a_twin_nothing_is_built(pair, name):
    """Nor is that one touched."""
    source, target = await pair.received()
    twin(pair, name)
    with pytest.raises(ToolstackError, match=f"domain {name} .*, started meanwhile"):
        await target.build()
    await target.abort()
    await pair.incoming().abort()
    assert await pair.there.states() == {name: DomainState.PAUSED}
    await source.rollback()


@pytest.mark.sampled
@pytest.mark.parametrize("step", ["nothing", "streamed", "built"])
async def test_a_paused_twin_is_no_copy_of_ours(xm, step):
    """Whenever it is given up, and by whoever: xend has one domain of a name."""
    source, target = xm.outgoing(), xm.incoming()
    if step != "nothing":
        source, target = await xm.received()
    if step == "built":
        await target.build()
        xm.there.emulated.run("xm", "destroy", "web")
    twin(xm, "web")
    for image in (target, xm.incoming()):
        await image.declare_never_started()
        await image.abort()
        assert await image.settle() is Settled.ABSENT
    assert await xm.there.states() == {"web": DomainState.PAUSED}
    if step != "nothing":
        await source.rollback()


async def test_a_restore_that_xend_refuses_leaves_what_is_in_its_way(xm, monkeypatch):
    """One that was started in the last moment."""
    source, target = await xm.received()

    async def alone():
        twin(xm, "web")

    monkeypatch.setattr(target, "_require_alone", alone)
    with pytest.raises(ToolstackError, match="already exists"):
        await target.build()
    await xm.incoming().abort()
    assert await xm.there.states() == {"web": DomainState.PAUSED}
    await source.rollback()


@pytest.mark.sampled
@pytest.mark.parametrize("word", ["restoring", "", "committing"])
async def test_what_was_being_restored_is_found_by_its_name(xm, word):
    """By a daemon after one that died in it, or after an earlier release."""
    await crash(xm, "built")
    (ledger,) = xm.there.spool.glob("*.commit")
    text = ledger.read_text()
    assert text.startswith("built:")
    ledger.write_text(text.replace(text.split()[0], word))
    if not word:
        ledger.unlink()
    if word == "committing":
        assert await xm.incoming().settle() is Settled.RUNNING
        await xm.incoming().abort()
        assert await xm.there.states() == RUNNING
        assert ledger.read_text().startswith("started ")
    else:
        await roll_back(xm, xm.outgoing(), xm.incoming(), times=2)


@pytest.mark.parametrize("word", ["restoring", "built:1", "committing:1", "committing"])
async def test_nothing_of_ours_is_left_of_another_boot(xm, word):
    twin(xm, "web")
    xm.there.spool.mkdir()
    (xm.there.spool / f"{xm.migration}.commit").write_text(f"{word} of-an-earlier-boot\n")
    settled = Settled.ENDED if word.startswith("committing") else Settled.ABSENT
    assert await xm.incoming().settle() is settled
    await xm.incoming().declare_never_started()
    await xm.incoming().abort()
    assert await xm.there.states() == {"web": DomainState.PAUSED}


@pytest.mark.sampled
async def test_a_copy_that_an_operator_says_has_never_run_is_destroyed(pair):
    """Whatever was written down; but none that runs."""
    await crash(pair, "ledger")
    for _ in range(2):
        await pair.incoming().declare_never_started()
    await roll_back(pair, pair.outgoing(), pair.incoming())


@pytest.mark.sampled
async def test_what_runs_is_not_destroyed_whatever_an_operator_says(pair):
    await crash(pair, "commit")
    await pair.incoming().declare_never_started()
    await pair.incoming().abort()
    assert await pair.there.states() == RUNNING
    await pair.outgoing().discard()


async def test_another_domain_of_the_name_is_not_ours(xl):
    source, target = await xl.received()
    await target.build()
    stranger = make_image(xl.image.with_name("stranger"), 4)
    xl.there.emulated.create("web", [stranger])
    with pytest.raises(StartFailed):  # the receiver cannot rename it
        await target.commit()
    await target.abort()
    assert await xl.there.states() == RUNNING
    await source.rollback()


async def test_a_receiver_that_hangs_is_killed_in_the_end(xl, monkeypatch):
    monkeypatch.setattr(xl_incoming, "_EXIT_TIMEOUT", 0.3)
    target = xl.incoming()
    await target.start()
    (receiver,) = await xl.receivers()
    os.kill(receiver.pid, signal.SIGSTOP)
    await target.abort()
    assert await xl.receivers() == []


async def test_a_save_that_hangs_is_reported(xl, monkeypatch):
    monkeypatch.setattr(xl_outgoing, "_ROLLBACK_TIMEOUT", 0.3)
    source = xl.outgoing()
    xl.here.emulated.faults(save={"delay_per_mib": 1.0})
    await source.start(xl.had)
    async for _ in source.stream():  # so it is executed by now
        break
    (save,) = running_command(await find_tagged_processes(xl.migration), "save")
    os.kill(save.pid, signal.SIGSTOP)
    with pytest.raises(ToolstackError, match=f"process {save.pid}"):
        await source.rollback()
    os.kill(save.pid, signal.SIGCONT)
    monkeypatch.undo()
    await source.rollback()
    assert await xl.here.states() == RUNNING


async def test_xend_that_is_stuck_is_reported(xm, monkeypatch):
    monkeypatch.setattr(xm_outgoing, "_XEND_TIMEOUT", 0.5)
    source = xm.outgoing()
    xm.here.emulated.run("xm", "rename", "web", "migrating-web")
    xm.here.emulated.run("xm", "pause", "migrating-web")
    with pytest.raises(ToolstackError, match="nothing happens"):
        await source.rollback()
    xm.here.emulated.run("xm", "unpause", "migrating-web")
    await source.rollback()
    assert await xm.here.states() == RUNNING


async def test_an_image_for_xend_is_no_larger_than_its_domain_can_be(xm):
    """It lies in a file until it is complete, in a file system of the host's own."""
    source, target = await xm.received()
    with pytest.raises(ToolstackError, match=r"more than 34.*, and the domain 2.* of memory"):
        for _ in range(64):
            await target.write(bytes(1 << 20))
    (file,) = xm.there.spool.glob("*.xmrestore")
    assert file.stat().st_size < 64 << 20
    await roll_back(xm, source, target)


async def test_a_spool_without_room(xm, monkeypatch):
    monkeypatch.setattr(xm_outgoing, "_MARGIN", 1 << 60)
    with pytest.raises(ToolstackError, match="Make room"):
        await xm.outgoing().start(xm.had)


async def test_destroying_by_id_what_was_seen_stopped(xl):
    found = lookup.Lookup(xl.here.driver._commands)
    domain = await found.get("web")
    with pytest.raises(ToolstackError, match="left alone"):
        await found.destroy_stopped(domain)
    xl.here.emulated.xl("pause", "web")
    paused = await found.get("web")
    xl.here.emulated.faults(destroy={"fail": "busy"})
    with pytest.raises(ToolstackError, match=r"busy.*destroy it by hand"):
        await found.destroy_stopped(paused)
    xl.here.emulated.faults()
    await found.destroy_stopped(paused)
    assert await found.find("web") is None


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Bound what a broken test waits for."""
    for module, name in (
        (xl_incoming, "_SETTLE_TIMEOUT"),
        (paused, "_SETTLE_TIMEOUT"),
        (xl_outgoing, "_ROLLBACK_TIMEOUT"),
        (xm_outgoing, "_XEND_TIMEOUT"),
    ):
        monkeypatch.setattr(module, name, 15.0)
    with contextlib.suppress(ProcessLookupError):
        yield
