"""Targets of STUN: datagrams from anybody, to the responder and to who has asked something."""

from __future__ import annotations

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.responder import (
    AMPLIFICATION,
    StunResponderCore,
    StunResponderLimits,
)
from tools.fuzz.target import Target, Violation

_NAME = bytes(range(12))
_SOURCES = (("198.51.100.7", 5000), ("2001:db8::7", 5000, 0, 0), ("fe80::1%2", 5000, 0, 2))
_SOCKETS = (
    ("192.0.2.1", 1),
    ("192.0.2.1", 2),
    ("192.0.2.2", 1),
    ("192.0.2.2", 2),
    ("0.0.0.0", 1),
    ("::", 1),
    ("2001:db8::1", 1),
    ("2001:db8::2", 2),
)
_REQUESTS = [
    stun.encode(stun.BindingRequest(_NAME)),
    stun.encode(stun.BindingRequest(_NAME, fingerprint=False)),
    stun.encode(stun.BindingRequest(_NAME, change_ip=True, change_port=True, fingerprint=False)),
    stun.encode(stun.BindingRequest(_NAME, response_port=6000, fingerprint=False)),
]
_ANSWERS = [
    stun.encode(stun.BindingResponse(_NAME, ("192.0.2.1", 32853), fingerprint=False)),
    stun.encode(
        stun.BindingResponse(
            _NAME, ("2001:db8::1", 1), ("192.0.2.9", 3478), ("192.0.2.10", 3479), fingerprint=False
        )
    ),
    stun.encode(stun.BindingError(_NAME, 420, "no", unknown=(3, 0x27), fingerprint=False)),
]
_TOKENS = [
    stun.encode(stun.BindingRequest(_NAME))[4:8],
    b"\x00\x20\x00\x08\x00\x01",
    b"\x00\x20\x00\x14\x00\x02",
    b"\x00\x03\x00\x04\x00\x00\x00\x06",
    b"\x00\x06\x00\x03a:b\x00",
    b"\x00\x08\x00\x14",
    b"\x00\x09\x00\x04\x00\x00\x04\x14",
    b"\x00\x0a\x00\x02",
    b"\x00\x27\x00\x04\x17\x70\x00\x00",
    b"\x80\x22\x00\x04",
    b"\x80\x28\x00\x04",
    b"\x80\x2b\x00\x08\x00\x01",
    b"\x80\x2c\x00\x08\x00\x01",
]


def _decode(data: bytes) -> None:
    """A message that was read means the same once written."""
    is_request = stun.is_request_for_responder(data)
    message = stun.decode(data)
    if is_request != isinstance(message, stun.BindingRequest):
        raise Violation("a message was not told apart by its header")
    if isinstance(message, stun.BindingRequest) and message.unknown:
        return
    if stun.decode(stun.encode(message)) != message:
        raise Violation("a message is another one once written and read again")


def _respond(data: bytes) -> None:
    """Whatever arrives, wherever and from whomever: no answer is too long, or goes astray."""
    core = StunResponderCore(_SOCKETS, StunResponderLimits(), lambda: 0.0)
    for number in range(len(_SOCKETS)):
        for source in _SOURCES:
            answer = core.receive(data, source, number)
            if answer is None:
                continue
            if len(answer.data) > AMPLIFICATION * len(data):
                raise Violation(f"{len(answer.data)} bytes in answer to {len(data)}")
            if answer.destination[0] != source[0]:
                raise Violation("an answer goes to somebody else")
            if not 0 <= answer.socket < len(_SOCKETS) or not stun.is_stun(answer.data):
                raise Violation("an answer that is none")
            if stun.is_request_for_responder(answer.data):
                raise Violation("a question for an answer")


STUN_MESSAGE = Target(
    "stun-message",
    _decode,
    (RemoteProtocolError,),
    seeds=[*_REQUESTS, *_ANSWERS],
    tokens=_TOKENS,
    max_size=700,
)
STUN_RESPONDER = Target(
    "stun-responder", _respond, (), seeds=_REQUESTS, tokens=_TOKENS, max_size=700
)
