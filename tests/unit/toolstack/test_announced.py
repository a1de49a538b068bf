"""What was announced is compared with what comes, whatever the form in which it comes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import GuestSize
from xenmoved.migration.target.expected import Expected
from xenmoved.migration.target.memory_limits import most_memory
from xenmoved.toolstack.announced import require_announced
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.configs.text import describe
from xenmoved.toolstack.domains import parse_domain, size_of
from xenmoved.toolstack.interface import (
    Announced,
    Arrival,
    Domain,
    Nic,
    NotAnnounced,
    SourceDisk,
    ToolstackError,
)
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.sizes import complete, weight
from xenmoved.toolstack.xl.savefile import ImageFilter, encode_header
from xenmoved.toolstack.xm.domain import parse_xm_domain
from xenmoved.toolstack.xm.savefile import XmImageFilter, encode_xm_header
from xenmoved.toolstack.xm.sexpr import parse_all

MIB, GIB = 1 << 20, 1 << 30
UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
MAC = "00:16:3e:01:02:03"
GUEST = {
    **{"name": "web", "uuid": UUID, "kind": "hvm", "memory": 512, "maxmem": 1024, "shadow": 16},
    **{"vcpus": 2, "maxvcpus": 4, "mac": MAC, "bridge": "xenbr0", "path": "/dev/vg/web"},
    **{"mode": "w", "vifs": 1},
}
ANNOUNCED = Announced(
    "hvm",
    GuestSize(memory=512 * MIB, maximum=GIB, beside=16 * MIB, vcpus=2, max_vcpus=4),
    (Nic(MAC.upper(), "xenbr0"),),
)
ARRIVAL = Arrival(
    "web",
    UUID,
    {"xvda": "/dev/here"},
    {"xenbr0": "br0"},
    sources={"xvda": SourceDisk("/dev/vg/web", writable=True, cdrom=False)},
    announced=ANNOUNCED,
)


def as_json(of):
    config = {
        "c_info": {"type": of["kind"], "name": of["name"], "uuid": of["uuid"]},
        "b_info": {
            **{"max_memkb": of["maxmem"] * 1024, "target_memkb": of["memory"] * 1024},
            **{"shadow_memkb": of["shadow"] * 1024, "max_vcpus": of["maxvcpus"]},
            **{"avail_vcpus": list(range(of["vcpus"])), f"type.{of['kind']}": {}},
        },
        "disks": [
            {"vdev": "xvda", "pdev_path": of["path"], "format": "raw"}
            | ({"readwrite": 1} if of["mode"] == "w" else {})
        ],
        "nics": [{"mac": of["mac"], "bridge": of["bridge"]}] * of["vifs"],
    }
    image = ImageFilter(ARRIVAL)
    image.feed(encode_header(json.dumps(config).encode()))


def as_sexpr(of):
    image = "(hvm (device_model qemu-dm))" if of["kind"] == "hvm" else "(linux (kernel /boot/x))"
    vif = f"(device (vif (mac {of['mac']}) (bridge {of['bridge']}) (script vif-bridge)))"
    text = (
        f"(domain (name {of['name']}) (uuid {of['uuid']}) (memory {of['memory']})"
        f" (maxmem {of['maxmem']}) (shadow_memory {of['shadow']}) (vcpus {of['maxvcpus']})"
        f" (online_vcpus {of['vcpus']}) (image {image}) {vif * of['vifs']}"
        f" (device (vbd (dev xvda:disk) (uname phy:{of['path']}) (mode {of['mode']}))))"
    )
    XmImageFilter(ARRIVAL, BOOT_FOLDERS.unseen, lambda _: True).feed(encode_xm_header(text))


def as_text(of):
    vif = f"'mac={of['mac']},bridge={of['bridge']}', "
    return (
        f"name = '{of['name']}'\nuuid = '{of['uuid']}'\ntype = '{of['kind']}'\n"
        f"memory = {of['memory']}\nmaxmem = '{of['maxmem']}'\nshadow_memory = {of['shadow']}\n"
        f"vcpus = {of['vcpus']}\nmaxvcpus = {of['maxvcpus']:#x}\nvif = [{vif * of['vifs']}]\n"
        f"disk = ['phy:{of['path']},xvda,{of['mode']}']\n"
    )


async def take(form, of):
    if form is as_text:
        await ConfigFolder(Path("/nowhere"), BOOT_FOLDERS.unseen).check(as_text(of), ARRIVAL)
    else:
        form(of)


FORMS = pytest.mark.parametrize("form", [as_json, as_sexpr, as_text])
OTHERS = [
    ({"uuid": UUID.replace("8", "9")}, "announced"),
    ({"kind": "pv"}, "it is of type pv, and hvm was announced"),
    ({"memory": 513}, "it has 513MiB of memory, and 512MiB was announced"),
    ({"maxmem": 12 << 10}, "it has 12GiB as the most memory that it may be given, and 1GiB was"),
    ({"shadow": 17}, "it has 17MiB for Xen to keep beside its memory, and 16MiB was announced"),
    ({"vcpus": 3}, "it has 3 vcpus in use, and 2 was announced"),
    ({"maxvcpus": 4096}, "it has 4096 vcpus, and 4 was announced"),
    ({"vifs": 0}, f"interface {MAC} on 'xenbr0' was announced, and is not there"),
    ({"vifs": 2}, f"interface {MAC} on 'xenbr0' was not announced"),
    ({"mac": "00:16:3e:01:02:04"}, "interface 00:16:3e:01:02:04 on 'xenbr0' was not announced"),
    ({"bridge": "mgmt"}, f"interface {MAC} on 'mgmt' was not announced"),
    ({"path": "/dev/vg/db"}, "'xvda' is at '/dev/vg/db', and was announced at '/dev/vg/web'"),
    ({"mode": "r"}, "disk 'xvda' is not writable, and was announced otherwise"),
]


@FORMS
async def test_the_announced_guest_comes(form):
    await take(form, GUEST)
    await take(form, GUEST | {"memory": 2, "maxmem": 2, "shadow": 0, "vcpus": 1, "maxvcpus": 1})


@FORMS
@pytest.mark.parametrize(("change", "said"), OTHERS)
async def test_another_guest_does_not_come(form, change, said):
    with pytest.raises(NotAnnounced, match="is not what was announced") as caught:
        await take(form, GUEST | change)
    assert said in str(caught.value)


@pytest.mark.parametrize("form", [as_json, as_sexpr])
async def test_another_name_does_not_come(form):
    with pytest.raises(NotAnnounced, match="its name is 'db'"):
        await take(form, GUEST | {"name": "db"})


@pytest.mark.parametrize(
    "change",
    [
        {"target_memkb": -1},
        {"max_memkb": "x"},
        {"shadow_memkb": -4},
        {"avail_vcpus": 3},
        {"type.pv": {"slack_memkb": -1}},
        {"type.pvh": {}},
        {"max_vcpus": 1e9},
    ],
)
def test_sizes_in_json_that_are_none(change):
    config = {
        "c_info": {"type": "pv", "name": "web", "uuid": UUID},
        "b_info": {"max_memkb": 1024} | change,
    }
    with pytest.raises(ToolstackError):
        parse_domain({"config": config})


@pytest.mark.parametrize(
    "line",
    [
        "memory = 0100",
        "memory = ' 64'",
        "memory = -1",
        "maxmem = '+4'",
        "shadow_memory = '1k'",
    ],
)
def test_sizes_in_a_file_that_may_be_read_in_two_ways(line):
    with pytest.raises(ToolstackError, match=r"no plain number|is not a plain"):
        describe(f"name = 'web'\n{line}\n", "web", BOOT_FOLDERS.unseen)


@pytest.mark.parametrize(
    "item", ["(memory 64)", "(vcpus 2)", "(maxmem -1)", "(shadow_memory 010)", "(image (linux))"]
)
def test_sizes_of_xend_that_may_be_read_in_two_ways(item):
    text = f"(domain (name web) (uuid {UUID}) (memory 2) (vcpus 1) (image (linux)) {item})"
    with pytest.raises(ToolstackError, match="expected"):
        parse_xm_domain(parse_all(text)[0])


def test_all_that_is_kept_beside_counts():
    build = {"max_memkb": 4096, "shadow_memkb": 1, "iommu_memkb": 2, "type.pv": {"slack_memkb": 4}}
    build |= {"vmtrace_buf_kb": 8, "max_vcpus": 3, "avail_vcpus": [0, 1]}
    size = size_of(build)
    usual = 3 * MIB + 4 * 8192
    assert size == GuestSize(4 * MIB, 4 * MIB, usual + ((2 + 4 + 3 * 8) << 10), 2, 3)
    assert weight("hvm", replace(size, beside=GIB)) == 4 * MIB + GIB
    assert weight("pv", size) == 4 * MIB + ((2 + 4 + 3 * 8) << 10), "it has no shadow memory"
    assert most_memory(size) == 4 * MIB, "as much as Xen keeps for any guest does not count"
    assert most_memory(replace(size, beside=GIB)) > GIB // 2
    assert most_memory(replace(size, maximum=GIB)) == GIB


@pytest.mark.parametrize("maximum", [GIB, 0])
def test_a_memory_that_is_not_announced_is_that_which_is_not_said(maximum):
    """As releases before this one announced a guest whose file has `maxmem` alone."""
    announced = GuestSize(0, maximum, 0, 1, 1)
    size = complete(announced)
    assert size.memory == (maximum or 128 * MIB)
    domain = Domain("web", UUID, 0, "pv", size, (), ())
    arrival = Arrival("web", UUID, {}, {}, announced=Announced("pv", announced, ()))
    require_announced(domain, arrival)
    larger = replace(domain, size=replace(size, memory=size.memory + 1))
    with pytest.raises(NotAnnounced, match="of memory"):
        require_announced(larger, arrival)


def test_what_was_announced_survives_a_restart():
    known = {"name": "web", "uuid": UUID, "disks": {}, "keep_partial": False, "config": None}
    known |= {"autostart": False, "cold": False}
    assert Expected(**known).arrival.announced is None, "as releases before this one wrote it"
    size = {"memory": 1, "maximum": 2, "beside": 3, "vcpus": 4, "max_vcpus": 5}
    said = {"kind": "pv", "size": size, "nics": [{"mac": MAC, "bridge": None}]}
    expected = Expected(**known, announced=said)
    assert expected.arrival.announced == Announced(
        "pv", GuestSize(1, 2, 3, 4, 5), (Nic(MAC, None),)
    )
    assert expected.resized(GuestSize(9, 9, 9, 9, 9)).arrival.announced.size.memory == 9
