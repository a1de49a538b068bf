"""The archive for other distributions, in a system without systemd and without a network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from package import bundle
from tests.roots.root import Root, copy_of, without_systemd

_SETTINGS = """
from pathlib import Path
from xenmoved.sandbox.pair import SandboxHost
host = SandboxHost(Path("/srv"), "host-a", settings={
    "state_dir": "/var/lib/xenmoved",
    "control": {"socket": "/run/xenmoved/control.sock"},
    "listen": {"address": "127.0.0.1", "port": 7222},
})
host.config_file = Path("/etc/xenmoved/xenmoved.yaml")
host.write_config()
"""
NOTES = {"/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock"}
"""What the tools for groups leave."""
# What a boot with OpenRC would have made, as far as a service needs it.
_BOOTED = """
    for folder in daemons exclusive failed hotplugged inactive options scheduled started starting \\
            stopping tmp wasinactive; do
        mkdir -p /run/openrc/$folder
    done
    touch /run/openrc/softlevel
"""


@pytest.fixture
def root() -> Iterator[Root]:
    with copy_of(without_systemd()) as fresh:
        yield fresh


@pytest.fixture
def install(root: Root, archive: Path) -> str:
    """What installs the archive, which is unpacked there."""
    subprocess.run(["tar", "-xzf", archive, "-C", root.path("/root")], check=True)
    [folder] = root.path("/root").glob("xenmoved-*")
    return f"/root/{folder.name}/install"


def test_it_is_built_twice_with_the_same_bytes(archive, tmp_path):
    again = bundle.build(tmp_path)
    assert sha256(again.read_bytes()).hexdigest() == sha256(archive.read_bytes()).hexdigest()


def test_the_daemon_runs_under_openrc(root, install):
    before = root.files()
    said = root.run(install)
    assert "rc-update add xenmoved default && rc-service xenmoved start" in said
    root.run(f"/opt/xenmoved/bin/python -c '{_SETTINGS}'")
    said = root.run(f"""
        {_BOOTED}
        rc-update add xenmoved default
        rc-service xenmoved start
        for try in $(seq 60); do xenmovectl status && break; sleep 1; done
        rc-service xenmoved status
        rc-service xenmoved reload
        for process in /proc/[0-9]*; do
            grep -qs '^/opt/xenmoved/bin/python' $process/cmdline || continue
            kill -KILL ${{process#/proc/}}
        done
        ! xenmovectl status
        for try in $(seq 60); do xenmovectl status && break; sleep 1; done
        {install}
        for try in $(seq 60); do xenmovectl status && break; sleep 1; done
        rc-service xenmoved stop
        ! xenmovectl status
    """)
    assert said.count("host-a: xenmoved") == 3, said
    assert "the daemon was restarted, and goes on from its journal" in said
    assert "removed, with /var/lib/xenmoved" in root.run("/opt/xenmoved/uninstall --purge")
    left = {name for name in root.files() - before if not root.path(name).is_dir()}
    assert {name for name in left if not name.startswith("/srv/")} <= NOTES


def test_a_python_that_it_is_not_for_is_named(root, install):
    root.run("mv /usr/bin/python3.11 /usr/bin/python3.10")
    said = root.run(install, status=1)
    assert "install one of 3.14 3.13 3.12 3.11, with sqlite3 and ssl" in said
    assert not root.path("/opt/xenmoved").exists()
