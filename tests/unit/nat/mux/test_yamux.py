"""yamux as a pure machine: frames on the wire, violations, budgets, time and scheduling."""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest

from lattica.errors import ConnectionClosedError, RemoteProtocolError, ResourceLimitError
from lattica.nat.config import Limits, Timeouts
from lattica.nat.mux import lingering
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.senders import SPARSE_BYTES, SPARSE_INTERVAL
from lattica.nat.mux.session import INITIAL_WINDOW, RESOURCE_LIMIT
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.yamux.frames import HEADER_SIZE, GoAwayCode
from tests.support.clock import Clock
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.yamux_pair import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    MESSAGE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Frame,
    Pair,
    Side,
    data_frame,
    drain,
    fill,
    fill_long,
    frame,
    parse,
)

KIB = 1024
MIB = 1024 * KIB


def new_side(*, initiator: bool = False, **options: object) -> Side:
    return Side(initiator=initiator, clock=Clock(), **options)


def kinds(side: Side) -> list[EventKind]:
    return [event.kind for event in side.events]


def open_by_peer(side: Side, stream_id: int = 1) -> MuxStream:
    """The peer opens a stream; what the session answers at once is thrown away."""
    side.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0))
    drain(side.session)
    return side.accepted[-1]


# --- what is on the wire ---


def test_open_write_finish_in_frames() -> None:
    side = new_side(initiator=True)
    stream = side.session.open()
    assert stream.id == 1
    write(stream, b"hello")
    write(stream, b" world")
    assert parse(drain(side.session)) == [Frame(DATA, SYN, 1, 11, b"hello world")]
    stream.finish()
    stream.finish()
    assert parse(drain(side.session)) == [Frame(DATA, FIN, 1, 0)]
    assert not side.session.wants_write


def test_a_stream_that_says_nothing_is_opened_all_the_same() -> None:
    side = new_side(initiator=True)
    side.session.open()
    assert parse(drain(side.session)) == [Frame(WINDOW_UPDATE, SYN, 1, 0)]


def test_the_end_leaves_in_a_frame_of_its_own_which_js_needs() -> None:
    side = new_side(initiator=True)
    stream = side.session.open()
    write(stream, b"all")
    stream.finish()
    frames = parse(drain(side.session))
    assert frames == [Frame(DATA, SYN, 1, 3, b"all"), Frame(DATA, FIN, 1, 0, b"")]


def test_accepted_stream_is_acknowledged_with_its_first_frame() -> None:
    side = new_side()
    side.receive(data_frame(1, b"request", SYN))
    write(side.accepted[0], b"answer")
    assert parse(drain(side.session)) == [Frame(DATA, ACK, 1, 6, b"answer")]
    write(side.accepted[0], b"more")
    assert parse(drain(side.session)) == [Frame(DATA, 0, 1, 4, b"more")]


def test_ids_of_the_two_sides() -> None:
    initiator, responder = new_side(initiator=True), new_side()
    assert [initiator.session.open().id for _ in range(3)] == [1, 3, 5]
    assert [responder.session.open().id for _ in range(3)] == [2, 4, 6]


def test_ids_run_out() -> None:
    side = new_side(initiator=True)
    side.session._next_id = 2**32 - 1
    assert side.session.open().id == 2**32 - 1
    with pytest.raises(ConnectionClosedError, match="reconnect"):
        side.session.open()


def test_ping_is_answered_with_its_value() -> None:
    side = new_side()
    side.receive(frame(PING, SYN, 0, 0xDEADBEEF))
    assert parse(drain(side.session)) == [Frame(PING, ACK, 0, 0xDEADBEEF)]


def test_go_away() -> None:
    side = new_side()
    events = side.receive(frame(GO_AWAY, 0, 0, 2))
    assert [(event.kind, event.value) for event in events] == [(EventKind.GO_AWAY, 2)]
    with pytest.raises(ConnectionClosedError, match="going away"):
        side.session.open()
    side.session.go_away(GoAwayCode.PROTOCOL_ERROR)
    assert parse(drain(side.session)) == [Frame(GO_AWAY, 0, 0, 1)]


def test_streams_live_on_after_a_go_away() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    pair.a.session.go_away(GoAwayCode.NORMAL)
    write(mine, b"last words")
    pair.pump()
    write(theirs, b"answer")
    pair.pump()
    assert take_all(theirs) == b"last words"
    assert take_all(mine) == b"answer"


# --- both ways, half-close, reset ---


def test_half_close_each_way() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, b"question")
    mine.finish()
    pair.pump()
    assert take_all(theirs) == b"question"
    assert theirs.received_fin
    assert pair.a.session.streams == {1: mine}
    write(theirs, b"answer")
    theirs.finish()
    pair.pump()
    assert take_all(mine) == b"answer"
    assert mine.received_fin
    assert pair.a.session.streams == pair.b.session.streams == {}


def test_data_before_a_fin_is_readable_when_the_wire_is_done_with_the_stream() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    theirs.finish()
    write(mine, b"x" * 1000)
    mine.finish()
    pair.pump()
    assert pair.b.session.streams == {}
    assert take_all(theirs) == b"x" * 1000
    assert pair.b.session.budget.used == 0


def test_reset_drops_both_directions_and_tells_the_peer() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, b"arrived")
    pair.pump()
    write(mine, b"never sent")
    pair.a.session.reset(mine)
    pair.a.session.reset(mine)
    assert parse(drain(pair.a.session)) == [Frame(WINDOW_UPDATE, RST, 1, 0)]
    pair.b.receive(frame(WINDOW_UPDATE, RST, 1, 0))
    assert theirs.reset_reason == "reset by the peer"
    assert pair.b.events[-1].kind is EventKind.RESET
    assert take_all(theirs) == b""
    assert pair.a.session.streams == pair.b.session.streams == {}
    assert pair.b.session.budget.used == 0
    assert mine.send_pending == 0


