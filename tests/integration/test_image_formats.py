"""Guests whose disks are images in formats of their own: they move while they do not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.messages import ImageFormat, Mode
from tests.support.dom0 import MIB, Dom0, digest, problems, the_problem, unique
from tests.support.images import DIFFERENCING, STANDING_ALONE, qcow2_header, vhd_footer
from xenmoved.control.volume_api import DropVolumes

Hosts = tuple[Dom0, Dom0]


def header(image_format: str, *, needs_others: bool = False) -> bytes:
    """Return the beginning of an image of that format."""
    if image_format == "qcow2":
        return qcow2_header(backing=104 if needs_others else 0)
    return vhd_footer(DIFFERENCING if needs_others else STANDING_ALONE)


def image_end(image_format: str) -> bytes:
    """Return how an image ends."""
    return b"" if image_format == "qcow2" else header("vhd")


def configured(host: Dom0, image_format: str, *, needs_others: bool = False) -> tuple[str, Path]:
    """Configure a guest that does not run, with an image; return its name and the image."""
    name = unique("web")
    path = host.images / f"{name}.{image_format}"
    whole = header(image_format, needs_others=needs_others) + os.urandom(2 * MIB + 512)
    path.write_bytes(whole + image_end(image_format))
    (host.guest_configs / f"{name}.cfg").write_text(
        f"name = '{name}'\nmemory = 2\ndisk = ['{path},{image_format},xvda,w']\n"
    )
    return name, path


@pytest.mark.thorough
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
        image.seek(0, os.SEEK_END)
        image.write(os.urandom(4096) + image_end(image_format))
    found = problems(b.try_migrate(name, "host-a", mode=None))
    assert {one.code for one in found} >= {"volume-exists"}
    a.ask(DropVolumes(f"images:{path.name}", None, confirmed=True))
    assert b.migrate(name, "host-a", mode=None).volumes[0].fresh
    assert digest(path) != before
    assert digest(path) == digest(b.images / path.name)


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_one_that_needs_other_files_stays(hosts: Hosts, image_format: str) -> None:
    a, b = hosts
    name, path = configured(a, image_format, needs_others=True)
    found = the_problem(a.try_migrate(name, mode=None), "image")
    assert str(path) in found.text
    assert not (b.images / path.name).exists()


@pytest.mark.parametrize("suffix", ["", ".moved"])
def test_what_may_be_an_image_here_is_not_written_over(hosts: Hosts, suffix: str) -> None:
    """Not even by who says --overwrite: its new header could name any file of this host."""
    a, b = hosts
    name, path = configured(a, "qcow2")
    config = a.guest_configs / f"{name}.cfg"
    config.rename(config.with_name(config.name + suffix))
    before = digest(path)
    evil = b.images / path.name
    evil.write_bytes(header("qcow2", needs_others=True))
    found = problems(b.try_sync(str(evil), "host-a", target=f"images:{path.name}"))
    assert [one.code for one in found] == ["volume-image"]
    assert f"{config}{suffix} names it" in found[0].text
    assert digest(path) == before

    path.unlink()
    found = problems(b.try_sync(str(evil), "host-a", target=f"images:{path.name}"))
    assert [one.code for one in found] == ["volume-image", *(["guest-here"] if not suffix else [])]
    assert not path.exists()


def test_a_configuration_that_would_need_mending_keeps_it_there(hosts: Hosts) -> None:
    """Until somebody mends it, the image would be of no guest, and could be written over."""
    a, b = hosts
    name, path = configured(a, "qcow2")
    config = a.guest_configs / f"{name}.cfg"
    config.write_text(config.read_text() + "vnclisten = '0.0.0.0'\n")
    a.migrate(name, mode=None)
    config = b.guest_configs / f"{name}.cfg"
    config.write_text(config.read_text() + "ioports = [0x64]\n")
    (found,) = problems(b.try_migrate(name, "host-a", mode=None, volumes={path.name: "new.qcow2"}))
    assert found.code == "guest-config"
    assert "ioports" in found.text
