"""Private instances of the kernel's tracing that report the writes to one block device.

An instance is a folder in tracefs with ring buffers of its own for each CPU, so that nobody else
who traces is disturbed, and disturbs nobody. It outlives its maker: its name says whose it is, and
`clean_up_stale` removes those whose makers are gone.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from storage.errors import reason
from storage.processes import start_time
from storage.syscalls import mount, unmount
from storage.tracking.ringpages import BIO_ENDED, EVENTS, Batch, PageDecoder, UnknownLayout

PLACES: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
BUFFER_SIZE: Final = 16 << 20
"""Bytes of kernel memory for the buffers of an instance, shared out among the CPUs."""
SMALLEST_BUFFER: Final = 512 << 10
"""Bytes that a CPU gets, however many there are."""

_NAME: Final = re.compile(r"xenmoved-(?P<process>\d+)-(?P<started>\d+)-\d+")
_COUNTERS: Final = {
    name: re.compile(rf"^{name}: (\d+)$", re.MULTILINE)
    for name in ("entries", "overrun", "commit overrun", "dropped events", "read events")
}
_LOSSES: Final = ("overrun", "commit overrun", "dropped events")
_CUT_PATIENCE: Final = 2.0

_numbers = itertools.count(1)


class TracingUnavailable(Exception):
    """The kernel's tracing cannot be used here. The message says why and what would help."""


class TracingLost(Exception):
    """The trace is not complete, and never will be again. The message says why."""


def find_tracefs() -> Path:
    """Return where tracefs is and has the block events. Raises `TracingUnavailable`."""
    place = _mounted()
    if place is None:
        raise TracingUnavailable(
            "tracefs is not mounted (mount -t tracefs nodev /sys/kernel/tracing)"
        )
    try:
        (place / "events" / "header_page").read_bytes()
        for name in EVENTS:
            (place / "events" / "block" / name / "format").read_bytes()
    except FileNotFoundError as error:
        raise TracingUnavailable(f"this kernel cannot trace writes: no {error.filename}") from None
    except OSError as error:
        raise TracingUnavailable(f"{place} cannot be read: {reason(error)}") from None
    return place


def mount_tracefs() -> Path | None:
    """Mount tracefs where systemd would, for the whole host; None where it is mounted already.

    Raises `TracingUnavailable` where that cannot be done: the kernel has none, or this process may
    not mount.
    """
    if _mounted() is not None:
        return None
    place = PLACES[0]
    try:
        mount("tracefs", str(place))
    except OSError as error:
        if error.errno == errno.EBUSY:  # somebody was quicker
            return None
        known = {errno.ENODEV: "this kernel has none", errno.ENOENT: f"there is no {place}"}
        why = known.get(error.errno or 0, reason(error))
        raise TracingUnavailable(f"tracefs cannot be mounted at {place}: {why}") from None
    return place


@contextlib.contextmanager
def borrowed_tracefs() -> Iterator[None]:
    """Have tracefs mounted meanwhile where that can be done, and leave the host as it was."""
    try:
        place = mount_tracefs()
    except TracingUnavailable:
        place = None
    try:
        yield
    finally:
        if place is not None:
            clean_up_stale()
            with contextlib.suppress(OSError):  # others have begun to use it
                unmount(str(place))


def clean_up_stale() -> list[str]:
    """Remove the instances of processes that are gone; return their names.

    To be called once when a process starts. Those of living processes stay, also of other
    processes than this one.
    """
    removed: list[str] = []
    place = _mounted()
    if place is None:
        return removed
    try:
        folders = sorted((place / "instances").glob("xenmoved-*"))
    except PermissionError:  # then none is this user's
        return removed
    for folder in folders:
        match = _NAME.fullmatch(folder.name)
        if match is None or start_time(int(match["process"])) == int(match["started"]):
            continue
        with contextlib.suppress(OSError):  # somebody is looking at it, or was faster
            folder.rmdir()
            removed.append(folder.name)
    return removed


