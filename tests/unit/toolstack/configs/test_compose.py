"""Configuration files of domains that have none."""

import re

import pytest

from tests.support.toolstack_samples import HVM, PV, PVH, arrival, entry
from xenmoved.sandbox import xlcfg
from xenmoved.toolstack.configs.compose import compose
from xenmoved.toolstack.configs.text import adapt, describe, named
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
    domain = describe(text, runs.name, BOOT_FOLDERS.unseen)
    assert named(text) == runs.name
    assert domain.obstacles == ()
    assert (domain.uuid, domain.kind) == (runs.uuid, runs.kind)
    assert [(d.vdev, d.path, d.writable, d.cdrom) for d in domain.disks] == [
        (d.vdev, d.path, d.writable, d.cdrom) for d in runs.disks
    ]
    assert [nic.bridge for nic in domain.nics] == [nic.bridge for nic in runs.nics]


@SAMPLES
def test_another_host_takes_it(sample):
    text = adapt(composed(sample), arrival(sample), BOOT_FOLDERS.unseen, lambda _: True)
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


def test_an_interface_keeps_its_limits_and_its_place():
    config = entry(PVH)["config"]
    config["nics"] = [
        {
            "mac": "00:16:3e:01:02:03",
            "bridge": "xenbr0",
            "nictype": "vif",
            "mtu": 1400,
            "vlan": "12",
            "gatewaydev": "eth1",
            "backend_domname": "net",
            "rate_bytes_per_interval": 62500,
            "rate_interval_usecs": 50000,
            "trusted": "False",
            "coloft_forwarddev": "eth9",
        }
    ]
    text = compose(config)
    for part in ("mtu=1400", "vlan=12", "gatewaydev=eth1", "backend=net"):
        assert f",{part}" in text
    assert "vif = ['type=vif,mac=" in text
    assert ",rate=1250000B/s@50000us" in text
    missing = "# Not taken over: trusted of a network interface, coloft_forwarddev of a network"
    assert missing in text


@pytest.mark.parametrize(
    ("size", "interval"), [(1, 50000), (62500, 50000), (333, 999), (10**10, 10**6), (7, 4 * 10**9)]
)
def test_a_rate_is_the_same_for_xl(size, interval):
    config = entry(PVH)["config"]
    config["nics"] = [{"rate_bytes_per_interval": size, "rate_interval_usecs": interval}]
    text = compose(config)
    rate, unit, micros = re.search(r"rate=(\d+)(K?)B/s@(\d+)us", text).groups()
    assert int(rate) < 1 << 32
    exact = int(rate) * (1000 if unit else 1) * int(micros) // 1_000_000 == size
    assert exact == ("the exact rate" not in text)
    assert exact == (interval < 10**9)


def test_a_disk_keeps_its_options():
    config = entry(PVH)["config"]
    disk = {"vdev": "xvdb", "pdev_path": "/srv/a, b", "format": "raw", "readwrite": 1}
    more = {"discard_enable": "False", "direct_io_safe": True, "backend_domname": "storage"}
    config["disks"] = [{**disk, **more, "colo_host": "x", "specification": "xen"}]
    text = compose(config)
    wanted = "backend=storage,no-discard,direct-io-safe,target=/srv/a, b'"
    assert wanted in text
    assert "# Not taken over: colo_host of a disk\n" in text


def test_names_that_cannot_be_written():
    config = entry(PVH)["config"]
    config["c_info"]["name"] = "it's"
    with pytest.raises(ToolstackError, match="cannot be written"):
        compose(config)
    with pytest.raises(ToolstackError, match="expected an object"):
        compose({"c_info": []} | {"b_info": [1]})
