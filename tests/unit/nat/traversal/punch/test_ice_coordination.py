"""How two peers arrange ICE over a relayed connection."""

from __future__ import annotations

import random

import pytest

from lattica.errors import IncompleteReadError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.pb import ice_pb2 as pb
from lattica.nat.traversal.punch.ice.agent import Credentials
from lattica.nat.traversal.punch.ice.candidates import CandidateType, local_candidate
from lattica.nat.traversal.punch.ice.coordination import LONGEST_WAIT, Agreed, Opener, Responder
from lattica.nat.traversal.punch.ice.messages import (
    MAX_MESSAGE,
    Answer,
    Description,
    Offer,
    Refusal,
    Start,
    decode,
    encode,
    new_credentials,
)
from tests.support.clock import Clock

RNG = random.Random(5)


def description(count: int = 3) -> Description:
    hosts = ["192.168.1.10", "11.0.0.1", "2001:db8::1"]
    return Description(
        new_credentials(RNG.randbytes),
        tuple(
            local_candidate(type_, hosts[rank % 3], 4001, base=0, rank=rank)
            for rank, type_ in zip(range(count), list(CandidateType) * count, strict=False)
        ),
    )


def payload(data: bytes) -> bytes:
    """A message without its length, which has one byte or two here."""
    return data[1 if data[0] < 0x80 else 2 :]


# --- the course of it ---


def test_both_sides_begin_half_a_round_trip_after_the_start_is_said():
    clock = Clock(100.0)
    ours, theirs = description(), description()
    opener, responder = Opener(ours, clock), Responder()
    offer = responder.receive(opener.data_to_send())
    assert offer == Offer(ours)
    responder.answer(theirs)
    clock.now += 0.1
    agreed = opener.receive(responder.data_to_send())
    assert isinstance(agreed, Agreed)
    assert agreed.peer == theirs
    assert agreed.start_at == pytest.approx(100.15)
    assert responder.receive(opener.data_to_send()) == Start()
    assert responder.data_to_send() == opener.data_to_send() == b""


def test_a_slow_or_strange_clock_makes_nobody_wait_for_long():
    for step, wait in ((60.0, LONGEST_WAIT), (-5.0, 0.0)):
        clock = Clock()
        opener = Opener(description(), clock)
        clock.now += step
        agreed = opener.receive(encode(Answer(description())))
        assert isinstance(agreed, Agreed)
        assert agreed.start_at == pytest.approx(clock.now + wait)


def test_a_refusal_is_an_end():
    opener, responder = Opener(description(), Clock()), Responder()
    responder.receive(opener.data_to_send())
    responder.refuse("too busy")
    assert opener.receive(responder.data_to_send()) == Refusal("too busy")
    with pytest.raises(RemoteProtocolError):
        opener.receive(encode(Answer(description())))


def test_messages_come_in_any_pieces():
    opener, responder = Opener(description(), Clock()), Responder()
    heard = [responder.receive(bytes([byte])) for byte in opener.data_to_send()]
    assert [type(message) for message in heard if message] == [Offer]


@pytest.mark.parametrize(
    "messages",
    [
        [Start()],
        [Answer(description())],
        [Refusal("no")],
        [Offer(description()), Offer(description())],
        [Offer(description()), Start()],
    ],
)
def test_the_responder_hears_nothing_out_of_turn(messages):
    responder = Responder()
    for message in messages[:-1]:
        responder.receive(encode(message))
    with pytest.raises(RemoteProtocolError):
        responder.receive(encode(messages[-1]))


def test_nor_does_it_start_twice_or_answer_twice():
    responder = Responder()
    with pytest.raises(LocalProtocolError):
        responder.answer(description())
    responder.receive(encode(Offer(description())))
    responder.answer(description())
    with pytest.raises(LocalProtocolError):
        responder.refuse("after all")
    responder.receive(encode(Start()))
    with pytest.raises(RemoteProtocolError):
        responder.receive(encode(Start()))


