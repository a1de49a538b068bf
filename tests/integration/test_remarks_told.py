"""What a target remarks on a guest is said where the job was given, before and after."""

from __future__ import annotations

import json

import pytest

from protocol.messages import Mode, Remark, Weight
from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.jobs.report import JobState

Hosts = tuple[Dom0, Dom0]

NEEDS_EYE = 7


def guest_with(host: Dom0, line: str, *, autostart: bool = True) -> str:
    """Boot a guest, then have its file say something more; return its name."""
    name = unique("web")
    guest = host.boot(name, [image(host.images / f"{name}-root", 1)], autostart=autostart)
    guest.config.write_text(f"{guest.config.read_text()}\n{line}\n")
    return name


def said(remarks: tuple[Remark, ...], code: str) -> Remark:
    """Return the one remark of a code."""
    (found,) = [one for one in remarks if one.code == code]
    return found


@pytest.mark.thorough
def test_a_file_that_is_not_used_is_said_before_and_after(hosts: Hosts) -> None:
    a, _ = hosts
    name = guest_with(a, "device_model_override = '/srv/qemu'")
    plan = a.plan(name, mode=Mode.LIVE)
    assert not plan.problems
    before = said(plan.warnings, "config-received")
    assert before.weight is Weight.ACTION
    assert f"{name} is not started at boot" in before.text
    assert f"{name}.cfg.received" in before.text
    assert "device_model_override" in before.text
    assert f"rename it to {name}.cfg" in before.hint
    shown = a.ctl("plan", name, "host-b")
    assert "needs your eye:" in shown.stdout
    assert shown.returncode == 0
    moved = a.ctl("migrate", name, "host-b")
    assert moved.returncode == NEEDS_EYE
    assert f"{name}.cfg.received" in " ".join(moved.stderr.split())
    for host in hosts:
        report = host.last_of(name)
        assert report.state is JobState.DONE
        assert said(report.remarks, "config-received") == before
        assert "needs your eye:" in host.ctl("show", name).stdout
        assert "Needs your eye:" in host.ctl("report", name, "--output", "-").stdout
    shown = a.ctl("--json", "show", name)
    assert json.loads(shown.stdout)["remarks"][0]["code"] == "config-received"


@pytest.mark.thorough
def test_what_is_left_out_is_good_to_know(hosts: Hosts) -> None:
    a, _ = hosts
    name = guest_with(a, "xen_gadget = 'x'\nseclabel = 'system_u:vm'", autostart=False)
    texts = [one.text for one in a.plan(name).warnings if one.code == "left-out"]
    assert texts == [f"{name} comes without xen_gadget", f"{name} comes without seclabel"]
    moved = a.ctl("migrate", name, "host-b")
    assert moved.returncode == 0
    assert f"{name} comes without seclabel" in moved.stdout
    remarks = a.last_of(name).remarks
    assert [one.text for one in remarks if one.code == "left-out"] == texts
    assert {one.weight for one in remarks} == {Weight.INFO}


def test_what_the_stream_comes_without_is_said_once(hosts: Hosts) -> None:
    a, _ = hosts
    name = unique("web")
    line = "seclabel = 'system_u:vm'\non_crash = 'coredump-destroy'\n"
    disk = image(a.images / f"{name}-root", 1)
    a.boot(name, [disk], extra=QUIET, lines=line, bridge="xenbr0,vifname=uplink")
    texts = {
        f"{name} comes without {what}"
        for what in ("seclabel", "vifname of a network interface", "the core dump of on_crash")
    }
    assert {one.text for one in a.plan(name).warnings if one.code == "left-out"} >= texts
    a.migrate(name)
    for host in hosts:
        found = [one.text for one in host.last_of(name).remarks if one.code == "left-out"]
        assert texts <= set(found)
        assert len(found) == len(set(found))


def test_a_password_is_never_shown(hosts: Hosts) -> None:
    a, b = hosts
    name = guest_with(a, "vncpasswd = \"hunter'2\"\nvfb = ['vnc=1,vncpasswd=hunter\\'2']")
    plan = a.plan(name)
    a.migrate(name)
    assert said(plan.warnings, "config-received").weight is Weight.ACTION
    everything = str((plan, a.last_of(name), b.last_of(name))) + a.log() + b.log()
    assert "hunter" not in everything
