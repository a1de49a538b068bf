"""The hooks that are installed with the program, each run as it is there."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.ctl import ROOT

pytestmark = pytest.mark.long

FOLDER = ROOT / "share" / "hooks"
MAC = "00:16:3e:01:02:03"
TOLD = {
    **{"event": "after-arrival", "plan": False, "mode": "live"},
    "interfaces": [{"mac": MAC, "bridge": "xenbr0", "addresses": ["192.0.2.7/24"]}],
}


def shipped(name: str, folder: Path) -> Path:
    """Return a hook that looks for its files in a folder of the test."""
    made = folder / name
    made.write_text((FOLDER / name).read_text().replace("/etc/xenmoved/hooks", str(folder)))
    made.chmod(0o755)
    return made


def run(hook: Path, told: object, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a hook as the daemon does."""
    text = json.dumps(told)
    command = [*before, str(hook)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )


# --- announce-addresses ---


@pytest.fixture
def wires() -> Iterator[tuple[str, str]]:
    """Two namespaces: one of a dom0 with the bridge xenbr0, whose uplink is a port of a switch."""
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces")
    mark = secrets.token_hex(3)
    dom0, switch = f"dom0-{mark}", f"switch-{mark}"
    steps = [
        f"netns add {dom0}",
        f"netns add {switch}",
        f"-n {dom0} link add xenbr0 type bridge",
        f"-n {dom0} link add uplink type veth peer name port1 netns {switch}",
        f"-n {dom0} link set uplink master xenbr0",
        f"-n {switch} link add fabric type bridge",
        f"-n {switch} link add port2 type veth peer name listener",
        *(f"-n {switch} link set {port} master fabric" for port in ("port1", "port2")),
        *(f"-n {dom0} link set {name} up" for name in ("uplink", "xenbr0")),
        *(f"-n {switch} link set {name} up" for name in ("port1", "port2", "listener", "fabric")),
    ]
    try:
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True, capture_output=True)
        yield dom0, switch
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no namespaces can be made here: {error}")
    finally:
        for name in (dom0, switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def learned(switch: str) -> dict[str, str]:
    """Return by which port a switch reaches which MAC."""
    command = ["ip", "netns", "exec", switch, "bridge", "-j", "fdb", "show", "br", "fabric"]
    done = subprocess.run(command, capture_output=True, check=True)
    entries = json.loads(done.stdout)
    return {one["mac"]: one["ifname"] for one in entries if one.get("state") != "permanent"}


@pytest.mark.root
def test_a_switch_learns_where_the_guest_is(wires: tuple[str, str], tmp_path: Path) -> None:
    dom0, switch = wires
    hook = shipped("announce-addresses", tmp_path)
    before = {**TOLD, "interfaces": [{"mac": MAC, "bridge": "listener", "addresses": []}]}
    assert run(hook, before, "ip", "netns", "exec", switch).returncode == 0
    assert learned(switch)[MAC] == "port2", "where it was until now"
    done = run(hook, TOLD, "ip", "netns", "exec", dom0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert learned(switch)[MAC] == "port1"


@pytest.mark.root
def test_a_switch_learns_it_without_any_address(wires: tuple[str, str], tmp_path: Path) -> None:
    dom0, switch = wires
    told = {**TOLD, "interfaces": [{"mac": MAC, "bridge": "xenbr0", "addresses": []}]}
    assert (
        run(shipped("announce-addresses", tmp_path), told, "ip", "netns", "exec", dom0).stderr == ""
    )
    assert learned(switch)[MAC] == "port1"


@pytest.mark.root
def test_a_bridge_that_is_not_there_is_said(wires: tuple[str, str], tmp_path: Path) -> None:
    told = {**TOLD, "interfaces": [{"mac": MAC, "bridge": "ovs0.100", "addresses": []}]}
    done = run(shipped("announce-addresses", tmp_path), told, "ip", "netns", "exec", wires[0])
    assert done.returncode == 1
    assert done.stdout == f"{MAC} is not announced on ovs0.100: No such device\n"


@pytest.mark.parametrize("changes", [{"event": "cutover"}, {"mode": "cold"}, {"interfaces": []}])
def test_nothing_is_announced_of_a_guest_that_does_not_run_here(
    changes: dict[str, object], tmp_path: Path
) -> None:
    done = run(shipped("announce-addresses", tmp_path), {**TOLD, **changes})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def announcing(tmp_path: Path) -> dict[str, object]:
    """Return what the hook defines."""
    names: dict[str, object] = {"__name__": "hook"}
    exec(shipped("announce-addresses", tmp_path).read_text(), names)
    return names


def test_what_the_frames_say(tmp_path: Path) -> None:
    """Byte by byte as the RFCs have them."""
    names, mac = announcing(tmp_path), bytes.fromhex(MAC.replace(":", ""))
    zero = bytes(4)
    head = b"\xff" * 6 + mac
    reverse = head + b"\x80\x35" + b"\0\1\x08\0\x06\x04\0\3" + mac + zero + mac + zero
    assert names["rarp"](mac) == reverse.ljust(60, b"\0")
    four = ipaddress.ip_address("192.0.2.7")
    request = b"\x08\x06" + b"\0\1\x08\0\x06\x04\0\1" + mac + four.packed + bytes(6) + four.packed
    assert names["garp"](mac, four) == (head + request).ljust(60, b"\0")

    six = ipaddress.ip_address("2001:db8::7")
    frame = names["advertisement"](mac, six)
    assert frame[:14] == b"\x33\x33\0\0\0\x01" + mac + b"\x86\xdd"
    _, length, following, hops = struct.unpack("!IHBB", frame[14:22])
    assert (length, following, hops) == (32, 58, 255)
    assert ipaddress.ip_address(frame[22:38]) == six
    assert ipaddress.ip_address(frame[38:54]) == ipaddress.ip_address("ff02::1")
    icmp = frame[54:]
    assert (icmp[0], icmp[1], icmp[4:8]) == (136, 0, b"\x20\0\0\0")
    assert icmp[8:24] == six.packed
    assert icmp[24:] == b"\x02\x01" + mac
    pseudo = frame[22:54] + struct.pack("!II", len(icmp), 58) + icmp
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF, "the sum with its checksum"


def test_the_list_of_addresses(tmp_path: Path) -> None:
    names = announcing(tmp_path)
    file = tmp_path / "addresses"
    assert names["addresses_in"](file) == {}
    file.write_text(
        f"# web\n{MAC.upper()} 192.0.2.9 2001:DB8::9  # both\n\nnonsense 1.2.3.4\n{MAC}\n"
    )
    assert names["addresses_in"](file) == {MAC: ["192.0.2.9", "2001:db8::9"]}


# --- tell-http ---


class Endpoint(HTTPServer):
    """Takes what is posted."""

    def __init__(self, status: int = 204, **headers: str) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.status, self.headers = status, headers
        self.posted: list[tuple[str, str, bytes]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?token=secret"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Taker(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers["Content-Type"], body))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def tell(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    (folder / "tell-http.url").write_text(f"{url}\n")
    return run(shipped("tell-http", folder), TOLD)


def test_what_is_told_is_posted(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        done = tell(tmp_path, endpoint.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ((path, kind, body),) = endpoint.posted
    assert (path, kind) == ("/hook?token=secret", "application/json")
    assert json.loads(body) == TOLD


def test_an_endpoint_that_says_no(tmp_path: Path) -> None:
    with Endpoint(403) as endpoint:
        done = tell(tmp_path, endpoint.url)
    assert (done.returncode, done.stdout) == (1, "127.0.0.1 answers 403 Forbidden\n")


def test_redirections_are_not_followed(tmp_path: Path) -> None:
    with Endpoint() as other, Endpoint(302, Location=other.url) as endpoint:
        done = tell(tmp_path, endpoint.url)
    assert done.returncode == 1
    assert other.posted == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is no http or https URL"),
        ("file:///etc/passwd", "is no http or https URL"),
        ("ftp://127.0.0.1/", "is no http or https URL"),
        ("http://127.0.0.1:1/secret", "127.0.0.1 was not told: [Errno 111] Connection refused"),
        ("http://127.0.0.1:1/a secret", "127.0.0.1 was not told: InvalidURL"),
        ("http://127.0.0.1:99999/secret", "127.0.0.1 was not told: "),
    ],
)
def test_what_is_no_endpoint(tmp_path: Path, url: str, said: str) -> None:
    done = tell(tmp_path, url)
    assert (done.returncode, said in done.stdout, done.stderr) == (1, True, ""), done
    assert "secret" not in done.stdout


def test_no_file_with_a_url(tmp_path: Path) -> None:
    done = run(shipped("tell-http", tmp_path), TOLD)
    assert done.returncode == 1
    assert "tell-http.url does not exist: write the URL" in done.stdout


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    pem = tmp_path / "own.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run(
            [*command.split(), "-keyout", pem, "-out", tmp_path / "cert.pem"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", pem)
    with Endpoint() as endpoint:
        endpoint.socket = context.wrap_socket(endpoint.socket, server_side=True)
        done = tell(tmp_path, endpoint.url.replace("http:", "https:"))
    assert done.returncode == 1
    assert "certificate verify failed" in done.stdout.lower()
    assert endpoint.posted == []
