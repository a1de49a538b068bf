"""Two hosts between which a guest travels, while it is disturbed."""

from __future__ import annotations

import os
import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from protocol.messages import Mode
from tests.soak.statefs import StateFilesystem
from tests.soak.victims import VICTIMS, Scene
from tests.support.crash import GUEST, CrashHost, World
from xenmoved.control.api import Failure, StartMigration
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport, JobState
from xenmoved.sandbox.cable import Cable

PATIENCE = 120.0
"""Seconds until nothing may be left to do: several limits of the program come one after another."""
_LET_GO = 20.0
_USUAL = 2.0
_UNCERTAIN = re.compile(r"volume images:(\S+) stays, as it is not certain")
_KINDS = {"xl": ("xl", ""), "hvm": ("xl", "type = 'hvm'\n"), "xm": ("xm", "")}


@dataclass(frozen=True, slots=True)
class Trip:
    """One migration, its victim and the moment as a share of the usual time."""

    kind: str
    mode: Mode
    victim: str
    moment: float
    pause: float
    seed: int


class Course:
    """A world with cables, in which one trip follows the other. `kind`: xl, hvm or xm."""

    def __init__(self, folder: Path, kind: str) -> None:
        tool, lines = _KINDS[kind]
        with ExitStack() as stack:
            self.world = World(folder, tool, lines=lines)
            stack.callback(self.world.close)
            self._filesystems: dict[str, StateFilesystem] = {}
            if os.geteuid() == 0:
                for host in self.world.hosts:
                    made = StateFilesystem(host.folder / "state")
                    self._filesystems[host.name] = made
            stack.callback(self._close_filesystems)
            self.world.start()
            first, second = self.world.hosts
            self._cables = [Cable(second.port), Cable(first.port)]
            stack.callback(lambda: [cable.close() for cable in self._cables])
            first.trust(second, port=self._cables[0].port)
            second.trust(first, port=self._cables[1].port)
            self._resources = stack.pop_all()
        self._usual = dict.fromkeys(Mode, _USUAL)
        self._read: dict[str, int] = {}

    def travel(self, trip: Trip) -> str:
        """Make one trip; returns how it ended. Raises AssertionError."""
        source = self.world.source
        target = self.world.other(source)
        choose, cold = random.Random(trip.seed), trip.mode is Mode.COLD
        scene = Scene(self.world, source, target, self._cables, self._filesystems, choose, cold)
        disturb = VICTIMS[trip.victim].script(scene)
        next(disturb)
        if cold:
            source.xen.run(self.world.tool, "destroy", GUEST)
        began = time.monotonic()
        job = _begin(source, target, trip.mode)
        time.sleep(max(0.0, trip.moment * self._usual[trip.mode] - (time.monotonic() - began)))
        next(disturb)
        if trip.victim != "nobody":
            time.sleep(trip.pause)
        next(disturb)
        dead = [host.name for host in self.world.hosts if host.dead and host not in scene.killed]
        assert not dead, f"the daemon of {dead} ended by itself"
        self.world.restart_dead()
        self.world.wait_quiet(PATIENCE)
        next(disturb, None)
        self._remove_what_is_told_of()
        self._learn(trip.mode, source, job)
        if cold:
            self.world.start_stopped()
        owner = self.world.owner()
        if trip.victim == "nobody":
            assert owner is target, f"it did not move: {source.last_job().problem}"
        if scene.spoilt:
            self.world.forget_volumes()
        return "moved" if owner is target else "stayed"

    def close(self) -> None:
        """End everything."""
        self._resources.close()

    def _close_filesystems(self) -> None:
        for filesystem in self._filesystems.values():
            filesystem.close()

    def _learn(self, mode: Mode, source: CrashHost, job: str) -> None:
        """Learn how long a trip takes, from one that came to its end."""
        report = next((one for one in source.all_jobs() if one.job == job), None)
        if report is not None and report.state is JobState.DONE and report.ended is not None:
            took = min(report.ended - report.started, 3 * self._usual[mode])
            self._usual[mode] = (self._usual[mode] + took) / 2

    def _remove_what_is_told_of(self) -> None:
        """Remove, as an operator would, what a daemon made and was killed before it noted it."""
        for host in self.world.hosts:
            log = host.log()
            news = log[self._read.get(host.name, 0) :]
            self._read[host.name] = len(log)
            for name in _UNCERTAIN.findall(news):
                if (file := host.images / name).exists():
                    assert file.stat().st_blocks == 0, f"{file} holds something"
                    file.unlink()


def _begin(source: CrashHost, target: CrashHost, mode: Mode) -> str:
    """Begin, as an operator would: a copy that was left in an unknown state may be written over.

    What a toolstack that was killed has left may have a volume open for a moment.
    """
    options, deadline = TransferOptions(overwrite=True), time.monotonic() + _LET_GO
    while True:
        answer = source.ask(StartMigration(GUEST, target.name, mode, options))
        if isinstance(answer, JobReport):
            return answer.job
        assert isinstance(answer, Failure), answer
        codes = {one.code for one in answer.problems}
        assert codes == {"volume-in-use"} and time.monotonic() < deadline, answer
        time.sleep(0.5)
