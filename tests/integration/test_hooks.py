"""Hooks before, at and after a move, on both hosts, whatever they do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from protocol.messages import Mode, Weight
from tests.support.dom0 import QUIET, Dom0, image, the_problem, unique
from xenmoved.hooks.about import schema
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until

RECORD = """#!/bin/sh
cat > {place}/$$.part && mv {place}/$$.part {place}/$(date +%s%N)-$XENMOVED_EVENT-$$.json
"""
SOURCE_EVENTS = ["before-departure", "cutover", "after-departure"]
TARGET_EVENTS = ["before-arrival", "cutover", "after-arrival"]
VALIDATOR = Draft202012Validator(
    {**schema(), "additionalProperties": False},
)


class Scripts:
    """The hooks of a host, and what they were told."""

    def __init__(self, host: Dom0, place: Path) -> None:
        self.host = host
        self.place = place / f"told-{host.name}"
        self.place.mkdir()

    def put(self, event: str, name: str, text: str, mode: int = 0o755) -> Path:
        """Have a hook."""
        path = self.host.hooks / f"{event}.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def record(self, *events: str) -> None:
        """Have what hooks are told at these events written down."""
        for event in events:
            self.put(event, "50-record", RECORD.format(place=self.place))

    def told(self, event: str = "", *, plan: bool | None = None) -> list[dict[str, Any]]:
        """Return what hooks were told, all of it as the schema says."""
        found = [json.loads(file.read_text()) for file in sorted(self.place.glob("*.json"))]
        for one in found:
            VALIDATOR.validate(one)
        return [one for one in found if event in ("", one["event"]) and plan in (None, one["plan"])]

    def wait_told(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until the hooks of an event were run so often; return what they were told last."""
        what = f"{event} on {self.host.name}"
        wait_until(lambda: len(self.told(event, plan=False)) >= count, what, 20)
        found = self.told(event, plan=False)
        assert len(found) == count, found
        return found[-1]

    def remove(self) -> None:
        """Have no hooks any more."""
        for path in self.host.hooks.glob("*.d/*"):
            path.unlink()
        for path in self.host.hooks.glob("*.d"):
            path.rmdir()


@pytest.fixture
def scripts(hosts: tuple[Dom0, Dom0], tmp_path: Path) -> Iterator[tuple[Scripts, Scripts]]:
    """The hooks of both hosts."""
    both = Scripts(hosts[0], tmp_path), Scripts(hosts[1], tmp_path)
    yield both
    for one in both:
        one.remove()


def boot(host: Dom0, **options: Any) -> str:
    """Start a guest with one disk; return its name."""
    name = unique("hooked")
    host.boot(name, [image(host.images / f"{name}-root", 2)], extra=QUIET, **options)
    return name


def remarks(host: Dom0, guest: str, code: str) -> list[Any]:
    """Return the remarks of the newest job of a guest that have a code."""
    return [one for one in host.last_of(guest).remarks if one.code == code]


