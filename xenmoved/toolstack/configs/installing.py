"""What becomes of the configuration file of a guest that comes, and of those that are here.

It takes the place of the one that was set aside when the guest left, and that one itself comes back
if the two say the same: a link stays a link, with owner and mode. What differs makes room, but is
kept. A text that cannot be adapted, or whose place is another guest's, is written as it came to
NAME.cfg.received and starts nothing; another one that waits there for its operator stays as it is,
and the new one is NAME.cfg.2.received; where as many wait as may, it is not kept. One that was only
composed takes no operator's file's place.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from protocol.messages import Remark
from storage.places import place_at, places_at
from xenmoved.codes import NOT_KEPT
from xenmoved.codes import RECEIVED as WAITS_FOR_OPERATOR
from xenmoved.files import write_file
from xenmoved.remarks import good_to_know, left_out, to_look_at
from xenmoved.toolstack.configs.boot_entries import BootEntries
from xenmoved.toolstack.configs.compose import is_composed
from xenmoved.toolstack.configs.guest_file import Evidence, GuestFile, look_at
from xenmoved.toolstack.configs.keeping import keep, kept_as, move, numbered, place_of
from xenmoved.toolstack.configs.text import fits, own_disks, with_name
from xenmoved.toolstack.interface import Arrival, ToolstackError

RECEIVED: Final = ".received"
_WAITS: Final = re.compile(r"(.+)\.cfg(?:\.\d+)?\.received")
MOST_RECEIVED: Final = 8
"""Texts of one name that wait for their operator."""
_ONLY_COMPOSED: Final = "the one that came was only composed from how it runs"
_OWN_MODE: Final = 0o600
"""Of a file that is new here: it may hold passwords, and only root's tools read it."""


@dataclass(frozen=True, slots=True)
class Here:
    """What this host has of a guest whose file comes.

    `files` are in use or in its place, `aside` were set aside when it left, the best first.
    `starters` are its entries of `auto`, `moved` those that were taken out. `require_free` raises
    ToolstackError for a path that is kept for another guest, which is leaving. `others` are the
    names that files here say of other guests.
    """

    folder: Path
    files: tuple[GuestFile, ...]
    aside: tuple[GuestFile, ...]
    starters: tuple[Path, ...]
    moved: tuple[Path, ...]
    require_free: Callable[[Path], None]
    others: frozenset[str]


@dataclass(frozen=True, slots=True)
class Course:
    """What is to be done: `text` is to be at `path`.

    `back` has it and is renamed, else it is written with owner and mode of `like`. `old` have had
    their time. One that is `received` is not used, and one that is `lost` is not even written.

    Of the entries of `auto`, `right` ones are put back, `wrong` ones go out of use, and `link` is
    the name of a new one.
    """

    path: Path
    text: str
    back: Path | None = None
    like: Path | None = None
    old: tuple[Path, ...] = ()
    right: tuple[Path, ...] = ()
    wrong: tuple[Path, ...] = ()
    link: str | None = None
    received: bool = False
    lost: bool = False
    remarks: tuple[Remark, ...] = ()


def decide(
    here: Here, text: str, adapt: Callable[[list[str]], str], arrival: Arrival, autostart: bool
) -> Course:
    """Decide what becomes of a text that comes. Changes nothing.

    `adapt` returns it as it is to stand here, and notes what it leaves out, or raises
    ToolstackError.
    """
    left: list[str] = []
    try:
        course = _placed(here, _chosen(here, adapt(left), arrival), arrival, autostart)
        course = replace(course, remarks=(*left_out(arrival.name, left), *course.remarks))
    except ToolstackError as error:
        return _received(here, text, arrival.name, str(error), autostart)
    return _at_boot(here, course, arrival, autostart)


