"""multistream-select: bytes of the document, pipelining, refusals and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.secure.multistream import (
    MAX_MESSAGE,
    MAX_PROPOSALS,
    PROTOCOL_ID,
    Initiator,
    Responder,
    check_protocol,
    encode_message,
)

HEADER = b"\x13/multistream/1.0.0\n"
PING = b"\x11/ipfs/ping/1.0.0\n"
YAMUX = b"\x0d/yamux/1.0.0\n"
NA = b"\x03na\n"


def responder(protocols: Iterable[str] = ("/ipfs/ping/1.0.0", "/yamux/1.0.0")) -> Responder:
    known = list(protocols)
    return Responder(known.__contains__, lambda: known)


def test_messages_are_byte_exact() -> None:
    assert encode_message(PROTOCOL_ID) == HEADER
    assert encode_message("/ipfs/ping/1.0.0") == PING
    assert encode_message("na") == NA
    assert encode_message("x" * 127)[:2] == b"\x80\x01"


@pytest.mark.parametrize("text", ["a\nb", "x" * MAX_MESSAGE])
def test_unusable_names_are_the_callers_fault(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(text)


def test_responder_takes_everything_in_one_piece() -> None:
    machine = responder()
    machine.receive(HEADER + PING + b"application data")
    assert machine.selected == "/ipfs/ping/1.0.0"
    assert machine.rest == b"application data"
    assert machine.data_to_send() == HEADER + PING
    assert machine.data_to_send() == b""


def test_responder_step_by_step() -> None:
    machine = responder()
    assert machine.data_to_send() == b""
    machine.receive(memoryview(HEADER))
    assert machine.data_to_send() == HEADER
    machine.receive(b"\x06/none\n")
    assert machine.data_to_send() == NA
    machine.receive(bytearray(YAMUX[:4]))
    assert machine.data_to_send() == b""
    machine.receive(YAMUX[4:])
    assert machine.data_to_send() == YAMUX
    assert machine.selected == "/yamux/1.0.0"


def test_responder_accepts_names_with_a_two_byte_length() -> None:
    name = "/" + "long" * 60
    machine = responder([name])
    machine.receive(HEADER + encode_message(name) + b"!")
    assert (machine.selected, machine.rest) == (name, b"!")
    assert machine.data_to_send() == HEADER + encode_message(name)


def test_responder_lists_protocols() -> None:
    machine = responder()
    machine.receive(HEADER + b"\x03ls\n" + PING)
    body = PING + YAMUX + b"\n"
    assert machine.data_to_send() == HEADER + bytes([len(body)]) + body + PING


def test_responder_bounds_proposals() -> None:
    machine = responder()
    machine.receive(HEADER)
    for _ in range(MAX_PROPOSALS):
        machine.receive(b"\x02x\n")
    assert machine.data_to_send() == HEADER + NA * MAX_PROPOSALS
    with pytest.raises(RemoteProtocolError, match="proposals"):
        machine.receive(b"\x02x\n")


@pytest.mark.parametrize("data", [PING + b"delete everything", b"\x03ls\n", b"x"])
def test_what_comes_with_a_refused_proposal_is_no_proposal(data: bytes) -> None:
    machine = responder()
    machine.receive(HEADER + b"\x06/none\n" + data)
    assert (machine.failed, machine.selected) == (True, None)
    assert machine.data_to_send() == HEADER + NA
    with pytest.raises(LocalProtocolError):
        machine.receive(PING)


def test_proposals_for_a_connection_may_be_pipelined() -> None:
    """As go-libp2p's `SelectWithSimopenOrFail` does."""
    simultaneous = b"\x1d/libp2p/simultaneous-connect\n"
    machine = Responder("/yamux/1.0.0".__eq__, list, pipelined=True)
    machine.receive(HEADER + simultaneous + YAMUX)
    assert machine.selected == "/yamux/1.0.0"
    assert machine.data_to_send() == HEADER + NA + YAMUX


