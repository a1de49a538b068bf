"""The command line: verbs, options, and their help."""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from xenmoved import __version__
from xenmoved.ctl import arguments, completion
from xenmoved.ctl.check_options import add_check_options
from xenmoved.ctl.command_line import Parser
from xenmoved.ctl.exits import MEANINGS, STATE_MEANINGS, CheckState
from xenmoved.ctl.help import exit_codes, help_width
from xenmoved.ctl.transfer_options import add_names, add_transfer_options
from xenmoved.ctl.trust_verbs import add_trust_verbs

DEFAULT_SOCKET: Final = "/run/xenmoved/control.sock"
AUTO: Final = "auto"
MODES: Final = (AUTO, "live", "save", "cold")

_DESCRIPTION = "Move running Xen guests and their local disks to other hosts."
_EXAMPLES = """\
examples:
  xenmovectl                     how the daemon is, and what it is doing
  xenmovectl list                the guests here, and whether they can move
  xenmovectl plan web host-b     what would stand in the way
  xenmovectl migrate web host-b  move it, and watch
  xenmovectl watch web           watch from another terminal
  xenmovectl report web          a page about it, with plots
"""


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="xenmovectl",
        description=fill(_DESCRIPTION, help_width()),
        epilog=f"{_EXAMPLES}\n{exit_codes()}",
    )
    parser.add_argument("--version", action="version", version=f"xenmovectl {__version__}")
    _add_global_options(parser, top=True)
    parser.set_defaults(verb="status", watch=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)
    for add in (
        _add_views,
        _add_transfers,
        _add_evacuate,
        _add_jobs,
        _add_volumes,
        _add_peers,
        _add_set_up,
    ):
        add(verbs)
    add_trust_verbs(verbs, _add_verb, Parser)
    return parser


def _add_global_options(parser: ArgumentParser, *, top: bool = False) -> None:
    """Add what may stand before a verb as well as after it."""

    def default(value: object) -> object:
        return value if top else SUPPRESS

    group = parser.add_argument_group("general options")
    group.add_argument(
        "--socket",
        metavar="PATH",
        type=Path,
        default=default(Path(os.environ.get("XENMOVED_SOCKET") or DEFAULT_SOCKET)),
        help=f"the daemon's socket (default: $XENMOVED_SOCKET, or {DEFAULT_SOCKET})",
    )
    flags = (
        ("--json", "print JSON lines, each with a 'type'; errors too, as type 'failure'"),
        ("--quiet", "print results and errors only"),
        ("--no-color", "print no colors (as does the variable NO_COLOR)"),
    )
    for name, text in flags:
        group.add_argument(name, action="store_true", default=default(False), help=text)


def _add_verb(
    verbs: Any,
    name: str,
    text: str,
    *,
    verb: str | None = None,
    examples: str = "",
    meanings: Mapping[IntEnum, str] = MEANINGS,
) -> Parser:
    shown = "".join(f"  {example}\n" for example in examples.splitlines())
    epilog = (f"examples:\n{shown}\n" if shown else "") + exit_codes(meanings)
    description = fill(f"{text[0].upper()}{text[1:]}.", help_width())
    parser: Parser = verbs.add_parser(name, help=text, description=description, epilog=epilog)
    _add_global_options(parser)
    parser.set_defaults(verb=verb or name)
    return parser


def _add_views(verbs: Any) -> None:
    status = _add_verb(
        verbs,
        "status",
        "show how the daemon is and what it is doing (the default)",
        examples="xenmovectl status --watch",
    )
    status.add_argument("-w", "--watch", action="store_true", help="refresh until Ctrl-C")
    _add_verb(
        verbs,
        "list",
        "list the guests here, their disks, and whether each can move",
        examples="xenmovectl list\nxenmovectl list --json",
    )
    check = _add_verb(
        verbs,
        "check",
        "tell a monitoring system whether anything is wrong here",
        examples="xenmovectl check\nxenmovectl check --pool-warning 80 --copies-warning 14d",
        meanings=STATE_MEANINGS,
    )
    check.refusal = CheckState.UNKNOWN
    add_check_options(check)
    _add_verb(
        verbs,
        "hooks",
        "list what this host runs before, at and after moves, what it does not, and why",
        examples="xenmovectl hooks",
    )


