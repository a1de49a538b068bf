"""What LVM's tools print, and what is made of it. No LVM is needed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from storage import open_pool
from storage.canonical import canonical
from storage.contracts import Extent
from storage.errors import InvalidVolumeName, VolumeError
from storage.lvm import report as lvmreport
from storage.lvm import thinmetadata
from storage.lvm.devmapper import join_name, split_name
from storage.lvm.report import logical_volumes, volume_group
from storage.lvm.thinmetadata import parse_dump

ROW = {
    "lv_name": "web-root",
    "lv_uuid": "dJc2kE-Kq0U-ZkVS-4ZbU-mNEq-Rs8a-xF1lZc",
    "lv_size": "104857600",
    "lv_layout": "thin,sparse",
    "lv_role": "public,origin,thinorigin",
    "lv_active": "active",
    "lv_permissions": "writeable",
    "lv_device_open": "open",
    "lv_tags": "a,b",
    "pool_lv": "thin",
    "origin": "",
    "data_percent": "0.25",
    "thin_id": "1",
    "chunk_size": "0",
    "zero": "zero",
    "vg_extent_size": "4194304",
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def say(text: str) -> None:
        monkeypatch.setattr(lvmreport, "run", lambda command: text)

    return say


def report(**changed: object) -> str:
    return json.dumps({"report": [{"lv": [{**ROW, **changed}]}]})


def test_a_volume_as_lvs_describes_it(answer: Callable[[str], None]) -> None:
    answer(report())
    lv = logical_volumes("vg0")["web-root"]
    assert (lv.size, lv.thin_id, lv.extent_size) == (100 << 20, 1, 4 << 20)
    assert lv.uuid == ROW["lv_uuid"]
    assert lv.used == pytest.approx(0.0025)
    assert (lv.thin, lv.thin_pool, lv.active, lv.open, lv.read_only) == (
        True,
        False,
        True,
        True,
        False,
    )
    assert lv.tags == {"a", "b"}
    assert not lv.needed_by_others


@pytest.mark.parametrize("kind", ["lvm", "lvm-thin"])
def test_a_volume_is_known_as_its_device_is(answer: Callable[[str], None], kind: str) -> None:
    answer(report())
    options = {"group": "vg0"} | ({"thin_pool": "thin"} if kind == "lvm-thin" else {})
    (entry,) = open_pool("p", kind, options).everything()
    of_device = f"LVM-{'g' * 32}{ROW['lv_uuid'].replace('-', '')}"
    assert str(entry.identity) == canonical(of_device) != of_device
    assert (entry.name, entry.path) == ("web-root", "/dev/vg0/web-root")


def test_a_volume_that_is_not_active(answer: Callable[[str], None]) -> None:
    answer(report(lv_active="", lv_permissions="unknown", lv_device_open="unknown", thin_id=""))
    lv = logical_volumes("vg0")["web-root"]
    assert (lv.active, lv.open, lv.read_only, lv.thin_id) == (False, False, False, 0)


@pytest.mark.parametrize("role", ["public,origin,thickorigin", "public,origin,extthinorigin"])
def test_volumes_that_others_depend_on(answer: Callable[[str], None], role: str) -> None:
    answer(report(lv_layout="linear", lv_role=role))
    assert logical_volumes("vg0")["web-root"].needed_by_others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lvs printed no report"),
        ("[]", "lvs printed no report"),
        ('{"report": [[]]}', "lvs printed no report"),
        ('{"report": [{"lv": [7]}]}', "None as lv_name"),
        (report(lv_size="4.00m"), "'4.00m' as lv_size"),
        (report(lv_size=7), "7 as lv_size"),
        (report(lv_size="0"), "no lv_size"),
        (report(thin_id="-1"), "'-1' as thin_id"),
        (report(data_percent="101"), "'101' as data_percent"),
        (report(data_percent="nan"), "'nan' as data_percent"),
        (report(lv_name=None), "None as lv_name"),
    ],
)
def test_reports_are_checked(answer: Callable[[str], None], text: str, message: str) -> None:
    answer(text)
    with pytest.raises(VolumeError, match=message):
        logical_volumes("vg0")


def test_a_group_as_vgs_describes_it(answer: Callable[[str], None]) -> None:
    row = {"vg_size": "8585740288", "vg_free": "0", "vg_extent_size": "4194304"}
    answer(json.dumps({"report": [{"vg": [row]}]}))
    group = volume_group("vg0")
    assert (group.size, group.free, group.extent_size) == (8585740288, 0, 4194304)
    answer(json.dumps({"report": [{"vg": []}]}))
    with pytest.raises(VolumeError, match="0 volume groups when asked for vg0"):
        volume_group("vg0")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["vg0", "root"], "vg0-root"),
        (["vg-0", "web--root"], "vg--0-web----root"),
        (["a-", "b"], "a---b"),
        (["vg0", "thin-pool", "tpool"], "vg0-thin--pool-tpool"),
    ],
)
def test_names_of_devices(parts: list[str], name: str) -> None:
    assert join_name(*parts) == name
    assert split_name(name) == parts


RESERVED = ["snapshot1", "pvmove0", "a_tdata", "a_rimage_0", "b_mlog", "lvol0_pmspare", "x_corig"]


@pytest.mark.parametrize("name", [*RESERVED, "n" * 120, "-".join("n" * 60)])
def test_names_that_lvm_does_not_take(name: str) -> None:
    pool = open_pool("p", "lvm", {"group": "vg0"})
    with pytest.raises(InvalidVolumeName, match="pool p: "):
        pool.path(name)
    assert pool.path("n" * 110) == f"/dev/vg0/{'n' * 110}"


DUMP = """\
<superblock uuid="" time="1" transaction="3" flags="0" version="2" data_block_size="128" \
nr_data_blocks="0">
  <device dev_id="1" mapped_blocks="4" transaction="0" creation_time="0" snap_time="1">
    <range_mapping origin_begin="5" data_begin="0" length="3" time="1"/>
    <single_mapping origin_block="100" data_block="3" time="1"/>
  </device>
