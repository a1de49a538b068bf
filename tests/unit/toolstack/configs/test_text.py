"""Guests' configuration files."""

from pathlib import Path

import pytest

from protocol.messages import Weight
from tests.support.xl_reading import disk as xl_disk
from xenmoved.toolstack.configs.device_text import adapt_disk, adapt_vif, describe_disk
from xenmoved.toolstack.configs.folder import ConfigFolder
from xenmoved.toolstack.configs.text import adapt, describe, named
from xenmoved.toolstack.interface import Arrival, SourceDisk, ToolstackError
from xenmoved.toolstack.policy import BOOT_FOLDERS

DISKS = {"xvda": "/dev/here/root", "xvdb": "/srv/here/data.img", "hda": "/dev/here/hda"}
BRIDGES = {"xenbr0": "br-lan", "other": "other"}
ARRIVAL = Arrival("web", "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11", DISKS, BRIDGES)

TEXT = """\
# web server, moved here in 2014: was /dev/vg/root on xen3
name        = "web"
uuid = '8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11'
memory=512 ; vcpus = 2
bootloader = 'pygrub'
bootloader_args = [ "--args=ro quiet" ]
extra = "root=/dev/xvda1 ro"   # not /dev/vg/root
on_reboot = 'restart'
vif = [ 'mac=00:16:3e:01:02:03, bridge=xenbr0', 'bridge=other' ]
disk = [
    'phy:/dev/vg/root,xvda,w',   # phy:/dev/vg/root
    "format=raw, vdev=xvdb, access=rw, target=/srv/vg/data,with comma.img",
]
cpus = "0-3,^1"
"""


def block(path):
    return path.startswith("/dev/")


def adapted(text):
    return adapt(text, ARRIVAL, BOOT_FOLDERS.unseen, block)


def test_only_paths_and_bridges_change():
    expected = TEXT.replace("'phy:/dev/vg/root,", "'phy:/dev/here/root,")
    expected = expected.replace("/srv/vg/data,with comma.img", "/srv/here/data.img")
    expected = expected.replace("bridge=xenbr0", "bridge=br-lan")
    assert adapted(TEXT) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("phy:/dev/vg/root,xvda,w", "phy:/dev/here/root,xvda,w"),
        ("phy:vg/root,xvda,w", "phy:/dev/here/root,xvda,w"),
        ("file:/srv/x.img,xvda,w!", "phy:/dev/here/root,xvda,w!"),
        ("phy:/dev/vg/data,xvdb,w", "file:/srv/here/data.img,xvdb,w"),
        ("tap:aio:/srv/x.img,xvdb:disk,r", "tap:aio:/srv/here/data.img,xvdb:disk,r"),
        ("tap:aio:/srv/x.img,ioemu:hda,w", "phy:/dev/here/hda,ioemu:hda,w"),
        ("/dev/vg/root,raw,xvda,rw", "/dev/here/root,raw,xvda,rw"),
        ("/dev/vg/root, , xvda", "/dev/here/root, , xvda"),
        ("/dev/vg/hda,,hda,rw", "/dev/here/hda,,hda,rw"),
        ("vdev=xvda,target=/dev/vg/root", "vdev=xvda,target=/dev/here/root"),
        ("vdev=xvda,target=phy:/dev/vg/root", "vdev=xvda,target=/dev/here/root"),
        (
            "vdev=xvdb,backendtype=phy,format=raw,target=/dev/vg/data",
            "vdev=xvdb,format=raw,target=/srv/here/data.img",
        ),
        (",hdc:cdrom,r", ",hdc:cdrom,r"),
        (",,hdc,cdrom", ",,hdc,cdrom"),
        ("format=empty,vdev=hdc,devtype=cdrom,access=ro", None),
        ("phy:/dev/vg/other,xvdz,w", None),
        ("/dev/vg/root,qcow2,xvda,rw", None),
        ("/dev/vg/root,qed,xvda,rw", None),
        ("format=qcow2,vdev=xvda,target=/x", None),
        ("tap:qcow2:/x,xvda,w", None),
        ("script=block-iscsi,vdev=xvda,target=iqn", None),
        ("backend=storage,vdev=xvda,target=/x", None),
        ("drbd:web,xvda,w", None),
        ("format=raw,vdev=xvda", None),
        ("/dev/sda", None),
        ("", None),
    ],
)
def test_disks(spec, expected):
    if expected is None and "empty" not in spec:
        with pytest.raises(ToolstackError):
            adapt_disk(spec, ARRIVAL, block)
    else:
        assert adapt_disk(spec, ARRIVAL, block) == (expected or spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("file:/there/x.iso,hdc:cdrom,r", ",hdc:cdrom,r"),
        ("/there/x.iso,raw,hdc,cdrom", ",raw,hdc,cdrom"),
        (
            "format=raw,vdev=hdc,devtype=cdrom,access=ro,target=/there/x.iso",
            "format=raw,vdev=hdc,devtype=cdrom,access=ro,target=",
        ),
        ("phy:/dev/cdrom,ioemu:hdc:cdrom,r", ",ioemu:hdc:cdrom,r"),
    ],
)
def test_a_drive_that_is_to_be_empty(spec, expected):
    ejected = Arrival("web", "", {"hdc": ""})
    assert adapt_disk(spec, ejected, block) == expected
    assert describe_disk(expected).path == ""
    with pytest.raises(ToolstackError, match="no volume on this host"):
        adapt_disk("phy:/there/x,hdc,w", ejected, block)


