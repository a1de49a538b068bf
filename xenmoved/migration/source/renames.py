"""What an operator wants to be called otherwise on the other host.

The wishes for one job travel in its offer. What the target calls otherwise by its own configuration
is its own matter (`target.preflight`), and gives way to a wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protocol.errors import SchemaError
from protocol.messages import Problem, VolumeName
from protocol.schema import build
from xenmoved.jobs.options import TransferOptions
from xenmoved.namemap import check_rule, matches, new_name
from xenmoved.problems import Obstructed, problem


def wanted_pool(options: TransferOptions, home: str | None) -> str | None:
    """Return the pool that was asked for, for a volume of the pool `home` here."""
    return options.pools.get(home or "", options.pool)


def wanted_name(options: TransferOptions, name: str) -> str | None:
    """Return the name that was asked for, for a volume. Raises Obstructed."""
    wish = new_name(name, options.volumes)
    try:
        return build(VolumeName, wish) if wish is not None else None
    except SchemaError as error:
        text = f"volume {name} cannot be called {wish!r} there: {error}"
        raise Obstructed(
            [problem("volume-name", text, "choose another --volume OLD=NEW")]
        ) from None


def idle_wishes(
    options: TransferOptions,
    *,
    pools: Iterable[str],
    volumes: Iterable[str],
    bridges: Iterable[str],
) -> Iterator[Problem]:
    """Find wishes that are wrong, or about what a guest does not have: a slip, most likely."""
    wishes = (
        ("--pool", "has no disk in a pool", options.pools, sorted(set(pools))),
        ("--bridge", "is on no bridge", options.bridges, sorted(set(bridges))),
    )
    for option, what, names, known in wishes:
        for old in sorted(set(names) - set(known)):
            text = f"{option} {old}={names[old]}: the guest {what} {old} here"
            yield problem("usage", text, f"there are: {', '.join(known) or 'none'}")
    known = sorted(set(volumes))
    for old, new in options.volumes.items():
        try:
            check_rule(old, new)
        except ValueError as error:
            yield problem("usage", f"--volume {old}={new}: {error}", "see xenmovectl(1)")
            continue
        if not any(matches(name, old) for name in known):
            text = f"--volume {old}={new}: no volume of the guest is called like that here"
            yield problem("usage", text, f"there are: {', '.join(known) or 'none'}")
