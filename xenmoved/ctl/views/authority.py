"""What an authority has signed, as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import localtime, strftime
from typing import Final

from xenmoved.config.keys import fingerprint_of
from xenmoved.ctl.text import Across, Block, Cell, Line, Span, Style, line, table
from xenmoved.trust.report import CertificateRow, Certificates, CertificateState

_LOOKS: Final = {
    CertificateState.VALID: Style.GOOD,
    CertificateState.EARLY: Style.WARN,
    CertificateState.EXPIRED: Style.WARN,
    CertificateState.REVOKED: Style.BAD,
}


def made(folder: Path, fleet: Path, *, passphrase: bool) -> list[Line]:
    """Return what is to be done with a new authority, and whether its key has a passphrase."""
    bare = "its key has no passphrase: whoever can read that folder can be any host"
    return [
        line(Span(f"an authority was made in {folder}", Style.GOOD)),
        *([] if passphrase else [line(Span(bare, Style.WARN))]),
        line(f"Say in {fleet} what its hosts may do,"),
        line("and copy it to each of them, as /etc/xenmoved/fleet.yaml."),
        line("Have each make a request: xenmovectl identity --request > NAME.pub"),
    ]


def signed(name: str, key: str, until: int, file: Path) -> list[Line]:
    """Return what was signed, and what is to be done with it."""
    return [
        line(Span(f"{name} was signed", Style.GOOD), f" until {_day(until)}: {file}"),
        line("  ", Span(f"its key is {fingerprint_of(key)}", Style.DIM)),
        line(f"Copy that file to {name}, and run there: xenmovectl enroll {file.name}"),
    ]


def revoked(what: Sequence[str], fleet: Path) -> list[Line]:
    """Return what was revoked, and what is to be done for it to be known."""
    if not what:
        return []
    return [
        line(Span(f"revoked in {fleet}: {', '.join(what)}", Style.WARN)),
        line("Copy that file to every host, and run there: systemctl reload xenmoved"),
    ]


def certificates(answer: Certificates) -> list[Block]:
    """Return what an authority has signed."""
    head = line(Span(answer.folder, Style.BOLD), f": authority {answer.fingerprint}")
    if not answer.certificates:
        return [head, line(), line("no certificates: see xenmovectl ca sign --help")]
    header = ("HOST", "STATE", "UNTIL", "GROUPS", "SERIAL")
    rows: list[tuple[Cell, ...] | Across] = []
    for one in answer.certificates:
        rows += [_row(one), Across((line("  ", Span(one.fingerprint, Style.DIM)),))]
    return [head, line(), table(header, rows)]


def _row(one: CertificateRow) -> tuple[Cell, ...]:
    state = Span(one.state.value, _LOOKS[one.state])
    groups = ", ".join(one.groups)
    return Span(one.name, Style.BOLD), state, _day(one.valid_before), groups, str(one.serial)


def _day(seconds: int) -> str:
    return strftime("%Y-%m-%d", localtime(seconds))
