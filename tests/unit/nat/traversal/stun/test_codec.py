"""STUN messages: what is written can be read, also by others, and what is damaged cannot."""

from __future__ import annotations

import struct

import pytest
from aioice import stun as aioice

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.codec import (
    BindingError,
    BindingRequest,
    BindingResponse,
    Message,
    decode,
    encode,
)
from tools.netlab.packets import stun as lab_stun

NAME = bytes(range(12))
MESSAGES: list[Message] = [
    BindingRequest(NAME),
    BindingRequest(NAME, fingerprint=False),
    BindingRequest(NAME, change_ip=True, change_port=True),
    BindingRequest(NAME, change_port=True),
    BindingRequest(NAME, response_port=65535),
    BindingResponse(NAME, ("192.0.2.1", 32853)),
    BindingResponse(
        NAME, ("2001:db8::1", 1), ("192.0.2.9", 3478), ("192.0.2.10", 3479), fingerprint=False
    ),
    BindingError(NAME, 420, "no", unknown=(3, 0x27)),
    BindingError(NAME, 699, fingerprint=False),
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_what_is_written_can_be_read(message):
    data = encode(message)
    assert decode(data) == message
    assert stun.is_stun(data)
    assert stun.transaction_of(data) == NAME
    is_request = isinstance(message, BindingRequest)
    assert stun.is_request_for_responder(data) is is_request


def test_the_example_of_rfc_5769():
    """Section 2.2, without SOFTWARE and MESSAGE-INTEGRITY, which are nothing for us."""
    name = bytes.fromhex("b7e7a701bc34d686fa87dfae")
    value = bytes.fromhex("0001a147e112a643")
    data = struct.pack("!HHI12s", 0x0101, 12, 0x2112A442, name) + b"\x00\x20\x00\x08" + value
    expected = BindingResponse(name, ("192.0.2.1", 32853), fingerprint=False)
    assert decode(data) == expected
    assert encode(expected) == data


@pytest.mark.parametrize(
    "message",
    [
        BindingRequest(NAME, change_ip=True, response_port=7, fingerprint=False),
        BindingResponse(
            NAME, ("2001:db8::1", 9), ("192.0.2.9", 3478), ("192.0.2.10", 3479), fingerprint=False
        ),
    ],
    ids=["request", "response"],
)
def test_the_labs_own_codec_reads_the_same(message):
    theirs = lab_stun.decode(encode(message))
    assert decode(lab_stun.encode(theirs)) == message


def test_what_belongs_to_ice_is_told_apart():
    check = aioice.Message(aioice.Method.BINDING, aioice.Class.REQUEST, NAME)
    check.attributes["PRIORITY"] = 1
    check.attributes["USERNAME"] = "one:two"
    check.add_message_integrity(b"key")
    data = bytes(check)
    assert stun.is_stun(data)
    assert not stun.is_request_for_responder(data)
    with pytest.raises(RemoteProtocolError, match="ICE"):
        decode(data)
    indication = aioice.Message(aioice.Method.BINDING, aioice.Class.INDICATION, NAME)
    assert not stun.is_request_for_responder(bytes(indication))


def test_attributes_that_must_be_understood_are_named():
    request = encode(BindingRequest(NAME, fingerprint=False))
    more = struct.pack("!HHI", 0x7777, 4, 1) + struct.pack("!HHI", 0x8777, 4, 1)
    data = aioice.set_body_length(request, len(more)) + more
    message = decode(data)
    assert isinstance(message, BindingRequest)
    assert message.unknown == (0x7777,)


def body(*attributes: bytes, kind: int = 0x0101) -> bytes:
    joined = b"".join(attributes)
    return struct.pack("!HHI12s", kind, len(joined), 0x2112A442, NAME) + joined


ADDRESS = b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01",
        b"\x40" + bytes(40),
        body(kind=0x0002),
        body(kind=0x0011),
        body(),
        body(b"\x00\x20\x00\x08\x00\x03\xa1\x47\xe1\x12\xa6\x43"),
        body(b"\x00\x20\x00\x04\x00\x01\xa1\x47"),
        body(b"\x00\x20\x00\x00"),
        body(b"\x00\x20\x00\x09\x00\x01\xa1\x47\xe1\x12\xa6\x43"),
        body(ADDRESS, b"\x80\x28\x00\x04\x00\x00\x00\x00"),
        body(ADDRESS, b"\x80\x28\x00\x02\x00\x00\x00\x00"),
        body(ADDRESS, b"\x80\x22\x00\x01\xff\x00\x00\x00"),
        body(*[b"\x80\x22\x00\x00"] * 40, ADDRESS),
        body(ADDRESS)[:-1],
        body(ADDRESS) + b"\x00",
        body(b"\x00\x09\x00\x04\x00\x00\x01\x00", kind=0x0111),
        body(b"\x00\x0a\x00\x02\x00\x01\x00\x00", kind=0x0111),
        body(b"\x00\x09\x00\x04\x00\x00\x04\x14", b"\x00\x0a\x00\x03" + bytes(4), kind=0x0111),
        body(b"\x00\x27\x00\x01\x00\x00\x00\x00", kind=0x0001),
        body(b"\x00\x03\x00\x08" + bytes(8), kind=0x0001),
        body(*[ADDRESS] * 50),
    ],
    ids=lambda data: data[:60].hex() or "empty",
)
def test_damage_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_writing_checks_its_fields():
    with pytest.raises(LocalProtocolError):
        encode(BindingRequest(b"short"))
    with pytest.raises(LocalProtocolError):
        encode(BindingError(NAME, 400, "x" * 600))


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        (("192.0.2.1", 7), ("192.0.2.1", 7)),
        (("fe80::1%eth0", 7, 0, 2), ("fe80::1", 7)),
        (("2001:DB8:0::1", 7, 0, 0), ("2001:db8::1", 7)),
    ],
)
def test_addresses_have_one_spelling(address, endpoint):
    assert stun.endpoint_of(address) == endpoint
