"""The text of a guest's configuration file (xl.cfg, and xm's in so far as it is plain), adapted.

A file from another host will be handed to `xl create` one day, at boot even, so the same holds as
for the configuration inside an image (see `vetting`): what it names of this host must be what was
agreed upon, and nothing in it may run a program or open a file here. `adapt` replaces the path of
each disk by vdev, and the bridges, where they stand, and leaves every other character as it is. It
raises ToolstackError when anything cannot be adapted or vouched for; a human must then look.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.messages import GuestSize
from xenmoved.toolstack import policy
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.interface import Arrival, Disk, Domain, Nic, ToolstackError
from xenmoved.toolstack.policy import Rule, words

TEXT_LIMIT: Final = 1 << 20

_BLANK: Final = re.compile(r"(?:[ \t\r\n;]|#[^\n]*|\\\n)*")
_SPACE: Final = re.compile(r"(?:[ \t\r]|\\\n)*")
_ASSIGN: Final = re.compile(r"([A-Za-z_][\w.]*)[ \t]*(?:=|\+=(?=[ \t]*\[))")
# xm runs the file as a program: Python 2 takes these for the end of a comment, or of a line.
_ODD: Final = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)")
# It also reads the rest in another coding if a comment in one of the first two lines says so.
_CODING: Final = re.compile(
    r"(?:[^\n]*\n)?[^\n]*#[^\n]*coding[:=][ \t]*"
    r"(?!(?:utf-?8|latin-?1|iso-?8859-?1?\d|(?:us-)?ascii)\b)[-\w.]",
    re.IGNORECASE,
)
_MARK: Final = "\ufeff"
"""What editors of other systems put before a text in UTF-8, and Python 2 passes over."""
_STRING: Final = re.compile(r"'([^'\n\\]|\\.)*'|\"([^\"\n\\]|\\.)*\"")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)\b")
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")
_END: Final = re.compile(r"[ \t\r]*(?:[\n;#]|$)")

_SCREEN: Final = words(
    "type vnc vncdisplay vncunused vncpasswd vnclisten keymap sdl opengl display xauthority"
)

_TEXT: Final = frozenset(("extra", "root", "cmdline", "description"))
_ESCAPED: Final = re.compile(r"\\(['\"\\])")
"""What xl and xm both take for the character alone."""
_LISTS: Final = frozenset(("disk", "vif", "vfb"))
_SPECS: Final = _LISTS | {"name"}
_KEYS: Final[Mapping[str, Rule]] = {**policy.DOMAIN, **policy.SPECIFICATIONS}

_SAID: Final = {
    key: re.compile(rf"^\ufeff?[ \t]*{key}[ \t]*=[ \t]*(['\"])(.*?)\1", re.MULTILINE)
    for key in ("name", "uuid")
}

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
class _Statement:
    key: str
    line: int
    start: int
    end: int = 0
    strings: list[tuple[int, int]] = field(default_factory=list)  # spans without the quotes
    numbers: list[str] = field(default_factory=list)
    added: bool = False  # to what the key was before
    listed: bool = False
    members: int = 0  # of the list, and of the lists in it

    @property
    def is_flat(self) -> bool:
        """Whether it is a list of texts alone: xl stops at, or passes by, anything else."""
        return self.listed and self.members == len(self.strings)


def _statements(text: str) -> list[_Statement]:
    """Find the assignments of literals that the text consists of. Raises ToolstackError."""
    if len(text) > TEXT_LIMIT:
        raise ToolstackError(f"it is longer than {TEXT_LIMIT} characters")
    if odd := _ODD.search(text):
        raise _unreadable(text, odd.start())
    if odd := _CODING.match(text):
        raise _unreadable(text, odd.end() - 1)
    found: list[_Statement] = []
    position = _skip(_BLANK, text, len(_MARK) if text.startswith(_MARK) else 0)
    while position < len(text):
        match = _ASSIGN.match(text, position)
        if match is None:
            raise _unreadable(text, position)
        line = text.count("\n", 0, position) + 1
        statement = _Statement(match[1], line, position, added=match[0].endswith("+="))
        position = _value(text, _skip(_SPACE, text, match.end()), statement, 0)
        if _END.match(text, position) is None:
            raise _unreadable(text, position)
        statement.end = position
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
    statement.members += depth > 0
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
        # A blank after a word makes it another one for xl.
        key, value = (named[1], named[2].strip()) if named else ("", part.lstrip(" \t"))
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
        elif "access" in disk.said and number < len(disk.parts) - 1:
            raise ToolstackError(f"disk {spec!r} has an empty part, which xl may take for access")
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

    A scheme such as `phy:` becomes the one that fits the local path. An empty drive stays as it
    is, and one that the guest has none in becomes empty. Raises ToolstackError when the
    specification is not understood or may not be taken over.
    """
    disk = _parse_disk(spec)
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


