"""What an operator is told of migrations that only an operator could decide."""

from __future__ import annotations

from protocol.handover import WORDS, SourceEvent, SourceState, TargetState
from protocol.messages import Fate, Presence, Problem
from xenmoved.migration.report import Decision
from xenmoved.problems import problem


def verdict(state: SourceState | TargetState, guest: str, peer: str, job: str) -> Problem | None:
    """Return what a state means to the operator, None when it means no trouble."""
    resolved = f"then: xenmovectl recover {job} --resolved"
    match state:
        case SourceState.COMMIT_SENT:
            text = f"{peer} was told to start {guest}, and whether it did is not known here"
            hint = f"bring {peer} and the network to it back; if it is gone for good, decide"
        case TargetState.COMMITTED:
            text = f"{guest} was to start here, and whether it did is not known"
            hint = "look at its disks here and at /var/log/xen, then decide"
        case SourceState.KEPT:
            text = f"{guest} was kept here without the word of {peer}, which has not confirmed it"
            hint = f"if {peer} comes back it is told, and both hosts say so if it had started it"
        case SourceState.GIVEN_UP:
            text = f"{guest} was given up by an operator's decision: {peer} has not confirmed it"
            hint = f"if {peer} comes back it is asked, and this host says so if it runs nowhere"
        case SourceState.RAN_TWICE | TargetState.RAN_TWICE:
            text = (
                f"{guest} ran on both hosts: it was kept at the source, and it was started on the "
                "target too. Its disks on the two hosts have gone different ways"
            )
            hint = (
                f"decide now which one is to go on, shut down the other, here or on {peer}, and "
                f"save from its disks what is needed; {resolved}, on both hosts"
            )
        case SourceState.LOST:
            text = (
                f"{guest} runs nowhere: its copy here was given up by an operator, and {peer} says "
                "that it never started it. What it had in memory is lost"
            )
            hint = (
                f"its disks are here as after a power failure: start it from its file; {resolved}"
            )
        case _:
            return None
    return problem(str(state), text, hint)


def has_forgotten(heard: Fate | None) -> bool:
    """Whether what a target has said to a source in doubt is no word."""
    return heard is not None and WORDS.get(heard.word) is SourceEvent.TARGET_FORGOT


def doubt(guest: str, peer: str, heard: Fate | None, silence: str) -> Problem:
    """Return what a source in doubt knows: what its target has said last, or why it did not."""
    told = f"{peer} was told to start {guest}"
    if heard is not None and has_forgotten(heard):
        text = (
            f"{told}, and its journal does not know whether it did: it was lost, or set back to an "
            f"older copy. {peer} says: {heard.reason}. The guest does not run here"
        )
        hint = (
            f"look on {peer} whether {guest} runs there, or has run: its domains, /var/log/xen, "
            "newer writes on its disks. Then decide: xenmovectl recover"
        )
        return problem("peer-forgot", text, hint)
    why = f" ({peer} says: {heard.word})" if heard is not None else ""
    why = why or (f" ({silence})" if silence else "")
    text = f"{told}, and its answer is not known: the guest does not run here until it is{why}"
    hint = (
        f"bring {peer} and the network to it back; nothing is lost meanwhile. Only if it is gone "
        "for good: xenmovectl recover"
    )
    return problem("in-doubt", text, hint)


def ended_with_host(guest: str) -> Problem:
    """Return what is told of a guest that was cleared to start on a host that then went down."""
    text = f"{guest} is this host's, and ended when it was restarted, while the guest started"
    hint = f"start it from its file, unless that happens at boot: xl create /etc/xen/{guest}.cfg"
    return problem("ended-with-host", text, hint)


def risk(
    at_source: bool, decision: Decision, guest: str, peer: str, heard: Fate | None
) -> tuple[str, tuple[str, ...]]:
    """Return what a decision risks, and what to look at first.

    `heard` is what a target has said that does not settle it: for long, or as it has forgotten.
    """
    text, look = _risk(at_source, decision, guest, peer)
    if heard is None:
        return text, look
    if not has_forgotten(heard):
        said = f"{heard.word}, {heard.reason}" if heard.reason else f"{heard.word}"
        text = f"{peer} answers, and has not settled it for long. It says: {said}. {text}"
        there = f"on {peer}: what `xenmovectl recover` says there, where it can be decided better"
        return text, (there, *look)
    text = f"{peer} does not know whether it started {guest}: {heard.reason}. {text}"
    if heard.domain is Presence.THERE:
        return text, (f"that the domain on {peer} is {guest} as it went there, and runs", *look)
    nowhere = f"that nobody on {peer} started it and shut it down again, or moved it on"
    return text, (nowhere, *look)


def _risk(
    at_source: bool, decision: Decision, guest: str, peer: str
) -> tuple[str, tuple[str, ...]]:
    match at_source, decision:
        case True, Decision.KEEP_HERE:
            return (
                f"{guest} goes on here. If it was started on {peer}, it then runs twice: each copy "
                "writes to its own disks, and what one of the two wrote is lost in the end. "
                "Nobody can merge them.",
                (
                    f"that {peer} can never run it again: switched off, its disks erased",
                    f"or, on {peer}, that no domain {guest} is there and /var/log/xen has no start "
                    "of it",
                ),
            )
        case True, Decision.GIVE_UP:
            return (
                f"The suspended copy of {guest} here is destroyed. If it was never started on "
                f"{peer}, it runs nowhere, and what it had in memory is lost: its disks here stay "
                "as after a power failure.",
                (f"that {guest} runs on {peer}, or has run there",),
            )
        case False, Decision.KEEP_HERE:
            return (
                f"{peer} destroys its suspended copy of {guest}. If it was never started here, "
                "what it had in memory is lost: its disks here are as after a power failure.",
                (
                    f"that {guest} was started here: /var/log/xen, and newer writes on its disks",
                    f"that it can be started from its file here, as no domain {guest} is here now",
                ),
            )
        case False, Decision.GIVE_UP:
            return (
                f"{peer} lets its copy of {guest} go on from where it was suspended. If it did run "
                "here meanwhile, what it wrote to its disks here is lost to it. The volumes here "
                "are kept.",
                (f"that {guest} was never started here: /var/log/xen, and its disks",),
            )
    return (
        f"xenmoved says no more of what went wrong with {guest}.",
        (f"that exactly one of the two hosts runs {guest}, and the other one cannot start it",),
    )
