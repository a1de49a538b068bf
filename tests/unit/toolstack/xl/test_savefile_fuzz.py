"""Configurations in images by chance, in libxl's JSON: what passes is no more than was permitted.

libxl compares the words of an enumeration without regard to case, passes by a member that it does
not know, and refuses one of another type.
"""

import copy
import json
import re
from pathlib import Path

import pytest

from tests.support import fuzzing
from tests.support.toolstack_samples import HVM, PV, PVH, arrival, entry
from tests.support.xl_reading import words
from xenmoved.toolstack import policy, vetting
from xenmoved.toolstack.interface import ToolstackError
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xl.savefile import ImageFilter, encode_header

pytestmark = [fuzzing.PATIENCE, pytest.mark.long]
KEYS = json.loads((Path(__file__).parents[3] / "data" / "xen_keys.json").read_text())
IDL = KEYS["stable-4.21"]["idl"]
SAMPLES = (PV, PVH, HVM)
FOLDERS = Readable(("/boot", "/usr/lib/xen*"), None)
BUILD = ("b_info", "type.hvm", "type.pv", "type.pvh")
DEVICES = {"disks": "disk", "nics": "nic", "vkbs": "vkb", "vfbs": "vfb", "usbctrls": "usbctrl"}
VALUES = (
    *("", "x", "0", "True", "False", "<default>", "/etc/shadow", "/boot/vmlinuz", "/boot/../etc/x"),
    *("hvmloader", "pygrub", "/tmp/pygrub", "pty", "file:/etc/x", "unix:/run/x", "a,b=c", "root"),
    *("coredump_restart", "COREDUMP_DESTROY", "restart", "host", "HOST", "ignore", "socket"),
    *("SOCKET", "Pty", "qcow2", "RAW", "Raw", "QDISK", "vif-bridge", "/etc/xen/scripts/vif-route"),
    *("eth0", "vif-web.0", "xenbr0", "br0", "192.0.2.1", "0.0.0.0/0", "standalone", "virtio"),
    *("xvda", "xvdz", "two\nlines", "--entry=0", "--output=/x", "Domain-0", "\u00e4", "a\\u0000b"),
    *(None, True, False, 0, 1, 3, -1, 1 << 70, 1e308, 2.5, [], {}, [""], [[]], [{}], [0], [None]),
    *(["--output=/x"], ["pty", "tcp:1"], {"path": "/x"}, {"enable": "True", "listen": "unix:/x"}),
    *({"passwd": "a,b"}, {"strategy": "Host"}, {"first": 1, "number": 2}, {"kernel": "/etc/x"}),
)
PLACES = (
    *((), ("c_info",), ("b_info",), ("b_info", "type.hvm"), ("b_info", "type.pv")),
    *(("b_info", "type.pvh"), ("b_info", "type.hvm", "vnc"), ("b_info", "type.hvm", "spice")),
    *(("disks", 0), ("nics", 0), ("vfbs", 0), ("vkbs", 0), ("channels", 0), ("usbctrls", 0)),
)
OTHERS = (
    *("type.hvm", "type.pv", "rdm", "connection", "connection.socket", "listen", "passwd", "host"),
    *("strategy", "name", "uuid", "script", "ifname", "on_crash", "bootloader_restrict", "u"),
)
HVM_BUILD = ("b_info", "type.hvm")
AIMED = (
    ((), "on_crash", ("coredump_restart", "Coredump-Destroy")),
    ((), "pvcallsifs", ([{}], [{"devid": 0}])),
    ((), "p9s", ([{"path": "/"}], [{}])),
    ((), "channels", ([{"connection": "Socket", "connection.socket": {"path": "/x"}}], [{}])),
    (("nics", 0), "ifname", ("eth0", "vif-web.0", "vif-win.1")),
    (("nics", 0), "script", ("/etc/xen/scripts/vif-bridge", "../../x", "vif-route")),
    (("nics", 0), "colo_checkpoint_host", ("192.0.2.1", "False")),
    (("disks", 0), "active_disk", ("/etc/shadow", "0")),
    (("disks", 0), "backend_domname", ("Domain-0", "other")),
    (("b_info",), "device_model", ("/tmp/x", "qemu-dm", "False")),
    (("b_info",), "extra", (["-x"], [""])),
    (("b_info",), "bootloader", ("/usr/bin/pygrub", "/tmp/pygrub", ["/usr/bin/pygrub"])),
    (("b_info",), "bootloader_args", (["--output=/x"], ["-q", "--entry=0 --output=/x"], "-q")),
    (("b_info",), "kernel", ("/boot/../etc/shadow", "/etc/shadow", "0")),
    (("b_info",), "bootloader_restrict", ("False", "false", "True")),
    (HVM_BUILD, "serial_list", (["pty", "file:/etc/x"], ["null"])),
    (HVM_BUILD, "system_firmware", ("/etc/shadow", "/usr/lib/xen/boot/x", "False")),
    (HVM_BUILD, "rdm", ({"strategy": "HOST"}, {"policy": "relaxed"})),
    ((*HVM_BUILD, "vnc"), "listen", ("unix:/run/x", "127.0.0.1:1,reverse=on")),
)
OPENED = {
    "b_info": ["kernel", "ramdisk", "device_tree", "stubdomain_kernel", "stubdomain_ramdisk"],
    "type.hvm": ["firmware", "system_firmware", "smbios_firmware", "acpi_firmware"],
    "type.pv": ("kernel", "ramdisk"),
    "type.pvh": ("pvshim_path",),
}
OF_THE_HOST = words(
    "pcidevs usbdevs dtdevs rdms p9s pvcallsifs virtios vdispls vsnds vtpms ioports irqs "
    "iomem extra extra_pv extra_hvm"
)
TEXTS = words(
    "device_model stubdomain_kernel stubdomain_cmdline device_tree ssid_label exec_ssid_label "
    "device_model_ssid_label device_model_user"
)
MIRRORED = ("colo_host", "colo_export", "active_disk", "hidden_disk")
BOOTABLE = re.compile(
    r"(?:hvmloader)?|[a-z0-9]*|(?!.*\.\.)(?:/boot|/usr/lib/xen[^/]*)/.*", re.DOTALL
)


