"""Messages of the original's RPC: as it writes them, and what strangers write."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.compat.wire import bincode
from lattica.compat.wire.circuits import decode_circuit, encode_circuit
from lattica.compat.wire.messages import (
    Cancel,
    Close,
    Failure,
    Frame,
    Message,
    Part,
    Request,
    Response,
    decode_frame,
    decode_message,
    encode_message,
    frame_parts,
)
from lattica.errors import RemoteProtocolError

IDS = st.text(max_size=20)
DATA = st.binary(max_size=600)
MESSAGES: st.SearchStrategy[Message] = (
    st.builds(Request, IDS, IDS, DATA)
    | st.builds(Response, IDS, DATA)
    | st.builds(Failure, IDS, st.text(max_size=300))
)
FRAMES: st.SearchStrategy[Frame] = (
    st.builds(Request, IDS, IDS, DATA)
    | st.builds(Part, IDS, DATA, st.booleans())
    | st.builds(Failure, IDS, st.text(max_size=300))
    | st.builds(Close, IDS)
    | st.builds(Cancel, IDS)
)


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_messages(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@settings(max_examples=50, deadline=None)
@given(FRAMES)
def test_frames(frame: Frame) -> None:
    data = b"".join(frame_parts(frame))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert decode_frame(data[4:]) == frame


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_bytes_can_only_be_refused(data: bytes) -> None:
    for decode in (decode_message, decode_frame):
        with suppress(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\0"),
        (250, b"\xfa"),
        (251, b"\xfb\xfb\0"),
        (65535, b"\xfb\xff\xff"),
        (65536, b"\xfc\0\0\1\0"),
        (1 << 32, b"\xfd\0\0\0\0\1\0\0\0"),
    ],
)
def test_numbers_as_the_specification_has_them(value: int, data: bytes) -> None:
    assert bincode.uint(value) == data
    assert bincode.Reader(data).uint() == value


def test_compressed_data_is_refused() -> None:
    plain = encode_message(Response("1", b"data"))
    assert plain[-1:] == b"\0"
    assert decode_message(plain[:-1] + b"\1\0") == Response("1", b"data")
    with pytest.raises(RemoteProtocolError, match="compressed"):
        decode_message(plain[:-1] + b"\1\2")


def test_what_follows_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="1 bytes too many"):
        decode_message(encode_message(Response("1", b"data")) + b"\0")


CIRCUIT = (
    "/ip4/127.0.0.1/tcp/34819/p2p/12D3KooWMHqoEXAYb4mXr2HLjqYgNZDx9d9aXowRn3J6vsmAosDp"
    "/p2p-circuit/p2p/12D3KooWBTTAUt7YmJbR38fwJsX4ur2k7V3GHSpnsd69JVUnyFwD"
)
BROADCAST = b"\x96" + CIRCUIT.encode() + b"\x0e/lattica/1.0.0"
"""What the published 1.0.21 sent."""


def test_broadcasts_of_relayed_addresses() -> None:
    assert encode_circuit(CIRCUIT, "/lattica/1.0.0") == BROADCAST
    addr, network = decode_circuit(BROADCAST)
    assert (str(addr), network) == (CIRCUIT, "/lattica/1.0.0")
    for data in (b"", BROADCAST[:-1], BROADCAST + b"x", CIRCUIT.encode()):
        with pytest.raises(RemoteProtocolError):
            decode_circuit(data)