def _add_transfers(verbs: Any) -> None:
    plan = _add_verb(
        verbs,
        "plan",
        "show what a migration would do and every problem at once; changes nothing",
        examples="xenmovectl plan web host-b\nxenmovectl plan web host-b --pool fast\n"
        "xenmovectl plan web host-b --rename web2 --volume 'web-*=web2-*'",
    )
    migrate = _add_verb(
        verbs,
        "migrate",
        "move a guest with its disks to a peer, and follow",
        examples="xenmovectl migrate web host-b\n"
        "xenmovectl migrate web host-b --rate-limit 80MiB --pool fast\n"
        "xenmovectl migrate web host-b --pool hdd=slow --pool ssd=fast \\\n"
        "    --bridge xenbr0=br-lan\n"
        "xenmovectl migrate web host-b --detach --quiet",
    )
    for parser in (plan, migrate):
        completion.offer(parser.add_argument("guest", metavar="GUEST"), completion.guests)
        completion.offer(parser.add_argument("peer", metavar="PEER"), completion.peers)
        parser.add_argument(
            "--mode",
            choices=MODES,
            default=MODES[0],
            help="live: copy its memory while it runs; save: suspend it for that; cold: it does "
            "not run; auto (the default): the first of these that can be",
        )
        add_transfer_options(parser)
        _add_overwrite(parser)
        add_names(parser)
        _add_downtime(parser)
        _add_remove_source(parser)
    migrate.add_argument(
        "--hold",
        action="store_true",
        help="copy the disks and keep them close, and suspend the guest only at 'cutover'",
    )
    sync = _add_verb(
        verbs,
        "sync",
        "send a volume to a peer, only what differs, and follow",
        examples="xenmovectl sync images:web-root host-b\n"
        "xenmovectl sync /dev/vg0/web-root host-b:images/web-root",
    )
    volume = sync.add_argument(
        "volume", metavar="VOLUME", type=arguments.volume, help="POOL:NAME or an absolute path"
    )
    completion.offer(volume, completion.volumes)
    target = sync.add_argument(
        "target",
        metavar="PEER[:POOL/NAME]",
        type=arguments.sync_target,
        help="where to; without POOL/NAME the same name in the peer's default pool",
    )
    completion.offer(target, completion.peers)
    add_transfer_options(sync)
    _add_overwrite(sync)
    for parser in (migrate, sync):
        parser.add_argument(
            "--detach", action="store_true", help="begin, print the job, and do not follow"
        )


def _add_overwrite(parser: Parser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="use volumes that are on the target already though they are not known to be copies "
        "of this guest's: what is in them is lost",
    )


def _add_downtime(parser: Parser) -> None:
    parser.add_argument(
        "--max-downtime",
        metavar="TIME",
        type=arguments.downtime,
        help="give up, with the guest running here, if it would stand still for longer, as "
        "2s or 500ms",
    )


def _add_remove_source(parser: Parser) -> None:
    parser.add_argument(
        "--remove-source",
        action="store_true",
        help="verify everything, and remove the volumes here when the guest has moved",
    )


def _add_evacuate(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "evacuate",
        "move every guest that runs here to peers, and follow; without a peer, follow the one "
        "under way",
        examples="xenmovectl evacuate host-b host-c --dry-run\n"
        "xenmovectl evacuate host-b --concurrency 4\n"
        "xenmovectl evacuate --stop",
    )
    peers = parser.add_argument(
        "peers", metavar="PEER", nargs="*", help="where to: each guest goes to one where it fits"
    )
    completion.offer(peers, completion.peers)
    parser.add_argument(
        "--mode", choices=MODES[:3], default=AUTO, help="how, as for 'migrate' (default: auto)"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=arguments.concurrency,
        default=2,
        help="how many guests move at a time (default: 2)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show which guest would go where, and which cannot"
    )
    parser.add_argument("--stop", action="store_true", help="begin no more; what moves goes on")
    add_transfer_options(parser)
    _add_downtime(parser)
    _add_remove_source(parser)
    parser.add_argument("--detach", action="store_true", help="begin, and do not follow")


