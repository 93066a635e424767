"""A NatTable on a bench: a clock that is set by hand, and packets as values."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.support.packets.nat_packets import checksum_errors, udp_packet
from tools.netlab.packets.codec import ICMP, ICMPV6, TCP, UDP, packed, read_header, unpacked
from tools.netlab.packets.nat_table import DROP, FORWARD, TURN, NatTable
from tools.netlab.spec.nat import NatSpec

Endpoint = tuple[str, int]

NAT_IP = "203.0.113.1"


@dataclass
class NatBench:
    """`out` and `into` give what comes out on the other side, or None if it was dropped.

    Whatever comes out is checked to have valid checksums and as many hops as before.
    """

    spec: NatSpec = field(default_factory=NatSpec)
    externals: tuple[str, ...] = (NAT_IP,)
    internals: tuple[str, ...] = ()
    seed: int = 1
    now: float = 1000.0

    def __post_init__(self) -> None:
        externals = () if self.spec.translate == "none" else self.externals
        rng = random.Random(self.seed)
        self.table = NatTable(self.spec, externals, lambda: self.now, rng, self.internals)

    def out(self, packet: bytes) -> bytes | None:
        """Send from the inside to the outside."""
        return self._pass(packet, outbound=True, expected=FORWARD)

    def into(self, packet: bytes) -> bytes | None:
        """Send from the outside to the inside."""
        return self._pass(packet, outbound=False, expected=FORWARD)

    def turned(self, packet: bytes) -> bytes | None:
        """Send from the inside to the inside by an external address."""
        return self._pass(packet, outbound=True, expected=TURN)

    def _pass(self, packet: bytes, *, outbound: bool, expected: int) -> bytes | None:
        buffer = bytearray(packet)
        verdict = self.table.outbound(buffer) if outbound else self.table.inbound(buffer)
        if verdict == DROP:
            return None
        assert verdict == expected
        assert checksum_errors(buffer) == []
        before, after = read_header(packet), read_header(buffer)
        assert before is not None
        assert after is not None
        assert after.ttl == before.ttl
        return bytes(buffer)

    def map_udp(self, inside: Endpoint, remote: Endpoint) -> Endpoint | None:
        """Send a datagram out; the endpoint it then comes from, or None."""
        packet = self.out(udp(inside, remote))
        if packet is None:
            return None
        assert endpoints(packet)[1] == remote
        return endpoints(packet)[0]

    def reaches(self, remote: Endpoint, external: Endpoint) -> Endpoint | None:
        """Send a datagram in; the inside endpoint it reaches, or None."""
        packet = self.into(udp(remote, external))
        if packet is None:
            return None
        assert endpoints(packet)[0] == remote
        return endpoints(packet)[1]

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason, since the last call."""
        drops = dict(self.table.counters)
        self.table.counters.clear()
        return drops


def udp(source: Endpoint, destination: Endpoint, data: bytes = b"data") -> bytes:
    """A datagram between endpoints given as text."""
    return udp_packet(packed(source[0]), source[1], packed(destination[0]), destination[1], data)


def endpoints(packet: bytes) -> tuple[Endpoint, Endpoint]:
    """Source and destination of a TCP or UDP packet; of an echo, with its identifier as port."""
    ip = read_header(packet)
    assert ip is not None
    at = ip.header
    if ip.protocol in (ICMP, ICMPV6):
        ident = int.from_bytes(packet[at + 4 : at + 6])
        return (unpacked(ip.source), ident), (unpacked(ip.destination), ident)
    assert ip.protocol in (TCP, UDP)
    source, destination = packet[at : at + 2], packet[at + 2 : at + 4]
    return (
        (unpacked(ip.source), int.from_bytes(source)),
        (unpacked(ip.destination), int.from_bytes(destination)),
    )
