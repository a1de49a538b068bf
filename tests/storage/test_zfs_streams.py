"""What ZFS says of snapshots and streams, and how it is read. The zvols themselves: make lab."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from storage.buffers import AlignedBuffer
from storage.contracts import ResumePoint, Snapshot, own_name
from storage.errors import VolumeError, VolumeResized
from storage.zfs.history import (
    ZfsHistory,
    is_receiving,
    parse_features,
    parse_snapshots,
    parse_stream_size,
    parse_token,
)
from storage.zfs.stream import HEAD_SIZE, StreamHead, read_head

MIGRATION = "00112233445566778899aabbccddeeff"

# What OpenZFS 2.1 prints for a stream that broke off.
TOKEN_TEXT = f"""resume token contents:
nvlist version: 0
	fromguid = 0x9675f1615a984299
	object = 0x1
	offset = 0x2398000
	bytes = 0x5b7a68
	toguid = 0xd224b42a5b573597
	toname = tank/src/v1@xenmoved-host-b-{MIGRATION}-3
	compressok = 1
incremental	tank/src/v1@a	tank/src/v1@b	6912928
size	6912928
"""


def test_snapshots_of_ours_are_told_by_their_names() -> None:
    ours = Snapshot(own_name("host-b", MIGRATION, 12), 1)
    assert ours.ours
    assert ours.is_for("host-b")
    assert not ours.is_for("host")
    assert not ours.is_for("b")
    for name in ("auto-daily", "xenmoved", "xenmoved-b-1-1", f"my-{ours.name}", f"{ours.name}-x"):
        assert not Snapshot(name, 1).ours
        assert not Snapshot(name, 1).is_for("host-b")


def test_peers_whose_names_begin_alike_are_told_apart() -> None:
    assert not Snapshot(own_name("host-b", MIGRATION, 1), 1).is_for("host")
    assert Snapshot(own_name("host-b", MIGRATION, 1), 1).is_for("host-b")


def test_what_an_earlier_process_left_is_told_by_its_command_line() -> None:
    ours = own_name("host-b", MIGRATION, 1)
    command = ["zfs", "receive", "-u", "-s", f"tank/v@{ours}"]
    assert is_receiving(command, "tank/v")
    assert not is_receiving(command, "tank")
    assert not is_receiving(command, "tank/v2")
    assert not is_receiving(["zfs", "receive", "-u", "tank/v@daily"], "tank/v")
    assert not is_receiving(["zfs", "send", f"tank/v@{ours}"], "tank/v")
    assert not is_receiving(["cat", "zfs", "receive", f"tank/v@{ours}"], "tank/v")
    assert not is_receiving([], "tank/v")


@pytest.mark.root
def test_a_snapshot_has_what_a_backend_wrote_through_the_page_cache(tmp_path, monkeypatch):
    """The zvol is a loop device here, and its snapshot a copy of what lies beneath."""
    image, snapshot = tmp_path / "zvol", tmp_path / "snapshot"
    image.write_bytes(bytes(1 << 20))
    losetup = ("losetup", "--find", "--show", "--direct-io=on", image)
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()

    def zfs(command: list[str]) -> str:
        if command[1] == "snapshot":
            buffer = AlignedBuffer(1 << 20).view
            beneath = os.open(image, os.O_RDONLY | os.O_DIRECT)
            os.preadv(beneath, [buffer], 0)
            os.close(beneath)
            snapshot.write_bytes(buffer)
            return ""
        return f"77\n{1 << 20}"

    monkeypatch.setattr("storage.zfs.history.run", zfs)
    backend = os.open(device, os.O_RDWR)
    try:
        os.pwrite(backend, b"told to be done", 4096)
        taken = ZfsHistory("tank/v", device).take("name", 1 << 20)
    finally:
        os.close(backend)
        subprocess.run(["losetup", "-d", device], check=True)
    assert taken == Snapshot("name", 77)
    assert b"told to be done" in snapshot.read_bytes()


def test_a_snapshot_of_another_size_is_none_of_the_zvol_that_was_opened(tmp_path, monkeypatch):
    device = tmp_path / "zvol"
    device.touch()
    commands = []

    def zfs(command: list[str]) -> str:
        commands.append(command[1:])
        return f"77\n{96 << 20}" if command[1] == "get" else ""

    monkeypatch.setattr("storage.zfs.history.run", zfs)
    name = own_name("host-b", MIGRATION, 1)
    with pytest.raises(VolumeResized, match="100663296 bytes now, and had 67108864"):
        ZfsHistory("tank/v", str(device)).take(name, 64 << 20)
    assert commands[-1] == ["destroy", f"tank/v@{name}"]


def test_snapshots_are_read_in_their_order() -> None:
    text = "tank/v@one\t13803921727113156943\ntank/v@two b\t10841837078398386841\n"
    assert parse_snapshots(text) == [
        Snapshot("one", 13803921727113156943),
        Snapshot("two b", 10841837078398386841),
    ]
    assert parse_snapshots("") == []


def test_features_count_in_the_wanted_states_only() -> None:
    text = "feature@lz4_compress\tactive\nfeature@zstd_compress\tenabled\n"
    assert parse_features(text, ["active"]) == {"lz4_compress"}
    assert parse_features(text, ["active", "enabled"]) == {"lz4_compress", "zstd_compress"}
    assert parse_features("feature@zstd_compress\tdisabled\n", ["active", "enabled"]) == frozenset()


def test_the_size_of_a_stream() -> None:
    assert parse_stream_size("full\ttank/v@a\t1082664\nsize\t1082664\n") == 1082664
    with pytest.raises(VolumeError, match="no size"):
        parse_stream_size("full\ttank/v@a\t1082664\n")


def test_a_token_is_read() -> None:
    point = parse_token("1-ab", TOKEN_TEXT)
    assert point == ResumePoint("1-ab", 0xD224B42A5B573597, 0x9675F1615A984299)
    full = TOKEN_TEXT.replace("\tfromguid = 0x9675f1615a984299\n", "")
    assert parse_token("1-ab", full) == ResumePoint("1-ab", 0xD224B42A5B573597, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cannot resume send: 'x' is no token",
        TOKEN_TEXT.replace("xenmoved-host-b", "syncoid"),
        TOKEN_TEXT.replace("toguid", "guid"),
    ],
)
def test_tokens_of_others_are_not_ours(text: str) -> None:
    assert parse_token("1-ab", text) is None


def head(
    *,
    order: str = "<",
    record: int = 0,
    magic: int = 0x2F5BACBAC,
    version: int = 17301505,  # as OpenZFS 2.1 has it for zfs send -c
    kind: int = 3,
    snapshot: int = 8407937344081658354,
    base: int = 5801597779946474377,
) -> bytes:
    fields = (record, 0, magic, version, 1795409129, kind, 12, snapshot, base)
    return struct.pack(f"{order}IIQQQIIQQ", *fields).ljust(HEAD_SIZE, b"\0")


@pytest.mark.parametrize("order", "<>")
def test_the_head_of_a_stream_tells_where_it_leads(order: str) -> None:
    found = StreamHead(8407937344081658354, 5801597779946474377)
    assert read_head(head(order=order)) == found
    assert read_head(head(order=order, base=0)) == StreamHead(8407937344081658354, None)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (head()[:-1], "ends within"),
        (head(magic=1), "no ZFS stream"),
        (bytes(HEAD_SIZE), "no ZFS stream"),
        (head(record=5), "more than one snapshot"),
        (head(version=2), "more than one snapshot"),  # a package, as of zfs send -R
        (head(kind=2), "not of a zvol"),  # a file system
    ],
)
def test_other_streams_are_refused(bad: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_head(bad)
