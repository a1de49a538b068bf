"""Configuration texts by chance: what is adapted gives a guest nothing that was not permitted.

What xl would make of a text is known from a port of its reading (`xl_reading`).
"""

import ast
import re
from dataclasses import replace

import pytest

from tests.support import config_texts, fuzzing
from tests.support.xl_reading import XlRefusesError, cfg, guest
from xenmoved.toolstack import policy
from xenmoved.toolstack.configs import text as cfgtext
from xenmoved.toolstack.interface import Arrival, ToolstackError
from xenmoved.toolstack.readable import Readable

pytestmark = [fuzzing.PATIENCE, pytest.mark.long]
HERE = {"xvda": "/dev/here/xvda", "xvdb": "/dev/here/xvdb", "hdc": ""}
ARRIVAL = Arrival("web", "", HERE, {"xenbr0": "br0"}, read_only=frozenset(("xvdb",)))
FOLDERS = Readable(("/boot", "/usr/lib/xen*", "/usr/lib/grub-xen"), None)
VERSIONS = (17, 18, 19, 20, 21)

OPENED = re.compile(
    r"(?:hvmloader)?|[a-z0-9]*"
    r"|(?!(?:.*/)?\.\.(?:/|$))(?:/boot|/usr/lib/xen[^/]*|/usr/lib/grub-xen)/.*",
    re.DOTALL,
)
PYGRUB = re.compile(r"|(?:/usr/(?!.*\.\.)[\w./-]*)?pygrub")
PYGRUB_ARGUMENT = re.compile(r"--(?:kernel|ramdisk|args|entry)=[^\0-\x1f]*|-q|--quiet|")
ARGUMENT = re.compile(r"[\w.:\[\] +-]*|[a-z0-9,]*|[\w,-]*", re.ASCII)
SERIAL = re.compile(r"pty|none|null|tablet|mouse|keyboard|")
SCRIPT = re.compile(r"(?:/etc/xen/scripts/)?vif-(?:bridge|openvswitch)")
SCREEN = re.compile(r"[\w.:\[\]-]*", re.ASCII)


def beyond(made):
    """Yield what a guest would have that the arrival does not permit."""
    if made.name != "web":
        yield f"name {made.name!r}"
    yield from filter(None, map(_of_disk, made.disks))
    yield from filter(None, map(_of_nic, made.nics))
    yield from (
        f"{key} {path!r}" for key, path in made.opened.items() if not OPENED.fullmatch(path)
    )
    if made.bootloader is not None and not PYGRUB.fullmatch(made.bootloader):
        yield f"bootloader {made.bootloader!r}"
    arguments = filter(None, made.bootloader_args)  # what is a list itself ends them
    if made.bootloader and not all(map(PYGRUB_ARGUMENT.fullmatch, arguments)):
        yield f"bootloader_args {made.bootloader_args}"
    if made.device_model or any(made.extra_arguments):
        yield f"device model {made.device_model!r} {made.extra_arguments}"
    for key, value in made.arguments.items():
        known = SERIAL if key.startswith(("serial", "usbdevice")) else ARGUMENT
        if not known.fullmatch(value):
            yield f"{key} {value!r}"
    for screen in made.screens:
        if screen.get("xauthority") or "unix" in screen.get("vnclisten", ""):
            yield f"screen {screen}"
        for key, value in screen.items():
            if key != "vncpasswd" and not SCREEN.fullmatch(value.strip(" ")):
                yield f"screen {key} {value!r}"
        if set(screen.get("vncpasswd", "")) & set(",'\"\\\n"):
            yield f"screen {screen}"
    if made.of_the_host:
        yield f"of the host: {made.of_the_host}"
    if any(channel["connection"] != "pty" or "backend" in channel for channel in made.channels):
        yield f"channels {made.channels}"
    yield from (f"label {one!r}" for one in made.labels.values() if one)
    if made.users.get("device_model_user") or made.users.get("bootloader_user") == "root":
        yield f"users {made.users}"
    allowed = made.switches.pop("bootloader_restrict")
    if allowed is False or any(made.switches.values()):
        yield f"switches {made.switches}, bootloader_restrict {allowed}"
    yield from (f"{key} {one}" for key, one in made.events.items() if one.startswith("coredump"))
    if re.search(r"[\0-\x08\x0a-\x1f\x7f]", made.command_line or ""):
        yield f"command line {made.command_line!r}"


def _of_disk(disk):
    path = disk.get("path", "").strip()
    plain = {"vdev", "path", "format", "cdrom", "writable", "backendtype", "discard"}
    plain |= {"direct-io-safe", "trusted", "grant_usage"}
    wrong = (
        (path and path != HERE.get(disk["vdev"]))
        or (not path and not disk["cdrom"])
        or disk["format"] not in ("raw", "empty")
        or (disk["vdev"] == "xvdb" and disk["writable"])
        or disk.keys() - plain
    )
    return f"disk {disk}" if wrong else None


def _of_nic(nic):
    wrong = (
        nic.get("bridge") not in (None, "", "br0")
        or ("script" in nic and not SCRIPT.fullmatch(nic["script"]))
        or not re.fullmatch(r"|vif-web\.\d+", nic.get("vifname", ""))
        or nic.get("gatewaydev")
        or nic.get("forwarddev")
        or nic.get("backend") not in (None, "", "0", "Domain-0")
        or any(key.startswith("colo_") for key in nic)
        or not re.fullmatch(r"[0-9a-fA-F.:, ]*", nic.get("ip", ""))
        or any(re.search(r"[^\w.:@/ -]", value) for value in nic.values())
    )
    return f"interface {nic}" if wrong else None


