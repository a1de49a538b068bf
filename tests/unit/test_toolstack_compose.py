"""Configuration files of domains that have none."""

import pytest
from toolstack_samples import HVM, PV, PVH, arrival, entry

from xenmoved.sandbox import xlcfg
from xenmoved.toolstack.cfgtext import adapt, describe, named
from xenmoved.toolstack.compose import compose
from xenmoved.toolstack.domains import parse_domain
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS

SAMPLES = pytest.mark.parametrize("sample", [PV, PVH, HVM], ids=["pv", "pvh", "hvm"])


def composed(sample, **changes):
    config = entry(sample)["config"]
    config["b_info"].update(changes)
    return compose(config)


@SAMPLES
def test_the_file_describes_the_domain(sample):
    text, runs = composed(sample), parse_domain(entry(sample))
    domain = describe(text, runs.name, BOOT_FOLDERS)
    assert named(text) == runs.name
    assert domain.obstacles == ()
    assert (domain.uuid, domain.kind) == (runs.uuid, runs.kind)
    assert [(d.vdev, d.path, d.writable, d.cdrom) for d in domain.disks] == [
        (d.vdev, d.path, d.writable, d.cdrom) for d in runs.disks
    ]
    assert [nic.bridge for nic in domain.nics] == [nic.bridge for nic in runs.nics]


@SAMPLES
def test_another_host_takes_it(sample):
    text = adapt(composed(sample), arrival(sample), BOOT_FOLDERS, lambda _: True)
    assert "target=/dev/here/" in text


@SAMPLES
def test_what_it_starts_is_what_ran(sample):
    """The emulator reads such files as `xl create` does."""
    runs, anew = entry(sample)["config"], xlcfg.parse(composed(sample), "web.cfg")
    assert anew["c_info"]["name"] == runs["c_info"]["name"]
    assert anew["b_info"]["max_vcpus"] == runs["b_info"]["max_vcpus"]
    assert anew["b_info"].get("kernel") == runs["b_info"].get("kernel")
    assert anew["b_info"].get("bootloader") == runs["b_info"].get("bootloader")
    for key in ("mac", "bridge"):
        assert [n[key] for n in anew.get("nics", [])] == [n[key] for n in runs.get("nics", [])]
    got = [(d["vdev"], d.get("pdev_path"), d.get("readwrite", 0)) for d in anew["disks"]]
    assert got == [
        (d["vdev"], d.get("pdev_path"), int(d.get("readwrite", 0))) for d in runs["disks"]
    ]


def test_memory_and_processors():
    text = composed(PVH, max_vcpus=4, avail_vcpus=[0, 1])
    for line in ("memory = 256", "maxmem = 1024", "vcpus = 2", "maxvcpus = 4"):
        assert f"\n{line}\n" in text
    assert "memory = 4089\nmaxmem = 4096\n" in composed(HVM)


def test_a_screen():
    text = composed(HVM)
    for line in ("vnc = 1", "vncdisplay = 3", "vnclisten = '0.0.0.0'", "vncpasswd = 's3cr3t'"):
        assert f"\n{line}\n" in text


def test_what_has_no_place_in_it_is_named():
    assert "# Not taken over: vfbs, vcpu_hard_affinity\n" in composed(PV)
    assert "# Not taken over" not in composed(PVH)
    text = composed(PVH, device_tree="/x", cmdline="it's", vcpu_hard_affinity=[[1]])
    assert "# Not taken over: cmdline, device_tree, vcpu_hard_affinity\n" in text


def test_names_that_cannot_be_written():
    config = entry(PVH)["config"]
    config["c_info"]["name"] = "it's"
    with pytest.raises(ToolstackError, match="cannot be written"):
        compose(config)
    with pytest.raises(ToolstackError, match="expected an object"):
        compose({"c_info": []} | {"b_info": [1]})
