"""Two yamux sessions joined in memory, a clock that stands still, and frames taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.yamux.frames import HEADER_SIZE, Flag, FrameType, pack_header, unpack_header
from lattica.nat.mux.yamux.session import Session
from tests.support.clock import Clock

MESSAGE = 65519
"""Room in one Noise message."""
DATA, WINDOW_UPDATE, PING, GO_AWAY = FrameType
SYN, ACK, FIN, RST = Flag


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    length: int
    body: bytes = b""


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return pack_header(0, kind, flags, stream_id, length) + body


def data_frame(stream_id: int, body: bytes = b"", flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, len(body), body)


def parse(data: bytes) -> list[Frame]:
    """Take whole frames apart, with no help from the code under test."""
    frames = []
    position = 0
    while position < len(data):
        version, kind, flags, stream_id, length = unpack_header(data, position)
        assert version == 0
        position += HEADER_SIZE
        body = b""
        if kind == DATA:
            body = data[position : position + length]
            assert len(body) == length, "fill() wrote a part of a frame"
            position += length
        frames.append(Frame(kind, flags, stream_id, length, body))
    return frames


def fill(session: Session, room: int = MESSAGE, unit: int = 0) -> bytes:
    """One call of `fill`, which must not write beyond its buffer."""
    guard = 64
    buffer = bytearray(b"\xa5" * (room + guard))
    size = session.fill(memoryview(buffer)[:room], unit)
    assert 0 <= size <= room
    assert buffer[room:] == b"\xa5" * guard
    return bytes(buffer[:size])


def fill_long(session: Session, unit: int = MESSAGE, units: int = 4, room: int = MESSAGE) -> bytes:
    """One call of `fill_long`: the frame, in one piece, or nothing."""
    guard = 64
    head = bytearray(b"\xa5" * (room + guard))
    found = session.fill_long(memoryview(head)[:room], unit, units)
    assert head[room:] == b"\xa5" * guard
    if found is None:
        assert head[:room] == b"\xa5" * room
        return b""
    size, payload = found
    assert HEADER_SIZE <= size <= room
    assert len(payload) % unit == 0
    assert 2 <= len(payload) // unit <= units
    return bytes(head[:size]) + bytes(payload)


def drain(session: Session, room: int = MESSAGE) -> bytes:
    """All that the session wants to send now, as its driver takes it.

    A session that says it wants to write and then gives nothing would make its driver spin.
    """
    parts = []
    while session.wants_write:
        part = fill(session, room, room) + fill_long(session, room)
        # Streams that were reset may still stand in the queue; then there is nothing, once.
        assert part or not session.wants_write, "wants_write, but fill() gives nothing"
        parts.append(part)
        assert len(parts) < 100_000
    return b"".join(parts)


class Side:
    """A session and what happened to it."""

    def __init__(self, *, initiator: bool, clock: Clock, **options: Any) -> None:
        self.session = Session(initiator=initiator, clock=clock, **options)
        self.accepted: list[MuxStream] = []
        self.events: list[Event] = []

    def receive(self, data: bytes) -> list[Event]:
        events = self.session.receive(data)
        for event in events:
            if event.kind is EventKind.ACCEPTED:
                assert event.stream is not None
                self.accepted.append(event.stream)
        self.events += events
        return events


class Pair:
    """An initiator `a` and a responder `b`."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.a = Side(initiator=True, clock=self.clock, **options)
        self.b = Side(initiator=False, clock=self.clock, **options)

    def pump(self, *, delay: float = 0.0) -> None:
        """Carry everything both ways, each flight taking `delay` seconds, until all is quiet."""
        for _ in range(10_000):
            to_b, to_a = drain(self.a.session), drain(self.b.session)
            if not (to_a or to_b):
                return
            self.clock.now += delay
            if to_b:
                self.b.receive(to_b)
            if to_a:
                self.a.receive(to_a)
        raise AssertionError("the two sessions never come to rest")

    def open(self) -> tuple[MuxStream, MuxStream]:
        """A stream from `a` to `b`; both ends."""
        mine = self.a.session.open()
        self.pump()
        return mine, self.b.accepted[-1]
