"""Answers to what operators ask on the control socket, one module a subject.

dispatch     from a request to its handler: `@answers(Request)`, `@streams(Request)`
status       the daemon itself
health       how this host is, for monitoring
guests       guests of this host, plans, migrations
plans        what a migration would be, for an operator
jobs         jobs: list, watch, change, abort
volumes      volumes and copies that are kept; syncs
hooks        which hooks this host would run
evacuations  moving every guest away
doubts       what is in doubt, and decisions about it
peers        keys and entries of peers, and whether they answer
peer_rows    between a peer as it is configured and as a client sees it
"""

from xenmoved.handlers import (
    doubts,
    evacuations,
    guests,
    health,
    hooks,
    jobs,
    peers,
    status,
    volumes,
)
from xenmoved.handlers.dispatch import Services, answer

__all__ = [
    "Services",
    "answer",
    "doubts",
    "evacuations",
    "guests",
    "health",
    "hooks",
    "jobs",
    "peers",
    "status",
    "volumes",
]
