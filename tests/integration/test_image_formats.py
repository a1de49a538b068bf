"""Guests whose disks are images in formats of their own: they move while they do not run."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from integration_support import MIB, Dom0, digest, the_problem, unique

from protocol.messages import ImageFormat, Mode
from xenmoved.control.reports import JobState
from xenmoved.control.volume_api import DropVolumes

Hosts = tuple[Dom0, Dom0]


def header(image_format: str, *, needs_others: bool = False) -> bytes:
    """Return the beginning of an image of that format."""
    if image_format == "qcow2":
        return struct.pack(">4sIQ", b"QFI\xfb", 3, 104 if needs_others else 0).ljust(512, b"\0")
    kind = struct.pack(">I", 4 if needs_others else 3)
    return (b"conectix".ljust(60, b"\0") + kind).ljust(512, b"\0")


def configured(host: Dom0, image_format: str, *, needs_others: bool = False) -> tuple[str, Path]:
    """Configure a guest that does not run, with an image; return its name and the image."""
    name = unique("web")
    path = host.images / f"{name}.{image_format}"
    path.write_bytes(header(image_format, needs_others=needs_others) + os.urandom(2 * MIB + 512))
    (host.guest_configs / f"{name}.cfg").write_text(
        f"name = '{name}'\nmemory = 2\ndisk = ['{path},{image_format},xvda,w']\n"
    )
    return name, path


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_it_moves_as_it_is_there_and_back(hosts: Hosts, image_format: str) -> None:
    a, b = hosts
    name, path = configured(a, image_format)
    plan = a.plan(name, mode=None)
    assert (plan.mode, plan.volumes[0].format) == (Mode.COLD, ImageFormat(image_format))
    before = digest(path)
    a.migrate(name, mode=None)
    assert digest(b.images / path.name) == before
    arrived = (b.guest_configs / f"{name}.cfg").read_text()
    assert f"{b.images / path.name},{image_format},xvda,w" in arrived

    with (b.images / path.name).open("r+b") as image:
        image.seek(MIB)
        image.write(os.urandom(4096))
    back = b.migrate(name, "host-a", mode=None)
    assert not back.volumes[0].fresh
    assert digest(path) != before
    assert digest(path) == digest(b.images / path.name)


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_one_that_needs_other_files_stays(hosts: Hosts, image_format: str) -> None:
    a, b = hosts
    name, path = configured(a, image_format, needs_others=True)
    found = the_problem(a.try_migrate(name, mode=None), "image")
    assert str(path) in found.text
    assert not (b.images / path.name).exists()


def test_a_copy_that_is_larger_or_smaller_has_to_go_first(hosts: Hosts) -> None:
    a, b = hosts
    name, path = configured(a, "qcow2")
    a.migrate(name, mode=None)
    with (b.images / path.name).open("ab") as image:
        image.write(os.urandom(MIB))
    found = the_problem(b.try_migrate(name, "host-a", mode=None), "volume-size")
    assert "images:" in found.text
    assert "xenmovectl volumes drop" in found.hint
    a.ask(DropVolumes(f"images:{path.name}", None, confirmed=True))
    report = b.migrate(name, "host-a", mode=None)
    assert report.state is JobState.DONE
    assert digest(path) == digest(b.images / path.name)
