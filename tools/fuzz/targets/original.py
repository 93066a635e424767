"""Targets of the original's wire: pickles, the messages of its RPC, and its records."""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any

from lattica.compat.kad.values import (
    SubkeyIndex,
    TimedValue,
    decode_index,
    decode_value,
    encode_index,
    encode_value,
)
from lattica.compat.pickles.reader import read_pickle
from lattica.compat.pickles.writer import write_pickle
from lattica.compat.wire.messages import (
    Cancel,
    Failure,
    Part,
    Request,
    Response,
    decode_frame,
    decode_message,
    encode_message,
    frame_parts,
)
from lattica.errors import RemoteProtocolError
from tools.fuzz.target import Target, Violation

_VALUES = (
    None,
    [1, 2.5, "text", b"bytes", (1,), (1, 2), (1, 2, 3, 4), {1, 2}, frozenset({3})],
    {"peer": {"start": 0, "end": 12, 3: [True, False, 2**70]}, ("a", 1): bytearray(b"x")},
    ["same", "same"] * 20,
)


def _pickle(data: bytes) -> None:
    value = read_pickle(data)
    # Not compared: that no number is not equal to itself.
    if write_pickle(read_pickle(write_pickle(value))) != write_pickle(value):
        raise Violation(f"{value!r:.200} is another one once written and read")


def _rpc(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        message = decode_message(data)
        if decode_message(encode_message(message)) != message:
            raise Violation(f"{message!r:.200} is another one once written and read")
    frame = decode_frame(data)
    if decode_frame(b"".join(frame_parts(frame))[4:]) != frame:
        raise Violation(f"{frame!r:.200} is another one once written and read")


def _records(data: bytes) -> None:
    for number, (decode, encode) in enumerate(
        ((decode_value, encode_value), (decode_index, encode_index))
    ):
        try:
            record: Any = decode(data)
        except RemoteProtocolError:
            if number:
                raise
            continue
        if decode(encode(record)) != record:  # type: ignore[operator]
            raise Violation(f"{record!r:.200} is another one once written and read")


RECORDS = Target(
    "original-records",
    _records,
    (RemoteProtocolError,),
    seeds=[
        encode_value(TimedValue(b"\x80\x04N.", 1.8e9)),
        encode_index(SubkeyIndex(("one", "two"), 1.8e9)),
    ],
    tokens=[b"\xfb", b"\0\0\0\0\0\0\xf0\x7f"],
)
PICKLE = Target(
    "original-pickle",
    _pickle,
    (RemoteProtocolError,),
    seeds=[
        *(pickle.dumps(value, 5) for value in _VALUES),
        *(write_pickle(value) for value in _VALUES),
    ],
    tokens=[
        b"\x80\x04",
        b"\x80\x05",
        b"\x94",
        b"h\0",
        b"](",
        b"}(",
        b"e",
        b"u",
        b"\x93",
        b"R",
        b".",
    ],
)
RPC = Target(
    "original-rpc",
    _rpc,
    (RemoteProtocolError,),
    seeds=[
        encode_message(Request("id", "Echo.shout", b"data")),
        encode_message(Response("id", b"data" * 80)),
        encode_message(Failure("id", "no")),
        *(
            b"".join(frame_parts(frame))[4:]
            for frame in (Request("id", "Echo.shout"), Part("id", b"x", True), Cancel("id"))
        ),
    ],
    tokens=[b"\xfb", b"\xfc\xff\xff\xff\xff", b"\xfd", b"\0", b"\1", b"\2", b"\3", b"\4"],
)
