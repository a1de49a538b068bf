"""What any two releases say to each other, for ever: these bytes never change.

They settle a doubt about who owns a guest, however old or new the other side is. What is said here
is not to be made to pass again: a change of it is a mistake.
"""

import pytest

from protocol.conversation import TABLE, Conversation, Stage
from protocol.frames import FrameDecoder, Kind
from protocol.handover import Word
from protocol.messages import (
    OLDEST,
    PEER,
    VERSION,
    Abort,
    Attach,
    Commit,
    Failed,
    Fate,
    Hello,
    Inquire,
    Presence,
    Problem,
    Recall,
    Remark,
    Remarks,
    Weight,
    Working,
    greeting,
)
from tests.support.wire_tables import frozen_table, recorded

MIGRATION = "00112233445566778899aabbccddeeff"

VECTORS = [
    (
        Hello(7, "xenmoved 0.2.0", "host-a", ("blake3-64k", "zstd", "zfs-stream", "from-7")),
        "010000006592a548656c6c6f84a776657273696f6e07a8736f667477617265ae78656e6d6f7665642030"
        "2e322e30a46e6f6465a6686f73742d61ac6361706162696c697469657394aa626c616b65332d36346ba4"
        "7a737464aa7a66732d73747265616da666726f6d2d37",
    ),
    (
        Working(2, "making images:web"),
        "010000002992a7576f726b696e6782a5737465707302a5646f696e67b16d616b696e6720696d61676573"
        "3a776562",
    ),
    (
        Commit(MIGRATION),
        "010000003592a6436f6d6d697481a96d6967726174696f6ed92030303131323233333434353536363737"
        "38383939616162626363646465656666",
    ),
    (
        Abort(MIGRATION, "aborted"),
        "010000004392a541626f727482a96d6967726174696f6ed9203030313132323333343435353636373738"
        "383939616162626363646465656666a6726561736f6ea761626f72746564",
    ),
    (
        Inquire(MIGRATION, "c7b44c14-3a0e-4f4f-9d1c-8f2b0d3a6e51", "web"),
        "010000006a92a7496e717569726583a96d6967726174696f6ed920303031313232333334343535363637"
        "3738383939616162626363646465656666a475756964d92463376234346331342d336130652d34663466"
        "2d396431632d386632623064336136653531a46e616d65a3776562",
    ),
    (
        Inquire(MIGRATION, None, "web"),
        "010000004592a7496e717569726583a96d6967726174696f6ed920303031313232333334343535363637"
        "3738383939616162626363646465656666a475756964c0a46e616d65a3776562",
    ),
    (
        Recall(MIGRATION),
        "010000003592a6526563616c6c81a96d6967726174696f6ed92030303131323233333434353536363737"
        "38383939616162626363646465656666",
    ),
    (
        Remarks(True, (Remark(Weight.INFO, "a", "b", "c"), Remark(Weight.ACTION, "d", "e", ""))),
        "010000006292a752656d61726b7382a8636f6d706c657465c3a772656d61726b739284a6776569676874"
        "a4696e666fa4636f6465a161a474657874a162a468696e74a16384a6776569676874a6616374696f6ea4"
        "636f6465a164a474657874a165a468696e74a0",
    ),
    (
        Remarks(False, ()),
        "010000001d92a752656d61726b7382a8636f6d706c657465c2a772656d61726b7390",
    ),
    (
        Failed(Problem("version", "b", "c")),
        "010000002d92a64661696c656481a770726f626c656d83a4636f6465a776657273696f6ea474657874a1"
        "62a468696e74a163",
    ),
    (
        Attach(MIGRATION, 3),
        "010000003d92a641747461636882a96d6967726174696f6ed92030303131323233333434353536363737"
        "38383939616162626363646465656666a6766f6c756d6503",
    ),
    (
        Fate(Word.RECEIVING, Presence.UNSEEN, ""),
        "010000002c92a44661746583a4776f7264a9726563656976696e67a6646f6d61696ea6756e7365656ea6"
        "726561736f6ea0",
    ),
    (
        Fate(Word.READY, Presence.UNSEEN, ""),
        "010000002892a44661746583a4776f7264a57265616479a6646f6d61696ea6756e7365656ea672656173"
        "6f6ea0",
    ),
    (
        Fate(Word.COMMITTED, Presence.UNSEEN, ""),
        "010000002c92a44661746583a4776f7264a9636f6d6d6974746564a6646f6d61696ea6756e7365656ea6"
        "726561736f6ea0",
    ),
    (
        Fate(Word.STARTED, Presence.UNSEEN, ""),
        "010000002a92a44661746583a4776f7264a773746172746564a6646f6d61696ea6756e7365656ea67265"
        "61736f6ea0",
    ),
    (
        Fate(Word.ABORTED, Presence.UNSEEN, ""),
        "010000002a92a44661746583a4776f7264a761626f72746564a6646f6d61696ea6756e7365656ea67265"
        "61736f6ea0",
    ),
    (
        Fate(Word.NEVER_READY, Presence.UNSEEN, ""),
        "010000002e92a44661746583a4776f7264ab6e657665722d7265616479a6646f6d61696ea6756e736565"
        "6ea6726561736f6ea0",
    ),
    (
        Fate(Word.UNKNOWN, Presence.UNSEEN, ""),
        "010000002a92a44661746583a4776f7264a7756e6b6e6f776ea6646f6d61696ea6756e7365656ea67265"
        "61736f6ea0",
    ),
    (
        Fate(Word.UNKNOWN, Presence.THERE, "why"),
        "010000002c92a44661746583a4776f7264a7756e6b6e6f776ea6646f6d61696ea57468657265a6726561"
        "736f6ea3776879",
    ),
    (
        Fate(Word.UNKNOWN, Presence.NAMESAKE, "why"),
        "010000002f92a44661746583a4776f7264a7756e6b6e6f776ea6646f6d61696ea86e616d6573616b65a6"
        "726561736f6ea3776879",
    ),
    (
        Fate(Word.UNKNOWN, Presence.ABSENT, "why"),
        "010000002d92a44661746583a4776f7264a7756e6b6e6f776ea6646f6d61696ea6616273656e74a67265"
        "61736f6ea3776879",
    ),
    (
        Fate(Word.UNKNOWN, Presence.UNSEEN, "why"),
        "010000002d92a44661746583a4776f7264a7756e6b6e6f776ea6646f6d61696ea6756e7365656ea67265"
        "61736f6ea3776879",
    ),
]
FAR = [
    Hello(0, "?", "x", ()),
    Hello(1, "xenmoved 0.0.1", "old", ("blake3-64k",)),
    Hello(OLDEST - 1, "xenmoved 0.1.0", "old", ("blake3-64k", "zstd")),
    Hello(VERSION + 2, "xenmoved 9", "new", ("blake3-64k", f"from-{VERSION + 1}")),
    Hello(65535, "y" * 200, "z" * 200, tuple(f"from-{at}" for at in range(65280, 65536))),
    Hello(VERSION, "xenmoved 0.2.0", "odd", ("blake4-1m", f"from-{OLDEST}")),
]


