"""The process that holds the pipes of an `xl migrate`, with a test in the place of `xl`."""

import contextlib
import os
import socket
import stat
import subprocess
import sys

import pytest

from xenmoved.sandbox.harness import wait_until
from xenmoved.toolstack.xl import holder as xl_holder
from xenmoved.toolstack.xl.holder import BANNER, GO, READY, REPORT


class Sender:
    """What `xl` has of its holder, and a way to reach the holder."""

    def __init__(self, folder):
        self.path = folder / "holder"
        theirs_in, self.stream = os.pipe()
        self.answers, theirs_out = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", xl_holder.__file__, str(self.path)],
            stdin=theirs_in,
            stdout=theirs_out,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def connect(self):
        """A connection, the state in which it found the holder, the descriptor of the stream."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(10)
        folder = os.open(self.path.parent, os.O_PATH)
        wait_until(lambda: self._reached(connection, folder), "the holder to listen")
        os.close(folder)
        state, descriptors, _, _ = socket.recv_fds(connection, 64, 4)
        (descriptor,) = descriptors
        return connection, state.decode(), descriptor

    def _reached(self, connection, folder):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(f"/proc/self/fd/{folder}/{self.path.name}")
            return True
        return False

    def heard(self):
        """What was said to `xl` so far; a pause is its end."""
        os.set_blocking(self.answers, False)
        try:
            return os.read(self.answers, 4096)
        except BlockingIOError:
            return None

    def ended(self):
        return self.process.wait(10) == 0 and self.heard() == b""

    def close(self):
        for descriptor in (self.stream, self.answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.process.wait(10)


@pytest.fixture
def sender(tmp_path):
    folder = tmp_path / ("long" * 40)  # the address of a socket has 108 bytes
    folder.mkdir()
    made = Sender(folder)
    yield made
    made.close()


def tell(connection, command):
    connection.send(command.encode())
    return connection.recv(64).decode()


def begun(sender):
    owner, state, descriptor = sender.connect()
    assert state == "waiting"
    assert tell(owner, "start") == "streaming"
    assert sender.heard() == BANNER
    return owner, descriptor


def test_the_stream_is_handed_to_whoever_connects(sender):
    owner, first = begun(sender)
    other, state, second = sender.connect()
    assert state == "streaming"
    os.write(sender.stream, b"memory")
    assert os.read(first, 3) + os.read(second, 3) == b"memory"
    assert os.fstat(first).st_ino == os.fstat(second).st_ino
    other.close()
    third, _, _ = sender.connect()  # the end of another's connection is no reason to end
    third.close()
    assert sender.process.poll() is None
    owner.close()
    for descriptor in (first, second):
        os.close(descriptor)


def test_the_end_of_its_owner_is_its_own_until_all_has_arrived(sender):
    owner, _ = begun(sender)
    owner.close()
    assert sender.ended()


@pytest.mark.parametrize(("decision", "said"), [("done", b"\0"), ("back", b"\1" + GO)])
def test_the_decision_outlives_its_owner(sender, decision, said):
    owner, _ = begun(sender)
    assert tell(owner, "ready") == "kept"
    assert sender.heard() == READY
    owner.close()
    later, state, _ = sender.connect()
    assert state == "kept"
    for _ in range(2):
        assert tell(later, decision) == decision
    assert sender.heard() == REPORT + said
    assert tell(later, "done" if decision == "back" else "back") == decision
    assert sender.heard() is None, "a decision is told once"
    os.close(sender.stream)
    assert sender.ended()


@pytest.mark.parametrize("begin", [False, True])
def test_what_has_not_arrived_is_let_go(sender, begin):
    owner = begun(sender) if begin else None
    later, _, _ = sender.connect()
    later.send(b"back")
    assert later.recv(64) == b""
    assert sender.ended()
    del owner


def test_only_its_owner_says_that_all_has_arrived(sender):
    stranger, _, _ = sender.connect()
    owner, _ = begun(sender)
    for command in ("start", "ready", "done", "nonsense"):
        assert tell(stranger, command) == "streaming"
    assert sender.heard() is None
    assert tell(owner, "ready") == "kept"


def test_it_ends_with_xl(sender):
    owner, _ = begun(sender)
    tell(owner, "ready")
    assert sender.heard() == READY
    os.close(sender.stream)
    assert sender.ended()


def test_nobody_else_can_reach_it(sender):
    owner, _ = begun(sender)
    mode = sender.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    if os.geteuid() == 0:
        sender.path.chmod(0o666)  # as if the folders were open, too
        folder = os.open(sender.path.parent, os.O_PATH)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                os.setresuid(65534, 65534, 65534)
                os.fchdir(folder)
                other.connect(sender.path.name)
                os._exit(0 if other.recv(64) == b"" else 1)
            os._exit(2)
        os.close(folder)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tell(owner, "ready") == "kept"
