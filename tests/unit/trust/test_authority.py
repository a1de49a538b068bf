"""The folder of an authority, and the fleet file in it."""

import shutil
import stat
import subprocess
import time

import asyncssh
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xenmoved.config.errors import ConfigError
from xenmoved.config.keys import fingerprint_of
from xenmoved.trust.authority import Authority, AuthorityError
from xenmoved.trust.certificate import public_text, read_certificate
from xenmoved.trust.fleetfile import add_revoked, load_fleet
from xenmoved.trust.report import CertificateState

DAY = 86400.0
needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def new_key():
    return public_text(Ed25519PrivateKey.generate().public_key())


@pytest.fixture
def authority(tmp_path):
    authority = Authority(tmp_path / "ca", lambda: b"secret")
    authority.create(b"")
    return authority


def sign(authority, key, name, groups=("hosts",), *, replace=False):
    return authority.sign(key, name, groups, DAY, replace=replace)


def states(authority):
    return [(one.name, one.state.value) for one in authority.report().certificates]


def test_what_is_made_is_private_and_whole(authority, tmp_path):
    folder = tmp_path / "ca"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca_key").stat().st_mode) == 0o600
    fleet = load_fleet(authority.fleet_file)
    assert fleet.authorities == (authority.public(),)
    assert list(fleet.groups) == ["hosts"]
    before = (folder / "ca_key").read_bytes()
    with pytest.raises(AuthorityError, match="exists already"):
        authority.create(b"")
    assert (folder / "ca_key").read_bytes() == before


def test_a_certificate_is_what_was_asked_for(authority):
    key = new_key()
    certificate, revoked = sign(authority, key, "host-a")
    assert revoked == ()
    assert read_certificate(authority.file_of("host-a").read_text()) == certificate
    assert (certificate.name, certificate.groups, certificate.key) == ("host-a", ("hosts",), key)
    assert certificate.authority == authority.public()
    now = time.time()
    assert certificate.valid_after < now - 500, "clocks differ"
    assert now + DAY - 60 < certificate.valid_before <= now + DAY
    taken = asyncssh.import_certificate(certificate.text)
    assert list(taken.principals) == ["host:host-a", "group:hosts"]


def test_a_key_with_a_passphrase_is_used_with_it_alone(tmp_path):
    said = [b"wrong", b"secret"]
    authority = Authority(tmp_path, lambda: said.pop(0))
    authority.create(b"secret")
    key = new_key()
    with pytest.raises(AuthorityError, match="cannot be used with that passphrase"):
        sign(authority, key, "host-a")
    assert authority.issued() == []
    sign(authority, key, "host-a")
    assert said == []
    with pytest.raises(asyncssh.KeyImportError):
        asyncssh.read_private_key(tmp_path / "ca_key")


def test_a_key_that_others_may_read_signs_nothing(authority, tmp_path):
    (tmp_path / "ca" / "ca_key").chmod(0o640)
    with pytest.raises(AuthorityError, match="lets others read") as refused:
        sign(authority, new_key(), "host-a")
    assert "chmod 600" in refused.value.hint


def test_a_name_has_one_key_and_a_key_one_name(authority):
    first, second = new_key(), new_key()
    sign(authority, first, "host-a")
    with pytest.raises(AuthorityError, match="host-a has a certificate with another key"):
        sign(authority, second, "host-a")
    with pytest.raises(AuthorityError, match="that key has a certificate as host-a"):
        sign(authority, first, "host-b")
    assert states(authority) == [("host-a", "valid")]
    _, revoked = sign(authority, second, "host-a", replace=True)
    assert revoked == (fingerprint_of(first),)
    assert states(authority) == [("host-a", "revoked"), ("host-a", "valid")]
    with pytest.raises(AuthorityError, match="that key is revoked"):
        sign(authority, first, "host-c")
    certificate, revoked = sign(authority, second, "host-z", replace=True)
    assert len(revoked) == 1, "the serial of host-a's, and not the key"
    assert certificate.name == "host-z"
    assert states(authority)[-1] == ("host-z", "valid")


def test_groups_that_are_taken_away_are_revoked(authority):
    text = authority.fleet_file.read_text()
    authority.fleet_file.write_text(text + "  spare: {}\n")
    key = new_key()
    both, _ = sign(authority, key, "host-a", ("hosts", "spare"))
    _, revoked = sign(authority, key, "host-a", ("hosts",))
    assert revoked == (str(both.serial),)
    _, revoked = sign(authority, key, "host-a", ("hosts", "spare"))
    assert revoked == (), "more groups make the one with less no worse"
    with pytest.raises(AuthorityError, match="there is no group spares"):
        sign(authority, key, "host-a", ("spares",))


