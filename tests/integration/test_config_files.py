"""Configuration files of guests, and what starts them at boot, wherever these are."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, Dom0, Guest, image, problems, unique

Hosts = tuple[Dom0, Dom0]


@pytest.fixture
def elsewhere(hosts: Hosts, tmp_path: Path) -> tuple[Guest, Path]:
    """A guest of host-a that was created from a file in another folder, and that file."""
    a, _ = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)])
    file = tmp_path / "guest.cfg"
    guest.config.rename(file)
    return guest, file


def entries(host: Dom0) -> list[str]:
    """Names of what is started at boot."""
    return sorted(path.name for path in (host.guest_configs / "auto").iterdir())


def starts_from(host: Dom0, config: Path, name: str) -> None:
    """Shut a guest down and start it again from a file."""
    host.xen.xl("destroy", name)
    host.xen.xl("create", str(config))
    host.assert_runs(name)


@pytest.mark.thorough
def test_a_file_elsewhere(hosts: Hosts, elsewhere: tuple[Guest, Path]) -> None:
    a, b = hosts
    guest, file = elsewhere
    (warning,) = [one for one in a.plan(guest.name).warnings if one.code == "no-config-file"]
    assert "one is written from how it runs now, on host-b" in warning.text
    shown = a.ctl("plan", guest.name, "host-b")
    assert shown.returncode == 0
    assert f"{guest.name} has no configuration file in {a.guest_configs}" in " ".join(
        shown.stdout.split()
    )
    written = file.read_text()
    a.migrate(guest.name, mode=None)
    config = b.guest_configs / f"{guest.name}.cfg"
    assert "Written by xenmoved" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    assert entries(b) == []
    before = b.domain(guest.name)
    starts_from(b, config, guest.name)
    after = b.domain(guest.name)
    assert before is not None
    assert after is not None
    assert after.uuid == guest.uuid
    for key in ("disks", "nics"):
        assert after.config[key] == before.config[key]
    assert after.config["b_info"] == before.config["b_info"]
    assert file.read_text() == written, "it is nobody's but the operator's"
    b.migrate(guest.name, "host-a", mode=None)
    a.assert_runs(guest.name)


@pytest.mark.thorough
def test_a_file_elsewhere_that_is_started_at_boot(
    hosts: Hosts, elsewhere: tuple[Guest, Path]
) -> None:
    a, b = hosts
    guest, file = elsewhere
    (a.guest_configs / "auto" / "10-web").symlink_to(file)
    assert not [one for one in a.plan(guest.name).warnings if one.code == "no-config-file"]
    a.migrate(guest.name, rename=f"{guest.name}-b")
    config = b.guest_configs / f"{guest.name}-b.cfg"
    assert "Written by xenmoved" not in config.read_text()
    assert f"name = '{guest.name}-b'" in config.read_text()
    assert entries(b) == [f"10-{config.name}"]
    assert entries(a) == []
    assert file.exists()
    b.migrate(f"{guest.name}-b", "host-a", rename=guest.name)
    assert entries(a) == ["10-web"]
    assert (a.guest_configs / "auto" / "10-web").readlink() == file
    assert not guest.config.exists(), "it needs no other file than its own"


def test_a_cold_guest_with_a_file_elsewhere(hosts: Hosts, elsewhere: tuple[Guest, Path]) -> None:
    a, b = hosts
    guest, file = elsewhere
    (a.guest_configs / "auto" / "web").symlink_to(file)
    a.xen.xl("destroy", guest.name)
    a.migrate(guest.name, mode=Mode.COLD)
    assert entries(a) == []
    assert entries(b) == [f"{guest.name}.cfg"]
    b.xen.xl("create", str(b.guest_configs / f"{guest.name}.cfg"))
    b.assert_runs(guest.name)


@pytest.mark.thorough
def test_a_file_of_another_name_keeps_it(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)])
    file = guest.config.rename(a.guest_configs / "production.cfg")
    (a.guest_configs / "auto" / "production.cfg").symlink_to("../production.cfg")
    file.chmod(0o640)
    written = file.read_text()
    a.migrate(name)
    assert entries(a) == []
    assert not file.exists()
    assert (a.guest_configs / "production.cfg.moved").read_text() == written
    assert entries(b) == [f"{name}.cfg"]
    b.migrate(name, "host-a")
    assert file.read_text() == written
    assert file.stat().st_mode & 0o777 == 0o640
    assert (a.guest_configs / "auto" / entries(a)[0]).read_text() == written
    assert not list(a.guest_configs.glob("*.moved"))


def test_a_file_of_its_name_that_is_anothers(hosts: Hosts) -> None:
    a, b = hosts
    name, other = unique("web"), unique("db")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)])
    guest.config.write_text(f"name = '{other}'\nmemory = 2\n")
    (b.guest_configs / f"{name}.cfg").write_text(f"name = '{other}'\n")
    (b.guest_configs / "auto" / f"{name}.cfg").symlink_to(f"../{name}.cfg")
    a.migrate(name)
    assert guest.config.exists(), f"it is {other}'s"
    assert (b.guest_configs / f"{name}.cfg").read_text() == f"name = '{other}'\n"
    received = b.guest_configs / f"{name}.cfg.received"
    assert f"name = '{name}'" in received.read_text()
    assert "is there, of another domain" in b.log()


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("mode", "uuid"),
    [
        (Mode.LIVE, f"uuid = '{uuid4()}'\n"),
        (Mode.SAVE, f"uuid = '{uuid4()}'\n"),
        (Mode.COLD, f"uuid = '{uuid4()}'\n"),
        (Mode.LIVE, ""),  # its disks tell
    ],
    ids=["live", "save", "cold", "by its disks"],
)
def test_another_guest_that_is_off_has_the_name(hosts: Hosts, mode: Mode, uuid: str) -> None:
    """The next boot of host-b would start that one under the name of the one that came."""
    a, b = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    if mode is Mode.COLD:
        a.xen.xl("destroy", name)
    other = f"name = '{name}'\n{uuid}disk = ['phy:/dev/null,xvda,w']\n"
    file = b.guest_configs / f"{name}.cfg"
    file.write_text(other)
    (found,) = a.plan(name, mode=mode).problems
    assert found.code == "guest-exists"
    assert "a configuration of another guest" in found.text
    assert "--rename" in found.hint
    assert problems(a.try_migrate(name, mode=mode)) == (found,)
    a.migrate(name, mode=mode, rename=f"{name}-too")
    assert file.read_text() == other
    assert guest.uuid in (b.guest_configs / f"{name}-too.cfg").read_text()


def test_a_missing_disk_of_another_guest_is_not_made_for_this_one(hosts: Hosts) -> None:
    """Its own file may be here before it; another guest's would start it from this one's disk."""
    a, b = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    there = b.images / f"{name}-root"
    other = b.guest_configs / "other.cfg"
    other.write_text(f"name = 'other'\ndisk = ['file:{there},xvda,w']\n")
    (found,) = a.plan(name).problems
    assert (found.code, str(other) in found.text) == ("guest-here", True)
    other.unlink()
    own = f"name = '{name}'\nuuid = '{guest.uuid}'\ndisk = ['file:{there},xvda,w']\n"
    (b.guest_configs / f"{name}.cfg").write_text(own)
    assert a.plan(name).problems == ()
    a.migrate(name)
    b.assert_runs(name)


def test_a_copy_of_a_file_among_those_to_start(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)])
    copy = a.guest_configs / "auto" / "web"
    guest.config.rename(copy)
    a.migrate(name)
    assert entries(a) == []
    assert (a.guest_configs / f"{name}.auto.moved" / "web").exists()
    assert entries(b) == [f"{name}.cfg"]
    assert "Written by xenmoved" not in (b.guest_configs / f"{name}.cfg").read_text()


def test_a_program_needs_a_human(xm_hosts: Hosts) -> None:
    a, b = xm_hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], autostart=True, extra=QUIET)
    guest.config.write_text(f"import os\n{guest.config.read_text()}")
    a.migrate(name)
    b.assert_runs(name)
    assert (b.guest_configs / f"{name}.cfg.received").read_text().startswith("import os")
    assert entries(b) == []
    assert entries(a) == []


def test_xm_writes_none(xm_hosts: Hosts) -> None:
    a, b = xm_hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    guest.config.unlink()
    (warning,) = [one for one in a.plan(name).warnings if one.code == "no-config-file"]
    assert "none will be on host-b" in warning.text
    a.migrate(name)
    b.assert_runs(name)
    assert not list(b.guest_configs.glob("*.cfg*"))


def beside(guest: Guest, name: str) -> Path:
    """Put another file that names a guest beside its own."""
    text = guest.config.read_text()
    path = guest.config.with_name(name)
    path.write_text(f"# {name}\n" + "\n".join(x for x in text.split("\n") if "uuid" not in x))
    return path


@pytest.mark.thorough
def test_of_several_files_the_one_it_was_created_from_goes_and_comes_back(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("win")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    install, run = beside(guest, f"{name}-install.cfg"), beside(guest, f"{name}-run.cfg")
    guest.config.unlink()
    starts_from(a, run, name)
    written = run.read_text()
    (warning,) = [one for one in a.plan(name).warnings if one.code == "config-files"]
    assert f"{run} moves to host-b, as the guest was created from it" in warning.text
    assert warning.text.endswith(f": {install}")
    a.migrate(name, mode=None)
    assert sorted(path.name for path in a.guest_configs.glob(f"{name}*")) == [
        f"{name}-install.cfg",
        f"{name}-run.cfg.moved",
    ]
    assert (b.guest_configs / f"{name}.cfg").read_text().startswith(f"# {name}-run.cfg\n")
    b.migrate(name, "host-a", mode=None)
    assert run.read_text() == written
    assert install.exists()
    assert sorted(path.name for path in a.guest_configs.glob(f"{name}*")) == [
        f"{name}-install.cfg",
        f"{name}-run.cfg",
    ]


def test_a_disk_for_the_next_start_and_a_drive_that_was_emptied(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    guest = a.boot(name, [image(a.images / f"{name}-root", 1)], autostart=True, extra=QUIET)
    new, iso = (image(a.images / f"{name}-{what}", 1) for what in ("new", "iso"))
    text = guest.config.read_text()
    more = f"disk += [ 'file:{new},xvdz,w', 'file:{iso},hdc:cdrom,r' ]\n"
    guest.config.write_text(text + more)
    a.migrate(name)
    assert entries(b) == [f"{name}.cfg"]
    there = (b.guest_configs / f"{name}.cfg").read_text()
    assert there.endswith("disk += [ ',hdc:cdrom,r' ]\n")
    assert f"{name} comes without disk xvdz" in b.log()
    starts_from(b, b.guest_configs / f"{name}.cfg", name)