def adapted(text):
    """Return a text as it is taken over, None for one that is not."""
    try:
        return cfgtext.adapt(text, ARRIVAL, FOLDERS, lambda path: True)
    except ToolstackError:
        return None


def widened(chance):
    """Return a text of which xl would make more than was permitted, None for none."""
    text = config_texts.text(chance)
    if (ours := adapted(text)) is None:
        return None
    version = chance.choice(VERSIONS)
    try:
        found = list(beyond(guest.read(ours, version)))
    except XlRefusesError:
        return None
    return f"{text!r} -> {ours!r}: Xen 4.{version}: {found}" if found else None


def misread(chance):
    """Return a text that we describe as another guest than xl would make of it."""
    text = config_texts.text(chance)
    try:
        ours = cfgtext.describe(text, "web", FOLDERS)
        theirs = guest.read(text, chance.choice(VERSIONS))
    except (ToolstackError, XlRefusesError):
        return None
    if ours.obstacles or re.search(r"\s=|=\s| (,|$)", ",".join(theirs.specifications)):
        return None  # blanks at a sign or an end belong to what is beside it for xl, not for xm
    disks = [(d.vdev, _place(d.path), d.writable, d.cdrom) for d in ours.disks]
    bridges = [nic.bridge or "" for nic in ours.nics]
    said = theirs.numbers.get
    differ = (
        ours.kind != theirs.kind
        or ours.size.memory != (said("memory") or said("maxmem") or 128) << 20
        or disks != [_described(disk) for disk in theirs.disks]
        or bridges != [nic.get("bridge", "") for nic in theirs.nics]
    )
    return f"{text!r}: {ours} differs from {theirs}" if differ else None


def _described(disk):
    return disk["vdev"], _place(disk.get("path", "")), disk["writable"], disk["cdrom"]


def _place(path):
    return path.strip().removeprefix("/dev/")  # where the block script looks for it


def program(chance):
    """Return a text that xm, to which it is a program in Python, takes for more than data."""
    text = config_texts.text(chance)
    if (ours := adapted(text)) is None:
        return None
    try:
        tree = ast.parse(ours)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AugAssign) or not _is_data(node.value):
            return f"{text!r}: xm would run {ast.dump(node)}"
    try:
        theirs = cfg.read(ours)
    except XlRefusesError:
        return None
    read = _python(tree)
    settings = {key: value for key, (value, _) in theirs.settings.items()}
    differ = {key: value for key, value in settings.items() if not _alike(value, read[key])}
    return f"{text!r}: {differ} in xl, {read} in xm" if differ else None


def _is_data(node):
    if isinstance(node, ast.List):
        return all(map(_is_data, node.elts))
    number = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(number, ast.Constant) and isinstance(number.value, int | str)


def _python(tree):
    """Return what the names are in the end, numbers as they are written."""
    names = {}
    for node in tree.body:
        value = _plain(node.value)
        if isinstance(node, ast.Assign):
            names[node.targets[0].id] = value
        else:
            names[node.target.id] = names.get(node.target.id, type(value)()) + value
    return names


def _plain(node):
    if isinstance(node, ast.List):
        return [_plain(item) for item in node.elts]
    return ast.literal_eval(node)


def _alike(theirs, read):
    if isinstance(theirs, list) and isinstance(read, list):
        return len(theirs) == len(read) and all(map(_alike, theirs, read))
    return theirs == str(read) or (isinstance(read, int) and cfg.parse_long(theirs) == read)


@pytest.mark.sampled
@pytest.mark.parametrize("trial", [widened, misread, program])
def test_nothing_is_found(trial):
    assert fuzzing.search(trial) is None


def _only_the_last(monkeypatch):
    """A key that is set twice is read once, though `+=` adds to what was there."""
    read = cfgtext.statements
    monkeypatch.setattr(
        cfgtext, "statements", lambda text: [*{one.key: one for one in read(text)}.values()]
    )


def _empty_members(monkeypatch):
    """An empty text in a list of devices is taken for nothing."""
    monkeypatch.setattr(policy, "NOTHING", policy.LEFT_OUT)


def _unknown_parts(monkeypatch):
    """A part of an interface that is not in the table is kept."""
    rule = policy.nic_rule
    monkeypatch.setattr(
        policy,
        "nic_rule",
        lambda key, *rest: policy.PLAIN if key == "netdev" else rule(key, *rest),
    )


def _any_folder_below(monkeypatch):
    """A path is looked at by its beginning."""
    monkeypatch.setattr(Readable, "has", lambda _, path: path.startswith("/boot/"))


def _words_of_arguments(monkeypatch):
    """Arguments of a boot loader are looked at as one."""
    check = cfgtext._check

    def by_the_beginning(statement, value, boot_folders):
        if statement.key != "bootloader_args" or not value.startswith(("--entry=", "-q")):
            check(statement, value, boot_folders)

    monkeypatch.setattr(cfgtext, "_check", by_the_beginning)


def _lists_anew(monkeypatch):
    """A list with `+=` is described as if it were all there is."""
    read = cfgtext.statements
    monkeypatch.setattr(
        cfgtext, "statements", lambda text: [replace(one, added=False) for one in read(text)]
    )


HOLES = [
    (widened, _only_the_last),
    (widened, _empty_members),
    (widened, _unknown_parts),
    (widened, _any_folder_below),
    (widened, _words_of_arguments),
    (misread, _lists_anew),
]


@pytest.mark.parametrize(("trial", "hole"), HOLES)
def test_a_hole_is_found(trial, hole, monkeypatch):
    hole(monkeypatch)
    assert fuzzing.finds(trial)
