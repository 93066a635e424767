"""The QUIC session over a simulated network: identity, streams, credit, migration, the end."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from lattica.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    PeerMismatchError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.config import KIB, MIB, Limits, Timeouts
from lattica.nat.mux import lingering
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import EventKind
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.session.credit import ControlReader, encode_credit
from lattica.nat.quic.session.introduction import PRE_AUTH_LIMIT, Introduction
from lattica.nat.quic.session.outgoing import MAX_MESSAGE
from lattica.nat.quic.session.streams import SpokenStreams
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.quic_pair import CLIENT_ADDRESS, Link, Pair, Side, identity

LOSSY = Link(delay=0.01, jitter=0.005, loss=0.05, duplication=0.05, seed=7)


def pattern(size: int, key: int = 0) -> bytes:
    return random.Random(key).randbytes(size)


def read_into(stream: MuxStream, parts: list[bytes]) -> Any:
    return lambda: parts.append(take_all(stream))


def native(side: Side) -> Any:
    return side.session._drive.native


def inject(side: Side, stream_id: int, data: bytes, fin: bool = False) -> None:
    """Send on a stream past all that the session would ask."""
    native(side).send_stream(stream_id, data, fin)
    side.session._dirty = True


# --- who is there ---


def test_both_know_each_other() -> None:
    pair = Pair().establish()
    for mine, other in ((pair.a, pair.b), (pair.b, pair.a)):
        assert mine.session.remote is not None
        assert mine.session.remote.peer_id == other.identity.peer_id


def test_the_expected_peer_is_accepted_and_another_is_not() -> None:
    Pair(a={"expected_peer": identity(2).peer_id}).establish()
    pair = Pair(a={"expected_peer": identity(3).peer_id})
    with pytest.raises(PeerMismatchError):
        pair.establish()
    pair.settle()
    assert pair.b.session.remote is None
    assert pair.b.session.closed is not None
    assert pair.b.session.closed[0] == 1


def test_a_private_network_lets_only_its_members_in() -> None:
    Pair(network_key=b"k" * 32).establish()
    pair = Pair(a={"network_key": b"x" * 32}, b={"network_key": b"k" * 32})
    with pytest.raises(RemoteProtocolError, match="private network"):
        pair.establish()


def test_nobody_opens_streams_before_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    send = Introduction._send
    monkeypatch.setattr(Introduction, "_send", lambda self: send(self) if self._initiator else None)
    assert pair.run(lambda: pair.b.session._drive.core.handshake_complete)
    assert pair.b.session.remote is None
    inject(pair.b, 1, b"hello")
    pair.settle()
    assert isinstance(pair.a.error, RemoteProtocolError)


def test_streams_that_overtake_noises_last_message_are_served() -> None:
    pair = Pair()
    held: list[bytes] = []

    def hold_the_first(side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        # The first datagram that has the client know the server is the one with the message.
        if side == 0 and pair.a.session.remote is not None and not held:
            held.append(datagram)
            return [(0.2, datagram)]
        return [(0.01, datagram)]

    pair.link.fate = hold_the_first
    assert pair.run(lambda: pair.a.session.remote is not None)
    pair.transmit(0)
    streams = [pair.a.session.open() for _ in range(3)]
    for stream in streams:
        write(stream, b"early %d" % stream.id)
    assert pair.run(lambda: len(pair.b.accepted) == 3)
    assert [take_all(s) for s in pair.b.accepted] == [b"early 4", b"early 8", b"early 12"]


def test_a_stranger_may_not_send_much() -> None:
    pair = Pair()
    assert pair.run(lambda: pair.b.session._drive.core.handshake_complete)
    datagrams = (b"\x40" + bytes(999)) * (PRE_AUTH_LIMIT // 1000 + 2)
    with pytest.raises(RemoteProtocolError, match="before the peer is authenticated"):
        pair.b.session.receive(datagrams, 1000, CLIENT_ADDRESS)


def test_the_initiator_sends_little_before_noise_is_over() -> None:
    pair = Pair()
    lost: list[bytes] = []

    def lose(side: int, datagram: bytes) -> list[tuple[float, bytes]]:
        if side == 0 and pair.a.session.remote is not None:
            lost.append(datagram)
            return []
        return [(0.01, datagram)]

    pair.link.fate = lose
    assert pair.run(lambda: pair.a.session.remote is not None)
    write(pair.a.session.open(), bytes(MIB))
    pair.settle(3)
    assert sum(map(len, lost)) < PRE_AUTH_LIMIT
    pair.link.fate = None
    assert pair.run(lambda: len(pair.b.accepted) == 1)


def test_a_server_of_another_protocol_is_refused() -> None:
    pair = Pair()
    pair.b.session._drive.core.configuration.alpn_protocols = ["other"]
    pair.settle()
    assert pair.a.session.closed is not None
    assert pair.a.session.remote is None
    assert pair.b.session.closed is not None
    assert pair.b.session.remote is None


# --- streams ---


def test_echo() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open(0, b"ping")
    assert take_all(theirs) == b"ping"
    write(theirs, b"pong")
    theirs.finish()
    mine.finish()
    pair.settle()
    assert take_all(mine) == b"pong"
    assert mine.received_fin
    assert theirs.received_fin
    assert not pair.a.session.streams
    assert not pair.b.session.streams


@pytest.mark.parametrize("side", [0, 1])
def test_each_side_opens_streams(side: int) -> None:
    pair = Pair().establish()
    mine, theirs = pair.open(side)
    assert mine.id == theirs.id == (4 if side == 0 else 1)


def test_many_streams_both_ways_over_a_bad_link() -> None:
    pair = Pair(LOSSY).establish()
    sent: dict[tuple[int, int], bytes] = {}
    for side in (0, 1):
        for number in range(40):
            stream = pair.sides[side].session.open()
            data = pattern(1 + number * 517, number)
            write(stream, data)
            stream.finish()
            sent[side, stream.id] = data
    received: dict[tuple[int, int], bytes] = {}

    def read() -> None:
        for side in (0, 1):
            for stream in pair.sides[side].accepted:
                key = (1 - side, stream.id)
                received[key] = received.get(key, b"") + take_all(stream)
                if stream.received_fin:
                    stream.finish()

    assert pair.run(lambda: received == sent, each=read)
    pair.settle(5)
    assert not pair.a.session.streams
    assert not pair.b.session.streams


def test_a_large_transfer_grows_its_window() -> None:
    pair = Pair(Link(delay=0.02)).establish()
    mine, theirs = pair.open()
    data = pattern(8 * MIB)
    parts: list[bytes] = [take_all(theirs)]
    write(mine, data)
    mine.finish()
    assert pair.run(lambda: theirs.received_fin, each=read_into(theirs, parts))
    assert b"".join(parts)[2:] + take_all(theirs) == data
    assert theirs.receive_window > INITIAL_WINDOW


def test_writers_are_woken_when_their_queue_has_sunk() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    write(mine, bytes(100_000))
    mine.wake_below = 0
    assert pair.run(lambda: bool(pair.a.session.take_drained()))
    assert mine.send_pending == 0
    take_all(theirs)


@pytest.mark.parametrize("order", ["a", "b", "together"])
def test_ends_in_any_order(order: str) -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    for stream in {"a": (mine, theirs), "b": (theirs, mine), "together": (mine, theirs)}[order]:
        write(stream, b"last words")
        stream.finish()
        if order != "together":
            pair.settle()
    pair.settle()
    assert take_all(mine) == b"last words"
    assert take_all(theirs) == b"hilast words"
    assert mine.received_fin
    assert theirs.received_fin
    assert mine.reset_reason is None
    assert theirs.reset_reason is None
    nothing_is_left(pair)


@pytest.mark.parametrize("finished_first", ["nobody", "a", "b"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_reset_aborts_both_directions(finished_first: str, who: int, loss: float) -> None:
    pair = Pair(Link(loss=loss, seed=3)).establish()
    mine, theirs = pair.open()
    if finished_first == "a":
        mine.finish()
    elif finished_first == "b":
        theirs.finish()
    pair.settle(5)
    ends = (mine, theirs)
    pair.sides[who].session.reset(ends[who])
    other = ends[1 - who]
    # What had come to its end cannot be taken back.
    had_ended = finished_first == "ab"[who]
    kind = EventKind.STOPPED if had_ended else EventKind.RESET
    events = pair.sides[1 - who].events
    assert pair.run(lambda: any(e.kind is kind and e.stream is other for e in events))
    assert other.stopped or not had_ended
    assert other.reset_reason == (None if had_ended else "reset by the peer")
    pair.settle(20)
    nothing_is_left(pair)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_closed_stream_stops_its_sender_and_leaves_it_the_answer(loss, monkeypatch) -> None:
    monkeypatch.setattr(lingering, "MAX_BYTES", MIB)
    pair = Pair(Link(loss=loss, seed=3)).establish()
    mine, theirs = pair.open()
    answer = random.Random(1).randbytes(200_000)
    write(mine, bytes(4 * MIB))
    write(theirs, answer)
    theirs.finish()
    pair.b.session.discard_received(theirs)
    assert pair.run(lambda: mine.stopped)
    parts: list[bytes] = []
    assert pair.run(lambda: mine.received_fin, each=read_into(mine, parts))
    assert b"".join(parts) + take_all(mine) == answer
    assert mine.reset_reason is None
    pair.settle(20)
    nothing_is_left(pair)


def test_error_codes() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    pair.a.session.reset(mine, "why", 0xC0DE)
    assert pair.run(lambda: theirs.reset_reason is not None)
    assert theirs.error_code == 0xC0DE


def test_both_reset_at_once() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    write(mine, bytes(100_000))
    write(theirs, bytes(100_000))
    pair.a.session.reset(mine)
    pair.b.session.reset(theirs)
    pair.settle()
    nothing_is_left(pair)


def test_a_stream_reset_before_it_was_used_costs_the_peer_nothing() -> None:
    pair = Pair().establish()
    for _ in range(20):
        pair.a.session.reset(pair.a.session.open())
    pair.open()
    pair.settle()
    assert len(pair.b.accepted) == 1
    limits = native(pair.a).stream_limits
    assert limits[0] - limits[2] >= 8190  # their numbers have been given back


@pytest.mark.parametrize("end", ["stop_sending", "reset_stream"])
def test_the_end_of_one_direction_aborts_the_stream(end: str) -> None:
    pair = Pair().establish()
    mine, _ = pair.open()
    getattr(native(pair.b), end)(mine.id, 9)
    pair.b.session._dirty = True
    assert pair.run(lambda: mine.reset_reason is not None)


def test_a_stream_that_begins_with_its_reset_is_not_offered() -> None:
    pair = Pair().establish()
    native(pair.a).reset_stream(4, 0)
    pair.a.session._dirty = True
    pair.settle()
    assert not pair.b.accepted
    assert not pair.b.session.streams
    assert pair.b.error is None


def nothing_is_left(pair: Pair) -> None:
    for side in pair.sides:
        session = side.session
        assert not session.streams
        assert not session._quic_streams._live, side.address
        assert not session._quic_streams._aborts
        assert not session._senders
        assert session._promised == 0
        assert side.error is None


def test_ten_thousand_streams_leave_nothing_behind() -> None:
    pair = Pair(Link(delay=0.001), datagram=9000).establish()
    done = 0

    def serve() -> None:
        nonlocal done
        whole = [stream for stream in pair.b.accepted if stream.received_fin]
        for stream in whole:
            assert take_all(stream) == b"request"
            write(stream, b"answer")
            stream.finish()
        pair.b.accepted = [stream for stream in pair.b.accepted if stream not in whole]
        for event in pair.a.events:
            assert event.kind is not EventKind.RESET
        pair.a.events.clear()
        pair.b.events.clear()

    for _ in range(25):
        batch = []
        for _ in range(400):
            stream = pair.a.session.open()
            write(stream, b"request")
            stream.finish()
            batch.append(stream)
        assert pair.run(lambda b=batch: all(s.received_fin for s in b), each=serve)  # type: ignore[misc]
        assert all(take_all(stream) == b"answer" for stream in batch)
        done += len(batch)
    pair.settle(5)
    assert done == 10_000
    nothing_is_left(pair)
    for side in pair.sides:
        core = side.session._drive.core
        assert not core._created_local_stream_ids
        assert not core._pre_handshake_streams
        assert not side.session._quic_streams.spoken._silent
        assert native(side).active_local_streams[0] <= 1


# --- fairness ---


def test_a_small_call_overtakes_bulk() -> None:
    pair = Pair(Link(delay=0.005, rate=2e6, queue=50_000)).establish()
    bulk, sink = pair.open()
    write(bulk, bytes(4 * MIB))
    parts: list[bytes] = []
    pair.run(seconds=0.5, each=read_into(sink, parts))
    assert bulk.send_pending > MIB
    call = pair.a.session.open()
    write(call, b"urgent")
    call.finish()
    start = pair.clock.now
    assert pair.run(lambda: len(pair.b.accepted) == 2, each=read_into(sink, parts))
    # Virtual time: what the link had queued, and a backlog's worth; not the megabytes.
    assert pair.clock.now - start < 0.2


def test_bulk_streams_share() -> None:
    pair = Pair(Link(delay=0.005, rate=4e6)).establish()
    streams = [pair.a.session.open() for _ in range(4)]
    for stream in streams:
        write(stream, bytes(4 * MIB))
    taken: dict[int, int] = {}

    def read() -> None:
        for stream in pair.b.accepted:
            taken[stream.id] = taken.get(stream.id, 0) + len(take_all(stream))

    pair.run(seconds=2.0, each=read)
    assert len(taken) == 4
    assert min(taken.values()) > 0.6 * max(taken.values())


# --- credit ---


@pytest.mark.parametrize("side", [0, 1])
def test_a_reader_that_does_not_read_stops_its_sender_and_nobody_else(side: int) -> None:
    pair = Pair().establish()
    mine, theirs = pair.open(side, bytes(2 * MIB))
    pair.settle(5)
    assert sum(map(len, theirs.receive_queue)) == INITIAL_WINDOW
    assert mine.send_pending == 2 * MIB - INITIAL_WINDOW
    other, far = pair.open(side, bytes(MIB))
    parts: list[bytes] = []
    assert pair.run(lambda: not other.send_pending, each=read_into(far, parts))
    pair.run(lambda: not mine.send_pending, each=read_into(theirs, parts))
    assert mine.send_pending == 0


def test_a_peer_that_overruns_its_window_is_refused() -> None:
    pair = Pair().establish()
    mine, _ = pair.open()
    inject(pair.a, mine.id, bytes(INITIAL_WINDOW + 1))
    pair.settle(5)
    assert pair.b.error is not None
    assert "overruns" in str(pair.b.error)
    assert pair.a.session.closed is not None
    assert "overruns" in pair.a.session.closed[1]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x02\x04\x01",
        b"\x00",
        encode_credit(8, 1),  # nobody opened it
        encode_credit(1, 1),
        encode_credit(0, 1),
        encode_credit(2, 1),
        encode_credit(4, 2**62),
        b"\x01\x84\x00\x01",  # not the shortest form
        b"\x01" + b"\xff" * 11,
    ],
)
def test_bad_control_frames_end_the_connection(frame: bytes) -> None:
    pair = Pair().establish()
    pair.open()
    inject(pair.a, 0, frame)
    pair.settle()
    assert isinstance(pair.b.error, RemoteProtocolError)


def test_credit_for_a_stream_that_has_ended_is_ignored() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    mine.finish()
    theirs.finish()
    pair.settle()
    inject(pair.a, 0, encode_credit(mine.id, 5))
    pair.settle()
    assert pair.b.error is None


@pytest.mark.parametrize("how", ["fin", "reset", "stop"])
def test_stream_zero_never_ends(how: str) -> None:
    pair = Pair().establish()
    if how == "fin":
        inject(pair.a, 0, b"", fin=True)
    elif how == "reset":
        native(pair.a).reset_stream(0, 0)
    else:
        native(pair.a).stop_sending(0, 0)
    pair.a.session._dirty = True
    pair.settle()
    assert pair.b.error is not None
    assert "stream 0" in str(pair.b.error)


def test_streams_beyond_the_limit_are_refused_without_harm_to_others() -> None:
    pair = Pair(b={"limits": Limits(max_streams_per_connection=3)}).establish()
    streams = [pair.a.session.open() for _ in range(6)]
    for stream in streams:
        write(stream, b"x")
    pair.settle(5)
    assert len(pair.b.accepted) == 3
    assert sum(s.reset_reason is not None for s in streams) == 3
    for stream in pair.b.accepted:
        pair.b.session.reset(stream)
    pair.settle()
    nothing_is_left(pair)
    pair.open()


def test_opening_beyond_our_own_limit_is_refused_here() -> None:
    pair = Pair(limits=Limits(max_streams_per_connection=2)).establish()
    pair.a.session.open()
    pair.a.session.open()
    with pytest.raises(ResourceLimitError):
        pair.a.session.open()


def test_streams_wait_for_quics_limit() -> None:
    """A peer with a lower limit than we may use: the rest waits until others have ended."""
    limits = Limits(
        max_streams_per_connection=9000, receive_memory_per_connection=9000 * INITIAL_WINDOW
    )
    pair = Pair(Link(delay=0.001), datagram=9000, limits=limits).establish()
    streams = []
    for _ in range(8200):
        stream = pair.a.session.open()
        write(stream, b"x")
        stream.finish()
        streams.append(stream)
    pair.settle(2)
    assert len(pair.b.accepted) == 8191
    assert pair.a.error is None
    assert not pair.a.session.wants_write
    for stream in pair.b.accepted[:100]:
        stream.finish()
    pair.settle(2)
    assert len(pair.b.accepted) == 8200


def test_the_memory_budget_evicts_who_holds_most() -> None:
    budget = MemoryBudget(600 * KIB)
    pair = Pair(b={"budget": budget}).establish()
    streams = [pair.a.session.open() for _ in range(4)]
    for stream in streams:
        write(stream, bytes(200 * KIB))
    pair.settle(5)
    assert budget.used <= budget.limit
    assert any(stream.reset_reason for stream in streams)
    assert any(stream.reset_reason is None for stream in streams)
    assert pair.b.error is None


def test_numbers_of_streams_are_remembered_in_little_room() -> None:
    spoken = SpokenStreams(0)
    assert spoken.claim(3)
    assert not spoken.claim(3)
    assert 3 in spoken
    assert 1 not in spoken
    assert 4 not in spoken
    assert spoken.claim(1)
    assert spoken.claim(0)
    assert spoken.claim(2)
    assert not spoken._silent


def test_control_frames_in_pieces() -> None:
    data = encode_credit(4, 300_000) + encode_credit(2**60, 1)
    reader = ControlReader()
    found = [credit for i in range(len(data)) for credit in reader.feed(data[i : i + 1])]
    assert found == [(4, 300_000), (2**60, 1)] == ControlReader().feed(data)


# --- the network ---


def test_garbage_replays_and_corruption_have_no_effect() -> None:
    pair = Pair(Link(corruption=0.05, duplication=0.2, jitter=0.01, seed=5)).establish()
    seen: list[bytes] = []
    launch = pair._launch

    def record(side: int, delay: float, data: bytes, source: Any = None) -> None:
        seen.append(data)
        launch(side, delay, data, source)

    pair._launch = record  # type: ignore[method-assign]
    mine, theirs = pair.open()
    data = pattern(300_000)
    parts = [take_all(theirs)[2:]]
    write(mine, data)
    mine.finish()
    chance = random.Random(1)
    times = [pair.clock.now]

    def disturb() -> None:
        parts.append(take_all(theirs))
        if pair.clock.now < times[-1] + 0.002:
            return
        times.append(pair.clock.now)
        launch(0, 0.001, chance.randbytes(chance.randrange(1, 1400)))
        launch(1, 0.001, b"\x40" + chance.randbytes(60), ("203.0.113.1", 9))
        for side in (0, 1):
            launch(side, 0.05, chance.choice(seen))

    assert pair.run(lambda: theirs.received_fin, each=disturb)
    assert b"".join(parts) + take_all(theirs) == data
    assert pair.a.error is None
    assert pair.b.error is None


def test_garbage_is_no_sign_of_life() -> None:
    pair = Pair().establish()
    pair.settle()
    pair.link.fate = lambda _side, _data: []
    last = pair.a.session.last_received
    pair.clock.now += 1
    for garbage in (bytes(100), b"\x40" * 200):
        pair.a.receive(garbage, pair.b.address)
    assert pair.a.session.last_received == last


# --- life and end ---


@pytest.mark.parametrize("side", [0, 1])
def test_close_with_a_reason(side: int) -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    pair.sides[side].session.shut(42, "enough " * 30)
    pair.settle(5)
    for each in pair.sides:
        assert each.session.closed is not None
        assert each.session.closed[0] == 42
        assert each.session.closed[1].startswith("enough enough")
        assert each.session.went_away
        assert native(each).state in ("draining", "terminated")
        assert each.session.next_timer() is None
        assert not each.session.wants_write
        with pytest.raises(ConnectionClosedError):
            each.session.open()
    ended = pair.a.session.close("gone")
    assert mine in ended
    assert mine.reset_reason == "gone"
    assert theirs in pair.b.session.close("gone")


def test_what_a_peer_did_before_its_violation_is_not_forgotten() -> None:
    pair = Pair().establish()
    mine, theirs = pair.open()
    take_all(theirs)
    write(mine, b"last")
    pair.transmit(0)
    inject(pair.a, 0, b"\xff")
    pair.settle()
    assert pair.b.error is not None
    assert theirs in pair.b.session.close("violation")
    assert take_all(theirs) == b"last"


def test_a_silent_peer_is_noticed_by_quic_and_by_us() -> None:
    pair = Pair(timeouts=Timeouts(keep_alive_interval=1.0, keep_alive_timeout=3.0)).establish()
    pair.settle()
    pair.link.fate = lambda _side, _data: []
    pair.run(lambda: pair.a.session.closed is not None, seconds=40)
    assert pair.a.session.closed is not None
    assert "timeout" in pair.a.session.closed[1].lower()

    other = Pair(timeouts=Timeouts(keep_alive_interval=1.0, keep_alive_timeout=3.0)).establish()
    other.link.fate = lambda _side, _data: []

    def tick() -> None:
        for _ in range(5):
            other.a.session._last_tick = other.clock.now
            other.clock.now += 1
            other.a.session.tick()

    with pytest.raises(ConnectionClosedError):
        tick()


def test_pings_keep_an_idle_connection_alive() -> None:
    pair = Pair(Link(loss=0.2, seed=2)).establish()
    for _ in range(60):
        pair.settle(1.0)
        for side in pair.sides:
            side.session.tick()
    assert pair.a.session.closed is None
    assert pair.b.session.closed is None
    assert pair.a.session.rtt is not None
    assert pair.a.session.rtt == pytest.approx(0.02)


def test_a_lost_ping_is_followed_by_another() -> None:
    pair = Pair().establish()
    pair.settle()
    session = pair.a.session
    pair.link.fate = lambda _side, _data: []
    session.ping()
    pair.transmit(0)
    pair.link.fate = None
    before = sum(e.kind is EventKind.PONG for e in pair.a.events)
    for _ in range(4):
        pair.settle(1.0)
        session.tick()
    pair.settle(1.0)
    assert sum(e.kind is EventKind.PONG for e in pair.a.events) > before


def test_flushed_means_arrived() -> None:
    pair = Pair(Link(delay=0.05, loss=0.1, seed=4)).establish()
    mine, theirs = pair.open()
    write(mine, bytes(100_000))
    mine.finish()
    assert not pair.a.session.flushed
    assert pair.run(lambda: pair.a.session.flushed)
    assert theirs.received_fin
    assert len(take_all(theirs)) == 100_002


def test_datagrams() -> None:
    pair = Pair().establish()
    pair.a.session.send_message(b"nobody asked for it")
    pair.settle()
    assert not pair.b.session.messages
    pair.b.session.wants_messages = True
    pair.a.session.send_message(b"one")
    pair.a.session.send_message(bytes(MAX_MESSAGE))
    pair.settle()
    assert list(pair.b.session.messages) == [b"one", bytes(MAX_MESSAGE)]
    with pytest.raises(LocalProtocolError):
        pair.a.session.send_message(bytes(MAX_MESSAGE + 1))
    for number in range(1000):
        pair.a.session.send_message(b"%d" % number)
        if number % 100 == 0:
            pair.settle(0.1)
    pair.settle()
    assert pair.b.session.messages[-1] == b"999"
    assert len(pair.b.session.messages) <= 256


@pytest.mark.parametrize("together", [True, False])
def test_datagrams_are_received_together_or_one_by_one(together: bool) -> None:
    pair = Pair().establish()
    data = pattern(3000)
    write(pair.a.session.open(), data)
    for datagrams, _ in pair.a.session.transmit():
        for size, run in itertools.groupby(datagrams, len):
            if together:
                pair.b.session.receive(b"".join(run), size, CLIENT_ADDRESS)
            else:
                for datagram in run:
                    pair.b.session.receive(datagram, size, CLIENT_ADDRESS)
    stream = pair.b.session.streams.popitem()[1]
    assert take_all(stream) == data