def adapt_vif(spec: str, arrival: Arrival, left_out: list[str] | None = None) -> str:
    """Replace the bridge in a network interface specification, and leave out what must be.

    So is what no toolstack reads. What that is is added to `left_out`. Raises ToolstackError.
    """
    pairs = [(part, *(x.strip() for x in part.partition("=")[::2])) for part in spec.split(",")]
    script = next((value for _, key, value in reversed(pairs) if key == "script"), "")
    adapted: list[str] = []
    said: set[str] = set()
    for part, key, value in pairs:
        if key in said:
            raise ToolstackError(f"network interface {spec!r} has {key}= twice")
        said.add(key)
        rule = policy.nic_rule(key, arrival.name, script)
        if rule is None or not rule.allows(value):
            if rule is not None and not rule.left_out:
                raise ToolstackError(f"network interface {spec!r} has {key}={value}")
            if left_out is not None:
                left_out.append(policy.called(key, of_nic=True))
        elif key == "bridge" and value:
            if arrival.announced is not None and value not in arrival.bridges:
                raise ToolstackError(f"network interface {spec!r} is on no bridge of the guest")
            # Without a blank before the sign, for which xl would leave it out.
            adapted.append(f"{part[: part.index(key)]}{key}={arrival.bridges.get(value, value)}")
        else:
            adapted.append(part)
    return ",".join(adapted)


def _absent(spec: str, arrival: Arrival) -> _DiskSpec | None:
    """Return a disk that the guest does not have now, None for another. Raises ToolstackError.

    One with a backslash, which may be another disk for xl, is for others to refuse.
    """
    if "\\" in spec:
        return None
    disk = _parse_disk(spec)
    return disk if disk.vdev and disk.vdev not in arrival.disks else None


