"""Packages for Debian, in fresh systems without a network."""

from __future__ import annotations

import subprocess
from hashlib import sha256

import pytest

from package import deb
from tests.roots.conftest import OLDER
from tests.roots.root import Root

_WRITE = """
import asyncio
from pathlib import Path
from protocol.handover import SourceState
from xenmoved.journal.database import Journal
from xenmoved.journal.records import Outbound

async def main():
    journal = Journal(Path("/var/lib/xenmoved/journal.db"))
    await journal.open()
    entry = Outbound("m1", SourceState.{state}, "web", "host-b", "j1", "u1")
    await journal.record_outbound(entry, settled={settled})
    await journal.close()

asyncio.run(main())
"""


def write_journal(
    root: Root, state: str, *, settled: bool, prefix: str = "/usr/lib/xenmoved"
) -> None:
    """Put one migration into the journal, with the program that is installed."""
    script = _WRITE.format(state=state, settled=settled)
    root.run(f"{prefix}/bin/python -c '{script}'")


def test_it_is_built_twice_with_the_same_bytes(release, package, tmp_path):
    again = deb.build(tmp_path, release)
    assert sha256(again.read_bytes()).hexdigest() == sha256(package.read_bytes()).hexdigest()


def test_it_installs_without_a_network(root, package):
    said = root.run(f"dpkg -i {root.put(package)}")
    assert "xenmoved: systemd does not run here: the daemon was not started" in said
    version = package.name.split("_")[1].partition("~")[0]
    assert root.run("xenmoved --version") == f"xenmoved {version}\n"
    assert root.run("xenmoved --check-config") == ""
    assert root.run("dpkg --verify xenmoved") == ""
    assert "no Xen toolstack answers" in root.run("xenmoved", status=1)
    assert "does not answer" in root.run("xenmovectl status", status=4)
    assert "xenmoved" in root.run("getent group xenmoved")
    listed = root.run("bash -c '. /usr/share/bash-completion/completions/xenmovectl; complete -p'")
    assert "xenmovectl" in listed
    enabled = root.run("systemctl is-enabled xenmoved")
    assert enabled == "enabled\n"


def test_what_it_brings_is_seen_by_no_other_program(root, package):
    root.run(f"dpkg -i {root.put(package)}")
    for name in ("protocol", "storage", "xenmoved", "asyncssh"):
        assert "ModuleNotFoundError" in root.run(f"python3 -c 'import {name}'", status=1)
    # Nor does it see what others have put where Python looks first.
    root.path("/usr/lib/python3/dist-packages/protocol.py").write_text("raise SystemExit('theirs')")
    assert root.run("PYTHONPATH=/usr/lib/python3/dist-packages xenmovectl --version")


def test_an_upgrade_keeps_configuration_and_journal(root, package, older):
    root.run(f"dpkg -i {root.put(older)}")
    assert OLDER in root.run("dpkg-query --show xenmoved")
    settings = root.path("/etc/xenmoved/xenmoved.yaml")
    settings.write_text(f"node: mine\n{settings.read_text()}")
    write_journal(root, "COMMIT_SENT", settled=False)
    said = root.run(f"dpkg -i {root.put(package)}")
    assert settings.read_text().startswith("node: mine\n"), said
    told = root.run("xenmoved --unsettled /var/lib/xenmoved", status=3)
    assert told == "guest 'web' to host-b: commit-sent\n"
    assert root.run("dpkg --verify xenmoved").split() == ["??5??????", "c", str(settings)[-27:]]


def test_an_older_package_may_come_again(root, package, older):
    root.run(f"dpkg -i {root.put(package)}")
    root.run(f"dpkg -i {root.put(older)}")
    assert OLDER in root.run("dpkg-query --show xenmoved")
    assert root.run("dpkg --verify xenmoved") == ""


