"""What a guest takes, in every form that says so, and where something is left out."""

import re

import pytest

from protocol.messages import GuestSize
from xenmoved.migration.target.memory_limits import most_memory
from xenmoved.toolstack import policy
from xenmoved.toolstack.configs.text import describe
from xenmoved.toolstack.domains import parse_domain
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.sizes import KEYS, NOT_WEIGHED, complete, weight
from xenmoved.toolstack.xm.domain import parse_xm_domain
from xenmoved.toolstack.xm.sexpr import parse_all

MIB = 1 << 20
UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
PARTS = ("memory", "maximum", "beside", "vcpus", "max_vcpus")


def _described(text):
    return describe(text, "web", BOOT_FOLDERS)


def in_text(said, kind="pv"):
    """Return the domain of a file that says something of each key."""
    lines = "".join(f"{key} = {said[key]}\n" for key in said)
    return _described(f"type = '{kind}'\n{lines}")


def in_json(said, kind="pv"):
    """Return the domain of a configuration of libxl."""
    build = {f"type.{kind}": {}, **said}
    if "vcpus" in said:
        build["avail_vcpus"] = list(range(build.pop("vcpus")))
    create = {"name": "web", "uuid": UUID, "type": kind}
    return parse_domain({"config": {"c_info": create, "b_info": build}})


def in_sexpr(said, kind="pv"):
    """Return the domain of a description of xend."""
    inside = " ".join(f"({key} {said[key]})" for key in said)
    image = "hvm" if kind == "hvm" else "linux"
    text = f"(domain (name web) (uuid {UUID}) {inside} (image ({image} (kernel /boot/x))))"
    return parse_xm_domain(parse_all(text)[0])


FORMS = {"xl.cfg": in_text, "libxl": in_json, "xend": in_sexpr}
PER_UNIT = {1: 5, 1 << 10: 6 << 20, 1 << 20: 6 << 10}
"""Of each unit a value that is larger than what a guest has where nothing is said."""


def _text(said):
    keys = {"memory": "memory", "most": "maxmem"}
    return in_text({keys[key]: said[key] for key in said}).size


def _json(said):
    keys = {"memory": "target_memkb", "most": "max_memkb"}
    return in_json({keys[key]: said[key] * 1024 for key in said}).size


def _sexpr(said):
    keys = {"memory": "memory", "most": "maxmem"}
    return in_sexpr({keys[key]: said[key] for key in said}).size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_size_is_read_in_every_form(form, key):
    read, value = FORMS[form], PER_UNIT[KEYS[key][1]]
    nothing = read({})
    size = read({key: value}).size
    assert any(getattr(size, part) > getattr(nothing.size, part) for part in PARTS)
    if KEYS[key][1] > 1:
        assert most_memory(size) > 5 << 30
        if KEYS[key][0] not in ("maximum", "shadow"):
            assert read({key: value}).memory > 5 << 30, "of a guest of any type"
        if KEYS[key][0] != "maximum":
            assert read({key: value}, "hvm").memory > 5 << 30
    assert read({key: 0}).size == nothing.size, "0 is as good as nothing said"
    assert policy.DOMAIN[key].most is not None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["maxvcpus", "max_vcpus"])
def test_no_fewer_vcpus_count_than_are_in_use(form, key):
    assert FORMS[form]({"vcpus": 7, key: 0}).size.max_vcpus == 7
    assert FORMS[form]({"vcpus": 7, key: 3}).size.max_vcpus == 7


def test_the_vcpus_of_xend_are_all_that_a_guest_has():
    size = in_sexpr({"vcpus": 7, "online_vcpus": 2}).size
    assert (size.vcpus, size.max_vcpus) == (2, 7)
    assert in_sexpr({"vcpus": 1, "online_vcpus": 9}).size.max_vcpus == 9


def test_each_key_of_the_table_that_takes_memory_is_one_of_a_size_or_known_to_be_none():
    of_memory = {key for key in policy.DOMAIN if re.search(r"mem(?:kb|ory)?$|_kb$|videoram", key)}
    places = {"mmio_hole_memkb", "rdm_mem_boundary_memkb", "iomem"}
    assert of_memory - places <= {*KEYS, *NOT_WEIGHED}
    assert {key for key in policy.DOMAIN if "vcpus" in key} - {"avail_vcpus"} <= KEYS.keys()
    assert KEYS.keys() <= policy.DOMAIN.keys()


def test_what_xen_keeps_for_each_vcpu_counts_beside_its_tables():
    """libxl_create.c makes a buffer for each, beside what shadow memory is taken by itself."""
    for read in FORMS.values():
        guest = read({"maxmem": 1 << 20, "max_vcpus": 4, "vmtrace_buf_kb": 1 << 20}, "hvm")
        assert guest.memory == (1 << 40) + (4 << 20) + (1 << 20) * 8192 + (4 << 30)
        small = {"maxmem": 1 << 20, "max_vcpus": 4, "vmtrace_buf_kb": 1 << 20, "memory": 64}
        small = {**small, "shadow_memory": 1}
        assert read(small, "pv").memory == (64 << 20) + (4 << 30)