def test_reset_in_a_data_frame() -> None:
    """As rust-yamux does; the bytes it may carry are skipped."""
    pair = Pair()
    _, theirs = pair.open()
    pair.b.receive(data_frame(1, b"ignored", RST) + frame(PING, SYN, 0, 7))
    assert theirs.reset_reason is not None
    assert parse(drain(pair.b.session)) == [Frame(PING, ACK, 0, 7)]


def test_a_stream_reset_before_its_syn_left_is_never_mentioned() -> None:
    side = new_side(initiator=True)
    stream = side.session.open()
    write(stream, b"data")
    side.session.reset(stream)
    assert drain(side.session) == b""
    assert not side.session.wants_write


def test_frames_that_cross_a_reset_are_dropped() -> None:
    side = new_side()
    stream = open_by_peer(side)
    side.session.reset(stream)
    drain(side.session)
    side.receive(
        data_frame(1, b"crossed")
        + frame(WINDOW_UPDATE, 0, 1, 5)
        + data_frame(1, b"", FIN)
        + frame(WINDOW_UPDATE, RST, 1, 0)
    )
    assert side.session.streams == {}
    assert side.session.budget.used == 0
    assert drain(side.session) == b""


def test_one_reader_may_be_reset_in_the_middle_of_a_frame() -> None:
    side = new_side()
    stream = open_by_peer(side)
    message = data_frame(1, b"x" * 100) + frame(PING, SYN, 0, 9)
    side.receive(message[:50])
    side.session.reset(stream)
    side.receive(message[50:])
    assert parse(drain(side.session)) == [
        Frame(WINDOW_UPDATE, RST, 1, 0),
        Frame(PING, ACK, 0, 9),
    ]


# --- violations ---


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01" + bytes(11), "version 1"),
        (b"GET / HTTP/1.1\r\n", "version 71"),
        (frame(4, 0, 0, 0), "type 4"),
        (frame(255, 0, 1, 0), "type 255"),
        (data_frame(3, b"x"), "nobody opened stream 3"),
        (frame(WINDOW_UPDATE, 0, 3, 1), "nobody opened stream 3"),
        (frame(WINDOW_UPDATE, RST, 3, 0), "nobody opened stream 3"),
        (data_frame(2, b"x"), "nobody opened stream 2"),
        (frame(WINDOW_UPDATE, FIN, 2, 0), "nobody opened stream 2"),
        (data_frame(0, b"x"), "nobody opened stream 0"),
        (frame(WINDOW_UPDATE, 0, 0, 1), "nobody opened stream 0"),
        (data_frame(0, b"", SYN), "cannot open stream 0"),
        (data_frame(2, b"", SYN), "cannot open stream 2"),
        (data_frame(1, b"", SYN), "cannot open stream 1"),
        (frame(DATA, 0, 1, INITIAL_WINDOW + 1), "overruns its window"),
        (frame(DATA, SYN, 3, INITIAL_WINDOW + 1), "overruns its window"),
        (frame(DATA, 0, 1, 2**32 - 1), "overruns its window"),
        (data_frame(1, b"", FIN) + data_frame(1, b"x"), "data after FIN"),
        (frame(WINDOW_UPDATE, 0, 1, 2**32 - 1), "impossible window"),
    ],
)
def test_violations(data: bytes, message: str) -> None:
    side = new_side()
    open_by_peer(side)
    with pytest.raises(RemoteProtocolError, match=message):
        side.receive(data)


def test_the_initiator_refuses_its_own_parity() -> None:
    side = new_side(initiator=True)
    with pytest.raises(RemoteProtocolError, match="cannot open stream 1"):
        side.receive(data_frame(1, b"", SYN))
    with pytest.raises(RemoteProtocolError, match="nobody opened stream 0"):
        side.receive(data_frame(0, b""))


def test_overrun_by_many_frames() -> None:
    side = new_side()
    open_by_peer(side)
    for _ in range(INITIAL_WINDOW // (64 * KIB)):
        side.receive(data_frame(1, bytes(64 * KIB)))
    side.receive(data_frame(1, b""))
    with pytest.raises(RemoteProtocolError, match="overruns its window"):
        side.receive(data_frame(1, b"x"))


def test_a_closed_stream_keeps_its_window() -> None:
    """Also where nobody reads any more: a peer may send what it was promised, no more."""
    side = new_side()
    stream = open_by_peer(side)
    stream.finish()
    side.session.discard_received(stream)
    side.receive(data_frame(1, bytes(INITIAL_WINDOW - 1)))
    with pytest.raises(RemoteProtocolError, match="overruns"):
        side.receive(data_frame(1, b"xx"))


def test_events_before_a_violation_are_not_forgotten() -> None:
    """Somebody may wait on a stream that the same message reset, or ended."""
    side = new_side()
    one, two = open_by_peer(side, 1), open_by_peer(side, 3)
    three = open_by_peer(side, 5)
    two.finish()
    drain(side.session)
    with pytest.raises(RemoteProtocolError):
        side.receive(
            frame(WINDOW_UPDATE, RST, 1, 0) + data_frame(3, b"", FIN) + b"\x01" + bytes(11)
        )
    assert {stream.id for stream in side.session.close("gone")} == {1, 3, 5}
    assert one.reset_reason == "reset by the peer"
    assert two.received_fin
    assert three.reset_reason == "gone"


def test_ping_flood() -> None:
    """Answered while they can be sent; refused when they pile up."""
    side = new_side()
    ping = frame(PING, SYN, 0, 1)
    for _ in range(20):
        side.receive(ping * 1000)
        assert len(drain(side.session)) == HEADER_SIZE * 1000
    with pytest.raises(RemoteProtocolError, match="provokes replies"):  # noqa: PT012
        for _ in range(20):
            side.receive(ping * 1000)
    assert len(side.session._control) < 6000


def test_refusal_flood() -> None:
    """The same with streams that are refused."""
    side = new_side(limits=Limits(max_streams_per_connection=1))
    open_by_peer(side)
    with pytest.raises(RemoteProtocolError, match="provokes replies"):  # noqa: PT012
        for stream_id in range(3, 20003, 2):
            side.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0))
    assert len(side.session._control) < 6000