def _member(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span of a text in a list with its quotes, and the comma behind it."""
    comma = _COMMA.match(text, end + 1)
    return start - 1, comma.end() if comma else end + 1


def adapt_vfb(spec: str) -> str:
    """Leave out of the specification of a screen what must be, and what no toolstack reads.

    Raises ToolstackError, in which no part of a password is shown: one may have commas.
    """
    adapted: list[str] = []
    for part in spec.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        rule = policy.DOMAIN[key] if key in _SCREEN else policy.LEFT_OUT
        if key in _SCREEN and rule.allows(value):
            adapted.append(part)
        elif not rule.left_out:
            raise ToolstackError(f"vfb has {key} = {rule.shown(value)}, which may not come over")
    return ",".join(adapted)


def adapt(
    text: str,
    arrival: Arrival,
    boot_folders: tuple[str, ...],
    is_block: Callable[[str], bool],
    left_out: list[str] | None = None,
) -> str:
    """Adapt a configuration file to this host.

    `is_block` tells whether a local path is a block device. What the guest goes without is added
    to `left_out`. Raises ToolstackError with all that stands in the way, when anything does.
    """
    left: list[str] = [] if left_out is None else left_out
    later: list[str] = []
    edits: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for statement in _statements(text):
        rule = _KEYS.get(statement.key)
        if statement.key not in _SPECS and _dropped(statement, rule, text):
            edits.append((statement.start, statement.end, ""))
            left.append(policy.called(statement.key, of_nic=False))
            continue
        if len(statement.strings) > (most := policy.MOST_DEVICES.get(statement.key, 1 << 20)):
            problems.append(f"line {statement.line}: more than {most} in {statement.key}")
        if rule is policy.NOTHING and statement.key not in _SPECS and statement.members:
            # An empty text in a list makes xl add a device of which nothing is said.
            said = [text[start:end] for start, end in statement.strings]
            what = f"{statement.key} = {str([*said, *statement.numbers])[:200]}"
            problems.append(f"line {statement.line}: {what} may not come from another host unseen")
            continue
        if statement.key in _LISTS and not statement.is_flat:
            problems.append(f"line {statement.line}: {statement.key} is not a list of texts")
            continue
        if statement.numbers and not _numbers(statement):
            what = f"{statement.key} = {_KEYS[statement.key].shown(', '.join(statement.numbers))}"
            problems.append(f"line {statement.line}: {what} may not come from another host unseen")
        for start, end in statement.strings:
            value = text[start:end]
            try:
                absent = _absent(value, arrival) if statement.key == "disk" else None
                if absent is not None and not absent.cdrom:
                    edits.append((*_member(text, start, end), ""))
                    later.append(absent.vdev)
                    continue
                adapted = _adapt_value(statement.key, value, arrival, is_block, left)
                if statement.key not in _SPECS:
                    _check(statement, adapted, boot_folders)
                edits.append((start, end, adapted))
                if absent is not None and adapted != value:
                    left.append(f"the CD-ROM in {absent.vdev}, as that drive is empty now")
            except ToolstackError as error:
                problems.append(f"line {statement.line}: {error}")
    if later and not set(arrival.disks) & _vdevs(text):
        problems.append(f"it names other disks than the guest has: {', '.join(later)}")
    if problems:
        raise ToolstackError("; ".join(problems[:20]))
    left += [f"disk {vdev}, which its file names and it does not have now" for vdev in later]
    for start, end, replacement in reversed(edits):
        text = text[:start] + replacement + text[end:]
    return text


def _vdevs(text: str) -> set[str]:
    """Return the disks that a text names, whether they can move or not."""
    found = set()
    for statement in _statements(text):
        for start, end in statement.strings if statement.key == "disk" else ():
            with contextlib.suppress(ToolstackError):
                found.add(_parse_disk(text[start:end]).vdev)
    return found


def named(text: str) -> str | None:
    """Return the name of the domain that a file is for, None where it does not say so plainly.

    Unlike the rest, this reads programs too: xm's files may be some.
    """
    found = _SAID["name"].findall(text)
    return found[-1][1] if found else None


def uuid_in(text: str) -> str:
    """Return the uuid of the domain that a file is for, "" where it does not say so plainly."""
    found = _SAID["uuid"].findall(text)
    return normal_uuid(found[-1][1]) if found else ""


def describe(text: str, name: str, boot_folders: tuple[str, ...]) -> Domain:
    """Describe the domain that a configuration file would start. It has no id.

    Raises ToolstackError when it is not made of plain assignments.
    """
    values: dict[str, list[str]] = {}
    for statement in _statements(text):
        before = values.pop(statement.key, []) if statement.added else []
        if statement.listed != (statement.key in _LISTS):
            values.pop(statement.key, None)  # xl passes it by
            continue
        strings = [text[start:end] for start, end in statement.strings]
        values[statement.key] = before + (strings or statement.numbers[-1:])
    obstacles: list[str] = []
    disks: list[Disk] = []
    for spec in values.get("disk", []):
        try:
            disks.append(describe_disk(spec))
        except ToolstackError as error:
            obstacles.append(str(error))
    nics = tuple(_nic(spec) for spec in values.get("vif", []))
    anywhere = Arrival(
        name,
        "",
        {disk.vdev: f"/{disk.vdev}" for disk in disks if disk.path},
        {nic.bridge: nic.bridge for nic in nics if nic.bridge},
        formats={disk.vdev: disk.format for disk in disks},
    )
    try:
        adapt(text, anywhere, boot_folders, lambda _: True)
    except ToolstackError as error:
        obstacles.append(str(error))
    return Domain(
        name=name,
        uuid=normal_uuid(next(iter(values.get("uuid", [])), "")),
        domid=0,
        kind=_kind(values),
        size=_size(values),
        disks=tuple(disks),
        nics=nics,
        obstacles=tuple(dict.fromkeys(obstacles)),
    )


def fits(text: str, arrival: Arrival) -> bool:
    """Whether a file here starts the guest with the disks and bridges that it has here."""
    try:
        domain = describe(text, arrival.name, ())
    except ToolstackError:
        return False
    disks = {disk.vdev: disk.path for disk in domain.disks if not disk.cdrom}
    bridges = {nic.bridge for nic in domain.nics if nic.bridge is not None}
    return all(arrival.disks.get(vdev) == path for vdev, path in disks.items()) and bridges <= {
        *arrival.bridges.values()
    }


def _size(values: Mapping[str, list[str]]) -> GuestSize:
    """Say how large a domain is to be. Raises ToolstackError for what may be read in two ways."""

    def number(key: str, default: int) -> int:
        said = values.get(key, [])
        if len(said) > 1 or (said and policy.number_in(said[0]) is None):
            raise ToolstackError(f"{key} = {', '.join(said)[:80]} is no plain number")
        return (policy.number_in(said[0]) or 0) if said else default

    memory, maximum = number("memory", 0) << 20, number("maxmem", 0) << 20
    vcpus = number("vcpus", 1)
    beside = number("shadow_memory", 0) << 20
    return GuestSize(memory, max(memory, maximum), beside, vcpus, number("maxvcpus", vcpus))


def _nic(vif: str) -> Nic:
    pairs = (part.partition("=") for part in vif.split(","))
    said = {key.strip(): value.strip() for key, _, value in pairs}
    return Nic(said.get("mac") or None, said.get("bridge") or None, said.get("script") or None)


def _kind(values: Mapping[str, list[str]]) -> str:
    """Return the type of a domain: xl takes the first that begins like what is said."""
    for key, kinds in (("type", ("hvm", "pv", "pvh")), ("builder", ("hvm",))):
        for said in values.get(key, [])[:1]:
            return next((kind for kind in kinds if kind.startswith(said)), "pv")
    return "pv"


def _renamed(name: str, arrival: Arrival) -> str:
    if name != arrival.announced_name:
        raise ToolstackError(f"it is the configuration of a domain {name!r}")
    return arrival.name


def _numbers(statement: _Statement) -> bool:
    """Whether numbers may stand where they do."""
    rule = _KEYS[statement.key]
    return statement.key not in _SPECS and (
        (rule.number and rule.most is None)
        or all(rule.allows(number) for number in statement.numbers)
    )


def _adapt_value(
    key: str, value: str, arrival: Arrival, is_block: Callable[[str], bool], left_out: list[str]
) -> str:
    """Return a text as it is to stand here. Raises ToolstackError."""
    if "\\" in (_ESCAPED.sub("", value) if key in _TEXT else value):
        shown = "(a screen)" if key == "vfb" else _KEYS[key].shown(value)
        raise ToolstackError(f"{key} has a backslash in {shown}")
    if key == "disk":
        return adapt_disk(value, arrival, is_block)
    if key == "vif":
        return adapt_vif(value, arrival, left_out)
    if key == "vfb":
        return adapt_vfb(value)
    if key == "name":
        return _renamed(value, arrival)
    if key not in policy.SHUTDOWN_ACTIONS:
        return value
    if (kept := policy.without_core_dump(value)) != value:
        left_out.append(policy.core_dump(key))
    return kept


def _dropped(statement: _Statement, rule: Rule | None, text: str) -> bool:
    """Whether a statement is left out: its key is none of a known toolstack, or its rule says so.

    A key that no xl is known to read does nothing; one of an xl to come might.
    """
    if rule is None:
        return True
    values = [text[start:end] for start, end in statement.strings]
    return rule.left_out and not all(map(rule.allows, [*values, *statement.numbers]))


def _check(statement: _Statement, value: str, boot_folders: tuple[str, ...]) -> None:
    key, rule = statement.key, _KEYS[statement.key]
    one_text = key in ("bootloader_args", "bootargs") and not statement.listed
    for part in value.split() if one_text else [value]:  # as the toolstacks take it apart
        if part and not rule.allows(part, boot_folders):
            shown = rule.shown(part)
            raise ToolstackError(f"{key} = {shown} may not come from another host unseen")
