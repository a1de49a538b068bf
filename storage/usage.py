"""Who has a file or block device in use on this host, in words for an operator.

Asked of the kernel: mounts, swap, device holders, loop devices, devices that blkback serves, locks
and exclusive claims. Not seen are programs that merely have the path open, except by `writer`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.syscalls import loop_backing

SYS = Path("/sys")
PROC = Path("/proc")

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_DELETED: Final = " (deleted)"


def in_use(path: str | os.PathLike[str]) -> str | None:
    """Say who has the path in use, as in ``mounted at /srv`` or ``backs /dev/loop3``.

    None when nobody is known to, or when nothing is there. Symbolic links are followed.
    """
    return held(path) or locked(path) or _claimed(path)


def held(path: str | os.PathLike[str]) -> str | None:
    """Like `in_use`, but only what the kernel itself uses the path for.

    Such use does not pass by itself, while a lock or claim may be gone in a moment.
    """
    status = _stat(path)
    if status is None:
        return None
    if not stat.S_ISBLK(status.st_mode):
        return _swap(_identity(status)) or _backs(_identity(status))
    for device in _with_partitions(status.st_rdev):
        identity = (device.number,)
        reason = (
            _mounted(device.number)
            or _holder(device)
            or _swap(identity)
            or _backs(identity)
            or _served(device.number)
        )
        if reason is not None and device.number != status.st_rdev:
            return f"its partition {device.name} is in use: {reason}"
        if reason is not None:
            return reason
    return None


def locked(path: str | os.PathLike[str]) -> str | None:
    """Say which process has a lock on the path (flock, or as QEMU and fcntl have it).

    File systems that number their devices differently for stat and for locks (btrfs) hide them:
    take None as "none seen".
    """
    unknown = False
    for holder, command in _lockers(path):
        if holder <= 0:  # open file description locks, and holders in other pid namespaces
            unknown = True
        elif not _is_udev(command):
            return f"locked by process {holder}" + (f" ({command})" if command else "")
    return "locked by another process" if unknown else None


def probed(path: str | os.PathLike[str]) -> bool:
    """Whether udev has a lock on the path, as it does while it looks what a device holds.

    It looks at each that is new, and at each that somebody has closed who could write to it.
    """
    return any(_is_udev(command) for _, command in _lockers(path))


def _is_udev(command: str) -> bool:
    return "udev" in command


def _lockers(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield processes that lock the path, with their names; 0 or less where none is told."""
    status = _stat(path)
    if status is None:
        return
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in _lines(PROC / "locks"):
        # "1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF"; waiting locks have "->" at the front.
        fields = line.split()
        if len(fields) >= 6 and fields[1] in ("FLOCK", "POSIX", "OFDLCK") and fields[5] == device:
            holder = int(fields[4])
            yield holder, "".join(_lines(PROC / str(holder) / "comm")) if holder > 0 else ""


def writer(path: str | os.PathLike[str], *, besides: Collection[int] = ()) -> str | None:
    """Say which process has the path open for writing, as in ``process 12 (qemu-system-i38)``.

    The processes `besides` do not count. Loop devices and others who write from within the kernel
    are not seen, nor is a process that closed the file and kept a mapping of it.
    """
    status = _stat(path)
    if status is None:
        return None
    for process in sorted(int(one.name) for one in PROC.glob("[0-9]*")):
        folder = f"{PROC}/{process}"
        if process not in besides and _writes(folder, status):
            command = "".join(_lines(Path(folder, "comm")))
            return f"process {process}" + (f" ({command})" if command else "")
    return None


def _writes(process: str, status: os.stat_result) -> bool:
    try:
        descriptors = os.listdir(f"{process}/fd")  # noqa: PTH208 - of all processes: it counts
    except OSError:  # it is gone
        return False
    return any(_is_writer(process, descriptor, status) for descriptor in descriptors)