def body(frame):
    decoder = FrameDecoder([Kind.MESSAGE])
    decoder.feed(frame)
    return decoder.next_frame().untrusted_body


@pytest.mark.parametrize(("message", "said"), VECTORS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("version", [None, 0, OLDEST, VERSION, 65535])
def test_these_bytes_are_said_and_understood(message, said, version):
    messages = PEER if version is None else PEER.at(version)
    assert messages.encode(message).hex() == said
    assert messages.decode(body(bytes.fromhex(said))) == message


def test_there_is_a_vector_of_every_frozen_message_and_of_every_word_in_them():
    assert {type(message) for message, _ in VECTORS} == PEER.frozen_kinds
    fates = [message for message, _ in VECTORS if isinstance(message, Fate)]
    assert {fate.word for fate in fates} == set(Word)
    assert {fate.domain for fate in fates} == set(Presence)


def test_no_field_bound_or_turn_of_them_has_changed():
    assert frozen_table() == recorded("frozen").read_text(encoding="utf-8")


def test_only_what_is_frozen_settles_a_doubt():
    said = {
        kind
        for (stage, request), replies in TABLE.items()
        for kind in (request, *replies)
        if stage in (Stage.GREETING, Stage.SETTLING)
    }
    assert said | {Working, Failed, Attach} == PEER.frozen_kinds


@pytest.mark.parametrize("far", FAR, ids=lambda one: str(one.version))
@pytest.mark.parametrize("we_ask", [True, False])
def test_a_doubt_is_settled_with_any_release(far, we_ask):
    """Every question has its answer, whatever the two know of each other beside that."""
    ours = greeting("xenmoved 0.2.0", "here")
    conversation = Conversation()
    conversation.request(ours if we_ask else far)
    conversation.reply(far if we_ask else ours)
    assert (conversation.stage, conversation.version) == (Stage.SETTLING, None)
    for question, answer in (
        (Inquire(MIGRATION, None, "web"), Fate(Word.COMMITTED, Presence.UNSEEN, "")),
        (Recall(MIGRATION), Remarks(False, ())),
        (Inquire(MIGRATION, None, "web"), Fate(Word.READY, Presence.UNSEEN, "")),
        (Commit(MIGRATION), Fate(Word.STARTED, Presence.UNSEEN, "")),
    ):
        conversation.request(PEER.decode(body(PEER.encode(question))))
        conversation.reply(PEER.decode(body(PEER.encode(answer))))
    assert conversation.stage is Stage.ENDED
