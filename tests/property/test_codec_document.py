"""The specification: its tables are those of the code, its examples are what goes on the wire."""

import struct

import pytest
import zstandard
from blake3 import blake3

from protocol.blocksync import RoundDigest
from protocol.conversation import TABLE
from protocol.errors import Code
from protocol.fingerprints import fingerprints
from protocol.frames import (
    Frame,
    FrameDecoder,
    Kind,
    encode_hashes,
    encode_zero,
    split_data,
    split_hashes,
    split_packed,
    split_range,
)
from protocol.handover import Word
from protocol.messages import (
    OLDEST,
    PEER,
    VERSION,
    Abort,
    Accepted,
    Action,
    Attach,
    Begin,
    BeginRound,
    BeginStream,
    Commit,
    Credit,
    EndRound,
    EndStream,
    Failed,
    Fate,
    Hello,
    ImageFormat,
    Inquire,
    Offer,
    OfferedMode,
    Ping,
    Placement,
    Presence,
    Problem,
    Recall,
    Receipt,
    Remark,
    Remarks,
    Seal,
    StreamOffer,
    StreamReceipt,
    StreamTerms,
    VolumeOffer,
    Weight,
    Working,
)
from tests.support.frames import encode_data, encode_memory, encode_packed, encode_stream
from tests.support.protocol_document import DOCUMENT, examples, with_generated
from xenmoved.sync.compression import unpack

TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLES = examples(TEXT)

MIGRATION = "00112233445566778899aabbccddeeff"
BLOCK = b"a" * 65536
ROUND = blake3(
    struct.pack(">BQQ", 2, 65536, 65536)
    + blake3(BLOCK).digest()
    + struct.pack(">BQQ", 4, 131072, 65536)
).digest()

WEB = VolumeOffer(
    "web.img", 1048576, None, "images", None, None, ImageFormat.RAW, 1048576, 512, None, True, None
)

MESSAGES = {
    "Hello": Hello(7, "xenmoved 0.2.0", "host-a", ("blake3-64k", "zstd", "from-7")),
    "Ping": Ping(),
    "Working": Working(2, "making images:web-data"),
    "Begin-sync": Begin(
        MIGRATION,
        Offer(
            Action.SYNC,
            OfferedMode.SAVE,
            False,
            None,
            (WEB,),
        ),
        False,
    ),
    "Accepted": Accepted((Placement("images", "web.img", fresh=True, zeroed=True, size=1048576),)),
    "Attach": Attach(MIGRATION, 0),
    "BeginRound": BeginRound(1, True),
    "Credit": Credit(128),
    "EndRound": EndRound(1, 65536, 65536, 2, ROUND),
    "Receipt": Receipt(1, 65536, 65536, 2, ROUND),
    "StreamOffer": StreamOffer(("bc0e6f64e1b2a25e",), ("lz4_compress",)),
    "StreamTerms": StreamTerms(True, "bc0e6f64e1b2a25e", True, None),
    "BeginStream": BeginStream(2, "bc0e6f64e1b2a25e", "74ae7b5b0f5a3f32", 1082664, False),
    "EndStream": EndStream(2, 1082664),
    "StreamReceipt": StreamReceipt(2, 1082664, "74ae7b5b0f5a3f32"),
    "Seal": Seal(5, blake3(b"image").digest()),
    "Commit": Commit(MIGRATION),
    "Inquire": Inquire(MIGRATION, "c7b44c14-3a0e-4f4f-9d1c-8f2b0d3a6e51", "web"),
    "Abort": Abort(MIGRATION, "aborted"),
    "Fate": Fate(Word.STARTED, Presence.UNSEEN, ""),
    "Fate-unknown": Fate(
        Word.UNKNOWN,
        Presence.THERE,
        "there is no record of it here; a domain of its uuid is there: web (id 7), running",
    ),
    "Recall": Recall(MIGRATION),
    "Remarks": Remarks(True, (Remark(Weight.ACTION, "boot-order", "it starts last", "see it"),)),
    "Failed": Failed(
        Problem("protocol", "Ping is out of turn: the channel is greeting (unexpected)", "")
    ),
}


def only_frame(data: bytes) -> Frame:
    decoder = FrameDecoder(list(Kind))
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    assert not decoder.pending
    return frame


def test_the_generated_parts_are_up_to_date():
    assert with_generated(TEXT) == TEXT, "run: python -m tests.support.protocol_document"


def test_the_document_is_of_the_version_of_the_code():
    assert TEXT.splitlines()[2].startswith(f"Version {VERSION}. ")
    assert f"speaks the versions from {OLDEST} to {VERSION}" in TEXT


def test_every_message_code_stage_and_table_row_is_described():
    for kind in PEER.kinds:
        assert f"#### {kind.__name__}\n" in TEXT
    for code in Code:
        assert f"| `{code}` |" in TEXT
    for stage, request in TABLE:
        assert f"| {stage} | {request.__name__} |" in TEXT


def test_every_example_is_a_vector_here():
    frames = {"ZERO", "DATA", "PACKED", "HASHES", "MEMORY", "STREAM"}
    frames |= {"round-digest-input", "round-digest"}
    assert EXAMPLES.keys() == MESSAGES.keys() | frames


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_these_bytes(name):
    message, data = MESSAGES[name], EXAMPLES[name]
    assert PEER.encode(message).hex(" ") == data.hex(" ")
    frame = only_frame(data)
    assert frame.kind is Kind.MESSAGE
    assert PEER.decode(frame.untrusted_body) == message


def test_bulk_frames_are_these_bytes():
    hashes = blake3(BLOCK).digest() + bytes(32)
    packed = EXAMPLES["PACKED"][17:]
    made = {
        "ZERO": encode_zero(131072, 65536),
        "DATA": encode_data(65536, b"xen"),
        "PACKED": encode_packed(65536, 65536, packed),
        "HASHES": encode_hashes(1, hashes),
        "MEMORY": encode_memory(b"image"),
        "STREAM": encode_stream(b"piece"),
    }
    for name, data in made.items():
        assert data.hex(" ") == EXAMPLES[name].hex(" "), name
        assert only_frame(data).kind is Kind[name]
    assert split_range(only_frame(EXAMPLES["ZERO"]).untrusted_body) == (131072, 65536)
    assert split_data(only_frame(EXAMPLES["DATA"]).untrusted_body) == (65536, b"xen")
    assert split_hashes(only_frame(EXAMPLES["HASHES"]).untrusted_body) == (1, hashes)
    assert bytes(only_frame(EXAMPLES["MEMORY"]).untrusted_body) == b"image"
    assert bytes(only_frame(EXAMPLES["STREAM"]).untrusted_body) == b"piece"
    offset, length, payload = split_packed(only_frame(EXAMPLES["PACKED"]).untrusted_body)
    assert (offset, length) == (65536, 65536)
    assert unpack(payload, length) == BLOCK
    assert zstandard.ZstdDecompressor().decompress(packed) == BLOCK


def test_the_digest_of_a_round_is_of_these_bytes():
    assert blake3(EXAMPLES["round-digest-input"]).digest() == EXAMPLES["round-digest"] == ROUND
    digest = RoundDigest()
    digest.add_data(65536, 65536, fingerprints(memoryview(BLOCK)))
    digest.add_zero(131072, 65536)
    assert digest.value() == EXAMPLES["round-digest"]
