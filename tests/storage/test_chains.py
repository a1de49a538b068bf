"""What lies beneath an image: all that QEMU and blktap open with it, there or not."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from storage.files.chains import beneath, with_beneath

MIB = 1 << 20


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def overlay(path: Path, backing: str, image_format: str = "qcow2", backing_format: str = "") -> str:
    """Make an image of nothing but a name, which need not be there."""
    wish = ["-F", backing_format] if backing_format else []
    if not backing_format:  # as older releases of QEMU made them
        qemu_img("create", "-q", "-f", image_format, str(path), "1M")
        qemu_img("rebase", "-u", "-b", backing, "-F", "raw", "-f", image_format, str(path))
        _forget_format(path, image_format)
    else:
        qemu_img(
            *("create", "-q", "-u", "-f", image_format, "-b", backing, *wish, str(path), "1M"),
        )
    return str(path)


def _forget_format(path: Path, image_format: str) -> None:
    data = path.read_bytes()
    if image_format == "qcow2":  # an extension that nobody knows
        path.write_bytes(data.replace(b"\xe2\x79\x2a\xca", b"\x01\x02\x03\x04", 1))
    elif image_format == "qed":
        features = struct.unpack_from("<Q", data, 16)[0] & ~4
        path.write_bytes(data[:16] + struct.pack("<Q", features) + data[24:])


@pytest.mark.parametrize("image_format", ["qcow2", "qed", "qcow"])
def test_the_whole_chain(tmp_path: Path, image_format: str) -> None:
    base, middle, top = (tmp_path / name for name in ("base", "middle", "top"))
    base.write_bytes(bytes(MIB))
    overlay(middle, "base", image_format, "raw")
    overlay(top, str(middle), image_format, image_format)
    assert {str(middle), str(base)} <= {*beneath(str(top))}


@pytest.mark.parametrize("image_format", ["qcow2", "qed"])
def test_a_name_counts_where_nothing_is(tmp_path: Path, image_format: str) -> None:
    top, middle = tmp_path / "top", tmp_path / "middle"
    assert str(tmp_path / "gone") in beneath(overlay(top, "gone", image_format, "raw"))
    overlay(middle, "../elsewhere/gone", image_format)
    found = beneath(overlay(top, str(middle), image_format))
    assert str(tmp_path / "../elsewhere/gone") in found
    middle.unlink()
    assert str(middle) in beneath(str(top))


def test_what_is_said_to_be_raw_names_nothing(tmp_path: Path) -> None:
    """Its guest may write anything there, also what looks like a header."""
    middle = tmp_path / "middle"
    overlay(middle, "/srv/of-another", "qcow2")
    assert "/srv/of-another" not in beneath(
        overlay(tmp_path / "top", str(middle), backing_format="raw")
    )
    # QEMU tries what it is where nothing is said.
    assert "/srv/of-another" in beneath(overlay(tmp_path / "top", str(middle)))


@pytest.mark.parametrize(
    "name",
    [
        "file:{path}",
        "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "{path}"}}),
        "json:" + json.dumps({"driver": "qcow2", "file.driver": "file", "file.filename": "{path}"}),
        "json:" + json.dumps({"file": {"filename": "file:{path}"}}),
        "json:{'driver':'raw','file':{'driver':'file','filename':'{path}'}}",
        "json:{'driver':'raw','file':{'driver':'file','\\u0066ilename':'{path}'}}",
        "json:" + json.dumps({"file": {"driver": "blkdebug", "image": "{path}"}}),
        "blkdebug::{path}",
        "blkverify:{path}:/elsewhere",
        "json:" + json.dumps({"driver": "quorum", "children": [{"file": {"filename": "{path}"}}]}),
    ],
)
def test_names_as_qemu_reads_them(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "base")
    told = name.replace("{path}", path)
    assert path in beneath(overlay(tmp_path / "top", told, backing_format="raw"))


def test_a_relative_name_is_one_from_each_folder_that_has_the_image(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    middle = overlay(tmp_path / "middle", "base", backing_format="raw")
    os.link(middle, tmp_path / "other/middle")
    tops = [
        overlay(tmp_path / f"top{number}", str(path), backing_format="qcow2")
        for number, path in enumerate((middle, tmp_path / "other/middle"))
    ]
    both = overlay(tmp_path / "both", f"blkverify:{tops[0]}:{tops[1]}", backing_format="qcow2")
    found = beneath(both)
    assert {str(tmp_path / "base"), str(tmp_path / "other/base")} <= {*found}


def test_qemu_itself_opens_what_is_found(tmp_path: Path) -> None:
    """By a link to the image: a relative name is one from the folder of the link."""
    folder = tmp_path / "links"
    folder.mkdir()
    overlay(tmp_path / "top", "base", backing_format="raw")
    (folder / "top").symlink_to(tmp_path / "top")
    found = beneath(str(folder / "top"))
    assert {str(folder / "base"), str(tmp_path / "base")} <= {*found}
    (folder / "base").write_bytes(b"X" * MIB)
    asked = subprocess.run(
        ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x58 0 512", str(folder / "top")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Pattern verification failed" not in asked.stdout
    assert "512/512" in asked.stdout


def test_a_file_with_the_data(tmp_path: Path) -> None:
    top, data = tmp_path / "top", tmp_path / "data"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data}", str(top), "1M")
    assert str(data) in beneath(str(top))
    data.unlink()
    assert str(data) in beneath(str(top))


def test_parts_of_a_vmdk(tmp_path: Path) -> None:
    top = tmp_path / "top.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", str(top), "1M")
    assert str(tmp_path / "top-flat.vmdk") in beneath(str(top))
    qemu_img("create", "-q", "-f", "vmdk", str(tmp_path / "base.vmdk"), "1M")
    over = tmp_path / "over.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", str(over))
    assert str(tmp_path / "base.vmdk") in beneath(str(over))


def vhd(parent: str, locators: list[tuple[bytes, bytes]], *, raw: bool = False) -> bytes:
    """Build a difference of blktap's: footer, header, locators, footer."""
    footer = bytearray(512)
    footer[0:8] = b"conectix"
    footer[16:24] = struct.pack(">Q", 512)
    footer[60:64] = struct.pack(">I", 4)
    header = bytearray(1024)
    header[0:8] = b"cxsparse"
    header[40:56] = bytes(16) if raw else b"U" * 16
    name = parent.encode("utf-16-be")
    header[64 : 64 + len(name)] = name
    texts, at = b"", 1536
    for number, (code, text) in enumerate(locators):
        place = 576 + 24 * number
        header[place : place + 24] = struct.pack(">4sIIIQ", code, 512, len(text), 0, at)
        texts += text.ljust(512, b"\0")
        at += 512
    return bytes(footer + header) + texts + bytes(footer)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (b"MacX", b"file://./base.vhd", "{0}/./base.vhd"),
        (b"MacX", b"file:///srv/base.vhd", "/srv/base.vhd"),
        (b"W2ru", ".\\base.vhd".encode("utf-16-le"), "{0}/./base.vhd"),
        (b"W2ku", "C:\\srv\\base.vhd".encode("utf-16-le"), "/srv/base.vhd"),
    ],
)
def test_the_parent_of_a_vhd(tmp_path: Path, code: bytes, text: bytes, expected: str) -> None:
    top = tmp_path / "top.vhd"
    top.write_bytes(vhd("parent.vhd", [(code, text)]))
    found = beneath(str(top))
    assert {expected.format(tmp_path), str(tmp_path / "parent.vhd")} <= {*found}


