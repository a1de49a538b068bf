"""Descriptions of xend by chance: what passes is no more than was permitted, and read alike.

What xend would make of one is known from a port of its reading (`xend_reading`).
"""

import copy
import re

import pytest

from tests.support import fuzzing, xend_reading
from tests.support.toolstack_samples import XM_LIST
from tests.support.xend_reading import PLATFORM, XendRefusesError
from xenmoved.toolstack import policy
from xenmoved.toolstack.interface import Announced, Arrival, Nic, SourceDisk, ToolstackError
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.xm import domain as xm_config
from xenmoved.toolstack.xm import sexpr
from xenmoved.toolstack.xm.domain import parse_xm_domain, rewrite_xm_config
from xenmoved.toolstack.xm.sexpr import parse_all, to_string

pytestmark = [fuzzing.PATIENCE, pytest.mark.long]
UUID = "8f2c3c5e-7a0e-4a5c-9c0b-1f4c2f0d9e11"
WEB = parse_all(XM_LIST)[1]
HVM = parse_all(
    f"(domain (domid 3)(uuid {UUID})(name web)(memory 256)(maxmem 512)(vcpus 1)(on_crash restart)"
    "(image (hvm (kernel '')(loader /usr/lib/xen-4.0/boot/hvmloader)(device_model "
    "/usr/lib/xen-4.0/bin/qemu-dm)(boot cd)(acpi 1)(vnc 1)(serial pty)(localtime 0)))"
    "(device (vif (bridge eth0)(mac 00:16:3e:11:22:33)(type ioemu)))"
    "(device (vbd (dev hda:disk)(uname phy:/dev/vg/root)(mode w)))"
    "(device (vbd (dev hdc:cdrom)(uname '')(mode r)))(device (vfb (vnc 1)(vnclisten 0.0.0.0))))"
)[0]
FOLDERS = Readable(("/boot", "/usr/lib/xen*"), None)
HERE = {f"xvd{letter}": f"/dev/here/xvd{letter}" for letter in "abcd"} | {"hda": "/dev/here/hda"}
LAST = ("@", "0", "", "x", "1", "5", " 7", "0x10", "-1", "99999999", "/etc/shadow", "/boot/vmlinuz")
VALUES = (
    *LAST,
    *("/boot/../etc/shadow", "/tmp/pygrub", "pygrub", "--output=/x", "--entry=0", "--entry=0 -o/x"),
    *("file:/etc/shadow", "tap:aio:/etc/x", "drbd:r0", "phy:vg/other", "xvda:disk", "hdc:cdrom"),
    *("ioemu:hda", "xvdz", "r", "w", "w!", "vif-route", "/etc/xen/scripts/vif-bridge", "../x"),
    *("eth0", "xenbr0", "vif-web.0", "192.0.2.1", "0.0.0.0/0", "coredump-restart", "destroy"),
    *("tcp:1", "pty", "host:1", "unix:x", "../../x", "root", "two\nlines", "it's", "a\\b", "\xe4"),
)
KEYS = (
    *(*PLATFORM, *xend_reading.OF_THE_API, *(f"platform_{key}" for key in PLATFORM)),
    *("name", "uuid", "memory", "maxmem", "vcpus", "shadow_memory", "online_vcpus", "kernel"),
    *("ramdisk", "args", "root", "bootloader", "bootloader_args", "backend", "security_label"),
    *("on_crash", "on_poweroff", "features", "cpus", "image", "linux", "hvm", "device", "@"),
)
PARTS = (
    *(
        "uname",
        "dev",
        "mode",
        "backend",
        "script",
        "bridge",
        "mac",
        "vifname",
        "ip",
        "rate",
        "type",
    ),
    *("policy", "label", "gatewaydev", "vnclisten", "keymap", "xauthority", "vncpasswd", "serial"),
    *(
        "monitor",
        "display",
        "location",
        "VDI",
        "bootable",
        "uuid",
        "other_config",
        "@",
        "security_label",
    ),
)
BOOTS = re.compile(
    r"|(?!.*\.\.)(?:/boot|/usr/lib/xen[^/]*|/var/(?:run|lib)/xend/boot|/var/run/libxl)/.*"
    r"|/var/lib/xen/boot_(?:kernel|ramdisk)\.[\w-]+"
)
TEXT_OF_THE_MODEL = re.compile(r"[\w.:\[\] ,+@-]*", re.ASCII)


def coming(domain):
    """Return a domain's arrival, announced as its source reads it."""
    found = parse_xm_domain(domain)
    disks = {disk.vdev: HERE[disk.vdev] for disk in found.disks if disk.path}
    said = {
        disk.vdev: SourceDisk(disk.path, disk.writable and not disk.cdrom, disk.cdrom)
        for disk in found.disks
        if disk.path
    }
    nics = tuple(Nic(nic.mac, nic.bridge) for nic in found.nics)
    announced = Announced(found.kind, found.size, nics)
    return Arrival("web", UUID, disks, {"eth0": "br0"}, sources=said, announced=announced)


