"""A peer that wants files of this host, by having a guest booted from them, or as a CD-ROM."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.messages import Failed, Findings, Refused
from tests.integration.test_hostile_guest import come, with_file
from tests.integration.test_hostile_peer import (
    SIZE,
    Target,
    guest,
    running,
    saved,
    target,
)
from tests.support.hostile import Guest, greeted, with_config

__all__ = ["guest", "running", "saved", "target"]


@pytest.fixture
def secret(target: Target) -> Iterator[Path]:
    """An initramfs with keys of this host in it, as many systems make them."""
    file = target.host.xen.root / "boot" / "initrd-with-keys"
    file.parent.mkdir(exist_ok=True)
    file.write_text("HOSTKEY")
    file.chmod(0o600)
    yield file
    file.unlink()


KEYS = ("kernel", "ramdisk", "smbios_firmware", "acpi_firmware", "system_firmware")


@pytest.mark.parametrize("key", KEYS)
async def test_no_stream_names_a_file_that_only_some_may_read(
    target: Target, guest: Guest, secret: Path, key: str
) -> None:
    config = copy.deepcopy(guest.config)
    config["b_info"].pop("bootloader", None)
    config["b_info"][key] = f"/boot/{secret.name}"
    image = with_config(guest.image, config)
    async with come(target, guest, guest.offer(SIZE), image) as (said, files):
        assert isinstance(said, Failed), said
        assert "not everybody on this host may read it" in said.problem.text
        assert not [name for name in files if guest.name in name]
    secret.chmod(0o644)
    async with come(target, guest, guest.offer(SIZE), image) as (said, _):
        assert not isinstance(said, Failed), said


@pytest.mark.parametrize("key", KEYS)
async def test_no_file_names_one_either(
    target: Target, guest: Guest, secret: Path, key: str
) -> None:
    offer = with_file(guest, f"memory = 2\n{key} = '/boot/{secret.name}'\n", autostart=True)
    async with come(target, guest, offer) as (said, files):
        assert isinstance(said, Refused), said
        assert [one.code for one in said.problems] == ["boot-file"]
        assert not [name for name in files if guest.name in name]


async def test_no_link_leads_out_of_the_folders(target: Target, guest: Guest, secret: Path) -> None:
    secret.unlink()
    secret.symlink_to("/etc/passwd")
    offer = with_file(guest, f"memory = 2\nramdisk = '/boot/{secret.name}'\n")
    async with come(target, guest, offer) as (said, _):
        assert isinstance(said, Refused), said
        assert "leads out of the folders" in said.problems[0].hint


async def test_no_guest_has_the_uuid_of_domain_0(target: Target, guest: Guest) -> None:
    offer = guest.offer(SIZE)
    assert offer.guest is not None
    zero = "00000000-0000-0000-0000-000000000000"
    wanted = replace(offer, guest=replace(offer.guest, uuid=zero))
    async with target.evil.linked() as link:
        found = await (await greeted(link)).ask(wanted)
    assert isinstance(found, Findings)
    assert "guest-uuid" in {one.code for one in found.problems}
