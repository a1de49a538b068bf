"""Doubts that only an operator can break, and what follows when the other host comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support.crash import EXECUTES, GUEST, PATIENCE, CrashHost, World
from xenmoved.jobs.report import JobState
from xenmoved.sandbox.harness import wait_until
from xenmoved.toolstack.durable import boot_id


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of its own: some of these leave it as no other test may find it."""
    made = World(tmp_path_factory.mktemp("w"))
    try:
        made.start()
        yield made
    except BaseException:
        made.print_logs()
        raise
    finally:
        made.close()


def doubts(host: CrashHost) -> list[dict[str, Any]]:
    """What `xenmovectl recover` shows."""
    shown = host.ctl("recover", "--json")
    assert shown.returncode == 0, shown
    rows: list[dict[str, Any]] = json.loads(shown.stdout)["doubts"]
    return rows


def starts_at_boot(host: CrashHost) -> bool:
    return bool(list((host.config_dir / "auto").iterdir()))


def in_doubt(host: CrashHost) -> bool:
    return any(job.state is JobState.IN_DOUBT for job in host.jobs())


def doubtful(
    world: World, fault: str, *, at_source: bool, mode: Mode = Mode.SAVE
) -> tuple[CrashHost, CrashHost]:
    """Have the target's daemon end at a fault, so that the source is in doubt."""
    source = world.source
    target = world.other(source)
    here = source if at_source else target
    here.arm(f"kill={target.pid}@{fault}")
    source.migrate(target, mode)
    wait_until(lambda: in_doubt(source), "the doubt", PATIENCE)
    # Its end of the connection goes a moment before it does.
    wait_until(lambda: target.dead, "the end of the target", PATIENCE)
    return source, target


def restart(source: CrashHost, target: CrashHost) -> None:
    """Bring the target back, and have the source tell it at once rather than in a while."""
    target.start()
    source.stop()
    source.start()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE])
def test_guest_is_kept_and_the_target_confirms_it(world, mode):
    source, target = doubtful(world, "ask:Commit:before", at_source=True, mode=mode)
    (row,) = doubts(source)
    stopped = "paused" if mode is Mode.SAVE else "suspended"
    assert (row["guest"], row["peer"], row["at_source"]) == (GUEST, target.name, True)
    assert (row["state"], row["domain"], row["peer_answers"]) == ("commit-sent", stopped, False)
    shown = source.ctl("recover", GUEST)
    assert "--keep-here" in shown.stdout
    assert "does not answer" in shown.stdout

    refused = source.ctl("recover", GUEST, "--keep-here")
    assert refused.returncode == 2
    assert "it then runs twice" in refused.stderr
    assert "--yes" in refused.stderr
    assert source.domains().get(GUEST) not in EXECUTES, "nothing was decided"

    assert not starts_at_boot(source), "it may run on the target"
    assert source.ctl("recover", GUEST, "--resolved", "--yes").returncode == 3
    decided = source.ctl("recover", GUEST, "--keep-here", "--yes")
    assert decided.returncode == 0, decided
    wait_until(lambda: source.domains()[GUEST] in EXECUTES, "the guest", PATIENCE)
    assert not source.jobs()
    assert [row["state"] for row in doubts(source)] == ["kept"]
    assert source.last_job().problem.code == "kept"
    again = source.ctl("recover", GUEST, "--give-up", "--yes", "--json")
    assert (again.returncode, json.loads(again.stdout)["problems"][0]["code"]) == (3, "decided")

    restart(source, target)
    wait_until(lambda: not doubts(source), "the target's word", PATIENCE)
    world.wait_quiet()
    assert world.owner() is source
    assert source.last_job().problem.code == "decided"
    assert "error" not in source.ctl("status").stdout
    world.assert_moves()


@pytest.mark.thorough
def test_guest_is_kept_though_the_target_had_started_it(world):
    source, target = doubtful(world, "inbound:started:after", at_source=False)
    wait_until(lambda: target.domains().get(GUEST) in EXECUTES, "the copy", PATIENCE)
    assert source.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 0
    # The emulated guest finds out that it ran on, on the other host, and stops itself.
    assert source.last_job().problem.code == "kept"

    restart(source, target)
    for host in (source, target):
        wait_until(
            lambda host=host: [row["state"] for row in doubts(host)] == ["ran-twice"],
            f"the alarm of {host.name}",
            PATIENCE,
        )
        assert "ran on both hosts" in host.ctl("status").stdout
        assert "ran on both hosts" in host.log()
        job = host.last_job()
        assert (job.state, job.problem.code) == (JobState.FAILED, "ran-twice")
        assert "shut down the other" in job.problem.hint
        # It is not forgotten, until somebody says that it has been put right.
        host.stop()
        host.start()
        assert "ran on both hosts" in host.ctl("status").stdout
        assert host.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 3
        assert host.ctl("recover", GUEST, "--resolved", "--yes").returncode == 0
        assert not doubts(host)
        assert "ran on both hosts" not in host.ctl("status").stdout


@pytest.mark.thorough
def test_guest_is_kept_after_its_host_was_restarted_too(world):
    source, _ = doubtful(world, "ask:Commit:before", at_source=True)
    source.stop()
    source.xen.xl("destroy", GUEST)
    source.start()
    wait_until(lambda: in_doubt(source), "the doubt", PATIENCE)
    assert doubts(source)[0]["domain"] == "absent"
    assert source.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 0
    problem = source.last_job().problem
    assert problem.code == "guest-gone"
    assert "start it from its configuration" in problem.hint
    assert starts_at_boot(source)


