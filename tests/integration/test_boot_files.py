"""Kernels, boot loaders and firmware that a guest's file names and the target does not have."""

from __future__ import annotations

import pytest

from protocol.messages import Mode, Weight
from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.jobs.report import JobState

Hosts = tuple[Dom0, Dom0]
LACKING = {
    "kernel": "/usr/lib/grub-xen/grub-i386-xen_pvh.bin",
    "ramdisk": "/boot/initrd.img-6.1.0-9",
    "bootloader": "/usr/local/bin/pygrub",
    "firmware_override": "/usr/lib/xen-4.11/boot/hvmloader",
}
THERE = (
    *("bootloader = 'pygrub'", "kernel = '/boot/vmlinuz'\nramdisk = '/boot/initrd'"),
    *("bootloader = 'pygrub'\nkernel = '/boot/none'", "kernel = '/usr/lib/xen-4.0/boot/hvmloader'"),
)


def guest(host: Dom0, lines: str, mode: Mode = Mode.SAVE) -> str:
    """Have a guest whose file says this, running unless it is to move cold."""
    name = unique("web")
    host.boot(name, [image(host.images / f"{name}-root", 1)], extra=QUIET, lines=lines)
    if mode is Mode.COLD:
        host.xen.xl("destroy", name)
    return name


@pytest.mark.sampled
@pytest.mark.parametrize("key", LACKING)
def test_what_a_guest_will_not_start_without(hosts: Hosts, key: str) -> None:
    a, _ = hosts
    path = LACKING[key]
    name = guest(a, f"{key} = '{path}'\n")
    plan = a.plan(name)
    assert not plan.problems
    (found,) = [one for one in plan.warnings if one.code == "boot-file"]
    assert found.text.startswith(f"host-b has no {path}, which {name} has as its {key}")
    assert found.hint.startswith("install it on host-b")


@pytest.mark.sampled
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])
def test_it_is_told_of_when_the_guest_has_moved(hosts: Hosts, mode: Mode) -> None:
    a, b = hosts
    name = guest(a, f"kernel = '{LACKING['kernel']}'\n")
    report = a.finish(a.begin(name, mode=mode).job)
    assert report.state is JobState.DONE
    assert [(one.code, one.weight) for one in report.remarks] == [("boot-file", Weight.ACTION)]
    b.assert_runs(name)


@pytest.mark.parametrize("key", ["kernel", "bootloader"])
def test_a_guest_that_is_off_needs_it_at_once(hosts: Hosts, key: str) -> None:
    a, _ = hosts
    name = guest(a, f"{key} = '{LACKING[key]}'\n", Mode.COLD)
    (found,) = a.plan(name, mode=Mode.COLD).problems
    assert found.code == "boot-file" and LACKING[key] in found.text


@pytest.mark.sampled
@pytest.mark.parametrize("lines", THERE)
def test_what_is_there_or_not_needed(hosts: Hosts, lines: str) -> None:
    a, _ = hosts
    plan = a.plan(guest(a, f"{lines}\n", Mode.COLD), mode=Mode.COLD)
    assert not plan.problems


def test_nobody_learns_what_else_a_host_has(hosts: Hosts) -> None:
    a, b = hosts
    (b.xen.root / "etc").mkdir(exist_ok=True)
    there, missing = (
        [one.code for one in a.plan(guest(a, f"kernel = '/etc/{file}'\n")).warnings]
        for file in ("", "none")
    )
    assert there == missing and "boot-file" not in there


@pytest.mark.parametrize("mode", [Mode.SAVE, Mode.COLD])
@pytest.mark.parametrize("key", ["ramdisk", "kernel"])
def test_a_guest_gets_no_file_that_only_some_may_read(hosts: Hosts, key: str, mode: Mode) -> None:
    """Such as an initramfs with keys in it. Only the target's own file counts."""
    a, b = hosts
    file = unique("private")
    for host in hosts:
        (host.xen.root / "boot" / file).write_text("keys")
        (host.xen.root / "boot" / file).chmod(0o600)
    name = guest(a, f"{key} = '/boot/{file}'\n", mode)
    (found,) = a.plan(name, mode=mode).problems
    assert found.code == "boot-file" and f"/boot/{file} on host-b is not for" in found.text
    assert "chmod o+r" in found.hint
    (b.xen.root / "boot" / file).chmod(0o644)
    assert not a.plan(name, mode=mode).problems
    assert a.finish(a.begin(name, mode=mode).job).state is JobState.DONE
