"""Whose turn it is, with priorities."""

from __future__ import annotations

from collections import Counter

import pytest

from lattica.nat.mux.priority import Priority
from lattica.nat.mux.senders import SHARE, Senders
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.yamux.session import Session
from tests.support.clock import Clock

FRAME = 64 * 1024


class Line:
    """A connection that is always full, and streams that always have more."""

    def __init__(self) -> None:
        self.session = Session(initiator=True, clock=Clock())
        self.senders = Senders(Clock())
        self.sent: Counter[str] = Counter()
        self.order: list[str] = []
        self.names: dict[int, str] = {}

    def stream(self, name: str, priority: Priority) -> MuxStream:
        stream = self.session.open()
        stream.scheduled = stream.syn_due = False
        stream.sparse_left = 0
        stream.priority = priority
        stream.send_queue.append(memoryview(bytes(1)))
        self.names[stream.id] = name
        self.senders.add(stream, was_idle=False)
        return stream

    def turn(self) -> None:
        stream, _ = self.senders.first()
        self.senders.finish_turn(FRAME)
        self.senders.add(stream, was_idle=False)
        name = self.names[stream.id]
        self.sent[name] += FRAME
        self.order.append(name)


def test_control_goes_before_bulk_and_nobody_starves() -> None:
    line = Line()
    for name, priority in (("low", 0), ("normal", 1), ("other", 1), ("high", 2), ("high 2", 2)):
        line.stream(name, Priority(priority))
    for _ in range(1000):
        line.turn()
    assert set(line.order[:16]) == {"high", "high 2"}
    assert abs(line.sent["high"] - line.sent["high 2"]) <= FRAME
    high, total = line.sent["high"] + line.sent["high 2"], 1000 * FRAME
    assert high > 0.9 * total
    turns = total // (SHARE + FRAME)  # that high ones leave, for normal and low ones in turn
    assert line.sent["low"] // FRAME == pytest.approx(turns / 2, abs=1)
    assert line.sent["normal"] // FRAME == pytest.approx(turns / 4, abs=1)
    assert line.sent["other"] // FRAME == pytest.approx(turns / 4, abs=1)


def test_low_waits_for_normal_ones_and_has_the_line_when_they_are_done() -> None:
    line = Line()
    line.stream("low", Priority.LOW)
    normal = line.stream("normal", Priority.NORMAL)
    for _ in range(100):
        line.turn()
    assert line.sent["low"] == pytest.approx(100 * FRAME * FRAME / SHARE, abs=2 * FRAME)
    normal.send_queue.clear()
    line.turn()
    line.order.clear()
    for _ in range(10):
        line.turn()
    assert line.order[-8:] == ["low"] * 8


def test_equals_share_as_before() -> None:
    line = Line()
    for name in "abc":
        line.stream(name, Priority.NORMAL)
    for _ in range(90):
        line.turn()
    assert set(line.sent.values()) == {30 * FRAME}


def test_a_stream_that_waits_gets_its_new_priority_at_once() -> None:
    line = Line()
    first, second = (line.stream(name, Priority.NORMAL) for name in ("first", "second"))
    assert line.senders.first()[0] is first
    line.senders.set_priority(second, Priority.HIGH)
    assert line.senders.first()[0] is second
    assert line.senders.long_turn is None
    line.senders.set_priority(second, Priority.LOW)
    assert line.senders.first()[0] is first


def test_what_a_long_frame_was_more_than_a_turn_is_paid_with_turns() -> None:
    line = Line()
    long = line.stream("long", Priority.NORMAL)
    for name in "ab":
        line.stream(name, Priority.NORMAL)
    for _ in range(300):
        stream, _ = line.senders.first()
        assert line.senders.first()[0] is stream
        line.turn()
        if stream is long:
            line.sent["long"] += 3 * FRAME
            stream.ahead += 3 * FRAME
    assert line.sent["long"] == pytest.approx(line.sent["a"], abs=4 * FRAME)
    assert line.sent["long"] == pytest.approx(line.sent["b"], abs=4 * FRAME)


def test_a_stream_alone_owes_nobody_a_turn() -> None:
    line = Line()
    stream = line.stream("alone", Priority.NORMAL)
    stream.ahead = 100 * FRAME
    assert line.senders.first()[0] is stream
    assert stream.ahead == 0
    assert line.senders.long_turn == (stream, True)


def test_only_equals_wait_for_a_long_frame() -> None:
    line = Line()
    normal = line.stream("normal", Priority.NORMAL)
    line.stream("other", Priority.NORMAL)
    assert line.senders.long_turn == (normal, False)
    line.stream("low", Priority.LOW)
    assert line.senders.long_turn is None
