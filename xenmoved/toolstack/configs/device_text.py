"""What `disk`, `vif` and `vfb` of a guest's configuration file say of each device, adapted.

After xl's own scanners (libxlu_disk_l.l, xl_parse.c) and xm's form. Nothing passes that one of them
could read otherwise than is done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xenmoved.toolstack import policy
from xenmoved.toolstack.announced import announced_format
from xenmoved.toolstack.interface import Arrival, Disk, Nic, ToolstackError
from xenmoved.toolstack.policy import words

_SCREEN: Final = words(
    "type vnc vncdisplay vncunused vncpasswd vnclisten keymap sdl opengl display xauthority"
)

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
_SCHEME: Final = re.compile(
    r"((?:(?:phy|file|tap2?|tapdisk|aio|ioemu|raw|qcow2?|vhd|qed|drbd|e?nbd|iscsi):)*)(.*)"
)
_WHOLE: Final = re.compile(r"()(.*)", re.DOTALL)
_NOT_RAW: Final = re.compile(r"qcow2?|vhd|qed|drbd|e?nbd|iscsi")
_IMAGES: Final = frozenset(("qcow2", "vhd"))
_BACKEND_PHY: Final = re.compile(r"\s*backendtype\s*=\s*phy\s*")
_UNQUOTABLE: Final = re.compile(r"[,'\"\\\x00-\x1f]")


@dataclass(slots=True)
class DiskSpec:
    """The parts of a disk specification, and what they say."""

    parts: list[str]
    vdev: str = ""
    target: int = 0  # index of the part that names it, -1 for none
    cdrom: bool = False
    readonly: bool = False
    format: str = "raw"
    format_at: int = -1  # index of the part that says so
    said: set[str] = field(default_factory=set)


def parse_disk(spec: str) -> DiskSpec:
    """Find the parts of a disk specification that matter. Raises ToolstackError.

    xl's own scanner (libxlu_disk_l.l) takes off a prefix such as `phy:` wherever it finds one, and
    goes on with the rest; so nothing passes that it could read otherwise than is done here.
    """
    disk = DiskSpec(spec.split(","))
    for number, part in enumerate(disk.parts):
        named = _NAMED.fullmatch(part)
        # A blank after a word makes it another one for xl.
        key, value = (named[1], named[2].strip()) if named else ("", part.lstrip(" \t"))
        if key == "target":  # takes the rest of the specification, but for one comma at its end
            if disk.target == 0 and disk.parts[0].strip() and number:
                raise ToolstackError(f"disk {spec!r} has two targets")
            disk.parts[number:] = [",".join(disk.parts[number:]).removesuffix(",")]
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
            if disk.format_at < 0 and "format" in disk.said:
                disk.format_at = number
        elif "access" in disk.said and number < len(disk.parts) - 1:
            raise ToolstackError(f"disk {spec!r} has an empty part, which xl may take for access")
    return disk


def _take_part(disk: DiskSpec, spec: str, key: str, value: str) -> None:
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


def _target(disk: DiskSpec, spec: str) -> tuple[str, re.Match[str]]:
    """Return what leads to the target of a disk, and its scheme and path. Raises ToolstackError.

    After `target=` xl takes all for the path, prefixes too.
    """
    lead, target = "", disk.parts[disk.target] if disk.target >= 0 else ""
    if (named := _NAMED.fullmatch(target)) and named[1] == "target":
        lead, target = target[: named.start(2)], named[2]
    if (scheme := (_WHOLE if lead else _SCHEME).fullmatch(target.strip())) is None:
        raise ToolstackError(f"disk {spec!r} is not understood")
    return lead, scheme


def adapt_disk(spec: str, arrival: Arrival, is_block: Callable[[str], bool]) -> str:
    """Replace the target of a disk specification (xl-disk-configuration(5), or xm's form).

    A scheme such as `phy:` becomes the one that fits the local path, and the format that in which
    the disk lies here. An empty drive stays as it is, and one that the guest has none in becomes
    empty. Raises ToolstackError when the specification is not understood or may not be taken over.
    """
    disk = parse_disk(spec)
    lead, scheme = _target(disk, spec)
    if disk.cdrom and not scheme[2]:
        if any(_NOT_RAW.fullmatch(prefix) for prefix in scheme[1].split(":")):
            raise ToolstackError(f"disk {spec!r} is empty, and not raw")  # xl runs block-drbd
        return spec
    local = arrival.disks.get(disk.vdev, "" if disk.cdrom else None)
    if disk.vdev in arrival.read_only and not (disk.cdrom or disk.readonly):
        raise ToolstackError(f"disk {spec!r} was announced as read-only")
    if local == "" and disk.cdrom and disk.target >= 0:
        return ",".join([*disk.parts[: disk.target], lead, *disk.parts[disk.target + 1 :]])
    if not local or disk.target < 0:
        raise ToolstackError(f"disk {spec!r} has no volume on this host that was agreed upon")
    if disk.format != (announced := announced_format(disk.vdev, arrival)):
        raise ToolstackError(f"disk {spec!r} is {disk.format}, and {announced} was announced")
    if _UNQUOTABLE.search(local) or any(_NOT_RAW.fullmatch(s) for s in scheme[1].split(":")):
        raise ToolstackError(f"disk {spec!r} cannot be written with the path {local!r}")
    block, prefix = is_block(local), scheme[1]
    here = arrival.formats.get(disk.vdev, "raw")
    if prefix:
        raw_in_file = "tap:aio:" if prefix == "tap:aio:" and here == "raw" else "file:"
        prefix = "phy:" if block else raw_in_file
    parts = list(disk.parts)
    parts[disk.target] = f"{lead}{prefix}{local}"
    if disk.format != here:
        _say_format(disk, parts, here, alone=not prefix)
    if not block:
        parts = [part for part in parts if not _BACKEND_PHY.fullmatch(part)]
    return ",".join(parts)


def _say_format(disk: DiskSpec, parts: list[str], said: str, *, alone: bool) -> None:
    """Have the parts of a disk say its format. With `alone` its target has no prefix.

    Only then is what follows the target the format, by its place, if it is nothing else. Raises
    ToolstackError where xl may take another part for it.
    """
    if disk.format_at >= 0:
        part = parts[disk.format_at]
        blanks = part[: len(part) - len(part.lstrip(" \t"))]
        parts[disk.format_at] = f"{blanks}{'format=' if '=' in part else ''}{said}"
    elif disk.target == 0 and alone and len(parts) > 1 and not parts[1].strip(" \t"):
        parts[1] = said
    elif alone and not all(part.strip(" \t") for part in disk.parts):
        what = f"disk {','.join(disk.parts)!r} has an empty part, which xl may take for its format"
        raise ToolstackError(f"{what}: write format={disk.format} there")
    else:
        # What follows `target=` is a part of it.
        parts.insert(disk.target or 1, f"format={said}")


def describe_disk(spec: str) -> Disk:
    """Describe the disk of a specification. Raises ToolstackError when it cannot be moved."""
    disk = parse_disk(spec)
    _, scheme = _target(disk, spec)
    if not disk.vdev or any(map(_NOT_RAW.fullmatch, scheme[1].split(":"))):
        raise ToolstackError(f"disk {spec!r} is not understood, or not raw")
    path = scheme[2].strip()
    if path and not path.startswith("/") and scheme[1] == "phy:":
        path = f"/dev/{path}"
    writable = not (disk.cdrom or disk.readonly)
    return Disk(disk.vdev, path, "unknown", disk.format, writable, disk.cdrom, None, 0)


def _parts(spec: str) -> list[tuple[str, str, str]]:
    """Return the parts of the specification of an interface or a screen, with key and value.

    Blanks around these are nobody's. A tab belongs to what it stands in, as xl takes none off.
    """
    found = []
    for part in spec.split(","):
        key, _, value = part.partition("=")
        found.append((part, key.strip(" "), value.strip(" ")))
    return found


def adapt_vif(spec: str, arrival: Arrival, left_out: list[str] | None = None) -> str:
    """Replace the bridge in a network interface specification, and leave out what must be.

    So is what no toolstack reads. What that is is added to `left_out`. Raises ToolstackError.
    """
    pairs = _parts(spec)
    script = next((value for _, key, value in reversed(pairs) if key == "script"), "")
    adapted: list[str] = []
    said: set[str] = set()
    for part, key, value in pairs:
        if key in said:
            raise ToolstackError(f"network interface {spec!r} has {key}= twice")
        said.add(key)
        rule = policy.nic_rule(key, arrival.name, script, arrival.wiring)
        if rule is None or not rule.allows(value):
            if rule is not None and not rule.left_out:
                what = f"network interface {spec!r} has {key}={value}"
                raise ToolstackError(f"{what}{rule.advice}")
            if left_out is not None:
                left_out.append(policy.called(key, rule, of_nic=True))
        elif key == "script" and value and (here := arrival.wiring.here(value)) != value:
            adapted.append(f"{part[: part.index(key)]}{key}={here}")
        elif key == "bridge" and value:
            agreed = arrival.announced is not None or arrival.bridges
            if agreed and value not in arrival.bridges:
                raise ToolstackError(f"network interface {spec!r} is on no bridge of the guest")
            # Without a blank before the sign, for which xl would leave it out.
            adapted.append(f"{part[: part.index(key)]}{key}={arrival.bridges.get(value, value)}")
        else:
            adapted.append(part)
    return ",".join(adapted)


def absent_disk(spec: str, arrival: Arrival) -> DiskSpec | None:
    """Return a disk that the guest does not have now, None for another. Raises ToolstackError.

    One with a backslash, which may be another disk for xl, is for others to refuse.
    """
    if "\\" in spec:
        return None
    disk = parse_disk(spec)
    return disk if disk.vdev and disk.vdev not in arrival.disks else None


def adapt_vfb(spec: str) -> str:
    """Leave out of the specification of a screen what must be, and what no toolstack reads.

    Raises ToolstackError, in which no part of a password is shown: one may have commas.
    """
    adapted: list[str] = []
    for part, key, value in _parts(spec):
        rule = policy.DOMAIN[key] if key in _SCREEN else policy.LEFT_OUT
        if key in _SCREEN and rule.allows(value):
            adapted.append(part)
        elif not rule.left_out:
            raise ToolstackError(f"vfb has {key} = {rule.shown(value)}, which may not come over")
    return ",".join(adapted)


def describe_vif(vif: str) -> Nic:
    """Describe a network interface.

    Raises ToolstackError where a tab or the like is in it, which xl takes for a part of a name.
    """
    if not vif.isprintable():
        raise ToolstackError(f"interface {vif!r} has characters in it that nobody sees")
    said = {key: value for _, key, value in _parts(vif)}
    told = (said.get(key) or None for key in ("mac", "bridge", "script", "ip"))
    return Nic(*told)