def test_reset_flood_does_not_hit_the_application() -> None:
    """A peer opens streams, makes us reset them, and reads nothing.

    It is the peer's next frame that fails, not the `reset` of a handler that has done nothing.
    """
    side = new_side()

    def flood() -> None:
        for stream_id in range(1, 20001, 2):
            side.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0))
            try:
                side.session.reset(side.accepted.pop())
            except RemoteProtocolError:
                pytest.fail("the application got the peer's error")

    with pytest.raises(RemoteProtocolError, match="provokes replies"):
        flood()


# --- budgets ---


def test_max_streams_for_both_sides() -> None:
    side = new_side(limits=Limits(max_streams_per_connection=3))
    side.session.open()
    open_by_peer(side, 1)
    open_by_peer(side, 3)
    with pytest.raises(ResourceLimitError, match="3 streams"):
        side.session.open()
    side.receive(data_frame(5, b"refused", SYN) + data_frame(5, b"more") + data_frame(5, b"", FIN))
    assert parse(drain(side.session)) == [Frame(WINDOW_UPDATE, RST, 5, RESOURCE_LIMIT)]
    assert len(side.accepted) == 2
    # When one ends, there is room again.
    side.session.reset(side.accepted[0])
    side.receive(data_frame(7, b"", SYN))
    assert side.accepted[-1].id == 7


def test_promised_windows_are_limited() -> None:
    side = new_side(limits=Limits(receive_memory_per_connection=3 * INITIAL_WINDOW + 1000))
    streams = [side.session.open() for _ in range(3)]
    with pytest.raises(ResourceLimitError):
        side.session.open()
    side.receive(data_frame(1, b"", SYN))
    assert side.accepted == []
    side.session.reset(streams[0])
    side.session.open()


def test_total_memory_is_limited() -> None:
    """Over all connections; the stream that holds most is reset, the others go on."""
    budget = MemoryBudget(100 * KIB)
    one, other = new_side(budget=budget), new_side(budget=budget)
    first, second = open_by_peer(one), open_by_peer(other)
    third = open_by_peer(other, 3)
    one.receive(data_frame(1, bytes(60 * KIB)))
    other.receive(data_frame(3, bytes(30 * KIB)))
    events = other.receive(data_frame(1, bytes(30 * KIB)) + frame(PING, SYN, 0, 1))
    assert [(event.kind, event.stream) for event in events] == [
        (EventKind.RESET, first),
        (EventKind.READABLE, second),
    ]
    assert first.reset_reason is not None
    assert "memory" in first.reset_reason
    assert Frame(WINDOW_UPDATE, RST, 1, 0) in parse(drain(one.session))
    assert budget.used == 60 * KIB
    assert len(take_all(second)) == len(take_all(third)) == 30 * KIB
    assert budget.used == 0


def test_of_those_who_hold_memory_the_one_that_has_not_read_for_long_is_reset() -> None:
    clock, budget = Clock(), MemoryBudget(100 * KIB)
    side = Side(initiator=False, clock=clock, budget=budget)
    stale, reader, newcomer = (open_by_peer(side, number) for number in (1, 3, 5))
    side.receive(data_frame(1, bytes(20 * KIB)) + data_frame(3, bytes(60 * KIB)))
    for _ in range(30):
        clock.now += 1
        reader.take(20 * KIB)
        drain(side.session)
        side.receive(data_frame(3, bytes(20 * KIB)))
    side.receive(data_frame(5, bytes(20 * KIB)))
    assert list(side.session.streams) == [1, 3, 5]  # it fits
    side.receive(data_frame(5, bytes(1 * KIB)))
    assert list(side.session.streams) == [3, 5]
    assert stale.reset_reason is not None
    assert len(take_all(reader)) == 60 * KIB
    assert len(take_all(newcomer)) == 21 * KIB


def test_data_that_would_not_fit_even_alone_costs_its_own_stream() -> None:
    side = new_side(budget=MemoryBudget(10 * KIB))
    stream = open_by_peer(side)
    events = side.receive(data_frame(1, bytes(20 * KIB)))
    assert [(event.kind, event.stream) for event in events] == [(EventKind.RESET, stream)]


def test_memory_is_given_back_however_a_stream_ends() -> None:
    budget = MemoryBudget(10 * MIB)
    for end in ("read", "reset", "peer resets", "discard", "lost", "lost after fin"):
        side = new_side(budget=budget)
        stream = open_by_peer(side)
        side.receive(data_frame(1, bytes(50 * KIB)))
        assert budget.used == 50 * KIB
        if end == "read":
            take_all(stream)
        elif end == "reset":
            side.session.reset(stream)
        elif end == "peer resets":
            side.receive(frame(WINDOW_UPDATE, RST, 1, 0))
        elif end == "discard":
            side.session.discard_received(stream)
        else:
            if end == "lost after fin":
                side.receive(data_frame(1, b"", FIN))
            side.session.close("gone")
            assert (stream.reset_reason is None) == (end == "lost after fin")
            # Somebody may still read it, so it counts until then.
            assert budget.used == 50 * KIB
            assert len(take_all(stream)) == 50 * KIB
        assert budget.used == 0, end


