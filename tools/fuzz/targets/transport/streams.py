"""Targets of what runs inside the secure channel: protocol negotiation and the multiplexer."""

from __future__ import annotations

import struct

from lattica.errors import (
    ConnectionClosedError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.config import Limits
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.yamux.frames import HEADER_SIZE, pack_header, unpack_header
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.multistream import (
    MAX_MESSAGE,
    PROTOCOL_ID,
    Initiator,
    Responder,
    encode_message,
)
from tools.fuzz.target import KIB, MIB, Target, Violation
from tools.fuzz.targets.pieces import in_pieces, option, record, records

SPOKEN = ("/ipfs/ping/1.0.0", "/lattica/test/1", "/ü")


def _multistream_responder(data: bytes) -> None:
    step, stream = option(data)
    machine = Responder(lambda name: name in SPOKEN, lambda: SPOKEN)
    sent = fed = 0
    for piece in in_pieces(stream, step):
        fed += len(piece)
        machine.receive(piece)
        sent += len(machine.data_to_send())
        if machine.selected is not None or machine.failed:
            break
    # The dearest question is `ls`, 4 bytes, which may cost a list each time.
    if sent > 256 + fed * 32:
        raise Violation(f"{fed} bytes were answered by {sent}")
    if machine.selected is not None:
        if machine.selected not in SPOKEN:
            raise Violation(f"selected {machine.selected!r}, which nobody speaks")
        if not stream[:fed].endswith(machine.rest):
            raise Violation("the rest is not the end of what came")


def _multistream_initiator(data: bytes) -> None:
    step, stream = option(data)
    machine = Initiator(SPOKEN[: 1 + step % len(SPOKEN)])
    fed = 0
    for piece in in_pieces(stream, step):
        fed += len(piece)
        machine.receive(piece)
        if machine.selected is not None or machine.failed:
            break
    machine.data_to_send()
    if machine.selected is not None and machine.selected not in SPOKEN:
        raise Violation(f"selected {machine.selected!r}, which was not proposed")
    if not stream[:fed].endswith(machine.rest):
        raise Violation("the rest is not the end of what came")


# The kinds of `records` for yamux: frames of the peer, and what the application does.
FRAME, RAW, OPEN, WRITE, FINISH, TAKE, RESET, DISCARD, FILL, TICK = range(10)
_LIMITS = Limits(max_streams_per_connection=16, receive_memory_per_connection=8 * MIB)
_BUDGET = 2 * MIB


class _Yamux:
    """A session with an application that does what the fuzzer says."""

    def __init__(self, initiator: bool) -> None:
        self.now = 0.0
        self.budget = MemoryBudget(_BUDGET)
        self.session = Session(
            initiator=initiator, clock=lambda: self.now, limits=_LIMITS, budget=self.budget
        )
        self.known: list[MuxStream] = []
        self.out = memoryview(bytearray(65519))

    def note(self, events: list[Event]) -> None:
        for event in events:
            if event.stream is not None and event.stream.owner is None:
                self.adopt(event.stream)

    def adopt(self, stream: MuxStream) -> None:
        """What the driver does with a stream that it has been told of."""
        stream.owner = self
        self.known.append(stream)

    def live(self, payload: bytes) -> MuxStream | None:
        """The stream that an instruction means."""
        live = [stream for stream in self.known if stream.reset_reason is None]
        return live[(payload[0] if payload else 0) % len(live)] if live else None

    def step(self, kind: int, payload: bytes) -> None:
        stream = self.live(payload)
        match kind % 10:
            case 0:
                self.note(self.session.receive(_frame(payload)))
            case 1:
                self.note(self.session.receive(payload))
            case 2:
                self.adopt(self.session.open())
            case 3 if stream is not None and not stream.fin_queued:
                stream.write(memoryview(payload * 64))
            case 4 if stream is not None:
                stream.finish()
            case 5 if stream is not None:
                while stream.take(1 + len(payload) * 1024):
                    pass
            case 6 if stream is not None:
                self.session.reset(stream)
            case 7 if stream is not None and not stream.receive_discarded:
                self.session.discard_received(stream)
            case 8:
                self.fill()
            case 9:
                self.now += sum(payload[:1]) / 16
                self.session.tick()
            case _:
                pass

    def fill(self) -> None:
        room = self.out[: 1000 if self.now % 2 else len(self.out)]
        size = self.session.fill(room)
        position = 0
        while position < size:
            version, kind, _, _, length = unpack_header(self.out, position)
            if version or kind > 3:
                raise Violation(f"made a frame of version {version}, type {kind}")
            position += HEADER_SIZE + (length if kind == 0 else 0)
        if position != size:
            raise Violation("a frame was not written whole")

    def check(self) -> None:
        streams = {*self.known, *self.session.streams.values()}
        held = sum(sum(map(len, stream.receive_queue)) for stream in streams)
        if self.budget.used != held:
            raise Violation(f"holds {held} bytes, and accounts for {self.budget.used}")
        if held > _BUDGET or len(self.session.streams) > _LIMITS.max_streams_per_connection:
            raise Violation(f"over budget: {held} bytes, {len(self.session.streams)} streams")
        for stream in self.known:
            if stream.send_credit < 0 or stream.send_pending < 0:
                raise Violation("sent more than it may")

    def end(self) -> None:
        """The connection goes; nothing may stay accounted for that nobody can let go."""
        self.check()
        for stream in [*self.known, *self.session.close("the end")]:
            self.session.discard_received(stream)
        if self.budget.used:
            raise Violation(f"{self.budget.used} bytes stay accounted for after the end")


def _frame(payload: bytes) -> bytes:
    """A frame made so that most fields are plausible; `payload` chooses."""
    kind, flags, stream_id, high, low = struct.unpack(">BBBBB", payload[:5].ljust(5, b"\0"))
    length = high * 1024 + low
    if kind % 4:
        return pack_header(0, kind % 4, flags % 16, stream_id % 24, length << (high & 7))
    length = min(length, 64 * KIB)
    return pack_header(0, 0, flags % 16, stream_id % 24, length) + bytes(length)


def _yamux(data: bytes) -> None:
    kind, rest = option(data)
    machine = _Yamux(initiator=bool(kind & 1))
    try:
        if kind & 2:
            for piece in in_pieces(rest, kind >> 2):
                machine.note(machine.session.receive(piece))
                machine.check()
            machine.fill()
            return
        for what, payload in records(rest):
            machine.step(what, payload)
            machine.check()
    finally:
        machine.end()


_HEADER_MESSAGE = encode_message(PROTOCOL_ID)
_NEGOTIATION = [
    _HEADER_MESSAGE,
    encode_message("na"),
    encode_message("ls"),
    *map(encode_message, SPOKEN),
    b"\x80\x08" + b"x" * MAX_MESSAGE,
]

MULTISTREAM_RESPONDER = Target(
    "multistream-responder",
    _multistream_responder,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + _HEADER_MESSAGE + encode_message(SPOKEN[0]) + b"data",
        b"\x01" + _HEADER_MESSAGE + encode_message(SPOKEN[2]) + b"data",
        b"\x05" + _HEADER_MESSAGE + encode_message("ls") + encode_message("/no") * 3,
    ],
    tokens=_NEGOTIATION,
)
MULTISTREAM_INITIATOR = Target(
    "multistream-initiator",
    _multistream_initiator,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + _HEADER_MESSAGE + encode_message(SPOKEN[0]) + b"data",
        b"\x02" + _HEADER_MESSAGE + encode_message("na") * 2 + encode_message(SPOKEN[2]),
        b"\x01" + _HEADER_MESSAGE + encode_message("na") * 2,
    ],
    tokens=_NEGOTIATION,
)