@pytest.mark.thorough
def test_guest_is_given_up_and_runs_on_the_target(world):
    source, target = doubtful(world, "inbound:started:after", at_source=False)
    assert source.ctl("recover", GUEST, "--give-up", "--yes").returncode == 0
    assert GUEST not in source.domains()
    assert [row["state"] for row in doubts(source)] == ["given-up"]
    restart(source, target)
    wait_until(lambda: not doubts(source), "the target's word", PATIENCE)
    world.wait_quiet()
    assert world.owner() is target
    assert source.last_job().state is JobState.DONE
    world.assert_moves()


@pytest.mark.thorough
def test_guest_is_given_up_though_the_target_never_started_it(world):
    source, target = doubtful(world, "ask:Commit:before", at_source=True)
    assert source.ctl("recover", GUEST, "--give-up", "--yes").returncode == 0
    restart(source, target)
    wait_until(lambda: [row["state"] for row in doubts(source)] == ["lost"], "the alarm", PATIENCE)
    assert "runs nowhere" in source.ctl("status").stdout
    config = source.config_dir / f"{GUEST}.cfg"
    wait_until(config.exists, "the configuration, to start it from", PATIENCE)
    assert not doubts(target)
    assert source.ctl("recover", GUEST, "--resolved", "--yes").returncode == 0
    assert not doubts(source)


def forgetful_target(world: World, boot: str) -> tuple[CrashHost, CrashHost]:
    """Have the target fail as it was about to start the guest, in a boot, and forget what it did.

    Its daemon is to be started by the caller.
    """
    source, target = doubtful(world, "inbound:committed:after", at_source=False)
    wait_until(lambda: GUEST not in target.domains(), "the end of the copy", PATIENCE)
    for name in list(target.domains()):
        target.xen.xl("destroy", name)
    ((migration,),) = target.query("SELECT migration FROM inbound WHERE state='committed'")
    folder = target.spool / migration
    folder.mkdir(exist_ok=True)
    (folder / f"{migration}.commit").write_text(f"committing {boot}\n")
    (folder / f"{migration}.receive.log").write_text("")
    return source, target


def target_in_doubt(world: World) -> tuple[CrashHost, CrashHost]:
    """Have the target be in doubt: the domain is gone, and its host has not been restarted."""
    source, target = forgetful_target(world, boot_id())
    target.start()
    wait_until(lambda: in_doubt(target), "the target's doubt", PATIENCE)
    return source, target


@pytest.mark.thorough
def test_target_that_cannot_tell_gives_up(world):
    source, target = target_in_doubt(world)
    (row,) = doubts(target)
    assert (row["at_source"], row["state"], row["domain"]) == (False, "committed", "absent")
    # The source can ask it, so the decision is not the source's.
    refused = source.ctl("recover", GUEST, "--keep-here", "--yes", "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["problems"][0]["code"] == "peer-answers"

    volumes = target.volumes()
    assert volumes
    assert target.ctl("recover", GUEST, "--give-up", "--yes").returncode == 0
    world.wait_quiet()
    assert source.domains()[GUEST] in EXECUTES
    assert source.check()["ok"]
    assert target.domains() == {}
    assert target.volumes() == volumes, "what may be of use is kept"
    assert not doubts(source)
    assert not doubts(target)


@pytest.mark.thorough
def test_target_that_cannot_tell_keeps_the_guest(world):
    source, target = target_in_doubt(world)
    # It stays in doubt when it is restarted, and looks again.
    target.stop()
    target.start()
    wait_until(lambda: in_doubt(target), "the target's doubt", PATIENCE)
    assert target.ctl("recover", GUEST, "--keep-here", "--yes").returncode == 0
    world.wait_quiet()
    assert source.domains() == {}
    assert source.last_job().state is JobState.DONE
    target.xen.xl("create", str(target.config_dir / f"{GUEST}.cfg"))
    assert target.domains()[GUEST] in EXECUTES


@pytest.mark.thorough
def test_guest_is_the_targets_when_its_host_was_restarted(world):
    source, target = forgetful_target(world, "an-earlier-boot")
    target.start()
    world.wait_quiet()
    assert not doubts(source)
    assert source.domains() == {}
    assert source.last_job().state is JobState.DONE
    job = target.last_job()
    assert (job.state, job.problem.code) == (JobState.DONE, "ended-with-host")
    assert "start it from its file" in target.ctl("show", GUEST).stdout
    target.xen.xl("create", str(target.config_dir / f"{GUEST}.cfg"))
    assert target.domains()[GUEST] in EXECUTES


@pytest.mark.thorough
def test_what_is_not_in_doubt_is_not_decided(world):
    source = world.source
    unknown = source.ctl("recover", "nobody", "--keep-here", "--yes", "--json")
    assert unknown.returncode == 3
    assert json.loads(unknown.stdout)["problems"][0]["code"] == "job-unknown"
    target = world.other(source)
    assert source.finish(source.migrate(target).job).state is JobState.DONE
    for host in (source, target):
        done = host.ctl("recover", GUEST, "--give-up", "--yes", "--json")
        assert done.returncode == 3
        assert json.loads(done.stdout)["problems"][0]["code"] == "not-in-doubt"
    assert source.ctl("recover").stdout == "nothing is in doubt\n"
