"""Configuration files of domains."""

import pytest

from xenmoved.sandbox.host import CommandFailed
from xenmoved.sandbox.xlcfg import parse, parse_disk, parse_nic, parse_pci


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        (
            "phy:/dev/vg/x,xvda,w",
            {"pdev_path": "/dev/vg/x", "vdev": "xvda", "format": "raw", "readwrite": 1},
        ),
        ("file:/x.img,hdb:disk,r", {"pdev_path": "/x.img", "vdev": "hdb", "format": "raw"}),
        (
            "tap:aio:/x.img,xvda,w",
            {"pdev_path": "/x.img", "vdev": "xvda", "format": "raw", "readwrite": 1},
        ),
        (
            "tap:qcow2:/x.img,xvda,w",
            {"pdev_path": "/x.img", "vdev": "xvda", "format": "qcow2", "readwrite": 1},
        ),
        (
            "/x.img,raw,xvda,rw",
            {"pdev_path": "/x.img", "vdev": "xvda", "format": "raw", "readwrite": 1},
        ),
        ("/x.img,,xvda", {"pdev_path": "/x.img", "vdev": "xvda", "format": "raw", "readwrite": 1}),
        (
            "format=raw, vdev=xvda, access=rw, target=/a,b=c",
            {"pdev_path": "/a,b=c", "vdev": "xvda", "format": "raw", "readwrite": 1},
        ),
        (
            "vdev=xvda,backendtype=qdisk,format=qcow2,access=ro,target=/x",
            {"pdev_path": "/x", "vdev": "xvda", "backend": "qdisk", "format": "qcow2"},
        ),
        (
            "/x.iso,,hdc,cdrom",
            {"pdev_path": "/x.iso", "vdev": "hdc", "format": "raw", "removable": 1, "is_cdrom": 1},
        ),
        (",hdc:cdrom,r", {"vdev": "hdc", "format": "empty", "removable": 1, "is_cdrom": 1}),
        (
            "drbd:r0,xvda,w",
            {
                "pdev_path": "r0",
                "vdev": "xvda",
                "format": "raw",
                "script": "block-drbd",
                "readwrite": 1,
            },
        ),
    ],
)
def test_disks(text, disk):
    assert parse_disk(text) == disk


@pytest.mark.parametrize("text", ["", "/x", "/x,nonsense,xvda", "frob=1,vdev=xvda,target=/x"])
def test_bad_disks(text):
    with pytest.raises(CommandFailed):
        parse_disk(text)


def test_a_whole_file():
    config = parse(
        """
# comment
name = "web"   # another
uuid = "0b1e5fbc-5e10-4a36-b6d8-3b1d5a0f3a11"
memory = 256; maxmem = 512
vcpus=2
kernel = '/boot/vmlinuz'
disk = [
    'phy:/dev/vg/x,xvda,w',
]
vif = [ 'mac=00:16:3e:00:00:01, bridge=xenbr0', 'bridge=br1' ]
pci = [ '0000:03:00.1' ]
root = "/dev/xvda"
extra = "quiet"
unknown = [1, 2]
""",
        "x.cfg",
    )
    assert config["c_info"]["uuid"] == "0b1e5fbc-5e10-4a36-b6d8-3b1d5a0f3a11"
    build = config["b_info"]
    assert (build["target_memkb"], build["max_memkb"]) == (256 * 1024, 512 * 1024)
    assert build["cmdline"] == "/dev/xvda quiet" and build["avail_vcpus"] == [0, 1]
    assert [nic["bridge"] for nic in config["nics"]] == ["xenbr0", "br1"]
    assert config["nics"][1]["devid"] == 1
    assert config["pcidevs"] == [{"func": 1, "bus": 3}]


@pytest.mark.parametrize(
    "text", ["memory = 1", "name = ", "name = f()", "import os", "name='a'\nx.y = 1"]
)
def test_bad_files(text):
    with pytest.raises(CommandFailed):
        parse(text, "x.cfg")


def test_nics_and_devices():
    assert parse_nic("mac=00:16:3e:00:00:01,bridge=b", 0) == {
        "mac": "00:16:3e:00:00:01",
        "bridge": "b",
    }
    assert parse_nic("", 2)["mac"].startswith("00:16:3e:")
    assert parse_pci("03:00.0,permissive=1") == {"bus": 3}
