"""Which network devices may be bridges of Open vSwitch."""

import copy
from pathlib import Path

import pytest

from xenmoved.toolstack.domains import load_list, parse_domain, parse_table
from xenmoved.toolstack.driver import find_bridges, find_switches, host_info
from xenmoved.toolstack.interface import Arrival, DomainState
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.vetting import rewrite_config
from xenmoved.toolstack.wiring import UNKNOWN


def test_what_may_be_a_switch(tmp_path):
    net = tmp_path / "net"
    assert find_switches(net) == set()
    (tmp_path / "hardware").mkdir()
    for name, what in {
        **{"lo": "", "xenbr0": "bridge", "bond0": "bonding", "ovs0": "", "br-lan": ""},
        **{"eth0": "device", "vif1.0": "device", "port": "master", "veth": "brport"},
    }.items():
        (tmp_path / name / what).mkdir(parents=True)
        net.mkdir(exist_ok=True)
        (net / name).symlink_to(tmp_path / name)  # as sysfs has them
    (net / "bonding_masters").write_text("bond0\n")
    assert find_switches(net) == {"ovs0", "br-lan"}
    assert find_bridges(net) == {"xenbr0"}


_XL_4_20 = Path(__file__).parents[2] / "data" / "xl-4.20"
"""What xl of Debian 13 said on a host with one PVH guest."""


def test_what_xl_says_of_its_host():
    info = host_info("xl", (_XL_4_20 / "info").read_text())
    assert (info.xen_version, info.kinds) == ("4.20.5-pre", {"pv", "hvm", "pvh"})
    assert (info.total_memory, info.free_memory) == (2559 << 20, 1376 << 20)
    assert info.features[0] == 0x078BF3FD
    assert not info.shadow


def test_what_xl_says_of_domains():
    _, guest = parse_table((_XL_4_20 / "list").read_text())
    assert (guest.name, guest.domid, guest.state) == ("kinds-pvh-blkback", 2, DomainState.RUNNING)
    _, entry = load_list((_XL_4_20 / "list-l.json").read_text())
    domain = parse_domain(entry)
    assert (domain.kind, domain.domid) == ("pvh", 2)
    assert [(disk.vdev, disk.writable, disk.backend) for disk in domain.disks] == [
        ("xvda", True, "unknown"),
        ("xvdb", True, "unknown"),
    ]
    assert domain.passthrough == ()
    left: list[str] = []
    config = copy.deepcopy(entry["config"])
    assert isinstance(config, dict)
    here = Arrival(domain.name, domain.uuid, {d.vdev: d.path for d in domain.disks}, wiring=UNKNOWN)
    assert rewrite_config(config, here, BOOT_FOLDERS.unseen, left) == []
    assert left == []


@pytest.mark.parametrize(
    ("version", "capabilities", "shadow"),
    [
        ("4.17.3", "pv hvm hap shadow", True),
        ("4.20.5-pre", "pv hvm hap gnttab-v1 gnttab-v2", False),
        ("4.11.4", "hvm hvm_directio", True),
        ("4.20.5", "", True),
    ],
)
def test_whether_xen_follows_the_memory_of_pv_guests(version, capabilities, shadow):
    text = (
        f"xen_version : {version}\nfree_memory : 1\ntotal_memory : 2\nvirt_caps : {capabilities}\n"
    )
    assert host_info("xl", text).shadow is shadow
