"""The guest: a process that writes to its disks, dirties its memory and checks every block.

Started by `build.start_guest` with its memory on descriptor 3 and a pipe on descriptor 4, on which
it says `ok` once its disks are open, or why not. It starts paused and obeys its control socket.
It executes only while it holds the lock of its witness file.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
import zlib

from xenmoved.sandbox import control, device_model
from xenmoved.sandbox.blocks import CHUNK_UNITS, UNIT, Disk, diagnose, make, number_of
from xenmoved.sandbox.host import (
    CRASHED,
    NOT_SHUT_DOWN,
    POWERED_OFF,
    REBOOTED,
    SUSPENDED,
    Domain,
    Host,
    process_status,
    replace,
)
from xenmoved.sandbox.ram import PAGE, MemoryDamaged, Ram, Table, knobs_from
from xenmoved.sandbox.witness import Diverged, Witness, failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any

MEMORY_DESCRIPTOR = 3
READY_DESCRIPTOR = 4
TICK = 0.05  # seconds
WRITE_UNITS = (1, 1, 1, 2, 4, 8, CHUNK_UNITS)
_ZERO_CHECKSUM = zlib.crc32(bytes(UNIT))


class BlockFailed(Exception):
    """A block does not hold what was written last."""


class Volume:
    """One writable disk with what the guest remembers of it."""

    def __init__(self, number: int, table: Table, disk: Disk, guest: bytes) -> None:
        self.table = table
        self._number = number
        self._disk = disk
        self._guest = guest
        self.written = table.written()

    def choose(self, sequence: int, *, zeroes: bool) -> Callable[[], None]:
        """Choose what to write as the guest's action `sequence`; returns what does it."""
        index = random.randrange(self.table.working * CHUNK_UNITS)
        count = min(random.choice(WRITE_UNITS), CHUNK_UNITS - index % CHUNK_UNITS)
        return lambda: self._write(sequence, index, count, zeroes=zeroes)

    def _write(self, sequence: int, index: int, count: int, *, zeroes: bool) -> None:
        at, unit = self.table.offset(index), self.table.unit(index)
        if zeroes:
            self._disk.zero(at, count * UNIT)
            checksums = [_ZERO_CHECKSUM] * count
        else:
            parts = [make(self._guest, self._number, unit + i, sequence) for i in range(count)]
            self._disk.write(at, b"".join(parts))
            checksums = [zlib.crc32(part) for part in parts]
        for i, checksum in enumerate(checksums):
            if self.table.get(index + i)[0] == 0:
                self.written.append(index + i)
            self.table.set(index + i, sequence, checksum, zeroes)

    def check(self, index: int, count: int = 1) -> int:
        """Check units within one chunk; returns how many had been written. Raises BlockFailed."""
        found = self._disk.read(self.table.offset(index), count * UNIT)
        checked = 0
        for i in range(count):
            sequence, checksum, _ = self.table.get(index + i)
            part = found[i * UNIT : (i + 1) * UNIT]
            if sequence and zlib.crc32(part) != checksum:
                unit = self.table.unit(index + i)
                reason = diagnose(part, self._guest, self._number, unit, sequence)
                raise BlockFailed(f"{self.table.vdev} block at {unit * UNIT}: {reason}")
            checked += sequence != 0
        return checked


