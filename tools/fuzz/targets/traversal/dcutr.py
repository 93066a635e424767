"""Targets of hole punching by TCP: both machines of DCUtR, reversal, and which addresses of a
peer are dialed.
"""

from __future__ import annotations

import ipaddress

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.punch import reverse_messages
from lattica.nat.traversal.punch.candidates import MAX_DIALED, MAX_PUBLIC_HOSTS, public_ips, to_dial
from lattica.nat.traversal.punch.dcutr.core import MAX_ROUNDS, Initiator, Responder
from lattica.nat.traversal.punch.dcutr.messages import (
    MAX_ADDRS,
    MAX_MESSAGE,
    Connect,
    Sync,
    decode,
    encode,
    parse_addrs,
)
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option, record, records

_PEER = PeerId.from_base58("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5")
_OURS = (Multiaddr("/ip4/203.0.113.7/tcp/4001"), Multiaddr("/ip4/192.168.1.2/tcp/4001"))
_THEIRS = (
    Multiaddr("/ip4/8.8.4.4/tcp/1024"),
    Multiaddr(f"/ip4/8.8.8.8/tcp/4001/p2p/{_PEER}"),
    Multiaddr("/ip6/2001:4860:4860::8888/tcp/4001"),
    Multiaddr("/ip4/192.168.1.9/udp/4001/quic-v1/noise"),
    Multiaddr("/ip4/127.0.0.1/tcp/22"),
)
_INTERFACES = (ipaddress.IPv4Interface("192.168.1.2/24"), ipaddress.IPv4Interface("127.0.0.1/8"))
_CONNECT = encode(Connect(_THEIRS))
_SYNC = encode(Sync())


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# The kinds of `records`: what the peer says, and what happens besides.
_SAY, _CONNECT_NOW, _SYNC_NOW, _TIME, _TAKE = range(5)


def _initiator(data: bytes) -> None:
    clock = _Clock()
    machine = Initiator(clock)
    for kind, payload in records(data):
        if machine.rounds < MAX_ROUNDS and kind % 7 == 5:
            machine.begin(_OURS)
            if len(machine.data_to_send()) > MAX_MESSAGE:
                raise Violation("a message that nobody takes")
        _happen(clock, machine, kind % 7, payload)
        if machine.punch_at is not None and machine.punch_at < clock.now - 1e6:
            raise Violation("it is to dial in a time that is long gone")
        if len(machine.peer_addrs) > MAX_ADDRS:
            raise Violation("more addresses than are looked at")


def _responder(data: bytes) -> None:
    clock = _Clock()
    asked = 0

    def answer(addrs: object) -> tuple[Multiaddr, ...]:
        nonlocal asked
        asked += 1
        return _OURS

    machine = Responder(clock, answer)
    for kind, payload in records(data):
        _happen(clock, machine, kind % 7, payload)
        if asked != machine.rounds or asked > MAX_ROUNDS:
            raise Violation("the peer makes it answer as often as it likes")


def _happen(clock: _Clock, machine: Initiator | Responder, kind: int, payload: bytes) -> None:
    match kind:
        case 0:
            machine.receive(payload)
        case 1:
            machine.receive(_CONNECT)
        case 2:
            machine.receive(_SYNC)
        case 3:
            clock.now += sum(payload) / 16
        case 4:
            machine.data_to_send()
        case _:
            pass


def _messages(data: bytes) -> None:
    kind, body = option(data)
    match kind % 3:
        case 0:
            message = decode(body)
            if isinstance(message, Connect) and len(message.addrs) > MAX_ADDRS:
                raise Violation("more addresses than are looked at")
        case 1:
            reverse_messages.decode_request(body)
        case _:
            answer = reverse_messages.decode_answer(body)
            if answer.error and not answer.error.isprintable():
                raise Violation("the reason would write control characters to logs")


def _candidates(data: bytes) -> None:
    """Addresses, one after another, each with its length in front."""
    kind, rest = option(data)
    claimed = parse_addrs([payload for _, payload in records(rest)])
    kinds = {Kind.TCP, Kind.QUIC} if kind & 1 else {Kind.TCP}
    found = to_dial(claimed, _PEER, kinds=kinds, ours=_OURS, interfaces=_INTERFACES)
    if len(found) > MAX_DIALED or len(public_ips(found)) > MAX_PUBLIC_HOSTS:
        raise Violation("a scan on behalf of the peer")
    for addr in found:
        ip = ip_of(addr)
        if ip is None or kind_of(addr) not in kinds or addr in _OURS:
            raise Violation(f"{addr} is nothing to dial")
        if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local:
            raise Violation(f"{addr} is nobody's address")
    if len(set(found)) != len(found):
        raise Violation("an address twice")


_ALLOWED = (RemoteProtocolError, LocalProtocolError)
_SEEDS = [
    record(5) + record(_CONNECT_NOW) + record(_TAKE) + record(_TIME, b"\x20"),
    record(_CONNECT_NOW) + record(_TAKE) + record(_SYNC_NOW) + record(_CONNECT_NOW),
    record(5) + record(_SAY, _CONNECT[:20]) + record(_SAY, _CONNECT[20:]) + record(_TAKE),
    record(_SAY, _SYNC) + record(_TIME, b"\xff\xff"),
]
DCUTR_INITIATOR = Target(
    "dcutr-initiator", _initiator, _ALLOWED, seeds=_SEEDS, tokens=[_SYNC, b"\x08\x64"]
)
DCUTR_RESPONDER = Target(
    "dcutr-responder", _responder, _ALLOWED, seeds=_SEEDS, tokens=[_SYNC, b"\x08\x64"]
)
PUNCH_MESSAGES = Target(
    "punch-messages",
    _messages,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + _CONNECT[1:],
        b"\x00" + _SYNC[1:],
        b"\x01" + reverse_messages.encode(reverse_messages.Request(_THEIRS))[1:],
        b"\x02" + reverse_messages.encode(reverse_messages.Answer(False, "no"))[1:],
    ],
    tokens=[addr.to_bytes() for addr in _THEIRS],
    max_size=512,
)
PUNCH_CANDIDATES = Target(
    "punch-candidates",
    _candidates,
    (),
    seeds=[
        b"\x01" + b"".join(record(0, addr.to_bytes()) for addr in (*_THEIRS, *_OURS)),
        b"\x00" + b"".join(
            record(0, Multiaddr(f"/ip4/9.9.9.{n}/tcp/{n}").to_bytes()) for n in range(20)
        ),
    ],
    tokens=[addr.to_bytes() for addr in _THEIRS],
    max_size=512,
)  # fmt: skip
