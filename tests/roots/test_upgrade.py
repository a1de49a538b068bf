"""A package is upgraded under systemd while a guest of an emulated host moves."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.roots.conftest import OLDER
from tests.roots.root import booted

_PYTHON = "/usr/lib/xenmoved/bin/python"


def test_an_upgrade_in_mid_migration(root, package, older):
    scene = root.put(Path(__file__).with_name("scene.py"))
    installed, newer = root.put(older), root.put(package)
    root.run(f"dpkg -i {installed}")
    with booted(root) as system:
        assert "no dom0" in system.run(f"dpkg -i {installed}")
        system.run(f"{_PYTHON} {scene} begin")
        for _ in range(60):
            job = system.run("xenmovectl status")
            if "pre-copy" in job:
                break
            time.sleep(1)
        assert "pre-copy" in job
        before = system.run("systemctl show --property=MainPID --value xenmoved")
        said = system.run(f"dpkg -i --force-confold {newer}")
        print(said)
        assert f"the daemon was restarted; it was that of {OLDER}" in said
        assert "  guest 'web1' to host-b: copying" in said
        assert re.search(r"and now nothing|  guest 'web1' to host-b: aborted", said)
        assert system.run("systemctl show --property=MainPID --value xenmoved") != before
        system.run(f"{_PYTHON} {scene} move")
        # The word of a guest that left is settled: nobody asks this host for it.
        assert "the daemon was restarted" not in system.run("dpkg --purge xenmoved")
        assert not root.path("/var/lib/xenmoved").exists()
