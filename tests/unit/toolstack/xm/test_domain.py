"""Domains and images as xend describes them."""

import struct
from dataclasses import replace

import pytest

from tests.support.toolstack_samples import UUID, XM_LIST
from xenmoved.toolstack.interface import Arrival, Disk, Nic, SourceDisk, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS
from xenmoved.toolstack.xm.domain import parse_xm_domain, rewrite_xm_config
from xenmoved.toolstack.xm.savefile import CONFIG_LIMIT, XmImageFilter
from xenmoved.toolstack.xm.sexpr import child_value, children, name_of, parse_all, to_string

DISKS = {
    "xvda": "/dev/here/root",
    "xvdb": "/srv/here/swap.img",
    "xvdc": "/dev/here/data",
    "xvdd": "/srv/here/tap.img",
}
ARRIVAL = Arrival("web", UUID, DISKS, {"eth0": "xenbr0"})


def block(path):
    return path.startswith("/dev/")


def web():
    return parse_all(XM_LIST)[1]


def rewrite(domain, arrival=ARRIVAL):
    try:
        return " ".join(rewrite_xm_config(domain, arrival, BOOT_FOLDERS.unseen, block))
    except ToolstackError as error:
        return str(error)


def test_disks_are_those_that_were_announced():
    said = {
        disk.vdev: SourceDisk(disk.path, disk.writable and not disk.cdrom, disk.cdrom)
        for disk in parse_xm_domain(web()).disks
        if disk.path
    }
    assert rewrite(web(), replace(ARRIVAL, sources=said)) == ""
    other = {**said, "xvda": replace(said["xvda"], path="/dev/vg/other", writable=False)}
    found = rewrite(web(), replace(ARRIVAL, sources=other))
    assert "disk 'xvda' is at '/dev/vg/root', and was announced at '/dev/vg/other'" in found
    assert "disk 'xvda' is writable" in found
    more = replace(ARRIVAL, disks={**DISKS, "xvdz": "/dev/here/more"})
    assert "disk 'xvdz' was announced, and is not there" in rewrite(web(), more)


def devices(domain, *kinds):
    return [d[1] for d in children(domain, "device") if name_of(d[1]) in kinds]


def test_describe():
    domain = parse_xm_domain(web())
    assert (domain.name, domain.uuid, domain.domid, domain.kind) == ("web", UUID, 15, "pv")
    assert domain.memory == 256 << 20
    assert domain.disks == (
        Disk("xvda", "/dev/vg/root", "phy", "raw", True, False, None, 0),
        Disk("xvdb", "/dev/vg/swap", "phy", "raw", True, False, None, 0),
        Disk("xvdc", "/srv/data.img", "phy", "raw", False, False, None, 0),
        Disk("xvdd", "/srv/tap.img", "tap", "raw", True, False, None, 0),
        Disk("hdc", "", "unknown", "raw", False, True, None, 0),
    )
    assert domain.nics == (Nic("00:16:3e:11:22:33", "eth0", "/etc/xen/scripts/vif-bridge"),)
    assert domain.passthrough == ()


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (
            "(tap (dev sda1) (uname tap:qcow2:/x.q) (mode w!))",
            Disk("sda1", "/x.q", "tap", "qcow2", True, False, None, 0),
        ),
        (
            "(tap2 (dev hda:disk) (uname tap2:tapdisk:aio:/x) (mode w))",
            Disk("hda", "/x", "tap", "raw", True, False, None, 0),
        ),
        (
            "(vbd (dev ioemu:hda) (uname /dev/x))",
            Disk("hda", "/dev/x", "phy", "raw", False, False, None, 0),
        ),
        (
            "(vbd (dev xvda) (uname drbd:web) (mode w) (backend 3))",
            Disk("xvda", "web", "phy", "raw", True, False, "block-drbd", 3),
        ),
        (
            "(vbd (dev xvda) (uname phy:x) (backend storage))",
            Disk("xvda", "/dev/x", "phy", "raw", False, False, None, -1),
        ),
    ],
)
def test_odd_disks(device, expected):
    text = f"(domain (name a) (uuid {UUID}) (memory 1) (image (hvm)) (device {device}))"
    domain = parse_xm_domain(parse_all(text)[0])
    assert domain.disks == (expected,)
    assert domain.kind == "hvm"
    assert domain.domid == -1


