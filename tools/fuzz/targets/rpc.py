"""Targets of RPC: values, and what either side of the two planes reads."""

from __future__ import annotations

import datetime

from lattica.errors import RemoteProtocolError
from lattica.rpc.data_plane.shared.messages import (
    NAME_BYTES,
    REFERENCE_BYTES,
    SECRET_BYTES,
    Answer,
    Offer,
    RecordKind,
    decode_answer,
    decode_offer,
    decode_records,
    decode_reference,
    encode_answer,
    encode_offer,
    encode_record,
    encode_reference,
)
from lattica.rpc.data_plane.shared.slots import Holder, ReceiverSlots, SenderSlots
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoder
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.protocol.client_core import ClientCore
from lattica.rpc.protocol.frames import (
    Kind,
    encode_error,
    encode_hello,
    encode_numbered,
    encode_request,
    encode_result,
    encode_welcome,
)
from lattica.rpc.protocol.messages import Kind as MessageKind
from lattica.rpc.protocol.messages import (
    PrefixReader,
    decode_call,
    decode_fetch,
    encode_call,
    encode_failure,
    encode_fetch,
    encode_message,
    head_of_call,
)
from lattica.rpc.protocol.server_core import Hello, Request, ServerCore
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import in_pieces, option

TYPES = TypeRegistry()
ENCODER, DECODER = Encoder(TYPES), Decoder(TYPES)
SESSION = bytes(16)
METHOD = b"\xa6Echo.a"
ARGUMENTS = ENCODER.encode([1, b"x", (2, {"a": {3}}), datetime.timedelta(1)])
SKELETONS = [
    ARGUMENTS.skeleton,
    ENCODER.encode(
        {"": [2**70, 1j, bytearray(b"b")], "when": datetime.datetime(2026, 1, 1)}
    ).skeleton,
    ENCODER.encode(bytes(100_000)).skeleton,
]


def _encoding(data: bytes) -> None:
    DECODER.decode(data, [b"one", memoryview(bytearray(b"two"))])


def _client(data: bytes) -> None:
    step, stream = option(data)
    core = ClientCore(SESSION, DECODER, lambda: 0.0)
    core.connect()
    calls = [core.start(METHOD, b"\x90", deadline=9.0) for _ in range(4)]
    ended = []
    for piece in in_pieces(stream, step):
        ended += [outcome.call.id for outcome in core.receive(piece)[0]]
        if core.violation is not None:
            break
    if len(ended) != len(set(ended)) or not set(ended) <= {call.id for call in calls}:
        raise Violation("a call has two outcomes, or one that was not made")
    if core.violation is not None and (core.pending or len(ended) < len(calls)):
        raise Violation("a call has no outcome")


def _server(data: bytes) -> None:
    step, stream = option(data)
    hello, core = Hello(), ServerCore(SESSION, DECODER)
    requests: list[int] = []
    for piece in in_pieces(stream, step):
        if hello.session is None:
            if not hello.feed(piece, DECODER):
                continue
            events, _ = core.attach(hello)
        else:
            events = core.receive(piece)
        requests += [event.id for event in events if isinstance(event, Request)]
    if requests != sorted(set(requests)):
        raise Violation("a request was handed out twice")


def _message(data: bytes) -> None:
    step, data = option(data)
    reader = PrefixReader()
    position = 0
    for piece in in_pieces(data, step):
        position += len(piece)
        found = reader.feed(piece)
        if found is not None:
            break
    else:
        return
    prefix, _, following = found
    whole = PrefixReader().feed(data)
    if whole is None or whole[0] != prefix or len(data) - whole[2] != position - following:
        raise Violation("a prefix is another when it comes in pieces")
    skeleton = data[position - following :][: prefix.skeleton]
    if prefix.kind is MessageKind.CALL:
        head = decode_call(DECODER.decode(head_of_call(skeleton)))
        if head.args or head.keywords:
            raise Violation("a head has arguments")
    value = DECODER.decode(skeleton)
    if prefix.kind is MessageKind.CALL:
        decode_call(value)
    elif prefix.kind is MessageKind.FETCH:
        decode_fetch(value)


def _shared(data: bytes) -> None:
    """What is said about shared memory, and what becomes of it."""
    kind, data = option(data)
    if kind % 4 == 0:
        decode_offer(data)
    elif kind % 4 == 1:
        decode_answer(data)
    elif kind % 4 == 2 and len(data) >= REFERENCE_BYTES:
        decode_reference(data[:REFERENCE_BYTES])
    else:
        sender, holder, receiver = SenderSlots(4), Holder(), ReceiverSlots(4)
        for record, slot, generation in decode_records(data):
            sender.take(holder)
            if record is RecordKind.RELEASE:
                sender.released(slot, generation)
            elif record is RecordKind.RECALL:
                receiver.recall(slot, generation)


ALLOWED = (RemoteProtocolError, RefusedValueError)
ENCODING = Target("rpc-encoding", _encoding, ALLOWED, seeds=SKELETONS)
CLIENT = Target(
    "rpc-client",
    _client,
    (),
    seeds=[
        b"\x00"
        + encode_welcome(SESSION, 0, None)
        + encode_result(0, b"\x01")
        + encode_error(1, 3, "no", {"not_run": True, "retry_after": 0.5})
        + encode_numbered(Kind.ELSEWHERE, 2)
    ],
)
SERVER = Target(
    "rpc-server",
    _server,
    (RemoteProtocolError,),
    seeds=[
        b"\x00"
        + encode_hello(SESSION, 0, 1)
        + encode_request(0, METHOD, ARGUMENTS.skeleton)
        + encode_request(1, METHOD, b"\x81\xa0\x90", timeout_ms=500, metadata=b"\x81\xa1a\x01")
        + encode_numbered(Kind.CANCEL, 0)
        + encode_numbered(Kind.ACK, 0)
    ],
)
MESSAGE = Target(
    "rpc-message",
    _message,
    ALLOWED,
    seeds=[
        b"\0" + encode_message(MessageKind.CALL, encode_call(METHOD, 0, ARGUMENTS, timeout_ms=500)),
        b"\0" + encode_fetch(SESSION, 5),
        b"\0" + encode_failure(8, "full", {"retry_after": 1.0}),
    ],
)
SHARED = Target(
    "rpc-shared",
    _shared,
    (RemoteProtocolError,),
    seeds=[
        b"\0" + encode_offer(Offer(bytes(NAME_BYTES), bytes(SECRET_BYTES))),
        b"\1" + encode_answer(Answer(bytes(SECRET_BYTES), 32)),
        b"\2" + encode_reference(7, 1, 1),
        b"\3" + encode_record(RecordKind.RECALL, 1, 1) + encode_record(RecordKind.RELEASE, 0, 1),
    ],
)
