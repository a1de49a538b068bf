"""Reading the main file: what it gives, and what is said about a wrong one."""

import base64
import textwrap
from pathlib import Path

import pytest

from storage.files.pool import DirectoryOptions
from xenmoved.choices import CdromChoice, Compression
from xenmoved.config.errors import ConfigError
from xenmoved.config.loader import load
from xenmoved.config.model import Action, Config, LogLevel, ToolstackKind, short_hostname
from xenmoved.config.pools import make_pool


def _key(number: int) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32, "big")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


KEY_B, KEY_C = _key(1), _key(2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "xenmoved.yaml"


def _write(file: Path, text: str) -> None:
    file.write_text(textwrap.dedent(text))
    file.chmod(0o644)


def _problems(file: Path, text: str) -> list[str]:
    _write(file, text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


@pytest.mark.parametrize("text", ["", "# nothing\n", "listen:\npools:\npeers:\ntimeouts:\n"])
def test_an_empty_file_gives_the_defaults(file, text):
    _write(file, text)
    config = load(file)
    assert config == Config()
    assert config.node == short_hostname()
    assert config.listen.host is None


def test_everything_can_be_set(file):
    _write(
        file,
        f"""
        node: host-a
        listen: {{address: 192.0.2.1, port: 7000}}
        state_dir: /srv/state
        control: {{socket: /run/x.sock, group: xen}}
        toolstack: {{kind: xm, command: [/opt/xm, -v], config_dir: /srv/cfg, sysfs_net: /srv/net,
            boot_folders: [/srv/kernels]}}
        pools:
          images: {{kind: dir, path: /srv/images, reserve: 20GiB, overcommit: true}}
          disks: {{kind: block, devices: [/dev/vg0/root, /dev/vg0/data]}}
        default_pool: images
        peers:
          host-b:
            address: fd00::2
            port: 7001
            key: {KEY_B} root@host-b
            allow: {{actions: [migrate], pools: [disks], guests: [web-*], quota: 1T,
                     memory: 8GiB, vcpus: 4}}
            bridges: {{xenbr0: br-lan}}
            pools: {{hdd: images}}
            volumes: {{'vm-*-root': '*-disk0', '*': 'x-*'}}
            shared: [disks, /dev/disk/by-id/scsi-*]
            cdrom: eject
        transfer:
          {{rate_limit: 80MiB, compression: off, verify: true, max_rounds: 3, readers: 4}}
        timeouts: {{connect: 5, ready: 2m, stall: 30s, keepalive: 500ms}}
        log_level: debug
        """,
    )
    config = load(file)
    assert config.node == "host-a"
    assert (config.listen.host, config.listen.port) == ("192.0.2.1", 7000)
    assert config.state_dir == Path("/srv/state")
    assert (config.control.socket, config.control.group) == (Path("/run/x.sock"), "xen")
    assert config.toolstack.kind is ToolstackKind.XM
    assert config.toolstack.command == ("/opt/xm", "-v")
    assert config.toolstack.config_dir == Path("/srv/cfg")
    assert config.toolstack.sysfs_net == Path("/srv/net")
    assert config.toolstack.boot_folders == (Path("/srv/kernels"),)
    images = config.pools["images"]
    assert (images.name, images.kind) == ("images", "dir")
    assert images.options == DirectoryOptions(Path("/srv/images"), True, 20 * 2**30)
    assert config.pools["disks"].options.devices == {
        "root": Path("/dev/vg0/root"),
        "data": Path("/dev/vg0/data"),
    }
    assert {make_pool(pool).kind for pool in config.pools.values()} == {"dir", "block"}
    assert config.default_pool == "images"
    peer = config.peers["host-b"]
    assert (peer.name, peer.address, peer.port, peer.key) == ("host-b", "fd00::2", 7001, KEY_B)
    assert peer.allow.actions == (Action.MIGRATE,)
    assert (peer.allow.pools, peer.allow.guests) == (("disks",), ("web-*",))
    assert (peer.allow.quota, peer.allow.memory, peer.allow.vcpus) == (2**40, 8 * 2**30, 4)
    assert (peer.bridges, peer.pools) == ({"xenbr0": "br-lan"}, {"hdd": "images"})
    assert list(peer.volumes.items()) == [("vm-*-root", "*-disk0"), ("*", "x-*")]
    assert peer.shared == ("disks", "/dev/disk/by-id/scsi-*")
    assert peer.cdrom is CdromChoice.EJECT
    assert config.transfer.rate_limit == 80 * 2**20
    assert config.transfer.compression is Compression.OFF
    assert config.transfer.verify is True
    assert (config.transfer.max_rounds, config.transfer.readers) == (3, 4)
    assert (config.timeouts.connect, config.timeouts.ready) == (5.0, 120.0)
    assert (config.timeouts.stall, config.timeouts.keepalive) == (30.0, 0.5)
    assert config.log_level is LogLevel.DEBUG


def test_the_only_pool_is_the_default_pool(file):
    _write(file, "pools: {images: {kind: dir, path: /srv}}")
    assert load(file).default_pool == "images"
    _write(file, "pools: {a: {kind: dir, path: /a}, b: {kind: dir, path: /b}}")
    assert load(file).default_pool is None


def test_scalars_have_no_surprises(file):
    _write(file, "node: off")
    assert load(file).node == "off"
    _write(file, "node: 2024-01-01")
    assert load(file).node == "2024-01-01"
    assert _problems(file, "listen: {port: 010}") == [
        "1: listen.port: must be an integer, not a string"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # Shape of the file
        ("- a", "1: must be a map, not a list"),
        ("node: [", "1: is not valid YAML: expected the node content, but found '<stream end>'"),
        ("node: a\n\tb: 1", "2: is not valid YAML: found character '\\t' that cannot start any"),
        ("node: \x07", " is not valid YAML: unacceptable character #x0007"),
        ("a: 1\n---\nb: 2", "2: is not valid YAML: but found another document"),
        ("node: !!python/name:os.system x", "1: node: cannot be read as tag:yaml.org,2002:python"),
        ("? [a]\n: 1", "1: a key must be text"),
        ("timeouts: &t {<<: {ready: 1s}}", "1: timeouts.<<: unknown key"),
        # Keys
        ("node: a\nnode: b", "2: node: is there twice (first on line 1)"),
        ("pools:\n  a: {}\n  a: {}", "3: pools.a: is there twice (first on line 2)"),
        ("frobnicate: 1", "1: frobnicate: unknown key (known: node, listen, state_dir,"),
        ("log_levle: info", "1: log_levle: unknown key, perhaps 'log_level' is meant"),
        ("listen:\n  prot: 1", "2: listen.prot: unknown key, perhaps 'port' is meant"),
        # Types
        ("listen: 7222", "1: listen: must be a map, not an integer"),
        ("peers: [a]", "1: peers: must be a map, not a list"),
        ("pools: [a]", "1: pools: must be a map, not a list"),
        ("node: 5", "1: node: must be a string, not an integer: put it in quotes"),
        ("transfer:\n  verify: yes", "2: transfer.verify: must be a boolean, not a string: write"),
        ("transfer: {readers: '2'}", "1: transfer.readers: must be an integer, not a string"),
        ("toolstack: {command: xl}", "1: toolstack.command: must be a list, not a string"),
        ("toolstack: {command: [xl, 1]}", "1: toolstack.command[1]: must be a string, not an int"),
        ("toolstack:\n  command:\n  - xl\n  - ''", "4: toolstack.command[1]: length must be 1 to"),
        # Values
        ("node: a/b", "1: node: must be a name of letters, digits, '.', '_' and '-', is 'a/b'"),
        ("listen: {port: 0}", "1: listen.port: must be from 1 to 65535, is 0"),
        ("listen: {port: 65536}", "1: listen.port: must be from 1 to 65535, is 65536"),
        ("listen: {address: 'a b'}", "1: listen.address: 'a b' is no host name"),
        ("state_dir: state", "1: state_dir: must be an absolute path, is 'state'"),
        ("control: {socket: 5}", "1: control.socket: must be an absolute path, is 5"),
        (
            "toolstack: {kind: virsh}",
            "1: toolstack.kind: must be one of: auto, xl, xm (is 'virsh')",
        ),
        ("transfer: {rate_limit: 80Mb}", "1: transfer.rate_limit: '80Mb': unknown unit 'Mb' (kno"),
        ("timeouts: {ready: 0}", "1: timeouts.ready: must be more than 0"),
        ("timeouts: {ready: }", "1: timeouts.ready: None is no duration: write it like 60s, 5m"),
        (
            "log_level: loud",
            "1: log_level: must be one of: debug, info, warning, error (is 'loud')",
        ),
        # Pools
        ("pools: {a/b: {kind: dir, path: /a}}", "1: pools.a/b: must be a name of letters"),
        ("pools: {a: {path: /a}}", "1: pools.a.kind: must be one of: "),
        ("pools: {a: {kind: nfs}}", "(is 'nfs')"),
        ("pools: {a: {kind: [dir]}}", "(is ['dir'])"),
        ("pools: {a: /srv}", "1: pools.a: must be a map, not a string"),
        ("pools: {a: {kind: dir}}", "1: pools.a.path: missing"),
        ("pools: {a: {kind: dir, path: srv}}", "1: pools.a.path: must be an absolute path, is 's"),
        ("pools: {a: {kind: dir, path: /a, size: 1}}", "1: pools.a.size: unknown key (known: path"),
        (
            "pools: {a: {kind: dir, path: /a, reserve: 1GB}}",
            "1: pools.a.reserve: '1GB': unknown un",
        ),
        ("pools: {a: {kind: block, devices: sda}}", "1: pools.a.devices: must be a list of device"),
        ("pools: {a: {kind: block, devices: [sda]}}", "1: pools.a.devices: must be an absolute pa"),
        (
            "pools: {a: {kind: block, devices: [/dev/a/x, /dev/b/x]}}",
            "1: pools.a.devices: /dev/a/x and /dev/b/x end alike: write a map",
        ),
        ("pools: {a: {kind: block, devices: {'a b': /dev/x}}}", "1: pools.a: pool a: 'a b' cannot"),
        ("pools: {a: {kind: lvm}}", "1: pools.a.group: missing"),
        ("pools: {a: {kind: lvm, group: 5}}", "1: pools.a.group: must be a string, not an integer"),
        (
            "pools: {a: {kind: lvm, group: /dev/vg0}}",
            "1: pools.a: pool a: option 'group' must be a name of LVM's, not '/dev/vg0'",
        ),
        ("pools: {a: {kind: lvm-thin, group: vg0}}", "1: pools.a.thin_pool: missing"),
        (
            "pools: {a: {kind: lvm, group: vg0, thin_pool: t}}",
            "1: pools.a.thin_pool: unknown key (known: group",
        ),
        ("default_pool: images", "1: default_pool: there is no pool 'images' (pools: none)"),
        # Peers
        ("peers: {b: {address: b}}", "1: peers.b.key: missing"),
        ("peers: {b: }", "1: peers.b.address: missing"),
        ("peers: {.b: }", "1: peers..b: must be a name of letters"),
        (
            "peers: {b: {address: 'b c'}}",
            "1: peers.b.address: 'b c' is no host name",
        ),
        ("peers: {b: {key: ssh-rsa AAAA}}", "1: peers.b.key: is a key of type 'ssh-rsa', must be"),
        ("peers: {b: {allow: {actions: [fly]}}}", "1: peers.b.allow.actions[0]: must be one of: m"),
        ("peers: {b: {allow: {guests: ['a b']}}}", "1: peers.b.allow.guests[0]: must be a guest's"),
        ("peers: {b: {allow: {quota: lots}}}", "1: peers.b.allow.quota: 'lots' is no size"),
        ("peers: {b: {allow: {memory: 0}}}", "1: peers.b.allow.memory: must be more than 0"),
        ("peers: {b: {allow: {vcpus: 0}}}", "1: peers.b.allow.vcpus: must be a number from 1, or"),
        ("peers: {b: {allow: {vcpus: yes}}}", "1: peers.b.allow.vcpus: must be a number from 1"),
        (
            "peers: {b: {pools: [a]}}",
            "1: peers.b.pools: must be a map of pools there to pools here",
        ),
        ("peers: {b: {pools: {a: 1}}}", "1: peers.b.pools: 1 is no name of a pool"),
        ("peers: {b: {volumes: x}}", "1: peers.b.volumes: must be a map of patterns there to pat"),
        ("peers: {b: {volumes: {a: 1}}}", "1: peers.b.volumes: 'a': 1 are no patterns: put both"),
        ("peers: {b: {volumes: {a: '*'}}}", "1: peers.b.volumes: '*' has more * than 'a' gives"),
        ("peers: {b: {shared: nfs}}", "1: peers.b.shared: must be a list of pools and absolute pa"),
        (
            "peers: {b: {shared: [srv/x]}}",
            "1: peers.b.shared: 'srv/x' is neither a pool nor an abs",
        ),
        ("peers: {b: {shared: [/a/../b]}}", "1: peers.b.shared: '/a/../b' is neither a pool nor"),
        ("peers: {b: {shared: [/a/**]}}", "1: peers.b.shared: '/a/**' is neither a pool nor an"),
        (
            "retain: {age: 30}",
            "1: retain.age: 30 has no unit: write it like 30d or 12h, or 'never'",
        ),
        ("retain: {age: '30'}", "1: retain.age: '30' has no unit"),
        ("peers: {b: {cdrom: burn}}", "1: peers.b.cdrom: must be one of: refuse, eject, require"),
    ],
)
def test_a_problem_is_told_with_its_place_and_reason(file, text, problem):
    assert any(problem in line for line in _problems(file, text)), _problems(file, text)


def _peer(
    name: str, key: str, allow: str = "{}", port: int = 7222, more: str = "bridges: {}"
) -> str:
    return f"  {name}: {{address: h, key: {key}, port: {port}, allow: {allow}, {more}}}"


@pytest.mark.parametrize(
    ("peers", "problem"),
    [
        (
            [_peer("b", KEY_B), _peer("c", f"{KEY_B} again")],
            "6: peers.c.key: is also the key of peer 'b'; a key names one host",
        ),
        (
            [_peer("b", KEY_B, "{actions: [sync], pools: [images, x], guests: ['*']}")],
            "5: peers.b.allow.pools[1]: there is no pool 'x' (pools: images)",
        ),
        (
            [_peer("b", KEY_B, "{actions: [sync], pools: [images]}")],
            "5: peers.b.allow.guests: is empty, so that no guest may come: '*' allows every guest",
        ),
        (
            [_peer("b", KEY_B, "{actions: [sync], guests: ['*']}")],
            "5: peers.b.allow.pools: is empty, so that nothing can arrive: name the pools",
        ),
        (
            [_peer("b", KEY_B, "{pools: [images], guests: ['*']}")],
            "5: peers.b.allow.actions: is empty, so that nothing is allowed: name migrate or sync",
        ),
        (
            [_peer("b", KEY_B, more="pools: {images: slow}")],
            "5: peers.b.pools.images: there is no pool 'slow' (pools: images)",
        ),
        (
            [_peer("b", KEY_B, more="shared: [images, /srv/*, nfs]")],
            "5: peers.b.shared[2]: there is no pool 'nfs' (pools: images)",
        ),
        ([_peer("b", KEY_B, port=0)], "5: peers.b.port: must be from 1 to 65535, is 0"),
        ([_peer("me", KEY_B)], "5: peers.me: is the name of this host itself (see 'node')"),
    ],
)
def test_contradictions(file, peers, problem):
    head = ["node: me", "pools:", "  images: {kind: dir, path: /srv}", "peers:"]
    assert _problems(file, "\n".join(head + peers)) == [problem]


def test_every_problem_is_told_at_once_in_the_order_of_the_file(file):
    lines = _problems(
        file,
        f"""\
        node: 5
        listen:
          port: x
          adress: y
        pools:
          images:
            kind: dir
            path: srv
          other:
            kind: nfs
        default_pool: absent
        peers:
          b:
            address: h
            key: {KEY_B}
            allow: {{actions: [migrate], pools: [images, gone], guests: [a]}}
          c:
            key: {KEY_C}
        transfer:
          readers: 0
          max_rounds: 0
        """,
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["1", "node"],
        ["3", "listen.port"],
        ["4", "listen.adress"],
        ["8", "pools.images.path"],
        ["10", "pools.other.kind"],
        ["11", "default_pool"],
        # The pool 'images' is wrong but there, so its name is none of the mistakes.
        ["16", "peers.b.allow.pools[1]"],
        ["17", "peers.c.address"],
        ["20", "transfer.readers"],
        ["21", "transfer.max_rounds"],
    ]


def test_a_file_that_cannot_be_read(file):
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: cannot be read: No such file or directory"
    file.write_bytes(b"node: \xff")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: is not UTF-8 text (byte 6)"


def test_a_file_that_everybody_may_write_is_refused(file):
    _write(file, "node: a")
    file.chmod(0o666)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: is writable by everybody; run: chmod o-w {file}"


def test_an_alias_to_itself_ends(file):
    assert "1: toolstack.command" in _problems(file, "toolstack: {command: &a [*a, *a]}")[0]


def test_metrics_are_nowhere_unless_there_is_an_address(file):
    _write(file, "{}")
    assert load(file).metrics.address is None
    _write(file, "metrics: {address: 192.0.2.1, port: 9000}")
    assert (load(file).metrics.address, load(file).metrics.port) == ("192.0.2.1", 9000)
    _write(file, "metrics: {address: '::1'}")
    assert (load(file).metrics.address, load(file).metrics.port) == ("::1", 9722)


@pytest.mark.parametrize(
    ("written", "key", "reason"),
    [
        ("{address: '127.0.0.1:9722'}", "metrics.address", "say `port: 9722` beside it"),
        ("{address: '*'}", "metrics.address", "is no host name"),
        ("{address: 9722}", "metrics.address", "must be a host name or an IP address"),
        ("{port: 0}", "metrics.port", "1"),
        ("{listen: 127.0.0.1}", "metrics.listen", "unknown key"),
        ("127.0.0.1", "metrics", "must be a map"),
    ],
)
def test_metrics_that_are_written_wrong(file, written, key, reason):
    (problem,) = _problems(file, f"metrics: {written}")
    assert f"{key}: " in problem
    assert reason in problem


@pytest.mark.parametrize(
    ("listen", "metrics", "meet"),
    [
        ("{address: '*', port: 9722}", "{address: 127.0.0.1}", True),
        ("{address: 127.0.0.1, port: 9722}", "{address: '::'}", True),
        ("{address: 192.0.2.1, port: 9722}", "{address: 192.0.2.1}", True),
        ("{address: 192.0.2.1, port: 9722}", "{address: 192.0.2.2}", False),
        ("{port: 9722}", "{}", False),
        ("{port: 9723}", "{address: 127.0.0.1}", False),
    ],
)
def test_metrics_are_not_where_peers_connect_to(file, listen, metrics, meet):
    text = f"listen: {listen}\nmetrics: {metrics}\n"
    if meet:
        (problem,) = _problems(file, text)
        assert "metrics.port: is where peers connect to: see 'listen'" in problem
    else:
        _write(file, text)
        load(file)
