"""Verbs that send something, or tell what that would be."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from protocol.messages import Mode
from xenmoved.choices import CdromChoice, Compression
from xenmoved.control.api import (
    Plan,
    PlanMigration,
    StartMigration,
    StartSync,
)
from xenmoved.ctl.arguments import Wish
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.follow import follow
from xenmoved.ctl.output import Output
from xenmoved.ctl.parser import AUTO
from xenmoved.ctl.text import line
from xenmoved.ctl.verbs.evacuate import evacuate
from xenmoved.ctl.views import host as views
from xenmoved.ctl.views import jobs as job_views
from xenmoved.jobs.options import TransferOptions
from xenmoved.jobs.report import JobReport


def run_plan(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show what a migration would do, and all that stands in its way."""
    request = PlanMigration(args.guest, args.peer, _mode(args), _options(args))
    answer = daemon.ask(request, Plan, timeout=None, refusal=Exit.REFUSED)
    output.result(answer, views.plan(answer))
    return Exit.REFUSED if answer.problems else Exit.OK


def run_migrate(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Move a guest, and follow."""
    request = StartMigration(args.guest, args.peer, _mode(args), _options(args))
    return _start(daemon, output, args, request)


def run_evacuate(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Move every guest away, or follow or stop that."""
    return evacuate(daemon, output, args, _mode(args), _options(args))


def run_sync(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Send a volume, and follow."""
    peer, target = args.target
    if target is not None and args.pool:
        text = "--pool and the pool in PEER:POOL/NAME exclude each other"
        raise CommandError(Exit.USAGE, ("usage", text, ""))
    request = StartSync(args.volume, peer, target, _options(args))
    return _start(daemon, output, args, request)


def _mode(args: Namespace) -> Mode | None:
    return None if args.mode == AUTO else Mode(args.mode)


def _options(args: Namespace) -> TransferOptions:
    """Return the choices that the verb knows. Raises CommandError."""
    if getattr(args, "remove_source", False) and args.verify is False:
        text = "--remove-source and --no-verify exclude each other"
        hint = "volumes are removed only when the other host is known to have the same"
        raise CommandError(Exit.USAGE, ("usage", text, hint))
    pools = _names("--pool", args.pool)
    cdrom = getattr(args, "cdrom", None)
    return TransferOptions(
        rate_limit=args.rate_limit,
        compression=Compression(args.compress) if args.compress is not None else None,
        verify=args.verify,
        pool=pools.pop("", None),
        keep_partial=args.keep_partial,
        overwrite=getattr(args, "overwrite", False),
        max_downtime=getattr(args, "max_downtime", None),
        hold=getattr(args, "hold", False),
        shutdown_timeout=getattr(args, "shutdown_timeout", None),
        remove_source=getattr(args, "remove_source", False),
        pools=pools,
        volumes=_names("--volume", getattr(args, "volume_names", [])),
        bridges=_names("--bridge", getattr(args, "bridge_names", [])),
        rename=getattr(args, "rename", None),
        cdrom=CdromChoice(cdrom) if cdrom is not None else None,
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
    daemon: RunningDaemon, output: Output, args: Namespace, request: StartMigration | StartSync
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
