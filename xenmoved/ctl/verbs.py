"""What `xenmovectl` does: one function for each verb, which returns the exit code.

All of them raise `CommandError`. Those of `peer` are in `peer_verbs`.
"""

from __future__ import annotations

import socket
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from protocol.messages import Mode
from xenmoved.control.api import (
    AbortJob,
    Done,
    GetJob,
    GetStatus,
    Guests,
    Jobs,
    ListGuests,
    ListJobs,
    Plan,
    PlanMigration,
    SetJob,
    StartMigration,
    StartSync,
    Status,
    TransferOptions,
)
from xenmoved.control.peer_api import GetIdentity, Identity
from xenmoved.control.reports import JobReport
from xenmoved.ctl import job_views, peer_verbs, views
from xenmoved.ctl.arguments import Wish
from xenmoved.ctl.daemon import Daemon
from xenmoved.ctl.evacuate_verb import evacuate
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.follow import follow
from xenmoved.ctl.output import Output
from xenmoved.ctl.parser import AUTO
from xenmoved.ctl.recover_verb import run_recover
from xenmoved.ctl.text import line
from xenmoved.ctl.volumes_verb import run_drop, run_volumes

Verb = Callable[[Daemon, Output, Namespace], Exit]

REFRESH: Final = 1.0
"""Seconds between looks at the daemon by `status --watch`."""


