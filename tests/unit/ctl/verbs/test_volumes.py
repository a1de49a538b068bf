"""`xenmovectl volumes`: it lists what is kept, and drops nothing that is not meant."""

import json
import time

import pytest

from protocol.messages import Problem
from tests.support.ctl import MIB, FakeDaemon, failure, run, run_on_terminal
from xenmoved.control.api import Done
from xenmoved.control.volume_api import DropVolumes, ListVolumes
from xenmoved.migration.report import Retained, VolumeRow, Volumes

pytestmark = pytest.mark.long

COPY = VolumeRow(
    *("images", "web-root", "/srv/images/web-root", 8 * MIB, 3 * MIB, ()),
    retained=Retained("web", "0" * 8, time.time() - 3 * 86400, "host-b"),
)
OTHER = VolumeRow("lvm", "db", "/dev/vg0/db", 4 * MIB, None, ("disk of db",), None)


@pytest.fixture
def daemon(tmp_path):
    with FakeDaemon(tmp_path / "s") as fake:
        fake.answers[ListVolumes] = Volumes((COPY, OTHER))
        fake.answers[DropVolumes] = lambda asked: (
            Done("dropped images:web-root") if asked.confirmed else Volumes((COPY,))
        )
        yield fake


def test_volumes_are_listed_with_whose_they_are(daemon):
    shown = run(daemon.path, "volumes")
    _, copy, other = shown.stdout.splitlines()
    assert copy.split() == ["images:web-root", "8MiB", "3MiB", "-", "web", "host-b", "3d"]
    assert other.split() == ["lvm:db", "4MiB", "-", "disk", "of", "db", "-"]
    first, second = json.loads(run(daemon.path, "volumes", "--json").stdout)["volumes"]
    assert (first["retained"]["guest"], second["retained"]) == ("web", None)


def test_a_pool_that_cannot_be_looked_at_is_no_success(daemon):
    daemon.answers[ListVolumes] = Volumes((), (Problem("storage", "cannot list pool lvm", ""),))
    shown = run(daemon.path, "volumes")
    assert shown.returncode == 1
    assert "cannot list pool lvm" in shown.stdout


@pytest.mark.parametrize("args", [[], ["images:web-root", "--guest", "web"]])
def test_it_is_either_a_volume_or_a_guest(daemon, args):
    assert run(daemon.path, "volumes", "drop", *args).returncode == 2
    assert daemon.requests == []


def test_without_a_terminal_it_wants_to_be_told(daemon):
    shown = run(daemon.path, "volumes", "drop", "--guest", "web")
    assert shown.returncode == 2
    assert "3MiB allocated" in shown.stderr
    assert daemon.requests == [DropVolumes(None, "web", confirmed=False)]
    shown = run(daemon.path, "volumes", "drop", "--guest", "web", "--yes")
    assert (shown.returncode, shown.stdout) == (0, "dropped images:web-root\n")
    assert daemon.requests[-1] == DropVolumes(None, "web", confirmed=True)


@pytest.mark.parametrize(("typed", "code"), [("images:web-root\n", 0), ("yes\n", 1)])
def test_what_is_to_be_lost_has_to_be_typed(daemon, typed, code):
    status, screen = run_on_terminal(
        daemon,
        ["volumes", "drop", "images:web-root"],
        react=lambda text: typed if "to go on:" in text else None,
    )
    assert status == code, screen
    assert (daemon.requests[-1].confirmed, "nothing was dropped" in screen) == (
        not code,
        bool(code),
    )


def test_what_is_needed_is_refused_beforehand(daemon):
    daemon.answers[DropVolumes] = failure("volume-in-use", "web-root is needed", "look")
    shown = run(daemon.path, "volumes", "drop", "images:web-root", "--yes")
    assert shown.returncode == 3
    assert "web-root is needed" in shown.stderr