@pytest.mark.parametrize(
    "spec",
    [
        "phy:/x,xvda,w,phy:format=qcow2",
        "/x,qcow2:access=w,vdev=xvda",
        "/x,vhd:access=w,vdev=xvda",
        "/x,raw,xvda,phy:target=/etc/shadow",
        "/x,raw,xvda,target=/etc/shadow",
        "/x,raw,xvda,w,active-disk=/etc/shadow",
        "/x,raw,xvda,w,/etc/shadow",
        "/x,raw,xvda,w,iscsi:x",
        "/x,raw,xvda,\x0bformat=qcow2",
        "vdev=xvda, script=x,target=/x",
        "vdev=xvda,backend =x,target=/x",
        "vdev=xvda,format=qcow2,format=vhd,target=/x",
        "target =/x,vdev=xvda/y",
        "vdev=xvda,cdrom,swapfile",
        "vdev=xvda,xvda:cdrom",
        "vdev=xvda,cdrom,x.img,qcow2",
        "format=raw,vdev=xvda,access=r,access=w,target=/x",
        "/x,raw,xvda,r,access=w",
        "/x,raw,xvda,w,devtype=cdrom,devtype=disk",
        "/x,raw,xvda:cdrom,w,devtype=disk",
        "phy:/x,access=r,ioemu:xvda,access=",
    ],
)
def test_what_xl_would_read_otherwise(spec):
    for image_format in ("raw", "qcow2", "vhd"):
        agreed = Arrival("web", "", DISKS, formats={"xvda": image_format})
        with pytest.raises(ToolstackError):
            adapt_disk(spec, agreed, block)


@pytest.mark.parametrize(
    "spec",
    [
        ",raw,hdc:cdrom,phy:target=/etc/shadow",
        ",raw,hdc:cdrom,r,/etc/shadow",
        ",raw,hdc:cdrom,r,file:/etc/shadow",
        "/etc/shadow,raw,hdc:cdrom,target=",
    ],
)
def test_an_empty_drive_that_xl_would_fill(spec):
    with pytest.raises(ToolstackError):
        adapt_disk(spec, Arrival("web", "", {"hdc": ""}), block)


@pytest.mark.parametrize(
    "line",
    [
        r"disk = ['/x,q\012cow2,xvda,w']",
        r"disk = [',raw,hdc:cdrom,\ttarget=/etc/shadow']",
        r"vif = ['bridge=xenbr0\t']",
        r"kernel = '/boot/\x2e\x2e/etc/shadow'",
        r"name = 'w\145b'",
        r"extra = 'a\nb'",
        r"cmdline = 'a\\\x41'",
    ],
)
def test_a_backslash_means_something_else_to_xl(line):
    with pytest.raises(ToolstackError, match="backslash"):
        adapt(f"{line}\n", ARRIVAL, BOOT_FOLDERS.unseen, block)


def test_a_text_may_have_escaped_quotes():
    line = r"""extra = 'a=\'b c\' d=\"\\"'"""
    assert adapted(line) == line


def test_what_was_announced_as_read_only():
    shared = Arrival("web", "", {"xvda": "/dev/x"}, read_only=frozenset({"xvda"}))
    for spec in ("phy:/dev/x,xvda,r", "vdev=xvda,access=ro,target=/dev/x", "/dev/x,,xvda:cdrom,w"):
        assert adapt_disk(spec, shared, block) == spec
    assert adapt_disk("phy:/dev/x,xvda,r,", shared, block) == "phy:/dev/x,xvda,r,"
    for spec in ("phy:/dev/x,vdev=xvda,access=r,,", "/dev/x,access=ro,,, ,vdev=xvda"):
        with pytest.raises(ToolstackError, match="empty part"):
            adapt_disk(spec, shared, block)
    for spec in ("phy:/dev/x,xvda,w", "vdev=xvda,target=/dev/x"):
        with pytest.raises(ToolstackError, match="announced as read-only"):
            adapt_disk(spec, shared, block)


