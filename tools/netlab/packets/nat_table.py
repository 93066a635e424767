"""NatTable: the userspace NAT and stateful firewall, packet by packet. Pure.

It sits between an inside and an outside and rewrites packets in place, IPv4 (TCP, UDP, ICMP echo
and errors) as :class:`NatSpec` says; IPv6 is filtered and never translated. The TTL is left
alone: the router whose outside this is, a namespace that forwards, has taken its one from it.
State is in :class:`FlowTable`; this module knows where things are in packets. Sources: RFC 3022,
RFC 4787, RFC 5382, RFC 5508, RFC 6092 (IPv6), RFC 7857, RFC 1624 (checksums).

A packet may come from a device with checksum offload ("partial"): its transport checksum then
holds only the sum of the pseudo header, and the kernel on the other side completes it.

Fragments: later ones follow their first one, which alone has ports; one that overtakes it waits
for it (RFC 4787 REQ-14), with bounds in bytes and time (counter "fragment").
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from tools.netlab.packets.codec import (
    ACK,
    CHECKSUM_OFFSET,
    ECHO_REPLY,
    FIN,
    FRAGMENT_OFFSET,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
    UDP,
    Buffer,
    IpHeader,
    adjusted,
    icmp_packet,
    packed,
    port_unreachable,
    read_header,
    tcp_reset,
)
from tools.netlab.packets.flows import CLOSED, Clock, FlowTable, MappingView, Refused, Session
from tools.netlab.packets.nat_icmp import ERRORS, ERRORS_V6, admit_error_v6, translate_error
from tools.netlab.spec.nat import NatSpec
from tools.netlab.spec.strict import require

# Verdicts. Plain integers: they are made and compared once per packet.
DROP: Final = 0
FORWARD: Final = 1  # to the other side
TURN: Final = 2  # back to the inside it came from (hairpin)

# First byte, length, fragment, protocol, checksum, flow key: an IPv4 header without options.
_HEAD: Final = struct.Struct("!BxHxxHxBH12s")
_REWRITE: Final = struct.Struct("!H12s")  # checksum, flow key, from byte 10 on
_U16: Final = struct.Struct("!H")
_FRAGMENTED: Final = 0x3FFF  # more to come, or an offset
# Bytes of the headers of what the fast path takes.
_LEAST: Final = {UDP: 28, TCP: 40}
_TCP_MARKS: Final = SYN | FIN | RST

FRAGMENT_LIFE: Final = 30.0
"""Seconds."""
MAX_FRAGMENTED: Final = 1024  # datagrams whose fragments are followed at a time
MAX_HELD_BYTES: Final = 1 << 20  # of fragments that wait for their first one
_HELD_OVERHEAD: Final = 256  # what keeping one costs beside its bytes

# Direction (outbound), addresses, and what the fragments of a datagram have in common.
_FragmentKey: TypeAlias = tuple[bool, bytes, bytes]


class NatTable:
    """A NAT between an inside and an outside.

    spec: what it does. externals: its addresses outside (none for translate "none").
    internals: for translate "one-to-one", the hosts that have them, in the same order.
    clock: seconds, for timers. rng: for random ports.

    `counters` counts dropped packets by reason. The caller must take, after each packet:
    `replies`, packets that the NAT itself sends to the outside (see `refuse_tcp`; it also answers
    pings at its addresses); and `released`, packets that had to wait for this one: whether it goes
    to the inside, and what it is, to be sent without any checksum offload.
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
        self.released: list[tuple[bool, bytearray]] = []
        self._clock = clock
        self._internals = tuple(internals)
        self._check_addresses(externals)
        addresses = map(packed, externals), map(packed, internals)
        self.flows = FlowTable(spec, *addresses, clock, rng, is_open=spec.is_open)
        self._flows6 = FlowTable(
            _without_translation(spec), (), (), clock, rng, is_open=spec.is_open
        )
        # Fragmented datagrams whose first fragment has been seen, and those where it has not,
        # each with the end of its life.
        self._fragments: dict[_FragmentKey, tuple[Session, float]] = {}
        self._held: dict[_FragmentKey, tuple[list[bytearray], float]] = {}
        self._held_bytes = 0

    def _check_addresses(self, externals: Sequence[str]) -> None:
        for address in externals:
            _packed_ipv4(address, "external")
        for address in self._internals:
            _packed_ipv4(address, "internal")
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
        self._held.clear()
        self._held_bytes = 0
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
        for key in [k for k, v in self._held.items() if v[1] <= now]:
            self._take_held(key)

    def mappings(self) -> list[MappingView]:
        """All live mappings, IPv4 first."""
        return self.flows.view() + self._flows6.view()

    # --- the fast path: packets of a known TCP or UDP session -------------------------------------

    def outbound(self, packet: Buffer, partial: bool = False) -> int:
        """Rewrite `packet`, which comes from the inside, in place; what to do with it."""
        if len(packet) < 28:
            return self._general(packet, partial, True)
        first, length, fragment, protocol, checksum, key = _HEAD.unpack_from(packet)
        least = _LEAST.get(protocol, 0xFFFF)
        if first != 0x45 or fragment & _FRAGMENTED or not least <= length <= len(packet):
            return self._general(packet, partial, True)
        session = self.flows.outgoing[protocol].get(key)
        now = self._clock()
        if session is None or session.expires <= now:
            return self._general(packet, partial, True)
        if protocol == TCP:
            if packet[33] & _TCP_MARKS or session.tcp & CLOSED:
                self.flows.track_tcp(session, packet[33], True)
            at = 36
        else:
            at = 26
        session.expires = now + session.timeout
        checksum = 0xFFFF - ((0xFFFF - checksum + session.address_out) % 0xFFFF or 0xFFFF)
        _REWRITE.pack_into(packet, 10, checksum, session.out_new)
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
        first, length, fragment, protocol, checksum, key = _HEAD.unpack_from(packet)
        least = _LEAST.get(protocol, 0xFFFF)
        if first != 0x45 or fragment & _FRAGMENTED or not least <= length <= len(packet):
            return self._general(packet, partial, False)
        session = self.flows.incoming[protocol].get(key)
        now = self._clock()
        if session is None or session.expires <= now or not session.sent:
            return self._general(packet, partial, False)
        if protocol == TCP:
            if packet[33] & _TCP_MARKS or session.tcp & CLOSED:
                self.flows.track_tcp(session, packet[33], False)
            at = 36
        else:
            at = 26
        if self.spec.inbound_refresh:
            session.expires = now + session.timeout
        checksum = 0xFFFF - ((0xFFFF - checksum + session.address_in) % 0xFFFF or 0xFFFF)
        _REWRITE.pack_into(packet, 10, checksum, session.in_new)
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
        is_ipv6 = len(ip.source) == 16
        flows = self._flows6 if is_ipv6 else self.flows
        try:
            if is_ipv6 and self.spec.ipv6 == "drop":
                raise Refused("ipv6")
            if is_ipv6 and self.spec.ipv6 == "open":
                return FORWARD
            if ip.fragment & FRAGMENT_OFFSET:
                return self._later_fragment(packet, ip, partial, outbound)
            if _is_error(packet, ip):
                return self._icmp_error(packet, ip, outbound)
            session = self._session(flows, packet, ip, outbound)
        except Refused as refusal:
            return self._drop(str(refusal))
        if not is_ipv6:
            self._rewrite(packet, ip, session, partial, outbound)
        if not ip.is_fragment:
            return self._turn(packet, partial) if outbound and session.hairpin else FORWARD
        self._follow_fragments(ip, session, outbound)
        verdict = self._turn(packet, partial) if outbound and session.hairpin else FORWARD
        self._release_fragments(ip, outbound)
        return verdict

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
        elif ip.protocol == (ICMP if len(ip.source) == 4 else ICMPV6):
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
        if flags & _TCP_MARKS or session.tcp & CLOSED:
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
                self.replies.append(port_unreachable(packet, ip, ip.destination))
            elif ip.protocol == ICMP and ip.destination in flows.externals and not ip.is_fragment:
                body = bytes(packet[ip.header + 4 : ip.length])
                self.replies.append(
                    icmp_packet(ip.destination, ip.source, ECHO_REPLY, 0, body[:4], body[4:])
                )
            raise

    def _rewrite(
        self, packet: Buffer, ip: IpHeader, session: Session, partial: bool, outbound: bool
    ) -> None:
        """Put a session's other endpoint into an IPv4 packet that has a transport header."""
        self._rewrite_address(packet, session, outbound)
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

    def _rewrite_address(self, packet: Buffer, session: Session, outbound: bool) -> None:
        if outbound:
            packet[12:16] = session.mapping.external[:-2]
        else:
            packet[16:20] = session.mapping.internal[:-2]
        (old,) = _U16.unpack_from(packet, 10)
        delta = session.address_out if outbound else session.address_in
        _U16.pack_into(packet, 10, adjusted(old, delta))

    def _turn(self, packet: Buffer, partial: bool) -> int:
        """Hairpin: the packet, now from an external endpoint, comes in again.

        If it is refused nobody is told: what the NAT says goes to the outside only.
        """
        verdict = self.inbound(packet, partial)
        self.replies.clear()
        return TURN if verdict == FORWARD else DROP

    # --- fragments, ICMP errors -------------------------------------------------------------------

    def _follow_fragments(self, ip: IpHeader, session: Session, outbound: bool) -> None:
        if len(self._fragments) >= MAX_FRAGMENTED:
            del self._fragments[next(iter(self._fragments))]
        key = _fragment_key(ip, outbound)
        self._fragments[key] = session, self._clock() + FRAGMENT_LIFE

    def _later_fragment(self, packet: Buffer, ip: IpHeader, partial: bool, outbound: bool) -> int:
        key = _fragment_key(ip, outbound)
        session, expires = self._fragments.get(key, (None, 0.0))
        if session is None or expires <= self._clock():
            self._hold(key, bytearray(packet[: ip.length]))
            return DROP
        if len(ip.source) == 4:
            self._rewrite_address(packet, session, outbound)
        return self._turn(packet, partial) if outbound and session.hairpin else FORWARD

    def _hold(self, key: _FragmentKey, packet: bytearray) -> None:
        """Keep a fragment until the first of its datagram is seen."""
        now = self._clock()
        if key in self._held and self._held[key][1] <= now:
            self._take_held(key)  # of an older datagram
        cost = len(packet) + _HELD_OVERHEAD
        if self._held_bytes + cost > MAX_HELD_BYTES:
            raise Refused("fragment")
        self._held_bytes += cost
        self._held.setdefault(key, ([], now + FRAGMENT_LIFE))[0].append(packet)

    def _take_held(self, key: _FragmentKey) -> list[bytearray]:
        """The fragments that wait, less those that have waited too long."""
        packets, expires = self._held.pop(key, ([], 0.0))
        self._held_bytes -= sum(len(packet) + _HELD_OVERHEAD for packet in packets)
        if expires > self._clock():
            return packets
        self.counters["fragment"] += len(packets)
        return []

    def _release_fragments(self, ip: IpHeader, outbound: bool) -> None:
        """Let go what waited for the first fragment that has just passed."""
        key = _fragment_key(ip, outbound)
        if key not in self._held:
            return
        for packet in self._take_held(key):
            verdict = self._general(packet, False, outbound)
            if verdict != DROP:
                self.released.append((verdict == TURN or not outbound, packet))

    def _icmp_error(self, packet: Buffer, ip: IpHeader, outbound: bool) -> int:
        if len(ip.source) == 16:
            reason = admit_error_v6(packet, ip, outbound, self._flows6.find)
        else:
            keep_source = self.spec.translate == "none"
            reason = translate_error(packet, ip, outbound, self.flows.find, keep_source)
        if reason is not None:
            raise Refused(reason)
        if outbound and bytes(packet[16:20]) in self.flows.externals and len(ip.source) == 4:
            self._check_hairpin(self.flows, ip)
            return self._turn(packet, False)
        return FORWARD

    def _drop(self, reason: str) -> int:
        self.counters[reason] += 1
        return DROP


def _is_error(packet: Buffer, ip: IpHeader) -> bool:
    protocol, errors = (ICMP, ERRORS) if len(ip.source) == 4 else (ICMPV6, ERRORS_V6)
    return ip.protocol == protocol and ip.length > ip.header and packet[ip.header] in errors


def _fragment_key(ip: IpHeader, outbound: bool) -> _FragmentKey:
    return outbound, ip.source + ip.destination, ip.ident


def _packed_ipv4(address: str, key: str) -> bytes:
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