@pytest.mark.parametrize("kind", ["pv", "hvm", "pvh"])
@pytest.mark.parametrize(
    ("said", "tables"),
    [
        *(("sync_pt", True), ("enabled", True), ("Sync_PT", True), ("1", True)),
        *(("", False), ("disabled", False), ("share_pt", False), ("default", False)),
    ],
)
def test_tables_of_an_iommu_are_weighed(kind, said, tables):
    """Of xl from Xen 4.16 on they are as large as the shadow memory."""
    lines = f"type = '{kind}'\nmemory = 64\nmaxmem = 1000000\n"
    plain = _described(lines)
    usual = MIB + 1_000_000 * 8192
    assert _described(f"{lines}passthrough = '{said}'\n").memory - plain.memory == usual * tables
    build = {f"type.{kind}": {}, "target_memkb": 64 << 10, "max_memkb": 1_000_000 << 10}
    create = {"name": "web", "uuid": UUID, "type": kind, "passthrough": said}
    found = parse_domain({"config": {"c_info": create, "b_info": build}})
    assert found.memory - plain.memory == usual * tables


@pytest.mark.parametrize("said", ["pvh = 1\n", "type = 'pv'\npvh = 1\n", "pvh = 'True'\n"])
def test_a_guest_of_former_kind_has_tables_of_its_own(said):
    """Of Xen 4.4 to 4.9: it says `pv`, and is none."""
    assert _described(f"{said}memory = 64\n").kind == "pvh"
    assert _described("pvh = 0\nmemory = 64\n").kind == "pv"
    config = {"c_info": {"name": "web", "uuid": UUID, "type": "pv", "pvh": "True"}, "b_info": {}}
    assert parse_domain({"config": config}).kind == "pvh"


def test_a_type_that_toolstacks_take_for_two_is_refused():
    for builder in ("hvm", "h", ""):
        with pytest.raises(ToolstackError, match="are two: leave out one"):
            _described(f"type = 'pv'\nbuilder = '{builder}'\nmemory = 64\n")
    assert _described("type = 'pv'\nbuilder = 'generic'\n").kind == "pv"
    assert _described("type = 'hvm'\nbuilder = 'hvm'\n").kind == "hvm"
    assert _described("type = 'pvh'\nbuilder = 'generic'\n").kind == "pvh"


NODES = "vnuma = [['pnode=0', 'size=15000', 'vcpus=0-3,6'], ['pnode=1','size = 1','vcpus=4']]\n"


def test_virtual_nodes_make_a_guest_as_large_as_they_are():
    """xl takes what they add up to for `maxmem` and `maxvcpus` where these are not said, or 0."""
    for more in ("", "maxvcpus = 0\n", "memory = 0\n", "maxmem = 0\n"):
        size = _described(f"{NODES}{more}").size
        assert size == GuestSize(15001 * MIB, 15001 * MIB, 0, 1, 6)
    assert _described(f"{NODES}memory = 2\n").size.maximum == 15001 * MIB
    assert _described("vnuma = 'size=5'\nmemory = 2\n").size.maximum == 2 * MIB, "xl reads a list"


@pytest.mark.parametrize("part", ["size=a", "size=-1", "vcpus=x", "vcpus=^1", "size", "size=0x9"])
def test_virtual_nodes_that_cannot_be_added_up_are_refused(part):
    with pytest.raises(ToolstackError, match="vnuma has"):
        _described(f"vnuma = [['pnode=0', '{part}']]\n")


@pytest.mark.parametrize("read", [_text, _json, _sexpr])
@pytest.mark.parametrize(
    ("said", "memory", "maximum"),
    [
        ({"memory": 64}, 64, 64),
        ({"memory": 64, "most": 256}, 64, 256),
        ({"memory": 256, "most": 64}, 256, 256),
        ({"most": 15000}, 15000, 15000),
        ({"memory": 0, "most": 15000}, 15000, 15000),
        ({"memory": 0}, 128, 128),
        ({}, 128, 128),
    ],
)
def test_what_is_not_said_is_what_the_toolstacks_take(read, said, memory, maximum):
    size = read(said)
    assert (size.memory, size.maximum) == (memory * MIB, maximum * MIB)


def test_no_size_weighs_nothing():
    none = GuestSize(0, 0, 0, 1, 1)
    assert weight("pv", none) == weight("pv", complete(none)) == 128 * MIB


@pytest.mark.parametrize("kind", ["hvm", "pvh"])
def test_shadow_memory_that_is_not_said_counts_by_what_the_guest_may_grow_to(kind):
    """libxl: 1 MiB for each processor, two pages for each MiB of `maxmem`."""
    size = GuestSize(64 * MIB, 1_500_000 * MIB, 0, 1, 4)
    assert weight(kind, size) == (64 + 4) * MIB + 1_500_000 * 8192
    assert weight("pv", size) == 64 * MIB
    plain = describe(f"type = '{kind}'\nmemory = 64\nmaxmem = 1500000\n", "web", BOOT_FOLDERS)
    assert plain.memory == (64 + 1) * MIB + 1_500_000 * 8192
