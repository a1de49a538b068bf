"""The emulated xm: S-expressions, and a save that leaves the file as the only copy."""

import struct

import pytest

from xenmoved.sandbox import sxp
from xenmoved.sandbox.harness import EmulatedHost, make_image

pytestmark = pytest.mark.long


@pytest.fixture
def host(tmp_path):
    host = EmulatedHost(tmp_path / "a")
    yield host
    host.stop()


@pytest.fixture
def disks(tmp_path):
    return [make_image(tmp_path / name, 2) for name in ("root.img", "data.img")]


def test_list_long_is_an_expression(host, disks):
    uuid = host.create("web", disks, extra="sandbox.rate=1 single")
    node = sxp.parse(host.run("xm", "list", "-l", "web").stdout)
    assert node[0] == "domain"
    assert sxp.value(node, "name") == "web" and sxp.value(node, "uuid") == uuid
    assert sxp.value(node, "memory") == "2" and sxp.value(node, "features") == ""
    devices = [device[1] for device in sxp.children(node, "device")]
    vbds = [device for device in devices if device[0] == "vbd"]
    assert [sxp.value(vbd, "dev") for vbd in vbds] == ["xvda:disk", "xvdb"]
    assert sxp.value(vbds[0], "uname") == f"file:{disks[0]}"
    assert sxp.value(vbds[0], "mode") == "w"
    (vif,) = [device for device in devices if device[0] == "vif"]
    assert sxp.value(vif, "bridge") == "xenbr0"
    linux = sxp.child(sxp.child(node, "image"), "linux")
    assert sxp.value(linux, "args") == "sandbox.rate=1 single"


def test_list(host, disks):
    host.create("web", disks)
    lines = host.run("xm", "list").stdout.splitlines()
    assert lines[0].split() == ["Name", "ID", "Mem", "VCPUs", "State", "Time(s)"]
    assert lines[2].split()[:4] == ["web", "1", "2", "1"]
    assert host.run("xm", "list", "x", status=1).stderr == "Error: Domain 'x' does not exist.\n"


def test_save_leaves_the_file_as_the_only_copy(host, disks, tmp_path):
    host.create("web", disks)
    image = tmp_path / "image"
    host.run("xm", "save", "web", str(image))
    assert host.state("web") is None
    data = image.read_bytes()
    assert data[:16] == b"LinuxGuestRecord"
    (length,) = struct.unpack_from(">I", data, 16)
    node = sxp.parse(data[20 : 20 + length].decode())
    assert sxp.value(node, "name") == "web"
    host.run("xm", "restore", "-p", str(image))
    assert host.state("web") == "--p---"
    host.run("xm", "unpause", "web")
    assert host.check("web")["ok"]


def test_a_rewritten_configuration_is_obeyed(host, disks, tmp_path):
    host.create("web", disks)
    image = tmp_path / "image"
    host.run("xm", "save", "web", str(image))
    moved = disks[0].rename(tmp_path / "moved root.img")
    data = image.read_bytes()
    (length,) = struct.unpack_from(">I", data, 16)
    node = sxp.parse(data[20 : 20 + length].decode())
    vbd = next(one[1] for one in sxp.children(node, "device") if one[1][0] == "vbd")
    sxp.child(vbd, "uname")[1] = f"file:{moved}"
    text = sxp.render(node).encode()
    image.write_bytes(data[:16] + struct.pack(">I", len(text)) + text + data[20 + length :])
    host.run("xm", "restore", str(image))
    assert host.check("web")["ok"]


def test_a_failed_save_resumes(host, disks, tmp_path):
    host.create("web", disks)
    host.faults(save={"fail_after_bytes": 300_000})
    done = host.run("xm", "save", "web", str(tmp_path / "image"), status=1)
    assert "xc_save" in done.stderr
    assert host.check("web")["ok"]


def test_create_info_destroy(host, disks):
    host.root.mkdir()
    config = host.root / "web.cfg"
    config.write_text(f"name='web'\nmemory=2\ndisk=['tap:aio:{disks[0]},xvda,w']\n")
    host.run("xm", "create", str(config))
    node = sxp.parse(host.run("xm", "list", "-l", "web").stdout)
    assert f"tap:aio:{disks[0]}" in sxp.render(node)
    assert "free_memory" in host.run("xm", "info").stdout
    host.run("xm", "pause", "web")
    assert host.state("web") == "--p---"
    host.run("xm", "destroy", "web")
    assert host.state("web") is None


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("(a (b c) (d))", ["a", ["b", "c"], ["d"]]),
        ("(a 'b c' \"d'e\")", ["a", "b c", "d'e"]),
        ("(cpus (()))", ["cpus", [[]]]),
        (r"(a 'it\'s')", ["a", "it's"]),
    ],
)
def test_expressions(text, node):
    assert sxp.parse(text) == node
    assert sxp.parse(sxp.render(node)) == node
    assert sxp.parse(sxp.render(node, 0)) == node


@pytest.mark.parametrize("text", ["", "(", ")", "(a))", "(a) (b)", "('a)"])
def test_malformed_expressions(text):
    with pytest.raises(sxp.Malformed):
        sxp.parse(text)
