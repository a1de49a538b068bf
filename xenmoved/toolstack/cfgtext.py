"""The text of a guest's configuration file (xl.cfg, and xm's in so far as it is plain), adapted.

A file from another host will be handed to `xl create` one day, at boot even, so the same holds as
for the configuration inside an image (see `vetting`): what it names of this host must be what was
agreed upon, and nothing in it may run a program or open a file here. `adapt` replaces the path of
each disk by vdev, and the bridges, where they stand, and leaves every other character as it is. It
raises ToolstackError when anything cannot be adapted or vouched for; a human must then look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xenmoved.toolstack.domains import normal_uuid, under
from xenmoved.toolstack.interface import Arrival, Disk, Domain, Nic, ToolstackError
from xenmoved.toolstack.vetting import LISTEN, NIC_SCRIPT, PYGRUB_ARGUMENT, words

TEXT_LIMIT: Final = 1 << 20

_BLANK: Final = re.compile(r"(?:[ \t\r\n;]|#[^\n]*|\\\n)*")
_SPACE: Final = re.compile(r"(?:[ \t\r]|\\\n)*")
_ASSIGN: Final = re.compile(r"([A-Za-z_]\w*)[ \t]*(?:=|\+=(?=[ \t]*\[))")
# xm runs the file as a program: Python 2 takes these for the end of a comment, or of a line, and
# reads the rest in another coding if a comment says so.
_ODD: Final = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)|#[^\n]*coding[:=]")
_STRING: Final = re.compile(r"'([^'\n\\]|\\.)*'|\"([^\"\n\\]|\\.)*\"")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)\b")
_END: Final = re.compile(r"[ \t\r]*(?:[\n;#]|$)")

_TEXT: Final = frozenset(("extra", "root", "cmdline", "description"))
_BOOT: Final = frozenset(("kernel", "ramdisk", "loader", "firmware_override", "pvshim_path"))
_PLAIN: Final = words(
    "name uuid builder type vcpu_avail cpus cpus_soft cpuid memory maxmem pool on_poweroff "
    "on_reboot on_watchdog on_crash on_soft_reset on_xend_start on_xend_stop localtime tsc_mode "
    "timer_mode bios firmware hdtype vga stdvga acpi_firmware_mode viridian sched "
    "device_model_version features nestedhvm hap altp2m passthrough max_grant_version platform "
    "xen_platform_pci vendor_device iomem_policy vnuma cpu_weight cap vcpus maxvcpus"
)
_NUMBERS: Final = words(
    "memory maxmem vcpus maxvcpus cpus cpu_weight cap shadow_memory videoram vnc vncdisplay "
    "vncunused vncconsole sdl opengl usb usbversion acpi acpi_s3 acpi_s4 acpi_laptop_slate apic "
    "pae hpet nx viridian stdvga localtime rtc_timeoffset tsc_mode timer_mode nomigrate nestedhvm "
    "altp2m hap oos xen_platform_pci xen_platform_pci_bar_uc vpt_align mmio_hole "
    "max_event_channels max_grant_frames max_maptrack_frames max_grant_version nographic pvh "
    "pvshim e820_host spice spiceport spicetls_port spicedisable_ticketing spiceagent_mouse "
    "spicevdagent spice_clipboard_sharing spiceusbredirection claim_mode dm_restrict "
    "vmtrace_buf_kb vpmu vcpu_avail blkdev_start latency extratime period slice budget superpages "
    "memory_sharing xen_extended_power_mgmt suppress_spurious_page_faults trap_unmapped_accesses "
    "nodes"
)
_OFF: Final = words("gfx_passthru driver_domain device_model_stubdomain_override")
"""Keys that pass with 0, which says that there is no such thing."""
_PLAIN_VALUE: Final = re.compile(r"[\w.,:+\-=()<>@*^!% ]*", re.ASCII)
_VFB: Final = re.compile(
    r"[ \t]*(?:type|vnc|vncdisplay|vncunused|vncpasswd|vnclisten|keymap|sdl|opengl|display)"
    r"[ \t]*=[ \t]*[\w.:+-]*[ \t]*",
    re.ASCII,
)
_PASSWORD: Final = re.compile(r"[\w.+-]*", re.ASCII)
_RULES: Final[Mapping[str, re.Pattern[str]]] = {
    "bootloader": re.compile(r"(?:/usr/(?!.*\.\.)[\w./+-]*/)?pygrub", re.ASCII),
    "bootloader_args": PYGRUB_ARGUMENT,
    "boot": re.compile(r"[a-z]{0,8}"),
    "keymap": re.compile(r"[A-Za-z0-9-]*"),
    "soundhw": re.compile(r"[a-z0-9,]*"),
    "vnclisten": LISTEN,
    "spicehost": LISTEN,
    "vncpasswd": _PASSWORD,
    "spicepasswd": _PASSWORD,
    "serial": re.compile(r"pty|null|none"),
    "usbdevice": re.compile(r"tablet|mouse|keyboard"),
    "device_model": re.compile(r"(?:/usr/lib(?:64)?/xen[\w.-]*/bin/)?qemu-dm"),
}

_NAME_LINE: Final = re.compile(r"^[ \t]*name[ \t]*=[ \t]*(['\"])(.*?)\1", re.MULTILINE)

_DISK_KEYS: Final = words("format vdev access backendtype backend script devtype discard target")
_NAMED: Final = re.compile(r"[ \t]*([a-z-]+)=(.*)", re.DOTALL)
_DISK_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "format": words("raw empty qcow qcow2 vhd qed"),
    "access": words("r ro w rw w! rw!"),
    "devtype": frozenset(("cdrom",)),
    "discard": words("discard no-discard"),
    "direct-io-safe": frozenset(("direct-io-safe",)),
}
"""What a word in a disk specification is about."""
_VDEV: Final = re.compile(r"(?:ioemu:)?((?:xvd|hd|sd|vd)[a-z]+\d*|d\d+(?:p\d+)?)(?::(cdrom|disk))?")
_SCHEME: Final = re.compile(r"((?:(?:phy|file|tap2?|aio|raw|qcow2?|vhd|qed|drbd|nbd):)*)(.*)")
_NOT_RAW: Final = re.compile(r"qcow2?|vhd|qed|drbd|nbd")
_IMAGES: Final = frozenset(("qcow2", "vhd"))
_BACKEND_PHY: Final = re.compile(r"\s*backendtype\s*=\s*phy\s*")
_UNQUOTABLE: Final = re.compile(r"[,'\"\\\x00-\x1f]")


@dataclass(slots=True)
class _Statement:
    key: str
    line: int
    strings: list[tuple[int, int]] = field(default_factory=list)  # spans without the quotes
    numbers: list[str] = field(default_factory=list)
    listed: bool = False


def _statements(text: str) -> list[_Statement]:
    """Find the assignments of literals that the text consists of. Raises ToolstackError."""
    if len(text) > TEXT_LIMIT:
        raise ToolstackError(f"it is longer than {TEXT_LIMIT} characters")
    if odd := _ODD.search(text):
        raise _unreadable(text, odd.start())
    found: list[_Statement] = []
    position = _skip(_BLANK, text, 0)
    while position < len(text):
        match = _ASSIGN.match(text, position)
        if match is None:
            raise _unreadable(text, position)
        statement = _Statement(match[1], text.count("\n", 0, position) + 1)
        position = _value(text, _skip(_SPACE, text, match.end()), statement, 0)
        if _END.match(text, position) is None:
            raise _unreadable(text, position)
        found.append(statement)
        position = _skip(_BLANK, text, position)
    return found


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _unreadable(text: str, position: int) -> ToolstackError:
    line = text.count("\n", 0, position) + 1
    return ToolstackError(f"line {line} is not a plain assignment")


def _value(text: str, position: int, statement: _Statement, depth: int) -> int:
    if match := _STRING.match(text, position):
        statement.strings.append((match.start() + 1, match.end() - 1))
        return match.end()
    if match := _NUMBER.match(text, position):
        statement.numbers.append(match[0])
        return match.end()
    if text[position : position + 1] != "[" or depth > 4:
        raise _unreadable(text, position)
    statement.listed = True
    position = _skip(_BLANK, text, position + 1)
    while text[position : position + 1] != "]":
        position = _skip(_BLANK, text, _value(text, position, statement, depth + 1))
        if text[position : position + 1] == ",":
            position = _skip(_BLANK, text, position + 1)
        elif text[position : position + 1] != "]":
            raise _unreadable(text, position)
    return position + 1


@dataclass(slots=True)
class _DiskSpec:
    parts: list[str]
    vdev: str = ""
    target: int = 0  # index of the part that names it, -1 for none
    cdrom: bool = False
    readonly: bool = False
    format: str = "raw"
    said: set[str] = field(default_factory=set)


def _parse_disk(spec: str) -> _DiskSpec:
    """Find the parts of a disk specification that matter. Raises ToolstackError.

    xl's own scanner (libxlu_disk_l.l) takes off a prefix such as `phy:` wherever it finds one, and
    goes on with the rest; so nothing passes that it could read otherwise than is done here.
    """
    disk = _DiskSpec(spec.split(","))
    for number, part in enumerate(disk.parts):
        named = _NAMED.fullmatch(part)
        key, value = (named[1], named[2].strip()) if named else ("", part.strip())
        if key == "target":  # takes the rest of the specification, commas and all
            if disk.target == 0 and disk.parts[0].strip() and number:
                raise ToolstackError(f"disk {spec!r} has two targets")
            disk.parts[number:] = [",".join(disk.parts[number:])]
            disk.target = number
            break
        if number == 0 and key not in _DISK_KEYS:
            continue  # it is the target
        if number == 0:
            disk.target = -1
        if key and key not in _DISK_KEYS - {"script", "backend"}:
            raise ToolstackError(f"disk {spec!r} has {key}=, which cannot be taken over")
        if part.strip(" \t"):
            _take_part(disk, spec, key, value)
    return disk


def _take_part(disk: _DiskSpec, spec: str, key: str, value: str) -> None:
    """Take what one part says; what is said twice may be read in two ways."""
    vdev = _VDEV.fullmatch(value) if key in ("", "vdev") else None
    about = [key] if key else [one for one, known in _DISK_WORDS.items() if value in known]
    if vdev is not None:
        about = ["vdev", "devtype"] if vdev[2] else ["vdev"]
        disk.vdev = vdev[1]
    unknown = key in _DISK_WORDS and value not in {*_DISK_WORDS[key], "disk", ""}
    by_place = disk.target == -1 and not key and about[:1] in (["format"], ["access"], ["vdev"])
    plain = vdev is not None or re.fullmatch(r"[\w!-]*", value, re.ASCII)
    if not about or unknown or by_place or not plain or disk.said & set(about):
        raise ToolstackError(f"disk {spec!r} is not understood at {value!r}")
    disk.said.update(about)
    if about == ["format"]:
        if value in _IMAGES:
            disk.format = value
        elif value not in ("raw", "empty", ""):
            raise ToolstackError(f"disk {spec!r} is not raw")
    disk.cdrom |= value == "cdrom" or (vdev is not None and vdev[2] == "cdrom")
    disk.readonly |= about == ["access"] and value in ("r", "ro")


def _target(disk: _DiskSpec, spec: str) -> tuple[str, re.Match[str]]:
    """Return what leads to the target of a disk, and its scheme and path. Raises ToolstackError."""
    lead, target = "", disk.parts[disk.target] if disk.target >= 0 else ""
    if (named := _NAMED.fullmatch(target)) and named[1] == "target":
        lead, target = target[: named.start(2)], named[2]
    if (scheme := _SCHEME.fullmatch(target.strip())) is None:
        raise ToolstackError(f"disk {spec!r} is not understood")
    return lead, scheme


def adapt_disk(spec: str, arrival: Arrival, is_block: Callable[[str], bool]) -> str:
    """Replace the target of a disk specification (xl-disk-configuration(5), or xm's form).

    A scheme such as `phy:` becomes the one that fits the local path. An empty drive stays as it
    is. Raises ToolstackError when the specification is not understood or may not be taken over.
    """
    disk = _parse_disk(spec)
    lead, scheme = _target(disk, spec)
    if disk.cdrom and not scheme[2]:
        return spec
    local = arrival.disks.get(disk.vdev)
    if disk.vdev in arrival.read_only and not (disk.cdrom or disk.readonly):
        raise ToolstackError(f"disk {spec!r} was announced as read-only")
    if local == "" and disk.cdrom and disk.target >= 0:
        return ",".join([*disk.parts[: disk.target], lead, *disk.parts[disk.target + 1 :]])
    if not local or disk.target < 0:
        raise ToolstackError(f"disk {spec!r} has no volume on this host that was agreed upon")
    if disk.format != (agreed := arrival.formats.get(disk.vdev, "raw")):
        raise ToolstackError(f"disk {spec!r} is {disk.format}, and {agreed} was announced")
    if _UNQUOTABLE.search(local) or any(_NOT_RAW.fullmatch(s) for s in scheme[1].split(":")):
        raise ToolstackError(f"disk {spec!r} cannot be written with the path {local!r}")
    block, prefix = is_block(local), scheme[1]
    if prefix:
        prefix = "phy:" if block else "tap:aio:" if prefix == "tap:aio:" else "file:"
    parts = list(disk.parts)
    parts[disk.target] = f"{lead}{prefix}{local}"
    if not block:
        parts = [part for part in parts if not _BACKEND_PHY.fullmatch(part)]
    return ",".join(parts)


def describe_disk(spec: str) -> Disk:
    """Describe the disk of a specification. Raises ToolstackError when it cannot be moved."""
    disk = _parse_disk(spec)
    _, scheme = _target(disk, spec)
    if not disk.vdev or any(map(_NOT_RAW.fullmatch, scheme[1].split(":"))):
        raise ToolstackError(f"disk {spec!r} is not understood, or not raw")
    path = scheme[2].strip()
    if path and not path.startswith("/") and scheme[1] == "phy:":
        path = f"/dev/{path}"
    writable = not (disk.cdrom or disk.readonly)
    return Disk(disk.vdev, path, "unknown", disk.format, writable, disk.cdrom, None, 0)


def adapt_vif(spec: str, bridges: Mapping[str, str]) -> str:
    """Replace the bridge in a network interface specification. Raises ToolstackError."""
    parts = spec.split(",")
    for number, part in enumerate(parts):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key == "bridge":
            parts[number] = f"{part.partition('=')[0]}={bridges.get(value, value)}"
        elif (key == "script" and not NIC_SCRIPT.fullmatch(value)) or key == "backend":
            raise ToolstackError(f"network interface {spec!r} has {key}={value}")
    adapted = ",".join(parts)
    without_script = ",".join(part for part in parts if not part.strip().startswith("script"))
    if not re.fullmatch(r"[\w.,:+\-=@/ ]*", without_script, re.ASCII):
        raise ToolstackError(f"network interface {spec!r} has unexpected characters")
    return adapted


def adapt(
    text: str, arrival: Arrival, boot_folders: tuple[str, ...], is_block: Callable[[str], bool]
) -> str:
    """Adapt a configuration file to this host.

    `is_block` tells whether a local path is a block device. Raises ToolstackError with all that
    stands in the way, when anything does.
    """
    edits: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for statement in _statements(text):
        off = statement.key in _OFF and statement.numbers == ["0"]
        if statement.numbers and statement.key not in _NUMBERS and not off:
            what = f"{statement.key} = {', '.join(statement.numbers)[:200]}"
            problems.append(f"line {statement.line}: {what} may not come from another host unseen")
        for start, end in statement.strings:
            value = text[start:end]
            try:
                if "\\" in value and statement.key not in _TEXT:
                    raise ToolstackError(f"{statement.key} has a backslash in {value[:200]!r}")
                if statement.key == "disk":
                    edits.append((start, end, adapt_disk(value, arrival, is_block)))
                elif statement.key == "vif":
                    edits.append((start, end, adapt_vif(value, arrival.bridges)))
                elif statement.key == "name":
                    edits.append((start, end, _renamed(value, arrival)))
                else:
                    _check(statement, value, boot_folders)
            except ToolstackError as error:
                problems.append(f"line {statement.line}: {error}")
    if problems:
        raise ToolstackError("; ".join(problems[:20]))
    for start, end, replacement in reversed(edits):
        text = text[:start] + replacement + text[end:]
    return text


def named(text: str) -> str | None:
    """Return the name of the domain that a file is for, None where it does not say so plainly.

    Unlike the rest, this reads programs too: xm's files may be some.
    """
    found = _NAME_LINE.findall(text)
    return found[-1][1] if found else None


def describe(text: str, name: str, boot_folders: tuple[str, ...]) -> Domain:
    """Describe the domain that a configuration file would start. It has no id.

    Raises ToolstackError when it is not made of plain assignments.
    """
    values: dict[str, list[str]] = {}
    for statement in _statements(text):
        strings = [text[start:end] for start, end in statement.strings]
        values[statement.key] = strings or statement.numbers[-1:]
    obstacles: list[str] = []
    disks: list[Disk] = []
    for spec in values.get("disk", []):
        try:
            disks.append(describe_disk(spec))
        except ToolstackError as error:
            obstacles.append(str(error))
    anywhere = Arrival(
        name,
        "",
        {disk.vdev: f"/{disk.vdev}" for disk in disks if disk.path},
        formats={disk.vdev: disk.format for disk in disks},
    )
    try:
        adapt(text, anywhere, boot_folders, lambda _: True)
    except ToolstackError as error:
        obstacles.append(str(error))
    kind = next(iter(values.get("type", values.get("builder", []))), "pv")
    memory = next(iter(values.get("memory", [])), "")
    return Domain(
        name=name,
        uuid=normal_uuid(next(iter(values.get("uuid", [])), "")),
        domid=0,
        kind=kind if kind in ("hvm", "pvh") else "pv",
        memory=int(memory) << 20 if memory.isdigit() else 0,
        disks=tuple(disks),
        nics=tuple(Nic(None, _bridge(spec)) for spec in values.get("vif", []) if spec),
        obstacles=tuple(dict.fromkeys(obstacles)),
    )


def _bridge(vif: str) -> str | None:
    named = (part.partition("=") for part in vif.split(","))
    return next((value.strip() for key, _, value in named if key.strip() == "bridge"), None)


def _renamed(name: str, arrival: Arrival) -> str:
    if name != arrival.announced_name:
        raise ToolstackError(f"it is the configuration of a domain {name!r}")
    return arrival.name


def _check(statement: _Statement, value: str, boot_folders: tuple[str, ...]) -> None:
    key = statement.key
    if key in _BOOT and (under(value, boot_folders) or value == "hvmloader"):
        return
    if key == "vfb" and all(map(_VFB.fullmatch, value.split(","))):
        return
    if key in _TEXT or not value:
        return
    if key == "bootloader_args" and not statement.listed and re.search(r"\s", value):
        raise ToolstackError(f"{key} = {value[:200]!r} has blanks: xl would take it apart")
    rule = _RULES.get(key, _PLAIN_VALUE if key in _PLAIN else None)
    if rule is None or not rule.fullmatch(value):
        raise ToolstackError(f"{key} = {value[:200]!r} may not come from another host unseen")
