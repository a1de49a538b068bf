"""tracefs is mounted where nobody did it: in mount namespaces of the tests' own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.tracing

UNMOUNTED = (
    "while umount /sys/kernel/tracing 2>/dev/null; do :; done; "
    "umount -l /sys/kernel/debug 2>/dev/null; "
)


def said(script: str, prepare: str = "", *, user: str = "") -> list[str]:
    """Run a script in a mount namespace in which tracefs is not mounted; returns its lines."""
    drop = f"import os; os.setresuid({user}, {user}, {user})\n" if user else ""
    imports = "from storage.tracking.tracefs import *\n"
    imports += "from storage.tracking.tracefs import mount_tracefs\n"
    code = imports + drop + textwrap.dedent(script)
    command = f'{UNMOUNTED}{prepare}exec "$0" -c "$1"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", command]
    done = subprocess.run(
        [*words, sys.executable, code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


TRY = """
    try:
        print(mount_tracefs())
    except TracingUnavailable as error:
        print(error)
"""


def test_it_is_mounted_once_and_as_others_expect_it():
    lines = said(f"""
    {TRY}
    {TRY}
    print(find_tracefs())
    for line in open("/proc/self/mounts"):
        if " /sys/kernel/tracing " in line:
            print(line.strip())
    """)
    assert lines[:3] == ["/sys/kernel/tracing", "None", "/sys/kernel/tracing"]
    (mounted,) = lines[3:]
    assert mounted.startswith("tracefs /sys/kernel/tracing tracefs rw,nosuid,nodev,noexec,")


def test_it_is_not_mounted_again_where_it_is_elsewhere():
    elsewhere = "mount -t debugfs debugfs /sys/kernel/debug; "
    assert said(TRY, elsewhere) == ["None"]


def test_a_user_who_may_not_mount_is_told_so():
    assert said(TRY, user="65534") == [
        "tracefs cannot be mounted at /sys/kernel/tracing: Operation not permitted"
    ]


def test_a_host_is_left_as_it_was():
    lines = said("""
    def mounted():
        return any(" /sys/kernel/tracing " in line for line in open("/proc/self/mounts"))
    with borrowed_tracefs():
        print(mounted())
    print(mounted())
    mount_tracefs()
    with borrowed_tracefs():
        pass
    print(mounted())
    """)
    assert lines == ["True", "False", "True"]