def test_passthrough():
    domain = web()
    domain.append(["device", ["pci", ["dev", ["bus", "0x01"]]]])
    assert parse_xm_domain(domain).passthrough == ("pci",)
    assert "device pci" in rewrite(domain)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "(vm)",
        "(domain)",
        "(domain (name a))",
        f"(domain (name a) (uuid {UUID}) (device))",
        f"(domain (name a) (uuid {UUID}) (device vbd))",
        f"(domain (name a) (uuid {UUID}) (device (vbd)))",
        f"(domain (name a) (uuid {UUID}) (memory x))",
    ],
)
def test_wrong_shapes(text):
    with pytest.raises(ToolstackError, match="expected"):
        parse_xm_domain(parse_all(text)[0])


def test_rewrite():
    domain = web()
    assert rewrite(domain) == ""
    disks = devices(domain, "vbd", "tap")
    assert [(name_of(d), child_value(d, "uname")) for d in disks] == [
        ("vbd", "phy:/dev/here/root"),
        ("vbd", "file:/srv/here/swap.img"),
        ("vbd", "phy:/dev/here/data"),
        ("tap", "tap:aio:/srv/here/tap.img"),
        ("vbd", ""),
    ]
    assert child_value(devices(domain, "vif")[0], "bridge") == "xenbr0"
    assert child_value(devices(domain, "vfb")[0], "xauthority") is None
    assert "/dev/vg" not in to_string(domain)


def test_another_name_an_empty_drive_and_what_is_read_only():
    domain = web()
    domain.append(parse_all("(device (vbd (dev hdd:cdrom) (uname file:/x.iso) (mode r)))")[0])
    wanted = Arrival("shop", UUID, {**DISKS, "hdd": ""}, {}, "web", frozenset({"hdd"}))
    assert rewrite(domain, wanted) == ""
    assert child_value(domain, "name") == "shop"
    assert child_value(devices(domain, "vbd")[-1], "uname") == ""
    said = rewrite(web(), Arrival("web", UUID, DISKS, {}, "db"))
    assert said == "db is not what was announced: its name is 'web'."
    wanted = Arrival("web", UUID, DISKS, {}, "", frozenset({"xvda"}))
    assert "'xvda': was announced as read-only" in rewrite(web(), wanted)


def change_image(domain, *item):
    next(children(domain, "image"))[1].append(list(item))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.append(["name", "other"]), "name"),
        (lambda d: d.append(["uuid", UUID]), "uuid"),
        (lambda d: d.append(["bootloader", "/bin/sh"]), "bootloader"),
        (lambda d: d.append(["bootloader", "/tmp/pygrub"]), "bootloader"),
        (lambda d: d.append(["bootloader_args", "--output=/x"]), "bootloader_args"),
        (lambda d: d.append(["PV_kernel", "/etc/shadow"]), "PV_kernel"),
        (lambda d: d.append(["platform", [["device_model", "sh"]]]), "platform"),
        (lambda d: d.append(["on_crash", "/x"]), "on_crash"),
        (lambda d: d.append("loose"), "key value"),
        (lambda d: change_image(d, "kernel", "/etc/shadow"), "kernel"),
        (lambda d: change_image(d, "ramdisk", "/boot/../etc/shadow"), "ramdisk"),
        (lambda d: change_image(d, "device_model", "/bin/sh"), "device_model"),
        (lambda d: change_image(d, "serial", "file:/etc/x"), "serial"),
        (lambda d: change_image(d, "fda", "/dev/sda"), "fda"),
        (lambda d: change_image(d, "monitor_path", "/run/x"), "monitor_path"),
        (lambda d: change_image(d, "pci", [["0x01"]]), "pci"),
        (lambda d: d.append(["image", ["vmx"]]), "image"),
        (lambda d: devices(d, "vif")[0].append(["script", "/tmp/x"]), "vif"),
        (lambda d: devices(d, "vif")[0].append(["backend", "3"]), "twice"),
        (lambda d: devices(d, "vbd")[0].append(["x", "/y"]), "xvda"),
        (lambda d: devices(d, "vbd")[1].insert(1, ["mode", "w!"]), "shared"),
        (lambda d: devices(d, "vbd")[1].insert(1, ["uname", "drbd:x"]), "script"),
        (lambda d: devices(d, "tap")[0].insert(1, ["uname", "tap:qcow2:/x"]), "qcow2"),
        (lambda d: d.append(["device", ["vbd", ["dev", "xvda"], ["uname", "phy:x"]]]), "twice"),
        (lambda d: d.append(["device", ["vbd", ["dev", "sdz"], ["uname", "phy:x"]]]), "no volume"),
        (lambda d: d.append(["device", ["vtpm", ["x", "1"]]]), "vtpm"),
        (lambda d: devices(d, "vbd")[1].append(["mode", "w"]), "twice"),
        (lambda d: devices(d, "vbd")[1].append(["uname", "file:/etc/shadow"]), "twice"),
        (lambda d: d.append(["device", ["vfb", ["monitor", "mon:tcp:192.0.2.1:4"]]]), "monitor"),
        (lambda d: devices(d, "vif")[0].append(["model", "e1000,romfile=x"]), "vif model"),
        (lambda d: change_image(d, "ramdisk", "/var/lib/xen/images/other.img"), "ramdisk"),
    ],
)
def test_what_may_not_come_from_another_host(change, expected):
    domain = web()
    change(domain)
    assert expected in rewrite(domain)