def test_an_image_is_what_it_was_announced_as():
    agreed = Arrival("web", "", {"xvda": "/srv/x"}, formats={"xvda": "qcow2"})
    for spec, adapted in (
        ("/there/x,qcow2,xvda,w", "/srv/x,qcow2,xvda,w"),
        ("format=qcow2,vdev=xvda,target=/there/x", "format=qcow2,vdev=xvda,target=/srv/x"),
    ):
        assert adapt_disk(spec, agreed, block) == adapted
        assert describe_disk(spec).format == "qcow2"
        with pytest.raises(ToolstackError, match="is qcow2, and raw was announced"):
            adapt_disk(spec, Arrival("web", "", {"xvda": "/srv/x"}), block)
    for spec in ("/there/x,raw,xvda,w", "file:/there/x,xvda,w", "/there/x,vhd,xvda,w"):
        with pytest.raises(ToolstackError, match="and qcow2 was announced"):
            adapt_disk(spec, agreed, block)


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_an_image_whose_content_has_come_is_raw(image_format):
    said = SourceDisk("/there/x", writable=True, cdrom=False, format=image_format)
    agreed = Arrival("web", "", {"xvda": "/srv/qcow2-vhd"}, sources={"xvda": said})
    for spec, adapted in (
        ("/there/x,{},xvda,w", "/srv/qcow2-vhd,{},xvda,w"),
        ("vdev=xvda, format={},target=/there/x", "vdev=xvda, format={},target=/srv/qcow2-vhd"),
    ):
        assert adapt_disk(spec.format(image_format), agreed, block) == adapted.format("raw")
    for spec in ("/there/x,raw,xvda,w", "file:/there/x,xvda,w"):
        with pytest.raises(ToolstackError, match=f"is raw, and {image_format} was announced"):
            adapt_disk(spec, agreed, block)


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_content_that_has_come_into_an_image(image_format):
    agreed = Arrival(
        "web",
        "",
        {"xvda": "/srv/x"},
        formats={"xvda": image_format},
        sources={"xvda": SourceDisk("/there/x", writable=True, cdrom=False, format="raw")},
    )
    for spec, adapted in (
        ("/there/x,raw,xvda,w", "/srv/x,{},xvda,w"),
        ("/there/x,,xvda,w", "/srv/x,{},xvda,w"),
        ("file:/there/x,xvda,w", "file:/srv/x,format={},xvda,w"),
        ("phy:/dev/vg/x,xvda,w", "file:/srv/x,format={},xvda,w"),
        ("tap:aio:/there/x,xvda,w", "file:/srv/x,format={},xvda,w"),
        ("vdev=xvda,access=rw,target=/there/x", "vdev=xvda,access=rw,format={},target=/srv/x"),
        ("format=raw,vdev=xvda,target=/there/x", "format={},vdev=xvda,target=/srv/x"),
        ("/there/x,vdev=xvda", "/srv/x,format={},vdev=xvda"),
        (
            "format=raw,backendtype=phy,vdev=xvda,target=/dev/vg/x",
            "format={},vdev=xvda,target=/srv/x",
        ),
    ):
        ours = adapt_disk(spec, agreed, lambda _: False)
        assert ours == adapted.format(image_format)
        assert xl_disk.read(ours)["format"] == image_format
        assert xl_disk.read(ours)["path"] == "/srv/x"
    with pytest.raises(ToolstackError, match="and raw was announced"):
        adapt_disk(f"/there/x,{image_format},xvda,w", agreed, block)


def test_another_name():
    renamed = Arrival("shop", "", DISKS, source_name="web")
    text = "name = 'web'  # web\nextra = 'web'\n"
    assert adapt(text, renamed, BOOT_FOLDERS.unseen, block) == text.replace("'web'  #", "'shop'  #")
    with pytest.raises(ToolstackError, match="configuration of a domain 'shop'"):
        adapt("name = 'shop'\n", renamed, BOOT_FOLDERS.unseen, block)


def test_a_path_that_cannot_be_written_in_a_specification():
    with pytest.raises(ToolstackError):
        adapt_disk("phy:/x,xvda,w", Arrival("web", "", {"xvda": "/dev/a,b"}), block)