class Guest:
    """State and actions of the guest. `gate` is held during every action."""

    def __init__(self, host: Host, domain: Domain, *, fresh: bool) -> None:
        self._host = host
        self._domain = domain
        self._ram = Ram(MEMORY_DESCRIPTOR)
        self._witness = Witness(host.witness, domain.uuid)
        self._gate = threading.Lock()
        self._wanting: set[int] = set()
        self._awake = threading.Event()
        self._paused = True
        self._shutdown = NOT_SHUT_DOWN
        self._failures: list[str] = []
        self._emulated = domain.config["c_info"].get("type") == "hvm"
        self._under_way: Callable[[], None] | None = None
        self._opened: dict[str, Disk] = {}
        disks = self._open_disks()
        if fresh:
            self._recall(disks)
            knobs = knobs_from(domain.config["b_info"].get("cmdline", ""))
            self._ram.boot(domain.uuid, knobs, [(vdev, disk.size) for vdev, disk in disks.items()])
            self._ram.sequence = self._witness.sequence
        # An image arrives as it was suspended, and is verified when it first executes.
        self._sealed = not fresh
        static = self._ram.static()
        self._knobs: dict[str, float] = static["knobs"]
        mean = sum(WRITE_UNITS) / len(WRITE_UNITS) * UNIT
        self._writes = self._knobs["writes"] or self._knobs["rate"] * (1 << 20) / mean
        self._filler: int = static["filler"]
        guest = bytes.fromhex(static["uuid"].replace("-", ""))
        self._volumes = [
            Volume(number, self._ram.table(layout), disks[layout["vdev"]], guest)
            for number, layout in enumerate(static["disks"])
            if layout["working"] and layout["vdev"] not in self._images()
        ]

    def _images(self) -> set[str]:
        """Name the disks that lie in images here: the guest leaves them alone meanwhile."""
        disks = self._domain.config.get("disks", [])
        return {disk["vdev"] for disk in disks if disk["format"] in ("qcow2", "vhd")}

    def _open_disks(self) -> dict[str, Disk]:
        """Open every disk; returns those that the guest writes to."""
        writable = {}
        for disk in self._domain.config.get("disks", []):
            if disk["format"] == "empty":
                continue
            opened = self._open(disk)
            # Other formats hold metadata of their own, which raw writes would destroy.
            if opened.writable and disk["format"] == "raw":
                writable[disk["vdev"]] = opened
        self._show_backends()
        return writable

    def _open(self, disk: dict[str, Any]) -> Disk:
        for_writing = bool(disk.get("readwrite")) and not disk.get("is_cdrom")
        opened = Disk(disk["pdev_path"], for_writing, cached=self._emulated)
        self._opened[disk["vdev"]] = opened
        return opened

    def _show_backends(self) -> None:
        served = {} if self._emulated else self._opened
        devices = {number_of(vdev): disk.number for vdev, disk in served.items() if disk.is_block}
        self._host.show_backends(self._domain.domid, os.getpid(), devices)

    def change_disks(self) -> None:
        """Close the disks that were detached, and open those that were attached.

        Nothing is written to the latter, as the guest knows nothing of them.
        """
        with self._stopped():
            domain = self._host.load(self._domain.domid)
            assert domain is not None
            now = {disk["vdev"]: disk for disk in domain.config["disks"]}
            for vdev in self._opened.keys() - now.keys():
                self._volumes = [one for one in self._volumes if one.table.vdev != vdev]
                self._opened.pop(vdev).close()
            for vdev in now.keys() - self._opened.keys():
                self._open(now[vdev])
            self._show_backends()

    @property
    def _executing(self) -> bool:
        return not self._paused and self._shutdown == NOT_SHUT_DOWN

    def log(self, text: str) -> None:
        """Print to the console."""
        print(time.strftime("%H:%M:%S"), text, flush=True)

    def _fail(self, text: str) -> None:
        """Stop for good. The gate is held."""
        self.log(f"FAILED: {text}")
        self._failures.append(text)
        self._shutdown = CRASHED
        self._awake.clear()
        self._witness.leave()
        self._publish()

    def _publish(self) -> None:
        self._host.publish(self._domain.domid, paused=self._paused, shutdown=self._shutdown)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        """Hold the gate, before the worker takes it again: a lock alone would not be fair."""
        self._wanting.add(threading.get_ident())
        try:
            with self._gate:
                yield
        finally:
            self._wanting.discard(threading.get_ident())

    def change(self, *, paused: bool | None = None, shutdown: str | None = None) -> None:
        """Pause, suspend and so on; what was in flight is finished before this returns."""
        with self._stopped():
            before = self._executing
            if paused is not None:
                self._paused = paused
            if shutdown is not None and self._shutdown != CRASHED:
                if shutdown == SUSPENDED and not self._sealed:
                    if self._emulated:
                        self._under_way = self._choose_write()
                    self._ram.seal()
                    self._sealed = True
                self._shutdown = shutdown
            if before and not self._executing:
                self._awake.clear()
                self._witness.leave()
            self._publish()
            if self._executing and not before:
                self._enter()

    def _enter(self) -> None:
        try:
            if self._sealed:
                self._ram.verify()
            self._sealed = False
            self._ram.sequence = self._witness.enter(self._ram.sequence)
        except (MemoryDamaged, Diverged) as error:
            self._fail(str(error))
            return
        self.log(f"executing from {self._ram.sequence} in process {os.getpid()}")
        self._awake.set()

    def stop_device_model(self) -> None:
        """Finish the write that a device model has under way; its state says that it is done.

        A guest with drivers for Xen's disks would repeat such a write. One with an emulated disk is
        told of its end when it goes on, on whichever host (libxl: tools/libs/light/
        libxl_dom_suspend.c, domain_suspend_common_guest_suspended).
        """
        with self._stopped():
            if self._under_way is None:
                return
            self._under_way()
            self._under_way = None
            if self._sealed:
                self._ram.seal()

    # --- the work ---

    def work(self) -> None:
        """Write, dirty and check at the rates of the knobs, for ever."""
        actions: list[tuple[float, Callable[[], None]]] = [
            (self._writes, self._write),
            (self._knobs["checks"], self._check_one),
            (self._knobs["dirty"] * (1 << 20) / PAGE, self._dirty),
        ]
        owed = [0.0] * len(actions)
        last = time.monotonic()
        while True:
            if not self._awake.is_set():
                self._awake.wait()
                last = time.monotonic()
            time.sleep(TICK)
            now = time.monotonic()
            elapsed, last = min(now - last, 1.0), now
            for number, (rate, action) in enumerate(actions):
                owed[number] += rate * elapsed
                while owed[number] >= 1 and self._act(action):
                    owed[number] -= 1

    def _act(self, action: Callable[[], None]) -> bool:
        while self._wanting:
            time.sleep(0.001)
        with self._gate:
            if not self._executing:
                return False
            try:
                action()
            except (BlockFailed, OSError) as error:
                self._fail(str(error))
        return True

    def _write(self) -> None:
        if (write := self._choose_write()) is not None:
            write()

    def _choose_write(self) -> Callable[[], None] | None:
        """Choose what to write next, None for a guest that writes nothing."""
        if not self._volumes or not self._writes:
            return None
        # Told before the write is done, so that no copy can have written more than is known.
        sequence = self._ram.sequence + 1
        self._witness.advance(sequence)
        self._ram.sequence = sequence
        zeroes = random.random() < self._knobs["zero"]
        return random.choice(self._volumes).choose(sequence, zeroes=zeroes)

    def _check_one(self) -> None:
        volume = random.choice(self._volumes) if self._volumes else None
        if volume is not None and volume.written:
            volume.check(random.choice(volume.written))

    def _dirty(self) -> None:
        self._ram.dirty_filler(self._filler)

    # --- the control socket ---

    def serve(self, server: socket.socket) -> None:
        """Answer connections, each in a thread of its own."""
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            try:
                operation = json.loads(control.read_line(connection) or b"{}").get("operation")
                if operation == "watch":
                    connection.recv(1)
                    return
                answer = self._perform(operation)
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return  # the caller went away
            if operation == "shutdown":
                self._shut_down()

    def _perform(self, operation: str) -> dict[str, Any]:
        match operation:
            case "pause":
                self.change(paused=True)
            case "unpause":
                self.change(paused=False)
            case "suspend":
                if self._shutdown != SUSPENDED and not self._executing:
                    return {"error": "guest didn't acknowledge suspend, cancelling request"}
                self.change(shutdown=SUSPENDED)
            case "disks":
                self.change_disks()
            case "stop":
                self.stop_device_model()
            case "resume":
                self.stop_device_model()
                device_model.go_on(self._host, self._domain.domid)
                if self._shutdown == SUSPENDED:
                    self.change(shutdown=NOT_SHUT_DOWN)
            case "shutdown":
                self.log("asked to shut down")  # what it does about that it does in its own time
            case "check":
                return self._check_all()
            case _:
                return {"error": f"unknown operation {operation}"}
        return {}

    def _shut_down(self) -> None:
        """Do what a test wants of a guest that is asked to shut down: mostly, power off.

        Among the faults of `shutdown`, `does` is what it does instead (`nothing`, `reboot` or
        `crash`), and `after` how many seconds it takes.
        """
        faults = self._host.faults("shutdown")
        does = faults.get("does", "power-off")
        if does == "nothing":
            return
        time.sleep(faults.get("after", 0.0))
        if not self._executing:
            return
        self.log(f"{does} as it was asked to shut down")
        if does == "crash":
            with self._stopped():
                self._fail("crashed as it was to shut down")
            return
        self.change(shutdown=REBOOTED if does == "reboot" else POWERED_OFF)
        self._remember()
        os._exit(0)

    def _remember(self) -> None:
        """Leave what is on the disks for the next life of this guest, on whichever host."""
        self._witness.remember(
            {
                volume.table.vdev: {
                    volume.table.offset(index): volume.table.get(index)[:2]
                    for index in volume.written
                }
                for volume in self._volumes
            }
        )

    def _recall(self, disks: dict[str, Disk]) -> None:
        """See that the disks are as an earlier life of this guest left them when it shut down."""
        for vdev, written in self._witness.recall().items():
            for offset, (sequence, checksum) in written.items() if vdev in disks else ():
                found = disks[vdev].read(offset, UNIT)
                if zlib.crc32(found) != checksum:
                    self._failures.append(
                        f"{vdev} block at {offset}: not write {sequence} of the life before"
                    )

    def _check_all(self) -> dict[str, Any]:
        blocks = 0
        problems: list[str] = []
        for volume in self._volumes:
            chunks = sorted({index // CHUNK_UNITS for index in list(volume.written)})
            for chunk in chunks:
                with self._stopped():
                    if not self._executing:
                        break
                    try:
                        blocks += volume.check(chunk * CHUNK_UNITS, CHUNK_UNITS)
                    except (BlockFailed, OSError) as error:
                        self._fail(str(error))
        if not self._executing and not self._failures:
            problems.append("the domain does not execute")
        problems += self._failures + failures(self._host.witness, self._domain.uuid)
        return {
            "ok": not problems,
            "blocks": blocks,
            "sequence": self._ram.sequence,
            "failures": problems,
        }


def register(host: Host, domid: int) -> Domain:
    """Make this process the domain's guest, unless the domain was destroyed meanwhile."""
    with host.locked():
        domain = host.load(domid)
        if domain is None:
            sys.exit("the domain was destroyed while it was built")
        status = process_status(os.getpid())
        assert status is not None
        replace(host.path(domid, "pid"), f"{os.getpid()} {status[19]}\n".encode())
    return domain


def main() -> None:
    """Entry point: ROOT WITNESS -xen-domid DOMID boot|restore."""
    root, witness, _, domid, mode = sys.argv[1:]
    host = Host(root, witness)
    domain = register(host, int(domid))
    try:
        guest = Guest(host, domain, fresh=mode == "boot")
        server = control.listen(host.path(domain.domid, "sock"))
    except (OSError, KeyError, MemoryDamaged) as error:
        os.write(READY_DESCRIPTOR, str(error).encode())
        sys.exit(1)
    threading.Thread(target=guest.serve, args=(server,), daemon=True).start()
    os.write(READY_DESCRIPTOR, b"ok")
    os.close(READY_DESCRIPTOR)
    guest.work()


if __name__ == "__main__":
    main()
