"""The fleet file: one file, the same on all hosts, that says whose certificates are trusted.

    /etc/xenmoved/fleet.yaml

It names the authorities, the hosts, what is revoked, and what hosts with certificates may do, by
the groups in these. A host that reads of itself in it skips that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from xenmoved.config.fields import NAME_IN_ADDRESS
from xenmoved.config.model import DEFAULT_PORT, Allow, Fleet, FleetHost, Peer
from xenmoved.config.reader import Reader
from xenmoved.config.yamlfile import Document, KeyPath

FLEET_FILE: Final = "fleet.yaml"

_SECTIONS: Final = ("hosts", "defaults", "groups")
_NOT_WRITTEN: Final = ("file", "own", "pools")
_MOST_AUTHORITIES: Final = 16
_OWN: Final = ("name", "address", "port", "key")
"""What is a host's own, and has no default."""


def peer_of_fleet(fleet: Fleet, name: str, groups: Iterable[str] = ()) -> Peer | None:
    """Return what holds for a host whose certificate has these groups.

    Of the groups the first in the order of the file decides, so that nobody may do what is allowed
    to one group with the guests of another. None where nothing tells of such a host.
    """
    own = fleet.own.get(name, {})
    where: dict[str, Any] = {}
    if (listed := fleet.hosts.get(name)) is not None:
        where = {"address": listed.address, "port": listed.port}
    elif fleet.unlisted is not None:
        where = {"address": fleet.unlisted.replace(NAME_IN_ADDRESS, name), "port": DEFAULT_PORT}
    member = tuple(groups)
    if not (where or own or member):
        return None
    allow = dict(fleet.defaults.get("allow") or {})
    allow |= next((said for group, said in fleet.groups.items() if group in member), {})
    allow |= own.get("allow") or {}
    data = {**fleet.defaults, **where, **own, "allow": allow}
    reader = Reader(Document(fleet.file, data, {}), [])
    return _here(Peer(name=name, **reader.fields(Peer, data, (), besides=("name",))), fleet.pools)


def _here(peer: Peer, pools: frozenset[str]) -> Peer:
    """Leave out of an entry what is about pools of other hosts."""
    return replace(
        peer,
        allow=replace(peer.allow, pools=tuple(one for one in peer.allow.pools if one in pools)),
        pools={there: pool for there, pool in peer.pools.items() if pool in pools},
        shared=tuple(one for one in peer.shared if one.startswith("/") or one in pools),
    )


def read_fleet(document: Document, reader: Reader) -> Fleet | None:
    """Return the fleet that a document describes; None where anything is wrong in it."""
    before = len(reader.problems)
    data = reader.map(document.data, ())
    if "revoked" in data and data["revoked"] is None:  # every line of it is a comment
        data = {**data, "revoked": []}
    arguments = reader.fields(Fleet, data, (), besides=(*_NOT_WRITTEN, *_SECTIONS))
    for key in data.keys() & set(_NOT_WRITTEN):
        reader.refuse((key,), "unknown key")
    hosts = _hosts(reader, data.get("hosts"))
    defaults = _defaults(reader, data.get("defaults"))
    groups = _groups(reader, data.get("groups"), defaults)
    if len(reader.problems) > before:
        return None
    fleet = Fleet(file=document.file, **arguments, hosts=hosts, defaults=defaults, groups=groups)
    if not 1 <= len(fleet.authorities) <= _MOST_AUTHORITIES:
        reason = f"must name 1 to {_MOST_AUTHORITIES} keys, or nobody is believed"
        reader.refuse(("authorities",), reason)
    for index, key in enumerate(fleet.authorities):
        if fleet.revokes(key):
            reason = "is revoked: take it out here, so that nothing that it signed is believed"
            reader.refuse(("authorities", index), reason)
    return fleet if len(reader.problems) == before else None


def _hosts(reader: Reader, section: object) -> dict[str, FleetHost]:
    found: dict[str, FleetHost] = {}
    names: dict[str, str] = {}
    places: dict[tuple[str, int], str] = {}
    for name, data in reader.map(section, ("hosts",)).items():
        path: KeyPath = ("hosts", name)
        reader.check_name(name, path)
        if (first := names.setdefault(name.lower(), name)) != name:
            reader.refuse(path, f"differs from {first!r} in capitals only: one of them is a slip")
        before = len(reader.problems)
        arguments = reader.fields(FleetHost, data, path)
        if len(reader.problems) > before:
            continue
        host = FleetHost(**arguments)
        owner = places.setdefault((host.address.lower().removesuffix("."), host.port), name)
        if owner != name:
            reader.refuse((*path, "address"), f"is also the address and port of {owner!r}")
        found[name] = host
    return found


def _defaults(reader: Reader, section: object) -> dict[str, Any]:
    data = reader.map(section, ("defaults",))
    for key in data.keys() & set(_OWN):
        reader.refuse(("defaults", key), "is each host's own: it has no default")
    reader.fields(Peer, data, ("defaults",), besides=_OWN)
    return data


def _groups(
    reader: Reader, section: object, defaults: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    usual = defaults.get("allow")
    found: dict[str, Mapping[str, Any]] = {}
    for name, data in reader.map(section, ("groups",)).items():
        path: KeyPath = ("groups", name)
        reader.check_name(name, path)
        before = len(reader.problems)
        said = reader.map(data, path)
        reader.fields(Allow, said, path)
        if len(reader.problems) > before:
            continue
        found[name] = said
        whole = {**(usual if isinstance(usual, dict) else {}), **said}
        for what in ("pools", "guests"):
            if whole.get("actions") and not whole.get(what):
                reader.refuse(path, f"allows actions and no {what}, here or in the defaults")
    return found
