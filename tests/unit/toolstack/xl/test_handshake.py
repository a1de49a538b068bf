"""Receivers that do not behave, played by a script in the place of `xl`."""

import os
import sys
import time

import pytest

from tests.support.toolstack_samples import PV, UUID, arrival, header, stream
from xenmoved.toolstack.interface import Settled, StartFailed, ToolstackError
from xenmoved.toolstack.xl import incoming as xl_incoming
from xenmoved.toolstack.xl.driver import XlToolstack

pytestmark = pytest.mark.long

SCRIPT = """
import os, sys, time
folder, verb = sys.argv[1], sys.argv[2]
BANNER = b"xl migration receiver ready, send binary domain data.\\n"
READY = b"domain received, ready to unpause\\0"
GO = b"domain is yours, you are cleared to unpause\\0"
REPORT = b"my copy unpause results are as follows\\0"
table = os.path.join(folder, "table")

def domains(*lines):
    with open(table + ".new", "w") as file:
        file.writelines(f"{line}\\n" for line in lines)
    os.rename(table + ".new", table)

def say(text):
    sys.stderr.write(text + "\\n")
    sys.stderr.flush()

def out(data):
    os.write(1, data)

def take(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            say("truncated")
            sys.exit(1)
        data += piece
    return data

def image():
    size = int(open(os.path.join(folder, "size")).read())
    take(size)

if verb == "list" and "-l" in sys.argv:
    print(open(os.path.join(folder, "long")).read())
elif verb == "list" and "-v" in sys.argv:
    print("UUID and more", open(os.path.join(folder, "uuid")).read(), "-")
elif verb == "list":
    print("Name                ID   Mem VCPUs\\tState\\tTime(s)")
    print("Domain-0             0  1024     2     r-----     1.0")
    if os.path.exists(table):
        print(open(table).read(), end="")
elif verb == "destroy":
    say("destroyed " + sys.argv[3])
    open(os.path.join(folder, "destroyed"), "w").write(sys.argv[3])
    domains()
elif verb == "migrate-receive":
    say("migration target: Ready to receive domain.")
    exec(open(os.path.join(folder, "receiver")).read())
"""