def changed(chance, config):
    """Return the JSON of a configuration after a few changes by chance."""
    config = copy.deepcopy(config)
    for _ in range(chance.randint(1, 2)):
        path, key, values = chance.choice(AIMED)
        if chance.random() < 0.5:
            path, values = chance.choice(PLACES), VALUES
            group = DEVICES.get(path[0] if path else "", "domain")
            key = chance.choice((*IDL[group], *OTHERS))
        if isinstance(place := _place(config, path), dict):
            place[key] = copy.deepcopy(chance.choice(values))
    text = json.dumps(config, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.2:  # said twice, the second time otherwise
        key = chance.choice((*IDL["domain"], *OTHERS, "disks", "nics", "c_info"))
        twice = f"{json.dumps(key)}: {json.dumps(chance.choice(VALUES))}"
        start = chance.choice([found.end() for found in re.finditer(r"{", text)])
        text = f"{text[:start]}{twice}, {text[start:]}"
    if chance.random() < 0.2:  # escapes, and numbers that are none
        char = chance.choice("abcdeikmnoprstv/")
        text = chance.choice((text.replace(char, f"\\u{ord(char):04x}"), text.replace("1", "NaN")))
    return text


def _place(place, path):
    for step in path:
        if isinstance(place, dict):
            place = place.setdefault(step, [{}] if path[-1] == 0 else {})
        elif isinstance(place, list) and place:
            place = place[0]
    return place


def beyond(config, here):
    """Yield what libxl would do of a configuration that the arrival does not permit."""
    create, build = config["c_info"], config["b_info"]
    if create.get("name") != here.name or create.get("uuid") != here.uuid:
        yield f"{create}"
    yield from (f"disk {disk}" for disk in config.get("disks") or [] if _is_wrong(disk, here))
    yield from (f"nic {nic}" for nic in config.get("nics") or [] if not _is_right(nic, here))
    sections = [("", config), ("c_info", create), ("b_info", build)]
    sections += [(key, build[key]) for key in BUILD if isinstance(build.get(key), dict)]
    for where, section in sections:
        for key in OF_THE_HOST:
            if section.get(key) not in (None, "", [], 0, False, {}):
                yield f"{where}.{key} {section[key]!r}"
        for key in OPENED.get(where, ()):
            path = section.get(key)
            if isinstance(path, str) and not BOOTABLE.fullmatch(path):
                yield f"{where}.{key} {path!r}"
        if _texts(section).get("bootloader", "") not in ("", "pygrub"):
            yield f"{where}.bootloader {section['bootloader']!r}"
        arguments = section.get("bootloader_args")
        for argument in arguments if isinstance(arguments, list) else ():
            if isinstance(argument, str) and not re.fullmatch(
                r"--(?:kernel|ramdisk|args|entry)=.*|-q|", argument
            ):
                yield f"{where}.bootloader_args {argument!r}"
        for key in ("driver_domain", "device_model_stubdomain", "gfx_passthru"):
            if section.get(key) == "True":
                yield f"{where}.{key}"
        for key in TEXTS:
            if isinstance(section.get(key), str) and section[key]:
                yield f"{where}.{key} {section[key]!r}"
        if section.get("bootloader_restrict") == "False":
            yield f"{where}.bootloader_restrict"
    if isinstance(hvm := build.get("type.hvm"), dict):
        yield from _of_hvm(hvm)
    for key in policy.SHUTDOWN_ACTIONS:
        if str(config.get(key)).lower().startswith("coredump"):
            yield f"{key} {config[key]}"
    for channel in config.get("channels") or []:
        socket = str(channel.get("connection")).lower() == "socket"
        if socket or channel.get("connection.socket"):
            yield f"channel {channel}"
    for devices in ("vkbs", "vfbs", "channels", "usbctrls"):
        if any(map(_elsewhere, config.get(devices) or [])):
            yield f"{devices} {config[devices]}"


def _of_hvm(hvm):
    listed = hvm.get("serial_list")
    serials = [hvm.get("serial"), *(listed if isinstance(listed, list) else ())]
    if any(isinstance(one, str) and ":" in one for one in serials):
        yield f"serial {serials}"
    for key in ("keymap", "soundhw", "boot"):
        if re.search(r"[^\w,-]", _texts(hvm).get(key, "")):
            yield f"{key} {hvm[key]!r}"
    for key in ("vnc", "spice"):
        screen = _texts(hvm[key]) if isinstance(hvm.get(key), dict) else {}
        for said in ("listen", "host"):
            if re.search(r"[/,]", screen.get(said, "")):
                yield f"{key}.{said} {screen[said]!r}"
        if "," in screen.get("passwd", ""):
            yield f"{key}.passwd"
    rdm = hvm.get("rdm") or {}
    if isinstance(rdm, dict) and str(rdm.get("strategy", "ignore")).lower() == "host":
        yield f"rdm {rdm}"


def _elsewhere(device):
    return device.get("backend_domname") not in (None, "", "0", "Domain-0") or (
        device.get("backend_domid") not in (None, 0, False)
    )


def _is_wrong(disk, here):
    path, vdev = disk.get("pdev_path"), disk.get("vdev")
    return (
        _elsewhere(disk)
        or (path and path != here.disks.get(vdev))
        or (path and str(disk.get("format")).lower() not in ("raw", "empty"))
        or disk.get("script")
        or any(_texts(disk).get(key) for key in MIRRORED)
        or (vdev in here.read_only and not disk.get("is_cdrom") and disk.get("readwrite"))
    )


def _is_right(nic, here):
    said = _texts(nic)
    return (
        not _elsewhere(nic)
        and said.get("script", "") in ("", "vif-bridge", "vif-openvswitch")
        and not said.get("gatewaydev")
        and not any(value for key, value in said.items() if key.startswith("colo"))
        and re.fullmatch(rf"|vif-{here.name}\.\d+", said.get("ifname", ""))
        and re.fullmatch(r"[0-9a-fA-F.:, ]*", said.get("ip", ""))
    )


def _texts(device):
    """Return what libxl takes: where a text belongs, it refuses anything else."""
    return {key: value for key, value in device.items() if isinstance(value, str)}


def once(pairs):
    """Return an object in which nothing is said twice: libxl takes the first, others the last."""
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


def widened(chance):
    """Return a configuration that passes and gives the guest more than was permitted."""
    sample = chance.choice(SAMPLES)
    here = arrival(sample)
    text = changed(chance, entry(sample)["config"])
    try:
        passed = b"".join(ImageFilter(here, FOLDERS).feed(encode_header(text.encode())))
    except ToolstackError:
        return None
    made = json.loads(passed[52:-1], object_pairs_hook=once)
    found = list(beyond(made, here))
    return f"{text}: {found}" if found else None


def test_nothing_is_found():
    assert fuzzing.search(widened) is None


def _words_as_written(monkeypatch):
    """A core dump is one only in small letters."""
    monkeypatch.setattr(policy, "_DUMP", re.compile(policy._DUMP.pattern))


def _any_interface(monkeypatch):
    """A name of an interface may be one of the host."""
    rule = policy.nic_rule
    monkeypatch.setattr(
        policy,
        "nic_rule",
        lambda key, **said: policy.PLAIN if key == "ifname" else rule(key, **said),
    )


def _members_of_nothing(monkeypatch):
    """Devices of which nothing is said are taken for none."""
    monkeypatch.setattr(vetting, "_EMPTY", (*vetting._EMPTY, [{}], [""]))


@pytest.mark.parametrize("hole", [_words_as_written, _any_interface, _members_of_nothing])
def test_a_hole_is_found(hole, monkeypatch):
    hole(monkeypatch)
    assert fuzzing.finds(widened)