def test_it_goes_on_from_what_the_archive_has_left(root, package, archive):
    subprocess.run(["tar", "-xzf", archive, "-C", root.path("/root")], check=True)
    root.run("/root/xenmoved-*/install")
    settings = root.path("/etc/xenmoved/xenmoved.yaml")
    settings.write_text(f"node: mine\n{settings.read_text()}")
    write_journal(root, "COMMIT_SENT", settled=False, prefix="/opt/xenmoved")
    said = root.run("/opt/xenmoved/uninstall")
    assert "removed; /var/lib/xenmoved and /etc/xenmoved stay" in said
    root.run(f"dpkg -i --force-confold {root.put(package)}")
    assert settings.read_text().startswith("node: mine\n")
    told = root.run("xenmoved --unsettled /var/lib/xenmoved", status=3)
    assert told == "guest 'web' to host-b: commit-sent\n"
    # An archive does not go over it.
    said = root.run("/root/xenmoved-*/install", status=1)
    assert "the package xenmoved is installed here" in said
    assert root.run("dpkg --verify xenmoved").split() == ["??5??????", "c", str(settings)[-27:]]


def test_nothing_is_left_of_one_that_was_purged(root, package):
    before = root.files()
    root.run(f"dpkg -i {root.put(package)}")
    write_journal(root, "DONE", settled=True)
    removed = root.run("dpkg --remove xenmoved")
    assert "settles" not in removed
    assert root.path("/var/lib/xenmoved/journal.db").exists()
    assert not root.path("/usr/lib/xenmoved").exists()
    said = root.run("dpkg --purge xenmoved")
    assert "removed /var/lib/xenmoved: its journal settled nothing any more" in said
    left = {name for name in root.files() - before if "/__pycache__" not in name}
    assert left <= {"/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock"}


@pytest.mark.parametrize("commands", [("--purge",), ("--remove", "--purge")], ids=len)
def test_a_journal_that_is_needed_outlives_a_purge(root, package, commands):
    root.run(f"dpkg -i {root.put(package)}")
    write_journal(root, "COMMIT_SENT", settled=False)
    for command in commands:
        said = root.run(f"dpkg {command} xenmoved")
    assert "kept /var/lib/xenmoved and /etc/xenmoved/peers.d" in said
    assert "  guest 'web' to host-b: commit-sent" in said
    assert root.path("/var/lib/xenmoved/journal.db").exists()
    assert root.path("/etc/xenmoved/peers.d").exists()
    # Installed again, it goes on from it.
    root.run(f"dpkg -i {root.put(package)}")
    root.run("xenmoved --unsettled /var/lib/xenmoved", status=3)


def test_a_journal_that_was_used_after_the_removal_outlives_a_purge(root, package):
    root.run(f"dpkg -i {root.put(package)}")
    write_journal(root, "DONE", settled=True)
    root.run("dpkg --remove xenmoved; sleep 0.1; touch /var/lib/xenmoved/journal.db-wal")
    said = root.run("dpkg --purge xenmoved")
    assert "'xenmoved --unsettled /var/lib/xenmoved' says what" in said
    assert root.path("/var/lib/xenmoved/journal.db").exists()


def test_lintian_finds_no_error(package):
    command = ["lintian", "--allow-root", "--fail-on", "error", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_piuparts_passes(release, root, package):
    # Nothing can be fetched, and all that the package needs is there.
    root.path("/etc/apt/sources.list").write_text("")
    options = ("--existing-chroot", root.folder, "--keep-sources-list", "--no-upgrade-test")
    options += ("--fake-essential-packages=python3", "--no-eatmydata", "-d", release.name)
    # What debconf of Debian 13 makes for itself whenever apt installs anything.
    options += ("--ignore", "/var/cache/debconf/tmp.ci/")
    isolated = ("unshare", "--net", "--mount", "--propagation", "private")
    command = [*isolated, "piuparts", *options, package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print("\n".join(line for line in done.stdout.splitlines() if " INFO: " in line))
    assert done.returncode == 0, done.stdout[-8000:]