def wait_remark(host: Dom0, guest: str, code: str) -> Any:
    """Wait for a remark on the newest job of a guest."""
    wait_until(lambda: bool(remarks(host, guest, code)), f"{code} on {host.name}", 20)
    (found,) = remarks(host, guest, code)
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE])
def test_what_hooks_are_told_of_a_guest_that_moves(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], mode: Mode
) -> None:
    a, b = hosts
    there = (*SOURCE_EVENTS, *TARGET_EVENTS, "failure", "doubt")
    for one in scripts:
        one.record(*there)
    name = unique("hooked")
    guest = a.boot(
        name,
        [image(a.images / f"{name}-root", 2)],
        extra=QUIET,
        lines="vif = ['mac=00:16:3E:AA:bb:01,bridge=xenbr0,ip=192.0.2.7 2001:db8::7']\n",
    )
    allow = yaml.safe_load((b.config_file.parent / "peers.d/host-a.yaml").read_text())["allow"]
    networks = {"ip": ["192.0.2.0/24", "2001:db8::/64"]}
    with b.peer_settings("host-a", allow={**allow, **networks}):
        report = a.migrate(name, mode=mode, rename=f"{name}-x")
        left = scripts[0].wait_told("after-departure")
        come = scripts[1].wait_told("after-arrival")
    assert [one["event"] for one in scripts[0].told(plan=False)] == SOURCE_EVENTS
    assert [one["event"] for one in scripts[1].told(plan=False)] == TARGET_EVENTS
    # Asked on both hosts by `migrate`, before there is a job, and then in earnest.
    assert [one["event"] for one in scripts[0].told(plan=True)] == ["before-departure"]
    assert [one["event"] for one in scripts[1].told(plan=True)] == ["before-arrival"]
    assert {one["job"] for one in scripts[0].told(plan=True)} == {None}

    told = {"mac": "00:16:3e:aa:bb:01", "bridge": "xenbr0"}
    addresses = ["192.0.2.7", "2001:db8::7"]
    volume = {"vdev": "xvda", "copied": True}
    assert left == {
        **{"event": "after-departure", "plan": False, "host": "host-a", "peer": "host-b"},
        **{"direction": "departure", "job": report.job, "mode": mode.value, "guest": name},
        **{"other_name": f"{name}-x", "uuid": guest.uuid, "outcome": "moved", "problems": []},
        "interfaces": [{**told, "addresses": addresses}],
        "volumes": [{**volume, "path": str(a.images / f"{name}-root")}],
        "blackout": report.blackout,
    }
    assert come == {
        **{"event": "after-arrival", "plan": False, "host": "host-b", "peer": "host-a"},
        **{"direction": "arrival", "job": b.last_of(f"{name}-x").job, "mode": mode.value},
        **{"guest": f"{name}-x", "other_name": name, "uuid": guest.uuid},
        **{"outcome": "moved", "problems": [], "blackout": None},
        "interfaces": [{**told, "addresses": addresses}],
        "volumes": [{**volume, "path": str(b.images / f"{name}-root")}],
    }
    before = scripts[1].told("before-arrival", plan=False)[0]
    assert before["interfaces"] == [{**told, "addresses": []}], "the offer has no addresses"
    assert not list((a.folder / "state" / "hooks").iterdir())
    assert not list((b.folder / "state" / "hooks").iterdir())


@pytest.mark.parametrize("script", [",script=vif-bridge", ""])
@pytest.mark.parametrize(
    ("allowed", "addresses"),
    [([], []), (["192.0.2.0/25"], ["192.0.2.7"]), (["192.0.2.128/25"], [])],
)
def test_only_addresses_that_are_allowed_are_told(
    hosts: tuple[Dom0, Dom0],
    scripts: tuple[Scripts, Scripts],
    script: str,
    allowed: list[str],
    addresses: list[str],
) -> None:
    """A script of a bridge takes any, and this host would announce them."""
    a, b = hosts
    scripts[1].record("after-arrival")
    vif = f"mac=00:16:3e:aa:bb:01,bridge=xenbr0{script},ip=192.0.2.7"
    name = boot(a, lines=f"vif = ['{vif}']\n")
    allow = yaml.safe_load((b.config_file.parent / "peers.d/host-a.yaml").read_text())["allow"]
    with b.peer_settings("host-a", allow={**allow, "ip": allowed}):
        a.migrate(name, mode=Mode.SAVE)
        (interface,) = scripts[1].wait_told("after-arrival")["interfaces"]
    told = {"mac": "00:16:3e:aa:bb:01", "bridge": "xenbr0", "addresses": addresses}
    assert interface == told


