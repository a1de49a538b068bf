"""What is added to a QEMU so that a guest's disk can be read and its writes be known.

Dirty bitmaps, exports, and the NBD server that QEMU can have one of. All of it lasts as long as
QEMU does, whoever asked for it. So its names say whose it is, and what is nobody's any more is
removed: of processes that are gone, and of this one when QEMU did not answer at the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from storage.errors import QemuError, QemuRefusal
from storage.qemu import nbd
from storage.qemu.monitor import PATIENCE, Session, session
from storage.qemu.nodes import DiskNode, find_nodes
from storage.qemu.ownership import (
    is_listening,
    is_orphan,
    listening,
    own_name,
    own_prefix,
    stale_sockets,
)

GRANULARITY: Final = 65536
"""Bytes that a bit of a bitmap stands for."""

_MONITORS: Final = ("qmp-libxenstat-", "qmp-libxl-")
_SUFFIX: Final = ".nbd"
_PAUSE: Final = 0.01

_turns: dict[str, threading.RLock] = {}
_wanted: set[str] = set()
"""Names of what this process has, or may have, in some QEMU and still needs."""


class GuestQemu:
    """The QEMU of a running domain. For any thread; one at a time talks to it.

    `monitor` is the path of its QMP socket, `folder` one where only root gets at sockets.
    """

    def __init__(
        self, monitor: str | os.PathLike[str], folder: Path, *, patience: float = PATIENCE
    ) -> None:
        self.monitor = os.fspath(monitor)
        self._folder = folder
        self._patience = patience
        self._domid = _domid_of(self.monitor)
        self._turn = _turns.setdefault(self.monitor, threading.RLock())

    @property
    def socket(self) -> Path:
        """Where its NBD server listens while something is exported.

        The system takes no names of sockets that are longer than 107 bytes.
        """
        return self._folder / f"{own_prefix()}{self._domid}{_SUFFIX}"

    def find(self, path: str | os.PathLike[str]) -> tuple[DiskNode, ...]:
        """Return the nodes of a disk. Raises `UnsupportedVolume` or `QemuError`."""
        with self._session() as qemu:
            return _nodes(qemu, path)

    def add_bitmap(self, path: str | os.PathLike[str]) -> tuple[tuple[DiskNode, ...], str]:
        """Begin to note writes to a disk, in a new bitmap of each node. Raises as `find`."""
        with _new_name() as name, self._session() as qemu:
            _remove_stale(qemu)
            nodes = _nodes(qemu, path)
            for node in nodes:
                _add_bitmap(qemu, node, name)
        return nodes, name

    def swap_bitmap(
        self, path: str | os.PathLike[str], nodes: tuple[DiskNode, ...], last: str
    ) -> tuple[str, bool]:
        """Note writes in new bitmaps from now on, and then in the last ones no more.

        What is written in between is in both. In a transaction nothing would be, but QEMU would
        have the guest wait until all that is under way has ended.

        Returns their name, and whether QEMU runs. Raises `QemuError`, also when the disk has
        other nodes or another size by now.
        """
        with _new_name() as name, self._session() as qemu:
            if _nodes(qemu, path) != nodes:
                raise QemuError(f"{os.fspath(path)} has become another disk of its QEMU")
            running = qemu.execute("query-status")["running"] is True
            for node in nodes:
                _add_bitmap(qemu, node, name)
                qemu.execute("block-dirty-bitmap-disable", {"node": node.name, "name": last})
        return name, running

    def export(self, node: DiskNode, bitmaps: Sequence[str] = ()) -> str:
        """Offer a disk for reading, and bitmaps of it, at `socket`; return the export's name."""
        with _new_name() as name, self._session() as qemu:
            self._start_server(qemu)
            wish: dict[str, object] = {"type": "nbd", "id": name, "name": name, "writable": False}
            wish |= {"node-name": node.name, "bitmaps": list(bitmaps)}
            qemu.execute("block-export-add", wish)
        return name

    def connect(
        self, export: str, contexts: Sequence[str] = (), *, patience: float = nbd.PATIENCE
    ) -> nbd.Connection:
        """Connect to an export. `patience` is for each request. Raises `OSError`, `VolumeError`."""
        with self._turn:
            return nbd.Connection(str(self.socket), export, contexts, patience=patience)

    def forget(self, name: str) -> None:
        """Need something no more that may be there: whoever comes next removes it."""
        _wanted.discard(name)

    def remove(self, *names: str) -> None:
        """Remove exports and bitmaps, what there is of them; and the server after the last export.

        Raises `QemuError`; what is left is nobody's then, and removed by whoever comes next.
        """
        _wanted.difference_update(names)
        with self._session() as qemu:
            _remove_exports(qemu, names)
            _remove_bitmaps(qemu, [one for one in _bitmaps(qemu) if one[1] in names])
            self._stop_server(qemu)

    def clean_up(self) -> list[str]:
        """Remove what is nobody's any more; return its names. Raises `QemuError`."""
        with self._session() as qemu:
            removed = _remove_stale(qemu)
            removed += self._clean_up_servers(qemu)
            self._stop_server(qemu)
        return removed

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._turn, session(self.monitor, patience=self._patience) as qemu:
            yield qemu

    def _start_server(self, qemu: Session) -> None:
        if is_listening(self.socket):
            return
        self.socket.unlink(missing_ok=True)
        address = {"type": "unix", "data": {"path": str(self.socket)}}
        try:
            # As many clients as like: there is no limit to be used up.
            qemu.execute("nbd-server-start", {"addr": address, "max-connections": 0})
        except QemuRefusal:
            self._clean_up_servers(qemu)  # it has one that a killed process started, or others did
            qemu.execute("nbd-server-start", {"addr": address, "max-connections": 0})

    def _stop_server(self, qemu: Session) -> None:
        if is_listening(self.socket) and not _exports(qemu):
            _stop_server_at(qemu, self.socket)

    def _clean_up_servers(self, qemu: Session) -> list[str]:
        """Stop the server if a process that is gone has started it."""
        stale = stale_sockets(self._folder, f"-{self._domid}{_SUFFIX}")
        for path in stale:
            _stop_server_at(qemu, path)
        return [path.name for path in stale]


