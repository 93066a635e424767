"""What is said by multicast DNS, as values and as bytes. Pure.

Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md; RFC 6762, RFC 6763. The
question is for pointers of `_p2p._udp.local`; the answer has a name that says nothing, and beside
it texts `dnsaddr=MULTIADDR/p2p/ID`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from lattica.nat.base.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr

SERVICE = "_p2p._udp.local."
TTL = 120
"""Seconds that an answer holds."""
MAX_PACKET = 9000
"""Bytes of a packet (RFC 6762, section 17)."""
MAX_ANSWER = 1200
"""Bytes of addresses in an answer of ours: it is not to be fragmented."""
MAX_PEERS = 32
"""Peers that are taken from a packet, and addresses of one."""
MAX_RECORDS = 64
"""Questions and records of a packet that is read."""
MAX_TEXTS = 256
"""Texts in all its records."""
_LABEL = b"\4_p2p"
"""How the service's name begins, which is somewhere in every packet about it."""
_HEADER = struct.Struct(">6H")
_TXT = 16
_PREFIX = "dnsaddr="
_MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Question:
    """Who is there?"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Peers and their addresses, each with the peer's ID at its end."""

    peers: dict[PeerId, tuple[Multiaddr, ...]]


def encode_question() -> bytes:
    """The question for all peers."""
    message = dns.message.make_query(SERVICE, dns.rdatatype.PTR)
    message.id, message.flags = 0, dns.flags.Flag(0)
    return message.to_wire()


def encode_answer(name: str, addrs: Iterable[Multiaddr]) -> bytes:
    """This node's addresses, those first that are to be told in any case.

    Args:
        name: 32 to 63 letters and digits, chosen at random.
    """
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    instance = f"{name}.{SERVICE}"
    message.answer.append(
        dns.rrset.from_text(SERVICE, TTL, dns.rdataclass.IN, dns.rdatatype.PTR, instance)
    )
    texts, size = [], 0
    for addr in addrs:
        text = f"{_PREFIX}{addr}"
        size += len(text) + 1
        if len(text) <= _MAX_TEXT and size <= MAX_ANSWER and "%" not in text:
            texts.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    if texts:
        message.additional.append(
            dns.rrset.from_text(
                instance, TTL, dns.rdataclass.IN, dns.rdatatype.TXT, " ".join(texts)
            )
        )
    return message.to_wire()


def is_of_service(data: bytes) -> bool:
    """Whether a packet may be about the service; cheap."""
    return _LABEL in data.lower()


def _check_size(data: bytes) -> None:
    """Refuse what has more in it than an honest packet: each part costs the library some time.

    Raises:
        RemoteProtocolError: there is too much, or it ends too early.
    """
    try:
        _, _, questions, *records = _HEADER.unpack_from(data)
        if questions + sum(records) > MAX_RECORDS:
            raise RemoteProtocolError("a packet of mDNS with too many records")
        position, texts = _HEADER.size, 0
        for _ in range(questions):
            position = _behind_name(data, position) + 4
        for _ in range(sum(records)):
            position = _behind_name(data, position)
            kind, _, _, length = struct.unpack_from(">HHIH", data, position)
            position += 10
            end = position + length
            while kind == _TXT and position < end:
                position += 1 + data[position]
                texts += 1
                if texts > MAX_TEXTS:
                    raise RemoteProtocolError("a packet of mDNS with too many texts")
            position = end
    except (struct.error, IndexError):
        raise RemoteProtocolError("a packet of mDNS that ends too early") from None


def _behind_name(data: bytes, position: int) -> int:
    while length := data[position]:
        if length >= 0xC0:  # the rest is elsewhere
            return position + 2
        position += 1 + length
    return position + 1


def decode(data: bytes) -> Question | Answer | None:
    """Read a packet; None: it is of something else, of which there is much.

    Raises:
        RemoteProtocolError: it is no packet of DNS.
    """
    if len(data) > MAX_PACKET:
        raise RemoteProtocolError(f"a packet of mDNS of {len(data)} bytes")
    _check_size(data)
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except Exception as error:  # of a library of somebody else's
        raise RemoteProtocolError(f"no packet of mDNS: {type(error).__name__}") from None
    service = dns.name.from_text(SERVICE)
    if not message.flags & dns.flags.QR:
        asked = any(
            each.name == service and each.rdtype in (dns.rdatatype.PTR, dns.rdatatype.ANY)
            for each in message.question
        )
        return Question() if asked else None
    peers: dict[PeerId, tuple[Multiaddr, ...]] = {}
    for rrset in (*message.answer, *message.additional):
        if rrset.rdtype != dns.rdatatype.TXT or not rrset.name.is_subdomain(service):
            continue
        for rdata in rrset:
            _read_texts(rdata, peers)
    return Answer(peers) if peers else None


def _read_texts(rdata: Any, peers: dict[PeerId, tuple[Multiaddr, ...]]) -> None:
    for text in rdata.strings:
        try:
            addr, peer_id = split_peer(parse_multiaddr(text.decode().removeprefix(_PREFIX)))
        except (AddressError, RemoteProtocolError, UnicodeDecodeError):
            continue  # perhaps of a protocol that others have
        if peer_id is None or not text.startswith(_PREFIX.encode()) or not addr.components:
            continue
        known = peers.get(peer_id, ())
        if len(known) < MAX_PEERS and (known or len(peers) < MAX_PEERS):
            peers[peer_id] = (*known, with_peer(addr, peer_id))