def _is_writer(process: str, descriptor: str, status: os.stat_result) -> bool:
    # Asking a file itself may take for ever, where its server does not answer: so sockets, pipes
    # and devices are told by their names, and most of the others by what the kernel knows.
    entry = f"{process}/fd/{descriptor}"
    try:
        name = os.readlink(entry)  # noqa: PTH115
    except OSError:
        return False
    if not name.startswith("/") or name.startswith("/dev/") != stat.S_ISBLK(status.st_mode):
        return False
    lines = (line.partition(":") for line in _lines(Path(process, "fdinfo", descriptor)))
    about = {name: value for name, _, value in lines}
    if int(about.get("flags", "0"), 8) & os.O_ACCMODE == os.O_RDONLY:
        return False
    if int(about.get("ino", status.st_ino)) != status.st_ino and not stat.S_ISBLK(status.st_mode):
        return False  # older kernels do not tell
    opened = _stat(entry)
    return opened is not None and _identity(opened) == _identity(status)


@dataclass(frozen=True, slots=True)
class _Device:
    number: int
    name: str
    folder: Path


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Give what two paths of one thing share: a device's number, or a file's device and inode."""
    if stat.S_ISBLK(status.st_mode):
        return (status.st_rdev,)
    return (status.st_dev, status.st_ino)


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel's, none when it is not there (any more)."""
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _with_partitions(number: int) -> Iterator[_Device]:
    folder = SYS / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    yield _Device(number, folder.resolve().name, folder)
    for mark in sorted(folder.glob("*/partition")):
        for line in _lines(mark.parent / "dev"):
            major, minor = line.split(":")
            yield _Device(os.makedev(int(major), int(minor)), mark.parent.name, mark.parent)


def _mounted(number: int) -> str | None:
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in _lines(PROC / "self" / "mountinfo"):
        # "36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw"
        before, _, after = line.partition(" - ")
        fields, source = before.split(), _unescape(after.split()[1])
        if fields[2] == device or _is_device(source, number):  # btrfs shows a number of its own
            return f"mounted at {_unescape(fields[4])}"
    return None


def _is_device(source: str, number: int) -> bool:
    if not source.startswith("/dev/"):
        return False
    status = _stat(source)
    return status is not None and stat.S_ISBLK(status.st_mode) and status.st_rdev == number


def _holder(device: _Device) -> str | None:
    for holder in sorted((device.folder / "holders").glob("*")):
        names = _lines(SYS / "block" / holder.name / "dm" / "name")
        alias = f" ({names[0]})" if names else ""
        return f"part of /dev/{holder.name}{alias}"
    return None


def _swap(identity: tuple[int, ...]) -> str | None:
    for line in _lines(PROC / "swaps")[1:]:
        status = _stat(_unescape(line.split()[0]))
        if status is not None and _identity(status) == identity:
            return "in use as swap space"
    return None


def _backs(identity: tuple[int, ...]) -> str | None:
    for mark in sorted((SYS / "block").glob("loop*/loop/backing_file")):
        node = f"/dev/{mark.parent.parent.name}"
        if _backing(mark, node, of_device=len(identity) == 1) == identity:
            return f"backs {node}"
    return None


def _backing(mark: Path, node: str, *, of_device: bool) -> tuple[int, ...] | None:
    """Tell what is behind a loop device, of a file by the kernel: its path may be another's now."""
    if of_device:
        status = _stat("".join(_lines(mark)).removesuffix(_DELETED))
        return _identity(status) if status is not None else None
    try:
        descriptor = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it was just detached
        return None
    try:
        return loop_backing(descriptor)[:2]
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _served(number: int) -> str | None:
    """Say whose disk a device is, by blkback, which opens it without a claim or a process."""
    wanted = f"{os.major(number):x}:{os.minor(number):x}"
    for mark in sorted((SYS / "bus/xen-backend/devices").glob("vbd-*/physical_device")):
        if _lines(mark) == [wanted]:
            return f"disk of domain {mark.parent.name.split('-')[1]}"
    return None


def _claimed(path: str | os.PathLike[str]) -> str | None:
    """Probe for a claim that nothing above explains, by claiming a block device for a moment."""
    status = _stat(path)
    if status is None or not stat.S_ISBLK(status.st_mode):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)
    except OSError as error:
        return "claimed by another program" if error.errno == errno.EBUSY else None
    os.close(fd)
    return None
