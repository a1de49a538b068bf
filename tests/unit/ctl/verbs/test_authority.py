"""`xenmovectl ca`, which needs no daemon, and what goes between it and a host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.ctl import FINGERPRINT, KEY, FakeDaemon, failure, run
from xenmoved.config.keys import fingerprint_of
from xenmoved.control.api import Done
from xenmoved.control.peer_api import Enroll, GetIdentity, Identity
from xenmoved.ctl.completion import signed
from xenmoved.trust.certificate import read_certificate

pytestmark = pytest.mark.long
NOBODY = Path("/nonexistent")


def ca(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of an authority."""
    return run(NOBODY, "ca", *args, "--dir", str(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An authority, and a request beside it."""
    made = ca(tmp_path / "ca", "init")
    assert (made.returncode, made.stderr) == (0, "")
    assert "xenmovectl identity --request" in made.stdout
    assert "its key has no passphrase" in made.stdout
    (tmp_path / "host-a.pub").write_text(f"{KEY} host-a\n")
    return tmp_path / "ca"


def test_a_host_is_signed_shown_renewed_and_revoked(folder: Path) -> None:
    request = str(folder.parent / "host-a.pub")
    done = ca(folder, "sign", request, "--group", "hosts", "--valid", "30d")
    assert done.returncode == 0, done.stderr
    assert f"its key is {fingerprint_of(KEY)}" in done.stdout, "to be compared"
    assert "xenmovectl enroll host-a-cert.pub" in done.stdout
    first = read_certificate((folder / "host-a-cert.pub").read_text())
    assert first.valid_before - first.valid_after == 30 * 86400 + 600
    shown = ca(folder, "show")
    assert all(word in shown.stdout for word in ("host-a", "valid", "hosts", str(first.serial)))
    assert ca(folder, "renew", "--all").returncode == 0
    assert read_certificate((folder / "host-a-cert.pub").read_text()).serial != first.serial
    done = ca(folder, "revoke", "--serial", str(first.serial))
    assert f"revoked in {folder}/fleet.yaml: {first.serial}" in done.stdout
    assert "systemctl reload xenmoved" in done.stdout
    done = ca(folder, "revoke", "host-a")
    assert fingerprint_of(KEY) in done.stdout
    lines = [json.loads(line) for line in ca(folder, "show", "--json").stdout.splitlines()]
    [record] = lines
    assert record["type"] == "certificates"
    assert [one["state"] for one in record["certificates"]] == ["revoked", "revoked"]
    assert signed(type("Arguments", (), {"dir": folder})) == ["host-a"]


def test_the_folder_may_be_named_before_the_second_verb(folder: Path) -> None:
    shown = run(NOBODY, "ca", "--dir", str(folder), "show")
    assert (shown.returncode, "no certificates" in shown.stdout) == (0, True)
    shown = run(NOBODY, "ca", "--dir", str(folder))
    assert (shown.returncode, "no certificates" in shown.stdout) == (0, True)


@pytest.mark.parametrize(
    ("args", "code", "said", "hint"),
    [
        (("sign", "host-a.pub"), 2, "--group", ""),
        (("sign", "nothing.pub", "--group", "hosts"), 1, "cannot be read: No such file", ""),
        (("sign", "nameless.pub", "--group", "hosts"), 2, "what the host is called", "--name"),
        (("sign", "empty.pub", "--group", "hosts"), 1, "is empty: it is another file", "one line"),
        (("sign", "rsa.pub", "--group", "hosts"), 1, "key of type 'ssh-rsa'", "--request"),
        (("sign", "host-a.pub", "--group", "web"), 1, "no group web", "groups there: hosts"),
        (("sign", "host-a.pub", "--group", "hosts", "--valid", "90"), 2, "has no unit", ""),
        (("sign", "host-a.pub", "--group", "hosts", "--valid", "never"), 2, "1h to 3650d", ""),
        (("sign", "host-a.pub", "--group", "a b"), 1, "no group a b", ""),
        (("renew",), 2, "name the hosts, or say --all", ""),
        (("renew", "host-a", "--all"), 2, "name the hosts, or say --all", ""),
        (("renew", "host-z"), 1, "no certificate of host-z", "ca show"),
        (("revoke",), 2, "say a NAME, or --serial", ""),
        (("revoke", "--serial", "x"), 2, "'x' is no serial", ""),
        (("revoke", "host-z"), 1, "nothing was ever signed for host-z", "ca show"),
        (("init",), 1, "exists already", "--dir"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(
    folder: Path, args: tuple[str, ...], code: int, said: str, hint: str
) -> None:
    texts = {"nameless": f"{KEY}\n", "empty": " \n", "rsa": "ssh-rsa AAAA host-a\n"}
    for name, text in texts.items():
        (folder.parent / f"{name}.pub").write_text(text)
    words = [str(folder.parent / word) if word.endswith(".pub") else word for word in args]
    done = ca(folder, *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert hint in done.stderr
    assert not (folder / "issued").exists()


def test_without_an_authority_it_is_said_where_one_is_looked_for(tmp_path: Path) -> None:
    for verb in (("show",), ("renew", "--all"), ("revoke", "host-a")):
        done = ca(tmp_path / "none", *verb)
        assert done.returncode == 1
        assert f"there is no authority in {tmp_path}/none" in done.stderr
        assert "xenmovectl ca init" in done.stderr


def test_a_passphrase_comes_from_a_file_where_there_is_no_terminal(tmp_path: Path) -> None:
    secret, request = tmp_path / "secret", tmp_path / "host-a.pub"
    secret.write_text("open sesame\n")
    request.write_text(f"{KEY} host-a\n")
    given = ("--passphrase-file", str(secret))
    made = ca(tmp_path / "ca", "init", *given)
    assert (made.returncode, "no passphrase" in made.stdout) == (0, False), made.stderr
    done = ca(tmp_path / "ca", "sign", str(request), "--group", "hosts")
    assert done.returncode == 2
    assert "--passphrase-file" in done.stderr
    done = ca(tmp_path / "ca", "sign", str(request), "--group", "hosts", *given)
    assert done.returncode == 0
    secret.write_text("wrong\n")
    done = ca(tmp_path / "ca", "renew", "--all", *given)
    assert done.returncode == 1
    assert "cannot be used with that passphrase" in done.stderr


def test_a_request_is_one_line_and_a_certificate_is_sent_as_it_is(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s") as daemon:
        daemon.answers[GetIdentity] = Identity("host-a", KEY, FINGERPRINT, 7222)
        assert run(daemon, "identity", "--request").stdout == f"{KEY} host-a\n"
        daemon.answers[Enroll] = Done("host-a is enrolled")
        file = tmp_path / "host-a-cert.pub"
        file.write_text("ssh-ed25519-cert-v01@openssh.com AAAA host-a\n")
        done = run(daemon, "enroll", str(file))
        assert (done.returncode, done.stdout) == (0, "host-a is enrolled\n")
        assert daemon.requests[-1] == Enroll(file.read_text())
        daemon.answers[Enroll] = failure("certificate-other", "it is for host-b", "sign again")
        done = run(daemon, "enroll", str(file))
        assert done.returncode == 1
        assert "it is for host-b" in done.stderr
        file.write_text("x" * 100000)
        done = run(daemon, "enroll", str(file))
        assert (done.returncode, "too large" in done.stderr) == (1, True)
