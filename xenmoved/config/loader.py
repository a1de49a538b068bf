"""Reads the configuration: the main file, and the files of single peers beside it.

    /etc/xenmoved/xenmoved.yaml
    /etc/xenmoved/peers.d/NAME.yaml
    /etc/xenmoved/fleet.yaml

A file in `peers.d` holds what stands under ``peers: NAME:`` in the main file. The fleet file is
`xenmoved.config.fleet`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from xenmoved.config.addresses import EVERY_ADDRESS
from xenmoved.config.errors import ConfigError, ConfigProblem
from xenmoved.config.fields import parse_path
from xenmoved.config.fleet import FLEET_FILE, read_fleet
from xenmoved.config.model import Config, Fleet, Listen, Metrics, Peer
from xenmoved.config.pools import read_pools
from xenmoved.config.reader import Reader
from xenmoved.config.yamlfile import Document, KeyPath, check_protected, read_yaml

DEFAULT_CONFIG: Final = Path("/etc/xenmoved/xenmoved.yaml")
PEER_SUFFIX: Final = ".yaml"


def load(file: Path = DEFAULT_CONFIG) -> Config:
    """Read the configuration. Raises ConfigError, which lists every problem that was found."""
    return _Loading(file).run()


def load_again(file: Path, used: Config) -> tuple[Config, tuple[ConfigProblem, ...]]:
    """Read the configuration while another one is in use.

    A peer whose entry is wrong stays as it was, or away where it is new, so that a slip about one
    does not concern the others: such problems are returned. Raises ConfigError for all else.
    """
    own = used.fleet.own if used.fleet is not None else {}
    loading = _Loading(file, known=used.peers, known_own=own)
    config = loading.run()
    return config, ConfigError(loading.tolerated).problems


def check(config: Config, file: Path) -> None:
    """Raise ConfigError if parts of a configuration contradict each other."""
    problems = [
        ConfigProblem(file, None, Document(file, {}, {}).problem(path, "").key, reason)
        for path, reason in _contradictions(config, config.pools)
    ]
    if problems:
        raise ConfigError(problems)


def peer_from(name: str, data: object, file: Path) -> Peer:
    """Return the peer that plain data describes, as a file of its own would. Raises ConfigError.

    `file` is what errors name as the place.
    """
    reader = Reader(Document(file, data, {}), [])
    peer = _read_peer(reader, name, data, (), pinned=True)
    if peer is None:
        raise ConfigError(reader.problems)
    return peer


def peers_directory(file: Path) -> Path:
    """Return where the files of single peers are, beside the main file."""
    return file.parent / "peers.d"


@dataclass(slots=True)
class _Loading:
    file: Path
    known: Mapping[str, Peer] | None = None
    """Peers that stay where their entries are wrong; None where a wrong entry is an error."""
    known_own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What those without keys said."""
    problems: list[ConfigProblem] = field(default_factory=list)
    tolerated: list[ConfigProblem] = field(default_factory=list)
    origins: dict[str, tuple[Document, KeyPath]] = field(default_factory=dict)
    fleet: Fleet | None = None
    own: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What entries without a key say, as plain data."""

    def run(self) -> Config:
        document = read_yaml(self.file, self.problems)
        if document is None:
            raise ConfigError(self.problems)
        reader = Reader(document, self.problems)
        main = reader.map(document.data, ())
        values = reader.fields(Config, main, (), besides=("pools", "peers", "fleet"))
        pools = read_pools(reader, main.get("pools"))
        self.fleet = self._fleet(reader, main)
        peers = dict(self._peers(reader, main.get("peers")))
        # A section that is wrong counts as left out here, so that the rest is checked all the same.
        values = {name: value for name, value in values.items() if value is not None}
        if "default_pool" not in values and len(pools) == 1:
            values["default_pool"] = next(iter(pools))
        config = Config(**values, pools=pools, peers=peers, fleet=self.fleet)
        section = main.get("pools")
        # What names a pool that is there but wrong is no further mistake.
        pool_names = section if isinstance(section, dict) else pools
        if self.known is not None:
            config = replace(config, peers=self._without_wrong(config, pool_names))
        if self.fleet is not None:
            own = {name: said for name, said in self.own.items() if name in config.peers}
            fleet = replace(self.fleet, own=own, pools=frozenset(pools))
            config = replace(config, fleet=fleet)
        for path, reason in _contradictions(config, pool_names):
            self.problems.append(self._problem(document, path, reason))
        if self.problems:
            raise ConfigError(self.problems)
        return config

    def _fleet(self, reader: Reader, main: Mapping[str, Any]) -> Fleet | None:
        """Read the fleet file that is named, or the one beside the main file, if there is one."""
        file = self.file.parent / FLEET_FILE
        if main.get("fleet") is not None:
            try:
                file = parse_path(main["fleet"])
            except ValueError as error:
                reader.refuse(("fleet",), str(error))
                return None
        elif not file.exists():
            return None
        document = read_yaml(file, self.problems)
        if document is None:
            return None
        return read_fleet(document, Reader(document, self.problems))

    def _peers(self, reader: Reader, section: object) -> Iterator[tuple[str, Peer]]:
        for name, data in reader.map(section, ("peers",)).items():
            self.origins[name] = (reader.document, ("peers", name))
            yield from self._peer(reader.document, name, data, ("peers", name))
        for file in self._peer_files():
            name, unreadable = file.name.removesuffix(PEER_SUFFIX), list[ConfigProblem]()
            document = read_yaml(file, unreadable)
            if name in self.origins:
                first, path = self.origins[name]
                reason = f"peer is there twice, see {first.problem(path, '')}"
                place = document or Document(file, {}, {})
                (self.problems if self.known is None else self.tolerated).append(
                    place.problem((), reason)
                )
                continue
            self.origins[name] = (document or Document(file, {}, {}), ())
            if document is not None:
                yield from self._peer(document, name, document.data, ())
            else:
                yield from self._wrong_peer(name, unreadable)

    def _peer(
        self, document: Document, name: str, data: object, path: KeyPath
    ) -> Iterator[tuple[str, Peer]]:
        reader = Reader(document, [])
        peer = _read_peer(reader, name, data, path, pinned=self.fleet is None)
        if peer is not None:
            if peer.key is None:
                self.own[name] = reader.map(data, path)
            yield name, peer
        else:
            yield from self._wrong_peer(name, reader.problems)

    def _wrong_peer(self, name: str, problems: list[ConfigProblem]) -> Iterator[tuple[str, Peer]]:
        """Note what is wrong with a peer; yield what stays of it."""
        if self.known is None:
            self.problems += problems
            return
        self.tolerated += problems
        if name in self.known:
            if name in self.known_own:  # else it might do what only its group is allowed
                self.own[name] = self.known_own[name]
            yield name, self.known[name]

    def _without_wrong(self, config: Config, pools: Collection[str]) -> dict[str, Peer]:
        """Return the peers, those that contradict something being as they were, or left out."""
        peers = dict(config.peers)
        for path, reason in list(_contradictions(config, pools)):
            if path[0] != "peers" or (name := str(path[1])) not in config.peers:
                continue
            peers.pop(name, None)
            document, prefix = self.origins[name]
            problem = document.problem((*prefix, *path[2:]), reason)
            peers.update(self._wrong_peer(name, [problem]))
        return peers

    def _peer_files(self) -> Iterator[Path]:
        directory = peers_directory(self.file)
        try:
            check_protected(directory, directory.stat())
            files = sorted(file for file in directory.iterdir() if not file.name.startswith("."))
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems.append(
                ConfigProblem(directory, None, "", f"cannot be read: {error.strerror}")
            )
            return
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        for file in files:
            if file.suffix == PEER_SUFFIX:
                yield file
            elif file.suffix in (".yml", ".json"):
                reason = f"would be ignored; rename it to {file.stem}{PEER_SUFFIX}"
                self.problems.append(ConfigProblem(file, None, "", reason))

    def _problem(self, document: Document, path: KeyPath, reason: str) -> ConfigProblem:
        if path[0] == "peers":
            document, prefix = self.origins[str(path[1])]
            path = (*prefix, *path[2:])
        return document.problem(path, reason)


def _read_peer(
    reader: Reader, name: str, data: object, path: KeyPath, *, pinned: bool
) -> Peer | None:
    """Read an entry. One that is not `pinned` may be without a key, and then without an address."""
    before = len(reader.problems)
    reader.check_name(name, path)
    arguments = reader.fields(Peer, data, path, besides=("name",))
    written = data if isinstance(data, dict) else {}
    if pinned or written.get("key") is not None:
        for key in ("address", "key"):
            if written.get(key) is None:
                reader.refuse((*path, key), "missing")
    return Peer(name=name, **arguments) if len(reader.problems) == before else None


def _contradictions(config: Config, pools: Collection[str]) -> Iterator[tuple[KeyPath, str]]:
    known = ", ".join(pools) or "none"
    if config.default_pool is not None and config.default_pool not in pools:
        reason = f"there is no pool {config.default_pool!r} (pools: {known})"
        yield ("default_pool",), reason
    if _meet(config.metrics, config.listen):
        yield ("metrics", "port"), "is where peers connect to: see 'listen'"
    owners: dict[str, str] = {}
    for name, peer in config.peers.items():
        owner = owners.setdefault(peer.key, name) if peer.key is not None else name
        if owner != name:
            yield ("peers", name, "key"), f"is also the key of peer {owner!r}; a key names one host"
        if name == config.node:
            yield ("peers", name), "is the name of this host itself (see 'node')"
        for index, pool in enumerate(peer.allow.pools):
            if pool not in pools:
                path = ("peers", name, "allow", "pools", index)
                yield path, f"there is no pool {pool!r} (pools: {known})"
        yield from _unknown_pools(peer, pools, known)
        if peer.key is not None:  # else the groups of the fleet say the rest of it
            yield from _useless_grants(peer)


def _meet(metrics: Metrics, listen: Listen) -> bool:
    """Whether both are to be had at one port of one address."""
    if metrics.address is None or metrics.port != listen.port:
        return False
    everywhere = {EVERY_ADDRESS, "0.0.0.0", "::"}
    return metrics.address == listen.address or bool(everywhere & {metrics.address, listen.address})


def _unknown_pools(peer: Peer, pools: Collection[str], known: str) -> Iterator[tuple[KeyPath, str]]:
    for there, here in peer.pools.items():
        if here not in pools:
            path = ("peers", peer.name, "pools", there)
            yield path, f"there is no pool {here!r} (pools: {known})"
    for index, place in enumerate(peer.shared):
        if not place.startswith("/") and place not in pools:
            yield (
                ("peers", peer.name, "shared", index),
                f"there is no pool {place!r} (pools: {known})",
            )


def _useless_grants(peer: Peer) -> Iterator[tuple[KeyPath, str]]:
    allow, path = peer.allow, ("peers", peer.name, "allow")
    if not allow.actions:
        if allow.pools or allow.guests:
            yield (*path, "actions"), "is empty, so that nothing is allowed: name migrate or sync"
        return
    if not allow.pools:
        yield (*path, "pools"), "is empty, so that nothing can arrive: name the pools"
    if not allow.guests:
        yield (*path, "guests"), "is empty, so that no guest may come: '*' allows every guest"