def _chosen(here: Here, adapted: str, arrival: Arrival) -> str:
    """Return the text to use: an operator's rather than one that was only composed.

    So is one that is here already, and says the same but for the name, which it does not say.
    """
    for file in (*here.aside, *_in_use(here, arrival)):
        says = file.name is None and adapted.startswith(file.text)
        if says and with_name(file.text, arrival.name) == adapted:
            return file.text
    own = _operators(here, arrival) if is_composed(adapted) else None
    if own is None:
        return adapted
    if not fits(own.text, arrival):
        raise ToolstackError(
            f"{own.path} is an operator's, and has other disks or bridges than {arrival.name} has "
            f"now; {_ONLY_COMPOSED}"
        )
    if not (own in here.aside or arrival.returns or own.writes(arrival.kept_disks)):
        raise ToolstackError(
            f"{own.path} is an operator's, and nothing tells that it is of the {arrival.name} "
            f"that came; {_ONLY_COMPOSED}"
        )
    return own.text


def _operators(here: Here, arrival: Arrival) -> GuestFile | None:
    mine = [*here.aside, *_in_use(here, arrival)]
    return next((file for file in mine if not is_composed(file.text)), None)


def _in_use(here: Here, arrival: Arrival) -> list[GuestFile]:
    """Return the files that are more than copies with the guest's name in them."""
    return [
        file
        for file in here.files
        if file.evidence != {Evidence.SAID}
        and file.is_of(arrival.name, arrival.uuid, arrival.own_disks) is not False
    ]


def _placed(here: Here, text: str, arrival: Arrival, autostart: bool) -> Course:
    """Find the place of a text. Raises ToolstackError when that is another guest's."""
    for entry in here.moved if autostart else ():
        file = look_at(entry)
        if file is not None and file.text == text:  # it needs no other file than this one
            if entry.is_symlink():
                there = Path(os.path.realpath(entry))
                here.require_free(there)
                return Course(there, text, right=(entry,))
            path = BootEntries(here.folder).place(entry)
            return Course(path, text, back=entry, right=(entry,))
    if here.aside:
        first = here.aside[0]
        back = first.path if first.text == text else None
        old = tuple(file.path for file in here.aside if file.path != back)
        course = Course(place_of(first.path), text, back=back, like=first.path, old=old)
        return _vacated(here, course, arrival)
    used = _in_use(here, arrival)
    if (same := next((file for file in used if file.text == text), None)) is not None:
        here.require_free(same.path)
        return Course(same.path, text)
    ours = (file.path for file in used if file.path.parent == here.folder)
    path = next(ours, here.folder / f"{arrival.name}.cfg")
    course = Course(path, text, like=path if path.exists() else None)
    return _vacated(here, course, arrival)


def _vacated(here: Here, course: Course, arrival: Arrival) -> Course:
    """See that the place of a text is free, or the guest's own. Raises ToolstackError."""
    name, path = arrival.name, course.path
    here.require_free(path)
    remarks = [
        _replaced(f"{old}, set aside when {name} left,", name, kept_as(old)) for old in course.old
    ]
    if os.path.lexists(path):
        there = look_at(path)
        if there is None:
            raise ToolstackError(f"{path} is there, and cannot be read")
        if there.is_of(name, arrival.uuid) is False:
            raise ToolstackError(f"{path} is there, of another domain")
        if there.text != course.text:
            if there.is_of(name, arrival.uuid, arrival.own_disks) is False:
                raise ToolstackError(f"{path} is there, and names other disks than {name} has")
            if not arrival.returns and _is_at_home(there, arrival):
                raise ToolstackError(f"{path} is there, and the disks that it names are, too")
            remarks.append(_replaced(str(path), name, kept_as(path)))
    return replace(course, remarks=tuple(remarks))


def _is_at_home(file: GuestFile, arrival: Arrival) -> bool:
    """Whether a file names disks that are here, and not those of the domain that comes.

    Its uuid proves nothing: somebody may have put it there while that domain was on its way.
    """
    mine = places_at(arrival.own_disks)
    others = {path for path in own_disks(file.text) or () if place_at(path) not in mine}
    return any(map(os.path.lexists, others))


def _replaced(what: str, name: str, kept: Path) -> Remark:
    text = f"{what} is not what {name} has now: the one that came takes its place"
    return to_look_at("config-replaced", text, f"compare the two: the old one is kept as {kept}")