@pytest.mark.parametrize("name", ["", "ls", "na", PROTOCOL_ID, "/line\nbreak", "x" * MAX_MESSAGE])
def test_what_peers_would_take_for_something_else_is_no_name(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        check_protocol(name)
    with pytest.raises(LocalProtocolError):
        Initiator([name])


@pytest.mark.parametrize(
    "data",
    [
        b"\x13/multistream/2.0.0\n",
        PING,
        HEADER + b"\x00",
        HEADER + b"\x01x",
        HEADER + b"\x03\xff\xfe\n",
        HEADER + b"\x81\x08" + b"x" * 1025,
        HEADER + b"\xff" * 10,
        HEADER + b"\x82\x00x\n",
        b"GET / HTTP/1.1\r\n\r\n" * 10,
    ],
)
def test_responder_refuses(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        responder().receive(data)


@pytest.mark.parametrize("make", [responder, lambda: Initiator(["/yamux/1.0.0"])])
@pytest.mark.parametrize("at", range(len(HEADER)))
def test_what_is_no_multistream_is_refused_at_its_first_byte(
    make: Callable[[], Responder | Initiator], at: int
) -> None:
    machine = make()
    for byte in HEADER[:at]:
        machine.receive(bytes((byte,)))
    assert not machine.saw_header
    with pytest.raises(RemoteProtocolError, match=f"expected {PROTOCOL_ID}, peer sent b'"):
        machine.receive(bytes((HEADER[at] ^ 0x40,)))
    assert not machine.saw_header


def test_too_long_is_refused_before_it_has_come() -> None:
    with pytest.raises(RemoteProtocolError, match="1025 bytes"):
        responder().receive(HEADER + b"\x81\x08")


def test_responder_ends_with_the_negotiation() -> None:
    machine = responder()
    machine.receive(HEADER + PING)
    with pytest.raises(LocalProtocolError):
        machine.receive(b"x")


def test_initiator_is_lazy_with_one_protocol() -> None:
    machine = Initiator(["/ipfs/ping/1.0.0"])
    assert machine.data_to_send() == HEADER + PING
    assert machine.data_to_send() == b""
    machine.receive(HEADER)
    assert (machine.selected, machine.rest) == (None, b"")
    machine.receive(PING + b"answer")
    assert (machine.selected, machine.rest) == ("/ipfs/ping/1.0.0", b"answer")
    with pytest.raises(LocalProtocolError):
        machine.receive(b"x")


def test_initiator_takes_the_common_answer_at_once() -> None:
    machine = Initiator(["/ipfs/ping/1.0.0"])
    machine.receive(memoryview(HEADER + PING + b"answer"))
    assert (machine.selected, machine.rest) == ("/ipfs/ping/1.0.0", b"answer")


def test_initiator_goes_through_its_list() -> None:
    machine = Initiator(["/a", "/b", "/c"])
    assert machine.data_to_send() == HEADER + b"\x03/a\n"
    machine.receive(HEADER + NA)
    assert machine.data_to_send() == b"\x03/b\n"
    machine.receive(NA)
    assert machine.data_to_send() == b"\x03/c\n"
    machine.receive(b"\x03/c\n")
    assert machine.selected == "/c"
    assert not machine.failed


def test_initiator_fails_when_all_are_refused() -> None:
    machine = Initiator(["/a", "/b"])
    machine.receive(HEADER + NA)
    machine.receive(NA)
    assert machine.failed
    assert machine.selected is None
    assert machine.data_to_send() == HEADER + b"\x03/a\n" + b"\x03/b\n"


@pytest.mark.parametrize("answer", [NA, HEADER + PING, HEADER + HEADER, HEADER + b"\x00"])
def test_initiator_refuses(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Initiator(["/yamux/1.0.0"]).receive(answer)


def test_initiator_needs_a_protocol() -> None:
    with pytest.raises(LocalProtocolError):
        Initiator([])
