"""What the backends of a domain have open, as the kernel and processes tell it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.backing import backing_of
from xenmoved.sandbox.harness import wait_until
from xenmoved.toolstack.backends import Backends, number_of

NUMBERS = {
    "xvda": 51712, "xvda1": 51713, "xvdb": 51728, "xvdp15": 51967, "xvdq": 268439552,
    "xvda16": 268435472, "xvdaa": 268442112, "hda": 768, "hdb": 832, "hdc": 5632, "hdd1": 5697,
    "sda": 2048, "sdb": 2064, "sdp1": 2289, "d0": 51712, "d3p2": 51762, "d16": 268439552,
    "51712": 51712, "0xca00": 51712, "": -1, "cdrom": -1,
}  # fmt: skip
"""As xen-vbd-interface(7) has them."""


@pytest.mark.parametrize("vdev", NUMBERS)
def test_virtual_disks_have_the_numbers_that_xen_gives_them(vdev: str):
    assert number_of(vdev) == NUMBERS[vdev]


def shown(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "physical_device").write_text(text)


@pytest.mark.root
def test_blkback_tells_the_device_of_a_disk(tmp_path: Path):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    command = ("losetup", "--find", "--show", str(image))
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        number = Path(loop).stat().st_rdev
        text = f"{os.major(number):x}:{os.minor(number):x}\n"
        shown(tmp_path / "vbds", "vbd-3-51712", text)
        shown(tmp_path / "vbds", "vbd-3-51728", "0:0\n")  # nothing is attached yet
        shown(tmp_path / "vbds", "vbd-31-51744", text)  # another domain's
        (tmp_path / "vbds" / "vif-3-0").mkdir()
        opened = Backends(tmp_path / "vbds", tmp_path / "no-processes").opened(3)
        assert opened.devices == {51712: backing_of(loop)}
        for path in (loop, image):  # a file is served by a loop device
            assert opened.has("xvda", backing_of(path)) is True
        image.rename(tmp_path / "renamed")
        image.write_bytes(bytes(1 << 20))
        assert opened.has("xvda", backing_of(image)) is False
        assert opened.has("xvdb", backing_of(image)) is None  # nobody tells
        assert (opened.server_of("xvda"), opened.server_of("xvdb")) == ("blkback", "")
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_a_device_model_tells_what_it_has_open(tmp_path: Path):
    image, other = tmp_path / "image", tmp_path / "other"
    image.write_bytes(b"x")
    other.write_bytes(b"y")
    script = f"import time; f = open({str(image)!r}, 'r+b'); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, "-xen-domid", "7", "-name", "web"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as model:
        assert model.stdout is not None
        model.stdout.readline()
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / str(model.pid)).symlink_to(f"/proc/{model.pid}")
        backends = Backends(tmp_path / "vbds", tmp_path / "proc")
        opened = backends.opened(7)
        assert opened.served
        assert opened.has("xvda", backing_of(image)) is True
        assert opened.has("xvda", backing_of(other)) is False
        there = backing_of(image).what
        other.replace(image)  # the guest goes on with what was there
        again = backends.opened(7)
        assert again.has("xvda", backing_of(image)) is False
        assert there in again.shown("xvda")
        assert again.server_of("xvda") == "QEMU"
        for domid in (70, 1):
            assert backends.opened(domid).has("xvda", backing_of(image)) is None
        model.kill()
    wait_until(lambda: not backends.opened(7).served, "the end of the device model")
