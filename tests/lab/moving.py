"""Migrations of the lab, and what must be true after them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tests.lab import storage
from tests.lab.guests import Guest
from tests.lab.host import Host
from tests.lab.pair import CONFIG, Pair, say

PATIENCE: Final = 900.0


def migrate(source: Host, target: Host, guest: Guest, *options: str) -> dict[str, Any]:
    """Move a guest and return the record of the job."""
    words = " ".join(options)
    said = source.run(
        f"xenmovectl migrate {guest.name} {target.name} --overwrite --quiet {words}", timeout=1200
    )
    report = job(source, guest)
    assert report["state"] == "done", (report, said.stdout, said.stderr)
    blackout = report["blackout"] or 0.0
    what = f"{guest.name} moved to {target.name}, {report['mode']}"
    say(f"{what}: {report['wire_bytes'] >> 20} MiB sent, blackout {blackout:.1f} s")
    return report


def job(host: Host, guest: Guest) -> dict[str, Any]:
    """Return the record of a guest's newest job on a host."""
    text = host.run(f"xenmovectl --json show {guest.name}").stdout
    report: dict[str, Any] = json.loads(text)
    return report


def assert_moved(source: Host, target: Host, guest: Guest) -> None:
    """Check that the guest is on the target alone, with its configuration."""
    assert guest.runs_on(target), f"{guest.name} does not run on {target.name}"
    domains = source.run("xl list").stdout
    assert guest.name not in domains, f"{source.name} still has it:\n{domains}"
    files = source.run("ls -d /etc/xen/*.cfg* /etc/xen/auto/*", check=False).stdout.split()
    assert not {guest.config, f"/etc/xen/auto/{guest.name}.cfg"} & set(files)
    assert f"{guest.config}.moved" in files
    config = target.read(guest.config)
    assert f'"{guest.name}"' in config or f"'{guest.name}'" in config, config


def sent(report: dict[str, Any]) -> int:
    """Return the bytes of disks that were sent."""
    rounds = [one for volume in report["volumes"] for one in volume["rounds"]]
    return sum(one["data_bytes"] for one in rounds)


def assert_verified(report: dict[str, Any]) -> None:
    """Check that every volume was compared in full while the guest stood still."""
    for volume in report["volumes"]:
        last = volume["rounds"][-1]
        assert last["verify"], volume
        assert last["same"] == -(-volume["size"] // 65536), volume


def assert_clean_file_system(host: Host, device: str) -> None:
    """Check the file system on a copy of a volume that nobody uses, its journal replayed."""
    copy = "/var/tmp/copy"
    host.run(f"cp --sparse=always {device} {copy} && e2fsck -y -E journal_only {copy}")
    host.run(f"e2fsck -f -n {copy} && rm {copy}")


# One process that looks often: to start `xenmovectl` takes an emulated host ten seconds.
_UNTIL_QUIET: Final = f"""
import pathlib, sys, time
from xenmoved.control.api import ListJobs
from xenmoved.control.client import ControlClient, DaemonUnavailable
said, deadline = "", time.monotonic() + {PATIENCE}
while time.monotonic() < deadline:
    try:
        with ControlClient(pathlib.Path("/run/xenmoved/control.sock"), 30) as client:
            jobs = client.ask(ListJobs(False)).jobs
    except DaemonUnavailable as error:
        said = str(error)
    else:
        if not jobs:
            sys.exit()
        said = "; ".join(f"{{job.job}} is {{job.state}}, {{job.phase}}" for job in jobs)
    time.sleep(0.5)
sys.exit(said)
"""


def await_settled(pair: Pair) -> None:
    """Wait until neither daemon has anything to do any more. Raises HostError."""
    command = ["/usr/lib/xenmoved/bin/python", "-c", _UNTIL_QUIET]
    pair.each(lambda host: host.run(command, timeout=2 * PATIENCE))


def owner(pair: Pair, guest: Guest) -> Host:
    """Return the only host that has the guest, which runs there; nothing is half-made."""
    names = {host.name: host.run("xl list | tail -n +3").stdout.split("\n") for host in pair.hosts}
    found = {name: [line.split()[0] for line in lines if line] for name, lines in names.items()}
    everywhere = [name for names in found.values() for name in names]
    assert everywhere == [guest.name], f"one copy, and nothing else: {found}"
    host = next(host for host in pair.hosts if found[host.name])
    assert guest.runs_on(host), f"it does not run: {found}"
    return host


def start_if_it_ended_with(host: Host, pair: Pair, guest: Guest) -> None:
    """Start a guest that ended when a host lost its power: from its file, which only that has."""
    if any(guest.name in one.run("xl list").stdout for one in pair.hosts):
        return
    files = {one.name: bool(one.read(guest.config)) for one in pair.hosts}
    assert [name for name, there in files.items() if there] == [host.name], files
    host.run(f"xl create -q {guest.config}")


OTHER_VOLUME: Final = "elsewhere"
OTHER_BRIDGE: Final = "guestbr"
_PEER: Final = "/etc/xenmoved/peers.d/host-a.yaml"


def use_other_names(host: Host) -> None:
    """Have the small guest's volume and its bridge be called otherwise on host-b."""
    path = storage.make_lv(host, OTHER_VOLUME, 64)
    usual = host.read(CONFIG)
    host.put(f"{CONFIG}.usual", usual)
    listed = re.search(r"devices: \[.*\]", usual)
    assert listed is not None
    host.put(CONFIG, usual.replace(listed[0], f"devices: {{small-root: {path}}}"))
    host.run(f"sed -i.usual 's/^bridges: .*/bridges: {{xenbr0: {OTHER_BRIDGE}}}/' {_PEER}")
    host.run("systemctl restart xenmoved")


def use_usual_names(host: Host) -> None:
    """Undo that."""
    host.run(f"mv {CONFIG}.usual {CONFIG} && mv {_PEER}.usual {_PEER}")
    host.run(f"systemctl restart xenmoved && lvremove -q -y {storage.GROUP}/{OTHER_VOLUME}")