def run_status(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show how the daemon is; again and again with --watch."""
    if args.watch:
        return _watch_status(daemon, output)
    answer = daemon.ask(GetStatus(), Status)
    output.result(answer, views.status(answer, time.time()))
    return Exit.OK


def run_list(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show the guests of this host."""
    answer = daemon.ask(ListGuests(), Guests)
    output.result(answer, views.guests(answer))
    return Exit.OK


def run_plan(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show what a migration would do, and all that stands in its way."""
    request = PlanMigration(args.guest, args.peer, _mode(args), _options(args))
    answer = daemon.ask(request, Plan, timeout=None, refusal=Exit.REFUSED)
    output.result(answer, views.plan(answer))
    return Exit.REFUSED if answer.problems else Exit.OK


def run_migrate(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Move a guest, and follow."""
    request = StartMigration(args.guest, args.peer, _mode(args), _options(args))
    return _start(daemon, output, args, request)


def run_evacuate(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Move every guest away, or follow or stop that."""
    return evacuate(daemon, output, args, _mode(args), _options(args))


def run_sync(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Send a volume, and follow."""
    peer, target = args.target
    if target is not None and args.pool:
        text = "--pool and the pool in PEER:POOL/NAME exclude each other"
        raise CommandError(Exit.USAGE, ("usage", text, ""))
    request = StartSync(args.volume, peer, target, _options(args))
    return _start(daemon, output, args, request)


def run_jobs(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show jobs."""
    answer = daemon.ask(ListJobs(args.all), Jobs)
    output.result(answer, job_views.jobs(answer.jobs, time.time()))
    return Exit.OK


def run_show(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show all of one job."""
    answer = daemon.ask(GetJob(args.job), JobReport)
    output.result(answer, job_views.job(answer, time.time()))
    return Exit.OK


def run_report(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Write a page about a job."""
    job = daemon.ask(GetJob(args.job), JobReport)
    node = daemon.ask(GetIdentity(), Identity).node
    from xenmoved.ctl.report.file import write
    from xenmoved.ctl.report.page import render

    page = render(job, node, time.time())
    if args.output == "-":
        sys.stdout.write(page)
        return Exit.OK
    path = Path(args.output or f"xenmoved-{job.job}.html")
    write(path, page, replace=args.force)
    output.done(Done(f"wrote {path}"), line(f"wrote {path}"))
    return Exit.OK


def run_watch(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Follow a job to its end."""
    return follow(daemon, output, args.job)


def run_abort(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """End a job before its commit."""
    answer = daemon.ask(AbortJob(args.job), Done, timeout=None)
    output.done(answer, line(answer.text))
    return Exit.OK


def run_cutover(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Let a guest go that is held here, and follow."""
    report = daemon.ask(GetJob(args.job), JobReport)
    daemon.ask(SetJob(report.job, hold=False), Done)
    return follow(daemon, output, report.job, cutover=True)


def run_set(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Change a running job."""
    request = SetJob(args.job, args.rate_limit, args.max_downtime, args.hold)
    if request == SetJob(args.job):
        hint = "say --rate-limit, --max-downtime, --hold or --no-hold"
        raise CommandError(Exit.USAGE, ("usage", "nothing to change", hint))
    answer = daemon.ask(request, Done)
    output.done(answer, line(answer.text))
    return Exit.OK


def run_identity(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Show this host's key."""
    answer = daemon.ask(GetIdentity(), Identity)
    output.result(answer, views.identity(answer, socket.gethostname()))
    return Exit.OK


def run_completion(daemon: Daemon, output: Output, args: Namespace) -> Exit:
    """Print what makes a shell complete the command line."""
    from xenmoved.ctl.completion import shell_code

    print(shell_code(args.shell))
    return Exit.OK


VERBS: Final[dict[str, Verb]] = {
    "status": run_status,
    "list": run_list,
    "plan": run_plan,
    "migrate": run_migrate,
    "evacuate": run_evacuate,
    "sync": run_sync,
    "jobs": run_jobs,
    "show": run_show,
    "report": run_report,
    "watch": run_watch,
    "abort": run_abort,
    "cutover": run_cutover,
    "set": run_set,
    "recover": run_recover,
    "volumes": run_volumes,
    "volumes drop": run_drop,
    "identity": run_identity,
    "completion": run_completion,
    "peer list": peer_verbs.run_list,
    "peer add": peer_verbs.run_add,
    "peer remove": peer_verbs.run_remove,
    "peer ping": peer_verbs.run_ping,
}


def _mode(args: Namespace) -> Mode | None:
    return None if args.mode == AUTO else Mode(args.mode)


def _options(args: Namespace) -> TransferOptions:
    """Return the choices that the verb knows. Raises CommandError."""
    if getattr(args, "remove_source", False) and args.verify is False:
        text = "--remove-source and --no-verify exclude each other"
        hint = "volumes are removed only when the other host is known to have the same"
        raise CommandError(Exit.USAGE, ("usage", text, hint))
    pools = _names("--pool", args.pool)
    return TransferOptions(
        rate_limit=args.rate_limit,
        compression=args.compress,
        verify=args.verify,
        pool=pools.pop("", None),
        keep_partial=args.keep_partial,
        overwrite=getattr(args, "overwrite", False),
        max_downtime=getattr(args, "max_downtime", None),
        hold=getattr(args, "hold", False),
        remove_source=getattr(args, "remove_source", False),
        pools=pools,
        volumes=_names("--volume", getattr(args, "volume_names", [])),
        bridges=_names("--bridge", getattr(args, "bridge_names", [])),
        rename=getattr(args, "rename", None),
        cdrom=getattr(args, "cdrom", None),
    )


def _names(option: str, wishes: Sequence[Wish]) -> dict[str, str]:
    """Return names there by names here. Raises CommandError when one is said twice."""
    names: dict[str, str] = {}
    for old, new in wishes:
        if names.setdefault(old, new) != new:
            text = f"{option} is said twice{f' for {old}' if old else ''}: {names[old]} and {new}"
            raise CommandError(Exit.USAGE, ("usage", text, "say which of them is meant"))
    return names


def _start(
    daemon: Daemon, output: Output, args: Namespace, request: StartMigration | StartSync
) -> Exit:
    try:
        report = daemon.ask(request, JobReport, timeout=None, refusal=Exit.REFUSED)
    except KeyboardInterrupt:
        output.tell(
            line("interrupted before xenmoved answered: the job may have begun"),
            line("  see: xenmovectl jobs"),
        )
        return Exit.INTERRUPTED
    if not args.detach:
        return follow(daemon, output, report.job, report)
    if output.quiet and not output.as_json:
        output.print([line(report.job)])
        return Exit.OK
    begun = line(f"job {report.job} has begun: {job_views.title(report)}")
    output.result(report, [begun, line(f"  watch it: xenmovectl watch {report.job}")])
    return Exit.OK


def _watch_status(daemon: Daemon, output: Output) -> Exit:
    """Show the status until Ctrl-C, which is the way to end it and no failure."""
    try:
        if output.live:
            _watch_live(daemon, output)
        while True:
            answer = daemon.ask(GetStatus(), Status)
            output.result(answer, [*views.status(answer, time.time()), line()])
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        return Exit.OK


def _watch_live(daemon: Daemon, output: Output) -> None:
    from rich.console import Group

    from xenmoved.ctl import live

    with live.screen(output.no_color) as screen:
        while True:
            lines = views.status(daemon.ask(GetStatus(), Status), time.time())
            screen.update(Group(*map(live.to_rich, lines)), refresh=True)
            time.sleep(REFRESH)