def test_a_chain_of_vhds_ends_at_a_raw_one(tmp_path: Path) -> None:
    top, middle, base = (tmp_path / name for name in ("top", "middle", "base"))
    top.write_bytes(vhd("middle", []))
    middle.write_bytes(vhd("base", [], raw=True))
    base.write_bytes(vhd("of-another", []))
    found = {*beneath(str(top))}
    assert {str(middle), str(base)} <= found
    assert str(tmp_path / "of-another") not in found


def test_a_chain_that_comes_back_to_itself(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    overlay(one, "./two")
    overlay(two, "./one")
    assert len(beneath(str(one))) < 20


def test_what_is_no_image_or_nothing(tmp_path: Path) -> None:
    pipe, empty, text = tmp_path / "pipe", tmp_path / "empty", tmp_path / "text"
    os.mkfifo(pipe)
    empty.touch()
    text.write_text("# Disk DescriptorFile of nobody's")
    for path in (pipe, empty, text, tmp_path, tmp_path / "none", "/dev/null", "a\0b"):
        assert beneath(str(path)) == ()
    assert with_beneath([str(empty)]) == [str(empty)]


def test_headers_that_promise_anything(tmp_path: Path) -> None:
    top = tmp_path / "top"
    whole = Path(overlay(top, "base", backing_format="raw")).read_bytes()[:65536]
    for at in range(0, 160):
        for value in (b"\xff", b"\0", b"\x7f"):
            top.write_bytes(whole[:at] + value * 4 + whole[at + 4 :])
            assert len(beneath(str(top))) < 100
    for length in range(0, 600, 7):
        top.write_bytes(whole[:length])
        beneath(str(top))
    deep = "json:" + '{"file":' * 300 + "1" + "}" * 300
    top.write_bytes(
        whole[:8] + struct.pack(">QI", 4096, len(deep)) + whole[20:4096] + deep.encode()
    )
    assert beneath(str(top)) == ()
