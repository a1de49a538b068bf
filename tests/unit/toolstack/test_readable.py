"""Which files of this host a guest may be given to read: those that everybody on it may."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from tests.support.toolstack_samples import PVH
from xenmoved.toolstack.configs.text import adapt, describe
from xenmoved.toolstack.domains import parse_domain
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.policy import DOMAIN
from xenmoved.toolstack.readable import Readable, require_given, why_unreadable
from xenmoved.toolstack.vetting import objection
from xenmoved.toolstack.xl.savefile import ImageFilter, encode_header


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a folder to boot from and one with secrets."""
    for folder in ("boot/more", "etc/keys", "usr/lib/xen-4.17/boot", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "boot/initrd").write_bytes(b"keys")
    (tmp_path / "boot/more/initrd").write_bytes(b"keys")
    (tmp_path / "etc/keys/secret").write_bytes(b"keys")
    return tmp_path


@pytest.fixture
def files(root: Path) -> Readable:
    return Readable(("/boot", "/usr/lib/xen*"), root)


def test_what_everybody_may_read(root: Path, files: Readable) -> None:
    assert files.why_not("/boot/initrd") is None
    assert files.why_not("/boot/more/initrd") is None
    (root / "boot/link").symlink_to("more/initrd")
    assert files.why_not("/boot/link") is None
    (root / "boot/across").symlink_to(root / "usr/lib/xen-4.17/boot/kernel")
    assert files.why_not("/boot/across") is None  # nothing is there
    (root / "usr/lib/xen-4.17/boot/kernel").touch()
    assert files.why_not("/boot/across") is None


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o711, 0o773, 0])
def test_what_not_everybody_may_read(root: Path, files: Readable, mode: int) -> None:
    (root / "boot/initrd").chmod(mode)
    assert "chmod o+r" in str(files.why_not("/boot/initrd"))
    (root / "boot/link").symlink_to("initrd")
    assert "chmod o+r" in str(files.why_not("/boot/link"))


def test_a_closed_folder_tells_nothing(root: Path, files: Readable) -> None:
    for mode in (0o700, 0o750, 0o754):
        (root / "boot/more").chmod(mode)
        there, missing = (files.why_not(f"/boot/more/{name}") for name in ("initrd", "none"))
        assert there == missing and "chmod o+x" in str(there)
    (root / "boot/more").chmod(0o711)
    assert files.why_not("/boot/more/initrd") is None
    (root / "boot/link").symlink_to("more/initrd")
    (root / "boot/more").chmod(0o700)
    assert "chmod o+x" in str(files.why_not("/boot/link"))
    (root / "boot").chmod(0o700)
    assert "chmod o+x" in str(files.why_not("/boot/initrd"))


@pytest.mark.parametrize("target", ["etc/keys/secret", "../etc/keys/secret", "/etc/passwd"])
def test_a_link_that_leads_out(root: Path, files: Readable, target: str) -> None:
    (root / "boot/link").symlink_to(root / target if target[0] == "e" else target)
    assert "leads out" in str(files.why_not("/boot/link"))
    (root / "boot/folder").symlink_to(root / "etc/keys")
    assert "leads out" in str(files.why_not("/boot/folder/secret"))


def test_a_folder_that_is_a_link_itself(root: Path) -> None:
    (root / "srv").mkdir()
    (root / "srv/kernels").symlink_to(root / "etc/keys")
    files = Readable(("/srv/kernels",), root)
    assert files.why_not("/srv/kernels/secret") is None
    (root / "etc/keys/secret").chmod(0o600)
    assert "chmod o+r" in str(files.why_not("/srv/kernels/secret"))


def test_what_is_no_file(root: Path, files: Readable) -> None:
    os.mkfifo(root / "boot/pipe")
    (root / "boot/round").symlink_to("round")
    (root / "boot/null").symlink_to("/dev/null")
    assert "no regular file" in str(files.why_not("/boot/pipe"))
    assert "no regular file" in str(files.why_not("/boot/more"))
    for path in ("/boot/round", "/boot/null"):
        assert files.why_not(path) is not None
    assert "no regular file" in str(why_unreadable("/dev/null"))


def test_what_is_not_there_gives_nothing_away(files: Readable) -> None:
    assert files.why_not("/boot/none") is None
    assert files.why_not("/boot/none/there") is None


PATHS = [key for key, rule in DOMAIN.items() if rule.path]


@pytest.mark.parametrize("key", [*PATHS, "bootloader"])
def test_every_key_that_is_a_path_in_all_forms(root: Path, files: Readable, key: str) -> None:
    path = "/usr/bin/pygrub" if key == "bootloader" else "/boot/initrd"
    file = root / path[1:]
    file.touch()
    text = f"name = 'web'\nmemory = 2\n{key} = '{path}'\n"
    arrival = Arrival("web", "", {})
    assert adapt(text, arrival, files, bool) == text
    assert objection(DOMAIN[key], path, files) is None
    file.chmod(0o600)
    with pytest.raises(ToolstackError, match=r"chmod o\+r"):
        adapt(text, arrival, files, bool)
    assert "chmod o+r" in str(objection(DOMAIN[key], path, files))
    # What this host says of its own guests is of another host's files.
    assert describe(text, "web", files).obstacles == ()


def test_it_is_judged_again(root: Path, files: Readable) -> None:
    one, other = files.for_one(), files.for_one()
    for path in ("/boot/initrd", "/boot/later"):
        assert one.why_not(path) is None
    require_given(one, "web")
    (root / "boot/later").touch(0o600)
    with pytest.raises(ToolstackError, match=r"/boot/later: not everybody"):
        require_given(one, "web")
    require_given(other, "web")
    assert files.given is None  # it is for all guests, and would grow for ever


def test_the_stream_is_judged_and_judged_again(root: Path) -> None:
    """As what it names may have come or been closed while the memory was copied."""
    config = copy.deepcopy(PVH["config"])
    kernel = config["b_info"]["kernel"]
    domain = parse_domain(PVH)
    arrival = Arrival(domain.name, domain.uuid, {disk.vdev: "/srv/a" for disk in domain.disks})
    image = encode_header(json.dumps(config).encode())
    files = Readable(("/boot",), root)
    given = ImageFilter(arrival, files)
    given.feed(image)
    given.judge_again()
    file = root / kernel[1:]
    file.touch(0o600)
    with pytest.raises(ToolstackError, match="may not be booted here any more"):
        given.judge_again()
    with pytest.raises(ToolstackError, match=r"chmod o\+r"):
        ImageFilter(arrival, files).feed(image)
    file.chmod(0o644)
    given.judge_again()
