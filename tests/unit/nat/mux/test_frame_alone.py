"""Frames that are made past the queues, where nothing else waits to be sent."""

from __future__ import annotations

import pytest

from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.yamux.session import Session
from tests.support.clock import Clock
from tests.support.pairs.connected import PATTERN
from tests.support.pairs.yamux_pair import Side, fill


def opened(*, spoken: bool = True) -> tuple[Session, MuxStream]:
    session = Side(initiator=True, clock=Clock()).session
    stream = session.open()
    if spoken:
        stream.write(memoryview(b"first"))
        fill(session)
    return session, stream


def test_what_comes_alone_is_framed_as_otherwise() -> None:
    (session, stream), (other, queued) = opened(), opened()
    data = memoryview(PATTERN)[:1000]
    queued.write(data)
    assert session.frame_alone(stream, data) == fill(other)
    for name in ("send_credit", "bytes_queued", "bytes_framed", "send_pending", "scheduled"):
        assert getattr(stream, name) == getattr(queued, name)
    assert not session.wants_write


@pytest.mark.parametrize("case", ["new", "nothing", "credit", "queue", "ping", "stopped"])
def test_what_does_not_come_alone_is_left_to_be_queued(case) -> None:
    session, stream = opened(spoken=case != "new")
    if case == "queue":
        session.open().write(memoryview(b"other"))
    if case == "ping":
        session.ping()
    if case == "stopped":
        stream.stopped = True
    size = {"nothing": 0, "credit": stream.send_credit + 1}.get(case, 10)
    before = stream.send_credit, stream.bytes_queued
    assert session.frame_alone(stream, memoryview(bytes(size))) is None
    assert (stream.send_credit, stream.bytes_queued) == before