def head(text):
    raw = text.encode("latin-1")
    return b"LinuxGuestRecord" + struct.pack(">i", len(raw)) + raw


def test_image():
    data = head(to_string(web())) + b"memory" * 100
    whole = XmImageFilter(ARRIVAL, BOOT_FOLDERS.unseen, block)
    expected = b"".join(whole.feed(data))
    assert whole.configured
    assert expected.endswith(b"memory" * 100)
    (length,) = struct.unpack_from(">i", expected, 16)
    domain = parse_all(expected[20 : 20 + length].decode("latin-1"))[0]
    assert child_value(devices(domain, "vbd")[0], "uname") == "phy:/dev/here/root"
    bytewise = XmImageFilter(ARRIVAL, BOOT_FOLDERS.unseen, block)
    assert b"".join(b"".join(bytewise.feed(data[i : i + 1])) for i in range(len(data))) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"LinuxGuestRecorx" + bytes(4), "begin"),
        (b"LinuxGuestRecord" + struct.pack(">i", -1), "bytes"),
        (b"LinuxGuestRecord" + struct.pack(">i", CONFIG_LIMIT + 1), "bytes"),
        (head("(domain"), "inside a list"),
        (head("(domain) (domain)"), "not one"),
        (head("domain"), "not \\(domain"),
        (head("(domain)"), "a name and a uuid"),
    ],
)
def test_bad_images(data, message):
    image = XmImageFilter(ARRIVAL, BOOT_FOLDERS.unseen, block)
    for _ in range(2):
        with pytest.raises(ToolstackError, match=message):
            image.feed(data)


def with_item(*path_and_item):
    """The domain with an item more at the end of a part of it."""
    *path, item = path_and_item
    place = domain = web()
    for name in path:
        place = next(one for one in place[1:] if name_of(one) == name)
    place.append(item)
    return domain


def test_what_is_off_is_not_said():
    """There are keys of xend, such as `target`, to which 0 is a value like any other."""
    domain = with_item(["target", "0"])
    assert rewrite(domain) == ""
    assert child_value(domain, "target") is None
    domain = with_item("image", "linux", ["fda", ""])
    assert rewrite(domain) == ""
    assert "fda" not in to_string(domain)


def test_a_domain_with_an_order_to_boot_in_has_a_device_model():
    assert parse_xm_domain(web()).kind == "pv"
    assert parse_xm_domain(with_item("image", "linux", ["boot", "c"])).kind == "hvm"


def test_what_xend_passes_by_is_refused():
    assert "has attributes" in rewrite(with_item(["cpu_time", ["@", "x"], "5"]))
    for item in ("ab", ["dev", "xvdb", "x"], ["mode", ["w"]], []):
        assert "says something other than (key value)" in rewrite(with_item("device", "vif", item))


@pytest.mark.parametrize("item", [["vnclisten", "unix:run"], ["keymap", "a.b"], ["sdl", "x"]])
def test_a_screen_of_its_own_is_judged_as_one_of_the_domain(item):
    domain = web()
    next(one[1] for one in children(domain, "device") if name_of(one[1]) == "vfb").append(item)
    assert f"vfb {item[0]}: {item[1]!r} may not come from another host" in rewrite(domain)
