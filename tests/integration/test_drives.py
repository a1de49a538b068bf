"""Disks that are not copied: shared ones, CD-ROMs; and disks that are only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from protocol.messages import Mode
from tests.support.dom0 import QUIET, Dom0, digest, image, the_problem, unique
from tests.support.images import make_cdrom

Hosts = tuple[Dom0, Dom0]


def typed(host: Dom0, *words: str, status: int = 0) -> str:
    """Run `xenmovectl`; return what it said."""
    done = host.ctl(*words)
    assert done.returncode == status, done
    return " ".join((done.stdout + done.stderr).split())


def disks_of(host: Dom0, guest: str) -> dict[str, dict[str, object]]:
    """Return the configuration of a guest's disks, by their virtual devices."""
    domain = host.domain(guest)
    assert domain is not None, f"{guest} is not on {host.name}"
    return {disk["vdev"]: disk for disk in domain.config["disks"]}


class TestCdroms:
    @pytest.fixture
    def guest(self, hosts: Hosts, tmp_path: Path) -> tuple[str, Path]:
        """A guest with a CD-ROM in its drive."""
        a, _ = hosts
        name = unique("web")
        root, iso = image(a.images / f"{name}-root", 1), make_cdrom(tmp_path / "install.iso", 1)
        a.boot(name, [root, iso], specs=[f"file:{root},xvda,w", f"file:{iso},hdc:cdrom,r"])
        return name, iso

    def test_somebody_has_to_choose(self, hosts: Hosts, guest: tuple[str, Path]) -> None:
        a, _ = hosts
        name, iso = guest
        said = typed(a, "migrate", name, "host-b", status=3)
        assert f"disk hdc holds the CD-ROM {iso}" in said
        assert "--cdrom eject" in said
        a.assert_runs(name)

    @pytest.mark.sampled
    @pytest.mark.parametrize("mode", ["live", "save", "cold"])
    def test_ejected(self, hosts: Hosts, guest: tuple[str, Path], mode: str) -> None:
        a, b = hosts
        name, iso = guest
        if mode == "cold":
            a.xen.xl("destroy", name)
        plan = typed(a, "plan", name, "host-b", "--cdrom", "eject", "--mode", mode)
        assert f"hdc {iso} empty CD-ROM: its drive is empty there" in plan
        typed(a, "migrate", name, "host-b", "--cdrom", "eject", "--mode", mode)
        config = b.guest_configs / f"{name}.cfg"
        assert "',hdc:cdrom,r'" in config.read_text()
        if mode == "cold":
            b.xen.xl("create", str(config))
        b.assert_runs(name)
        drive = disks_of(b, name)["hdc"]
        assert (drive["format"], drive.get("pdev_path")) == ("empty", None)
        assert iso.exists()
        assert not (b.images / iso.name).exists()
        if mode == "save":
            b.migrate(name, "host-a")
            a.assert_runs(name)

    def test_ejected_for_a_peer(self, hosts: Hosts, guest: tuple[str, Path]) -> None:
        a, b = hosts
        name, _ = guest
        with a.peer_settings("host-b", cdrom="eject"):
            a.migrate(name)
        assert disks_of(b, name)["hdc"]["format"] == "empty"

    @pytest.fixture
    def open_folder(self) -> Iterator[Path]:
        """A folder that everybody may look into, as pytest's are not."""
        with TemporaryDirectory(dir="/var/tmp") as folder:
            Path(folder).chmod(0o755)
            yield Path(folder)

    def test_one_that_is_there_too(self, hosts: Hosts, open_folder: Path) -> None:
        a, b = hosts
        name, iso = unique("web"), make_cdrom(open_folder / "install.iso", 1)
        root = image(a.images / f"{name}-root", 1)
        a.boot(name, [root, iso], specs=[f"file:{root},xvda,w", f"file:{iso},hdc:cdrom,r"])
        with b.peer_settings("host-a", shared=[f"{iso.parent}/*.iso"]):
            iso.chmod(0o640)
            found = the_problem(a.try_migrate(name, cdrom="require"), "permission")
            assert f"{iso} on host-b is not for guests of host-a" in found.text
            assert "chmod o+r" in found.hint
            iso.chmod(0o644)
            plan = typed(a, "plan", name, "host-b", "--cdrom", "require")
            assert f"hdc {iso} {iso} CD-ROM that is there too" in plan
            a.migrate(name, cdrom="require")
        drive = disks_of(b, name)["hdc"]
        assert (drive["pdev_path"], drive["format"]) == (str(iso), "raw")
        assert f"file:{iso},hdc:cdrom,r" in (b.guest_configs / f"{name}.cfg").read_text()
        b.assert_runs(name)

    def test_one_that_may_not_be_had(self, hosts: Hosts, guest: tuple[str, Path]) -> None:
        a, _ = hosts
        name, iso = guest
        found = the_problem(a.try_migrate(name, cdrom="require"), "permission")
        assert f"host-b does not share {iso} with host-a, for disk hdc" in found.text
        assert "--cdrom eject" in found.hint

    def test_one_in_a_pool(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("web")
        root, iso = image(a.images / f"{name}-root", 1), make_cdrom(a.pools["small"] / "dvd.iso", 1)
        a.boot(name, [root, iso], specs=[f"file:{root},xvda,w", f"file:{iso},hdc:cdrom,r"])
        found = the_problem(a.try_migrate(name, cdrom="require"), "shared-missing")
        assert f"host-b does not have the CD-ROM {iso}" in found.text
        make_cdrom(b.pools["small"] / "dvd.iso", 2)
        found = the_problem(a.try_migrate(name, cdrom="require"), "shared-differs")
        assert "2097152 bytes there, not 1048576" in found.text
        make_cdrom(b.pools["thin"] / "dvd.iso", 1)
        a.migrate(name, cdrom="require", pools={"small": "thin"})
        assert disks_of(b, name)["hdc"]["pdev_path"] == str(b.pools["thin"] / "dvd.iso")
        b.assert_runs(name)

    def test_no_copy_takes_its_place(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("web")
        root, iso = image(a.images / f"{name}-root", 1), make_cdrom(a.pools["small"] / "dvd.iso", 1)
        a.boot(name, [root, iso], specs=[f"file:{root},xvda,w", f"file:{iso},hdc:cdrom,r"])
        make_cdrom(b.pools["small"] / "dvd.iso", 1)
        answer = a.try_migrate(
            name,
            cdrom="require",
            overwrite=True,
            pools={"images": "small"},
            volumes={"*-root": "dvd.iso"},
        )
        found = the_problem(answer, "volume-name")
        assert "two disks of the guest would both become small:dvd.iso" in found.text

    def test_xm(self, xm_hosts: Hosts, tmp_path: Path) -> None:
        a, b = xm_hosts
        name = unique("web")
        root, iso = image(a.images / f"{name}-root", 1), make_cdrom(tmp_path / "install.iso", 1)
        a.boot(name, [root, iso], specs=[f"file:{root},xvda,w", f"file:{iso},hdc:cdrom,r"])
        a.migrate(name, cdrom="eject")
        b.assert_runs(name)
        assert not disks_of(b, name)["hdc"].get("pdev_path")


class TestShared:
    @pytest.fixture
    def nfs(self, tmp_path: Path) -> Path:
        """A folder that both hosts see."""
        folder = tmp_path / "nfs"
        folder.mkdir()
        return folder

    @pytest.mark.sampled
    @pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE, Mode.COLD])
    def test_by_path(self, hosts: Hosts, nfs: Path, mode: Mode) -> None:
        a, b = hosts
        name = unique("web")
        root, data = image(a.images / f"{name}-root", 1), image(nfs / "data.img", 4)
        a.boot(name, [root, data])
        if mode is Mode.COLD:
            a.xen.xl("destroy", name)
        shared = [f"{nfs}/*.img"]
        with a.peer_settings("host-b", shared=shared), b.peer_settings("host-a", shared=shared):
            plan = typed(a, "plan", name, "host-b", "--mode", mode)
            assert f"xvdb {data} {data} shared: not copied" in plan
            report = a.migrate(name, mode=mode)
            assert [volume.name for volume in report.volumes] == [str(root)]
            if mode is Mode.COLD:
                b.xen.xl("create", str(b.guest_configs / f"{name}.cfg"))
            b.assert_runs(name)
            assert disks_of(b, name)["xvdb"]["pdev_path"] == str(data)
            if mode is Mode.SAVE:
                b.migrate(name, "host-a")
                a.assert_runs(name)
        assert not (b.images / "data.img").exists()

    def test_by_pool(self, hosts: Hosts) -> None:
        a, b = hosts
        name = unique("web")
        disk = image(a.pools["small"] / f"{name}-root", 2)
        a.boot(name, [disk])
        there = b.pools["thin"] / disk.name
        there.hardlink_to(disk)
        with a.peer_settings("host-b", shared=["small"]):
            found = the_problem(a.try_migrate(name), "permission")
            assert "host-b does not share a pool small with host-a, for disk xvda" in found.text
            with b.peer_settings("host-a", shared=["thin"], pools={"small": "thin"}):
                assert f"xvda {disk} {there} shared: not copied" in typed(a, "plan", name, "host-b")
                assert a.migrate(name).volumes == ()
        b.assert_runs(name)
        assert disks_of(b, name)["xvda"]["pdev_path"] == str(there)

    @pytest.fixture
    def two_views(self, hosts: Hosts) -> Iterator[tuple[str, Path, Path]]:
        """A guest on a disk of a pool that both hosts say is shared; where it is on each."""
        a, b = hosts
        name = unique("web")
        disk = image(a.pools["small"] / f"{name}-root", 1)
        a.boot(name, [disk])
        with (
            a.peer_settings("host-b", shared=["small"]),
            b.peer_settings("host-a", shared=["small"]),
        ):
            yield name, disk, b.pools["small"] / disk.name

    def test_the_very_same_must_be_there(
        self, hosts: Hosts, two_views: tuple[str, Path, Path]
    ) -> None:
        a, b = hosts
        name, here, there = two_views
        found = the_problem(a.try_migrate(name), "shared-missing")
        assert f"host-b does not have the shared disk {here}: no {there}" in found.text
        image(there, 2)
        found = the_problem(a.try_migrate(name), "shared-differs")
        assert "2097152 bytes there, not 1048576" in found.text
        image(there, 1)
        found = the_problem(a.try_migrate(name), "shared-differs")
        assert "is inode" in found.text
        there.unlink()
        there.hardlink_to(here)
        a.migrate(name)
        b.assert_runs(name)

    def test_one_that_another_guest_has(
        self, hosts: Hosts, two_views: tuple[str, Path, Path]
    ) -> None:
        a, b = hosts
        name, here, there = two_views
        there.hardlink_to(here)
        other = unique("other")
        b.boot(other, [there], extra=QUIET)
        found = the_problem(a.try_migrate(name), "volume-in-use")
        assert f"disk of {other}" in found.text

    def test_one_that_only_the_target_calls_shared(
        self, hosts: Hosts, two_views: tuple[str, Path, Path]
    ) -> None:
        a, _ = hosts
        name, here, there = two_views
        there.hardlink_to(here)
        with a.peer_settings("host-b", shared=[]):
            answer = a.try_migrate(name, overwrite=True)
            found = the_problem(answer, "volume-shared")
            assert "it may be the very one" in found.text
            assert "on host-a, see `shared` of peer host-b" in found.hint
            a.assert_runs(name)

    def test_links_that_lead_elsewhere(self, hosts: Hosts, nfs: Path, tmp_path: Path) -> None:
        a, b = hosts
        name = unique("web")
        (nfs / "disk").symlink_to(image(tmp_path / "elsewhere", 1))
        a.boot(name, [nfs / "disk"], extra=QUIET)
        shared = [f"{nfs}/*"]
        with a.peer_settings("host-b", shared=shared), b.peer_settings("host-a", shared=shared):
            found = the_problem(a.try_migrate(name), "permission")
            assert f"leads to {tmp_path}/elsewhere, which is not shared" in found.text

    def test_places_that_are_none(self, hosts: Hosts) -> None:
        a, _ = hosts
        for place, words in (
            ("nowhere", "there is no pool 'nowhere'"),
            ("../etc", "neither a pool nor an absolute path"),
            ("/srv/../etc/*", "neither a pool nor an absolute path"),
        ):
            with a.peer_settings("host-b", shared=[place]):
                assert words in a.log()


class TestReadOnly:
    @pytest.mark.sampled
    @pytest.mark.parametrize("mode", [Mode.LIVE, Mode.SAVE])
    def test_it_stays_read_only(self, hosts: Hosts, mode: Mode) -> None:
        a, b = hosts
        name = unique("web")
        root, data = (image(a.images / f"{name}-{part}", 2) for part in ("root", "data"))
        specs = [f"file:{root},xvda,w", f"format=raw,vdev=xvdb,access=ro,target={data}"]
        a.boot(name, [root, data], specs=specs)
        report = a.migrate(name, mode=mode)
        b.assert_runs(name)
        assert not disks_of(b, name)["xvdb"].get("readwrite")
        assert digest(b.images / data.name) == digest(data)
        assert (
            f"vdev=xvdb,access=ro,target={b.images / data.name}"
            in (b.guest_configs / f"{name}.cfg").read_text()
        )
        assert report.volumes[1].rounds[0].total == 2 << 20
