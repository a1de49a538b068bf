"""Saving and restoring: bytes on the wire, and what becomes of the domain."""

import json
import os
import signal
import struct
import subprocess
import time

import pytest

from xenmoved.sandbox.harness import EmulatedHost, make_image, wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def host(tmp_path):
    host = EmulatedHost(tmp_path / "a")
    yield host
    host.stop()


@pytest.fixture
def guest(host, tmp_path):
    host.create("web", [make_image(tmp_path / "disk.img", 8)], extra="sandbox.rate=4")
    wait_until(lambda: host.check("web")["sequence"] > 10, "writes")
    return "web"


def start_save_to_pipe(host, *args, read_all=True):
    """`xl save … /proc/self/fd/N` into a pipe; returns process and reading end."""
    reader, writer = os.pipe()
    process = host.start(
        "xl", "save", *args, f"/proc/self/fd/{writer}", pass_fds=[writer], stderr=subprocess.PIPE
    )
    os.close(writer)
    return process, reader


def read_all(descriptor):
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_the_image_is_laid_out_as_libxl_does(host, guest):
    process, reader = start_save_to_pipe(host, "-p", guest)
    image = read_all(reader)
    assert process.wait() == 0
    assert b"Saving to /proc/self/fd/" in process.stderr.read()
    assert image[:32] == b"Xen saved domain, xl format\n \0 \r"
    order, mandatory, optional, length = struct.unpack_from("=IIII", image, 32)
    assert (order, mandatory, optional) == (0x01020304, 3, 0)
    (config_length,) = struct.unpack_from("=I", image, 48)
    assert config_length == length - 4
    config = image[52 : 52 + config_length]
    assert config.endswith(b"}\0")
    assert json.loads(config[:-1])["c_info"]["name"] == "web"
    at = 48 + length
    assert struct.unpack_from(">8sII", image, at) == (b"LibxlFmt", 2, 0)
    assert struct.unpack_from("=II", image, at + 16) == (1, 0)
    assert image[at + 24 : at + 36] == b"\xff" * 8 + b"XENF"
    # libxc's own END, then libxl's.
    assert image[-16:] == bytes(16) and image[-24:-16] != bytes(8)


def test_save_p_suspends_then_leaves_paused(host, guest):
    process, reader = start_save_to_pipe(host, "-p", guest)
    host.wait_for(guest, "---ss-")
    read_all(reader)
    assert process.wait() == 0
    assert host.state(guest) == "--p---"
    host.xl("unpause", guest)
    assert host.check(guest)["ok"]


def test_plain_save_destroys_and_restore_brings_back(host, guest, tmp_path):
    before = host.check(guest)["sequence"]
    host.xl("save", guest, str(tmp_path / "image"))
    assert host.state(guest) is None
    host.xl("restore", str(tmp_path / "image"))
    verdict = host.check(guest)
    assert verdict["ok"] and verdict["sequence"] > before and verdict["blocks"] > 0
    assert host.state(guest) in ("-b----", "r-----")


def test_an_old_image_must_not_run_after_a_checkpoint(host, guest, tmp_path):
    host.xl("save", "-c", guest, str(tmp_path / "image"))
    assert host.check(guest)["ok"]
    host.xl("destroy", guest)
    host.xl("restore", str(tmp_path / "image"))
    assert host.state(guest) == "---sc-"
    assert "FAILED: another copy of this guest ran after this one was taken" in host.console(guest)


def test_a_corrupted_image_is_refused(host, guest, tmp_path):
    host.faults(save={"corrupt_byte_at": 1_000_000})
    host.xl("save", guest, str(tmp_path / "image"))
    done = host.run("xl", "restore", str(tmp_path / "image"), status=1)
    assert "checksum of the guest's memory does not match" in done.stderr
    assert host.state(guest) is None


@pytest.mark.parametrize("keep", [10, 60, 5000, 100_000, -8])
def test_a_truncated_image_is_refused(host, guest, tmp_path, keep):
    image = tmp_path / "image"
    host.xl("save", guest, str(image))
    image.write_bytes(image.read_bytes()[:keep])
    assert "truncated" in host.xl("restore", str(image), status=1)
    assert host.state(guest) is None


def test_a_reader_that_goes_away_resumes_the_guest(host, guest):
    process, reader = start_save_to_pipe(host, "-p", guest)
    os.read(reader, 4096)
    host.wait_for(guest, "---ss-")
    os.close(reader)
    assert process.wait() == 1
    text = process.stderr.read()
    assert b"Broken pipe" in text
    assert b"Failed to save domain, resuming domain" in text
    host.wait_for(guest, "-b----")
    assert host.check(guest)["ok"]


def test_a_full_disk_resumes_the_guest(host, guest, tmp_path):
    host.faults(save={"fail_after_bytes": 500_000})
    text = host.xl("save", "-p", guest, str(tmp_path / "image"), status=1)
    assert "No space left on device" in text
    assert (tmp_path / "image").stat().st_size == 500_000
    assert host.check(guest)["ok"]


def test_a_killed_save_leaves_the_guest_suspended(host, guest):
    process, reader = start_save_to_pipe(host, "-p", guest)
    host.wait_for(guest, "---ss-")
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(reader)
    host.xl("unpause", guest)
    assert host.state(guest) == "---ss-"
    host.xl("resume", guest)
    host.wait_for(guest, "-b----")
    assert host.check(guest)["ok"]


def test_a_paused_guest_cannot_be_saved(host, guest, tmp_path):
    host.xl("pause", guest)
    text = host.xl("save", "-p", guest, str(tmp_path / "image"), status=1)
    assert "guest didn't acknowledge suspend" in text
    assert host.state(guest) == "--p---"


def test_a_save_can_be_slowed_down(host, guest, tmp_path):
    host.faults(save={"delay_per_mib": 0.3})
    began = time.monotonic()
    host.xl("save", "-p", guest, str(tmp_path / "image"))
    assert time.monotonic() - began > 0.55