def _add_jobs(verbs: Any) -> None:
    jobs = _add_verb(
        verbs,
        "jobs",
        "list jobs, newest first",
        examples="xenmovectl jobs\nxenmovectl jobs --all",
    )
    jobs.add_argument("--all", action="store_true", help="also those that have ended")
    of_job = (
        ("show", "show everything about a job", completion.all_jobs),
        ("watch", "follow a job to its end; Ctrl-C leaves it running", completion.live_jobs),
        ("abort", "end a job before its commit; the guest stays where it is", completion.live_jobs),
        ("cutover", "let go a guest that is held, and follow", completion.live_jobs),
    )
    for name, text, completer in of_job:
        parser = _add_verb(verbs, name, text, examples=f"xenmovectl {name} web")
        _add_job(parser, completer)
    _add_set(verbs)
    _add_recover(verbs)
    _add_report(verbs)


def _add_set(verbs: Any) -> None:
    change = _add_verb(
        verbs,
        "set",
        "change a running job",
        examples="xenmovectl set web --rate-limit 20MiB\n"
        "xenmovectl set web --max-downtime 2s --hold",
    )
    _add_job(change, completion.live_jobs)
    change.add_argument(
        "--rate-limit",
        metavar="RATE",
        type=arguments.rate_limit,
        help="most bytes a second from now on, such as 80MiB, or unlimited",
    )
    change.add_argument(
        "--max-downtime",
        metavar="TIME",
        type=arguments.downtime,
        help="for how long the guest may stand still, such as 2s, or unlimited",
    )
    change.add_argument(
        "--hold",
        action=BooleanOptionalAction,
        help="keep the guest here until 'cutover', or let it go",
    )


def _add_recover(verbs: Any) -> None:
    recover = _add_verb(
        verbs,
        "recover",
        "show what is in doubt, or decide it when the other host is gone for good",
        examples="xenmovectl recover\nxenmovectl recover web --keep-here",
    )
    _add_job(recover, completion.doubts, nargs="?")
    choices = recover.add_mutually_exclusive_group()
    decisions = (
        ("keep-here", "the guest is this host's: the peer never started it, or never will again"),
        ("give-up", "the guest is the peer's: it runs there, or was never started here"),
        ("resolved", "a decision was wrong, and you have put right what came of it"),
    )
    for name, text in decisions:
        choices.add_argument(
            f"--{name}", dest="decision", action="store_const", const=name, help=text
        )
    recover.add_argument(
        "--yes", action="store_true", help="decide without being asked: you know what it risks"
    )


def _add_report(verbs: Any) -> None:
    report = _add_verb(
        verbs,
        "report",
        "write a page about a job, with plots, to be opened in a browser",
        examples="xenmovectl report web\nxenmovectl report 1a2b3c4d -o /srv/www/web.html --force",
    )
    _add_job(report, completion.all_jobs)
    report.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        help="where to write it, - for stdout (default: xenmoved-JOB.html in this folder)",
    )
    report.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_job(parser: Parser, completer: Callable[..., list[str]], **options: Any) -> None:
    job = parser.add_argument(
        "job", metavar="JOB", help="its id, the start of it, or the name of a guest", **options
    )
    completion.offer(job, completer)


def _add_volumes(verbs: Any) -> None:
    volumes = _add_verb(
        verbs,
        "volumes",
        "list the volumes of all pools, and which are kept of guests that went away",
        examples="xenmovectl volumes\nxenmovectl volumes drop --guest web",
    )
    of_volume = volumes.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)
    drop = _add_verb(
        of_volume,
        "drop",
        "remove what is kept of a guest that went away",
        verb="volumes drop",
        examples="xenmovectl volumes drop images:web-root\n"
        "xenmovectl volumes drop --guest web --yes",
    )
    volume = drop.add_argument("volume", metavar="POOL:NAME", nargs="?", help="one volume")
    completion.offer(volume, completion.copies)
    guest = drop.add_argument("--guest", metavar="NAME", help="all volumes of that guest, or uuid")
    completion.offer(guest, completion.guests_of_copies)
    drop.add_argument("--yes", action="store_true", help="remove them without being asked")


