"""What an operator is told of hooks: problems where they have a veto, remarks everywhere else."""

from __future__ import annotations

from typing import Final

from protocol.messages import Problem, Remark
from xenmoved.hooks.events import BEFORE, HookEvent
from xenmoved.hooks.found import SkippedHook
from xenmoved.hooks.running import HookRun
from xenmoved.problems import problem
from xenmoved.remarks import good_to_know, to_look_at

VETO: Final = "hook-veto"
FAILED: Final = "hook-failed"
SKIPPED: Final = "hook-skipped"
SAID: Final = "hook-said"


def _where(event: HookEvent, node: str, name: str) -> str:
    return f"the hook {event.folder}/{name} of {node}"


def objection(event: HookEvent, node: str, run: HookRun) -> Problem | None:
    """Return what stands in the way because of a hook that has a veto, None where nothing does."""
    if event not in BEFORE or not run.failed:
        return None
    which = _where(event, node, run.hook.name)
    if run.status is None:
        hint = f"on {node}: mend it, or take it away; what has a veto and does not answer says no"
        said = f": {run.said}" if run.said else ""
        return problem(FAILED, f"{which} {run.failed}{said}", hint)
    why = run.said or f"it {run.failed}, and did not say why"
    return problem(
        VETO, f"{which} objects: {why}", f"do what it asks for, on {node}, and try again"
    )


def remark(event: HookEvent, node: str, run: HookRun) -> list[Remark]:
    """Return what there is to remark on a hook that was run, where it is no objection."""
    which = _where(event, node, run.hook.name)
    found = []
    if run.stuck:
        text = f"something that {which} started cannot be killed"
        found.append(to_look_at("hook-stuck", text, "see: ps -e -o pid,stat,wchan,cmd"))
    if run.failed and event not in BEFORE:
        said = f": {run.said}" if run.said else ""
        hint = f"nothing depends on it; what it was to do there, do by hand on {node}"
        found.append(to_look_at(FAILED, f"{which} {run.failed}{said}", hint))
    elif run.said and not run.failed:
        found.append(good_to_know(SAID, f"{which} says: {run.said}"))
    return found


def skipped(event: HookEvent, node: str, one: SkippedHook, shown: str) -> Remark:
    """Return the remark on what is no hook; `shown` is its name without control characters."""
    text = f"{_where(event, node, shown)} is not run: {one.why}"
    hint = f"on {node}: {one.hint}"
    return to_look_at(SKIPPED, text, hint) if one.unsafe else good_to_know(SKIPPED, text, hint)


def unreadable(event: HookEvent, node: str, error: OSError) -> tuple[str, str]:
    """Return text and hint for a folder that cannot be read."""
    text = f"the hooks in {event.folder} of {node} cannot be read: {error.strerror}"
    return text, f"see the folder `hooks.folder` of the configuration on {node}"


def missing(event: HookEvent, node: str, name: str) -> tuple[str, str]:
    """Return text and hint for a link that leads to nothing."""
    stays = {
        HookEvent.BEFORE_DEPARTURE: ", and no guest may leave",
        HookEvent.BEFORE_ARRIVAL: ", and no guest may come",
    }
    text = f"{_where(event, node, name)} is a link to nothing: it fails{stays.get(event, '')}"
    return text, "remove the link, or put back what it leads to"


def not_reached(event: HookEvent, node: str, name: str, seconds: float) -> Problem:
    """Return the problem of a hook for which no time was left."""
    text = f"{_where(event, node, name)} was not run: those before it took {seconds:g} s"
    return problem(FAILED, text, "what is asked before a move has to answer sooner")