def test_memory_of_a_lost_stream_that_nobody_reads() -> None:
    """It comes back when the stream is forgotten, or is taken back where it is needed."""
    budget = MemoryBudget(100 * KIB)
    forgotten, kept = new_side(budget=budget), new_side(budget=budget)
    open_by_peer(forgotten)
    stream = open_by_peer(kept)
    for side in (forgotten, kept):
        side.receive(data_frame(1, bytes(40 * KIB), FIN))
        side.session.close("gone")
    forgotten.accepted.clear()
    del forgotten
    gc.collect()
    assert budget.used == 40 * KIB
    newcomer = new_side(budget=budget)
    received = open_by_peer(newcomer)
    newcomer.receive(data_frame(1, bytes(90 * KIB)))
    assert budget.used == 90 * KIB
    assert len(take_all(received)) == 90 * KIB
    # The end must not look like a clean one, as data is missing.
    assert stream.reset_reason is not None
    assert "memory" in stream.reset_reason
    assert take_all(stream) == b""


def test_many_tiny_frames_cost_no_object_each() -> None:
    side = new_side()
    stream = open_by_peer(side)
    side.receive(data_frame(1, b"x") * 100_000)
    assert len(stream.receive_queue) < 20
    assert take_all(stream) == b"x" * 100_000


def test_many_tiny_writes_cost_no_object_each() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    sent = bytes(range(256)) * 40
    for index in range(len(sent)):
        write(mine, sent[index : index + 1])
    assert len(mine.send_queue) < 100
    assert mine.send_pending == len(sent)
    mine.unwrite(10)
    pair.pump()
    assert take_all(theirs) == sent[:-10]


def test_a_small_frame_does_not_hold_a_large_message() -> None:
    side = new_side()
    stream = open_by_peer(side)
    side.receive(data_frame(1, b"small" * 300) + frame(PING, SYN, 0, 1) * 2000)
    held = stream.receive_queue[0]
    assert len(bytes(held.obj) if isinstance(held, memoryview) else held) < 4000


# --- windows ---


def test_sender_stops_at_the_window_and_goes_on_with_credit() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(INITIAL_WINDOW + 1000))
    pair.pump()
    assert sum(map(len, theirs.receive_queue)) == INITIAL_WINDOW
    assert mine.send_pending == 1000
    assert not drain(pair.a.session)
    # Credit comes for half a window at a time.
    left = INITIAL_WINDOW // 2 - 1
    while left:
        left -= len(theirs.take(left))
    assert not drain(pair.b.session)
    theirs.take(1)
    pair.pump()
    assert mine.send_pending == 0


def test_fin_needs_no_credit() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(INITIAL_WINDOW))
    pair.pump()
    mine.finish()
    pair.pump()
    assert theirs.received_fin


def test_fin_follows_when_the_last_bytes_are_taken_back() -> None:
    """A cancelled write beside a close: the peer must not wait for an end for ever."""
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(INITIAL_WINDOW + 500))
    pair.pump()
    mine.finish()
    pair.pump()
    assert not theirs.received_fin
    assert mine.unwrite(1000) == 500
    pair.pump()
    assert theirs.received_fin


def test_credit_of_the_peers_choice() -> None:
    """rust-yamux opens a stream with a larger window in its first frame."""
    side = new_side()
    side.receive(frame(WINDOW_UPDATE, SYN, 1, MIB))
    write(side.accepted[0], bytes(2 * MIB))
    assert sum(f.length for f in parse(drain(side.session))) == INITIAL_WINDOW + MIB


def test_a_sender_that_waits_for_credit_gets_it_from_a_reader_that_closes() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(2 * INITIAL_WINDOW))
    mine.finish()
    pair.pump()
    assert mine.send_pending
    close(pair.b, theirs)
    assert pair.b.session.budget.used == 0
    pair.pump()
    assert mine.send_pending == 0
    assert mine.reset_reason is None
    assert not mine.stopped
    assert theirs.receive_window == INITIAL_WINDOW, "it grows for readers only"


def test_pongs_nobody_asked_for_are_ignored() -> None:
    side = new_side()
    assert side.receive(frame(PING, ACK, 0, 0)) == []
    side.session.ping()
    side.session.ping()
    [sent] = parse(drain(side.session))
    assert side.receive(frame(PING, ACK, 0, sent.length + 1)) == []
    assert side.session.rtt is None
    side.session._clock.now += 0.5  # type: ignore[attr-defined]
    assert [event.kind for event in side.receive(frame(PING, ACK, 0, sent.length))] == [
        EventKind.PONG
    ]
    assert side.session.rtt == pytest.approx(0.5)


# --- lingering ---


def settle(side: Side) -> None:
    """Answer the pings of a connection's first seconds."""
    side.session.tick()
    while sent := parse(drain(side.session)):
        for ping in sent:
            assert (ping.kind, ping.flags) == (PING, SYN)
            side.receive(frame(PING, ACK, 0, ping.length))
        side.session.tick()


def close(side: Side, stream: MuxStream) -> None:
    stream.finish()
    side.session.discard_received(stream)


def test_closed_stream_waits_a_minute_for_the_peer() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    close(pair.a, mine)
    pair.pump()
    for _ in range(59):
        pair.clock.now += 1
        pair.a.receive(b"")
        pair.a.session.tick()
        assert mine.reset_reason is None
    pair.clock.now += 1
    pair.a.receive(b"")
    pair.a.session.tick()
    assert mine.reset_reason is not None
    assert Frame(WINDOW_UPDATE, RST, 1, 0) in parse(drain(pair.a.session))
    assert pair.a.session.streams == {}
    pair.b.receive(frame(WINDOW_UPDATE, RST, 1, 0))
    assert theirs.stopped
    assert pair.b.session.streams == {}


def test_closed_stream_ends_when_the_peer_ends_it() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    close(pair.a, mine)
    pair.pump()
    close(pair.b, theirs)
    pair.pump()
    assert pair.a.session.streams == pair.b.session.streams == {}
    assert mine.reset_reason is None
    settle(pair.a)
    settle(pair.b)
    pair.clock.now += 100
    pair.a.receive(b"")
    pair.b.receive(b"")
    pair.a.session.tick()
    pair.b.session.tick()
    assert not pair.a.session.wants_write


