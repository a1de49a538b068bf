"""What is called otherwise on the other host: guests, pools, volumes, bridges."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, RESIDENT, Dom0, image, the_problem, unique, volume_wire
from xenmoved.control.api import GetJob

Hosts = tuple[Dom0, Dom0]


@pytest.fixture
def bridges(hosts: Hosts) -> Iterator[None]:
    """host-b has a bridge more."""
    _, b = hosts
    b.bridges("xenbr0", "br-lan")
    yield
    b.bridges("xenbr0")


def typed(host: Dom0, *words: str) -> str:
    """Run `xenmovectl`, which must succeed; return what it printed."""
    done = host.ctl(*words)
    assert done.returncode == 0, done
    return " ".join((done.stdout + done.stderr).split())


def refused(host: Dom0, status: int, *words: str) -> str:
    """Run `xenmovectl`, which must refuse; return what it said."""
    done = host.ctl(*words)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


class TestRename:
    @pytest.mark.parametrize("tool", ["xl", "xm"])
    def test_there_and_back(self, request: pytest.FixtureRequest, tool: str) -> None:
        a, b = request.getfixturevalue("hosts" if tool == "xl" else "xm_hosts")
        name, other = unique("web"), unique("shop")
        disk = image(a.images / f"{name}-root", 4)
        guest = a.boot(name, [disk], autostart=True)
        written = guest.config.read_text()

        plan = typed(a, "plan", name, "host-b", "--rename", other)
        assert f"{name} to host-b as {other}" in plan
        assert f"{disk} images:{name}-root new there" in plan
        told = typed(a, "migrate", name, "host-b", "--rename", other)
        assert f"{name} moved to host-b as {other}" in told

        b.assert_runs(other)
        assert b.domain(name) is None
        assert a.domain(name) is None
        there = b.domain(other)
        assert there is not None
        assert there.uuid == guest.uuid
        config = (b.guest_configs / f"{other}.cfg").read_text()
        assert config == written.replace(f"name = '{name}'", f"name = '{other}'").replace(
            str(a.images), str(b.images)
        )
        assert (b.guest_configs / "auto" / f"{other}.cfg").read_text() == config
        assert not (b.guest_configs / f"{name}.cfg").exists()
        assert not list((a.guest_configs / "auto").iterdir())
        assert (a.guest_configs / f"{name}.cfg.moved").exists()
        leaving, arrived = a.last_of(name), b.last_of(other)
        assert (leaving.guest, leaving.other_name) == (name, other)
        assert (arrived.guest, arrived.other_name) == (other, name)
        assert f"{name} to host-b as {other}" in typed(a, "show", name)
        assert json.loads(a.ctl("show", name, "--json").stdout)["other_name"] == other
        assert f"{other} from host-a, where it was {name}" in typed(b, "show", other)
        assert f"{name} (called {other} on host-b) is on host-b now" in a.log()
        assert f"{other} (called {name} on host-a) is here now" in b.log()

        b.migrate(other, "host-a", mode=None, rename=name)
        a.assert_runs(name)
        assert guest.config.read_text() == written
        assert (a.guest_configs / "auto" / guest.config.name).read_text() == written
        assert not list(b.guest_configs.glob("*.cfg"))
        assert not list((b.guest_configs / "auto").iterdir())
        back = b.last_of(other)
        assert not back.volumes[0].fresh
        assert a.domain(other) is None

    @pytest.mark.sampled
    @pytest.mark.parametrize("mode", [Mode.SAVE, Mode.LIVE, Mode.COLD])
    def test_in_every_mode(self, hosts: Hosts, mode: Mode) -> None:
        a, b = hosts
        name, other = unique("web"), unique("shop")
        a.boot(name, [image(a.images / f"{name}-root", 1)])
        if mode is Mode.COLD:
            a.xen.xl("destroy", name)
        a.migrate(name, mode=mode, rename=other)
        if mode is Mode.COLD:
            assert b.domain(other) is None
            b.xen.xl("create", str(b.guest_configs / f"{other}.cfg"))
        b.assert_runs(other)

    def test_its_own_name_is_no_other(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("web")
        a.boot(name, [image(a.images / f"{name}-root", 1)])
        report = a.migrate(name, rename=name)
        assert report.other_name == ""
        b.assert_runs(name)

    def test_the_new_name_must_be_allowed(self, hosts: Hosts) -> None:
        a, b = hosts
        b.trust(a, guests=("shop*",))
        assert the_problem(a.try_migrate(RESIDENT), "permission")
        assert a.plan(RESIDENT, rename="shop1").problems == ()
        b.trust(a, guests=(RESIDENT,))
        found = the_problem(a.try_migrate(RESIDENT, rename="shop1"), "permission")
        assert "does not take a guest called shop1 from host-a" in found.text

    def test_a_name_that_is_taken(self, hosts: Hosts) -> None:
        a, b = hosts
        taken = unique("taken")
        b.boot(taken, [image(b.images / f"{taken}-root", 1)])
        said = refused(a, 3, "migrate", RESIDENT, "host-b", "--rename", taken)
        assert f"host-b has a domain called {taken} already" in said
        assert "--rename NEW" in said
        b.assert_runs(taken)
        a.assert_runs(RESIDENT)

    @pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "a/b"])
    def test_odd_names(self, hosts: Hosts, name: str) -> None:
        said = refused(hosts[0], 2, "plan", RESIDENT, "host-b", f"--rename={name}")
        assert "no guest can be called" in said


class TestPools:
    @pytest.mark.thorough
    def test_for_one_job(self, hosts: Hosts, tmp_path: Any) -> None:
        a, b = hosts
        name = unique("web")
        root = image(a.images / f"{name}-root", 1)
        data = image(a.pools["small"] / f"{name}-data", 1)
        a.boot(name, [root, data])
        wishes = ("--pool", "images=thin", "--pool", "small=images")
        plan = typed(a, "plan", name, "host-b", *wishes)
        assert f"{root} thin:{name}-root new" in plan
        assert f"{data} images:{name}-data new" in plan
        typed(a, "migrate", name, "host-b", *wishes)
        b.assert_runs(name)
        assert (b.pools["thin"] / root.name).exists()
        assert (b.images / data.name).exists()
        config = (b.guest_configs / f"{name}.cfg").read_text()
        assert str(b.pools["thin"] / root.name) in config

    def test_one_for_the_rest(self, hosts: Hosts) -> None:
        a, _ = hosts
        name = unique("web")
        root = image(a.images / f"{name}-root", 1)
        data = image(a.pools["small"] / f"{name}-data", 1)
        a.boot(name, [root, data], extra=QUIET)
        plan = typed(a, "plan", name, "host-b", "--pool", "thin", "--pool", "small=images")
        assert f"{root} thin:{name}-root" in plan
        assert f"{data} images:{name}-data" in plan

    def test_for_a_peer_and_a_job_before_it(self, hosts: Hosts) -> None:
        a, b = hosts
        with b.peer_settings("host-a", pools={"images": "thin"}):
            assert "thin:resident-root" in typed(a, "plan", RESIDENT, "host-b")
            plan = typed(a, "plan", RESIDENT, "host-b", "--pool", "images=small")
            assert "small:resident-root" in plan

    def test_permissions_hold(self, hosts: Hosts) -> None:
        a, b = hosts
        b.trust(a, pools=("images",))
        with b.peer_settings("host-a", pools={"images": "thin"}):
            found = the_problem(a.try_migrate(RESIDENT), "permission")
            assert "no pool thin that host-a may use" in found.text
            assert a.plan(RESIDENT, pools={"images": "images"}).problems == ()

    def test_slips(self, hosts: Hosts) -> None:
        a, b = hosts
        said = refused(a, 3, "plan", RESIDENT, "host-b", "--pool", "image=thin")
        assert "--pool image=thin: the guest has no disk in a pool image here" in said
        assert "there are: images" in said
        said = refused(a, 3, "plan", RESIDENT, "host-b", "--pool", "images=fastest")
        assert "host-b has no pool fastest that host-a may use" in said
        said = refused(a, 2, "plan", RESIDENT, "host-b", "--pool", "a=b", "--pool", "a=c")
        assert "--pool is said twice for a: b and c" in said
        said = refused(a, 2, "plan", RESIDENT, "host-b", "--pool", "images=")
        assert "'images=' is not OLD=NEW" in said
        with b.peer_settings("host-a", pools={"images": "nope"}):
            assert "pools.images: there is no pool 'nope'" in b.log()


class TestVolumes:
    @pytest.mark.thorough
    def test_for_one_job(self, hosts: Hosts) -> None:
        a, b = hosts
        stem = unique("x").replace("-", "")
        name = f"vm-{stem}"
        disks = [image(a.images / f"vm-{stem}-{part}", 1) for part in ("root", "swap", "log")]
        a.boot(name, disks, extra=QUIET)
        wishes = ("--volume", "vm-*-root=*-disk0", "--volume", "vm-*-*=*-part-*")
        plan = typed(a, "plan", name, "host-b", *wishes)
        assert f"{disks[0]} images:{stem}-disk0 new" in plan
        typed(a, "migrate", name, "host-b", *wishes)
        b.assert_runs(name)
        expected = {f"{stem}-disk0", f"{stem}-part-swap", f"{stem}-part-log"}
        assert expected == {path.name for path in b.images.iterdir()}
        back = ("--volume", "*-disk0=vm-*-root", "--volume", "*-part-*=vm-*-*")
        plan = typed(b, "plan", name, "host-a", *back)
        assert f"images:vm-{stem}-root exists there: differences only" in plan
        typed(b, "migrate", name, "host-a", *back)
        a.assert_runs(name)
        assert volume_wire(b.ask(GetJob(name))) < 200_000

    def test_for_a_peer_and_a_job_before_it(self, hosts: Hosts) -> None:
        a, b = hosts
        with b.peer_settings("host-a", volumes={"res*-root": "*-disk0"}):
            assert "images:ident-disk0 new" in typed(a, "plan", RESIDENT, "host-b")
            plan = typed(a, "plan", RESIDENT, "host-b", "--volume", "*-root=*-r")
            assert "images:resident-r new" in plan

    def test_a_sync_that_names_its_target_means_it(self, hosts: Hosts) -> None:
        a, b = hosts
        disk = image(a.images / "volume-root", 1)
        with b.peer_settings("host-a", volumes={"*-root": "*-disk0"}):
            a.sync(disk, target="images:other-root")
            a.sync(disk)
        assert {path.name for path in b.images.iterdir()} == {"other-root", "volume-disk0"}

    def test_two_of_one_name(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("web")
        disks = [image(a.images / f"{name}-{part}", 1) for part in ("root", "data")]
        a.boot(name, disks, extra=QUIET)
        said = refused(a, 3, "migrate", name, "host-b", "--volume", f"{name}-*={name}")
        assert f"two disks of the guest would both become images:{name}" in said
        assert not list(b.images.iterdir())
        with b.peer_settings("host-a", volumes={f"{name}-*": "disk"}):
            found = the_problem(a.try_migrate(name), "volume-name")
            assert "two disks of the guest would both become images:disk" in found.text

    def test_a_name_of_somebody_else(self, hosts: Hosts) -> None:
        a, b = hosts
        image(b.images / "mine", 4)
        found = the_problem(a.try_migrate(RESIDENT, volumes={"*": "mine"}), "volume-exists")
        assert "--volume OLD=NEW" in found.hint

    def test_slips(self, hosts: Hosts) -> None:
        a, _ = hosts
        for rule, words in (
            ("root=disk", "--volume root=disk: no volume of the guest is called like that here"),
            ("*-root=-*", "cannot be called '-resident' there"),
        ):
            assert words in refused(a, 3, "plan", RESIDENT, "host-b", "--volume", rule)
        for rule, words in (
            ("*=*-*", "'*-*' has more * than '*' gives it something to put there"),
            ("a/b=c", "'a/b' is no pattern of volume names: no slash"),
            ("a=", "'' is no pattern of volume names"),
            ("a", "is not OLD=NEW"),
            ("**=a", "'**' is no pattern of volume names"),
        ):
            assert words in refused(a, 2, "plan", RESIDENT, "host-b", "--volume", rule)


@pytest.mark.usefixtures("bridges")
class TestBridges:
    def test_for_one_job(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("net")
        guest = a.boot(name, [image(a.images / f"{name}-root", 1)])
        plan = typed(a, "plan", name, "host-b", "--bridge", "xenbr0=br-lan")
        assert "BRIDGE THERE xenbr0 br-lan" in plan
        typed(a, "migrate", name, "host-b", "--bridge", "xenbr0=br-lan")
        domain = b.domain(name)
        assert domain is not None
        assert [nic["bridge"] for nic in domain.config["nics"]] == ["br-lan"]
        assert "bridge=br-lan" in (b.guest_configs / guest.config.name).read_text()

    def test_before_what_the_peer_has(self, hosts: Hosts) -> None:
        a, b = hosts
        with b.peer_settings("host-a", bridges={"xenbr0": "nowhere"}):
            found = the_problem(a.try_migrate(RESIDENT), "bridge")
            assert "host-b has no bridge nowhere" in found.text
            plan = a.plan(RESIDENT, bridges={"xenbr0": "br-lan"})
            assert plan.problems == ()
            (bridge,) = plan.bridges
            assert (bridge.source, bridge.target) == ("xenbr0", "br-lan")

    def test_slips(self, hosts: Hosts) -> None:
        a, _ = hosts
        said = refused(a, 3, "plan", RESIDENT, "host-b", "--bridge", "xenbr1=br-lan")
        assert "--bridge xenbr1=br-lan: the guest is on no bridge xenbr1 here" in said
        assert "there are: xenbr0" in said
        said = refused(a, 3, "plan", RESIDENT, "host-b", "--bridge", "xenbr0=br-wan")
        assert "host-b has no bridge br-wan" in said
        assert "bridges of host-b: br-lan, xenbr0" in said
        assert "is not OLD=NEW" in refused(a, 2, "plan", RESIDENT, "host-b", "--bridge", "xenbr0")


ODD_NAMES = {
    "Windows Server 2012.img": "Windows-Server-2012.img",
    "K\u00fcche": "Kuche",
    "ip-192.0.2.1:3260-iscsi-lun-1": "ip-192.0.2.1-3260-iscsi-lun-1",
    "\u65e5\u672c": "disk",
}


@pytest.mark.parametrize(
    ("odd", "proposed"),
    [
        pytest.param(*names, marks=[pytest.mark.slow] if number else [])
        for number, names in enumerate(ODD_NAMES.items())
    ],
)
def test_a_disk_of_a_name_that_others_cannot_take_moves_under_another(
    hosts: Hosts, odd: str, proposed: str
) -> None:
    a, b = hosts
    name = unique("odd")
    a.boot(name, [image(a.images / odd, 1)], extra=QUIET)
    (problem,) = a.plan(name).problems
    assert problem.code == "volume-name"
    assert f"{odd}={proposed}" in problem.hint
    assert a.ctl("plan", name, "host-b", "--volume", f"{odd}={proposed}").returncode == 0
    a.migrate(name, volumes={odd: f"{name}-disk"})
    b.assert_runs(name)
    assert (b.images / f"{name}-disk").exists()