def test_an_empty_drive_runs_no_script():
    with pytest.raises(ToolstackError, match="empty, and not raw"):
        adapt_disk("drbd:,hdc:cdrom,r", ARRIVAL, block)


def vif(spec):
    return adapt_vif(spec, Arrival("web", "", {}, bridges={"xenbr0": "b"}))


def test_vif():
    assert vif("mac=x, bridge = xenbr0 ,ip=10.0.0.1,script=vif-bridge") == (
        "mac=x, bridge=b,ip=10.0.0.1,script=vif-bridge"
    )
    assert vif("") == ""
    assert vif("vifname=vif-web.0,rate=10Mb/s@50ms") == "vifname=vif-web.0,rate=10Mb/s@50ms"
    assert vif("bridge=xenbr0,vifname=eth0,ip=10.0.0.1,gatewaydev=eth0") == "bridge=b"
    assert vif("bridge=xenbr0,ip=0.0.0.0/0,script=vif-bridge") == "bridge=b,script=vif-bridge"
    assert vif("dhcp,bridge=xenbr0,BACKEND=net,policy=x,backend=0") == "bridge=b,backend=0"
    for bad in (
        "script=/tmp/x",
        "script=vif-route",
        "script=vif-bridge,script=vif-bridge",
        "backend=net",
        "bridge=$(reboot)",
        "forwarddev=eth0",
        "colo_sock_mirror_id=x",
        "bridge=xenbr1",
    ):
        with pytest.raises(ToolstackError):
            vif(bad)


@pytest.mark.parametrize(
    "line",
    [
        "something_new = 'x'",
        "something_new = [1, ['/x']]",
        "seclabel = 'system_u:system_r:dom0_t'",
        "device_model_user = 'root'",
    ],
)
def test_what_is_left_out(line):
    assert adapted(f"memory = 1\n{line} # x\nvcpus = 1\n") == "memory = 1\n # x\nvcpus = 1\n"


def test_keys_of_other_tools_and_comments_stay():
    text = "# vim: set fileencoding=utf-8 :\n\ndhcp = 'dhcp'\nxen_shell = 'a,b'\n# encoding: de\n"
    assert adapted(text) == text


def test_a_crash_leaves_no_copy_of_memory_here():
    assert adapted("on_crash = 'coredump-destroy'\n") == "on_crash = 'destroy'\n"


@pytest.mark.parametrize(
    "line",
    [
        "vncpasswd = 'hun\\ter2'",
        "vfb = ['vnc=1,vncpasswd=hunter2\"']",
        "vfb = ['vnc=1,vncpasswd=a,hun ter=2,keymap=/']",
        "vfb = [['vncpasswd=hunter2']]",
        "spicepasswd = 'hunter,2'",
        "spicepasswd = [1, 'hunter,2']",
        "vncpasswd = 'hun'ter2'",
        "vncpasswd = hunter2",
        "vncpasswd = 'hunter2",
        "vncpasswd = 'hunter2' 'hunter2'",
        "vncpasswd += 'hunter2'",
    ],
)
def test_a_password_is_not_shown(line):
    with pytest.raises(ToolstackError) as caught:
        adapted(f"{line}\n")
    assert "line 1" in str(caught.value)
    assert "hun" not in str(caught.value) and "ter" not in str(caught.value)


def test_what_a_password_has_after_a_comma_is_not_shown():
    assert adapted("vfb = ['vnc=1,vncpasswd=a,hunter2']\n") == "vfb = ['vnc=1,vncpasswd=a']\n"


