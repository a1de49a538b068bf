"""What `xenmovectl list` calls movable, and the guests that are off."""

from __future__ import annotations

from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.control.api import ListGuests
from xenmoved.migration.report import GuestRow

Hosts = tuple[Dom0, Dom0]


def row(host: Dom0, name: str) -> GuestRow:
    """The one row of a guest."""
    (found,) = [one for one in host.ask(ListGuests()).guests if one.name == name]
    return found


def test_a_guest_that_is_off_is_listed(hosts: Hosts) -> None:
    a, _ = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name}-root", 1)], extra=QUIET)
    assert row(a, name).state == "running"
    a.xen.xl("destroy", name)
    found = row(a, name)
    assert (found.state, found.domid, found.obstacles) == ("off", 0, ())
    assert [disk.size for disk in found.disks] == [2**20]
    (line,) = [one for one in a.ctl("list").stdout.splitlines() if one.startswith(name)]
    assert line.split() == [name, "-", "pv", "off", "2MiB", "yes"]
    (a.guest_configs / f"{name}.cfg").write_text(f"import os\nname = '{name}'\n")
    (why,) = row(a, name).obstacles
    assert "line 1" in why
    assert a.ctl("evacuate", "host-b", "--dry-run").stdout.count(name) == 0


def test_a_disk_that_needs_another_name_there(hosts: Hosts) -> None:
    a, _ = hosts
    name = unique("web")
    a.boot(name, [image(a.images / f"{name} C.img", 1)], extra=QUIET)
    (why,) = row(a, name).obstacles
    assert f"--volume '{name} C.img={name}-C.img'" in why


def test_a_guest_whose_name_no_host_takes(hosts: Hosts) -> None:
    a, b = hosts
    name = f"{unique('web')} 10"
    a.boot(name, [image(a.images / f"{unique('w')}-root", 1)], extra=QUIET)
    better = name.replace(" ", "-")
    (why,) = row(a, name).obstacles
    assert f"xl rename '{name}' {better}" in why
    for words in (("plan", name), ("migrate", name), ("migrate", name, "--rename", "fine")):
        done = a.ctl(words[0], words[1], "host-b", *words[2:])
        assert done.returncode == 3
        assert f"xl rename '{name}' {better}" in " ".join((done.stdout + done.stderr).split())
    for wish in ("42", "web--incoming", "K\u00fcche"):
        done = a.ctl("plan", "resident", "host-b", "--rename", wish)
        assert done.returncode == 2
        assert "--rename " in done.stderr
    assert b.running()
