"""What a peer may do here, and who may use the control socket."""

from __future__ import annotations

import grp
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Action
from tests.support.dom0 import RESIDENT, Dom0, image, the_problem

Hosts = tuple[Dom0, Dom0]
NOBODY = 65534
AS_NOBODY = """
import contextlib, io, os, sys
from xenmoved.ctl.main import main

def run(*args):
    sys.argv[1:] = args
    sys.exit(main())

# Whatever is imported late is imported now: the interpreter may be out of the user's reach.
socket, groups = sys.argv[1], [int(group) for group in sys.argv[2].split(",") if group]
words = sys.argv[3:] or ["status"]
for path in (socket, "/no/such/socket"):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            run("--socket", path, "status")
from xenmoved.ctl.verbs import transfers
os.setgroups(groups)
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
run("--socket", socket, *words)
"""


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        ({"actions": (Action.SYNC,)}, "host-b does not let host-a migrate"),
        ({"actions": (), "pools": (), "guests": ()}, "host-b does not let host-a migrate"),
        ({"guests": ("db-*", "mail")}, "host-b does not take a guest called resident from host-a"),
        ({"pools": ("thin",)}, "host-b has no pool images that host-a may use"),
    ],
    ids=["action", "nothing", "guest", "pool"],
)
def test_a_guest_that_may_not_come(hosts: Hosts, allow: dict[str, Any], words: str) -> None:
    a, b = hosts
    b.trust(a, **allow)
    before = b.footprint()
    answer = a.try_migrate(RESIDENT)
    found = answer.problems[0]
    assert found.code == "permission"
    assert words in found.text
    assert "on host-b, see `allow` of peer host-a" in found.hint
    assert b.footprint() == before
    a.assert_runs(RESIDENT)


def test_a_volume_that_may_not_come(hosts: Hosts) -> None:
    a, b = hosts
    disk = image(a.images / "volume", 1)
    b.trust(a, actions=(Action.MIGRATE,))
    assert "does not let host-a sync" in the_problem(a.try_sync(disk), "permission").text
    b.trust(a, pools=("images",))
    answer = a.try_sync(disk, target="thin:volume")
    assert "no pool thin that host-a may use" in the_problem(answer, "permission").text
    a.sync(disk)


def test_patterns_of_guests_are_matched_as_they_are_written(hosts: Hosts) -> None:
    a, b = hosts
    for pattern, allowed in (("res*", True), ("RES*", False), ("resident?", False)):
        b.trust(a, guests=(pattern,))
        assert (a.plan(RESIDENT).problems == ()) is allowed


@pytest.mark.root
class TestControlSocket:
    @pytest.fixture
    def open_host(self) -> Iterator[Dom0]:
        """A host whose control socket any user can come to, as far as folders are concerned."""
        with tempfile.TemporaryDirectory(prefix="xenmoved-") as root:
            host = Dom0(Path(root), "host-p")
            for folder in (Path(root), host.folder):
                folder.chmod(0o755)
            yield host
            host.close()

    def status_as_nobody(
        self, host: Dom0, *groups: int, words: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `xenmovectl status`, or other words, as a user without any rights."""
        told = ",".join(map(str, groups))
        return subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(host.socket), told, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def test_the_mode_keeps_others_out(self, open_host: Dom0) -> None:
        open_host.start()
        assert open_host.socket.stat().st_mode & 0o777 == 0o600
        done = self.status_as_nobody(open_host)
        assert done.returncode == 5, done.stderr
        assert f"no permission to use {open_host.socket}" in done.stderr
        assert "control.group" in done.stderr

    def test_only_members_of_the_group_get_through(self, open_host: Dom0) -> None:
        group = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY))
        open_host.write_config(control={"socket": str(open_host.socket), "group": group.gr_name})
        open_host.start()
        status = open_host.socket.stat()
        assert (status.st_gid, status.st_mode & 0o777) == (group.gr_gid, 0o660)

        member = self.status_as_nobody(open_host, group.gr_gid)
        assert member.returncode == 0, member.stderr
        assert "host-p" in member.stdout
        assert self.status_as_nobody(open_host).returncode == 5

        # The daemon does not rely on the mode alone.
        open_host.socket.chmod(0o666)
        done = self.status_as_nobody(open_host)
        assert done.returncode == 5, done.stderr
        assert "this user may not use xenmoved" in done.stderr
        assert "control.group" in done.stderr
        assert "was refused at the control socket" in open_host.log()

    def test_a_member_of_the_group_may_check_the_host(self, open_host: Dom0) -> None:
        group = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY))
        open_host.write_config(control={"socket": str(open_host.socket), "group": group.gr_name})
        open_host.start()
        words = ("check", "--pool-warning", "100", "--pool-critical", "100")
        member = self.status_as_nobody(open_host, group.gr_gid, words=words)
        assert member.returncode == 0, (member.stdout, member.stderr)
        assert member.stdout.startswith("XENMOVED OK - host-p: 0 jobs, 0 peers answer | ")
        other = self.status_as_nobody(open_host, words=words)
        assert other.returncode == 3, (other.stdout, other.stderr)
        assert other.stdout.startswith("XENMOVED UNKNOWN - no permission to use ")

    def test_what_is_in_no_pool_is_only_roots_to_sync(self, open_host: Dom0) -> None:
        group = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY))
        open_host.write_config(control={"socket": str(open_host.socket), "group": group.gr_name})
        open_host.start()
        disk = image(open_host.images / "volume", 1)
        secret = image(open_host.folder / "secret", 1)
        link = open_host.folder / "link"
        for target, refused in ((secret, True), (disk, False)):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            for path in (target, link):
                words = ("sync", str(path), "no-such-peer")
                done = self.status_as_nobody(open_host, group.gr_gid, words=words)
                assert done.returncode == (5 if refused else 3), done.stderr
                assert ("is in no pool of this host" in done.stderr) is refused
                assert ("no-such-peer" in done.stderr) is not refused
                assert "no-such-peer" in open_host.ctl(*words).stderr, "root may send it"