class Instance:
    """An instance that reports writes to one device, from when it was made until it is closed.

    Not for use from several threads at once.
    """

    def __init__(self, folder: Path, device: int, buffer_size: int | None) -> None:
        """Use `open`."""
        self.folder = folder
        self._filters = {
            name: f'dev == {device} && !(rwbs ~ "R*")'
            + ("" if name == BIO_ENDED else " && nr_sector > 0")
            for name in EVENTS
        }
        self._buffers: dict[Path, int] = {}
        self._read: dict[Path, int] = {}  # events, of any kind
        self._lost: dict[Path, list[int]] = {}
        try:
            self._decoder = PageDecoder(
                (folder.parents[1] / "events" / "header_page").read_text(),
                {name: self._event(name, "format").read_text() for name in EVENTS},
                device,
            )
            self._set_up(buffer_size)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, device: int, buffer_size: int | None = None) -> Self:
        """Make an instance for the device of this number (see `ringpages.event_device`).

        `buffer_size` is in bytes for each CPU; None gives it its share of `BUFFER_SIZE`.
        All writes that are queued or end after this are in what `read` returns, or
        `TracingLost` is raised. Raises `TracingUnavailable`.
        """
        place = find_tracefs()
        process = os.getpid()
        started = start_time(process)
        while True:
            folder = place / "instances" / f"xenmoved-{process}-{started}-{next(_numbers)}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise TracingUnavailable(f"{folder} cannot be made: {reason(error)}") from None
            break
        try:
            return cls(folder, device, buffer_size)
        except OSError as error:
            raise TracingUnavailable(
                f"{error.filename or folder} cannot be used: {reason(error)}"
            ) from None
        except UnknownLayout as error:
            raise TracingUnavailable(str(error)) from None

    def read(self) -> Batch:
        """Return what is in the buffers. Raises `TracingLost`."""
        batch = Batch()
        for cpu in self._buffers:
            self._read_cpu(cpu, batch)
        return batch

    def read_up_to_now(self) -> Batch:
        """Return what is in the buffers, all that was traced before this call included.

        An event may be written and not readable yet, while one that it interrupted is being
        written on the same CPU. Raises `TracingLost`.
        """
        batch = Batch()
        deadline = time.monotonic() + _CUT_PATIENCE
        for cpu in self._buffers:
            counters = self._counters(cpu)
            written = counters["entries"] + counters["read events"]
            self._read_cpu(cpu, batch, written)
            while self._read[cpu] < written:
                if time.monotonic() > deadline:
                    raise TracingLost(f"what {cpu} counts cannot be read")
                time.sleep(0.0005)
                self._read_cpu(cpu, batch, written)
        batch.complete = True
        return batch

    def overrun(self) -> bool:
        """Tell whether events were lost since this was last asked, for lack of space.

        Raises `TracingLost` when somebody else has changed the instance or read from it.
        """
        overrun = False
        for cpu in self._buffers:
            counters = self._counters(cpu)
            losses = [counters[name] for name in _LOSSES]
            if losses != self._lost[cpu]:
                overrun = True
            self._lost[cpu] = losses
        self._check_settings()
        return overrun

    def close(self) -> None:
        """Remove the instance. Idempotent."""
        for descriptor in self._buffers.values():
            os.close(descriptor)
        self._buffers.clear()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _set_up(self, buffer_size: int | None) -> None:
        if buffer_size is None:
            buffer_size = max(SMALLEST_BUFFER, BUFFER_SIZE // (os.cpu_count() or 1))
        # Lost events are lost either way; without overwriting, reading is simpler for the kernel.
        (self.folder / "options" / "overwrite").write_text("0")
        (self.folder / "buffer_size_kb").write_text(str(buffer_size >> 10))
        self._size = (self.folder / "buffer_size_kb").read_text()
        self._pages = buffer_size // self._decoder.page_size + 2
        for name in reversed(EVENTS):  # no write is seen to be queued whose end is not seen
            self._event(name, "filter").write_text(self._filters[name])
            self._event(name, "enable").write_text("1")
        self._check_settings()
        for cpu in sorted((self.folder / "per_cpu").glob("cpu*")):  # also those that may come yet
            self._buffers[cpu] = os.open(cpu / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
            self._read[cpu] = 0
            self._lost[cpu] = [0] * len(_LOSSES)

    def _check_settings(self) -> None:
        try:
            if (self.folder / "tracing_on").read_text().strip() != "1":
                raise TracingLost(f"somebody switched {self.folder} off")
            if (self.folder / "buffer_size_kb").read_text() != self._size:
                raise TracingLost(f"somebody changed the buffers of {self.folder}")
            for name in EVENTS:
                if self._event(name, "enable").read_text().strip() != "1":
                    raise TracingLost(f"somebody disabled {name} in {self.folder}")
                if self._event(name, "filter").read_text().strip() != self._filters[name]:
                    raise TracingLost(f"somebody changed the filter of {name} in {self.folder}")
        except OSError as error:
            raise TracingLost(f"{self.folder} cannot be read: {reason(error)}") from None

    def _read_cpu(self, cpu: Path, batch: Batch, enough: float = math.inf) -> None:
        """Read pages until there are none, or so many events have been read from this CPU."""
        descriptor, size = self._buffers[cpu], self._decoder.page_size
        try:
            # A writer who is faster than this must not keep it here; what is left is read next.
            for _ in range(self._pages):
                if self._read[cpu] >= enough:
                    return
                page = os.read(descriptor, size)
                if not page:  # an event is being written
                    break
                before = batch.entries
                self._decoder.decode(page, batch)
                self._read[cpu] += batch.entries - before
            batch.complete = False
        except OSError as error:
            # There is nothing more to read, or there has been no such CPU since the instance is.
            if error.errno not in (errno.EAGAIN, errno.ENODEV):
                raise TracingLost(f"{cpu} cannot be read: {reason(error)}") from None
        except UnknownLayout as error:
            raise TracingLost(str(error)) from None

    def _counters(self, cpu: Path) -> dict[str, int]:
        try:
            text = (cpu / "stats").read_text()
        except OSError as error:
            raise TracingLost(f"{cpu} cannot be read: {reason(error)}") from None
        found = {name: pattern.search(text) for name, pattern in _COUNTERS.items()}
        counters = {name: int(match[1]) if match else -1 for name, match in found.items()}
        if counters["read events"] != self._read[cpu]:
            raise TracingLost(f"somebody else read or cleared {cpu}")
        return counters

    def _event(self, name: str, file: str) -> Path:
        return self.folder / "events" / "block" / name / file


def _mounted() -> Path | None:
    for place in PLACES:
        try:
            (place / "instances").stat()
        except OSError as error:
            if error.errno != errno.EACCES:  # whoever needs more than to know will see that too
                continue
        return place
    return None