def test_a_password_may_have_any_letters():
    assert adapted("vncpasswd = 's3cr3t!@#'\n") == "vncpasswd = 's3cr3t!@#'\n"


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "name = 'web' + x",
        "disk = [ 'phy:/dev/vg/root,xvda,w' % x ]",
        "disk = make_disks()",
        "disk = [ 'phy:/dev/vg/root,xvda,w'",
        "x = 'unterminated",
        "if x:\n  y = 1",
    ],
)
def test_programs_are_not_understood(line):
    with pytest.raises(ToolstackError, match="plain assignment"):
        adapted(f"memory = 1\n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "name = 'other'",
        "bootloader = '/bin/sh'",
        "bootloader_args = ['--output=/etc/x']",
        "device_model_override = '/bin/sh'",
        "device_model_args = ['-drive', 'file=/etc/shadow']",
        "kernel = '/etc/shadow'",
        "ramdisk = '/boot/../etc/shadow'",
        "serial = 'file:/etc/x'",
        "usbdevice = 'host:1:2'",
        "pci = [ '03:00.0' ]",
        "p9 = [ 'tag=x,path=/' ]",
        "vfb = [ 'vnc=1,vnclisten=unix:/x' ]",
        "channel = [ 'connection=socket,path=/x' ]",
        "kernel = '0'",
        "keymap = '../x'",
        "ioports = [0x64]",
        "irqs = [9]",
        "driver_domain = 1",
        "device_model_args = [1]",
        "name = 7",
        "kernel = 'swapfile'",
        "ramdisk = '.netrc'",
        "bootloader = '/tmp/pygrub'",
        "bootloader = '/usr/../tmp/pygrub'",
        "bootloader_args = '--args=x --output=/etc/passwd'",
        "vfb = ['vnc=1,keymap=../x']",
        "bootargs = '--args=x --output=/etc/passwd'",
        "bootargs = ['--output=/etc/passwd']",
        "rdm = 'strategy=host'",
        "pvcalls = ['']",
        "vsnd = [[]]",
        "channel = ['connection=socket , path=/run/x, name=y']",
        "usbctrl = ['type=auto, backend=3']",
        "spicepasswd = 'x,unix=on,addr=/etc/passwd'",
        "spicehost = '0,unix=on'",
        "boot = 'c,splash=f'",
        "vnclisten = '0:1,reverse=on'",
        "name += 'g'",
        "# c\rimport os",
        "# coding: utf-7",
        "extra = 'a\0'",
    ],
)
def test_what_must_be_looked_at(line):
    with pytest.raises(ToolstackError, match="line 2"):
        adapted(f"memory = 1\n{line}\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("disk = ['phy:/a,xvda,w', 'phy:/z,xvdz,w']", "disk = ['phy:/dev/here/root,xvda,w', ]"),
        ("disk = ['phy:/z,xvdz,w','phy:/a,xvda,w']", "disk = ['phy:/dev/here/root,xvda,w']"),
        (
            "disk = [\n 'phy:/a,xvda,w', # root\n 'phy:/z,xvdz,w', # new\n]",
            "disk = [\n 'phy:/dev/here/root,xvda,w', # root\n # new\n]",
        ),
        (
            "disk = ['phy:/a,xvda,w']\ndisk += ['vdev=xvdz,target=/z, b']",
            "disk = ['phy:/dev/here/root,xvda,w']\ndisk += []",
        ),
    ],
)
def test_a_disk_for_the_next_start_stays_where_it_is(line, expected):
    left = []
    text = adapt(f"name = 'web'\n{line}\n", ARRIVAL, BOOT_FOLDERS.unseen, block, left)
    assert text == f"name = 'web'\n{expected}\n"
    assert left == ["disk xvdz, which its file names and it does not have now"]


@pytest.mark.parametrize("line", ["disk = ['phy:/dev/sda,xvdz,w']", "disk += ['/x,raw,xvdz,rw']"])
def test_a_file_with_none_of_the_disks_is_not_the_guests(line):
    with pytest.raises(ToolstackError, match="other disks than the guest has: xvdz"):
        adapted(f"name = 'web'\n{line}\n")


def test_a_drive_that_was_emptied_is_empty():
    left = []
    line = "disk = ['phy:/a,xvda,w', 'file:/x.iso,hdc:cdrom,r']"
    text = adapt(f"{line}\n", ARRIVAL, BOOT_FOLDERS.unseen, block, left)
    assert text == "disk = ['phy:/dev/here/root,xvda,w', ',hdc:cdrom,r']\n"
    assert left == ["the CD-ROM in hdc, as that drive is empty now"]


def test_a_mark_before_the_text_stays():
    assert adapted(f"\ufeff{TEXT}") == f"\ufeff{adapted(TEXT)}"
    assert named("\ufeffname = 'web'") == "web"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vfb = ['vnc=1,monitor=tcp:192.0.2.1:4444,serial=x']", "vfb = ['vnc=1']"),
        ("vfb = ['xauthority=/root/.Xauthority,sdl=1']", "vfb = ['sdl=1']"),
        ("a.b = 1", ""),
        ("vncviewer = 0", ""),
        ("bootloader_restrict = 0", ""),
        ("bootloader_restrict = 1", "bootloader_restrict = 1"),
    ],
)
def test_what_is_left_out_or_stays(line, expected):
    assert adapted(f"{line}\n") == f"{expected}\n"