def _add_peers(verbs: Any) -> None:
    peer = _add_verb(
        verbs, "peer", "manage the hosts that guests are exchanged with", verb="peer list"
    )
    of_peer = peer.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)
    _add_verb(of_peer, "list", "list peers, and what each may do here", verb="peer list")
    _add_peer_add(of_peer)
    of_name = (
        ("remove", "remove a peer that was added with 'peer add'"),
        ("ping", "connect to a peer, measure, and show what this host may do there"),
    )
    for name, text in of_name:
        parser = _add_verb(
            of_peer, name, text, verb=f"peer {name}", examples=f"xenmovectl peer {name} host-b"
        )
        completion.offer(parser.add_argument("name", metavar="NAME"), completion.peers)


def _add_peer_add(verbs: Any) -> None:
    add = _add_verb(
        verbs,
        "add",
        "add a peer; without --key, take the key that it shows once you have compared it",
        verb="peer add",
        examples="xenmovectl peer add host-b 192.0.2.7\n"
        "xenmovectl peer add host-b [2001:db8::7]:7222 --allow migrate,sync \\\n"
        "    --pools images --guests 'web*,db1' --quota 500GiB",
    )
    add.add_argument("name", metavar="NAME", help="what to call it here")
    add.add_argument(
        "address",
        metavar="ADDRESS[:PORT]",
        type=arguments.address,
        help=f"where its daemon listens (default port: {arguments.DEFAULT_PORT})",
    )
    add.add_argument(
        "--key",
        metavar="KEY",
        type=arguments.public_key,
        help="its public key, 'ssh-ed25519 AAAA...', as 'xenmovectl identity' shows it there",
    )
    lists = (
        ("--allow", "ACTIONS", arguments.actions, "what it may do here: migrate,sync"),
        ("--pools", "POOLS", arguments.names, "pools here that it may use: a,b"),
        ("--guests", "PATTERNS", arguments.names, "guests that it may send: 'web*,db1'"),
    )
    for option, metavar, kind, text in lists:
        add.add_argument(option, metavar=metavar, type=kind, default=(), help=text)
    add.add_argument(
        "--quota",
        metavar="SIZE",
        type=arguments.limit,
        help="space here for volumes that are made for it (default: unlimited)",
    )
    add.add_argument(
        "--memory",
        metavar="SIZE",
        type=arguments.limit,
        help="memory that each of its guests may be given here at most (default: unlimited)",
    )
    add.add_argument(
        "--vcpus",
        metavar="N",
        type=arguments.count,
        help="vcpus that each of its guests may have here (default: unlimited)",
    )
    add.add_argument(
        "--overwrite",
        action="store_true",
        help="let it have volumes of these pools that are not known as its own: they are emptied",
    )
    add.add_argument("--replace", action="store_true", help="if it is a peer already, change it")
    add.add_argument("--yes", action="store_true", help="take the key that it shows unasked")


def _add_set_up(verbs: Any) -> None:
    identity = _add_verb(
        verbs,
        "identity",
        "show this host's key, and the command that makes it known to another host",
        examples="xenmovectl identity\nxenmovectl identity --request > host-a.pub",
    )
    identity.add_argument(
        "--request", action="store_true", help="print the line that 'xenmovectl ca sign' signs"
    )
    shells = _add_verb(
        verbs,
        "completion",
        "print the set-up of completion for a shell",
        examples='eval "$(xenmovectl completion bash)"\n'
        'eval "$(xenmovectl completion zsh)"\n'
        "xenmovectl completion fish | source",
    )
    shells.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"))
    _add_verb(
        verbs,
        "schema",
        "print the JSON Schema of what --json prints, for programs that read it",
        examples="xenmovectl schema > xenmovectl.schema.json",
    )
