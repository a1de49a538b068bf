"""The fleet file as an authority keeps it: made once, and what it revokes added to it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from xenmoved.config.errors import ConfigError, ConfigProblem
from xenmoved.config.fleet import read_fleet
from xenmoved.config.model import Fleet
from xenmoved.config.reader import Reader
from xenmoved.config.yamlfile import read_yaml

_NEW: Final = """\
# Which hosts trust each other: /etc/xenmoved/fleet.yaml, the same file on all of them.
# After a change copy it to every host, and run there: systemctl reload xenmoved
# Every key is explained in xenmoved.yaml(5), under FLEET FILE.

# Public keys of the authorities whose certificates are believed.
authorities:
  - {key}

# Fingerprints of keys, and serials of certificates, that are not believed any more. `xenmovectl ca
# revoke` adds to them. OpenSSH's own lists (KRL) cannot be read here.
revoked: []

# Where hosts are. A host that is not listed, and has a certificate, can come; guests can be sent to
# it only if `unlisted` says where it is: {{name}} stands for its name.
#unlisted: '{{name}}.example.net'
hosts: {{}}
#  host-a: {{address: 192.0.2.1}}
#  host-b: {{address: host-b.example.net, port: 7222}}

# What holds for all of them: the keys of a peer, but for its address and key. What an entry of a
# host's own configuration says (peers: NAME:, without a key) goes before it.
defaults:
  allow: {{}}

# What members of a group may do on every host, beside the defaults. The groups of a host are in its
# certificate; of several the first in this order counts.
groups:
  hosts:
    actions: [migrate, sync]
    pools: [images]
    guests: ['*']
"""
_EMPTY: Final = re.compile(r"revoked:[ \t]*(\[[ \t]*\]|\{[ \t]*\}|~|null)?[ \t]*(#.*)?")
_ITEM: Final = re.compile(r"([ \t]*)- ")


def new_text(key: str) -> str:
    """Return a fleet file that believes one authority."""
    return _NEW.format(key=key)


def load_fleet(file: Path) -> Fleet:
    """Read a fleet file. Raises ConfigError with all that is wrong."""
    problems: list[ConfigProblem] = []
    document = read_yaml(file, problems)
    fleet = read_fleet(document, Reader(document, problems)) if document is not None else None
    if problems or fleet is None:
        raise ConfigError(problems)
    return fleet


def add_revoked(file: Path, revoked: str, comment: str) -> None:
    """Add a line to `revoked`, and change nothing else in the file.

    Raises ConfigError, with the file as it was, if it is wrong or the place is not found.
    """
    if revoked in load_fleet(file).revoked:
        return
    text = file.read_text(encoding="utf-8")
    partial = file.with_name(f".{file.name}.new")
    partial.write_text(_with(text, f"- {revoked}  # {comment}"), encoding="utf-8")
    partial.chmod(file.stat().st_mode & 0o777)
    try:
        done = revoked in load_fleet(partial).revoked
    except ConfigError:
        done = False
    if not done:
        partial.unlink()
        reason = f"the list could not be added to; add by hand: {revoked}"
        raise ConfigError([ConfigProblem(file, None, "revoked", reason)])
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def _with(text: str, item: str) -> str:
    """Return the text with an item at the beginning of its list `revoked`, if that is found."""
    lines = text.splitlines()
    for index, one in enumerate(lines):
        if _EMPTY.fullmatch(one):
            following = next((line for line in lines[index + 1 :] if _is_content(line)), "")
            indent = match[1] if (match := _ITEM.match(following)) else "  "
            lines[index : index + 1] = ["revoked:", f"{indent}{item}"]
            return "\n".join(lines) + "\n"
    if any(line.startswith("revoked:") for line in lines):
        return text
    return "\n".join([*lines, "", "revoked:", f"  {item}"]) + "\n"


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
