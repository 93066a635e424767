"""A session that has ended is freed with its streams, without the cycle collector.

A stream holds its session, so the session must hold no stream, whatever it was doing at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from weakref import ref

import pytest

from lattica.errors import RemoteProtocolError
from lattica.nat.mux.priority import Priority
from lattica.nat.mux.stream_state import MuxStream
from tests.support.clock import Clock
from tests.support.pairs.mux_streams import write
from tests.support.pairs.yamux_pair import FIN, SYN, WINDOW_UPDATE, Side, data_frame, frame


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def idle(side: Side, stream: MuxStream) -> None:
    pass


def has_more_to_send(side: Side, stream: MuxStream) -> None:
    write(stream, bytes(10))


def in_the_middle_of_a_frame(side: Side, stream: MuxStream) -> None:
    side.receive(data_frame(1, bytes(100))[:50])


def had_finished(side: Side, stream: MuxStream) -> None:
    side.receive(data_frame(1, b"", FIN))


def in_one_message_with_a_violation(side: Side, stream: MuxStream) -> None:
    with pytest.raises(RemoteProtocolError):
        side.receive(frame(WINDOW_UPDATE, SYN, 3, 0) + data_frame(1001, b"never opened"))


def nothing(stream: MuxStream) -> None:
    pass


def finish(stream: MuxStream) -> None:
    stream.finish()


def write_more(stream: MuxStream) -> None:
    write(stream, bytes(10))


def hurry(stream: MuxStream) -> None:
    write(stream, bytes(10))
    stream.session.set_priority(stream, Priority.HIGH)


def reset(stream: MuxStream) -> None:
    stream.session.reset(stream)
    stream.session.discard_received(stream)


@pytest.mark.parametrize("later", [nothing, finish, write_more, hurry, reset])
@pytest.mark.parametrize(
    "before",
    [
        idle,
        has_more_to_send,
        in_the_middle_of_a_frame,
        had_finished,
        in_one_message_with_a_violation,
    ],
)
def test_what_is_freed(
    before: Callable[[Side, MuxStream], None], later: Callable[[MuxStream], None]
) -> None:
    side = Side(initiator=False, clock=Clock())
    side.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    stream = side.accepted[-1]
    before(side, stream)
    side.session.close("gone")
    session = ref(side.session)
    del side
    later(stream)  # its user learns of the end when it looks next
    del stream
    assert session() is None
