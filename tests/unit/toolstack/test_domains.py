"""Domains out of what `xl list` prints."""

import json

import pytest

from tests.support.toolstack_samples import (
    HVM,
    OLD_HVM,
    PASSTHROUGH,
    PV,
    PVH,
    SCRIPTED,
    TABLE,
    UUID,
    XM_TABLE,
    entry,
)
from xenmoved.toolstack.domains import (
    check_name,
    load_list,
    parse_domain,
    parse_info,
    parse_state,
    parse_table,
    size_of,
)
from xenmoved.toolstack.interface import Disk, DomainState, Nic, ToolstackError
from xenmoved.toolstack.readable import under
from xenmoved.toolstack.sizes import weight


def test_pv():
    domain = parse_domain(PV)
    assert (domain.name, domain.uuid, domain.domid, domain.kind) == ("web", UUID, 7, "pv")
    assert domain.memory == 512 << 20
    assert domain.disks == (
        Disk("xvda", "/dev/vg0/web-root", "phy", "raw", True, False, None, 0),
        Disk("xvdb", "/srv/xen/web-data.img", "qdisk", "raw", True, False, None, 0),
    )
    assert domain.nics == (Nic("00:16:3e:01:02:03", "xenbr0", "/etc/xen/scripts/vif-bridge"),)
    assert domain.passthrough == ()


def test_pvh_with_most_things_left_at_their_defaults():
    domain = parse_domain(PVH)
    assert (domain.name, domain.uuid, domain.kind) == ("b 2 (old)", UUID, "pvh")
    # What it may grow to does not count, but for what maps that: 8 KiB for each MiB.
    assert domain.memory == (256 << 20) + (1024 << 13) + (domain.size.max_vcpus << 20)
    assert domain.disks == (
        Disk("xvda1", "/dev/zvol/tank/b2", "unknown", "raw", False, False, None, 0),
    )
    assert domain.nics == ()


def test_hvm_with_drives():
    domain = parse_domain(HVM)
    assert domain.kind == "hvm"
    empty, drivers = domain.disks[1:]
    assert (empty.path, empty.cdrom, empty.format) == ("", True, "empty")
    assert (drivers.path, drivers.cdrom, drivers.writable) == ("/srv/iso/drivers.iso", True, False)


def test_type_of_old_versions():
    assert parse_domain(OLD_HVM).kind == "hvm"
    sample = entry(OLD_HVM)
    sample["config"]["c_info"]["hvm"] = False
    assert parse_domain(sample).kind == "pv"
    del sample["config"]["c_info"]["hvm"]
    sample["config"]["b_info"]["type.pvh"] = {}
    assert parse_domain(sample).kind == "pvh"


def test_passthrough_is_named():
    assert parse_domain(PASSTHROUGH).passthrough == (
        "pci 0000:03:1c.0",
        "usb 2.5",
        "device tree node /soc/ethernet@0",
        "irqs",
    )


def test_scripts_and_driver_domains():
    iscsi, remote = parse_domain(SCRIPTED).disks
    assert iscsi.script == "block-iscsi"
    assert remote.backend_domid == -1
    sample = entry(SCRIPTED)
    sample["config"]["disks"][0]["script"] = "/etc/xen/scripts/block"
    sample["config"]["disks"][1] |= {"backend_domid": 4, "backend_domname": ""}
    plain, remote = parse_domain(sample).disks
    assert plain.script is None
    assert remote.backend_domid == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("config"), "config"),
        (lambda s: s["config"].pop("c_info"), "name"),
        (lambda s: s["config"].update(c_info=[]), "c_info"),
        (lambda s: s["config"]["c_info"].update(uuid="7"), "uuid"),
        (lambda s: s["config"]["c_info"].pop("type") and s["config"]["b_info"].clear(), "type"),
        (lambda s: s["config"].update(disks={}) or s["config"].update(disks="x"), "disks"),
        (lambda s: s["config"]["disks"][0].pop("vdev"), "vdev"),
        (lambda s: s["config"]["disks"][0].update(pdev_path=3), "pdev_path"),
        (lambda s: s["config"]["disks"].append("hda"), "disks"),
        (lambda s: s["config"]["b_info"].update(target_memkb="lots"), "target_memkb"),
    ],
)
def test_wrong_shapes_are_named(change, expected):
    sample = entry(PV)
    change(sample)
    with pytest.raises(ToolstackError, match=expected):
        parse_domain(sample)