def test_closed_stream_stops_a_peer_that_keeps_sending_and_leaves_it_the_answer() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, b"the answer")
    close(pair.a, mine)
    pair.pump()
    write(theirs, bytes(4 * lingering.MAX_BYTES))
    unsent = []
    while not theirs.stopped:
        unsent.append(theirs.send_pending)
        pair.a.receive(drain(pair.b.session))
        pair.b.receive(drain(pair.a.session))
    assert theirs.reset_reason is None
    passed = 4 * lingering.MAX_BYTES - unsent[-1]
    assert abs(passed - lingering.MAX_BYTES) <= INITIAL_WINDOW
    assert pair.b.events[-1] == Event(EventKind.STOPPED, theirs)
    assert theirs.send_pending == 0
    assert take_all(theirs) == b"the answer"
    assert theirs.received_fin
    assert pair.a.session.budget.used == pair.b.session.budget.used == 0
    assert pair.a.session.streams == pair.b.session.streams == {}
    write(theirs, b"more")
    assert not pair.b.session.wants_write


def test_a_peer_that_sends_slowly_is_stopped_after_some_seconds() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    close(pair.a, mine)
    seconds = 0
    while not theirs.stopped:
        assert seconds < 20
        write(theirs, bytes(INITIAL_WINDOW // 4))
        pair.pump()
        pair.clock.now += 1
        seconds += 1
        pair.a.session.tick()
        pair.pump()
    assert seconds >= lingering.MAX_SECONDS


def test_no_stop_overtakes_an_answer_that_waits_for_credit() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(2 * INITIAL_WINDOW))
    close(pair.a, mine)
    write(theirs, bytes(4 * lingering.MAX_BYTES))
    pair.pump()
    assert EventKind.STOPPED not in kinds(pair.b)
    received = 0
    while theirs.receive_queue:
        received += len(take_all(theirs))
        pair.pump()
    assert theirs.stopped
    assert theirs.received_fin
    assert received == 2 * INITIAL_WINDOW


def test_a_peer_that_only_sends_and_never_reads_is_reset() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(2 * INITIAL_WINDOW))
    close(pair.a, mine)
    write(theirs, bytes(4 * lingering.MAX_BYTES))
    pair.pump()
    for _ in range(21):
        pair.clock.now += 1
        pair.a.receive(b"")
        pair.a.session.tick()
    pair.pump()
    assert theirs.reset_reason == "reset by the peer"


def test_a_peer_gets_credit_on_so_many_closed_streams_only() -> None:
    pair = Pair()
    ends = [pair.open() for _ in range(lingering.MAX_STREAMS + 5)]
    for mine, _ in ends:
        close(pair.a, mine)
    pair.pump()
    for _, theirs in ends:
        write(theirs, bytes(2 * INITIAL_WINDOW))
    pair.pump()
    assert sum(theirs.stopped for _, theirs in ends) == 5
    for _, theirs in ends:
        theirs.finish()
    pair.pump()
    assert pair.a.session._lingering._sending == 0
    assert pair.a.session.streams == {}


def test_error_codes_are_where_libp2p_has_them() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    pair.a.session.reset(mine, "why", 0xC0DE)
    assert parse(drain(pair.a.session)) == [Frame(WINDOW_UPDATE, RST, 1, 0xC0DE)]
    pair.b.receive(frame(WINDOW_UPDATE, RST, 1, 0xC0DE))
    assert theirs.error_code == 0xC0DE


