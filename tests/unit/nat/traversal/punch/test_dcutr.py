"""The machines of DCUtR: when to dial, again after a failure, and what peers must not do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.punch.dcutr.core import ANSWER_TIMEOUT, MAX_ROUNDS, Initiator, Responder
from lattica.nat.traversal.punch.dcutr.messages import MAX_ADDRS, Connect, Sync, encode
from lattica.nat.traversal.punch.round_limiter import HOUR, RoundLimiter
from tests.support.clock import Clock
from tests.support.pairs.connected import ALICE, BOB

MINE = (Multiaddr("/ip4/203.0.113.7/tcp/4001"),)
YOURS = (Multiaddr("/ip4/198.51.100.9/tcp/1024"), Multiaddr("/ip4/192.168.1.2/tcp/4001"))


class Pair:
    """Both machines, on one clock, `delay` seconds apart."""

    def __init__(self, delay: float = 0.05) -> None:
        self.clock = Clock()
        self.delay = delay
        self.initiator = Initiator(self.clock)
        self.responder = Responder(self.clock, lambda _: YOURS)

    def round(self, *, fresh_stream: bool = False) -> tuple[float, float]:
        """When each side dials."""
        self.initiator.begin(MINE, fresh_stream=fresh_stream)
        self.clock.now += self.delay
        assert self.responder.receive(self.initiator.data_to_send()) is None
        self.clock.now += self.delay
        self.initiator.receive(self.responder.data_to_send())
        assert self.initiator.punch_at is not None
        self.clock.now += self.delay
        assert self.responder.receive(self.initiator.data_to_send()) == MINE
        assert self.responder.is_between_rounds
        return self.initiator.punch_at, self.clock.now


@given(st.floats(0, 2))
def test_both_dial_at_one_time(delay):
    pair = Pair(delay)
    ours, theirs = pair.round()
    assert ours == pytest.approx(theirs)
    assert pair.initiator.round_trip == pytest.approx(2 * delay)
    assert pair.initiator.peer_addrs == YOURS


def test_three_rounds_on_one_stream_each_measured_anew():
    pair = Pair(delay=1.0)
    pair.round()
    pair.delay = 0.01
    for _ in range(2):
        pair.clock.now += 5
        ours, theirs = pair.round()
        assert ours == pytest.approx(theirs)
        assert pair.initiator.round_trip == pytest.approx(0.02)
    assert pair.initiator.rounds == pair.responder.rounds == MAX_ROUNDS
    with pytest.raises(LocalProtocolError):
        pair.initiator.begin(MINE)
    with pytest.raises(RemoteProtocolError):
        pair.responder.receive(encode(Connect(MINE)))


def test_a_round_on_another_stream():
    """As rust and go do it: whoever begins opens a new stream each time."""
    pair = Pair()
    pair.round()
    pair.responder = Responder(pair.clock, lambda _: YOURS)
    pair.initiator.receive(b"\x05ab")  # the old stream broke off in the middle of something
    ours, theirs = pair.round(fresh_stream=True)
    assert ours == pytest.approx(theirs)


def test_the_answer_depends_on_what_the_peer_has_said():
    heard = []

    def answer(addrs: Sequence[Multiaddr]) -> Sequence[Multiaddr]:
        heard.append(tuple(addrs))
        return YOURS * 20

    responder = Responder(Clock(), answer)
    responder.receive(encode(Connect(MINE)))
    assert heard == [MINE]
    initiator = Initiator(Clock())
    initiator.begin(MINE * 20)
    initiator.receive(responder.data_to_send())
    assert len(initiator.peer_addrs) == len(set(YOURS))


def test_without_addresses_there_is_no_exchange():
    with pytest.raises(LocalProtocolError):
        Initiator(Clock()).begin(())
    with pytest.raises(LocalProtocolError):
        Responder(Clock(), lambda _: ()).receive(encode(Connect(MINE)))


@pytest.mark.parametrize(
    "said", [Sync(), b"\x02\x08\x07", b"\xff\xff\x7f"], ids=["sync", "type", "length"]
)
def test_an_answer_that_is_none(said):
    initiator = Initiator(Clock())
    initiator.begin(MINE)
    with pytest.raises(RemoteProtocolError):
        initiator.receive(said if isinstance(said, bytes) else encode(said))
    assert initiator.punch_at is None


def test_two_answers():
    initiator = Initiator(Clock())
    initiator.begin(MINE)
    with pytest.raises(RemoteProtocolError):
        initiator.receive(encode(Connect(YOURS)) * 2)


def test_a_word_before_it_is_asked_for():
    with pytest.raises(RemoteProtocolError):
        Initiator(Clock()).receive(encode(Connect(YOURS)))


def test_a_late_answer():
    clock = Clock()
    initiator = Initiator(clock)
    initiator.begin(MINE)
    clock.now += ANSWER_TIMEOUT + 0.1
    with pytest.raises(RemoteProtocolError):
        initiator.receive(encode(Connect(YOURS)))


def test_a_clock_that_jumps_back_makes_no_negative_wait():
    clock = Clock()
    initiator = Initiator(clock)
    initiator.begin(MINE)
    clock.now -= 50
    initiator.receive(encode(Connect(YOURS)))
    assert initiator.punch_at == clock.now
    assert initiator.round_trip == 0


def test_one_round_at_a_time():
    initiator = Initiator(Clock())
    initiator.begin(MINE)
    with pytest.raises(LocalProtocolError):
        initiator.begin(MINE, fresh_stream=False)
    initiator.begin(MINE, fresh_stream=True)  # the stream broke before the answer came


def test_a_late_sync():
    """Its sender dialed long ago."""
    clock = Clock()
    responder = Responder(clock, lambda _: YOURS)
    responder.receive(encode(Connect(MINE)))
    responder.data_to_send()
    clock.now += ANSWER_TIMEOUT + 0.1
    with pytest.raises(RemoteProtocolError):
        responder.receive(encode(Sync()))


def test_a_late_connect():
    clock = Clock()
    responder = Responder(clock, lambda _: YOURS)
    clock.now += ANSWER_TIMEOUT + 0.1
    with pytest.raises(RemoteProtocolError):
        responder.receive(encode(Connect(MINE)))


@pytest.mark.parametrize(
    "words",
    [
        [Sync()],
        [Connect(MINE), Connect(MINE)],
        [Connect(MINE), Sync()],
        [Connect(MINE), None, Sync(), Sync()],
    ],
    ids=["sync first", "connect twice", "does not wait", "sync twice"],
)
def test_an_initiator_out_of_order(words):
    """None: it has waited for the answer."""
    responder = Responder(Clock(), lambda _: YOURS)

    def say() -> None:
        for word in words:
            if word is None:
                assert responder.data_to_send()
            else:
                responder.receive(encode(word))

    with pytest.raises(RemoteProtocolError):
        say()


@given(st.binary(max_size=300), st.booleans())
def test_nonsense_is_a_protocol_error_or_nothing(data, asked):
    initiator, responder = Initiator(Clock()), Responder(Clock(), lambda _: YOURS)
    if asked:
        initiator.begin(MINE)
        responder.receive(encode(Connect(MINE)))
        responder.data_to_send()
    for machine in (initiator, responder):
        try:
            machine.receive(data)
        except RemoteProtocolError:
            continue
        assert len(initiator.peer_addrs) <= MAX_ADDRS


# --- how often ---


def test_a_peer_may_ask_so_often():
    clock = Clock()
    limiter = RoundLimiter(2, 3, clock)
    assert [limiter.admit(ALICE.peer_id) for _ in range(3)] == [True, True, False]
    assert [limiter.admit(BOB.peer_id) for _ in range(2)] == [True, False]
    clock.now += 60
    assert limiter.admit(BOB.peer_id)
    assert limiter.admit(ALICE.peer_id)


def test_some_may_ask_so_often_an_hour_and_together_without_limit():
    clock = Clock()
    limiter = RoundLimiter(1, None, clock, period=HOUR)
    for peer in (ALICE.peer_id, BOB.peer_id):
        assert [limiter.admit(peer) for _ in range(2)] == [True, False]
    clock.now += HOUR - 1
    assert not limiter.admit(BOB.peer_id)
    clock.now += 1
    assert limiter.admit(BOB.peer_id)