def test_load_list():
    assert load_list(json.dumps([PV, PVH])) == [PV, PVH]
    assert load_list(json.dumps(PV)) == [PV]
    for bad in ("", "[1]", "7", "[" * 100_000, '{"a": '):
        with pytest.raises(ToolstackError):
            load_list(bad)


def test_table():
    found = {domain.name: domain for domain in parse_table(TABLE)}
    assert found["web"].domid == 7
    assert found["web"].memory == 512 << 20
    assert {name: domain.state.value for name, domain in found.items()} == {
        "Domain-0": "running",
        "web": "running",
        "a name with 3 5 words": "paused",
        "saving": "suspended",
        "saving-and-paused": "suspended",
        "off": "shutdown",
        "rebooting": "shutdown",
        "crashed": "crashed",
        "(null)": "dying",
        "a-very-long-name-of-a-guest-that-fills-its-column-and-more": "running",
        "xm-crashed": "crashed",
        "odd-crashed": "crashed",
        "watchdog": "crashed",
    }


def test_table_of_xm_skips_domains_that_do_not_run():
    assert [(d.name, d.domid) for d in parse_table(XM_TABLE)] == [("Domain-0", 0), ("web", 15)]


@pytest.mark.parametrize("text", ["", "xc: error", "Name ID\nsomething else entirely\n"])
def test_no_table(text):
    with pytest.raises(ToolstackError, match="expected"):
        parse_table(text)


def test_state_of_another_length():
    assert parse_state("------") is DomainState.RUNNING
    with pytest.raises(ToolstackError):
        parse_state("r----")


def test_info():
    info = parse_info(
        "host    : a\nxen_caps  : xen-3.0-x86_64 hvm-3.0\nvirt:start: x:y\nnonsense\n"
    )
    assert info == {"host": "a", "xen_caps": "xen-3.0-x86_64 hvm-3.0", "virt": "start: x:y"}


@pytest.mark.parametrize("name", ["web", "a b", "gäst", "7up", "x" * 200, "a.b-c_d", "web's"])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "7", "-p", "a/b", "..", ".x", "a\nb", "a\0", " a", "x" * 201])
def test_names_that_mean_something_else_to_a_command_or_a_folder(name):
    with pytest.raises(ToolstackError):
        check_name(name)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/boot/vmlinuz", True),
        ("/boot/a/b", True),
        ("/boot", False),
        ("/bootx/vmlinuz", False),
        ("/boot/../etc/shadow", False),
        ("boot/vmlinuz", False),
        ("//boot/vmlinuz", False),
        ("/usr/lib/xen-4.17/boot/hvmloader", True),
        ("/usr/lib/xen/x", True),
        ("/srv/usr/lib/xen/x", False),
        ("/srv/boot/x", False),
        ("/boot/vmlinuz\t6.1", False),
        ("/usr/lib/xen-4\t.17/boot/hvmloader", False),
        ("/boot/a\x00b", False),
    ],
)
def test_under(path, expected):
    assert under(path, ("/boot", "/usr/lib/xen*")) is expected


USUAL = (1 << 20) + 4 * 8192


@pytest.mark.parametrize(
    ("kind", "expected"), [("pv", (8 << 20) - USUAL), ("pvh", 8 << 20), ("hvm", 8 << 20)]
)
def test_what_xen_needs_beside_a_domain_counts_where_it_is_told(kind, expected):
    """Of a `pv` guest what is more than usual, as nothing tells what it is."""
    size = size_of({"max_memkb": 4096, "shadow_memkb": 8192})
    assert weight(kind, size) == (4 << 20) + expected
