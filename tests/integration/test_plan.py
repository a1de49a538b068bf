"""`plan`: what a migration would be, and everything that stands in its way at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.messages import Action, Mode
from tests.support.dom0 import MIB, QUIET, RESIDENT, Dom0, image, unique
from xenmoved.sandbox.xl import PROCESSOR

Hosts = tuple[Dom0, Dom0]


def test_a_plan_tells_what_would_be_done(hosts: Hosts) -> None:
    a, b = hosts
    before = a.footprint(), b.footprint()
    plan = a.plan(RESIDENT)
    assert plan.problems == ()
    (volume,) = plan.volumes
    assert (volume.vdev, volume.size, volume.fresh) == ("xvda", 4 * MIB, True)
    assert volume.source == str(a.images / "resident-root")
    assert volume.target == "images:resident-root"
    assert volume.served_by == "QEMU"  # as the emulated hosts do
    assert volume.tracking in ("tracefs", "rehash")
    assert "read" in volume.tracking_cost
    assert plan.memory == 2 * MIB
    assert plan.estimate is not None
    assert plan.blackout is not None
    assert 0 < plan.blackout < plan.estimate < 5
    assert (a.footprint(), b.footprint()) == before
    assert a.plan(RESIDENT, pool="thin").volumes[0].target == "thin:resident-root"


def test_the_estimate_respects_the_rate_limit(hosts: Hosts) -> None:
    a, _ = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 32, data=24)], memory=8, extra=QUIET)
    plan = a.plan(name, rate_limit=4 * MIB)
    assert plan.blackout is not None
    assert 3 <= plan.blackout < 4  # the memory, and the toolstacks
    assert plan.estimate is not None
    assert 6 + plan.blackout <= plan.estimate < 10  # the disk, and reading it again


def test_every_problem_of_both_hosts_at_once(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts
    name = unique("unlucky")
    root = image(a.images / f"{name}-root", 4)
    data = image(a.images / f"{name}-data", 1)
    iso = image(tmp_path / "install.iso", 1)
    a.boot(
        name,
        [root, data, iso],
        memory=16,
        bridge="dmz",
        extra=QUIET,
        specs=[f"file:{root},xvda,w", f"file:{data},xvdb,w", f"file:{iso},xvdc:cdrom,r"],
        lines="pci = ['0000:03:00.1']\n",
    )
    a.xen.xl("pause", name)
    image(b.images / root.name, 2)
    (b.xen.root / "host.json").write_text(json.dumps({"total_memory": 1024 + 8}))
    b.trust(a, quota=1)
    before = a.footprint(), b.footprint()

    plan = a.plan(name)

    assert sorted(one.code for one in plan.problems) == [
        "bridge",
        "cdrom",
        "guest-state",
        "memory",
        "passthrough",
        "quota",
        "volume-exists",
        "volume-too-small",
    ]
    assert all(one.text and one.hint for one in plan.problems), plan.problems
    assert (a.footprint(), b.footprint()) == before

    typed = a.ctl("plan", name, "host-b")
    assert typed.returncode == 3
    shown = " ".join((typed.stdout + typed.stderr).split())
    for one in plan.problems:
        assert " ".join(one.text.split()) in shown
    assert json.loads(a.ctl("plan", name, "host-b", "--json").stdout)["problems"]


def test_problems_here_are_told_though_the_peer_is_not_there(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    a.xen.xl("pause", name)
    b.stop()
    plan = a.plan(name)
    assert sorted(one.code for one in plan.problems) == ["guest-state", "peer-unreachable"]


def test_a_peer_without_permission_learns_nothing_of_the_host(hosts: Hosts) -> None:
    a, b = hosts
    image(b.images / "resident-root", 1)
    b.trust(a, actions=(Action.SYNC,))
    assert [one.code for one in a.plan(RESIDENT).problems] == ["permission"]


@pytest.mark.tracing
def test_it_says_which_disks_are_not_tracked(hosts: Hosts, attach: Callable[..., Path]) -> None:
    a, _ = hosts
    name = unique("web")
    device = attach(image(a.folder / f"{name}.backing", 4))
    a.device_link("device-0", device)
    file = image(a.images / f"{name}-data", 4)
    a.boot(name, [a.devices / "device-0", file])
    (warning,) = a.plan(name, overwrite=True).warnings
    assert warning.code == "untracked"
    assert str(file) in warning.text
    assert "the last one while the guest is suspended" in warning.hint


def test_a_pv_guest_moves_by_saving_where_xen_cannot_follow_its_memory(hosts: Hosts) -> None:
    a, _ = hosts
    says_of_itself(a, virt_caps="pv hvm hap gnttab-v1 gnttab-v2", xen_version="4.20.5-pre")
    says_of_itself(hosts[1], xen_version="4.20.5-pre")
    assert a.plan(RESIDENT, mode=None).mode is Mode.SAVE
    (found,) = a.plan(RESIDENT, mode=Mode.LIVE).problems
    assert found.code == "mode"
    assert "shadow paging" in found.text
    assert "--mode save" in found.hint
    assert not a.plan(RESIDENT, mode=Mode.SAVE).problems


def test_a_host_that_cannot_run_its_kind_of_guest(hosts: Hosts) -> None:
    a, b = hosts
    says_of_itself(b, xen_caps="hvm-3.0-x86_32 hvm-3.0-x86_64")
    (found,) = a.plan(RESIDENT).problems
    assert found.code == "hypervisor"
    assert "runs no PV guests: its Xen and processors can run hvm, pvh" in found.text


def test_an_older_xen_takes_over_no_memory(hosts: Hosts) -> None:
    a, b = hosts
    older = "4.16.9"
    says_of_itself(b, xen_version=older)
    (found,) = a.plan(RESIDENT).problems
    assert found.code == "xen-version"
    assert older in found.text
    assert "--mode restart" in found.hint
    assert not a.plan(RESIDENT, mode=Mode.RESTART).problems
    says_of_itself(b, xen_version="4.20.5-pre")
    assert a.plan(RESIDENT).problems == ()


def test_what_the_other_processor_lacks_is_told(hosts: Hosts) -> None:
    a, b = hosts
    words = PROCESSOR.split(":")
    without_avx_and_f16c = f"{int(words[1], 16) & ~(1 << 28 | 1 << 29):08x}"
    says_of_itself(b, hw_caps=":".join([words[0], without_avx_and_f16c, *words[2:]]))
    plan = a.plan(RESIDENT)
    assert plan.problems == ()
    (remark,) = [one for one in plan.warnings if one.code == "processor"]
    assert "the processors of host-b have no avx, f16c, as those of host-a have" in remark.text
    says_of_itself(a, hw_caps=":".join([words[0], without_avx_and_f16c, *words[2:]]))
    assert not [one for one in a.plan(RESIDENT).warnings if one.code == "processor"]


def says_of_itself(host: Dom0, **lines: str) -> None:
    """Have a host's `xl info` or `xm info` say something else, until the test ends."""
    (host.xen.root / "host.json").write_text(json.dumps(lines))
