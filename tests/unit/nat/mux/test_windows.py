"""How the windows of yamux's streams grow, and what they are measured by."""

from __future__ import annotations

import pytest

from lattica.nat.config import Limits, Windows
from lattica.nat.mux.events import EventKind
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.windows import growth
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.yamux_pair import Pair, drain

MIB = 1024 * 1024


def pour(pair: Pair, mine: MuxStream, theirs: MuxStream, total: int, delay: float) -> None:
    """Send `total` bytes as fast as the window allows, over a link with `delay` each way."""
    received = 0
    write(mine, bytes(total))
    while received < total:
        to_b = drain(pair.a.session)
        pair.clock.now += delay
        if to_b:
            pair.b.receive(to_b)
        received += len(take_all(theirs))
        to_a = drain(pair.b.session)
        pair.clock.now += delay
        if to_a:
            pair.a.receive(to_a)


def ping_each_other(pair: Pair, delay: float) -> None:
    pair.a.session.ping()
    pair.b.session.ping()
    pair.pump(delay=delay)


def test_window_grows_where_the_round_trip_limits() -> None:
    pair = Pair(windows=Windows(maximum=4 * MIB))
    mine, theirs = pair.open()
    ping_each_other(pair, 0.05)
    assert pair.b.session.rtt == pytest.approx(0.1)
    pour(pair, mine, theirs, 32 * MIB, 0.05)
    assert theirs.receive_window == 4 * MIB
    # The sender was told of all of it.
    assert mine.send_credit + theirs.consumed == 4 * MIB
    assert theirs.receive_credit + theirs.consumed == 4 * MIB
    assert pair.b.session._promised == 4 * MIB
    for side, stream in ((pair.a, mine), (pair.b, theirs)):
        stream.finish()
        side.session.discard_received(stream)
    pair.pump()
    assert pair.b.session._promised == 0


def test_window_stays_where_the_reader_limits() -> None:
    """A window that takes longer than four round trips to use is large enough."""
    pair = Pair()
    mine, theirs = pair.open()
    ping_each_other(pair, 0.0005)
    for _ in range(50):
        write(mine, bytes(INITIAL_WINDOW // 2))
        pair.pump()
        take_all(theirs)
        pair.clock.now += 0.01
        pair.pump()
    assert theirs.receive_window == INITIAL_WINDOW


def test_window_does_not_grow_before_the_round_trip_is_known() -> None:
    pair = Pair()
    mine, theirs = pair.open()
    pour(pair, mine, theirs, 4 * MIB, 0.05)
    assert pair.b.session.rtt is None
    assert theirs.receive_window == INITIAL_WINDOW


def test_windows_leave_room_for_new_streams() -> None:
    """However much bulk streams could use, a call beside them finds its place."""
    limit = 4 * MIB
    pair = Pair(limits=Limits(receive_memory_per_connection=limit))
    ping_each_other(pair, 0.05)
    for _ in range(3):
        mine, theirs = pair.open()
        pour(pair, mine, theirs, 16 * MIB, 0.05)
        assert theirs.receive_window > INITIAL_WINDOW or pair.b.session._promised >= limit // 2
    assert pair.b.session._promised <= limit
    for _ in range(4):
        pair.open()


def test_the_shortest_round_trip_counts() -> None:
    pair = Pair()
    for delay, expected in ((0.05, 0.1), (0.2, 0.1), (0.01, 0.02)):
        ping_each_other(pair, delay)
        assert pair.a.session.rtt == pytest.approx(expected)
    assert [event.kind for event in pair.a.events].count(EventKind.PONG) == 3


def pour_at(pair: Pair, mine: MuxStream, theirs: MuxStream, size: int, delay: float) -> None:
    """Send for a while over a link with `delay` each way that carries `size` bytes in both."""
    for _ in range(30):
        write(mine, bytes(size - mine.send_pending))
        to_b = drain(pair.a.session)
        pair.clock.now += delay
        pair.b.receive(to_b)
        take_all(theirs)
        to_a = drain(pair.b.session)
        pair.clock.now += delay
        if to_a:
            pair.a.receive(to_a)


def window_of(*, relayed: bool, size: int, delay: float) -> int:
    """The window after :func:`pour_at`."""
    pair = Pair(relayed=relayed)
    mine, theirs = pair.open()
    ping_each_other(pair, delay)
    pour_at(pair, mine, theirs, size, delay)
    assert pair.b.session._promised == theirs.receive_window
    assert mine.send_pending == 0, "it is large enough for the path"
    return theirs.receive_window


def test_a_window_through_a_relay_grows_to_what_the_path_takes() -> None:
    """What is under way there cannot be overtaken; elsewhere a window may be larger."""
    for size in (300_000, 650_000, MIB):
        window = window_of(relayed=True, size=size, delay=0.02)
        assert 3 * size <= window <= 4 * size
        assert window < window_of(relayed=False, size=size, delay=0.02)


def test_a_window_through_a_relay_on_one_machine_leaves_time_to_run() -> None:
    """The round trip may be shorter than the pauses of three processes that share processors."""
    assert window_of(relayed=True, size=128 * 1024, delay=0.0001) > INITIAL_WINDOW


def relayed_window(rate: float, rtt: float) -> int:
    """What a window through a relay becomes where a reader takes `rate` bytes a second."""
    window = INITIAL_WINDOW
    while grown := growth(window, window // 2, window / 2 / rate, rtt, most=16 * MIB, relayed=True):
        window += grown
    return window


def test_a_window_through_a_relay_fills_batches_where_that_takes_little_time() -> None:
    """As where twenty circuits share a relay: the round trip of a quiet one says too little."""
    assert relayed_window(50e6, 0.01) == 2304 * 1024
    assert relayed_window(500e6, 0.002) == pytest.approx(5e6), "more, where that is not much"
    assert relayed_window(3e6, 0.03) == pytest.approx(36e4), "less, where it takes long"


def test_a_window_through_a_relay_grows_as_fast_as_another() -> None:
    """Where the round trip limits, as it does at the start of each stream."""
    took = []
    for relayed in (False, True):
        pair = Pair(windows=Windows(maximum=4 * MIB), relayed=relayed)
        mine, theirs = pair.open()
        ping_each_other(pair, 0.05)
        pour(pair, mine, theirs, 16 * MIB, 0.05)
        took.append((pair.clock.now, theirs.receive_window))
    assert took[0] == took[1]


def test_the_round_trip_through_a_relay_is_measured_while_windows_are_small() -> None:
    """Three processes were busy when it was made: the first pongs may be late."""
    pair = Pair(relayed=True)
    mine, theirs = pair.open()
    ping_each_other(pair, 0.5)
    pour(pair, mine, theirs, 4 * MIB, 0.05)
    assert pair.b.session.rtt == pytest.approx(0.1)
