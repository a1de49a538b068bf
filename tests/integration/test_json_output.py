"""What every verb prints with `--json`, by real daemons, is as `xenmovectl schema` says.

`Dom0.ctl` compares each line with the schema, here as in all other tests.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.ctl import KEY
from tests.support.dom0 import QUIET, Dom0, image, unique
from xenmoved.ctl.records import RECORDS
from xenmoved.ctl.verbs.table import VERBS


class Recorder:
    """Runs verbs, and keeps which were run and which types of records came."""

    def __init__(self) -> None:
        self.verbs: set[str] = set()
        self.types: set[str] = set()

    def __call__(self, host: Dom0, *words: str, code: int = 0) -> list[str]:
        """Run a verb, which must end with this code; return the types of its records."""
        done = host.ctl(*words, "--json")
        assert done.returncode == code, (words, done.stdout, done.stderr)
        types = [json.loads(line)["type"] for line in done.stdout.splitlines()]
        two = " ".join(words[:2])
        self.verbs.add(two if two in VERBS else words[0])
        self.types.update(types)
        return types


def test_every_verb_prints_what_is_described(hosts: tuple[Dom0, Dom0], tmp_path: Path) -> None:
    a, b = hosts
    shown = Recorder()
    web, db = (unique("web") for _ in range(2))
    for guest in (web, db):
        a.boot(guest, [image(a.images / f"{guest}-root", 2)], extra=QUIET)
    image(a.images / "loose", 1)

    assert shown(a, "status") == ["status"]
    assert shown(a, "list") == ["guests"]
    assert shown(a, "check", "--pool-warning", "100", "--pool-critical", "100") == ["check"]
    assert shown(a, "identity") == ["identity"]
    assert shown(a, "peer", "list") == ["peers"]
    assert shown(a, "peer", "ping", "host-b") == ["peer_ping"]
    assert shown(a, "peer", "add", "host-x", "192.0.2.9", "--key", KEY) == ["done"]
    assert shown(a, "peer", "remove", "host-x") == ["done"]

    assert shown(a, "plan", web, "host-b") == ["plan"]
    assert shown(a, "migrate", web, "host-b", "--hold", "--detach") == ["job_report"]
    assert shown(a, "set", web, "--rate-limit", "unlimited") == ["done"]
    assert set(shown(a, "cutover", web)) == {"job_report"}
    assert set(shown(a, "watch", web)) == {"job_report"}
    assert shown(a, "show", web) == ["job_report"]
    assert shown(a, "report", web, "-o", str(tmp_path / "page.html")) == ["done"]
    assert shown(a, "migrate", db, "host-b", "--hold", "--detach") == ["job_report"]
    assert shown(a, "abort", db) == ["done"]
    assert set(shown(a, "sync", "images:loose", "host-b")) == {"job_report"}
    assert shown(a, "jobs", "--all") == ["jobs"]
    assert shown(b, "jobs", "--all") == ["jobs"]

    assert shown(a, "volumes") == ["volumes"]
    assert shown(a, "volumes", "drop", "--guest", web, "--yes") == ["done"]
    assert shown(b, "evacuate", "host-a", "--dry-run") == ["evacuation"]
    assert set(shown(b, "evacuate", "host-a")) == {"evacuation"}
    assert shown(a, "recover") == ["doubts"]
    assert shown(a, "hooks") == ["hooks"]

    _enroll(shown, a, tmp_path / "ca")

    assert shown(a, "show", "nothing", code=1) == ["failure"]
    assert shown(a, "set", "nothing", code=2) == ["failure"]

    assert shown.verbs == VERBS.keys() - {"completion", "schema"}
    assert shown.types == set(RECORDS.values())


def _enroll(shown: Recorder, host: Dom0, folder: Path) -> None:
    """Have an authority sign the host's key, and the host use that for a while."""
    where = ("--dir", str(folder))
    request = folder.parent / "host-a.pub"
    request.write_text(host.ctl("identity", "--request").stdout)
    assert shown(host, "ca", "init", *where) == ["done"]
    assert shown(host, "ca", "sign", str(request), "--group", "hosts", *where) == ["done"]
    assert shown(host, "ca", "renew", "host-a", *where) == ["done"]
    assert shown(host, "ca", "show", *where) == ["certificates"]
    file = host.config_file.parent / "fleet.yaml"
    file.write_bytes((folder / "fleet.yaml").read_bytes())
    try:
        assert shown(host, "enroll", str(folder / "host-a-cert.pub")) == ["done"]
    finally:
        file.unlink()
        (host.folder / "state" / "identity-cert.pub").unlink()
        host.reload()
    assert shown(host, "ca", "revoke", "host-a", *where) == ["done"]
