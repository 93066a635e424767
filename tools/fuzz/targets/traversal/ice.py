"""Targets of UDP hole punching: what arrives on the socket, and over the relayed connection."""

from __future__ import annotations

import random

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.punch.ice.agent import Credentials, IceAgent, Outgoing
from lattica.nat.traversal.punch.ice.candidates import CandidateType, TargetPolicy, local_candidate
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.punch.ice.coordination import Agreed, Opener, Responder
from lattica.nat.traversal.punch.ice.messages import (
    Answer,
    Description,
    Offer,
    Refusal,
    Start,
    encode,
)
from lattica.nat.traversal.punch.ice.stun import check, role_conflict, success
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option, record, records, tampered

_OURS = Credentials("oursours", "o" * 24)
_THEIRS = Credentials("theirsxx", "t" * 24)
_HOST, _PEER = ("11.0.0.1", 4001), ("11.0.0.2", 4001)
_CONFIG = IceConfig(max_datagrams=100)


def _candidate(address: tuple[str, int]) -> Description:
    candidate = local_candidate(CandidateType.HOST, *address, base=0, rank=0)
    return Description(_THEIRS if address == _PEER else _OURS, (candidate,))


def _honest(kind: int, sent: list[Outgoing]) -> bytes:
    """Something that the peer could say, which knows the passwords."""
    asked = [outgoing.data[8:20] for outgoing in sent if outgoing.data[:2] == b"\0\1"]
    transaction = asked[-1] if asked else b"t" * 12
    match kind % 4:
        case 0:
            return success(transaction, seen=_HOST, password=_THEIRS.password)
        case 1:
            return role_conflict(transaction, password=_THEIRS.password)
        case _:
            return check(
                b"transaction!",
                username=f"{_OURS.ufrag}:{_THEIRS.ufrag}",
                password=_OURS.password,
                priority=1,
                controlling=bool(kind & 8),
                tie_breaker=1 << 63,
                use_candidate=bool(kind & 4),
            )


def _agent(data: bytes) -> None:
    """The peer's messages, tampered with, from anywhere, while time passes."""
    first, rest = option(data)
    now = [0.0]
    agent = IceAgent(
        _candidate(_HOST).candidates,
        _candidate(_PEER).candidates,
        own=_OURS,
        peer=_THEIRS,
        controlling=bool(first & 1),
        policy=TargetPolicy(),
        clock=lambda: now[0],
        random_bytes=random.Random(1).randbytes,
        config=_CONFIG,
    )
    agent.start()
    sent = agent.datagrams_to_send()
    total = len(sent)
    changes = records(rest)
    for kind, payload in changes:
        if kind & 128:
            now[0] += len(payload) / 100
            agent.on_timer()
        else:
            source = _PEER if not kind & 64 else (f"11.1.{len(payload)}.1", kind)
            agent.receive(tampered(_honest(kind, sent), changes, 1), 0, source)
        latest = agent.datagrams_to_send()
        total += len(latest)
        sent = latest or sent
        due = agent.next_timer()
        if due is not None and due < now[0] - 1:
            raise Violation(f"a timer is overdue by {now[0] - due} s")
    for _ in range(1000):
        due = agent.next_timer()
        if due is None:
            break
        now[0] = max(now[0], due)
        agent.on_timer()
        total += len(agent.datagrams_to_send())
    else:
        raise Violation("the agent does not come to an end")
    if total > _CONFIG.max_datagrams + 1:
        raise Violation(f"{total} datagrams were sent")


def _coordination(data: bytes) -> None:
    """Bytes of a stream, to either side."""
    first, rest = option(data)
    side: Opener | Responder
    side = Opener(_candidate(_HOST), lambda: 0.0) if first & 1 else Responder()
    for _, piece in records(rest):
        if not piece:
            continue
        message = side.receive(piece)
        if isinstance(side, Responder) and isinstance(message, Offer):
            if len(message.description.candidates) > 16:
                raise Violation("too many candidates")
            side.answer(_candidate(_HOST))
        elif isinstance(message, Agreed) and not 0 <= message.start_at <= 1:
            raise Violation("a start in the past, or too late")


def _said(message: Offer | Answer | Start | Refusal) -> bytes:
    data = encode(message)
    return b"".join(record(0, data[at : at + 200]) for at in range(0, len(data), 200))


ICE_AGENT = Target(
    "ice-agent",
    _agent,
    (),
    seeds=[
        b"\x01" + record(0) + record(0) + record(128, b"x" * 20) + record(0) * 2,
        b"\x00" + record(2 | 8) + record(0) + record(0) * 2 + record(6 | 8) + record(0),
        b"\x00" + record(1) + record(0) + record(128, b"x" * 5) + (record(1) + record(0)) * 3,
        b"\x00" + (record(66 | 8, b"abc") + record(0)) * 5,
        b"\x01" + record(2) + record(4, b"\x05\x01") + record(0) + record(3, b"\x30"),
    ],
    tokens=[b"\x21\x12\xa4\x42", b"\x80\x28\x00\x04", b"\x00\x08\x00\x14", b"\x00\x06"],
)
ICE_COORDINATION = Target(
    "ice-coordination",
    _coordination,
    (RemoteProtocolError,),
    seeds=[
        b"\x01" + _said(Answer(_candidate(_PEER))),
        b"\x01" + _said(Refusal("no")),
        b"\x00" + _said(Offer(_candidate(_PEER))) + _said(Start()),
    ],
    tokens=[b"\x08\x01", b"\x08\x03", b"\x22", b"\x12\x04"],
)
