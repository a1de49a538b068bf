"""The tracker that learns of writes from the kernel's trace."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from storage.contracts import EVERYTHING, Everything, Extent
from storage.syscalls import write_back
from storage.tracking.ringpages import Batch
from storage.tracking.target import CannotTrack, Target, find_target
from storage.tracking.tracefs import Instance, TracingLost, TracingUnavailable
from storage.tracking.writelog import MOST_PENDING, WriteLog

log = logging.getLogger(__name__)

READ_EVERY: Final = 0.05
"""Seconds between emptying the kernel's buffers."""
SETTLE_PATIENCE: Final = 0.5
"""Seconds that `drain` waits for writes under way."""


class TracefsTracker:
    """Tracks the writes to a block device, or to a file under a loop device.

    `storage.tracking.writelog` has the rule by which a write is reported, and why it suffices. It
    also makes a `drain` under a suspended guest complete but for writes of the guest that were
    under way: the guest will repeat those wherever it goes on, as nobody told it of their end.
    `drain` waits for them for a moment nevertheless, so that source and target compare equal.

    Lost events (an overrun of the buffers) make one drain answer `EVERYTHING`. So does anything
    else that breaks the chain, for ever after, as nobody can tell since when: the device or loop
    device is another, the instance was changed. Then `trouble` says what.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        buffer_size: int | None = None,
        read_every: float = READ_EVERY,
    ) -> None:
        """Take the path of the volume, and how to follow the trace; see `Instance.open`.

        `read_every` is in seconds. What cannot be kept in the buffers for so long is lost.
        """
        self.trouble: str | None = "not started"
        self._path = os.fspath(path)
        self._buffer_size = buffer_size
        self._read_every = read_every
        self._turn = threading.Lock()  # for all below
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._device = -1
        self._target: Target | None = None
        self._instance: Instance | None = None
        self._log = WriteLog(0, 0)
        self._lost = False

    def start(self) -> None:
        """Begin; see `Tracker.start`. Where that cannot be, every drain says `EVERYTHING`."""
        with self._turn:
            try:
                self._begin()
            except (CannotTrack, TracingUnavailable, OSError) as error:
                self._give_up(error)
                return
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def drain(self) -> list[Extent] | Everything:
        """Ranges written since `start` or the last drain; see `Tracker.drain`.

        Takes milliseconds, or up to `SETTLE_PATIENCE` while writes are under way.
        """
        with self._turn:
            if self.trouble is not None or self._instance is None:
                return EVERYTHING
            try:
                return self._drain(self._instance)
            except (CannotTrack, TracingLost, OSError) as error:
                self._give_up(error)
                return EVERYTHING

    def stop(self) -> None:
        """End tracking and remove what it had in the kernel. Idempotent."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        with self._turn:
            self.trouble = self.trouble or "stopped"
            self._release()

    def _begin(self) -> None:
        self._target = target = find_target(self._path)
        # While it is open, neither a loop device nor a logical volume can be taken away.
        self._device = os.open(target.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._instance = Instance.open(target.disk, self._buffer_size)
        self._log = WriteLog(target.size, target.first)
        self._check_target()
        self.trouble = None

    def _drain(self, instance: Instance) -> list[Extent] | Everything:
        # Writes of dom0 through its page cache are none for the device until they are written back.
        write_back(self._device)
        self._take(instance.read_up_to_now())
        deadline = time.monotonic() + SETTLE_PATIENCE
        waiting = set(self._log.pending)
        while waiting and time.monotonic() < deadline:
            time.sleep(0.001)
            self._take(instance.read())
            waiting.intersection_update(self._log.pending)
        self._check_target()
        if instance.overrun() or self._lost:
            # The end of a write may be lost while its queueing is still to be read: have done with
            # all of them, or it would be reported for ever.
            self._take(instance.read_up_to_now())
            self._lost = False
            self._log.clear()
            return EVERYTHING
        return self._log.report()

    def _check_target(self) -> None:
        if find_target(self._path) != self._target:
            raise CannotTrack(f"{self._path} has become another device")
        if self._target is None or os.fstat(self._device).st_rdev != self._target.number:
            raise CannotTrack(f"{self._path} was replaced as it was opened")

    def _run(self) -> None:
        while not self._ending.wait(self._read_every):
            with self._turn:
                if self.trouble is not None or self._instance is None:
                    return
                try:
                    self._take(self._instance.read())
                except TracingLost as error:
                    self._give_up(error)

    def _take(self, batch: Batch) -> None:
        self._log.take(batch)
        if batch.missed or len(self._log.pending) > MOST_PENDING:
            self._lost = True
            self._log.clear()

    def _give_up(self, error: Exception) -> None:
        self.trouble = str(error)
        log.warning("%s: writes are not tracked: %s", self._path, error)
        self._release()

    def _release(self) -> None:
        if self._instance is not None:
            self._instance.close()
            self._instance = None
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