</superblock>
"""
SIZE = 101 * 65536 - 512


def test_mapped_chunks_become_extents() -> None:
    mapping = parse_dump(DUMP.splitlines(), 1, SIZE)
    assert mapping.chunk_size == 65536
    assert list(mapping.extents(SIZE)) == [
        Extent(5 * 65536, 3 * 65536),
        Extent(100 * 65536, 65536 - 512),
    ]


def test_a_volume_without_data() -> None:
    text = DUMP.replace('mapped_blocks="4"', 'mapped_blocks="0"')
    empty = [line for line in text.splitlines() if "_mapping" not in line]
    assert list(parse_dump(empty, 1, SIZE).extents(SIZE)) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not complete"),
        (DUMP.splitlines()[:-1], "not complete"),
        (DUMP.replace('length="3"', 'length="2"').splitlines(), "has 3 chunks and promises 4"),
        (DUMP.replace('dev_id="1"', 'dev_id="2"').splitlines(), "understood: '<device"),
        (DUMP.replace("  </device>", '<ref name="1"/>').splitlines(), "understood: '<ref"),
        (DUMP.replace('block="100"', 'block="101"').splitlines(), "beyond the volume's end"),
        (DUMP.replace('length="3"', "").splitlines(), "cannot be understood: '<range_mapping"),
        (DUMP.replace('size="128"', 'size="0"').splitlines(), "cannot be understood: '<superbl"),
    ],
)
def test_dumps_are_checked(lines: list[str], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        parse_dump(lines, 1, SIZE)


@pytest.mark.parametrize(
    ("status", "reserved"),
    [
        ("0 4194304 thin-pool 3 117/1024 4/32768 47 rw discard_passdown - 256\n", True),
        ("0 4194304 thin-pool 3 117/1024 4/32768 - rw discard_passdown - 256\n", False),
    ],
)
def test_whether_the_metadata_is_reserved(
    monkeypatch: pytest.MonkeyPatch, status: str, reserved: bool
) -> None:
    monkeypatch.setattr(thinmetadata, "run", lambda command: status)
    assert thinmetadata._is_reserved("vg0-thin-tpool") is reserved


@pytest.mark.parametrize("status", ["", "0 4194304 linear 253:2 0", "0 1 thin-pool Fail"])
def test_what_is_no_thin_pool_that_works(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setattr(thinmetadata, "run", lambda command: status)
    with pytest.raises(VolumeError, match="which is no thin pool"):
        thinmetadata._is_reserved("vg0-thin-tpool")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lvm", {}, "option 'group' is missing"),
        ("lvm", {"group": 5}, "option 'group' must be text, not 5"),
        ("lvm", {"group": "a/b"}, "option 'group' must be a name of LVM's, not 'a/b'"),
        ("lvm", {"group": "-a"}, "option 'group' must be a name of LVM's"),
        ("lvm", {"group": ".."}, "option 'group' must be a name of LVM's"),
        ("lvm", {"group": "a", "overcommit": True}, "option 'overcommit' is unknown"),
        ("lvm-thin", {"group": "a"}, "option 'thin_pool' is missing"),
        ("lvm-thin", {"group": "a", "thin_pool": "a b"}, "'thin_pool' must be a name of LVM's"),
    ],
)
def test_wrong_options_are_named(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="pool p: ") as raised:
        open_pool("p", kind, options)
    assert message in str(raised.value)
