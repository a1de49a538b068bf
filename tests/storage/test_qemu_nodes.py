"""Which node a disk is, from what QEMU says; a real one is asked in test_qemu_disks.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import QemuError, UnsupportedVolume, VolumeNotFound
from storage.qemu.nodes import DiskNode, find_nodes


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    return path


def device(file: str, *, node: str = "n1", **image: Any) -> dict[str, Any]:
    image = {"format": "qcow2", "virtual-size": 4096, **image}
    return {"device": "d", "inserted": {"node-name": node, "file": file, "image": image}}


def test_the_file_may_be_named_in_every_way_of_qemu(disk: Path) -> None:
    link = disk.with_name("link")
    link.symlink_to(disk)
    driver = {"driver": "file", "filename": str(disk)}
    names = [
        str(disk),
        str(link),
        f"file:{disk}",
        "json:" + json.dumps(driver),
        "json:" + json.dumps({"driver": "qcow2", "file": driver}),
        "json:" + json.dumps({"driver": "throttle", "file": {"driver": "qcow2", "file": driver}}),
    ]
    for name in names:
        answer = [{"device": "empty"}, device("/dev/null", node="other"), device(name)]
        assert find_nodes(answer, disk) == (DiskNode("n1", "qcow2", 4096),)


@pytest.mark.parametrize(
    "name", ["disk", "nbd://host/disk", "json:", "json:[1]", 'json:{"file": {"file": 3}}', ""]
)
def test_other_names_are_of_no_file(disk: Path, name: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(disk.parent)
    with pytest.raises(UnsupportedVolume, match="for no device"):
        find_nodes([device(name)], disk)


def test_one_node_of_two_devices_is_one(disk: Path) -> None:
    assert [one.name for one in find_nodes([device(str(disk)), device(str(disk))], disk)] == ["n1"]


def test_only_a_raw_image_may_be_several_devices(disk: Path) -> None:
    raw = [device(str(disk), node=node, format="raw") for node in ("n1", "n2")]
    assert [one.name for one in find_nodes(raw, disk)] == ["n1", "n2"]
    with pytest.raises(UnsupportedVolume, match="for 2 devices"):
        find_nodes([device(str(disk)), device(str(disk), node="n2")], disk)


def test_what_must_not_be_copied_as_content_is_refused(disk: Path) -> None:
    with pytest.raises(UnsupportedVolume, match="is encrypted"):
        find_nodes([device(str(disk), encrypted=True)], disk)
    apart = {"type": "qcow2", "data": {"data-file": "/elsewhere"}}
    with pytest.raises(UnsupportedVolume, match="in another file, /elsewhere"):
        find_nodes([device(str(disk), **{"format-specific": apart})], disk)


@pytest.mark.parametrize("answer", [None, 3, [3], [{"inserted": {}}], [{"inserted": 3}]])
def test_an_answer_that_is_none_is_told(disk: Path, answer: Any) -> None:
    with pytest.raises(QemuError, match="not understood"):
        find_nodes(answer, disk)


def test_a_disk_that_is_not_there_is_told(disk: Path) -> None:
    with pytest.raises(VolumeNotFound):
        find_nodes([], disk.with_name("nothing"))
