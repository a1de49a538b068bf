"""Tools that take apart what others wrote, started with no more rights than they need.

Such a tool can be brought to open other files than those that are meant: by what it reads, as the
name of a backing file, or by an error of its own. With Landlock, landlock(7), the kernel refuses
that, and of root's capabilities only the one stays by which root opens files of any owner. Both
hold for a thread and for what it starts; so the tool is started by a thread that ends then.
"""

from __future__ import annotations

import ctypes
import logging
import os
import stat
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from storage.commands import start
from storage.errors import VolumeError, reason

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger(__name__)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_RULE: Final = struct.Struct("=Qi")

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_SOCKET, _TRUNCATE = 1 << 5, 1 << 9, 1 << 14
_OF_A_FILE: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights about files there are, from a version of Landlock on."""
_NOTHING_ELSE: Final = {4: 0b11, 6: 0b11}
"""What else is refused, from a version on: TCP; abstract sockets and signals of others."""

_NO_NEW_PRIVILEGES, _DROP_CAPABILITY = 38, 24
_OPEN_ANY_FILE: Final = 1  # CAP_DAC_OVERRIDE
_MOST_CAPABILITIES: Final = 64

_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/dev/urandom")
"""What programs and their libraries are read from, where it is there."""

_libc = ctypes.CDLL(None, use_errno=True)


def start_confined(
    command: Sequence[str],
    *,
    reads: Iterable[str],
    writes: Iterable[str],
    sockets: Iterable[str],
    output: int,
) -> subprocess.Popen[bytes]:
    """Start a tool that opens no other files than these, and programs and libraries.

    It `reads` files, `writes` others, which it may read too, and makes sockets in the folders
    `sockets`. All it says goes to the descriptor `output`. Where the kernel has no Landlock (before
    Linux 5.13, or not switched on) files are not limited. Raises `VolumeError`.
    """
    system = dict.fromkeys(_SYSTEM, _READ | _LIST | _EXECUTE) | {os.devnull: _READ | _WRITE}
    rights = (
        system | dict.fromkeys(reads, _READ) | dict.fromkeys(writes, _READ | _WRITE | _TRUNCATE)
    )
    rights |= dict.fromkeys(sockets, _MAKE_SOCKET | _REMOVE_FILE)
    started: list[subprocess.Popen[bytes]] = []
    failed: list[BaseException] = []

    def confine_and_start() -> None:
        try:
            _confine(rights)
            started.append(start(command, stdout=output, stderr=output))
        except OSError as error:
            failed.append(VolumeError(f"{command[0]} cannot be confined: {reason(error)}"))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=confine_and_start, name="confined")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return started[0]


def _confine(rights: dict[str, int]) -> None:
    """Take from this thread, for ever, all rights but these, and its capabilities but one."""
    for number in range(_MOST_CAPABILITIES):
        if number != _OPEN_ANY_FILE:
            _libc.prctl(_DROP_CAPABILITY, number, 0, 0, 0)  # fails where there are none to drop
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    version = _libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        log.debug("this kernel has no Landlock: files are not limited")
        return
    handled = (1 << max(count for since, count in _RIGHTS.items() if since <= version)) - 1
    limits = [handled, *(bits for since, bits in _NOTHING_ELSE.items() if since <= version)]
    attributes = struct.pack(f"={len(limits)}Q", *limits)
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, allowed in rights.items():
            _allow(ruleset, path, allowed & handled)
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    """Add a rule about a file, or all beneath a folder, if it is there."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            allowed &= _OF_A_FILE
        rule = _RULE.pack(allowed, descriptor)
        _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
