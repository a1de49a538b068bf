"""A guest notices every block that is not what it wrote, and every second copy of itself."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from xenmoved.sandbox import blocks
from xenmoved.sandbox.harness import EmulatedHost, make_image, wait_until
from xenmoved.sandbox.ram import MemoryDamaged, Ram, allocate, knobs_from
from xenmoved.sandbox.witness import Diverged, Witness, failures

pytestmark = pytest.mark.long

GUEST = uuid.uuid4().bytes
# Writes fast and never checks by itself, so that only the explicit check can find anything.
QUIET = "sandbox.rate=8 sandbox.checks=0 sandbox.zero=0"


@pytest.fixture
def host(tmp_path):
    host = EmulatedHost(tmp_path / "a")
    yield host
    host.stop()


@pytest.fixture
def image(host, tmp_path):
    image = make_image(tmp_path / "disk.img", 4)
    host.create("web", [image], extra=QUIET)
    wait_until(lambda: host.check("web")["blocks"] > 100, "writes")
    return image


def overwrite(image, at, data):
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def assert_failed(host, pattern):
    verdict = host.check("web")
    assert not verdict["ok"]
    assert any(pattern in failure for failure in verdict["failures"]), verdict
    assert "FAILED: " in host.console("web")
    assert host.state("web") == "---sc-"
    assert host.run("check", status=1)


def test_a_lost_block(host, image):
    host.xl("pause", "web")
    overwrite(image, 0, bytes(image.stat().st_size))
    host.xl("unpause", "web")
    assert_failed(host, "missing: zeroes instead of write")


def test_a_foreign_block(host, image):
    host.xl("pause", "web")
    overwrite(image, 0, b"\xa5" * image.stat().st_size)
    host.xl("unpause", "web")
    assert_failed(host, "wrong: foreign data")


def test_stale_blocks(host, image):
    host.xl("pause", "web")
    old = image.read_bytes()
    host.xl("unpause", "web")
    wait_until(lambda: changed_blocks(image, old) > 50, "blocks written again")
    host.xl("pause", "web")
    # Only those that had been written before: the others would be missing.
    now = image.read_bytes()
    for at in range(0, len(old), blocks.UNIT):
        before, after = old[at : at + blocks.UNIT], now[at : at + blocks.UNIT]
        if before[:8] == b"XMVBLOCK" and before != after:
            overwrite(image, at, before)
    host.xl("unpause", "web")
    assert_failed(host, "stale: write")


def changed_blocks(image, old):
    now = image.read_bytes()
    places = range(0, len(old), blocks.UNIT)
    return sum(
        old[at : at + 8] == b"XMVBLOCK" and old[at : at + blocks.UNIT] != now[at : at + blocks.UNIT]
        for at in places
    )


def test_a_guest_finds_damage_by_itself(host, tmp_path):
    image = make_image(tmp_path / "disk.img", 1)
    host.create("web", [image], extra="sandbox.checks=2000 sandbox.rate=0.2")
    wait_until(lambda: host.check("web")["blocks"] > 10, "writes")
    host.xl("pause", "web")
    overwrite(image, 0, bytes(image.stat().st_size))
    host.xl("unpause", "web")
    host.wait_for("web", "---sc-")
    assert "FAILED: xvda block at" in host.console("web")


def test_two_copies_at_once(host, image, tmp_path):
    host.xl("save", "-p", "web", str(tmp_path / "image"))
    other = EmulatedHost(tmp_path / "b")
    try:
        other.xl("restore", "-p", str(tmp_path / "image"))
        host.xl("unpause", "web")
        other.xl("unpause", "web")
        assert other.state("web") == "---sc-"
        assert "FAILED: running twice" in other.console("web")
        # The copy that came first is told as well, and it stays on record when both are gone.
        assert any("running twice" in one for one in host.check("web")["failures"])
        other.stop()
        host.stop()
        assert "running twice" in host.run("check", status=1).stdout
    finally:
        other.stop()


def test_two_copies_one_after_the_other(host, image, tmp_path):
    host.xl("save", "-p", "web", str(tmp_path / "image"))
    other = EmulatedHost(tmp_path / "b")
    try:
        other.xl("restore", str(tmp_path / "image"))
        assert other.check("web")["ok"]
        other.xl("destroy", "web")
        host.xl("unpause", "web")
        assert_failed(host, "another copy of this guest ran after this one was taken")
    finally:
        other.stop()


def test_diagnosis_of_blocks():
    mine = blocks.make(GUEST, 0, 7, 5)
    assert len(mine) == blocks.UNIT
    assert "stale: write 5 instead of write 9" in blocks.diagnose(mine, GUEST, 0, 7, 9)
    assert "write 5 of another copy" in blocks.diagnose(mine, GUEST, 0, 7, 3)
    assert "disk 0 unit 7" in blocks.diagnose(mine, GUEST, 0, 8, 5)
    assert "of guest" in blocks.diagnose(mine, uuid.uuid4().bytes, 0, 7, 5)
    torn = mine[:1000] + bytes(blocks.UNIT - 1000)
    assert "damaged content of write 5" in blocks.diagnose(torn, GUEST, 0, 7, 5)


def test_memory_remembers_and_detects_damage():
    descriptor = allocate(2)
    ram = Ram(descriptor)
    ram.boot(
        "00000000-0000-0000-0000-000000000001", knobs_from("x sandbox.share=1"), [("xvda", 1 << 20)]
    )
    (layout,) = ram.static()["disks"]
    assert layout["working"] == layout["total"] == 16
    table = ram.table(layout)
    for number in ram.dirty():
        ram.take(number)
    table.set(17, 3, 0x1234, zeroes=True)
    assert table.get(17) == (3, 0x1234, True) and table.get(16) == (0, 0, False)
    assert table.written() == [17] and len(ram.dirty()) == 1
    ram.seal()
    ram.verify()
    page = ram.page(100)
    ram.put(100, page[:-1] + bytes([page[-1] ^ 1]))
    with pytest.raises(MemoryDamaged):
        ram.verify()
    os.close(descriptor)


def test_the_working_area_is_spread_and_bounded():
    descriptor = allocate(2)
    ram = Ram(descriptor)
    ram.boot("00000000-0000-0000-0000-000000000001", knobs_from(""), [("xvda", 10 << 30)])
    table = ram.table(ram.static()["disks"][0])
    assert 0 < table.working * blocks.CHUNK_UNITS * 16 <= 1 << 20
    places = [table.offset(chunk * blocks.CHUNK_UNITS) for chunk in range(table.working)]
    assert len(set(places)) == table.working
    assert 9 << 30 < places[-1] <= (10 << 30) - blocks.CHUNK
    os.close(descriptor)


def test_witness(tmp_path):
    one, two = Witness(tmp_path, "u"), Witness(tmp_path, "u")
    assert one.enter(0) == 1
    with pytest.raises(Diverged, match="running twice"):
        two.enter(0)
    one.advance(5)
    one.leave()
    with pytest.raises(Diverged, match="it reached 5, this one 4"):
        two.enter(4)
    assert two.enter(5) == 6
    assert len(failures(tmp_path, "u")) == len(failures(tmp_path)) == 2
    assert failures(tmp_path, "other") == []


@pytest.mark.root
def test_block_devices_are_written_past_the_page_cache(host, tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root for a loop device")
    image = make_image(tmp_path / "loop.img", 8)
    losetup = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if losetup.returncode:
        pytest.skip(f"no loop device: {losetup.stderr}")
    device = losetup.stdout.strip()
    try:
        host.create("web", [Path(device)], extra="sandbox.rate=8 sandbox.zero=0.4")
        wait_until(lambda: host.check("web")["sequence"] > 50, "writes")
        assert host.check("web")["ok"]
        pid = (host.root / "domains" / "1.pid").read_text().split()[0]
        flags = [
            Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()[3]
            for link in Path(f"/proc/{pid}/fd").iterdir()
            if str(link.readlink()) == device
        ]
        assert flags and all(int(one, 8) & os.O_DIRECT for one in flags)
    finally:
        host.stop()
        subprocess.run(["losetup", "-d", device], check=True)
