"""Scripts, addresses and gateway devices of interfaces: what the receiving host allows its peer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.jobs.report import JobState

Hosts = tuple[Dom0, Dom0]
ALLOWED = {"scripts": "[vif-bridge, vif-lab]", "ip": "[192.0.2.0/24]", "gatewaydev": "[eth0]"}
WIRED = "xenbr0,script=vif-lab,ip=192.0.2.7,gatewaydev=eth0"


def allow(host: Dom0, peer: Dom0, **allowed: str) -> None:
    """Have a host allow its peer what it has in the file of the peer, and more."""
    file = host.config_file.parent / "peers.d" / f"{peer.name}.yaml"
    lines = [line for line in file.read_text().splitlines() if line.split(":")[0] not in KEYS]
    at = lines.index("allow:") + 1
    lines[at:at] = [f"  {key}: {value}" for key, value in allowed.items()]
    file.write_text("\n".join(lines) + "\n")
    host.reload()


KEYS = {f"  {key}" for key in ALLOWED}


@pytest.fixture
def wired(hosts: Hosts) -> Iterator[Hosts]:
    """Two hosts of which the second one has a script of its own, and allows nothing of it."""
    a, b = hosts
    script = b.guest_configs / "scripts" / "vif-lab"
    script.write_text("#!/bin/sh\n")
    yield hosts
    script.unlink(missing_ok=True)
    allow(b, a)


def guest(host: Dom0, wiring: str) -> str:
    """Start a guest whose interface says this."""
    name = unique("web")
    host.boot(name, [image(host.images / f"{name}-root", 1)], extra=QUIET, bridge=wiring)
    return name


def nic_of(host: Dom0, name: str) -> dict[str, object]:
    """Return what libxl was told of the interface of a domain."""
    domain = host.domain(name)
    assert domain is not None
    (nic,) = domain.config["nics"]
    return {key: nic.get(key) for key in ("script", "ip", "gatewaydev") if nic.get(key)}


@pytest.mark.sampled
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE, Mode.COLD])
def test_a_script_is_allowed_by_its_name(wired: Hosts, mode: Mode) -> None:
    a, b = wired
    name = guest(a, WIRED)
    if mode is Mode.COLD:
        a.xen.xl("destroy", name)
    (found,) = a.plan(name, mode=mode).problems
    assert found.code == "script" and "runs no script vif-lab" in found.text
    assert "`scripts` in `allow` of peer host-a; it has: vif-bridge, vif-openvswitch" in found.hint

    allow(b, a, **ALLOWED)
    assert not a.plan(name, mode=mode).problems
    report = a.finish(a.begin(name, mode=mode).job)
    assert report.state is JobState.DONE and not report.remarks, report
    assert f"bridge={WIRED}" in (b.guest_configs / f"{name}.cfg").read_text()
    if mode is not Mode.COLD:
        assert nic_of(b, name) == {"script": "vif-lab", "ip": "192.0.2.7", "gatewaydev": "eth0"}


def test_addresses_and_devices_are_left_out_unless_they_are_allowed(wired: Hosts) -> None:
    a, b = wired
    name = guest(a, "xenbr0,script=vif-lab,ip=198.51.100.1,gatewaydev=eth1")
    allow(b, a, **ALLOWED)
    said = [
        f"{name} comes without {key} of a network interface (on the target, see `{key}` in "
        "`allow` of the source)"
        for key in ("ip", "gatewaydev")
    ]
    plan = a.plan(name)
    assert not plan.problems
    assert [one.text for one in plan.warnings if one.code == "left-out"] == said
    report = a.finish(a.begin(name).job)
    assert report.state is JobState.DONE
    assert [one.text for one in report.remarks] == said
    assert nic_of(b, name) == {"script": "vif-lab"}
    assert "bridge=xenbr0,script=vif-lab'" in (b.guest_configs / f"{name}.cfg").read_text()


def test_a_script_that_is_not_there(wired: Hosts) -> None:
    a, b = wired
    allow(b, a, **ALLOWED)
    (b.guest_configs / "scripts" / "vif-lab").unlink()
    (found,) = a.plan(guest(a, WIRED)).problems
    assert found.code == "script" and f"has no {b.guest_configs}/scripts/vif-lab" in found.text


def test_a_folder_of_another_host_is_never_looked_into(wired: Hosts) -> None:
    a, b = wired
    allow(b, a, **ALLOWED)
    name = guest(a, "xenbr0,script=/usr/local/etc/xen/scripts/vif-lab")
    assert a.finish(a.begin(name).job).state is JobState.DONE
    assert nic_of(b, name) == {"script": "vif-lab"}
    assert "bridge=xenbr0,script=vif-lab'" in (b.guest_configs / f"{name}.cfg").read_text()
    problems = a.plan(guest(a, "xenbr0,script=/tmp/vif-lab")).problems
    assert [one.text for one in problems if one.code == "script"] != []


def test_a_routed_guest_needs_no_bridge(wired: Hosts) -> None:
    a, b = wired
    allow(b, a, scripts="[vif-route]")
    assert not a.plan(guest(a, "nobridge,script=vif-route")).problems