_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_PEER_OPENS = record(FRAME, bytes((0, _SYN, 1, 4, 0)))
YAMUX = Target(
    "yamux",
    _yamux,
    (RemoteProtocolError, ConnectionClosedError, ResourceLimitError),
    seeds=[
        # The peer opens, sends, half-closes; the application answers.
        b"\x00" + _PEER_OPENS + record(TAKE, b"\x00" * 9) + record(WRITE, b"\x00" * 200)
        + record(FILL) + record(FRAME, bytes((0, _FIN, 1, 0, 5))) + record(FINISH) + record(FILL),
        # The application opens; the peer gives credit, resets.
        b"\x01" + record(OPEN) + record(WRITE, b"\x00" * 250) + record(FILL)
        + record(FRAME, bytes((1, _ACK, 1, 4, 0))) + record(FRAME, bytes((1, _RST, 1, 0, 0))),
        # Window overrun, in pieces.
        b"\x00" + _PEER_OPENS + record(FRAME, bytes((0, 0, 1, 63, 0))) * 5,
        # Discarded while the peer goes on sending; pings; time.
        b"\x00" + _PEER_OPENS + record(DISCARD) + record(FRAME, bytes((0, 0, 1, 60, 0))) * 5
        + record(FRAME, bytes((2, _SYN, 0, 0, 7))) + record(TICK, b"\xff") + record(FILL),
        # Raw bytes.
        b"\x02" + pack_header(0, 0, _SYN, 1, 5) + b"hello" + pack_header(0, 0, _FIN, 1, 0),
        b"\x2e" + pack_header(0, 1, _SYN, 1, 2**32 - 1) + pack_header(0, 3, 0, 0, 1),
        b"\x06" + pack_header(0, 0, _SYN, 1, 2**32 - 1),
    ],
    tokens=[
        pack_header(0, 0, _SYN, 1, 5), pack_header(0, 1, _FIN, 1, 0), pack_header(0, 2, _SYN, 0, 0),
        pack_header(0, 1, _RST, 2, 0), _PEER_OPENS, record(OPEN), record(FILL),
    ],
    max_size=1 * KIB,
)  # fmt: skip
