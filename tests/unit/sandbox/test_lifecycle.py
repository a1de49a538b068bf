"""Verbs of the emulated xl that have to do with one domain on one host."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from xenmoved.sandbox.harness import EmulatedHost, make_image, wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def host(tmp_path):
    host = EmulatedHost(tmp_path / "a")
    yield host
    host.stop()


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "disk.img", 8)


def test_a_created_guest_runs_writes_and_verifies(host, image):
    host.create("web", [image])
    wait_until(lambda: host.check("web")["sequence"] > 20, "writes")
    verdict = host.check("web")
    assert verdict["ok"] and verdict["blocks"] > 0 and verdict["failures"] == []
    assert host.run("check").returncode == 0
    assert json.loads(host.run("check", "web").stdout)["ok"]


def test_list_looks_like_xl(host, image):
    host.create("web", [image])
    lines = host.xl("list").splitlines()
    assert lines[0] == "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    assert re.fullmatch(r"Domain-0 {33}    0  1024 +\d+     r-----  +\d+\.\d", lines[1])
    assert re.fullmatch(r"web {38}    1     2     1     (-b|r-)----  +\d+\.\d", lines[2])
    assert host.xl("list", "web").splitlines()[1].startswith("web ")
    assert host.xl("list", "1").splitlines()[1].startswith("web ")


def test_an_unknown_domain_is_refused_as_xl_does(host):
    for verb in ("list", "pause", "unpause", "destroy"):
        done = host.run("xl", verb, "nobody", status=1)
        assert done.stderr == "nobody is an invalid domain identifier (rc=-6)\n"


def test_list_long_is_json_without_defaults(host, image):
    uuid = host.create("web", [image], extra="sandbox.rate=0.5")
    (entry,) = json.loads(host.xl("list", "-l", "web"))
    assert entry["domid"] == 1
    config = entry["config"]
    assert config["c_info"]["name"] == "web"
    assert config["c_info"]["uuid"] == uuid
    assert config["c_info"]["run_hotplug_scripts"] == "True"
    assert config["b_info"]["target_memkb"] == 2048
    assert config["disks"] == [
        {"pdev_path": str(image), "vdev": "xvda", "format": "raw", "readwrite": 1}
    ]
    assert config["nics"][0]["bridge"] == "xenbr0" and "devid" not in config["nics"][0]
    everything = json.loads(host.xl("list", "-l"))
    assert [one["config"]["c_info"]["name"] for one in everything] == ["Domain-0", "web"]


def test_nothing_is_written_while_paused(host, image):
    host.create("web", [image], extra="sandbox.rate=8")
    wait_until(lambda: host.check("web")["sequence"] > 5, "writes")
    host.xl("pause", "web")
    assert host.state("web") == "--p---"
    before = image.read_bytes()
    time.sleep(0.3)
    assert image.read_bytes() == before
    assert not host.check("web")["ok"]
    host.xl("unpause", "web")
    wait_until(lambda: image.read_bytes() != before, "writes again")
    assert host.check("web")["ok"]


def test_a_guest_may_start_paused(host, image):
    host.create("web", [image], "-p")
    assert host.state("web") == "--p---"
    host.xl("unpause", "web")
    host.wait_for("web", "-b----")


def test_a_name_is_given_once(host, image):
    host.create("web", [image])
    done = host.run("xl", "create", str(host.root / "web.cfg"), status=1)
    assert 'Domain with name "web" already exists.' in done.stderr
    assert len(host.xl("list").splitlines()) == 3


def test_a_missing_disk_is_named_and_nothing_is_left(host, tmp_path):
    with pytest.raises(AssertionError, match="Disk vdev=xvda failed to stat"):
        host.create("web", [tmp_path / "absent"])
    assert host.state("web") is None


def test_rename_domid_domname(host, image):
    host.create("web", [image])
    host.xl("rename", "web", "www")
    assert host.xl("domid", "www") == "1\n"
    assert host.xl("domname", "1") == "www\n"
    assert host.check("www")["ok"]


def test_destroy_releases_the_disk(host, image):
    host.create("web", [image])
    host.xl("destroy", "web")
    assert host.state("web") is None
    assert not any(opens(process, image) for process in Path("/proc").glob("[0-9]*"))


def opens(process, path):
    try:
        return str(path) in {str(link.readlink()) for link in (process / "fd").iterdir()}
    except OSError:
        return False


def test_shutdown_makes_the_domain_go_away(host, image):
    host.create("web", [image])
    assert host.run("xl", "shutdown", "-w", "web").stderr == "Shutting down domain 1\n"
    assert host.state("web") is None
    assert "FAILED" not in host.console("web")


def test_without_its_monitor_a_shut_down_domain_stays(host, image):
    host.create("web", [image], "-e")
    host.xl("shutdown", "web")
    host.wait_for("web", "---s--")
    host.xl("destroy", "web")
    assert host.state("web") is None


def test_info_counts_memory(host, image):
    (host.root).mkdir()
    (host.root / "host.json").write_text('{"total_memory": 2048}')
    values = dict(line.split(":", 1) for line in host.xl("info").splitlines())
    values = {key.strip(): value.strip() for key, value in values.items()}
    assert values["xen_version"] == "4.17.3"
    assert (values["total_memory"], values["free_memory"]) == ("2048", "1024")
    host.create("web", [image])
    assert host.xl("info", "free_memory") == "1022\n"
    (host.root / "host.json").write_text('{"total_memory": 1026}')
    (host.root / "big.cfg").write_text("name='big'\nmemory=4\n")
    assert "failed to free memory" in host.xl("create", str(host.root / "big.cfg"), status=1)


def test_bridges_are_folders_as_in_sysfs(host):
    host.root.mkdir()
    (host.root / "bridges").write_text("xenbr0\nbr-lan\n")
    host.xl("list")
    found = {path.parent.name for path in host.root.glob("sys/class/net/*/bridge")}
    assert found == {"xenbr0", "br-lan"}


def test_a_verb_fails_when_told_to(host, image):
    host.create("web", [image])
    host.faults(unpause={"fail": "no luck"})
    host.xl("pause", "web")
    assert host.xl("unpause", "web", status=1) == "libxl: error: no luck\n"
    assert host.state("web") == "--p---"


def test_the_guest_inherits_neither_environment_nor_descriptors(host, image, monkeypatch):
    monkeypatch.setenv("XENMOVED_MIGRATION", "some-migration")
    host.create("web", [image])
    pid = (host.root / "domains" / "1.pid").read_text().split()[0]
    assert b"XENMOVED_MIGRATION" not in Path(f"/proc/{pid}/environ").read_bytes()
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it may close some meanwhile
            targets.append(str(link.readlink()))
    assert targets
    assert not [target for target in targets if target.startswith("pipe:")]


def test_unknown_verbs_and_missing_arguments(host):
    assert host.xl("frobnicate", status=1) == "command not implemented\n"
    assert "requires at least 2 arguments" in host.xl("save", "web", status=2)


def test_concurrent_commands_do_not_disturb_each_other(host, tmp_path):
    host.root.mkdir()
    processes = []
    for number in range(4):
        image = make_image(tmp_path / f"{number}.img", 1)
        config = host.root / f"{number}.cfg"
        config.write_text(f"name='web{number}'\nmemory=2\ndisk=['file:{image},xvda,w']\n")
        processes.append(host.start("xl", "create", str(config)))
    assert [process.wait() for process in processes] == [0] * 4
    listed = [line.split()[:2] for line in host.xl("list").splitlines()[2:]]
    assert sorted(name for name, _ in listed) == [f"web{number}" for number in range(4)]
    assert sorted(domid for _, domid in listed) == ["1", "2", "3", "4"]
    assert host.run("check").returncode == 0


def test_a_killed_guest_takes_its_domain_with_it(host, image):
    host.create("web", [image])
    pid = (host.root / "domains" / "1.pid").read_text().split()[0]
    os.kill(int(pid), signal.SIGKILL)
    host.wait_for("web", None)
    host.create("web", [image])
    assert host.check("web")["ok"]
