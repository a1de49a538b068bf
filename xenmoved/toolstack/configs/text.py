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

from xenmoved.toolstack import policy
from xenmoved.toolstack.configs.device_text import (
    absent_disk,
    adapt_disk,
    adapt_vfb,
    adapt_vif,
    describe_disk,
    describe_vif,
    parse_disk,
)
from xenmoved.toolstack.configs.per_text import per_text
from xenmoved.toolstack.configs.size_text import LISTED, kind_said, size_said
from xenmoved.toolstack.domains import normal_uuid
from xenmoved.toolstack.interface import Arrival, Disk, Domain, ToolstackError
from xenmoved.toolstack.policy import Rule
from xenmoved.toolstack.readable import Readable
from xenmoved.toolstack.wiring import UNKNOWN

TEXT_LIMIT: Final = 1 << 20

_BLANK: Final = re.compile(r"(?:[ \t\r\n;]|#[^\n]*|\\\n)*")
_SPACE: Final = re.compile(r"(?:[ \t\r]|\\\n)*")
_ASSIGN: Final = re.compile(r"([A-Za-z_][\w.]*)[ \t]*(?:=|\+=(?=[ \t]*\[))")
# xm runs the file as a program: Python 2 takes these for the end of a comment, or of a line.
_ODD: Final = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)")
# It also reads the rest in another coding if a comment in one of the first two lines says so.
_CODING: Final = re.compile(
    r"coding[:=][ \t]*(?!(?:utf-?8|latin-?1|iso-?8859-?1?\d|(?:us-)?ascii)\b)[-\w.]",
    re.IGNORECASE,
)
_MARK: Final = "\ufeff"
"""What editors of other systems put before a text in UTF-8, and Python 2 passes over."""
_STRING: Final = re.compile(r"'([^'\n\\]|\\.)*'|\"([^\"\n\\]|\\.)*\"")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)\b")
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")
_END: Final = re.compile(r"[ \t\r]*(?:[\n;#]|$)")

_TEXT: Final = frozenset(("extra", "root", "cmdline", "description"))
_ESCAPED: Final = re.compile(r"\\(['\"\\])")
"""What xl and xm both take for the character alone."""
_LISTS: Final = frozenset(("disk", "vif", "vfb"))
_SPECS: Final = _LISTS | {"name"}
_KEYS: Final[Mapping[str, Rule]] = {**policy.DOMAIN, **policy.SPECIFICATIONS}

_SAID_BY_PROGRAM: Final = {
    key: re.compile(rf"^\ufeff?[ \t]*{key}[ \t]*=[ \t]*(['\"])(.*?)\1", re.MULTILINE)
    for key in ("name", "uuid")
}


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


def statements(text: str) -> list[_Statement]:
    """Find the assignments of literals that the text consists of. Raises ToolstackError."""
    if len(text) > TEXT_LIMIT:
        raise ToolstackError(f"it is longer than {TEXT_LIMIT} characters")
    if odd := _ODD.search(text):
        raise _unreadable(text, odd.start())
    if (at := _odd_coding(text)) is not None:
        raise _unreadable(text, at)
    found: list[_Statement] = []
    line, counted = 1, 0
    position = _skip(_BLANK, text, len(_MARK) if text.startswith(_MARK) else 0)
    while position < len(text):
        match = _ASSIGN.match(text, position)
        if match is None:
            raise _unreadable(text, position)
        line, counted = line + text.count("\n", counted, position), position
        statement = _Statement(match[1], line, position, added=match[0].endswith("+="))
        position = _value(text, _skip(_SPACE, text, match.end()), statement, 0)
        if _END.match(text, position) is None:
            raise _unreadable(text, position)
        statement.end = position
        found.append(statement)
        position = _skip(_BLANK, text, position)
    return found