@pytest.mark.parametrize(
    "line",
    [
        "bootargs = '--kernel=/vmlinuz --quiet'",
        "bootloader_args = '--entry=1 -q'",
        "rdm = 'policy=relaxed'",
        "channel = ['connection=pty, name = org.qemu.guest_agent.0']",
        "usbctrl = ['type=auto, version=2']",
    ],
)
def test_what_is_harmless(line):
    assert adapted(line) == line


def test_plain_settings_pass():
    text = "memory = 0x10\nkernel = 'hvmloader'\nvfb = ['type=vnc,vncunused=1']\nmaxmem = [1, [2]]"
    assert adapted(text) == text
    assert adapted("") == ""


@pytest.fixture
def folder(tmp_path):
    return ConfigFolder(tmp_path, BOOT_FOLDERS.unseen)


async def read(folder, name, uuid=""):
    """Text of the file that is taken for a domain's."""
    return next((file.text for file in await folder.files(name, uuid)), None)


async def test_install_and_autostart(folder, tmp_path):
    text = "name = 'web'\ndisk = ['file:/there/x.img,xvdb,w']\n"
    assert await read(folder, "web") is None
    assert not await folder.autostart("web")
    for _ in range(2):
        await folder.install("web", text, ARRIVAL, True)
    assert await read(folder, "web") == text.replace("/there/x.img", "/srv/here/data.img")
    assert await folder.autostart("web")
    assert (tmp_path / "auto/web.cfg").resolve() == tmp_path / "web.cfg"


async def test_an_outdated_file_makes_room_and_is_kept(folder, tmp_path):
    old = "kernel = '/old'\ndisk = ['phy:/dev/here/root,xvda,w']\n"
    (tmp_path / "web.cfg").write_text(old)
    (tmp_path / "web.cfg").chmod(0o640)
    (remark,) = await folder.install("web", "name = 'web'\n", ARRIVAL, False)
    assert remark.weight is Weight.ACTION
    assert "web.cfg.replaced" in remark.hint
    for _ in range(2):
        assert await read(folder, "web") == "name = 'web'\n"
        assert (tmp_path / "web.cfg.replaced").read_text() == old
        assert (tmp_path / "web.cfg").stat().st_mode & 0o777 == 0o640
        assert not await folder.install("web", "name = 'web'\n", ARRIVAL, False)
    assert not await folder.autostart("web")


async def test_a_file_that_nobody_understands_is_no_proof_of_anything(folder, tmp_path):
    """It names the disk somewhere; what its guest writes only running it would tell."""
    old = "import os\ndisk = ['phy:/dev/here/root,xvda,w']\n"
    (tmp_path / "web.cfg").write_text(old)
    (remark,) = await folder.install("web", "name = 'web'\n", ARRIVAL, False)
    assert remark.code == "config-received"
    assert (tmp_path / "web.cfg").read_text() == old


async def test_a_file_that_needs_a_human(folder, tmp_path):
    text = "name = 'web'\nbootloader = '/bin/sh'\n"
    foreseen = await folder.foresee("web", text, ARRIVAL, True)
    assert not list(tmp_path.iterdir()), "it only says what would be"
    (remark,) = await folder.install("web", text, ARRIVAL, True)
    assert foreseen == (remark,)
    assert "/bin/sh" in remark.text and "web.cfg.received" in remark.text
    assert "not started at boot" in remark.text and "link it in" in remark.hint
    assert remark.weight is Weight.ACTION
    assert (tmp_path / "web.cfg.received").read_text() == text
    assert not (tmp_path / "web.cfg").exists()
    assert not await folder.autostart("web")


async def test_what_a_file_comes_without(folder):
    text = (
        "name = 'web'\nnew_key = 1\nseclabel = 'x'\non_crash = 'coredump-restart'\n"
        "vif = ['bridge=xenbr0,vifname=eth0,gatewaydev=eth1', 'vifname=eth2']\n"
    )
    foreseen = await folder.foresee("web", text, ARRIVAL, False)
    assert await folder.install("web", text, ARRIVAL, False) == foreseen
    assert {one.weight for one in foreseen} == {Weight.INFO}
    assert [one.text.removeprefix("web comes without ") for one in foreseen] == [
        *("new_key", "seclabel", "the core dump of on_crash"),
        "vifname of a network interface",
        "gatewaydev of a network interface (on the target, see `gatewaydev` in `allow` of the "
        "source)",
    ]
    assert "eth" not in "".join(one.text for one in foreseen), "values are in no remark"