def test_a_guest_that_is_off_has_no_cutover(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, _ = hosts
    for one in scripts:
        one.record(*SOURCE_EVENTS, *TARGET_EVENTS)
    name = boot(a)
    a.emulator.destroy(a.domain(name))
    a.migrate(name, mode=Mode.COLD)
    scripts[0].wait_told("after-departure")
    come = scripts[1].wait_told("after-arrival")
    assert come["interfaces"][0]["bridge"] == "xenbr0"
    assert not scripts[0].told("cutover")
    assert not scripts[1].told("cutover")


@pytest.mark.parametrize(("where", "event"), [(0, "before-departure"), (1, "before-arrival")])
def test_a_veto_is_seen_in_the_plan(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], where: int, event: str
) -> None:
    a, _ = hosts
    name = boot(a)
    scripts[where].put(event, "10-no", "#!/bin/sh\necho 'backup until 04:00'\nexit 3\n")
    scripts[where].put(event, "20-no-too", "#!/bin/sh\nexit 1\n")
    node = hosts[where].name

    found = a.plan(name).problems
    assert [one.code for one in found] == ["hook-veto", "hook-veto"], "in a plan all are asked"
    assert found[0].text == f"the hook {event}.d/10-no of {node} objects: backup until 04:00"
    assert node in found[0].hint
    assert "ended with 1, and did not say why" in found[1].text

    before = a.footprint(), hosts[1].footprint()
    answer = a.try_migrate(name)
    assert [one.text for one in answer.problems] == [one.text for one in found]
    assert (a.footprint(), hosts[1].footprint()) == before
    a.assert_runs(name)


@pytest.mark.parametrize(("where", "event"), [(0, "before-departure"), (1, "before-arrival")])
def test_a_veto_that_comes_when_it_is_earnest_ends_the_job(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], where: int, event: str
) -> None:
    """Whoever was asked in earnest is told what became of it."""
    a, b = hosts
    name = boot(a)
    text = "#!/bin/sh\ngrep -q '\"plan\": true' && exit 0\necho later; exit 1\n"
    scripts[where].put(event, "10-later", text)
    scripts[where].put(
        event, "20-next", f"#!/bin/sh\ngrep -q '\"plan\": true' || touch {a.folder}/ran\n"
    )
    scripts[where].record("failure")
    assert not a.plan(name).problems
    before = b.footprint()
    report = a.finish(a.begin(name).job)
    found = the_problem(report, "hook-veto")
    assert found.text == f"the hook {event}.d/10-later of {hosts[where].name} objects: later"
    assert not (a.folder / "ran").exists(), "none is asked after one that objects"
    told = scripts[where].wait_told("failure")
    assert told["outcome"] == "stayed"
    assert "objects: later" in told["problems"][0]["text"]
    assert b.footprint() == before
    a.assert_runs(name)