def _received(here: Here, text: str, name: str, why: str, autostart: bool) -> Course:
    place = here.folder / f"{name}.cfg"
    if (path := _to_receive(place, text)) is None:
        said = (
            f"the configuration of {name} is neither used nor kept, as {MOST_RECEIVED} that came "
            f"before wait at {place}*.received: {why}"
        )
        hint = "look through them and remove them; the source has set aside what it has"
        remark = to_look_at(NOT_KEPT, said, hint)
        return Course(place, text, received=True, lost=True, remarks=(remark,))
    said = f"the configuration of {name} goes to {path} and is not used: {why}"
    hint = f"correct it there and rename it to {name}.cfg"
    if autostart:
        said = f"{name} is not started at boot: {said}"
        hint += f"; then link it in {here.folder / 'auto'} to have {name} started at boot"
    return Course(path, text, received=True, remarks=(to_look_at(WAITS_FOR_OPERATOR, said, hint),))


def _to_receive(place: Path, text: str) -> Path | None:
    """Return where a text waits for its operator: somebody may be at work on one that is there.

    None where as many wait as may.
    """
    names = itertools.islice(numbered(place.name, RECEIVED), MOST_RECEIVED)
    places = map(place.with_name, names)
    return next((one for one in places if not os.path.lexists(one) or _text_at(one) == text), None)


def received_for(folder: Path) -> set[str]:
    """Return the names of domains of which a text waits for its operator in a folder."""
    found = (_WAITS.fullmatch(path.name) for path in folder.glob(f"*{RECEIVED}"))
    return {one[1] for one in found if one is not None}


def _text_at(path: Path) -> str | None:
    file = look_at(path)
    return file.text if file is not None else None


def _at_boot(here: Here, course: Course, arrival: Arrival, autostart: bool) -> Course:
    """Decide about the entries of `auto`: no other file than this one starts the guest."""
    name = arrival.name
    places = {os.path.realpath(path) for path in (course.path, course.back) if path is not None}
    leading = {entry for entry in here.starters if os.path.realpath(entry) in places}
    back = {entry for entry in here.moved if os.path.realpath(entry) in places}
    right = {*course.right, *back} if autostart else set()
    # One that is there by now, and does the same, needs no second beside it.
    taken = {entry.name for entry in leading}
    right = {entry for entry in right if entry == course.back or entry.name not in taken}
    wrong = [one for one in (*here.starters, *here.moved) if one not in {*leading, *right}]
    link = None
    if autostart and not leading and not right:
        new = BootEntries(here.folder).new_name(name, arrival.boot_order, here.others)
        link = wrong[0].name if wrong else new
    return replace(
        course,
        right=tuple(sorted(right - {course.back})),
        wrong=tuple(wrong),
        link=link,
        remarks=(*course.remarks, *(_out_of_use(one, course, name, autostart) for one in wrong)),
    )


def _out_of_use(entry: Path, course: Course, name: str, autostart: bool) -> Remark:
    if autostart:
        hint = f"nothing: {name} is started at boot from {course.path}"
    else:
        hint = f"{name} is not started at boot, as it was not before: put it back if it is to be"
    return good_to_know("boot-entry", f"{entry} is out of use, and kept beside auto", hint)


def carry_out(course: Course, boot: BootEntries, name: str) -> None:
    """Do what was decided; nothing is lost in it that was here. Idempotent."""
    if course.lost:
        return
    there = look_at(course.path)
    if course.back is not None:
        move(course.back, course.path)
    elif there is None or there.text != course.text:
        _write(course)
    for old in course.old:
        keep(old)
    if not course.received:
        boot.set_out_of_use(course.wrong, name)
        boot.put_back(course.right, name)
        if course.link is not None:
            boot.link(course.link, course.path)
        boot.tidy(name)


def _write(course: Course) -> None:
    path, like = course.path, course.like.stat() if course.like is not None else None
    if os.path.lexists(path):
        keep(path, copy=True)
    write_file(path, course.text, _OWN_MODE)
    if like is not None:
        os.chown(path, like.st_uid, like.st_gid)
        path.chmod(stat.S_IMODE(like.st_mode))
