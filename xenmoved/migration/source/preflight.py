"""What a migration would be: looked at on both hosts before anything is begun."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.messages import Findings, Mode, Placement, Problem, Remark
from xenmoved.hooks.hooks import HooksSaid
from xenmoved.jobs.options import TransferOptions
from xenmoved.migration.host import Host
from xenmoved.migration.source.content import require_understood
from xenmoved.migration.source.dialogue import open_dialogue
from xenmoved.migration.source.finding import choose_mode
from xenmoved.migration.source.hooked import about_departure
from xenmoved.migration.source.offer import Sending, make_offer
from xenmoved.problems import from_peer as objections
from xenmoved.problems import is_expected, problems_of
from xenmoved.remarks import from_peer


@dataclass(frozen=True, slots=True)
class Move:
    """A guest of this host, the peer that it is to go to, and how."""

    guest: str
    peer: str
    mode: Mode


async def choose(host: Host, guest: str, peer: str, mode: Mode | None) -> Move:
    """Return the move in the mode that was asked for, else in the best that is possible.

    Raises ToolstackError.
    """
    return Move(guest, peer, mode or await choose_mode(host, guest))


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a move would be: every problem of both hosts, and where volumes would go."""

    move: Move
    sending: Sending | None
    problems: tuple[Problem, ...]
    findings: Findings
    remarks: tuple[Remark, ...] = ()
    """What the hooks of this host remark."""

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where volumes would go; empty when there are problems."""
        return self.findings.volumes


async def preflight(host: Host, move: Move, options: TransferOptions) -> Preflight:
    """Look at both hosts. Changes nothing. Raises nothing that a problem can say."""
    try:
        sending, problems = await make_offer(host, move.guest, move.peer, move.mode, options)
    except Exception as error:
        if not is_expected(error):
            raise
        sending, problems = None, list(problems_of(error))
    findings, asked = Findings((), (), (), {}, ()), HooksSaid()
    if sending is not None:
        asked = await host.hooks.plan(about_departure(host, move.peer, sending))
        problems += asked.problems
    try:
        if sending is None:
            await host.link(move.peer)
        else:
            async with open_dialogue(host, move.peer) as dialogue:
                require_understood(sending.offer, dialogue.version, move.peer)
                findings = await dialogue.ask(sending.offer, Findings)
                # What is not offered, as it cannot be, is missed there.
                remarks = () if problems else from_peer(findings.remarks)
                findings = replace(
                    findings, problems=objections(findings.problems), remarks=remarks
                )
    except Exception as error:
        if not is_expected(error):
            raise
        problems += problems_of(error)
    found = (*problems, *findings.problems)
    return Preflight(move, sending, found, findings, asked.remarks)
