"""Which network devices may be bridges of Open vSwitch."""

from xenmoved.toolstack.driver import find_bridges, find_switches


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
