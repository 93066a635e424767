"""Targets of the birthday method: messages of a peer, and datagrams of anybody."""

from __future__ import annotations

import random

from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.traversal.punch.birthday.core import BirthdayEasy, BirthdayHard, Kind, encode
from lattica.nat.traversal.punch.birthday.messages import (
    TOKEN_SIZE,
    Hello,
    Met,
    Ready,
    Refusal,
    decode,
)
from lattica.nat.traversal.punch.birthday.messages import encode as encode_message
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import record, records

_TOKEN = bytes(range(TOKEN_SIZE))
_HARD, _EASY = "11.0.0.1", "11.0.0.2"
_SENT_AT_MOST = 64


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _message(data: bytes) -> None:
    message = decode(data)
    if decode(encode_message(message)) != message:
        raise Violation("a message is another one once it was sent on")
    if isinstance(message, Refusal) and not message.reason.isprintable():
        raise Violation("a peer's words could garble a terminal")


def _hard(data: bytes) -> None:
    """Datagrams of the fuzzer's at its sockets, from its peer or somebody else."""
    clock = _Clock()
    core = BirthdayHard(_TOKEN, (_EASY, 4001), sockets=16, refresh=5.0, clock=clock)
    answers = 0
    for number, (kind, payload) in enumerate(records(data)):
        clock.now += kind / 16
        core.poll()
        source = (_EASY if kind % 2 else _HARD, 1 + kind)
        answer = core.receive(number % 16, payload, source)
        if answer is not None:
            answers += 1
            if source[0] != _EASY or len(answer) > len(payload):
                raise Violation("an answer to somebody else, or a larger one than the question")
    if answers > _SENT_AT_MOST:
        raise Violation(f"{answers} answers")


def _easy(data: bytes) -> None:
    """Datagrams of the fuzzer's at its socket; it keeps to its rate, and believes no forgery."""
    clock = _Clock()
    core = BirthdayEasy(
        _TOKEN, _HARD, hints=(40_000,), probes=256, rate=128.0, clock=clock, rng=random.Random(1)
    )
    answer = encode(Kind.ANSWER, _TOKEN)
    sent: set[int] = set()
    for kind, payload in records(data):
        clock.now += kind / 16
        sent |= {port for _, port in core.poll()}
        port = min(sent) if sent and kind % 2 else 1 + kind
        is_met = core.receive(payload, (_HARD, port))
        if is_met and (payload != answer or port not in sent):
            raise Violation("a forgery was taken for an answer")
    if core.sent > min(256, 128 * clock.now + _SENT_AT_MOST) or len(sent) != core.sent:
        raise Violation(f"{core.sent} probes in {clock.now} s")


BIRTHDAY_MESSAGE = Target(
    "birthday-message",
    _message,
    (RemoteProtocolError,),
    seeds=[
        encode_message(
            Hello(
                _TOKEN,
                Behaviour.ADDRESS_AND_PORT_DEPENDENT,
                Behaviour.ADDRESS_DEPENDENT,
                ((_HARD, 4001), (_HARD, 65535)),
            )
        ),
        encode_message(Refusal("busy", temporary=True)),
        encode_message(Ready(256)),
        encode_message(Met(4001)),
    ],
    tokens=[b"\x0a\x10", b"\x0a\x04", b"\x22\x08", b"\x10\x03", b"\x18\xff\xff\x03", b"\x1b[31m"],
    max_size=2048,
)
_PROBE, _ANSWER = encode(Kind.PROBE, _TOKEN), encode(Kind.ANSWER, _TOKEN)
BIRTHDAY_HARD = Target(
    "birthday-hard",
    _hard,
    (),
    seeds=[record(1, _PROBE) * 40, record(2, _PROBE) + record(3, _ANSWER) + record(255, b"")],
    tokens=[_PROBE, _ANSWER, _TOKEN, b"\x18"],
)
BIRTHDAY_EASY = Target(
    "birthday-easy",
    _easy,
    (),
    seeds=[record(255) * 20 + record(1, _ANSWER), record(3, _PROBE) + record(1, _ANSWER) * 9],
    tokens=[_PROBE, _ANSWER, _TOKEN, b"\x18"],
)
