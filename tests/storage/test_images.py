"""Which qcow2 and VHD images stand alone."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from storage.errors import UnfitImage
from storage.files.images import is_cdrom, require_standalone
from storage.opening import open_source
from tests.support.images import make_cdrom, qcow2_header, vhd_footer


def qcow2(version: int = 3, backing: int = 0, features: int = 0) -> bytes:
    """Return the beginning of an image."""
    return qcow2_header(version, backing, features).ljust(65536, b"\0")


def vhd(*kinds: int | None) -> bytes:
    """Return an image with a footer of a type at its beginning and one at its end."""
    first, last = (footer(kind) for kind in kinds)
    return first + bytes(4096) + last


def footer(kind: int | None) -> bytes:
    return bytes(512) if kind is None else vhd_footer(kind)


def check(folder: Path, data: bytes, image_format: str) -> int:
    path = folder / "image"
    path.write_bytes(data)
    volume = open_source(path)
    try:
        return require_standalone(volume, image_format)
    finally:
        volume.close()


@pytest.mark.parametrize(
    ("image_format", "data"),
    [
        ("qcow2", qcow2()),
        ("qcow2", qcow2(version=2, features=4)),  # what is no field of version 2
        ("qcow2", qcow2(features=0b11011)),
        ("vhd", vhd(3, 3)),
        ("vhd", vhd(None, 2)),
        ("vhd", footer(2)),
        ("vhd", bytes(1024) + footer(2)[:-1]),
    ],
)
def test_what_stands_alone(tmp_path, image_format, data):
    check(tmp_path, data, image_format)


@pytest.mark.parametrize(
    ("image_format", "data", "size"),
    [
        ("qcow2", qcow2_header(size=7 << 30), 7 << 30),
        ("vhd", vhd_footer(size=3 << 30), 3 << 30),
        ("vhd", vhd_footer(size=1 << 20, geometry=(65535, 16, 255)), 65535 * 16 * 255 * 512),
        ("vhd", vhd_footer(size=3 << 30, geometry=(1, 1, 1)), 3 << 30),
        ("vhd", vhd_footer(size=1 << 30) + bytes(1024) + vhd_footer(size=9 << 30), 9 << 30),
    ],
)
def test_how_large_the_disk_in_it_is(tmp_path, image_format, data, size):
    assert check(tmp_path, data, image_format) == size


@pytest.mark.parametrize(
    ("image_format", "data", "why"),
    [
        ("qcow2", qcow2(backing=104), "has a backing file"),
        ("qcow2", qcow2(version=2, backing=72), "has a backing file"),
        ("qcow2", qcow2(features=4), "in another file"),
        ("qcow2", qcow2(features=1 << 40), "features that are not known here: 0x10000000000"),
        ("qcow2", qcow2(version=1), "no qcow2 image of version 2 or 3"),
        ("qcow2", qcow2(version=4), "no qcow2 image of version 2 or 3"),
        ("qcow2", bytes(65536), "no qcow2 image"),
        ("qcow2", b"QFI\xfb", "no qcow2 image: it has 4 bytes"),
        ("qcow2", b"", "no qcow2 image: it has 0 bytes"),
        ("vhd", vhd(4, 4), "difference to another VHD"),
        ("vhd", vhd(3, 4), "difference to another VHD"),
        ("vhd", vhd(4, None), "difference to another VHD"),
        ("vhd", vhd(3, None) + footer(4)[:-1], "difference to another VHD"),
        ("vhd", vhd(None, 5), "a type that is not known here: 5"),
        ("vhd", vhd(None, None), "no VHD image"),
        ("vhd", b"conectix", "no vhd image: it has 8 bytes"),
        ("vhd", vhd(3, 3) + b"\0", "has 5121 bytes, no whole number of sectors"),
        ("vhd", bytes(1024) + footer(2)[:-2], "has 1534 bytes, no whole number of sectors"),
        # Where QEMU looks, at 1024, is another footer, in the reserved bytes of the one at the end.
        ("vhd", bytes(612) + footer(2)[:412] + footer(4)[:100], "no whole number of sectors"),
    ],
)
def test_what_does_not(tmp_path, image_format, data, why):
    with pytest.raises(UnfitImage, match=why):
        check(tmp_path, data, image_format)


@pytest.mark.parametrize(
    ("size", "mark", "expected"),
    [
        (1 << 20, b"\x01CD001", True),
        (1 << 20, b"\0BEA01", True),
        (1 << 20, b"CD001", False),
        (1 << 20, b"", False),
        (0, b"", False),
        (16 * 2048 + 8, b"\x01CD001", False),
    ],
)
def test_what_is_a_cdrom(tmp_path, size, mark, expected):
    path = make_cdrom(tmp_path / "image", 1)
    with path.open("r+b") as file:
        file.seek(16 * 2048)
        file.write(mark.ljust(16, b"\0"))
        file.truncate(size)
    volume = open_source(path)
    try:
        assert is_cdrom(volume) is expected
    finally:
        volume.close()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_what_qemu_makes(tmp_path):
    def make(*arguments: str | Path) -> Path:
        command = ["qemu-img", "create", "-q", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return Path(arguments[-2])

    alone = make("-f", "qcow2", tmp_path / "alone", "4M")
    above = make("-f", "qcow2", "-b", alone, "-F", "qcow2", tmp_path / "above", "4M")
    outside = make(
        *("-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "outside", "4M")
    )
    for image_format, kind in (("dynamic", 3), ("fixed", 2)):
        path = make("-f", "vpc", "-o", f"subformat={image_format}", tmp_path / image_format, "4M")
        assert struct.pack(">I", kind) in path.read_bytes()
        assert check(tmp_path, path.read_bytes(), "vhd") >= 4 << 20
    assert check(tmp_path, alone.read_bytes(), "qcow2") == 4 << 20
    for path in (above, outside):
        with pytest.raises(UnfitImage):
            check(tmp_path, path.read_bytes(), "qcow2")