def _odd_coding(text: str) -> int | None:
    """Return where a comment names a coding in which other characters would be read.

    In a time that grows as the text does: it is from another host.
    """
    start = 0
    for _ in range(2):
        end = text.find("\n", start)
        end = end if end >= 0 else len(text)
        comment = text.find("#", start, end)
        if comment >= 0 and (odd := _CODING.search(text, comment, end)):
            return odd.end() - 1
        start = end + 1
    return None


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


def _member(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span of a text in a list with its quotes, and the comma behind it."""
    comma = _COMMA.match(text, end + 1)
    return start - 1, comma.end() if comma else end + 1


@dataclass(slots=True)
class _Adapter:
    """What is to be changed in a text, and what stands in the way."""

    text: str
    arrival: Arrival
    boot_folders: Readable
    is_block: Callable[[str], bool]
    left_out: list[str]
    later: list[str] = field(default_factory=list)
    """Disks that the file names and the guest does not have now."""
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, statement: _Statement) -> None:
        """Note what is to become of a statement."""
        rule = _KEYS.get(statement.key)
        if statement.key not in _SPECS and _dropped(statement, rule, self.text):
            self.edits.append((statement.start, statement.end, ""))
            self.left_out.append(policy.called(statement.key, of_nic=False))
            return
        if (whole := self._objection(statement)) is not None:
            self.problems.append(f"line {statement.line}: {whole}")
            return
        for start, end in statement.strings:
            try:
                self._take_text(statement, start, end)
            except ToolstackError as error:
                self.problems.append(f"line {statement.line}: {error}")

    def _objection(self, statement: _Statement) -> str | None:
        """Return why a statement may not stand, whatever its texts are; None when it may."""
        key, rule = statement.key, _KEYS[statement.key]
        if len(statement.strings) > (most := policy.MOST_DEVICES.get(key, 1 << 20)):
            return f"more than {most} in {key}"
        if rule is policy.NOTHING and key not in _SPECS and statement.members:
            # An empty text in a list makes xl add a device of which nothing is said.
            said = [self.text[start:end] for start, end in statement.strings]
            what = f"{key} = {rule.shown(', '.join([*said, *statement.numbers]))}"
            return f"{what} may not come from another host unseen"
        if key in _LISTS and not statement.is_flat:
            return f"{key} is not a list of texts"
        if statement.numbers and not _numbers(statement):
            what = f"{key} = {rule.shown(', '.join(statement.numbers))}"
            return f"{what} may not come from another host unseen"
        return None

    def _take_text(self, statement: _Statement, start: int, end: int) -> None:
        value = self.text[start:end]
        absent = absent_disk(value, self.arrival) if statement.key == "disk" else None
        if absent is not None and not absent.cdrom:
            self.edits.append((*_member(self.text, start, end), ""))
            self.later.append(absent.vdev)
            return
        adapted = _adapt_value(statement.key, value, self.arrival, self.is_block, self.left_out)
        if statement.key not in _SPECS:
            _check(statement, adapted, self.boot_folders)
        self.edits.append((start, end, adapted))
        if absent is not None and adapted != value:
            self.left_out.append(f"the CD-ROM in {absent.vdev}, as that drive is empty now")


def adapt(
    text: str,
    arrival: Arrival,
    boot_folders: Readable,
    is_block: Callable[[str], bool],
    left_out: list[str] | None = None,
) -> str:
    """Adapt a configuration file to this host.

    `is_block` tells whether a local path is a block device. What the guest goes without is added
    to `left_out`. Raises ToolstackError with all that stands in the way, when anything does.
    """
    adapter = _Adapter(text, arrival, boot_folders, is_block, [] if left_out is None else left_out)
    for statement in statements(text):
        adapter.take(statement)
    if adapter.later and not set(arrival.disks) & _vdevs(text):
        said = ", ".join(adapter.later)
        adapter.problems.append(f"it names other disks than the guest has: {said}")
    if adapter.problems:
        raise ToolstackError("; ".join(adapter.problems[:20]))
    adapter.left_out += [
        f"disk {vdev}, which its file names and it does not have now" for vdev in adapter.later
    ]
    for start, end, replacement in reversed(adapter.edits):
        text = text[:start] + replacement + text[end:]
    return text


def with_name(text: str, name: str) -> str:
    """Return a plain text with the name of its domain in it, as it is where it says one.

    Raises ToolstackError when that cannot be written, or the text is then too long to be read.
    """
    if named(text) is not None:
        return text
    quote = next((one for one in "'\"" if one not in name), None)
    if quote is None or "\\" in name:
        raise ToolstackError(f"it says no name, and {name!r} cannot be written into it")
    # Behind all else: what comes first may say in which coding the text is.
    end = "" if text.endswith("\n") or not text else "\n"
    text = f"{text}{end}name = {quote}{name}{quote}\n"
    if len(text.encode("utf-8", "surrogateescape")) > TEXT_LIMIT:
        raise ToolstackError(f"it is longer than {TEXT_LIMIT} bytes with its name")
    return text


def _vdevs(text: str) -> set[str]:
    """Return the disks that a text names, whether they can move or not."""
    found = set()
    for statement in statements(text):
        for start, end in statement.strings if statement.key == "disk" else ():
            with contextlib.suppress(ToolstackError):
                found.add(parse_disk(text[start:end]).vdev)
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    """What a text tells of the domain that it is for."""

    name: str | None
    uuid: str
    disks: frozenset[str] | None


def named(text: str) -> str | None:
    """Return the name of the domain that a file is for, None where it does not say so plainly.

    Unlike the rest, this reads programs too: xm's files may be some.
    """
    return _told(text).name


def uuid_in(text: str) -> str:
    """Return the uuid of the domain that a file is for, "" where it does not say so plainly."""
    return _told(text).uuid


def own_disks(text: str) -> frozenset[str] | None:
    """Return the paths of the disks that a file's domain writes, None where it is not certain."""
    return _told(text).disks


@per_text
def _told(text: str) -> _Told:
    try:
        values = _values(text)
    except ToolstackError:
        name, uuid = (_said_by_program(key, text) for key in ("name", "uuid"))
        return _Told(name, normal_uuid(uuid or ""), None)
    name, uuid = (next(reversed(values.get(key, [])), None) for key in ("name", "uuid"))
    return _Told(name, normal_uuid(uuid or ""), _written_disks(values.get("disk", [])))


def _said_by_program(key: str, text: str) -> str | None:
    return next((said for _, said in reversed(_SAID_BY_PROGRAM[key].findall(text))), None)


def _written_disks(specs: list[str]) -> frozenset[str] | None:
    try:
        disks = [describe_disk(spec) for spec in specs]
    except ToolstackError:
        return None
    return frozenset(disk.path for disk in disks if disk.path and disk.writable)


def _values(text: str) -> dict[str, list[str]]:
    """Return what each key is in the end, as xl reads it. Raises ToolstackError."""
    values: dict[str, list[str]] = {}
    for statement in statements(text):
        before = values.pop(statement.key, []) if statement.added else []
        if statement.listed != (statement.key in _LISTS or statement.key in LISTED):
            values.pop(statement.key, None)  # xl passes it by
            continue
        strings = [text[start:end] for start, end in statement.strings]
        before += strings or statement.numbers[-1:]
        values[statement.key] = before
    return values


def describe(text: str, name: str, boot_folders: Readable) -> Domain:
    """Describe the domain that a configuration file would start. It has no id.

    Raises ToolstackError when it is not made of plain assignments, or may be read in two ways.
    """
    values = _values(text)
    obstacles: list[str] = []
    disks: list[Disk] = []
    for spec in values.get("disk", []):
        try:
            disks.append(describe_disk(spec))
        except ToolstackError as error:
            obstacles.append(str(error))
    nics = tuple(describe_vif(spec) for spec in values.get("vif", []))
    anywhere = Arrival(
        name,
        "",
        {disk.vdev: f"/{disk.vdev}" for disk in disks if disk.path},
        {nic.bridge: nic.bridge for nic in nics if nic.bridge},
        formats={disk.vdev: disk.format for disk in disks},
        wiring=UNKNOWN,
    )
    try:
        adapt(text, anywhere, boot_folders.unseen, lambda _: True)
    except ToolstackError as error:
        obstacles.append(str(error))
    return Domain(
        name=name,
        uuid=normal_uuid(next(iter(values.get("uuid", [])), "")),
        domid=0,
        kind=kind_said(values),
        size=size_said(values),
        disks=tuple(disks),
        nics=nics,
        obstacles=tuple(dict.fromkeys(obstacles)),
    )


def boot_files(text: str) -> dict[str, str]:
    """Return the files of a host from which a file starts its guest, by key, as they are named.

    Raises ToolstackError when it is not made of plain assignments.
    """
    found: dict[str, str] = {}
    for statement in statements(text):
        if statement.key == "bootloader" or _is_path(statement.key):
            found.pop(statement.key, None)
            for start, end in statement.strings if not statement.listed else ():
                found[statement.key] = text[start:end]
    if found.get("bootloader"):  # brings a kernel from the disk
        found = {key: path for key, path in found.items() if key not in ("kernel", "ramdisk")}
    if found.get("kernel", "").endswith("/hvmloader"):  # xl takes its own
        del found["kernel"]
    return {key: path for key, path in found.items() if path}


def files_named(text: str) -> list[tuple[str, str]]:
    """Return all files of a host that a text may have a guest started from, with their keys.

    Those among them that the toolstacks pass by. Raises ToolstackError as above.
    """
    return [
        (one.key, text[start:end])
        for one in statements(text)
        if one.key == "bootloader" or _is_path(one.key)
        for start, end in one.strings
    ]


def _is_path(key: str) -> bool:
    return key in policy.DOMAIN and policy.DOMAIN[key].path


def fits(text: str, arrival: Arrival) -> bool:
    """Whether a file here starts the guest with the disks and bridges that it has here."""
    try:
        domain = describe(text, arrival.name, policy.NOWHERE)
    except ToolstackError:
        return False
    bridges = {nic.bridge for nic in domain.nics if nic.bridge is not None}
    return bridges <= {*arrival.bridges.values()} and all(
        arrival.disks.get(disk.vdev) == disk.path
        and not (disk.writable and disk.vdev in arrival.read_only)
        for disk in domain.disks
        if not disk.cdrom
    )


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
    if key == "uuid" and arrival.uuid and normal_uuid(value) != normal_uuid(arrival.uuid):
        raise ToolstackError(f"it is the configuration of the domain with the uuid {value[:80]!r}")
    if key not in policy.SHUTDOWN_ACTIONS:
        return value
    kept, lost = policy.action_here(key, value)
    left_out += [lost] if lost else []
    return kept


def _dropped(statement: _Statement, rule: Rule | None, text: str) -> bool:
    """Whether a statement is left out: its key is none of a known toolstack, or its rule says so.

    A key that no xl is known to read does nothing; one of an xl to come might.
    """
    if rule is None:
        return True
    values = [text[start:end] for start, end in statement.strings]
    return rule.left_out and not all(map(rule.allows, [*values, *statement.numbers]))


def _check(statement: _Statement, value: str, boot_folders: Readable) -> None:
    key, rule = statement.key, _KEYS[statement.key]
    one_text = key in ("bootloader_args", "bootargs") and not statement.listed
    for part in value.split() if one_text else [value]:  # as the toolstacks take it apart
        if part and not rule.allows(part, boot_folders):
            shown = rule.shown(part)
            raise ToolstackError(f"{key} = {shown} may not come from another host unseen")
        if (why := rule.withheld(part, boot_folders)) is not None:
            raise ToolstackError(f"{key} = {rule.shown(part)} is not for a guest: {why}")