def monitor_of(monitors: Path, domid: int) -> Path | None:
    """Return the QMP socket of a domain's QEMU in libxl's folder of them, None without one.

    Of the two that libxl has it make, the one that is not libxl's own (it is xentop's), so that
    libxl need not wait.
    """
    places = (monitors / f"{name}{domid}" for name in _MONITORS)
    return next((place for place in places if place.exists()), None)


def clean_up_stale(monitors: Path, folder: Path) -> list[str]:
    """Remove from every QEMU of this host what is nobody's any more; return its names.

    One that does not answer is left to the next time. Blocks for `PATIENCE` for each of these. A
    QEMU that was killed leaves its socket in the folder: that goes, too.
    """
    _remove_dead_sockets(monitors, folder)
    removed = []
    domids = {_domid_of(path.name) for name in _MONITORS for path in monitors.glob(f"{name}*")}
    for domid in sorted(int(one) for one in domids if one.isdecimal()):
        if (monitor := monitor_of(monitors, domid)) is not None:
            with suppress(QemuError):
                removed += GuestQemu(monitor, folder).clean_up()
    return removed


def _remove_dead_sockets(monitors: Path, folder: Path) -> None:
    there = listening()
    for path in folder.glob(f"xenmoved-*{_SUFFIX}"):
        own = [str(monitors / f"{name}{_domid_of(path.stem)}") for name in _MONITORS]
        if there.isdisjoint(own):
            path.unlink(missing_ok=True)


def _domid_of(name: str) -> str:
    return name.rpartition("-")[2]


@contextmanager
def _new_name() -> Iterator[str]:
    """Have a name that nobody has, and that is in use from now on unless what is done fails."""
    name = own_name()
    _wanted.add(name)
    try:
        yield name
    except BaseException:
        _wanted.discard(name)
        raise


def _is_stale(name: str) -> bool:
    """Whether something of that name is ours, and of nobody who still needs it."""
    return is_orphan(name) or (name.startswith(own_prefix()) and name not in _wanted)


def _nodes(qemu: Session, path: str | os.PathLike[str]) -> tuple[DiskNode, ...]:
    return find_nodes(qemu.execute("query-block"), path)


def _add_bitmap(qemu: Session, node: DiskNode, name: str) -> None:
    how = {"name": name, "granularity": GRANULARITY, "persistent": False}
    qemu.execute("block-dirty-bitmap-add", {"node": node.name, **how})


def _exports(qemu: Session) -> list[str]:
    return [one["id"] for one in qemu.execute("query-block-exports") if one["type"] == "nbd"]


def _bitmaps(qemu: Session) -> list[tuple[str, str]]:
    """Return the (node, name) of all bitmaps that have a name."""
    return [
        (node["node-name"], bitmap["name"])
        for node in qemu.execute("query-named-block-nodes", {"flat": True})
        for bitmap in node.get("dirty-bitmaps", ())
        if "name" in bitmap
    ]


def _remove_stale(qemu: Session) -> list[str]:
    exports = [name for name in _exports(qemu) if _is_stale(name)]
    bitmaps = [one for one in _bitmaps(qemu) if _is_stale(one[1])]
    _remove_exports(qemu, exports)
    _remove_bitmaps(qemu, bitmaps)
    return [*exports, *(name for _, name in bitmaps)]


def _remove_exports(qemu: Session, names: Sequence[str]) -> None:
    """Remove exports, and wait until they are gone: they go when requests under way have ended."""
    for name in set(names) & set(_exports(qemu)):
        with suppress(QemuRefusal):  # it is going already
            qemu.execute("block-export-del", {"id": name, "mode": "hard"})
    while set(names) & set(_exports(qemu)):
        time.sleep(_PAUSE)  # the session ends at its time


def _remove_bitmaps(qemu: Session, bitmaps: Sequence[tuple[str, str]]) -> None:
    for node, name in bitmaps:
        qemu.execute("block-dirty-bitmap-remove", {"node": node, "name": name})


def _stop_server_at(qemu: Session, path: Path) -> None:
    """Stop the server, of which QEMU has one, if it is the one that listens there.

    QEMU 7.2 hangs for ever, and the guest with it, when its server is stopped while a client says
    hello (seen): nobody connects meanwhile, not even to find out whether somebody listens.
    """
    if is_listening(path):
        with suppress(QemuRefusal):
            qemu.execute("nbd-server-stop")
    path.unlink(missing_ok=True)
