"""The migration handshake, both ends of it."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xenmoved.sandbox.harness import EmulatedHost, make_image, wait_until
from xenmoved.sandbox.migrate import BANNER, GO, READY, REPORT

pytestmark = pytest.mark.long

RECEIVE = ("xl", "migrate-receive")


@pytest.fixture
def hosts(tmp_path):
    pair = EmulatedHost(tmp_path / "a"), EmulatedHost(tmp_path / "b")
    yield pair
    for host in pair:
        host.stop()


@pytest.fixture
def guest(hosts, tmp_path):
    image = make_image(tmp_path / "disk.img", 8)
    hosts[0].create("web", [image], extra="sandbox.rate=4 sandbox.dirty=4")
    wait_until(lambda: hosts[0].check("web")["sequence"] > 10, "writes")
    return "web"


@pytest.fixture
def image(hosts, guest, tmp_path):
    """A saved image, its domain left paused."""
    path = tmp_path / "image"
    hosts[0].xl("save", "-p", guest, str(path))
    return path.read_bytes()


@pytest.fixture
def receiver(hosts):
    """A migrate-receive with its ends."""
    process = hosts[1].start(
        *RECEIVE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    yield process
    process.kill()
    process.wait()
    for end in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(BrokenPipeError):
            end.close()


def migrate(source, target, name="web", status=0):
    command = "exec " + shlex.join(target.command(*RECEIVE))
    return source.run("xl", "migrate", "-s", "", name, command, status=status).stderr


def test_the_messages_are_those_of_xl():
    assert (len(BANNER), len(READY), len(GO), len(REPORT)) == (54, 34, 44, 39)
    assert BANNER == b"xl migration receiver ready, send binary domain data.\n"
    assert READY == b"domain received, ready to unpause\0"
    assert GO == b"domain is yours, you are cleared to unpause\0"
    assert REPORT == b"my copy unpause results are as follows\0"


def test_live_migration_there_and_back(hosts, guest):
    here, there = hosts
    text = migrate(here, there)
    assert "migration sender: Target has acknowledged transfer." in text
    assert "migration target: Domain started successsfully." in text
    assert text.endswith("Migration successful.\n")
    assert here.state(guest) is None
    verdict = there.check(guest)
    assert verdict["ok"] and verdict["blocks"] > 0
    migrate(there, here)
    assert here.check(guest)["ok"]
    assert "FAILED" not in here.console(guest) + there.console(guest)


def test_receive_step_by_step(hosts, image, receiver):
    here, there = hosts
    assert receiver.stdout.read(54) == BANNER
    receiver.stdin.write(image[:-8])
    receiver.stdin.flush()
    there.wait_for("web--incoming", "--p---")
    wait_until(lambda: b"Parsing config" in receiver.stderr.readline(), "the header to be read")
    # Without the last record there is no guest yet, and so nobody opens the disk.
    assert not list((there.root / "domains").glob("*.pid"))
    receiver.stdin.write(image[-8:])
    receiver.stdin.flush()
    assert receiver.stdout.read(34) == READY
    assert list((there.root / "domains").glob("*.pid"))
    assert there.state("web--incoming") == "--p---"
    here.xl("destroy", "web")
    receiver.stdin.write(GO)
    receiver.stdin.flush()
    assert receiver.stdout.read(39) == REPORT
    assert receiver.stdout.read(1) == b"\0"
    assert receiver.wait() == 0
    assert there.state("web--incoming") is None
    assert there.check("web")["ok"]


def test_no_permission_destroys_the_copy(hosts, image, receiver):
    here, there = hosts
    out, text = receiver.communicate(image)
    assert out == BANNER + READY + REPORT + b"\x01" + GO
    assert receiver.returncode == 0
    assert b"Failure, destroying our copy" in text
    assert there.xl("list").count("web") == 0
    here.xl("unpause", "web")
    assert here.check("web")["ok"]


def test_a_vanished_sender_leaves_the_copy_paused(hosts, image, receiver):
    """xl reports before it destroys, and gives up when nobody takes the report."""
    receiver.stdin.write(image)
    receiver.stdin.flush()
    assert receiver.stdout.read(88) == BANNER + READY
    receiver.stdout.close()
    receiver.stdin.close()
    assert receiver.wait() == 1
    assert hosts[1].state("web--incoming") == "--p---"


def test_a_killed_receiver_leaves_a_half_built_domain(hosts, image, receiver):
    there = hosts[1]
    receiver.stdin.write(image[: len(image) // 2])
    receiver.stdin.flush()
    there.wait_for("web--incoming", "--p---")
    receiver.send_signal(signal.SIGKILL)
    receiver.wait()
    assert there.state("web--incoming") == "--p---"
    there.xl("unpause", "web--incoming", status=1)
    there.xl("destroy", "web--incoming")
    assert there.state("web--incoming") is None


def test_disks_must_exist_before_the_memory_is_read(hosts, image, receiver, tmp_path):
    (tmp_path / "disk.img").rename(tmp_path / "elsewhere.img")
    out, text = receiver.communicate(image[:100_000])
    assert out == BANNER and receiver.returncode == 1
    assert b"Disk vdev=xvda failed to stat" in text
    assert hosts[1].state("web--incoming") is None
    (tmp_path / "elsewhere.img").rename(tmp_path / "disk.img")


def test_a_corrupted_stream_fails_at_the_target(hosts, guest):
    here, there = hosts
    # In a page that the guest never writes to: one that it does may be sent again, undamaged.
    here.faults(migrate={"corrupt_byte_at": 12_000})
    text = migrate(here, there, status=1)
    assert "checksum of the guest's memory does not match" in text
    assert "migration target: Domain creation failed (code -3)." in text
    assert "Migration failed, resuming at sender." in text
    assert there.xl("list").count("web") == 0
    assert here.check(guest)["ok"]


def test_a_target_that_cannot_start_gives_the_guest_back(hosts, guest):
    here, there = hosts
    there.faults(migrate_receive={"unpause_status": 1})
    text = migrate(here, there, status=1)
    assert "Target reports startup failure (status code 1)." in text
    assert "migration sender: Resumed OK." in text
    assert there.xl("list").count("web") == 0
    assert here.check(guest)["ok"]


def test_a_target_that_cannot_build_gives_the_guest_back(hosts, guest):
    here, there = hosts
    there.faults(migrate_receive={"fail": "no such device"})
    text = migrate(here, there, status=1)
    assert "libxl: error: no such device" in text
    assert here.check(guest)["ok"]


def test_a_name_taken_at_the_target_gives_the_guest_back(hosts, guest, tmp_path):
    here, there = hosts
    there.create("web", [make_image(tmp_path / "other.img", 1)])
    text = migrate(here, there, status=1)
    assert "Target reports startup failure (status code 6)." in text
    assert here.check(guest)["ok"] and there.check("web")["ok"]


@pytest.mark.parametrize("command", ["exit 3", "echo hello", "head -c 54 /dev/zero"])
def test_a_transport_that_is_no_receiver(hosts, guest, command):
    here = hosts[0]
    done = here.run("xl", "migrate", "-s", "", guest, command, status=1)
    assert "truncated reading banner" in done.stderr or "unexpected data" in done.stderr
    assert here.check(guest)["ok"]


MUTE_RECEIVER = """
import os, select, sys
os.write(1, sys.argv[1].encode())
received = b""
while select.select([0], [], [], 0.5)[0] or len(received) < 1 << 20:
    received += os.read(0, 1 << 20)
os.write(1, sys.argv[2].encode() + bytes(1))
os.read(0, 44)
"""


def test_silence_after_permission_leaves_the_guest_suspended(hosts, guest):
    here = hosts[0]
    words = [sys.executable, "-S", "-c", MUTE_RECEIVER, BANNER.decode(), READY[:-1].decode()]
    done = here.run("xl", "migrate", "-s", "", guest, shlex.join(words), status=1)
    assert "** Migration failed during final handshake **" in done.stderr
    assert here.state("web--migratedaway") == "---ss-"


def test_the_monitor_keeps_the_environment_as_the_real_one_does(hosts, image, monkeypatch):
    monkeypatch.setenv("XENMOVED_MIGRATION", "migration-of-this-test")
    there = hosts[1]
    hosts[0].xl("destroy", "web")
    there.start(*RECEIVE, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL).communicate(image + GO)
    assert there.check("web")["ok"]
    assert len(processes_of("migration-of-this-test")) == 1
    there.xl("destroy", "web")
    wait_until(lambda: not processes_of("migration-of-this-test"), "the monitor to end")


def processes_of(migration):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if path.parent.name != str(os.getpid()) and migration.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found
