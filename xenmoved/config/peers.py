"""Writes and removes the files of single peers, so that peers can be managed by command."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import replace as with_changes
from pathlib import Path
from typing import cast

from protocol.schema import plain
from xenmoved.config.errors import ConfigError, ConfigProblem, PeerExists, PeerNotFound
from xenmoved.config.fields import NAME_PATTERN
from xenmoved.config.loader import PEER_SUFFIX, check, load, peer_from, peers_directory
from xenmoved.config.model import Peer
from xenmoved.files import sync_folder
from xenmoved.units import UNLIMITED, format_size

_TEXT = """\
# Peer {name}, written by xenmoved. It may be edited; have the daemon read it again with
#     systemctl reload xenmoved
# A name in the main file's 'peers' and a file here exclude each other. Every option is explained
# in the main file.

# Where this host connects to, to send guests there.
address: {address}
port: {port}

# Public key of the peer's daemon. It alone identifies the peer.
key: {key}

# What the peer may do on this host. Empty lists allow nothing: guests can then only be sent there.
allow:
  actions: {actions}
  pools: {pools}
  guests: {guests}
  quota: {quota}
  memory: {memory}
  vcpus: {vcpus}
  # Whether it may have volumes of these pools emptied and used that are not known as its own.
  overwrite: {overwrite}
  # For network interfaces: scripts of this host's /etc/xen/scripts that may be run, networks in
  # which they may route addresses to its guests, and devices of this host to do it by.
  scripts: {scripts}
  ip: {ip}
  gatewaydev: {gatewaydev}

# Names here of network bridges that are called otherwise there, for guests that come from there.
bridges: {bridges}

# Likewise for pools, and for names of volumes: patterns, as {{'vm-*-root': '*-disk0'}}.
pools: {pool_names}
volumes: {volumes}

# Disks that both hosts see: pools here, and absolute paths in which * may be. They are not copied.
shared: {shared}

# What becomes of a CD-ROM in a guest that is sent there: eject, require (it must be there too) or
# refuse.
cdrom: {cdrom}
"""


def write_peer(file: Path, peer: Peer, *, replace: bool = False) -> Path:
    """Make `peer` part of the configuration whose main file is `file`; return the peer's file.

    The file appears whole and durable or not at all, and only if the configuration is right with
    it: raises ConfigError, PeerExists unless `replace` is set, OSError.
    """
    target = _file_of(file, peer.name)
    _check_peer(peer, target)
    config = load(file)
    if peer.name in config.peers and not target.exists():
        raise PeerExists([_problem(file, peer.name, "is in this file; edit it there")])
    if peer.name in config.peers and not replace:
        raise PeerExists([ConfigProblem(target, None, "", "exists already")])
    check(with_changes(config, peers={**config.peers, peer.name: peer}), target)
    target.parent.mkdir(mode=0o755, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(_text(peer))
            # Nothing in it is secret, and a client without privileges may want to list peers.
            os.fchmod(stream.fileno(), 0o644)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.replace(target)
        else:
            # Unlike a rename, a link fails when another process was quicker.
            target.hardlink_to(temporary)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return target


def remove_peer(file: Path, name: str) -> Path:
    """Remove the file of a peer; return where it was. Raises PeerNotFound, OSError."""
    target = _file_of(file, name)
    try:
        target.unlink()
    except FileNotFoundError:
        reason = "does not exist; a peer of the main file is removed by editing that"
        raise PeerNotFound([ConfigProblem(target, None, "", reason)]) from None
    sync_folder(target.parent)
    return target


def _check_peer(peer: Peer, target: Path) -> None:
    # The caller may have built the object from what somebody typed.
    data = cast(dict[str, object], plain(peer))
    name = str(data.pop("name"))
    peer_from(name, data, target)


def _file_of(file: Path, name: str) -> Path:
    if not re.fullmatch(NAME_PATTERN.regex, name):
        raise ConfigError([_problem(file, name, f"must be {NAME_PATTERN.what}")])
    return peers_directory(file) / f"{name}{PEER_SUFFIX}"


def _problem(file: Path, name: str, reason: str) -> ConfigProblem:
    return ConfigProblem(file, None, f"peers.{name}", reason)


def _text(peer: Peer) -> str:
    allow = peer.allow
    values: dict[str, object] = {
        "address": peer.address,
        "port": peer.port,
        "key": peer.key,
        "actions": allow.actions,
        "pools": allow.pools,
        "guests": allow.guests,
        "bridges": dict(peer.bridges),
        "pool_names": dict(peer.pools),
        "volumes": dict(peer.volumes),
        "shared": peer.shared,
        "cdrom": peer.cdrom,
        "quota": _limit(allow.quota),
        "memory": _limit(allow.memory),
        "vcpus": UNLIMITED if allow.vcpus is None else allow.vcpus,
        "overwrite": allow.overwrite,
        "scripts": allow.scripts,
        "ip": allow.ip,
        "gatewaydev": allow.gatewaydev,
    }
    # JSON is YAML, and quotes whatever YAML might take for something else.
    return _TEXT.format(name=peer.name, **{key: json.dumps(v) for key, v in values.items()})


def _limit(size: int | None) -> str:
    return UNLIMITED if size is None else format_size(size, exact=True)
