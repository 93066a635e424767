"""NatTable: the userspace NAT and stateful firewall, packet by packet. Pure.

It sits between an inside and an outside and rewrites packets in place, IPv4 (TCP, UDP, ICMP echo
and errors) as :class:`NatSpec` says; IPv6 is filtered and never translated. Like any router it
takes one from the TTL. State is in :class:`FlowTable`; this module knows where things are in
packets. Sources: RFC 3022, RFC 4787, RFC 5382, RFC 5508, RFC 1624 (checksums).

A packet may come from a device with checksum offload ("partial"): its transport checksum then
holds only the sum of the pseudo header, and the kernel on the other side completes it.

Fragments: later ones follow their first one, which alone has ports; one that overtakes it is
dropped (counter "fragment").
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tools.netlab.flows import Clock, FlowTable, MappingView, Refused, Session
from tools.netlab.nat_icmp import ERRORS, ERRORS_V6, quoted_session, translate_error
from tools.netlab.nat_spec import NatSpec
from tools.netlab.packets import (
    ACK,
    CHECKSUM_OFFSET,
    FIN,
    FRAGMENT_OFFSET,
    ICMP,
    ICMPV6,
    IPV6_FRAGMENT,
    RST,
    SYN,
    TCP,
    UDP,
    Buffer,
    IpHeader,
    adjusted,
    icmp_error,
    packed,
    read_header,
    tcp_reset,
)
from tools.netlab.spec import require

# Verdicts. Plain integers: they are made and compared once per packet.
DROP: Final = 0
FORWARD: Final = 1  # to the other side
TURN: Final = 2  # back to the inside it came from (hairpin)

# First byte, length, fragment, TTL, protocol, checksum, flow key: an IPv4 header without options.
_HEAD: Final = struct.Struct("!BxHxxHBBH12s")
_REWRITE: Final = struct.Struct("!BBH12s")  # TTL, protocol, checksum, flow key, from byte 8 on
_U16: Final = struct.Struct("!H")
_FRAGMENTED: Final = 0x3FFF  # more to come, or an offset
# Bytes of the headers of what the fast path takes.
_LEAST: Final = {UDP: 28, TCP: 40}
_TCP_MARKS: Final = SYN | FIN | RST

FRAGMENT_LIFE_S: Final = 30.0
MAX_FRAGMENTED: Final = 1024  # datagrams whose fragments are followed at a time


class NatTable:
    """A NAT between an inside and an outside.

    spec: what it does. externals: its addresses outside (none for translate "none").
    internals: for translate "one-to-one", the hosts that have them, in the same order.
    clock: seconds, for timers. rng: for random ports.

    `counters` counts dropped packets by reason. `replies` has packets that the NAT itself sends
    to the outside (see `refuse_tcp`); the caller takes them after each :meth:`inbound`.
    """

    def __init__(
        self,
        spec: NatSpec,
        externals: Sequence[str],
        clock: Clock,
        rng: random.Random,
        internals: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.counters: Counter[str] = Counter()
        self.replies: list[bytes] = []
        self._clock = clock
        self._internals = tuple(internals)
        self._check_addresses(externals)
        self.flows = FlowTable(spec, map(packed, externals), map(packed, internals), clock, rng)
        self._flows6 = FlowTable(_without_translation(spec), (), (), clock, rng)
        # (outbound, addresses, protocol, ident) of a fragmented datagram -> session, end of life.
        self._fragments: dict[tuple[bool, bytes, int, bytes], tuple[Session, float]] = {}

    def _check_addresses(self, externals: Sequence[str]) -> None:
        for address in externals:
            packed_ipv4(address, "external")
        for address in self._internals:
            packed_ipv4(address, "internal")
        translate = self.spec.translate
        require(bool(externals) or translate == "none", "external", "a NAT needs an address")
        require(not externals or translate != "none", "external", "a firewall has no address")
        require(
            translate != "one-to-one" or len(self._internals) == len(externals),
            "external",
            "one-to-one needs as many external as internal addresses",
        )

    # --- control ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Forget all mappings (a reboot of the router)."""
        self._fragments.clear()
        self.flows.flush()
        self._flows6.flush()

    def set_externals(self, externals: Sequence[str]) -> None:
        """Take other external addresses; all mappings are lost. Raises SpecError."""
        self._check_addresses(externals)
        self.flush()
        self.flows.set_externals(tuple(map(packed, externals)))

    def expire(self) -> None:
        """Remove what has timed out; to be called now and then (correctness needs it not)."""
        now = self._clock()
        self.flows.expire()
        self._flows6.expire()
        self._fragments = {k: v for k, v in self._fragments.items() if v[1] > now}

    def mappings(self) -> list[MappingView]:
        """All live mappings, IPv4 first."""
        return self.flows.view() + self._flows6.view()

    # --- the fast path: packets of a known TCP or UDP session -------------------------------------

    def outbound(self, packet: Buffer, partial: bool = False) -> int:
        """Rewrite `packet`, which comes from the inside, in place; what to do with it."""
        if len(packet) < 28:
            return self._general(packet, partial, True)
        first, length, fragment, ttl, protocol, checksum, key = _HEAD.unpack_from(packet)
        least = _LEAST.get(protocol, 0xFFFF)
        if first != 0x45 or fragment & _FRAGMENTED or ttl < 2 or not least <= length <= len(packet):
            return self._general(packet, partial, True)
        session = self.flows.outgoing[protocol].get(key)
        now = self._clock()
        if session is None or session.expires <= now:
            return self._general(packet, partial, True)
        if protocol == TCP:
            if packet[33] & _TCP_MARKS:
                self.flows.track_tcp(session, packet[33], True)
            at = 36
        else:
            at = 26
        session.expires = now + session.timeout
        checksum = 0xFFFF - ((0xFFFF - checksum + session.ip_out) % 0xFFFF or 0xFFFF)
        _REWRITE.pack_into(packet, 8, ttl - 1, protocol, checksum, session.out_new)
        (old,) = _U16.unpack_from(packet, at)
        if partial:
            _U16.pack_into(packet, at, (old + session.address_out) % 0xFFFF or 0xFFFF)
        elif old or protocol == TCP:
            new = 0xFFFF - ((0xFFFF - old + session.full_out) % 0xFFFF or 0xFFFF)
            _U16.pack_into(packet, at, new if protocol == TCP else new or 0xFFFF)
        return self._turn(packet, partial) if session.hairpin else FORWARD

    def inbound(self, packet: Buffer, partial: bool = False) -> int:
        """Rewrite `packet`, which comes from the outside, in place; what to do with it."""
        if len(packet) < 28:
            return self._general(packet, partial, False)
        first, length, fragment, ttl, protocol, checksum, key = _HEAD.unpack_from(packet)
        least = _LEAST.get(protocol, 0xFFFF)
        if first != 0x45 or fragment & _FRAGMENTED or ttl < 2 or not least <= length <= len(packet):
            return self._general(packet, partial, False)
        session = self.flows.incoming[protocol].get(key)
        now = self._clock()
        if session is None or session.expires <= now or not session.sent:
            return self._general(packet, partial, False)
        if protocol == TCP:
            if packet[33] & _TCP_MARKS:
                self.flows.track_tcp(session, packet[33], False)
            at = 36
        else:
            at = 26
        if self.spec.inbound_refresh:
            session.expires = now + session.timeout
        checksum = 0xFFFF - ((0xFFFF - checksum + session.ip_in) % 0xFFFF or 0xFFFF)
        _REWRITE.pack_into(packet, 8, ttl - 1, protocol, checksum, session.in_new)
        (old,) = _U16.unpack_from(packet, at)
        if partial:
            _U16.pack_into(packet, at, (old + session.address_in) % 0xFFFF or 0xFFFF)
        elif old or protocol == TCP:
            new = 0xFFFF - ((0xFFFF - old + session.full_in) % 0xFFFF or 0xFFFF)
            _U16.pack_into(packet, at, new if protocol == TCP else new or 0xFFFF)
        return FORWARD

    # --- everything else --------------------------------------------------------------------------

    def _general(self, packet: Buffer, partial: bool, outbound: bool) -> int:
        ip = read_header(packet)
        if ip is None:
            return self._drop("malformed")
        if ip.ttl < 2:
            return self._drop("ttl")
        try:
            if len(ip.source) == 16:
                return self._ipv6(packet, ip, outbound)
            if ip.fragment & FRAGMENT_OFFSET:
                return self._later_fragment(packet, ip, partial, outbound)
            if ip.protocol == ICMP and len(packet) > ip.header and packet[ip.header] in ERRORS:
                return self._icmp_error(packet, ip, outbound)
            session = self._session(self.flows, packet, ip, outbound)
        except Refused as refusal:
            return self._drop(str(refusal))
        if ip.is_fragment:
            self._follow_fragments(packet, ip, session, outbound)
        self._rewrite(packet, ip, session, partial, outbound)
        return self._turn(packet, partial) if outbound and session.hairpin else FORWARD

    def _session(self, flows: FlowTable, packet: Buffer, ip: IpHeader, outbound: bool) -> Session:
        """The session of a packet that is not a later fragment; raises Refused."""
        at = ip.header
        if ip.length < at + (20 if ip.protocol == TCP else 8):
            raise Refused("malformed")
        flags = 0
        opens = True
        if ip.protocol in (TCP, UDP):
            source, destination = bytes(packet[at : at + 2]), bytes(packet[at + 2 : at + 4])
            if ip.protocol == TCP:
                flags = packet[at + 13]
                opens = flags & (SYN | ACK | RST) == SYN
        elif ip.protocol in (ICMP, ICMPV6):
            request, reply = (8, 0) if ip.protocol == ICMP else (128, 129)
            if packet[at] not in (request, reply):
                raise Refused("protocol")
            opens = packet[at] == request
            ident = bytes(packet[at + 4 : at + 6])
            source, destination = (ident, b"\0\0") if outbound else (b"\0\0", ident)
        else:
            raise Refused("protocol")
        source, destination = ip.source + source, ip.destination + destination
        session = flows.find(ip.protocol, source, destination, outbound)
        if session is None or (outbound and not session.sent):
            if session is None and not opens:
                raise Refused("no-session")
            if outbound:
                self._check_hairpin(flows, ip)
                session = flows.open_outbound(ip.protocol, source, destination)
            else:
                session = self._open_inbound(flows, packet, ip, source, destination)
        if flags & _TCP_MARKS:
            flows.track_tcp(session, flags, outbound)
        if outbound or self.spec.inbound_refresh or not session.sent:
            flows.refresh(session)
        return session

    def _check_hairpin(self, flows: FlowTable, ip: IpHeader) -> None:
        if ip.destination in flows.externals and not self.spec.hairpin:
            raise Refused("hairpin-off")

    def _open_inbound(
        self, flows: FlowTable, packet: Buffer, ip: IpHeader, remote: bytes, external: bytes
    ) -> Session:
        try:
            return flows.open_inbound(ip.protocol, remote, external)
        except Refused:
            if ip.protocol == TCP and self.spec.refuse_tcp == "reset":
                self.replies.append(tcp_reset(packet, ip))
            elif ip.protocol == TCP and self.spec.refuse_tcp == "icmp":
                self.replies.append(icmp_error(packet, ip, ip.destination))
            raise

    def _rewrite(
        self, packet: Buffer, ip: IpHeader, session: Session, partial: bool, outbound: bool
    ) -> None:
        """Put a session's other endpoint into an IPv4 packet that has a transport header."""
        self._rewrite_address(packet, ip, session, outbound)
        mapping = session.mapping
        endpoint = mapping.external if outbound else mapping.internal
        full = session.full_out if outbound else session.full_in
        address = session.address_out if outbound else session.address_in
        if ip.protocol == ICMP:
            full, port_at = (full - address) % 0xFFFF, ip.header + 4
        else:
            port_at = ip.header if outbound else ip.header + 2
        packet[port_at : port_at + 2] = endpoint[-2:]
        at = ip.header + CHECKSUM_OFFSET[ip.protocol]
        (old,) = _U16.unpack_from(packet, at)
        if partial:
            _U16.pack_into(packet, at, (old + address) % 0xFFFF or 0xFFFF)
        elif old or ip.protocol != UDP:
            new = adjusted(old, full)
            _U16.pack_into(packet, at, new or 0xFFFF if ip.protocol == UDP else new)

    def _rewrite_address(
        self, packet: Buffer, ip: IpHeader, session: Session, outbound: bool
    ) -> None:
        if outbound:
            packet[12:16] = session.mapping.external[:-2]
        else:
            packet[16:20] = session.mapping.internal[:-2]
        packet[8] = ip.ttl - 1
        (old,) = _U16.unpack_from(packet, 10)
        _U16.pack_into(packet, 10, adjusted(old, session.ip_out if outbound else session.ip_in))

    def _turn(self, packet: Buffer, partial: bool) -> int:
        """Hairpin: the packet, now from an external endpoint, comes in again.

        If it is refused nobody is told: what the NAT says goes to the outside only.
        """
        verdict = self.inbound(packet, partial)
        self.replies.clear()
        return TURN if verdict == FORWARD else DROP

    # --- fragments, ICMP errors, IPv6 -------------------------------------------------------------

    @staticmethod
    def _fragment_key(
        packet: Buffer, ip: IpHeader, outbound: bool
    ) -> tuple[bool, bytes, int, bytes]:
        return outbound, ip.source + ip.destination, ip.protocol, bytes(packet[4:6])

    def _follow_fragments(
        self, packet: Buffer, ip: IpHeader, session: Session, outbound: bool
    ) -> None:
        if len(self._fragments) >= MAX_FRAGMENTED:
            del self._fragments[next(iter(self._fragments))]
        key = self._fragment_key(packet, ip, outbound)
        self._fragments[key] = session, self._clock() + FRAGMENT_LIFE_S

    def _later_fragment(self, packet: Buffer, ip: IpHeader, partial: bool, outbound: bool) -> int:
        key = self._fragment_key(packet, ip, outbound)
        session, expires = self._fragments.get(key, (None, 0.0))
        if session is None or expires <= self._clock():
            raise Refused("fragment")
        self._rewrite_address(packet, ip, session, outbound)
        return self._turn(packet, partial) if outbound and session.hairpin else FORWARD

    def _icmp_error(self, packet: Buffer, ip: IpHeader, outbound: bool) -> int:
        packet[8] = ip.ttl - 1  # before the header's checksum is computed anew
        keep_source = self.spec.translate == "none"
        reason = translate_error(packet, ip, outbound, self.flows.find, keep_source)
        if reason is not None:
            raise Refused(reason)
        if outbound and bytes(packet[16:20]) in self.flows.externals:
            self._check_hairpin(self.flows, ip)
            return self._turn(packet, False)
        return FORWARD

    def _ipv6(self, packet: Buffer, ip: IpHeader, outbound: bool) -> int:
        if self.spec.ipv6 == "drop":
            raise Refused("ipv6")
        if self.spec.ipv6 == "firewall":
            if ip.protocol == IPV6_FRAGMENT:
                raise Refused("fragment")
            if ip.protocol == ICMPV6 and ip.length > 48 and packet[40] in ERRORS_V6:
                self._icmpv6_error(packet, ip, outbound)
            else:
                self._session(self._flows6, packet, ip, outbound)
        packet[7] = ip.ttl - 1
        return FORWARD

    def _icmpv6_error(self, packet: Buffer, ip: IpHeader, outbound: bool) -> None:
        quote = ip.header + 8
        if ip.length < quote + 48:
            raise Refused("malformed")
        find = self._flows6.find
        protocol, transport = packet[quote + 6], quote + 40
        if quoted_session(packet, quote + 8, 16, transport, protocol, outbound, find) is None:
            raise Refused("no-session")

    def _drop(self, reason: str) -> int:
        self.counters[reason] += 1
        return DROP


def packed_ipv4(address: str, key: str) -> bytes:
    """The 4 bytes of an address. Raises SpecError for `key`."""
    try:
        data = packed(address)
    except ValueError:
        data = b""
    require(len(data) == 4, key, f"expected an IPv4 address, got {address!r}")
    return data


def _without_translation(spec: NatSpec) -> NatSpec:
    """What `spec` means for IPv6: a firewall with the same filter and timers."""
    return replace(
        spec,
        translate="none",
        mapping="endpoint-independent",
        port="preserving",
        ports_per_host=None,
        overload=False,
        hairpin=False,
    )
