"""What concerns all tests: what the machine must have for them, and what is left out without it."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from storage.tracking.tracefs import TracingUnavailable, borrowed_tracefs, find_tracefs
from tests.support import asked

_ROOT = "needs root"
_TRACING = "needs the kernel's tracing"

_DESCRIPTORS = 4096
"""How many files a worker may have open; the thousand connections of a test are among them."""

_SAMPLE = ("test", "slow", "thorough", "slow", "thorough", "slow", "thorough", "slow")
"""Which run has the cases of a sampled test, from the first one on: `make test`, and so on."""

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
"""How long an example takes says how busy the machine is, and nothing of what is tested."""

_borrowed = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Mount what the tests need, once for all workers, and undo what the caller's shell left.

    A shell's background job ignores Ctrl-C, one of nohup a hangup, and so would all that a test
    starts. An ordinary user's shell allows fewer open files than the system does.
    """
    if not hasattr(config, "workerinput"):
        _borrowed.enter_context(borrowed_tracefs())
    asked.ask_by_default()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_DFL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        enough = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def pytest_unconfigure() -> None:
    """Leave the machine as it was."""
    _borrowed.close()


def _sample(items: list[pytest.Item]) -> None:
    cases = Counter[str]()
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            test = item.nodeid.partition("[")[0]
            if (run := _SAMPLE[cases[test] % len(_SAMPLE)]) != "test":
                item.add_marker(run)
            cases[test] += 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave cases of sampled tests for later, and skip what cannot be run here, with the reason."""
    _sample(items)
    reasons = {}
    if os.geteuid() != 0:
        reasons["root"] = reasons["tracing"] = _ROOT
    else:
        try:
            find_tracefs()
        except TracingUnavailable as error:
            reasons["tracing"] = f"{_TRACING}: {error}"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out for what this machine or user has not."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        for known in (_ROOT, _TRACING):
            if reason.removeprefix("Skipped: ").startswith(known):
                counts[known] += 1
    if counts[_ROOT]:
        terminalreporter.write_line(
            f"{counts[_ROOT]} tests need root (loop devices, mounts) and were skipped: "
            "run this as root to have them too"
        )
    if counts[_TRACING]:
        terminalreporter.write_line(f"{counts[_TRACING]} tests were skipped: {_TRACING}")


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later search for garbage."""
    gc.collect()
    gc.freeze()