ENDS = {
    "hang": ("#!/bin/sh\nsleep 600 & setsid sleep 600 & sleep 600\n", "did not end within 1 s"),
    "killed": ("#!/bin/sh\nkill -9 $$\n", "was killed by SIGKILL"),
    "nonsense": ("#!/no/such/interpreter\n", "is missing"),
    "binary": ("\0\1\2", "could not be started: Exec format error"),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(("where", "event"), [(0, "before-departure"), (1, "before-arrival")])
def test_one_that_gives_no_answer_stands_in_the_way(
    hosts: tuple[Dom0, Dom0],
    scripts: tuple[Scripts, Scripts],
    where: int,
    event: str,
    how: str,
) -> None:
    a, host = hosts[0], hosts[where]
    host.write_config(hooks={**host.settings["hooks"], "limit": "1s"})
    host.reload()
    name = boot(a)
    text, words = ENDS[how]
    scripts[where].put(event, "10-odd", text)
    (found,) = a.plan(name).problems
    assert (found.code, words in found.text) == ("hook-failed", True), found
    assert found.hint
    assert children_named("sleep", "600") == []


def children_named(*argv: str) -> list[int]:
    """Return the processes of this machine with a command line."""
    wanted = "\0".join(argv).encode() + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == wanted:
                found.append(int(entry.name))
    return found


def test_a_hook_that_was_taken_away_stands_in_the_way(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, _ = hosts
    name = boot(a)
    path = scripts[0].put("before-departure", "10-gone", "")
    path.unlink()
    path.symlink_to("/no/such/hook")
    (found,) = a.plan(name).problems
    assert (found.code, "is missing" in found.text) == ("hook-failed", True)


def test_what_fails_afterwards_is_only_remarked(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, b = hosts
    for host in hosts:
        host.write_config(hooks={**host.settings["hooks"], "limit": "1s"})
        host.reload()
    name = boot(a)
    for one, events in zip(scripts, (SOURCE_EVENTS, TARGET_EVENTS), strict=True):
        one.put(events[1], "10-hangs", "#!/bin/sh\nsleep 700\n")
        one.put(events[2], "10-fails", "#!/bin/sh\necho nobody there >&2\nexit 7\n")
        one.record(events[2])  # comes after it
    a.migrate(name)
    b.assert_runs(name)
    for host, one, event in ((a, scripts[0], SOURCE_EVENTS[2]), (b, scripts[1], TARGET_EVENTS[2])):
        one.wait_told(event)
        wait_until(lambda host=host: len(remarks(host, name, "hook-failed")) == 2, "remarks", 20)
        texts = sorted(found.text for found in remarks(host, name, "hook-failed"))
        assert f"{event}.d/10-fails of {host.name} ended with 7: nobody there" in texts[0]
        assert f"cutover.d/10-hangs of {host.name} did not end within 1 s" in texts[1]
        assert {one.weight for one in remarks(host, name, "hook-failed")} == {Weight.ACTION}
        assert host.last_of(name).state is JobState.DONE
    assert children_named("sleep", "700") == []


def test_a_hook_at_cutover_does_not_lengthen_the_blackout(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, b = hosts
    name = boot(a)
    for one in scripts:
        one.put("cutover", "10-long", f"#!/bin/sh\ntouch {one.place}/began\nsleep 8\n")
    report = a.migrate(name)
    b.assert_runs(name)
    assert report.blackout is not None
    assert report.blackout < 6, "nobody waits for it"
    for one in scripts:
        wait_until((one.place / "began").exists, "the hook to begin")


def test_what_a_hook_says_moves_no_cursor_and_has_an_end(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, _ = hosts
    name = boot(a)
    loud = "#!/bin/sh\nprintf '\\033[2Jhello\\r\\nnext\\377\\n'\nhead -c 20000000 /dev/zero\n"
    scripts[0].put("before-departure", "10-loud", loud)
    (found,) = [one for one in a.plan(name).warnings if one.code == "hook-said"]
    assert found.text.isprintable()
    assert "\\x1b[2Jhello | next" in found.text
    assert found.text.endswith("(it said more)")
    assert len(found.text) < 10000
    assert a.ctl("plan", name, "host-b").returncode == 0


def test_what_is_not_run_is_told(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], tmp_path: Path
) -> None:
    a, b = hosts
    name = boot(a)
    touch = f"#!/bin/sh\ntouch {tmp_path}/ran\n"
    for one, event in zip(scripts, ("before-departure", "after-arrival"), strict=True):
        one.put(event, "10-backup~", touch)
        one.put(event, "20-off", touch, 0o644)
        one.put(event, "30-open", touch, 0o757)
    a.migrate(name)
    skipped = {one.text: one.weight for one in remarks(a, name, "hook-skipped")}
    assert [text for text, weight in skipped.items() if weight is Weight.ACTION] == [
        f"the hook before-departure.d/30-open of host-a is not run: "
        f"{a.hooks}/before-departure.d/30-open can be written by others than root"
    ]
    assert len(skipped) == 3
    wait_until(lambda: len(remarks(b, name, "hook-skipped")) == 3, "remarks there")
    assert not (tmp_path / "ran").exists()
    assert "10-backup~ of host-a is not run" in a.log()

    shown = a.ctl("hooks")
    assert shown.returncode == 7, "what others can write to needs somebody's eye"
    assert "20-off" in shown.stdout
    assert "no executable file" in shown.stdout
    listed = json.loads(a.ctl("hooks", "--json").stdout)
    assert {one["name"] for one in listed["skipped"]} == {"10-backup~", "20-off", "30-open"}
    assert listed["hooks"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_others_own_on_the_way_to_it_is_not_run(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], tmp_path: Path
) -> None:
    """Also a link in between, with which somebody else chooses what root runs."""
    a, _ = hosts
    name = boot(a)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to("/bin/true")
    os.chown(theirs, 1234, 1234)
    path = scripts[0].put("before-departure", "10-link", "")
    path.unlink()
    path.symlink_to(theirs / "link")
    (found,) = [one for one in a.plan(name).warnings if one.code == "hook-skipped"]
    assert f"{theirs} belongs to the user 1234" in found.text
    assert found.weight is Weight.ACTION


def test_a_hook_runs_with_nothing_of_its_daemon(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], tmp_path: Path
) -> None:
    a, _ = hosts
    name = boot(a)
    text = f"#!/bin/sh\nenv | sort > {tmp_path}/env\nls -l /proc/self/fd > {tmp_path}/fds\n"
    text += f"echo $# $(pwd) $(umask) > {tmp_path}/rest\n"
    scripts[0].put("before-departure", "10-look", text)
    assert not a.plan(name).problems
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {
        *("PATH", "LANG", "HOME", "XENMOVED_EVENT", "XENMOVED_HOOK")
    }
    assert (tmp_path / "rest").read_text() == "0 / 0022\n"
    fds = [line.split()[8] for line in (tmp_path / "fds").read_text().splitlines()[1:]]
    assert set(fds) <= {"0", "1", "2", "3"}, "beside the standard ones only that of ls"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("where", [0, 1])
def test_a_daemon_that_is_killed_leaves_no_hook_and_owes_it(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts], where: int, moment: str
) -> None:
    """Killed while a hook runs: nothing of it stays; the next daemon runs those afterwards."""
    a, host, one = hosts[0], hosts[where], scripts[where]
    name = boot(a)
    direction = ("departure", "arrival")[where]
    pid = one.place / "pid"
    waits = f"#!/bin/sh\ngrep -q '\"plan\": true' && exit 0\n[ -e {pid} ] && exit 0\n"
    waits += (
        f"sleep 800 & setsid sleep 800 & echo $$ > {pid}.part; mv {pid}.part {pid}; sleep 800\n"
    )
    one.put(f"{moment}-{direction}", "10-waits", waits)
    one.record(f"after-{direction}", "failure")
    a.begin(name)
    wait_until(pid.exists, "the hook to begin", 30)
    number = int(pid.read_text())
    host.stop(signal.SIGKILL)
    wait_until(lambda: gone(number) and not children_named("sleep", "800"), "its end")
    host.start()
    event = "failure" if moment == "before" else f"after-{direction}"
    told = one.wait_told(event)
    assert told["guest"] == name
    assert told["outcome"] == ("stayed" if moment == "before" else "moved")
    assert told["interfaces"][0]["bridge"] == "xenbr0", "what was known is kept"
    (a if moment == "before" else hosts[1]).assert_runs(name)
    wait_until(lambda: not list((host.folder / "state" / "hooks").iterdir()), "nothing owed")


def test_an_abort_ends_the_hooks_that_are_asked(
    hosts: tuple[Dom0, Dom0], scripts: tuple[Scripts, Scripts]
) -> None:
    a, _ = hosts
    name = boot(a)
    began = scripts[1].place / "began"
    text = f"#!/bin/sh\ngrep -q '\"plan\": true' && exit 0\ntouch {began}\nsleep 900\n"
    scripts[1].put("before-arrival", "10-waits", text)
    scripts[1].record("failure")
    job = a.begin(name).job
    wait_until(began.exists, "the hook to begin", 30)
    assert a.ctl("abort", job).returncode == 0
    assert a.finish(job).state is JobState.ABORTED
    wait_until(lambda: children_named("sleep", "900") == [], "its end")
    scripts[1].wait_told("failure")
    a.assert_runs(name)


def test_a_reload_takes_up_what_the_configuration_says(hosts: tuple[Dom0, Dom0]) -> None:
    a, _ = hosts
    a.write_config(hooks={"folder": "/nowhere", "limit": "7s"})
    a.reload()
    listed = json.loads(a.ctl("hooks", "--json").stdout)
    assert (listed["folder"], listed["limit"]) == ("/nowhere", 7.0)
