"""Guests on bridges of Open vSwitch, which sysfs does not tell from other network devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.dom0 import QUIET, Dom0, image, unique

Hosts = tuple[Dom0, Dom0]


@pytest.fixture
def switched(hosts: Hosts) -> Iterator[Hosts]:
    """Both hosts, the second with the Open vSwitch bridges ovs0 and ovs1."""
    _, b = hosts
    names = [b.xen.root / "sys/class/net" / name for name in ("ovs0", "ovs1")]
    for name in names:
        name.mkdir(parents=True)
    yield hosts
    for name in names:
        name.rmdir()


def on(host: Dom0, bridge: str, script: str = "vif-openvswitch") -> str:
    """Start a guest on a bridge; return its name."""
    name = unique("web")
    disk = image(host.images / f"{name}-root", 1)
    host.boot(name, [disk], extra=QUIET, bridge=f"{bridge},script={script}")
    return name


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("bridge", "wish", "there"),
    [
        ("ovs0", {}, "ovs0"),
        ("ovs0.100:101:102", {}, "ovs0.100:101:102"),
        ("ovs0.100:101", {"ovs0": "ovs1"}, "ovs1.100:101"),
        ("ovs0:7", {"ovs0:7": "ovs1.8"}, "ovs1.8"),
        ("ovs7.2", {"ovs7": "ovs0"}, "ovs0.2"),
    ],
)
def test_a_guest_keeps_its_vlan_and_trunks(
    switched: Hosts, bridge: str, wish: dict[str, str], there: str
) -> None:
    a, b = switched
    name = on(a, bridge)
    words = [word for old, new in wish.items() for word in ("--bridge", f"{old}={new}")]
    done = a.ctl("migrate", name, "host-b", *words)
    assert done.returncode == 0, done.stderr
    domain = b.domain(name)
    assert domain is not None
    assert domain.config["nics"][0]["bridge"] == there
    assert f"bridge={there},script=vif-openvswitch" in (b.guest_configs / f"{name}.cfg").read_text()


def test_names_of_the_peer(switched: Hosts) -> None:
    a, b = switched
    name = on(a, "switch.5")
    with b.peer_settings("host-a", bridges={"switch": "ovs1"}):
        assert [(one.source, one.target) for one in a.plan(name).bridges] == [
            ("switch.5", "ovs1.5")
        ]


def test_a_bridge_that_is_not_there(switched: Hosts) -> None:
    a, _ = switched
    (problem,) = a.plan(on(a, "ovs9.100:3")).problems
    assert (problem.code, problem.text) == ("bridge", "host-b has no Open vSwitch bridge ovs9")
    (problem,) = a.plan(on(a, "ovs0", script="vif-bridge")).problems
    assert problem.text == "host-b has no bridge ovs0", "which is none of the kernel's"
    (problem,) = a.plan(on(a, "xenbr0")).problems
    assert "Open vSwitch bridge xenbr0" in problem.text