SAMPLES = tuple((domain, coming(domain)) for domain in (WEB, HVM))


def changed(chance, domain):
    """Return a description after a few changes by chance."""
    domain = copy.deepcopy(domain)
    for _ in range(chance.randint(1, 3)):
        lists = list(_lists(domain))
        place = chance.choice(lists)
        in_device = any(
            place is part for dev in lists if dev[:1] == ["device"] for part in _lists(dev)
        )
        member = [chance.choice(PARTS if in_device else KEYS), chance.choice(VALUES)]
        at = chance.randint(1, max(1, len(place)))
        what = chance.randint(0, 6)
        if what == 0 and len(place) > 1:
            place[-1] = chance.choice(VALUES)
        elif what == 1:
            place.insert(at, member)
        elif what == 2:
            place.insert(at, chance.choice((["@", member], ["@"], "@", "ab", [], [[]])))
        elif what == 3 and len(place) > 1:
            place.insert(at, copy.deepcopy(chance.choice(place[1:])))
        elif what == 4 and len(place) > 1:
            place[-1] = [place[-1]]
        elif what == 5:
            place.append(chance.choice(VALUES))
        elif what == 6 and len(place) > 1:
            del place[chance.randrange(1, len(place))]
    return domain


def _lists(expression):
    if isinstance(expression, list):
        if expression and isinstance(expression[0], str):
            yield expression
        for child in expression:
            yield from _lists(child)


def written(chance, expression):
    """Return a description as text, in one of the many ways to write it."""
    if isinstance(expression, list):
        blank = chance.choice((" ", "\n", "\t ", " # it's (\n"))
        return f"({blank.join(written(chance, child) for child in expression)})"
    if chance.random() < 0.9 or not expression.isascii():
        return to_string(expression)
    quote = chance.choice("'\"")
    return quote + "".join(_escaped(chance, char, quote) for char in expression) + quote


def _escaped(chance, char, quote):
    if char in ("\\", quote):
        return f"\\{char}"
    return chance.choice((char, char, char, f"\\{ord(char):03o}", f"\\x{ord(char):02x}"))


def beyond(made, here):
    """Yield what a domain would have that the arrival does not permit."""
    size = here.announced.size
    if made.name != here.name or made.uuid != here.uuid:
        yield f"{made.name} {made.uuid}"
    most = {"memory": size.memory >> 20, "maxmem": size.maximum >> 20, "vcpus": size.max_vcpus}
    for key, limit in most.items():
        if not made.numbers.get(key, 0) <= limit:
            yield f"{key} {made.numbers[key]}"
    if made.numbers.get("shadow_memory", 0) << 20 > size.beside:
        yield f"shadow_memory {made.numbers}"
    if made.hvm != (here.announced.kind == "hvm"):
        yield f"hvm: {made.hvm}"
    yield from _of_boot(made)
    yield from (f"{key} {one!r}" for key, one in made.of_the_api.items())
    if made.backends or made.label not in (None, "", []):
        yield f"backend {made.backends}, label {made.label}"
    if any("coredump" in str(one) for one in made.actions.values()):
        yield f"{made.actions}"
    for kind, info in made.devices:
        judge = {"vbd": _of_disk, "tap": _of_disk, "tap2": _of_disk, "vif": _of_nic}
        if info.get("backend", "0") not in ("", "0", "Domain-0"):
            yield f"{kind} {info}"
        elif kind in judge:
            yield from judge[kind](info, here)
        elif kind not in ("vfb", "vkbd", "console") or not _is_screen(info):
            yield f"{kind} {info}"


def _of_boot(made):
    paths = {key: made.boot[key] for key in ("kernel", "ramdisk")}
    paths["loader"] = made.platform.get("loader", "")
    for key, path in paths.items():
        if not isinstance(path, str) or not BOOTS.fullmatch(path):
            yield f"{key} {path!r}"
    loader = made.boot["bootloader"]
    if not re.fullmatch(r"|(?:/usr/(?!.*\.\.)[\w./-]*/)?pygrub", str(loader)):
        yield f"bootloader {loader!r}"
    said = str(made.boot["bootloader_args"])
    if not all(
        re.fullmatch(r"--(?:kernel|ramdisk|args|entry)=.*|-q|--quiet", a) for a in said.split()
    ):
        yield f"bootloader_args {said!r}"
    platform = made.platform
    for key in ("fda", "fdb", "monitor_path", "pci", "xauthority"):
        if platform.get(key, "0") != "0":
            yield f"{key} {platform[key]!r}"
    if not re.fullmatch(
        r"|(?:/usr/lib(?:64)?/xen[\w.-]*/bin/)?qemu-dm", str(platform.get("device_model", ""))
    ):
        yield f"device_model {platform['device_model']!r}"
    if platform.get("monitor", "0") != "0" or platform.get("gfx_passthru", "0") != "0":
        yield f"monitor or gfx_passthru {platform}"
    for key in (
        "serial",
        "parallel",
        "usbdevice",
        "keymap",
        "soundhw",
        "vnclisten",
        "display",
        "boot",
    ):
        said = str(platform.get(key, ""))
        if not TEXT_OF_THE_MODEL.fullmatch(said) or re.match(r"tcp|host|unix", said):
            yield f"{key} {said!r}"