def test_a_renewal_is_the_same_for_longer(authority):
    key = new_key()
    old, _ = sign(authority, key, "host-a")
    sign(authority, new_key(), "host-b")
    authority.revoke("host-b")
    (renewed,) = authority.renew([], 100 * DAY)
    assert (renewed.name, renewed.key, renewed.groups) == (old.name, old.key, old.groups)
    assert renewed.serial != old.serial
    assert renewed.valid_before > old.valid_before + 98 * DAY
    for name in ("host-b", "host-c"):
        with pytest.raises(AuthorityError, match=f"no certificate of {name}"):
            authority.renew([name], DAY)


def test_what_is_revoked_is_in_the_fleet_file_and_nothing_else_changes(authority):
    key, other = new_key(), new_key()
    sign(authority, key, "host-a")
    one, _ = sign(authority, other, "host-b")
    before = authority.fleet_file.read_text()
    assert authority.revoke("host-a") == [fingerprint_of(key)]
    assert authority.revoke_serial(one.serial) == "host-b"
    assert authority.revoke("host-a") == [fingerprint_of(key)], "twice does no harm"
    fleet = load_fleet(authority.fleet_file)
    assert set(fleet.revoked) == {fingerprint_of(key), str(one.serial)}
    after = authority.fleet_file.read_text().splitlines()
    kept = [line for line in before.splitlines() if not line.startswith("revoked")]
    assert [line for line in after if "# host-" not in line and line != "revoked:"] == kept
    for report in authority.report("host-a").certificates:
        assert report.state is CertificateState.REVOKED
    with pytest.raises(AuthorityError, match="nothing was ever signed for host-z"):
        authority.revoke("host-z")
    with pytest.raises(AuthorityError, match="no certificate here has the serial 1"):
        authority.revoke_serial(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "revoked: []\n",
        "revoked: [ ]   # nothing yet\n",
        "revoked:\n",
        "revoked:\n- 5\n- 6 # y\n",
        "revoked:\n    # why\n    - 5\n",
        "revoked:\n  - 5\nhosts: {}\n",
    ],
)
def test_a_line_is_added_however_the_list_is_written(tmp_path, text):
    file = tmp_path / "fleet.yaml"
    file.write_text(f"authorities: ['{new_key()}']\n{text}groups: {{}}\n")
    before = load_fleet(file).revoked
    add_revoked(file, "77", "host-x")
    assert set(load_fleet(file).revoked) == {*before, "77"}
    assert "- 77  # host-x" in file.read_text()


@pytest.mark.parametrize("text", ["revoked: [5]\n", "revoked: [\n  5]\n", "? revoked\n: [5]\n"])
def test_a_list_that_is_not_understood_stays_as_it_is(tmp_path, text):
    file = tmp_path / "fleet.yaml"
    file.write_text(f"authorities: ['{new_key()}']\n{text}")
    before = file.read_text()
    with pytest.raises(ConfigError, match="add by hand: 77"):
        add_revoked(file, "77", "host-x")
    assert file.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["fleet.yaml"]


def test_what_contradicts_is_signed_by_nobody(authority, tmp_path):
    for name in ("../host", "", "a b", "x" * 64):
        with pytest.raises(AuthorityError, match="cannot be signed"):
            sign(authority, new_key(), name)
    with pytest.raises(AuthorityError, match="the authority itself"):
        sign(authority, authority.public(), "host-a")
    with pytest.raises(AuthorityError, match="there is no authority in"):
        sign(Authority(tmp_path / "nowhere", lambda: b""), new_key(), "host-a")
    authority.fleet_file.write_text("authorities: [")
    with pytest.raises(ConfigError):
        sign(authority, new_key(), "host-a")
    assert authority.issued() == []


@needs_ssh_keygen
def test_ssh_keygen_shows_what_was_signed_and_signs_what_is_believed(authority, tmp_path):
    certificate, _ = sign(authority, new_key(), "host-a")
    command = ("ssh-keygen", "-L", "-f", authority.file_of("host-a"))
    shown = subprocess.check_output(command, text=True)
    assert "host certificate" in shown
    assert f"Serial: {certificate.serial}" in shown
    assert "host:host-a" in shown and "group:hosts" in shown
    (tmp_path / "b.pub").write_text(new_key())
    principals = ("-n", "host:host-b,group:hosts")
    signing = ("ssh-keygen", "-q", "-s", tmp_path / "ca" / "ca_key", "-I", "b", "-h", *principals)
    subprocess.check_call((*signing, tmp_path / "b.pub"))
    signed = read_certificate((tmp_path / "b-cert.pub").read_text())
    assert (signed.name, signed.groups) == ("host-b", ("hosts",))
    assert signed.authority == certificate.authority


def test_the_new_fleet_file_says_what_its_comments_say(authority):
    data = yaml.safe_load(authority.fleet_file.read_text())
    assert set(data) == {"authorities", "revoked", "hosts", "defaults", "groups"}
