"""The function of every verb. All of them return the exit code, or raise `CommandError`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from xenmoved.ctl.daemon import RunningDaemon
from xenmoved.ctl.output import Output
from xenmoved.ctl.verbs import authority, peers
from xenmoved.ctl.verbs.check import run_check
from xenmoved.ctl.verbs.hooks import run_hooks
from xenmoved.ctl.verbs.host import (
    run_completion,
    run_identity,
    run_list,
    run_schema,
    run_status,
)
from xenmoved.ctl.verbs.jobs import (
    run_abort,
    run_cutover,
    run_jobs,
    run_report,
    run_set,
    run_show,
    run_watch,
)
from xenmoved.ctl.verbs.recover import run_recover
from xenmoved.ctl.verbs.transfers import run_evacuate, run_migrate, run_plan, run_sync
from xenmoved.ctl.verbs.volumes import run_drop, run_volumes

Verb = Callable[[RunningDaemon, Output, Namespace], IntEnum]


VERBS: Final[dict[str, Verb]] = {
    "status": run_status,
    "list": run_list,
    "check": run_check,
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
    "hooks": run_hooks,
    "volumes": run_volumes,
    "volumes drop": run_drop,
    "identity": run_identity,
    "completion": run_completion,
    "schema": run_schema,
    "ca init": authority.run_init,
    "ca sign": authority.run_sign,
    "ca renew": authority.run_renew,
    "ca revoke": authority.run_revoke,
    "ca show": authority.run_show,
    "enroll": authority.run_enroll,
    "peer list": peers.run_list,
    "peer add": peers.run_add,
    "peer remove": peers.run_remove,
    "peer ping": peers.run_ping,
}
