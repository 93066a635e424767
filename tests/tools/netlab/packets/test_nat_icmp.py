"""NatTable: ICMP, fragments, IP options, IPv6 and checksum offload."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.support.packets.nat_bench import NAT_IP, Endpoint, NatBench, endpoints, udp
from tests.support.packets.nat_packets import (
    TIME_EXCEEDED,
    checksum_errors,
    echo_packet,
    udp_packet,
)
from tools.netlab.packets.codec import (
    ACK,
    CHECKSUM_OFFSET,
    ICMP,
    IPV6_DESTINATION,
    IPV6_FRAGMENT,
    MORE_FRAGMENTS,
    RST,
    SYN,
    TCP,
    UDP,
    UNREACHABLE,
    adjusted,
    icmp_packet,
    ip_packet,
    packed,
    pseudo_sum,
    read_header,
    tcp_packet,
)
from tools.netlab.packets.nat_table import DROP, FORWARD, MAX_FRAGMENTED, MAX_HELD_BYTES
from tools.netlab.spec.nat import NAMES, NatSpec

INSIDE: Endpoint = ("10.0.0.2", 5000)
REMOTE: Endpoint = ("198.51.100.1", 3478)
HOST, SERVER, NAT = packed(INSIDE[0]), packed(REMOTE[0]), packed(NAT_IP)
ROUTER = packed("192.0.2.99")

HOST6, SERVER6, OTHER6 = packed("fd00::2"), packed("2001:db8::1"), packed("2001:db8::2")


def quote_of(error: bytes) -> bytes:
    """The packet that an ICMP error over IPv4 quotes."""
    return error[28:]


def error_about(quoted: bytes, sender: bytes, receiver: bytes, kind: int = UNREACHABLE) -> bytes:
    return icmp_packet(sender, receiver, kind, 3, bytes(4), quoted)


# --- echo -------------------------------------------------------------------------------------


def test_echo_is_mapped_by_its_identifier() -> None:
    bench = NatBench(NatSpec(port="random"))
    request = bench.out(echo_packet(HOST, SERVER, 77))
    assert request is not None
    (_, ident), _ = endpoints(request)
    assert ident != 77
    reply = bench.into(echo_packet(SERVER, NAT, ident, reply=True))
    assert reply is not None
    assert endpoints(reply) == ((REMOTE[0], 77), (INSIDE[0], 77))
    assert bench.into(echo_packet(SERVER, NAT, ident + 1, reply=True)) is None
    assert bench.into(echo_packet(ROUTER, NAT, ident, reply=True)) is None
    bench.now += NatSpec().icmp_timeout_s
    assert bench.into(echo_packet(SERVER, NAT, ident, reply=True)) is None
    assert bench.out(echo_packet(HOST, SERVER, 77, reply=True)) is None
    assert bench.drops() == {"no-session": 4}
    assert bench.table.replies == []


def test_the_nat_answers_pings_at_its_own_address() -> None:
    bench = NatBench()
    request = echo_packet(SERVER, NAT, 77)
    assert bench.into(request) is None
    assert bench.table.replies == [echo_packet(NAT, SERVER, 77, reply=True)]
    bench.table.replies.clear()
    assert bench.into(echo_packet(SERVER, packed("203.0.113.9"), 77)) is None
    assert bench.table.replies == []


def test_an_open_host_answers_pings() -> None:
    bench = NatBench(NAMES["one-to-one"], internals=(INSIDE[0],))
    request = bench.into(echo_packet(SERVER, NAT, 77))
    assert request is not None
    assert endpoints(request)[1] == (INSIDE[0], 77)
    reply = bench.out(echo_packet(HOST, SERVER, 77, reply=True))
    assert reply is not None
    assert endpoints(reply)[0] == (NAT_IP, 77)


def test_other_icmp_is_dropped() -> None:
    bench = NatBench()
    assert bench.out(icmp_packet(HOST, SERVER, 13, 0, bytes(4), bytes(12))) is None
    assert bench.drops() == {"protocol": 1}


# --- errors -----------------------------------------------------------------------------------


def sessions(bench: NatBench) -> dict[str, tuple[bytes, bytes]]:
    """By kind: a packet as it left the inside, and as it went outside."""
    packets = {
        "udp": udp_packet(HOST, 5000, SERVER, 3478, b"data"),
        "tcp": tcp_packet(HOST, 5000, SERVER, 3478, SYN),
        "echo": echo_packet(HOST, SERVER, 5000),
    }
    pairs = {}
    for name, packet in packets.items():
        outside = bench.out(packet)
        assert outside is not None
        pairs[name] = packet, outside
    return pairs


@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
@pytest.mark.parametrize("sender", [SERVER, ROUTER], ids=["destination", "router"])
def test_an_error_from_outside_quotes_what_the_host_had_sent(kind: str, sender: bytes) -> None:
    bench = NatBench(NatSpec(port="random"))
    original, outside = sessions(bench)[kind]
    error = bench.into(error_about(outside, sender, NAT, TIME_EXCEEDED))
    assert error is not None
    ip = read_header(error)
    assert ip is not None
    assert (ip.source, ip.destination) == (sender, HOST)
    assert quote_of(error) == original


@pytest.mark.parametrize("kind", ["udp", "tcp", "echo"])
def test_an_error_from_inside_quotes_what_the_server_had_sent(kind: str) -> None:
    bench = NatBench(NatSpec(port="random"))
    _, outside = sessions(bench)[kind]
    (_, port), _ = endpoints(outside)
    answer = {
        "udp": udp_packet(SERVER, 3478, NAT, port, b"data"),
        "tcp": tcp_packet(SERVER, 3478, NAT, port, SYN | ACK),
        "echo": echo_packet(SERVER, NAT, port, reply=True),
    }[kind]
    inside = bench.into(answer)
    assert inside is not None
    error = bench.out(error_about(inside, HOST, SERVER))
    assert error is not None
    ip = read_header(error)
    assert ip is not None
    assert (ip.source, ip.destination) == (NAT, SERVER)
    assert quote_of(error) == answer


def test_errors_about_nothing_known_are_dropped() -> None:
    bench = NatBench(NatSpec(udp_timeout_s=30))
    _, outside = sessions(bench)["udp"]
    stranger = bytearray(outside)
    stranger[22:24] = b"\xff\xff"  # another port of the remote
    assert bench.into(error_about(bytes(stranger), SERVER, NAT)) is None
    assert bench.out(error_about(outside, HOST, SERVER)) is None
    bench.now += 30
    assert bench.into(error_about(outside, SERVER, NAT)) is None
    assert bench.drops() == {"no-session": 3}


def test_damaged_errors_are_dropped() -> None:
    bench = NatBench()
    _, outside = sessions(bench)["udp"]
    good = error_about(outside, SERVER, NAT)
    assert bench.into(good) is not None
    broken = bytearray(good)
    broken[-1] ^= 1
    assert bench.into(bytes(broken)) is None  # its checksum
    assert bench.into(error_about(outside[:27], SERVER, NAT)) is None
    assert bench.into(error_about(b"\x4f" + outside[1:], SERVER, NAT)) is None
    assert bench.into(error_about(b"\x65" + outside[1:], SERVER, NAT)) is None
    assert bench.drops() == {"malformed": 4}
    later = bytearray(outside)
    later[7] = 1
    assert bench.into(error_about(bytes(later), SERVER, NAT)) is None
    assert bench.drops() == {"fragment": 1}


def test_a_quote_without_udp_checksum_keeps_having_none() -> None:
    bench = NatBench(NatSpec(port="random"))
    _, outside = sessions(bench)["udp"]
    without = outside[:26] + b"\0\0" + outside[28:]
    error = bench.into(error_about(without, SERVER, NAT))
    assert error is not None
    assert quote_of(error)[26:28] == b"\0\0"


def test_an_error_does_not_refresh() -> None:
    bench = NatBench(NatSpec(udp_timeout_s=30, inbound_refresh=True))
    _, outside = sessions(bench)["udp"]
    bench.now += 29
    assert bench.into(error_about(outside, SERVER, NAT)) is not None
    bench.now += 1
    assert bench.reaches(REMOTE, (NAT_IP, 5000)) is None


def test_a_firewall_leaves_the_sender_of_an_error_alone() -> None:
    bench = NatBench(NAMES["firewall"])
    assert bench.out(udp(INSIDE, REMOTE)) is not None
    answer = bench.into(udp(REMOTE, INSIDE))
    assert answer is not None
    error = bench.out(error_about(answer, ROUTER, SERVER))
    assert error is not None
    assert error[12:16] == ROUTER


def test_an_error_about_a_hairpinned_packet_finds_its_way() -> None:
    bench = NatBench(NAMES["full-cone"])
    other: Endpoint = ("10.0.0.3", 6000)
    assert bench.map_udp(INSIDE, REMOTE) is not None
    external = bench.map_udp(other, REMOTE)
    assert external is not None
    there = bench.turned(udp(INSIDE, external))
    assert there is not None
    error = bench.turned(error_about(there, packed(other[0]), NAT))
    assert error is not None
    assert error[16:20] == HOST
    assert endpoints(quote_of(error)) == (INSIDE, external)
    assert checksum_errors(quote_of(error)) == []


# --- fragments and options --------------------------------------------------------------------


def fragments(source: Endpoint, destination: Endpoint, ident: int) -> tuple[list[bytes], bytes]:
    """Three fragments of a datagram, and its payload."""
    whole = udp(source, destination, bytes(range(256)) * 8)[20:]
    a, b = packed(source[0]), packed(destination[0])
    cuts = [whole[:800], whole[800:1600], whole[1600:]]
    return [
        ip_packet(a, b, UDP, part, ident=ident, fragment=at // 8 | (MORE_FRAGMENTS * more))
        for part, at, more in zip(cuts, (0, 800, 1600), (1, 1, 0), strict=True)
    ], whole


def reassembled(parts: list[bytes | None]) -> bytes:
    assert None not in parts
    packets = [part for part in parts if part is not None]
    assert len({packet[12:20] for packet in packets}) == 1
    body = b"".join(packet[20:] for packet in packets)
    return ip_packet_like(packets[0], body)


def ip_packet_like(first: bytes, body: bytes) -> bytes:
    # The header alone: the transport checksum must be what the NAT made of it.
    head = ip_packet(first[12:16], first[16:20], 255, body)
    header = head[:9] + bytes((UDP,)) + head[10:20]
    (old,) = struct.unpack_from("!H", header, 10)
    return header[:10] + adjusted(old, UDP - 255).to_bytes(2, "big") + header[12:] + body


def test_fragments_follow_their_first_one() -> None:
    bench = NatBench(NatSpec(port="random"))
    parts, payload = fragments(INSIDE, REMOTE, 7)
    datagram = reassembled([bench.out(part) for part in parts])
    assert checksum_errors(datagram) == []
    external, remote = endpoints(datagram)
    assert (external[0], remote) == (NAT_IP, REMOTE)
    assert datagram[28:] == payload[8:]

    parts, _ = fragments(REMOTE, external, 7)
    datagram = reassembled([bench.into(part) for part in parts])
    assert checksum_errors(datagram) == []
    assert endpoints(datagram) == (REMOTE, INSIDE)


def test_a_last_fragment_of_one_byte() -> None:
    bench = NatBench()
    body = udp(INSIDE, REMOTE, bytes(801))[20:]
    first = ip_packet(HOST, SERVER, UDP, body[:808], ident=7, fragment=MORE_FRAGMENTS)
    last = ip_packet(HOST, SERVER, UDP, body[808:], ident=7, fragment=808 // 8)
    assert len(last) == 21
    datagram = reassembled([bench.out(first), bench.out(last)])
    assert checksum_errors(datagram) == []


def released(bench: NatBench, *, to_inside: bool) -> list[bytes]:
    """What had to wait for the last packet, and now goes to the right side."""
    packets, bench.table.released = bench.table.released, []
    assert all(side == to_inside for side, _ in packets)
    return [bytes(packet) for _, packet in packets]


def in_order(fragments: list[bytes]) -> list[bytes | None]:
    return [*sorted(fragments, key=lambda fragment: fragment[7])]


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_fragments_may_come_in_any_order(order: tuple[int, ...]) -> None:
    bench = NatBench(NatSpec(port="random"))
    sent, _ = fragments(INSIDE, REMOTE, 7)
    out = []
    for index in order:
        passed = bench.out(sent[index])
        out += [] if passed is None else [passed]
        out += released(bench, to_inside=False)
    datagram = reassembled(in_order(out))
    assert checksum_errors(datagram) == []
    external = endpoints(datagram)[0]
    assert external[0] == NAT_IP

    sent, _ = fragments(REMOTE, external, 7)
    back = []
    for index in order:
        passed = bench.into(sent[index])
        back += [] if passed is None else [passed]
        back += released(bench, to_inside=True)
    datagram = reassembled(in_order(back))
    assert endpoints(datagram) == (REMOTE, INSIDE)
    assert checksum_errors(datagram) == []
    assert bench.drops() == {}


def test_a_fragment_waits_only_so_long() -> None:
    bench = NatBench()
    (first, second, third), _ = fragments(INSIDE, REMOTE, 7)
    assert bench.out(second) is None
    bench.now += 31
    # Of another datagram with the same identification.
    assert bench.out(third) is None
    assert bench.drops() == {"fragment": 1}
    assert bench.out(first) is not None
    assert [packet[20:] for packet in released(bench, to_inside=False)] == [third[20:]]
    bench.now += 31
    assert bench.out(second) is None
    bench.table.expire()
    assert bench.drops() == {}
    bench.now += 31
    bench.table.expire()
    assert bench.drops() == {"fragment": 1}
    assert bench.out(first) is not None
    assert released(bench, to_inside=False) == []


def test_fragments_wait_only_for_what_the_filter_lets_in() -> None:
    bench = NatBench()
    (first, second, _), _ = fragments(REMOTE, (NAT_IP, 5000), 7)
    assert bench.into(second) is None
    assert bench.into(first) is None
    assert released(bench, to_inside=True) == []
    bench.table.flush()
    assert bench.map_udp(INSIDE, REMOTE) == (NAT_IP, 5000)
    assert bench.into(first) is not None
    assert released(bench, to_inside=True) == []


def test_what_waits_is_bounded() -> None:
    bench = NatBench()
    for ident in range(MAX_HELD_BYTES // 800):
        assert bench.out(fragments(INSIDE, REMOTE, ident % 0x10000)[0][1]) is None
    assert bench.drops()["fragment"] > 0
    assert bench.out(fragments(INSIDE, REMOTE, 0)[0][0]) is not None
    assert len(released(bench, to_inside=False)) == 1


def test_hairpinned_fragments_in_the_wrong_order() -> None:
    bench = NatBench(NAMES["full-cone"])
    external = bench.map_udp(("10.0.0.3", 6000), REMOTE)
    assert external is not None
    (first, second, third), _ = fragments(INSIDE, external, 7)
    assert bench.turned(third) is None
    turned = [bench.turned(first), *released(bench, to_inside=True), bench.turned(second)]
    datagram = reassembled([turned[0], turned[2], turned[1]])
    assert endpoints(datagram) == ((NAT_IP, 5000), ("10.0.0.3", 6000))
    assert checksum_errors(datagram) == []


def test_fragments_that_are_followed_are_bounded() -> None:
    bench = NatBench()
    datagrams = [fragments(INSIDE, REMOTE, ident)[0] for ident in range(MAX_FRAGMENTED + 1)]
    for parts in datagrams:
        assert bench.out(parts[0]) is not None
    assert bench.out(datagrams[-1][1]) is not None
    assert bench.out(datagrams[0][1]) is None


def test_hairpinned_fragments() -> None:
    bench = NatBench(NAMES["full-cone"])
    external = bench.map_udp(("10.0.0.3", 6000), REMOTE)
    assert external is not None
    parts, _ = fragments(INSIDE, external, 7)
    datagram = reassembled([bench.turned(part) for part in parts])
    assert checksum_errors(datagram) == []
    assert endpoints(datagram) == ((NAT_IP, 5000), ("10.0.0.3", 6000))


def test_ip_options_stay() -> None:
    bench = NatBench()
    body = udp(INSIDE, REMOTE)[20:]
    packet = ip_packet(HOST, SERVER, UDP, body, options=b"\x94\x04\0\0")
    outside = bench.out(packet)
    assert outside is not None
    assert outside[20:24] == b"\x94\x04\0\0"
    assert endpoints(outside)[0] == (NAT_IP, 5000)


def test_a_datagram_without_checksum_keeps_having_none() -> None:
    bench = NatBench(NatSpec(port="random"))
    packet = udp(INSIDE, REMOTE)
    for _ in range(2):  # the first and the quick way
        outside = bench.out(packet[:26] + b"\0\0" + packet[28:])
        assert outside is not None
        assert outside[26:28] == b"\0\0"


# --- checksum offload -------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [UDP, TCP])
@pytest.mark.parametrize("known", [False, True])
def test_partial_checksums_stay_sums_of_the_pseudo_header(protocol: int, known: bool) -> None:
    bench = NatBench(NatSpec(port="random"))
    make = udp if protocol == UDP else syn
    if known:
        assert bench.out(make(INSIDE, REMOTE)) is not None
    at = 20 + CHECKSUM_OFFSET[protocol]
    packet = partial_of(make(INSIDE, REMOTE), at)
    assert bench.table.outbound(packet, True) == FORWARD
    external = endpoints(completed(packet, at))[0]
    assert external[0] == NAT_IP
    packet = partial_of(make(REMOTE, external), at)
    assert bench.table.inbound(packet, True) == FORWARD
    assert endpoints(completed(packet, at)) == (REMOTE, INSIDE)


def syn(source: Endpoint, destination: Endpoint) -> bytes:
    a, b = packed(source[0]), packed(destination[0])
    return tcp_packet(a, source[1], b, destination[1], SYN, b"more")


def partial_of(packet: bytes, at: int) -> bytearray:
    total = pseudo_sum(packet[12:16], packet[16:20], packet[9], len(packet) - 20)
    return bytearray(packet[:at] + total.to_bytes(2, "big") + packet[at + 2 :])


def completed(packet: bytearray, at: int) -> bytes:
    """What the device makes of it: the sum over everything, complemented."""
    total = int.from_bytes(packet[20:] + bytes(len(packet) % 2)) % 0xFFFF
    value = (0xFFFF - total) or 0xFFFF
    whole = bytes(packet[:at]) + value.to_bytes(2, "big") + bytes(packet[at + 2 :])
    assert checksum_errors(whole) == []
    return whole


# --- IPv6 -------------------------------------------------------------------------------------


def test_ipv6_firewall() -> None:
    bench = NatBench()
    assert bench.into(udp_packet(SERVER6, 1, HOST6, 2)) is None
    out = bench.out(udp_packet(HOST6, 2, SERVER6, 1))
    assert out is not None
    assert out[8:] == udp_packet(HOST6, 2, SERVER6, 1)[8:]
    assert bench.into(udp_packet(SERVER6, 1, HOST6, 2)) is not None
    assert bench.into(udp_packet(OTHER6, 1, HOST6, 2)) is None
    assert bench.into(tcp_packet(SERVER6, 1, HOST6, 2, SYN)) is None
    assert bench.out(echo_packet(HOST6, SERVER6, 9)) is not None
    assert bench.into(echo_packet(SERVER6, HOST6, 9, reply=True)) is not None
    assert bench.into(echo_packet(SERVER6, HOST6, 8)) is None
    bench.now += 120
    assert bench.into(udp_packet(SERVER6, 1, HOST6, 2)) is None
    assert bench.drops() == {"no-mapping": 4, "filtered": 1}


def test_ipv6_errors_pass_if_they_are_about_a_session() -> None:
    bench = NatBench()
    packet = udp_packet(HOST6, 2, SERVER6, 1, bytes(100))
    assert bench.out(packet) is not None
    assert bench.into(icmp_packet(OTHER6, HOST6, 2, 0, bytes(4), packet)) is not None
    stranger = udp_packet(HOST6, 3, SERVER6, 1, bytes(100))
    assert bench.into(icmp_packet(OTHER6, HOST6, 2, 0, bytes(4), stranger)) is None
    assert bench.into(icmp_packet(OTHER6, HOST6, 2, 0, bytes(4), packet[:47])) is None
    answer = udp_packet(SERVER6, 1, HOST6, 2)
    assert bench.out(icmp_packet(HOST6, SERVER6, 1, 4, bytes(4), answer)) is not None
    assert bench.drops() == {"no-session": 1, "malformed": 1}


def test_ipv6_errors_find_sessions_behind_extension_headers() -> None:
    bench = NatBench()
    assert bench.out(udp_packet(HOST6, 2, SERVER6, 1, bytes(100))) is not None
    datagram = udp_packet(HOST6, 2, SERVER6, 1, bytes(100))[40:]
    options = bytes((UDP, 0, 1, 4, 0, 0, 0, 0))
    quoted = ip_packet(HOST6, SERVER6, IPV6_DESTINATION, options + datagram)
    too_big = icmp_packet(OTHER6, HOST6, 2, 0, (1280).to_bytes(4, "big"), quoted)
    assert bench.into(too_big) == too_big
    for cut in (47, 48, 55):
        assert bench.into(icmp_packet(OTHER6, HOST6, 2, 0, bytes(4), quoted[:cut])) is None
    later = ip_packet(HOST6, SERVER6, IPV6_FRAGMENT, bytes((UDP, 0, 0, 8)) + bytes(80))
    assert bench.into(icmp_packet(OTHER6, HOST6, 2, 0, bytes(4), later)) is None
    assert bench.drops() == {"malformed": 3, "fragment": 1}


@pytest.mark.parametrize("refusal", ["drop", "reset", "icmp"])
def test_unsolicited_syns_over_ipv6_are_refused_as_specified(refusal: Any) -> None:
    bench = NatBench(NatSpec(refuse_tcp=refusal))
    refused = tcp_packet(SERVER6, 9, HOST6, 80, SYN, seq=4)
    assert bench.into(refused) is None
    want = {
        "drop": [],
        "reset": [tcp_packet(HOST6, 80, SERVER6, 9, RST | ACK, ack=5)],
        # RFC 4443: destination unreachable, port unreachable.
        "icmp": [icmp_packet(HOST6, SERVER6, 1, 4, bytes(4), refused)],
    }[refusal]
    assert bench.table.replies == want


def fragments6(source: bytes, destination: bytes, ports: tuple[int, int]) -> list[bytes]:
    """A datagram of 2,008 bytes in three parts, behind destination options as well."""
    whole = udp_packet(source, ports[0], destination, ports[1], bytes(range(250)) * 8)[40:]
    whole = bytes((UDP, 0, 1, 4, 0, 0, 0, 0)) + whole
    return [
        ip_packet(
            source,
            destination,
            IPV6_FRAGMENT,
            bytes((IPV6_DESTINATION, 0))
            + (at | (at + 800 < len(whole))).to_bytes(2, "big")
            + b"same"
            + whole[at : at + 800],
        )
        for at in range(0, len(whole), 800)
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_ipv6_fragments_pass_in_any_order(order: tuple[int, ...]) -> None:
    bench = NatBench()
    out, back = fragments6(HOST6, SERVER6, (2, 1)), fragments6(SERVER6, HOST6, (1, 2))
    for packets, send, to_inside in ((out, bench.out, False), (back, bench.into, True)):
        passed = []
        for index in order:
            packet = send(packets[index])
            passed += [] if packet is None else [packet]
            passed += released(bench, to_inside=to_inside)
        assert sorted(passed) == sorted(packets)
    stranger = fragments6(OTHER6, HOST6, (1, 2))
    assert [bench.into(stranger[index]) for index in order] == [None, None, None]
    assert released(bench, to_inside=True) == []
    assert bench.drops() == {"filtered": 1}


@pytest.mark.parametrize("name", ["one-to-one", "full-cone", "port-restricted"])
def test_ipv6_of_those_who_are_open(name: str) -> None:
    # Without translated ports all have mappings from the start; a full cone must be opened.
    bench = NatBench(NAMES[name], internals=("10.0.0.2",))
    reached = [bench.into(udp_packet(OTHER6, 1, HOST6, 2)) is not None]
    assert bench.out(udp_packet(HOST6, 2, SERVER6, 1)) is not None
    reached.append(bench.into(udp_packet(OTHER6, 1, HOST6, 2)) is not None)
    assert reached == [name == "one-to-one", name != "port-restricted"]


def test_other_ipv6_is_dropped() -> None:
    bench = NatBench()
    solicitation = icmp_packet(HOST6, packed("ff02::2"), 133, 0, bytes(4))
    assert bench.out(solicitation) is None
    routing = bytes((UDP, 2, 0, 1)) + bytes(20)
    assert bench.out(ip_packet(HOST6, SERVER6, 43, routing)) is None
    assert bench.out(ip_packet(HOST6, SERVER6, ICMP, echo_packet(HOST, SERVER, 7)[20:])) is None
    assert bench.drops() == {"protocol": 3}


def test_ipv6_may_be_open_or_not_there() -> None:
    packet = udp_packet(SERVER6, 1, HOST6, 2)
    assert NatBench(NatSpec(ipv6="open")).into(packet) is not None
    bench = NatBench(NatSpec(ipv6="drop"))
    assert bench.out(packet) is None
    assert bench.drops() == {"ipv6": 1}


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(0, 28), 39])
def test_short_packets_are_dropped(size: int) -> None:
    bench = NatBench()
    syn_packet = bytearray(syn(INSIDE, REMOTE))
    assert bench.out(bytes(syn_packet)) is not None
    syn_packet[2:4] = size.to_bytes(2, "big")
    for length in (size, 44):
        packet = bytearray(syn_packet[:length])
        assert bench.table.outbound(packet) == DROP
        assert bench.table.inbound(packet) == DROP
    assert set(bench.drops()) == {"malformed"}


def test_an_echo_is_not_taken_for_another_by_its_checksum() -> None:
    # Type, code and checksum lie where other protocols have ports: 08 00 00 00 is what the key
    # of the session with identifier 0x0800 has there.
    bench = NatBench()
    assert bench.out(echo_packet(HOST, SERVER, 0x0800)) is not None
    rest = struct.pack("!HH", 5, 0xFFFF - 0x0800 - 5)
    request = icmp_packet(HOST, SERVER, 8, 0, rest)
    assert request[20:24] == b"\x08\0\0\0"
    outside = bench.out(request)
    assert outside is not None
    assert endpoints(outside)[0] == (NAT_IP, 5)