def _of_disk(info, here):
    vdev, _, kind = str(info.get("dev", "")).removeprefix("ioemu:").partition(":")
    uname, path = info.get("uname", ""), here.disks.get(vdev, "")
    allowed = {f"{scheme}{path}" for scheme in ("phy:", "file:", "tap:aio:")} if path else set()
    if uname not in allowed and (uname or kind != "cdrom"):
        yield f"disk {info}"
    writes = info.get("mode", "r") == "w"
    if info.get("mode", "r") not in ("r", "w") or (
        writes and path and not here.sources[vdev].writable
    ):
        yield f"disk {info}"


def _of_nic(info, _here):
    said = {
        key: info.get(key, "") for key in ("bridge", "script", "vifname", "ip", "policy", "label")
    }
    if (
        said["bridge"] not in ("", "br0")
        or said["script"] not in ("", "vif-bridge", "/etc/xen/scripts/vif-bridge")
        or not re.fullmatch(r"|vif-web\.\d+", str(said["vifname"]))
        or not re.fullmatch(r"[0-9a-fA-F.:, ]*", str(said["ip"]))
        or (said["ip"] and not said["script"])
        or said["policy"]
        or said["label"]
        or info.get("security_label")
    ):
        yield f"interface {info}"


def _is_screen(info):
    known = {key: one for key, one in info.items() if key not in ("vncpasswd", "other_config")}
    return (
        not info.get("xauthority")
        and not info.get("serial")
        and not info.get("monitor")
        and all(TEXT_OF_THE_MODEL.fullmatch(str(one)) for one in known.values())
        and not str(info.get("vnclisten", "")).startswith("unix")
        and not set(str(info.get("vncpasswd", ""))) & set(",'\"\\\n")
    )


def widened(chance):
    """Return a description of which xend would make more than was permitted, None for none."""
    domain, here = chance.choice(SAMPLES)
    text = written(chance, changed(chance, domain))
    try:
        (ours,) = parse_all(text)
        if rewrite_xm_config(ours, here, FOLDERS, lambda path: True):
            return None
    except (ToolstackError, ValueError):
        return None
    passed = to_string(ours)
    try:
        found = list(beyond(xend_reading.read(xend_reading.parse(passed)), here))
    except XendRefusesError:
        return None
    return f"{text!r} -> {passed!r}: {found}" if found else None


def misread(chance):
    """Return a text that we take apart otherwise than xend, or that we write otherwise."""
    text = written(chance, changed(chance, chance.choice(SAMPLES)[0]))
    for _ in range(chance.randint(0, 3)):
        at = chance.randrange(len(text))
        text = (
            text[:at]
            + chance.choice("()'\"\\ #\n\4x07@{}<>[];ab")
            + text[at + chance.randint(0, 1) :]
        )
    try:
        ours = parse_all(text)
    except ToolstackError:
        return None
    try:
        theirs = xend_reading.parse(text)
    except XendRefusesError:
        theirs = ours[0] if ours else None
    if ours[:1] != [theirs] and ours:
        return f"{text!r}: {ours[0]} to us, {theirs} to xend"
    again = xend_reading.parse(to_string(ours[0])) if ours else None
    return f"{text!r}: {ours[0]} is written as {again}" if ours and again != ours[0] else None


@pytest.mark.parametrize("trial", [widened, misread])
def test_nothing_is_found(trial):
    assert fuzzing.search(trial, fuzzing.SECONDS / 2) is None


def _members_of_three(monkeypatch):
    """A member of a device is what is behind its name, whatever comes then."""
    monkeypatch.setattr(xm_config, "_is_pair", lambda item: True)


def _any_name(monkeypatch):
    """A name of an interface may be one of the host."""
    rule = policy.nic_rule
    monkeypatch.setattr(
        policy,
        "nic_rule",
        lambda key, *rest: policy.PLAIN if key == "vifname" else rule(key, *rest),
    )


def _dumps(monkeypatch):
    """What a guest does when it crashes is its own affair."""
    monkeypatch.setattr(policy, "action_here", lambda _, action: (action, ""))


def _bare_backslashes(monkeypatch):
    """A backslash is written as it is."""
    quoted = sexpr._quoted
    monkeypatch.setattr(sexpr, "_quoted", lambda char: char if char == "\\" else quoted(char))


def _unknown_escapes(monkeypatch):
    """An escape that is not known stands for its character."""
    monkeypatch.setattr(sexpr, "_NAMED", {**sexpr._NAMED, "(": "(", "@": "@", "#": "#"})


HOLES = [
    *((widened, hole) for hole in (_members_of_three, _any_name, _dumps)),
    *((misread, hole) for hole in (_bare_backslashes, _unknown_escapes)),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("trial", "hole"), HOLES)
def test_a_hole_is_found(trial, hole, monkeypatch):
    hole(monkeypatch)
    assert fuzzing.finds(trial)
