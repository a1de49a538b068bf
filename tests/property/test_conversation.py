"""Who may say what when on a control channel."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.conversation import TABLE, Conversation, Stage
from protocol.errors import Code, ProtocolError
from protocol.messages import (
    CAPABILITIES,
    PEER,
    REQUIRED_CAPABILITIES,
    VERSION,
    Accepted,
    Begin,
    Commit,
    Failed,
    Fate,
    Finish,
    Finished,
    HandOver,
    Hello,
    Inquire,
    Ping,
    Pong,
    Ready,
    Recall,
    Receiving,
    Refused,
    Remarks,
    Seal,
    Working,
)
from tests.support.protocol_strategies import objects

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
REQUESTS = {request for _, request in TABLE}
REPLIES = {reply for replies in TABLE.values() for reply in replies} | {Failed}


OURS = Hello(VERSION, "ours", "a", CAPABILITIES)
OTHERS = (Hello(VERSION + 1, "new", "b", CAPABILITIES), Hello(VERSION, "odd", "b", ("zstd",)))


def made(kind):
    """Return a message of a kind; what is in its fields matters only in a greeting."""
    return OURS if kind is Hello else kind.__new__(kind)


def refused(call, kind):
    with pytest.raises(ProtocolError, match=f"{kind.__name__} is out of turn") as caught:
        call(made(kind))
    assert caught.value.code is Code.UNEXPECTED


def greeted(source, target):
    """Return a conversation after the greetings of two releases."""
    conversation = Conversation()
    conversation.request(source)
    conversation.reply(target)
    return conversation


def at(stage):
    """Return a conversation that has come to a stage."""
    if stage is Stage.SETTLING:
        return greeted(OURS, OTHERS[0])
    ways = {Stage.GREETING: []}
    while stage not in ways:
        for (start, request), replies in TABLE.items():
            for reply, end in replies.items():
                if start in ways:
                    ways.setdefault(end, [*ways[start], (request, reply)])
    conversation = Conversation()
    for request, reply in ways[stage]:
        conversation.request(made(request))
        conversation.reply(made(reply))
    assert conversation.stage is stage
    return conversation


def test_the_messages_of_control_channels_are_in_the_table():
    bulk = {"Attach", "BeginRound", "Credit", "EndRound", "Receipt"}
    bulk |= {"StreamOffer", "StreamTerms", "BeginStream", "EndStream", "StreamReceipt"}
    control = {kind for kind in PEER.kinds if kind.__name__ not in bulk}
    assert control == REQUESTS | REPLIES | {Working}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("kind", PEER.kinds, ids=lambda kind: kind.__name__)
def test_each_stage_takes_the_requests_of_the_table_and_no_other(stage, kind):
    if (stage, kind) not in TABLE:
        refused(at(stage).request, kind)
        return
    for answer in PEER.kinds:
        conversation = at(stage)
        conversation.request(made(kind))
        for another in PEER.kinds:
            refused(conversation.request, another)
        if answer is Failed:
            conversation.reply(made(answer))
            assert conversation.stage is Stage.ENDED
        elif answer is Working and stage is not Stage.GREETING:
            conversation.reply(made(answer))  # which leaves the question open
            conversation.reply(made(next(iter(TABLE[stage, kind]))))
        elif answer in TABLE[stage, kind]:
            conversation.reply(made(answer))
            assert conversation.stage is TABLE[stage, kind][answer]
            refused(conversation.reply, answer)
        else:
            refused(conversation.reply, answer)


@pytest.mark.parametrize("stage", Stage)
def test_nothing_is_answered_unasked_but_a_failure(stage):
    for kind in PEER.kinds:
        if kind is not Failed:
            refused(at(stage).reply, kind)
    conversation = at(stage)
    conversation.reply(made(Failed))
    assert conversation.stage is Stage.ENDED
    for kind in PEER.kinds:
        refused(conversation.request, kind)


def test_releases_that_do_not_match_can_settle_a_doubt_and_no_more():
    assert greeted(OURS, OURS).stage is Stage.IDLE
    for other in OTHERS:
        for conversation in (greeted(OURS, other), greeted(other, OURS)):
            assert conversation.stage is Stage.SETTLING
            refused(conversation.request, Begin)
            for request in (Inquire, Recall, Inquire, Commit):
                conversation.request(made(request))
                conversation.reply(made(Remarks if request is Recall else Fate))
            assert conversation.stage is Stage.ENDED


def test_a_migration_and_a_sync_take_these_ways():
    for way in (
        [
            (Hello, Hello),
            (Ping, Pong),
            (Begin, Refused),
            (Begin, Accepted),
            (HandOver, Receiving),
            (Seal, Ready),
            (Commit, Fate),
        ],
        [(Hello, Hello), (Begin, Accepted), (Finish, Finished)],
    ):
        conversation = Conversation()
        for request, reply in way:
            conversation.request(made(request))
            conversation.reply(made(reply))
        assert conversation.stage is Stage.ENDED


@QUICK
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(PEER.kinds)), max_size=25))
def test_both_sides_agree_on_every_sequence(steps):
    """The same messages in the same order: whatever one side refuses, so does the other."""
    ours, theirs = Conversation(), Conversation()
    for is_request, kind in steps:
        results = []
        for side in (ours, theirs):
            try:
                (side.request if is_request else side.reply)(made(kind))
            except ProtocolError as error:
                results.append(str(error))
            else:
                results.append(side.stage)
        assert results[0] == results[1]
        assert ours.stage is theirs.stage


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(objects(Hello))
def test_what_is_in_a_message_does_not_matter(greeting):
    conversation = Conversation()
    conversation.request(greeting)
    conversation.reply(greeting)
    fits = set(greeting.capabilities) >= REQUIRED_CAPABILITIES
    assert conversation.stage is (Stage.IDLE if fits else Stage.SETTLING)