def test_closed_stream_takes_what_was_on_its_way() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    close(pair.a, mine)
    write(theirs, bytes(INITIAL_WINDOW // 2))
    theirs.finish()
    pair.pump()
    assert mine.reset_reason is None
    assert theirs.reset_reason is None
    assert pair.a.session.streams == pair.b.session.streams == {}


def test_closed_stream_whose_peer_reads_slowly_is_not_reset() -> None:
    """What was sent before the close arrives, however long it takes."""
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(2 * INITIAL_WINDOW))
    close(pair.a, mine)
    pair.pump()
    received = 0
    for _ in range(100):
        pair.clock.now += 1
        for side in (pair.a, pair.b):
            side.receive(b"")
            side.session.tick()
        received += len(theirs.take(KIB))
        pair.pump()
    assert mine.send_pending, "it should still be waiting for credit"
    while not theirs.received_fin or theirs.receive_queue:
        received += len(theirs.take())
        pair.pump()
    assert received == 2 * INITIAL_WINDOW
    assert theirs.received_fin
    assert theirs.reset_reason is None


# --- keep-alive ---


def silent_for(side: Side, seconds: float, *, step: float = 1.0) -> None:
    clock = side.session._clock
    assert isinstance(clock, Clock)
    end = clock.now + seconds
    while clock.now + step <= end:
        clock.now += step
        side.session.tick()


def test_idle_connection_is_pinged() -> None:
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    settle(side)
    silent_for(side, 3)
    assert not side.session.wants_write
    silent_for(side, 1)
    [ping] = parse(drain(side.session))
    assert (ping.kind, ping.flags) == (PING, SYN)
    # One is enough while it is not answered.
    silent_for(side, 4)
    assert not side.session.wants_write
    side.receive(frame(PING, ACK, 0, ping.length))
    silent_for(side, 3)
    assert not side.session.wants_write
    silent_for(side, 1)
    assert parse(drain(side.session))[0].kind == PING


def test_silent_peer_is_given_up() -> None:
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    silent_for(side, 11)
    with pytest.raises(ConnectionClosedError, match="12 s"):
        silent_for(side, 1)


def test_a_silent_peer_that_may_be_busy_is_waited_for_and_pinged_on() -> None:
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    clock = side.session._clock
    assert isinstance(clock, Clock)
    settle(side)
    asked: list[float] = []

    def patience() -> float:
        asked.append(clock.now)
        return 30.0

    heard = clock.now
    pings = 0
    while clock.now < heard + 29:
        clock.now += 1
        side.session.tick(patience)
        pings += sum(each.kind == PING for each in parse(drain(side.session)))
    assert asked[0] == heard + 12
    # One, and then one each four seconds of patience: what is unanswered shows a dead machine.
    assert pings == 1 + 5
    side.receive(frame(PING, ACK, 0, side.session._ping_value))
    side.session.tick(patience)
    assert not side.session.is_silent
    clock.now += 30
    side.session._last_tick = clock.now  # not as if the clock had stood still
    with pytest.raises(ConnectionClosedError, match="for 30 s"):
        side.session.tick(patience)


def test_a_silent_peer_whose_machine_is_gone_is_not_waited_for() -> None:
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    clock = side.session._clock
    assert isinstance(clock, Clock)
    silent_for(side, 11)
    clock.now += 1
    with pytest.raises(ConnectionClosedError, match="for 12 s"):
        side.session.tick(lambda: 0.0)


def test_any_bytes_are_a_sign_of_life() -> None:
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    stream = open_by_peer(side)
    data = data_frame(1, bytes(10))
    for index in range(len(data)):
        silent_for(side, 11)
        side.receive(data[index : index + 1])
    assert take_all(stream) == bytes(10)
    silent_for(side, 11)
    with pytest.raises(ConnectionClosedError):
        silent_for(side, 1)


def test_a_suspended_process_does_not_blame_its_peer() -> None:
    timeouts = Timeouts(keep_alive_interval=4, keep_alive_timeout=12)
    side = new_side(timeouts=timeouts)
    silent_for(side, 5)
    drain(side.session)
    side.session._clock.now += 3600  # type: ignore[attr-defined]
    side.session.tick()  # the laptop was asleep; the peer gets a chance to answer
    silent_for(side, 3)
    with pytest.raises(ConnectionClosedError):
        silent_for(side, 12)


def test_a_peer_that_dies_after_a_suspension_is_noticed_in_time() -> None:
    """Bytes that had waited in the kernel may be read before the first tick."""
    side = new_side(timeouts=Timeouts(keep_alive_interval=4, keep_alive_timeout=12))
    silent_for(side, 1)
    side.session._clock.now += 3600  # type: ignore[attr-defined]
    side.receive(frame(PING, SYN, 0, 1))
    side.session.tick()
    drain(side.session)
    with pytest.raises(ConnectionClosedError):
        silent_for(side, 13)


# --- the end of a connection ---


def test_close_ends_all_streams_and_says_why_after_what_had_come() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(10))
    pair.pump()
    assert pair.b.session.close("cable cut") == [theirs]
    assert theirs.reset_reason == "cable cut"
    assert take_all(theirs) == bytes(10)
    assert pair.b.session.close("again") == []
    with pytest.raises(ConnectionClosedError):
        pair.b.session.open()


def test_close_leaves_what_had_come_to_its_end() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, b"complete")
    mine.finish()
    pair.pump()
    assert pair.b.session.close("cable cut") == [theirs]
    assert theirs.reset_reason is None
    assert take_all(theirs) == b"complete"


def test_reading_what_is_left_promises_nothing_to_nobody() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    write(mine, bytes(INITIAL_WINDOW))
    pair.pump()
    pair.b.session.close("cable cut")
    assert theirs.reset_reason == "cable cut"
    assert len(take_all(theirs)) == INITIAL_WINDOW
    assert not pair.b.session.wants_write


# --- scheduling ---


def heavy(side: Side, count: int, size: int = 64 * MIB) -> list[MuxStream]:
    """Streams with much to send and all the credit they want, past their sparse share."""
    streams = []
    for _ in range(count):
        stream = side.session.open()
        stream.send_credit = 2**31
        write(stream, bytes(SPARSE_BYTES))
        streams.append(stream)
    drain(side.session)
    for stream in streams:
        assert stream.sparse_left <= 0
        write(stream, bytes(size))
    return streams


def test_control_goes_first() -> None:
    side = new_side(initiator=True)
    heavy(side, 3)
    reader = side.session.open()
    side.session.ping()
    side.receive(data_frame(reader.id, bytes(INITIAL_WINDOW), ACK))
    take_all(reader)
    sent = parse(fill(side.session))
    assert [f.kind for f in sent[:2]] == [PING, WINDOW_UPDATE]
    # Also when bulk data has been under way for long.
    for _ in range(20):
        fill(side.session)
    side.receive(frame(PING, SYN, 0, 5))
    assert parse(fill(side.session))[0] == Frame(PING, ACK, 0, 5)


def test_sparse_goes_before_heavy() -> None:
    side = new_side(initiator=True)
    heavy(side, 10)
    fill(side.session)
    call = side.session.open()
    write(call, b"request")
    assert parse(fill(side.session))[0] == Frame(DATA, SYN, call.id, 7, b"request")
    # And so it stays, call after call, as long as it is little; on slow links too, where each
    # batch takes so long that a heavy stream could seem to send little.
    clock = side.session._clock
    assert isinstance(clock, Clock)
    for _ in range(100):
        clock.now += 3 * SPARSE_INTERVAL
        write(call, bytes(100))
        assert parse(fill(side.session))[0] == Frame(DATA, 0, call.id, 100, bytes(100))


def test_a_stream_that_sends_much_loses_its_place() -> None:
    side = new_side(initiator=True)
    heavy(side, 1)
    greedy = side.session.open()
    greedy.send_credit = 2**31
    write(greedy, bytes(64 * MIB))
    shares: Counter[int] = Counter()
    for _ in range(200):
        for f in parse(fill(side.session)):
            shares[f.stream_id] += f.length
    assert shares[greedy.id] / shares[1] == pytest.approx(1, abs=0.05)


