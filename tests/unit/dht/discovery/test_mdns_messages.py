"""What is said by multicast DNS."""

from __future__ import annotations

import struct

import dns.message
import dns.rdatatype
import pytest

from lattica.dht.discovery.mdns.messages import (
    MAX_PACKET,
    MAX_PEERS,
    SERVICE,
    Answer,
    Question,
    decode,
    encode_answer,
    encode_question,
    is_of_service,
)
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = Identity.generate().peer_id
NAME = "a" * 40


def addr(number: int) -> Multiaddr:
    return Multiaddr(f"/ip4/192.0.2.1/tcp/{number}/p2p/{PEER}")


def test_questions_and_answers_are_what_they_were():
    assert decode(encode_question()) == Question()
    addrs = (addr(1), Multiaddr(f"/ip6/2001:db8::1/udp/2/quic-v1/p2p/{PEER}"))
    assert decode(encode_answer(NAME, addrs)) == Answer({PEER: addrs})
    assert decode(encode_answer(NAME, ())) is None


def test_an_answer_is_not_fragmented():
    packet = encode_answer(NAME, [addr(number) for number in range(1, 500)])
    assert len(packet) < 1400
    answer = decode(packet)
    assert isinstance(answer, Answer)
    assert len(answer.peers[PEER]) >= 10


def test_what_is_of_somebody_else_is_nothing():
    assert decode(dns.message.make_query("_ipp._tcp.local.", "PTR").to_wire()) is None
    other = dns.message.make_query(SERVICE, dns.rdatatype.A)
    assert decode(other.to_wire()) is None


@pytest.mark.parametrize("data", [b"", b"\0" * 5, b"\xff" * 40, bytes(MAX_PACKET + 1)])
def test_what_is_no_packet_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_only_so_much_is_taken_of_a_packet():
    import dns.rdataclass
    import dns.rrset

    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR
    peers = [Identity.generate().peer_id for _ in range(MAX_PEERS + 10)]
    for peer in peers:
        message.additional.append(
            dns.rrset.from_text(
                f"{str(peer)[:40]}.{SERVICE}",
                120,
                dns.rdataclass.IN,
                dns.rdatatype.TXT,
                f'"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{peer}" "nonsense" "dnsaddr=/ip4/1.2.3.4"',
            )
        )
    answer = decode(message.to_wire())
    assert isinstance(answer, Answer)
    assert len(answer.peers) == MAX_PEERS


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in text.encode().split(b".")) + b"\0"


def hostile(kind: str) -> bytes:
    """A packet of the size that is allowed, with as much in it as fits."""
    body = name("_p2p._udp.local")
    record, count, questions = struct.pack(">HHI", 16, 1, 120), 1, 0
    match kind:
        case "records":
            body += record + struct.pack(">H", 1) + b"\0"
            while len(body) < 8900:
                body, count = body + b"\xc0\x0c" + record + struct.pack(">H", 1) + b"\0", count + 1
        case "texts":
            body += record + struct.pack(">H", 8800) + bytes(8800)
        case "questions":
            count, questions, body = 0, 1, body + struct.pack(">HH", 12, 1)
            while len(body) < 8900:
                body, questions = body + b"\xc0\x0c" + struct.pack(">HH", 12, 1), questions + 1
        case "short":
            body += record + struct.pack(">H", 8800)
        case "name":
            body = body[:-1]
    flags = 0 if questions else 0x8400
    return struct.pack(">6H", 0, flags, questions, count, 0, 0) + body


@pytest.mark.parametrize("kind", ["records", "texts", "questions", "short", "name"])
def test_what_has_more_in_it_than_is_honest_is_not_read(monkeypatch, kind):
    monkeypatch.setattr("dns.message.from_wire", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(RemoteProtocolError):
        decode(hostile(kind))


def test_packets_of_other_services_are_told_from_ours():
    for packet in (encode_question(), encode_answer(NAME, []), hostile("texts").upper()):
        assert is_of_service(packet)
        assert not is_of_service(packet.lower().replace(b"_p2p", b"_ipp"))