class Fake:
    """A host whose `xl` is the script."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "xl.py").write_text(SCRIPT)
        command = (sys.executable, "-S", str(folder / "xl.py"), str(folder))
        self.driver = XlToolstack(command, folder / "etc")
        self.set(long="[]", uuid="none", size="0")
        self.migration = f"fake-{os.getpid()}-{time.monotonic_ns()}"

    def set(self, **files):
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def image(self, receiver):
        self.set(receiver=receiver)
        return self.driver.incoming(self.migration, arrival(PV), self.folder / "spool")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(xl_incoming, "_BANNER_TIMEOUT", 2.0)
    monkeypatch.setattr(xl_incoming, "_BUILD_TIMEOUT", 2.0)
    monkeypatch.setattr(xl_incoming, "_COMMIT_TIMEOUT", 2.0)
    monkeypatch.setattr(xl_incoming, "_EXIT_TIMEOUT", 2.0)
    monkeypatch.setattr(xl_incoming, "_SETTLE_TIMEOUT", 2.0)
    return Fake(tmp_path)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("receiver", "message"),
    [
        ("say('libxl: error: no hypervisor'); sys.exit(3)", "status 3.*no hypervisor"),
        ("out(b'x' * 54); time.sleep(60)", "answered b'x"),
        ("out(BANNER[:20])", "ended before its banner"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
async def test_no_banner(fake, receiver, message):
    image = fake.image(receiver)
    with pytest.raises(ToolstackError, match=message):
        await image.start()
    await image.abort()
    assert not list((fake.folder / "spool").iterdir())


async def test_silence(fake, monkeypatch):
    monkeypatch.setattr(xl_incoming, "_BANNER_TIMEOUT", 0.3)
    image = fake.image("take(1)")
    with pytest.raises(ToolstackError, match="its banner within"):
        await image.start()
    await image.abort()


async def feed(fake, image):
    """Give it a whole image but the end."""
    data = header(PV["config"]) + stream()
    probe = xl_incoming.ImageFilter(arrival(PV))
    fake.set(size=str(sum(len(piece) for piece in probe.feed(data)) + 8))
    await image.start()
    await image.write(data)


async def test_it_dies_while_memory_arrives(fake):
    image = fake.image("out(BANNER); take(10); say('xc: error: bad page'); sys.exit(1)")
    await image.start()
    with pytest.raises(ToolstackError, match="bad page"):
        await image.write(header(PV["config"]) + stream()[:-8])
        for _ in range(400):  # a pipe takes a while to fill
            await image.write(b"\2\0\0\0\0\0\1\0" + bytes(1 << 16))
    await image.abort()


@pytest.mark.parametrize(
    ("receiver", "message"),
    [
        ("say('libxl: error: no memory')", "no memory"),
        ("out(b'?' * 34)", r"answered b'\?"),
        ("time.sleep(60)", "did not give"),
    ],
)
async def test_it_does_not_get_ready(fake, monkeypatch, receiver, message):
    monkeypatch.setattr(xl_incoming, "_BUILD_TIMEOUT", 0.5)
    monkeypatch.setattr(xl_incoming, "_EXIT_TIMEOUT", 0.3)
    image = fake.image("out(BANNER); image(); " + receiver)
    await feed(fake, image)
    with pytest.raises(ToolstackError, match=message):
        await image.build()
    await image.abort()


LINE = "domains('{name}   9   512     2     {state}     0.0')"
BUILT = f"{LINE.format(name='web--incoming', state='--p---')}; out(READY); take(len(GO))"


async def test_it_builds_a_domain_that_is_not_there(fake):
    """Nothing could tell later which one is ours."""
    image = fake.image("out(BANNER); image(); out(READY); take(44)")
    await feed(fake, image)
    with pytest.raises(ToolstackError, match="there is no web--incoming"):
        await image.build()
    await image.abort()


async def test_it_gives_the_domain_back(fake):
    image = fake.image(
        f"out(BANNER); image(); {BUILT}; domains(); say('migration target: Got permission');"
        "out(REPORT + bytes([6])); say('migration target: Failure, destroying our copy.'); out(GO)"
    )
    await feed(fake, image)
    await image.build()
    with pytest.raises(StartFailed, match="destroying our copy"):
        await image.commit()
    await image.abort()


async def test_it_says_nothing_after_the_word_but_the_domain_runs(fake, monkeypatch):
    monkeypatch.setattr(xl_incoming, "_COMMIT_TIMEOUT", 0.3)
    running = LINE.format(name="web", state="-b----")
    image = fake.image(f"out(BANNER); image(); {BUILT}; {running}; sys.exit(1)")
    fake.set(long=f'[{{"domid": 9, "config": {{"c_info": {{"uuid": "{UUID}"}}}}}}]')
    await feed(fake, image)
    await image.build()
    await image.commit()
    assert await image.settle() is Settled.RUNNING


async def test_it_stays_undecided(fake, monkeypatch):
    monkeypatch.setattr(xl_incoming, "_COMMIT_TIMEOUT", 0.2)
    monkeypatch.setattr(xl_incoming, "_SETTLE_TIMEOUT", 0.5)
    image = fake.image(f"out(BANNER); image(); {BUILT}; domains(); time.sleep(60)")
    await feed(fake, image)
    await image.build()
    with pytest.raises(ToolstackError, match=r"not decided.*process \d+"):
        await image.commit()
    image._process.kill()
    assert await image.settle() is Settled.ABSENT  # it had not said that it got the word


@pytest.mark.parametrize(("uuid", "ours"), [(UUID.upper(), True), (UUID[::-1], False)])
async def test_a_domain_that_was_half_built_has_no_configuration(fake, uuid, ours):
    paused = LINE.format(name="web--incoming", state="--p---")
    image = fake.image(f"out(BANNER); {paused}; os.kill(os.getpid(), 9)")
    fake.set(uuid=uuid)
    await image.start()
    await image._process.wait(10)
    await image.abort()
    assert (fake.folder / "destroyed").exists() is ours


async def test_a_running_copy_is_not_destroyed(fake):
    running = LINE.format(name="web--incoming", state="r-----")
    image = fake.image(f"out(BANNER); {running}")
    fake.set(uuid=UUID)
    await image.start()
    await image._process.wait(10)
    with pytest.raises(ToolstackError, match="left alone"):
        await image.abort()
