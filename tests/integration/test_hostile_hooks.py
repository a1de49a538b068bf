"""What a peer can do to a host by way of its hooks: have them told something, and no more."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import replace

import pytest

from protocol.messages import Abort, Accepted, Begin, Findings, NicOffer, Refused
from tests.integration.test_hostile_peer import (
    SIZE,
    guest,
    running,
    saved,
    target,
    until,
    until_idle,
)
from tests.support import preloaded
from tests.support.ctl import HOSTILE
from tests.support.hostile import Stranger, Transfer, greeted, new_migration, transferring
from xenmoved.sandbox.pair import SandboxHost

__all__ = ["guest", "running", "saved", "target"]  # fixtures

MAC = "00:16:3e:00:00:01"
ODD = ("$(touch /tmp/pwned)", HOSTILE, f"{MAC}\n", "--help", "x" * 4000, f"{MAC}:01", "", "é" * 6)


@pytest.fixture
def hooks(target, tmp_path):
    """Have hooks that write down what they are told."""

    def put(event, text):
        path = target.host.hooks / f"{event}.d" / "10-hook"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return tmp_path / event

    yield put
    shutil.rmtree(target.host.hooks, ignore_errors=True)


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


async def test_odd_words_are_data_or_nothing(target, guest, hooks):
    told = hooks("before-arrival", "")
    args = told.with_name("args")
    script = f'cat >> "{told}"; echo "$# $(env | grep -c -i mac)" >> "{args}"'
    hooks("before-arrival", script)
    target.host.xen.root.joinpath("bridges").write_text("xenbr0\n")
    offer = guest.offer(SIZE)
    nics = tuple(NicOffer(mac, "xenbr0", None) for mac in (*ODD, MAC.upper()))
    offer = replace(offer, guest=replace(offer.guest, nics=nics))
    async with target.evil.linked() as link:
        found = await (await greeted(link)).ask(offer)
    assert isinstance(found, Findings)
    assert found.problems == ()
    (line,) = lines(told)
    said = json.loads(line)
    assert [one["mac"] for one in said["interfaces"]] == [None] * len(ODD) + [MAC]
    assert {one["bridge"] for one in said["interfaces"]} == {"xenbr0"}
    assert re.fullmatch(r"[ -~]*", line), "nothing but ASCII without control characters"
    assert lines(args) == ["0 0"]


async def test_what_is_not_permitted_has_no_hook_run(target, guest, hooks):
    told = hooks("before-arrival", "")
    hooks("before-arrival", f"echo >> {told}")
    target.evil.introduce(guests=("other-*",))
    try:
        async with target.evil.linked() as link:
            control = await greeted(link)
            found = await control.ask(guest.offer(SIZE))
            assert [one.code for one in found.problems] == ["permission"]
            answer = await control.ask(Begin(new_migration(), guest.offer(SIZE), False))
            assert isinstance(answer, Refused)
    finally:
        target.evil.introduce()
    assert not told.exists()


async def test_plans_without_end_keep_nobody_else_waiting(target, guest, hooks):
    """At most two at a time run hooks for a peer; questions about a guest in doubt are answered."""
    told = hooks("before-arrival", "")
    hooks("before-arrival", f"grep -q evil && echo >> {told} && sleep 4; exit 0")
    async with target.evil.linked() as link:
        asking = []
        for _ in range(8):
            control = await greeted(link)
            asking.append(asyncio.create_task(control.ask(guest.offer(SIZE), 30)))
        await asyncio.sleep(1.5)
        assert len(lines(told)) == 2
        async with target.good.linked() as other:
            found = await (await greeted(other)).ask(guest.offer(SIZE), 4)
            assert found.problems == ()
        for task in asking:
            task.cancel()


async def test_many_guests_at_a_time_have_few_hooks_run(target, saved, hooks):
    """What others send does not wait for them, and all is undone when their peer goes away."""
    told = hooks("before-arrival", "")
    hooks("before-arrival", f"grep -q evil && echo >> {told} && exec sleep 50; exit 0")
    many = [saved.named(f"many-{number}") for number in range(6)]
    async with target.evil.linked() as link:
        begun = [Transfer(link, await greeted(link), one.offer(SIZE)) for one in many]
        asking = [asyncio.create_task(one.begin()) for one in begun]

        async def at_work():
            return len(lines(told)) >= 4

        await until(at_work, "the hooks", 60)
        await asyncio.sleep(4)
        assert len(lines(told)) == 4
        async with transferring(target.good, saved.named("one").offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Accepted)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    await until_idle(target)


async def test_beginning_and_giving_up_without_end(tmp_path, saved):
    """Hooks that are slow do not pile up: what comes is refused then."""
    launcher = preloaded.launcher("tests.support.faulty_daemon")
    host = SandboxHost(tmp_path, "target", launcher=launcher)
    told, gate = tmp_path / "told", tmp_path / "gate"
    folder = host.hooks / "failure.d"
    folder.mkdir(parents=True)
    script = f"#!/bin/sh\necho >> {told}; while [ ! -e {gate} ]; do sleep 0.2; done\n"
    (folder / "10-slow").write_text(script)
    (folder / "10-slow").chmod(0o755)
    host.start(XENMOVED_LIMITS="xenmoved.hooks.hooks.MOST_OWED=4")
    try:
        evil, good = Stranger(host, "evil"), Stranger(host, "good")
        evil.introduce()
        good.introduce()
        begun, codes = 0, []
        async with evil.linked() as link:
            while codes != ["hooks-behind"]:
                control = await greeted(link)
                transfer = Transfer(link, control, saved.offer(SIZE))
                answer = await transfer.begin()
                codes = [one.code for one in getattr(answer, "problems", ())]
                if codes:  # the one before is not gone yet
                    await asyncio.sleep(0.05)
                    continue
                begun += 1
                await control.ask(Abort(transfer.migration, "changed my mind"))
        assert begun == 4
        async with transferring(good, saved.offer(SIZE)) as transfer:
            assert isinstance(await transfer.begin(), Accepted), "others are not refused for it"
        gate.touch()

        async def over():
            return not list((host.folder / "state" / "hooks").iterdir())

        await until(over, "the hooks", 60)
        assert len(lines(told)) == 5
    finally:
        host.close()
