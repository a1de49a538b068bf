"""Emulated hosts that trust each other by certificates, and their authority."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from xenmoved.control.api import Done
from xenmoved.control.peer_api import Enroll
from xenmoved.sandbox.harness import wait_until
from xenmoved.sandbox.pair import SandboxHost
from xenmoved.trust.authority import Authority
from xenmoved.trust.certificate import Certificate, sign

Host = TypeVar("Host", bound=SandboxHost)

YEAR = 365 * 86400.0
HOSTS = {"actions": ["migrate", "sync"], "pools": ["images", "elsewhere"], "guests": ["*"]}


def reload(host: SandboxHost) -> None:
    """Have a daemon read its configuration again, if it runs, and wait until it has."""

    def times() -> int:
        log = host.log()
        return log.count("configuration read") + log.count("configuration stays")

    if host.process is not None and host.process.poll() is None:
        before = times()
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: times() > before, "a reload")


class Fleet(Generic[Host]):
    """An authority and hosts in one folder; the fleet file is in the authority's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority(root / "ca", lambda: b"")
        self.authority.create(b"")
        self.hosts: dict[str, Host] = {}
        self.edit(groups={"hosts": HOSTS})

    @property
    def file(self) -> Path:
        """The fleet file of the authority."""
        return self.authority.fleet_file

    def edit(self, **changed: Any) -> None:
        """Change what the fleet file says."""
        data = {**yaml.safe_load(self.file.read_text()), **changed}
        self.file.write_text(yaml.safe_dump(data, sort_keys=False))

    def list_hosts(self, names: Iterable[str]) -> None:
        """Have the fleet file list hosts."""
        where = {name: self.hosts[name] for name in names}
        listed = {name: {"address": "127.0.0.1", "port": one.port} for name, one in where.items()}
        self.edit(hosts=listed)

    def add(self, host: Host) -> Host:
        """Have a host belong to it, which is not enrolled yet; start it."""
        self.hosts[host.name] = host
        host.start()
        return host

    def hand_out(self, names: Iterable[str] | None = None) -> None:
        """Copy the fleet file to hosts, and have them read it."""
        for name in self.hosts if names is None else names:
            host = self.hosts[name]
            (host.config_file.parent / "fleet.yaml").write_bytes(self.file.read_bytes())
            reload(host)

    def sign(
        self, name: str, groups: Sequence[str] = ("hosts",), validity: float = YEAR, **options: Any
    ) -> Certificate:
        """Sign what a host asks for."""
        key = self.hosts[name].identity().key
        replace = options.get("replace", False)
        return self.authority.sign(key, name, groups, validity, replace=replace)[0]

    def enroll(self, name: str, **options: Any) -> Certificate:
        """Sign what a host asks for, and install it there."""
        certificate = self.sign(name, **options)
        answer = self.hosts[name].ask(Enroll(certificate.text))
        assert isinstance(answer, Done), answer
        return certificate

    def signed_badly(self, key: str, name: str, **options: Any) -> Certificate:
        """Return a certificate that the folder of the authority would not sign."""
        now = int(time.time())
        span = {"valid_after": now - 600, "valid_before": now + 3600, **options}
        groups = span.pop("groups", ("hosts",))
        return sign(self.authority._secret(), key, name=name, groups=groups, **span)

    def put(self, name: str, certificate: Certificate) -> None:
        """Have a host use a certificate that it would refuse to be enrolled with."""
        host = self.hosts[name]
        (host.folder / "state" / "identity-cert.pub").write_text(f"{certificate.text}\n")
        reload(host)

    def close(self) -> None:
        """End everything."""
        for host in self.hosts.values():
            host.close()