async def test_retire_and_restore(folder, tmp_path):
    (tmp_path / "auto").mkdir()
    (tmp_path / "web.cfg").write_text("mine")
    (tmp_path / "auto/web").symlink_to(tmp_path / "web.cfg")
    (tmp_path / "auto/10-first").symlink_to("../web.cfg")
    (tmp_path / "auto/other.cfg").symlink_to("../other.cfg")
    (tmp_path / "auto/web.cfg").write_text("a file of its own")
    assert await folder.autostart("web")
    for _ in range(2):
        await folder.retire("web", "")
    assert not await folder.autostart("web")
    assert [entry.name for entry in (tmp_path / "auto").iterdir()] == ["other.cfg"]
    assert (tmp_path / "web.cfg.moved").read_text() == "mine"
    assert (tmp_path / "web.auto.moved/web.cfg").read_text() == "a file of its own"
    assert (tmp_path / "web.auto.moved/10-first").readlink() == Path("../web.cfg")
    assert await read(folder, "web") is None
    for _ in range(2):
        await folder.restore("web", "")
    assert await read(folder, "web") == "mine"
    (tmp_path / "web.cfg.moved").write_text("old")
    await folder.restore("web", "")
    assert await read(folder, "web") == "mine"
    assert (tmp_path / "web.cfg.moved").read_text() == "old", "it is nowhere else"


async def test_autostart_is_held_and_released(folder, tmp_path):
    (tmp_path / "auto").mkdir()
    (tmp_path / "web.cfg").write_text("mine")
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    for _ in range(2):
        await folder.hold_autostart("web", "")
    assert not list((tmp_path / "auto").iterdir())
    assert await folder.autostart("web"), "when it is released"
    assert await read(folder, "web") == "mine"
    for _ in range(2):
        await folder.release_autostart("web")
    assert await folder.autostart("web")
    assert (tmp_path / "auto/web.cfg").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"auto", "web.cfg"}


async def test_what_was_held_is_gone_with_the_guest(folder, tmp_path):
    (tmp_path / "auto").mkdir()
    (tmp_path / "web.cfg").write_text("mine")
    (tmp_path / "auto/web.cfg").symlink_to("../web.cfg")
    await folder.hold_autostart("web", "")
    await folder.retire("web", "")
    await folder.release_autostart("web")
    assert not await folder.autostart("web")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"auto", "web.auto.moved", "web.cfg.moved"}


async def test_retire_after_a_crash_between_its_steps(folder, tmp_path):
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto/x").symlink_to("../web.cfg")
    (tmp_path / "web.cfg.moved").write_text("mine")
    await folder.retire("web", "")
    assert not list((tmp_path / "auto").iterdir())


async def test_other_encodings_and_sizes(folder, tmp_path):
    (tmp_path / "web.cfg").write_bytes(b"# caf\xe9\n")
    text = await read(folder, "web")
    assert text.encode("utf-8", "surrogateescape") == b"# caf\xe9\n"
    (tmp_path / "web.cfg").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ToolstackError, match="larger"):
        await read(folder, "web")


async def test_names_do_not_leave_the_folder(folder):
    with pytest.raises(ToolstackError):
        await read(folder, "../shadow")


async def test_failures_are_toolstack_errors(tmp_path):
    with pytest.raises(ToolstackError, match="nowhere"):
        await ConfigFolder(tmp_path / "nowhere", BOOT_FOLDERS).install("web", "", ARRIVAL, False)


def described(text):
    return describe(text, "web", BOOT_FOLDERS.unseen)


def test_what_a_file_says_of_its_domain():
    domain = described(TEXT)
    assert (domain.name, domain.uuid, domain.kind) == ("web", ARRIVAL.uuid, "pv")
    assert domain.memory == 512 << 20
    assert [(disk.vdev, disk.path, disk.writable) for disk in domain.disks] == [
        ("xvda", "/dev/vg/root", True),
        ("xvdb", "/srv/vg/data,with comma.img", True),
    ]
    assert [nic.bridge for nic in domain.nics] == ["xenbr0", "other"]
    assert domain.obstacles == ()


@pytest.mark.parametrize(
    ("lines", "disks"),
    [
        ("disk = ['/a,raw,xvda,rw']\ndisk += ['/b,raw,xvdb,rw', ]", ["/a", "/b"]),
        ("disk += ['/a,raw,xvda,rw']\ndisk += ['/b,raw,xvdb,rw']", ["/a", "/b"]),
        ("disk = ['/a,raw,xvda,rw']\ndisk = ['/b,raw,xvdb,rw']", ["/b"]),
        ("disk = ['/a,raw,xvda,rw']\ndisk = []\ndisk += ['/b,raw,xvdb,rw']", ["/b"]),
    ],
)
def test_several_lists_are_one_reading(lines, disks):
    text = f"name = 'web'\n{lines}\n"
    domain = described(text)
    assert [disk.path for disk in domain.disks] == disks
    agreed = Arrival("web", "", {disk.vdev: disk.path for disk in domain.disks})
    anew = describe(adapt(text, agreed, BOOT_FOLDERS.unseen, block), "web", BOOT_FOLDERS.unseen)
    assert anew.disks == domain.disks