@pytest.mark.parametrize("message", [Start(), Offer(description())])
def test_the_opener_hears_nothing_out_of_turn(message):
    with pytest.raises(RemoteProtocolError):
        Opener(description(), Clock()).receive(encode(message))
    with pytest.raises(RemoteProtocolError):
        Opener(description(), Clock()).receive(encode(Answer(description())) * 2)


@pytest.mark.parametrize("before", [b"", b"\x05"])
def test_an_early_end_is_an_error(before):
    opener = Opener(description(), Clock())
    if before:
        opener.receive(before)
    with pytest.raises(IncompleteReadError):
        opener.receive(b"")


# --- the messages ---


@pytest.mark.parametrize(
    "message", [Offer(description()), Answer(description(0)), Start(), Refusal("it is too much")]
)
def test_messages_survive_the_wire(message):
    assert decode(payload(encode(message))) == message


def test_credentials_are_as_the_rfc_wants_them():
    credentials = new_credentials(RNG.randbytes)
    assert len(credentials.ufrag) == 8
    assert len(credentials.password) == 24
    assert new_credentials(RNG.randbytes) != credentials


def raw(**changes: object) -> bytes:
    fields = {"type": pb.Message.OFFER, "ufrag": b"abcd", "password": b"p" * 22, **changes}
    return pb.Message(**fields).SerializeToString()  # type: ignore[arg-type]


def one(**changes: object) -> pb.Candidate:
    fields = {
        "type": pb.Candidate.HOST, "ip": b"\x0b\0\0\1", "port": 1, "priority": 1,
        "foundation": b"f",
        **changes,
    }  # fmt: skip
    return pb.Candidate(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", pb.Message(type=pb.Message.UNUSED).SerializeToString(), b"\x08\x63",
        bytes(MAX_MESSAGE + 1), raw(ufrag=b"abc"), raw(ufrag=b"a" * 33), raw(ufrag=b"ab:d"),
        raw(ufrag="äbcd".encode()), raw(ufrag=b"abcd\xff"), raw(ufrag=b"abcd\n"),
        raw(password=b"p" * 21), raw(password=b"p" * 65),
        raw(candidates=[one(ip=b"\0" * 5)]), raw(candidates=[one(ip=b"")]),
        raw(candidates=[one(port=0)]), raw(candidates=[one(port=65536)]),
        raw(candidates=[one(priority=0)]), raw(candidates=[one(priority=1 << 31)]),
        raw(candidates=[one(foundation=b"")]), raw(candidates=[one(foundation=b"f" * 33)]),
    ],
)  # fmt: skip
def test_bad_messages_are_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_what_nobody_knows_yet_is_left_out():
    message = decode(raw(candidates=[one(type=0), one(), one(type=3)]))
    assert isinstance(message, Offer)
    assert [c.type for c in message.description.candidates] == [
        CandidateType.HOST,
        CandidateType.PEER_REFLEXIVE,
    ]


def test_too_many_candidates_are_too_long_or_not_looked_at():
    message = decode(raw(candidates=[one(port=port) for port in range(1, 101)]))
    assert isinstance(message, Offer)
    assert [c.port for c in message.description.candidates] == list(range(1, 17))
    huge = raw(candidates=[one(port=port) for port in range(1, 10_001)])
    with pytest.raises(RemoteProtocolError):
        Responder().receive(encode_length_prefixed(huge))


def test_a_reason_cannot_garble_a_terminal():
    data = pb.Message(
        type=pb.Message.REFUSAL, reason=b"no\x1b[2J" + b"x" * 1000
    ).SerializeToString()
    message = decode(data)
    assert isinstance(message, Refusal)
    assert message.reason.startswith("no[2Jx")
    assert len(message.reason) < 200
    assert decode(b"\x08\x04") == Refusal("no reason given")


def test_what_is_too_long_is_not_sent():
    with pytest.raises(LocalProtocolError):
        encode(Offer(Description(Credentials("a" * 5000, "b"), ())))
