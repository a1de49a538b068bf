"""Completion by argcomplete: names come from the daemon, which has little time to answer.

Nothing here may print or raise: it runs while somebody types.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 1.0
"""Seconds for the daemon to answer."""


def complete(parser: ArgumentParser) -> None:
    """Print completions and exit, if a shell asks for them."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False)


def offer(action: Action, completer: Callable[..., list[str]]) -> None:
    """Have a shell complete an argument with what `completer` returns."""
    action.completer = completer  # type: ignore[attr-defined]


def shell_code(shell: str) -> str:
    """Return the set-up of a shell, to be evaluated in it."""
    from argcomplete.shell_integration import shellcode

    # The code for bash serves zsh too; releases of argcomplete differ in whether they know "zsh".
    kind = "bash" if shell == "zsh" else shell
    return str(shellcode(["xenmovectl"], shell=kind))


def guests(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the names of the guests here."""
    from xenmoved.control.api import Guests, ListGuests

    answer = _ask(parsed_args, ListGuests(), Guests)
    return _words(guest.name for guest in answer.guests) if answer else []


def volumes(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the volumes of the guests here: their names in pools, or their paths."""
    from xenmoved.control.api import Guests, ListGuests

    answer = _ask(parsed_args, ListGuests(), Guests)
    if answer is None:
        return []
    return _words(disk.volume or disk.path for guest in answer.guests for disk in guest.disks)


def copies(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the volumes that are kept of guests that went away."""
    return _words(f"{row.pool}:{row.name}" for row in _retained(parsed_args))


def guests_of_copies(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the guests of which volumes are kept."""
    kept = (row.retained.guest for row in _retained(parsed_args) if row.retained is not None)
    return _words(dict.fromkeys(kept))


def pools_of_guest(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return what a wish about a pool of the typed guest begins with."""
    return _wishes(pool for pool, _ in _volumes_of(parsed_args))


def volumes_of_guest(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return what a wish about a volume of the typed guest begins with."""
    return _wishes(name for _, name in _volumes_of(parsed_args))


def nothing(**_: Any) -> list[str]:
    """Return nothing, where a shell would offer files otherwise."""
    return []


def folders(prefix: str = "", **_: Any) -> list[str]:
    """Return the folders whose paths begin like this."""
    from argcomplete.completers import DirectoriesCompleter

    with suppress(OSError):
        return list(DirectoriesCompleter()(prefix))
    return []


def signed(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the hosts of which an authority has a certificate."""
    with suppress(OSError):
        names = (file.name for file in Path(parsed_args.dir).glob("*-cert.pub"))
        return _words(sorted(name.removesuffix("-cert.pub") for name in names))
    return []


def peers(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the names of the peers."""
    from xenmoved.control.peer_api import ListPeers, Peers

    answer = _ask(parsed_args, ListPeers(), Peers)
    return _words(peer.name for peer in answer.peers) if answer else []


def live_jobs(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the jobs that have not ended."""
    return _jobs(parsed_args, ended=False)


def all_jobs(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return all jobs that are kept."""
    return _jobs(parsed_args, ended=True)


def doubts(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the jobs that are in doubt, or were decided without the peer."""
    from xenmoved.control.api import ListDoubts
    from xenmoved.migration.report import Doubts

    answer = _ask(parsed_args, ListDoubts(reach=False), Doubts)
    return _words(row.job for row in answer.doubts) if answer else []


def _retained(parsed_args: Namespace) -> list[Any]:
    from xenmoved.control.volume_api import ListVolumes
    from xenmoved.migration.report import Volumes

    answer = _ask(parsed_args, ListVolumes(), Volumes)
    return [row for row in answer.volumes if row.retained is not None] if answer else []


def _jobs(parsed_args: Namespace, *, ended: bool) -> list[str]:
    from xenmoved.control.api import Jobs, ListJobs

    answer = _ask(parsed_args, ListJobs(ended), Jobs)
    return _words(job.job for job in answer.jobs) if answer else []


def _ask(parsed_args: Namespace, request: object, expected: type[T]) -> T | None:
    from xenmoved.ctl.daemon import RunningDaemon
    from xenmoved.ctl.exits import CommandError

    with suppress(CommandError):
        return RunningDaemon(Path(parsed_args.socket)).ask(request, expected, timeout=PATIENCE)
    return None


def _volumes_of(parsed_args: Namespace) -> Iterator[tuple[str, str]]:
    """Yield pool and name of the volumes of the guest that was typed, or of all guests."""
    from xenmoved.control.api import Guests, ListGuests

    answer = _ask(parsed_args, ListGuests(), Guests)
    typed = getattr(parsed_args, "guest", None)
    for guest in answer.guests if answer else ():
        for disk in guest.disks if typed in (None, guest.name) else ():
            if disk.volume:
                pool, _, name = disk.volume.partition(":")
                yield pool, name


def _wishes(names: Iterable[str]) -> list[str]:
    return [f"{name}=" for name in _words(dict.fromkeys(names))]


def _words(names: Iterable[str]) -> list[str]:
    # A name with other characters could do something else to the shell than be completed.
    return [name for name in names if name.isprintable() and not set(name) & set(" \"'`$\\;&|<>*?")]