def test_what_a_file_does_not_say():
    domain = described("name = 'web'\nbuilder = 'hvm'\nmemory = '64'")
    assert (domain.uuid, domain.kind, domain.size.memory) == ("", "hvm", 64 << 20)
    assert domain.disks == domain.nics == ()


@pytest.mark.parametrize(
    ("spec", "path", "writable", "cdrom"),
    [
        ("phy:vg/root,xvda,w", "/dev/vg/root", True, False),
        ("phy:/dev/vg/r,xvda,r", "/dev/vg/r", False, False),
        ("/dev/vg/r,raw,xvda,ro", "/dev/vg/r", False, False),
        ("vdev=xvda,access=ro,target=/srv/x", "/srv/x", False, False),
        ("file:/srv/x.iso,hdc:cdrom,r", "/srv/x.iso", False, True),
        (",hdc:cdrom,r", "", False, True),
    ],
)
def test_a_disk_that_is_described(spec, path, writable, cdrom):
    disk = describe_disk(spec)
    assert (disk.path, disk.writable, disk.cdrom) == (path, writable, cdrom)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("disk = ['qcow2:/srv/x.qcow2,xvda,w']", "not raw"),
        ("disk = ['nbd:host,xvda,w']", "not raw"),
        ("disk = ['/srv/x,qed,xvda,w']", "not raw"),
        ("disk = ['/srv/x,raw']", "not raw"),
        ("pci = ['01:00.0']", "pci"),
        ("name = 'db'", "configuration of a domain 'db'"),
    ],
)
def test_what_keeps_a_configured_domain_here(line, why):
    assert any(why in obstacle for obstacle in described(f"name = 'web'\n{line}\n").obstacles)


def test_a_program_is_not_described():
    with pytest.raises(ToolstackError, match="plain assignment"):
        described("import os")


@pytest.mark.parametrize("own_file", [False, True])
async def test_what_was_set_aside_is_put_back(tmp_path, own_file):
    folder = ConfigFolder(tmp_path, BOOT_FOLDERS.unseen)
    auto = tmp_path / "auto"
    auto.mkdir()
    (tmp_path / "web.cfg").write_text(TEXT)
    if own_file:
        (auto / "web.cfg").write_text("of its own")
    else:
        (auto / "web.cfg").symlink_to("../web.cfg")
    for _ in range(2):
        await folder.set_aside("web", "")
    assert not list(auto.iterdir())
    assert await read(folder, "web") is None
    for _ in range(2):
        await folder.release_autostart("web")
    assert (tmp_path / "web.cfg").read_text() == TEXT
    assert (auto / "web.cfg").read_text() == ("of its own" if own_file else TEXT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auto", "web.cfg"]
    (auto / "web.cfg").unlink()
    await folder.set_aside("web", "")
    await folder.release_autostart("web")
    assert not await folder.autostart("web")


def test_an_interface_with_a_tab_in_it_is_not_understood():
    with pytest.raises(ToolstackError, match="characters in it that nobody sees"):
        described("name = 'web'\nmemory = 512\nvif = ['bridge=xenbr0\t']\n")


@pytest.mark.parametrize(
    ("target", "path"), [("/srv/a,b", "/srv/a,b"), ("/srv/a,", "/srv/a"), ("/srv/a,,", "/srv/a,")]
)
def test_the_target_is_the_rest_but_for_one_comma(target, path):
    assert describe_disk(f"vdev=xvda,access=rw,target={target}").path == path


@pytest.mark.parametrize(
    "line",
    [
        "vfb = ['vnc=1,keymap=\tde']",
        "vfb = ['vnc=1,keymap=de\t']",
        "vif = ['mac=00:16:3e:00:00:01,bridge=xenbr0\t']",
        "vif = ['model=\te1000,bridge=xenbr0']",
        "vif = ['bridge=xenbr0,mtu=900=0']",
    ],
)
def test_what_xl_takes_for_a_part_of_a_value_is_judged_as_one(line):
    with pytest.raises(ToolstackError):
        adapt(f"name = 'web'\n{line}\n", ARRIVAL, BOOT_FOLDERS.unseen, block)
