"""The pure core of /lattica/content/1.0.0."""

from __future__ import annotations

import msgpack
import pytest

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.protocol import (
    MAX_SPAN_BYTES,
    Begun,
    Body,
    ContentClientCore,
    ContentServerCore,
    ManifestRequest,
    Refusal,
    Refused,
    SpanRequest,
    encode_body_header,
    encode_refusal,
    encode_request,
)
from lattica.errors import IncompleteReadError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import encode_length_prefixed

CID = Cid.of(b"manifest")


def message(value) -> bytes:
    return encode_length_prefixed(msgpack.packb(value))


def bytewise(core, data):
    return [event for byte in data for event in core.feed(bytes((byte,)))]


@pytest.mark.parametrize("feed", [lambda core, data: core.feed(data), bytewise])
def test_requests(feed):
    client, server = ContentClientCore(), ContentServerCore()
    data = client.request_manifest(CID) + client.request_span(CID, 7, 3, 300)
    assert feed(server, data) == [ManifestRequest(CID), SpanRequest(CID, 7, 3)]
    server.finish()


@pytest.mark.parametrize("feed", [lambda core, data: core.feed(data), bytewise])
def test_answers_come_in_order(feed):
    client = ContentClientCore()
    client.request_manifest(CID)
    for _ in range(3):
        client.request_span(CID, 0, 1, 10)
    data = encode_body_header(5) + b"12345"
    data += encode_refusal(Refusal.CHANGED, "é" * 1000)
    data += encode_body_header(10) + b"abcdefghij"
    answers = feed(client, data)
    assert answers[0] == Body(memoryview(b"12345"))
    assert isinstance(answers[1], Refused)
    assert answers[1].code is Refusal.CHANGED
    assert answers[1].message == "é" * 256
    assert answers[2] == Body(memoryview(b"abcdefghij"))
    with pytest.raises(IncompleteReadError, match="1 answers missing"):
        client.finish()


def test_body_is_received_into_its_own_memory():
    client = ContentClientCore()
    client.request_span(CID, 0, 1, MAX_SPAN_BYTES)
    client.feed(encode_body_header(MAX_SPAN_BYTES))
    assert len(client.buffer()) == MAX_SPAN_BYTES
    client.buffer()[:] = b"x" * MAX_SPAN_BYTES
    (answer,) = client.received(MAX_SPAN_BYTES)
    assert isinstance(answer, Body)
    assert answer.data == b"x" * MAX_SPAN_BYTES
    client.finish()
    # Given back, the memory is used again, without a trace of what was in it.
    client.recycle(answer.data)
    client.request_span(CID, 0, 1, 3)
    (again,) = client.feed(encode_body_header(3) + b"abc")
    assert isinstance(again, Body)
    assert again == Body(memoryview(b"abc"))
    assert again.data.obj is answer.data.obj


def test_unknown_refusal_codes_are_understood_as_refusals():
    client = ContentClientCore()
    client.request_manifest(CID)
    assert client.feed(message([1, 99, "?"])) == [Refused(Refusal.UNREADABLE, "?")]


@pytest.mark.parametrize(
    "data",
    [
        message([0, 11]),
        message([0, 9]),
        message([0, -1]),
        message([0, 1 << 40]),
        message([0]),
        message([0, "10"]),
        message([1, 1]),
        message([1, 1, b"x"]),
        message([2, 1]),
        message([]),
        message({}),
        message(0),
        message([[[[[]]]]]),
        encode_length_prefixed(b"\xc1"),
        encode_length_prefixed(b""),
        b"\xff\xff\x03",
        b"\xff" * 11,
        b"\x80\x00",
    ],
)
def test_bad_answers(data):
    client = ContentClientCore()
    client.request_span(CID, 0, 1, 10)
    with pytest.raises(RemoteProtocolError):
        client.feed(data)


def test_answer_to_nothing():
    with pytest.raises(RemoteProtocolError, match="nothing that was asked"):
        ContentClientCore().feed(encode_body_header(1))


@pytest.mark.parametrize(
    "data",
    [
        message([0]),
        message([0, bytes(36)]),
        message([0, b""]),
        message([0, "text"]),
        message([1, bytes(CID), 0, 0]),
        message([1, bytes(CID), -1, 1]),
        message([1, bytes(CID), 0, 5000]),
        message([1, bytes(CID), 0, 1.0]),
        message([1, bytes(CID), 1 << 32, 1]),
        message([1, bytes(CID), 0]),
        message([3]),
        encode_length_prefixed(b"\xc1"),
        b"\x41",  # 65 bytes
        b"\xff" * 11,
    ],
)
def test_bad_requests(data):
    with pytest.raises(RemoteProtocolError):
        ContentServerCore().feed(data)


def test_request_cut_short():
    server = ContentServerCore()
    server.feed(encode_request(ManifestRequest(CID))[:-1])
    with pytest.raises(IncompleteReadError):
        server.finish()


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 1), (1, 0), (5000, 5000), (2, MAX_SPAN_BYTES + 1), (1, MAX_CHUNK_BYTES + 1)],
)
def test_span_that_is_too_much_is_the_callers_fault(count, size):
    with pytest.raises(LocalProtocolError):
        ContentClientCore().request_span(CID, 0, count, size)


def test_an_answer_that_two_streams_bring():
    first = ContentClientCore()
    first.request_span(CID, 7, 3, 10)
    first.feed(encode_body_header(10) + b"abcd")
    begun = first.begun
    assert begun is not None
    assert begun.filled == 4
    second = ContentClientCore()
    data = second.request_span(CID, 7, 3, 10, begun)
    assert ContentServerCore().feed(data) == [SpanRequest(CID, 7, 3, 4)]
    (answer,) = second.feed(encode_body_header(6) + b"efghij")
    assert isinstance(answer, Body)
    assert bytes(answer.data) == b"abcdefghij"


def test_a_rest_of_another_size_is_refused():
    first = ContentClientCore()
    first.request_manifest(CID)
    first.feed(encode_body_header(1000) + b"abcd")
    second = ContentClientCore()
    data = second.request_manifest(CID, first.begun)
    assert ContentServerCore().feed(data) == [ManifestRequest(CID, 4)]
    with pytest.raises(RemoteProtocolError, match="996 to 996"):
        second.feed(encode_body_header(1000))


def test_no_beginning_of_that_answer():
    core = ContentClientCore()
    body = memoryview(bytearray(10))
    for begun in (Begun(body, 0), Begun(body, 10), Begun(body[:9], 3)):
        with pytest.raises(LocalProtocolError):
            core.request_span(CID, 7, 3, 10, begun)