def test_heavy_streams_keep_half() -> None:
    """However many light streams there are, and however often they come."""
    side = new_side(initiator=True, limits=Limits(max_streams_per_connection=1000))
    bulk = heavy(side, 2)
    light = [side.session.open() for _ in range(500)]
    for stream in light:
        stream.send_credit = 2**31
    clock = side.session._clock
    assert isinstance(clock, Clock)
    for size in (200, 1000, SPARSE_BYTES - 1, SPARSE_BYTES):
        shares: Counter[bool] = Counter()
        for _ in range(300):
            clock.now += 1.1 * SPARSE_INTERVAL
            for stream in light:
                if not stream.send_pending:
                    write(stream, bytes(size))
            for f in parse(fill(side.session)):
                shares[f.stream_id in (bulk[0].id, bulk[1].id)] += f.length
        assert shares[False] > 0.3 * shares.total(), "the light ones have their share too"
        assert shares[True] >= 0.49 * shares.total(), size


def test_light_streams_alone_build_up_no_debt() -> None:
    side = new_side(initiator=True)
    clock = side.session._clock
    assert isinstance(clock, Clock)
    light = [side.session.open() for _ in range(100)]
    for stream in light:
        stream.send_credit = 2**31
    for _ in range(100):
        clock.now += 1.1 * SPARSE_INTERVAL
        for stream in light:
            write(stream, bytes(SPARSE_BYTES))
        drain(side.session)
    heavy(side, 1)
    fill(side.session)
    fill(side.session)
    clock.now += 1
    write(light[0], b"call")
    assert parse(fill(side.session))[0].stream_id == light[0].id


def test_a_hundred_streams_get_equal_shares() -> None:
    side = new_side(initiator=True)
    streams = heavy(side, 100)
    frames: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for _ in range(1000):
        for f in parse(fill(side.session)):
            assert f.kind == DATA
            frames[f.stream_id] += 1
            sizes[f.stream_id] += f.length
    assert set(frames) == {stream.id for stream in streams}
    assert max(frames.values()) - min(frames.values()) <= 1
    assert min(sizes.values()) >= 0.9 * max(sizes.values())


def test_streams_with_little_at_a_time_get_equal_shares() -> None:
    """Streams that are refilled as they drain, in pieces that do not divide a message."""
    side = new_side(initiator=True)
    streams = heavy(side, 20, 10_000)
    sizes: Counter[int] = Counter()
    for _ in range(2000):
        for f in parse(fill(side.session)):
            sizes[f.stream_id] += f.length
        for stream in streams:
            if stream.send_pending < 10_000:
                write(stream, bytes(10_000))
    assert set(sizes) == {stream.id for stream in streams}
    assert min(sizes.values()) >= 0.8 * max(sizes.values())


@pytest.mark.parametrize("room", [13, 24, 25, 100, 523, 524, 525, 4096, MESSAGE])
def test_fill_writes_whole_frames_into_any_room(room: int) -> None:
    pair = Pair()
    mine, theirs = pair.open()
    sent = bytes(range(251)) * 8
    total = b""
    for _ in range(5):
        write(mine, sent)
        total += sent
    other = pair.a.session.open()
    write(other, b"y" * 700)
    pair.a.session.ping()
    mine.finish()
    while pair.a.session.wants_write:
        part = fill(pair.a.session, room)
        assert part
        parse(part)
        pair.b.receive(part)
    assert take_all(theirs) == total
    assert theirs.received_fin
    assert take_all(pair.b.accepted[-1]) == b"y" * 700


def test_fill_uses_a_message_well() -> None:
    side = new_side(initiator=True)
    stream = side.session.open()
    stream.send_credit = 2**31
    write(stream, bytes(MIB))
    while side.session.wants_write:
        part = fill(side.session)
        assert len(part) == MESSAGE or not side.session.wants_write


def heavy_stream(pair: Pair, data: bytes) -> MuxStream:
    """One of `a`'s streams that has sent so much that it is no sparse one any more."""
    stream = pair.a.session.open()
    write(stream, bytes(100_000))
    pair.pump()
    take_all(pair.b.accepted[-1])
    write(stream, data)
    fill(pair.a.session)
    return stream


def test_a_stream_alone_sends_long_frames_from_where_the_data_lies() -> None:
    pair = Pair()
    data = bytes(range(256)) * (4 * KIB)
    stream = heavy_stream(pair, data)
    framed = stream.bytes_framed
    stream.send_credit = 10 * MESSAGE
    header = memoryview(bytearray(HEADER_SIZE))
    found = pair.a.session.fill_long(header, MESSAGE, 4)
    assert found is not None
    size, payload = found
    assert size == HEADER_SIZE
    assert payload.obj is data
    assert bytes(header) == frame(DATA, 0, stream.id, 4 * MESSAGE)
    assert stream.bytes_framed == framed + 4 * MESSAGE
    assert stream.send_credit == 6 * MESSAGE
    # No more units than are asked for, and no more than there is credit for.
    assert len(fill_long(pair.a.session, units=3)) == HEADER_SIZE + 3 * MESSAGE
    assert len(fill_long(pair.a.session)) == HEADER_SIZE + 3 * MESSAGE
    assert stream.send_credit == 0
    assert fill_long(pair.a.session) == b""
    assert not pair.a.session.wants_write


def test_long_frames_arrive_whole_and_the_fin_after_them() -> None:
    pair = Pair()
    data = bytes(range(256)) * (4 * KIB)
    stream = heavy_stream(pair, data)
    theirs = pair.b.accepted[-1]
    theirs.receive_credit = stream.send_credit = 2**31
    sent = bytes(data[: stream.bytes_framed - 100_000])
    stream.finish()
    stream.wake_below = 0
    wire = drain(pair.a.session)
    lengths = [f.length for f in parse(wire)]
    assert max(lengths) == 4 * MESSAGE
    assert lengths[-1] == 0
    pair.b.receive(wire)
    assert sent + take_all(theirs) == data
    assert theirs.received_fin
    assert pair.a.session.take_drained() == [stream]


