"""Verbs about jobs: which there are, how they go on, and changing that."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path

from xenmoved.control.api import (
    AbortJob,
    Done,
    GetJob,
    Jobs,
    ListJobs,
    SetJob,
)
from xenmoved.control.peer_api import GetIdentity, Identity
from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.exits import CommandError, Exit
from xenmoved.ctl.follow import follow
from xenmoved.ctl.output import Output
from xenmoved.ctl.text import line
from xenmoved.ctl.views import jobs as job_views
from xenmoved.jobs.report import JobReport


def run_jobs(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show jobs."""
    answer = daemon.ask(ListJobs(args.all), Jobs)
    output.result(answer, job_views.jobs(answer.jobs, time.time(), ended=args.all))
    return Exit.OK


def run_show(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Show all of one job."""
    answer = daemon.ask(GetJob(args.job), JobReport)
    output.result(answer, job_views.job(answer, time.time()))
    return Exit.OK


def run_report(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Write a page about a job."""
    job = daemon.ask(GetJob(args.job), JobReport)
    node = daemon.ask(GetIdentity(), Identity).node
    from xenmoved.ctl.report.file import write
    from xenmoved.ctl.report.page import render

    page = render(job, node, time.time())
    if args.output == "-":
        sys.stdout.buffer.write(page.encode())  # the page says that it is UTF-8
        return Exit.OK
    path = Path(args.output or f"xenmoved-{job.job}.html")
    write(path, page, replace=args.force)
    output.done(Done(f"wrote {path}"), line(f"wrote {path}"))
    return Exit.OK


def run_watch(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Follow a job to its end."""
    return follow(daemon, output, args.job)


def run_abort(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """End a job before its commit."""
    answer = daemon.ask(AbortJob(args.job), Done, timeout=None)
    output.done(answer, line(answer.text))
    return Exit.OK


def run_cutover(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Let a guest go that is held here, and follow."""
    report = daemon.ask(GetJob(args.job), JobReport)
    daemon.ask(SetJob(report.job, hold=False), Done)
    return follow(daemon, output, report.job, cutover=True)


def run_set(daemon: RunningDaemon, output: Output, args: Namespace) -> Exit:
    """Change a running job."""
    request = SetJob(args.job, args.rate_limit, args.max_downtime, args.hold)
    if request == SetJob(args.job):
        hint = "say --rate-limit, --max-downtime, --hold or --no-hold"
        raise CommandError(Exit.USAGE, ("usage", "nothing to change", hint))
    answer = daemon.ask(request, Done)
    output.done(answer, line(answer.text))
    return Exit.OK