def test_nobody_waits_for_a_long_frame() -> None:
    """It is sent when there is nothing more urgent."""
    pair = Pair()
    session = pair.a.session
    stream = heavy_stream(pair, bytes(MIB))
    stream.send_credit = 2**31
    other = session.open()
    write(other, b"a call")
    assert fill_long(session) == b""
    assert parse(fill(session))[0] == Frame(DATA, SYN, other.id, 6, b"a call")
    session.ping()
    assert fill_long(session) == b""
    assert parse(fill(session))[0].kind == PING
    session.window_updates_due[stream.id] = stream
    assert fill_long(session) == b""
    assert parse(fill(session))[0].kind == WINDOW_UPDATE
    assert fill_long(session) != b""


def test_heavy_streams_take_turns_with_long_frames_and_have_equal_shares() -> None:
    side = new_side(initiator=True)
    few = heavy(side, 1, size=0)[0]
    heavy(side, 3)
    shares: Counter[int] = Counter()
    for _ in range(400):
        while few.send_pending < 2 * 64 * KIB:
            write(few, bytes(64 * KIB))  # in small pieces, so that it can send no long ones
        for f in parse(fill(side.session, unit=MESSAGE)):
            assert f.stream_id == few.id
            shares[f.stream_id] += f.length
        for f in parse(fill_long(side.session, units=8)):
            assert f.length == 4 * MESSAGE
            shares[f.stream_id] += f.length
        # Not enough room for a turn: it is left to the next batch, and not cut.
        assert fill_long(side.session, units=3) == b""
    mean = shares.total() / 4
    assert list(shares.values()) == [pytest.approx(mean, rel=0.05)] * 4


def test_what_is_over_whole_units_goes_with_the_header() -> None:
    """A body of 256 KiB is five messages, and its reader is not woken for 68 bytes."""
    pair = Pair()
    session = pair.a.session
    stream = heavy_stream(pair, b"")
    stream.send_credit = 2**31
    pair.b.accepted[-1].receive_credit = 2**31
    body = random.Random(1).randbytes(256 * KIB)
    write(stream, body)
    sent = fill_long(session)
    assert parse(sent) == [Frame(DATA, 0, stream.id, len(body), body)]
    assert not session.wants_write
    # Where there is no room for it, it comes after them.
    write(stream, body)
    sent = fill_long(session, room=HEADER_SIZE + 67)
    assert parse(sent) == [Frame(DATA, 0, stream.id, 4 * MESSAGE, body[: 4 * MESSAGE])]
    assert parse(fill(session)) == [Frame(DATA, 0, stream.id, 68, body[-68:])]


def test_no_frame_is_larger_than_others_take() -> None:
    """With what is over, sixteen messages were some KiB too many for rust-yamux."""
    pair = Pair()
    stream = heavy_stream(pair, bytes(3 * MIB))
    stream.send_credit = 2**31
    lengths = [f.length for _ in range(2) for f in parse(fill_long(pair.a.session, units=64))]
    assert lengths == [MIB, MIB]


def test_a_sparse_stream_whose_data_is_much_is_heavy_and_its_data_not_cut() -> None:
    side = new_side(initiator=True)
    heavy(side, 2)
    stream = side.session.open()
    stream.send_credit = 2**31
    write(stream, b"head")
    write(stream, bytes(256 * KIB))
    frames = parse(fill(side.session, unit=MESSAGE))
    assert frames == [Frame(DATA, SYN, stream.id, 4, b"head")]
    lengths = [f.length for _ in range(3) for f in parse(fill_long(side.session))]
    assert lengths == [4 * MESSAGE, 4 * MESSAGE, 256 * KIB]


def test_what_is_in_small_pieces_or_gone_gives_no_long_frame() -> None:
    pair = Pair()
    stream = heavy_stream(pair, b"x" * MESSAGE)
    stream.send_credit = 2**31
    write(stream, bytes(2 * MESSAGE - 1))
    assert fill_long(pair.a.session) == b""
    drain(pair.a.session)
    write(stream, bytes(2 * MESSAGE))
    pair.a.session.reset(stream)
    assert fill_long(pair.a.session) == b""


def test_data_is_not_split_for_a_small_remainder() -> None:
    side = new_side(initiator=True)
    one, other = side.session.open(), side.session.open()
    write(one, bytes(10_000))
    write(other, bytes(10_000))
    room = 2 * HEADER_SIZE + 10_000 + 400
    assert [f.length for f in parse(fill(side.session, room))] == [10_000]
    assert [f.length for f in parse(fill(side.session, room))] == [10_000]


@pytest.mark.parametrize("room", [13, 64, 600, MESSAGE])
def test_queue_of_dead_streams_does_not_block(room: int) -> None:
    """Streams that were reset, taken back or lost their reason to send, while in the queue."""
    side = new_side(initiator=True)
    streams = [side.session.open() for _ in range(50)]
    for stream in streams:
        write(stream, bytes(1000))
    for stream in streams[:40]:
        side.session.reset(stream)
    drain(side.session, room)
    for stream in streams[40:]:
        write(stream, bytes(1000))
        stream.unwrite(1000)
    assert side.session.wants_write
    assert drain(side.session, room) == b""
    write(streams[45], b"still works")
    assert parse(drain(side.session, max(room, 64)))[0].body == b"still works"


def test_the_driver_hears_once_when_a_queue_has_sunk() -> None:
    side = new_side(initiator=True)
    stream = side.session.open()
    stream.send_credit = 2**31
    write(stream, bytes(300_000))
    stream.wake_below = 100_000
    heard = []
    while side.session.wants_write:
        fill(side.session)
        for drained in side.session.take_drained():
            heard.append(drained.send_pending)
    assert len(heard) == 1
    assert 0 < heard[0] <= 100_000
    write(stream, bytes(300_000))
    stream.wake_below = 0
    side.session.reset(stream)
    assert side.session.take_drained() == [stream]
    assert stream.wake_below is None
