"""NatTable: every combination of RFC 4787 behaviours, timers, TCP, limits and control."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import get_args

import pytest

from tests.support.packets.nat_bench import NAT_IP, Endpoint, NatBench, endpoints, udp
from tests.support.packets.nat_packets import echo_packet
from tools.netlab.packets.codec import (
    ACK,
    FIN,
    ICMP,
    RST,
    SYN,
    UDP,
    ip_packet,
    packed,
    read_header,
    tcp_packet,
)
from tools.netlab.packets.nat_ports import MOST_TRIES, RANDOM_TRIES, PortAllocator
from tools.netlab.spec.nat import NAMES, Behaviour, NatSpec, PortAllocation
from tools.netlab.spec.strict import SpecError

INSIDE: Endpoint = ("10.0.0.2", 5000)
OTHER_INSIDE: Endpoint = ("10.0.0.3", 5000)
REMOTE: Endpoint = ("198.51.100.1", 3478)
OTHER_PORT: Endpoint = ("198.51.100.1", 3479)
OTHER_IP: Endpoint = ("198.51.100.2", 3478)

BEHAVIOURS: tuple[Behaviour, ...] = get_args(Behaviour)
PORTS: tuple[PortAllocation, ...] = get_args(PortAllocation)
COMBINATIONS = list(itertools.product(BEHAVIOURS, BEHAVIOURS, PORTS))


def tcp(source: Endpoint, destination: Endpoint, flags: int, data: bytes = b"") -> bytes:
    return tcp_packet(
        packed(source[0]), source[1], packed(destination[0]), destination[1], flags, data
    )


def open_tcp(bench: NatBench, inside: Endpoint = INSIDE, remote: Endpoint = REMOTE) -> Endpoint:
    """A three-way handshake from the inside; the external endpoint."""
    syn = bench.out(tcp(inside, remote, SYN))
    assert syn is not None
    external = endpoints(syn)[0]
    assert bench.into(tcp(remote, external, SYN | ACK)) is not None
    assert bench.out(tcp(inside, remote, ACK)) is not None
    return external


# --- RFC 4787 sections 4 and 5 ----------------------------------------------------------------


@pytest.mark.parametrize(("mapping", "filtering", "port"), COMBINATIONS)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_behaviour_is_as_specified(
    mapping: Behaviour, filtering: Behaviour, port: PortAllocation, protocol: str
) -> None:
    bench = NatBench(NatSpec(mapping, filtering, port))

    def make(source: Endpoint, destination: Endpoint) -> bytes:
        return tcp(source, destination, SYN) if protocol == "tcp" else udp(source, destination)

    seen = []
    for remote in (REMOTE, OTHER_PORT, OTHER_IP):
        packet = bench.out(make(INSIDE, remote))
        assert packet is not None
        external, destination = endpoints(packet)
        assert external[0] == NAT_IP
        assert destination == remote
        seen.append(external[1])
        reply = bench.into(make(remote, external))
        assert reply is not None
        assert endpoints(reply) == (remote, INSIDE)
    distinct = {BEHAVIOURS[0]: 1, BEHAVIOURS[1]: 2, BEHAVIOURS[2]: 3}[mapping]
    assert len(set(seen)) == distinct
    assert (seen[0] == seen[1]) == (mapping != BEHAVIOURS[2])
    if port == "preserving":
        assert seen[0] == INSIDE[1]
    elif port == "sequential":
        assert sorted(set(seen)) == list(range(1024, 1024 + distinct))
    else:
        assert all(1024 <= value <= 65535 for value in seen)

    fresh = NatBench(NatSpec(mapping, filtering, port))
    packet = fresh.out(make(INSIDE, REMOTE))
    assert packet is not None
    external = endpoints(packet)[0]
    admitted = [
        fresh.into(make(remote, external)) is not None for remote in (REMOTE, OTHER_PORT, OTHER_IP)
    ]
    assert admitted == [True, filtering != BEHAVIOURS[2], filtering == BEHAVIOURS[0]]


@pytest.mark.parametrize("port", PORTS)
def test_two_hosts_with_the_same_port_get_different_ones(port: PortAllocation) -> None:
    bench = NatBench(NatSpec(port=port))
    one, two = bench.map_udp(INSIDE, REMOTE), bench.map_udp(OTHER_INSIDE, REMOTE)
    assert one is not None
    assert two is not None
    assert one != two
    assert bench.reaches(REMOTE, one) == INSIDE
    assert bench.reaches(REMOTE, two) == OTHER_INSIDE


def test_an_answered_caller_gets_its_answer_from_where_it_called() -> None:
    # Endpoint-independent filter but dependent mapping: who calls in must not see another port.
    bench = NatBench(NatSpec("address-and-port-dependent", "endpoint-independent", "random"))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    assert bench.reaches(OTHER_IP, external) == INSIDE
    assert bench.map_udp(INSIDE, OTHER_IP) == external


def test_a_caller_by_two_ports_is_answered_from_the_one_that_is_left() -> None:
    spec = NatSpec("address-and-port-dependent", "endpoint-independent", "random")
    bench = NatBench(replace(spec, udp_timeout_s=60))
    first, second = bench.map_udp(INSIDE, REMOTE), bench.map_udp(INSIDE, OTHER_PORT)
    assert first is not None
    assert second is not None
    assert bench.reaches(OTHER_IP, first) == INSIDE
    bench.now += 30
    assert bench.map_udp(INSIDE, OTHER_PORT) == second
    assert bench.reaches(OTHER_IP, second) == INSIDE
    bench.now += 30  # the first has ended
    assert bench.map_udp(INSIDE, OTHER_IP) == second


def test_being_called_opens_no_filter_until_answered() -> None:
    spec = NatSpec(filtering="address-dependent", udp_timeout_s=60)
    bench = NatBench(spec)
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    assert bench.reaches(OTHER_PORT, external) == INSIDE
    bench.now += 50
    assert bench.map_udp(INSIDE, OTHER_IP) == external
    bench.now += 20  # REMOTE's address has been sent to 70 s ago; OTHER_PORT was never answered
    assert bench.reaches(OTHER_PORT, external) is None
    assert bench.map_udp(INSIDE, OTHER_PORT) == external
    assert bench.reaches(REMOTE, external) == INSIDE


def test_ports_wrap_and_step_in_sequence() -> None:
    bench = NatBench(NatSpec(port="sequential", port_low=100, port_high=109, port_step=4))
    seen = []
    for port in range(1, 6):
        mapped = bench.map_udp(("10.0.0.2", port), REMOTE)
        assert mapped is not None
        seen.append(mapped[1])
    assert seen == [100, 104, 108, 102, 106]


@pytest.mark.parametrize("port", PORTS)
def test_ports_run_out_and_come_back(port: PortAllocation) -> None:
    spec = NatSpec(port=port, port_low=100, port_high=109, udp_timeout_s=60)
    bench = NatBench(spec)
    inside = [("10.0.0.2", 100 + number) for number in range(11)]
    mapped = [bench.map_udp(endpoint, REMOTE) for endpoint in inside]
    if port == "preserving":
        # The port of the last lies outside of the range and is its own.
        assert mapped == [(NAT_IP, 100 + number) for number in range(11)]
        assert bench.map_udp(("10.0.0.3", 100), REMOTE) is None
    else:
        assert sorted(value[1] for value in mapped if value) == list(range(100, 110))
        assert mapped[-1] is None
    assert bench.drops() == {"port-exhausted": 1}
    bench.now += 60
    assert bench.map_udp(inside[-1], REMOTE) is not None


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("overload", [False, True])
def test_looking_for_a_port_is_bounded(port: PortAllocation, overload: bool) -> None:
    spec = NatSpec(
        "address-and-port-dependent", port=port, overload=overload, port_low=1, port_step=3
    )
    allocator = PortAllocator(spec, random.Random(1))
    taken: set[int] = set()
    asked = asked_most = 0

    def is_free(candidate: int) -> bool:
        nonlocal asked
        asked += 1
        return candidate not in taken

    for number in range(1, 65536):
        chosen = allocator.allocate(number, is_free)
        assert chosen is not None
        assert chosen not in taken
        taken.add(chosen)
        asked, asked_most = 0, max(asked, asked_most)
    assert asked_most <= RANDOM_TRIES + MOST_TRIES + 1
    assert allocator.allocate(7, is_free) is None
    assert asked <= RANDOM_TRIES + MOST_TRIES + 1
    taken.remove(40000)
    allocator.release(40000)
    assert allocator.allocate(39999, is_free) == 40000


def test_a_host_may_have_so_many_ports() -> None:
    bench = NatBench(NatSpec(ports_per_host=2, udp_timeout_s=60))
    for port in (1, 2):
        assert bench.map_udp(("10.0.0.2", port), REMOTE) is not None
    assert bench.map_udp(("10.0.0.2", 3), REMOTE) is None
    assert bench.map_udp(("10.0.0.2", 1), OTHER_IP) is not None  # the same mapping
    assert bench.map_udp(("10.0.0.3", 3), REMOTE) is not None
    assert bench.drops() == {"host-limit": 1}
    bench.now += 60
    assert bench.map_udp(("10.0.0.2", 3), REMOTE) is not None


def test_state_is_bounded() -> None:
    bench = NatBench(NatSpec(filtering="endpoint-independent", max_sessions=3))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    assert bench.reaches(OTHER_IP, external) == INSIDE
    assert bench.map_udp(OTHER_INSIDE, REMOTE) is not None
    assert bench.map_udp(OTHER_INSIDE, OTHER_IP) is None
    assert bench.reaches(OTHER_PORT, external) is None
    assert bench.drops() == {"session-limit": 2}


def test_overload_shares_a_port_among_remotes() -> None:
    bench = NatBench(NAMES["linux-masquerade"])
    assert bench.map_udp(INSIDE, REMOTE) == (NAT_IP, 5000)
    assert bench.map_udp(OTHER_INSIDE, OTHER_IP) == (NAT_IP, 5000)
    clash = bench.map_udp(OTHER_INSIDE, REMOTE)
    assert clash == (NAT_IP, 5001)
    assert bench.reaches(REMOTE, (NAT_IP, 5000)) == INSIDE
    assert bench.reaches(OTHER_IP, (NAT_IP, 5000)) == OTHER_INSIDE
    assert bench.reaches(REMOTE, (NAT_IP, 5001)) == OTHER_INSIDE
    assert bench.reaches(OTHER_PORT, (NAT_IP, 5000)) is None


def test_hosts_are_paired_with_external_addresses() -> None:
    bench = NatBench(externals=("203.0.113.1", "203.0.113.2"))
    seen: dict[str, set[str]] = {}
    for host, port in itertools.product(("10.0.0.2", "10.0.0.3", "10.0.0.4"), (1, 2, 3)):
        mapped = bench.map_udp((host, port), REMOTE)
        assert mapped is not None
        seen.setdefault(host, set()).add(mapped[0])
    assert [len(addresses) for addresses in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 2


# --- hairpin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtering", BEHAVIOURS)
@pytest.mark.parametrize("mapping", BEHAVIOURS)
def test_hairpin(mapping: Behaviour, filtering: Behaviour) -> None:
    bench = NatBench(NatSpec(mapping, filtering, "random", hairpin=True))
    one, two = bench.map_udp(INSIDE, REMOTE), bench.map_udp(OTHER_INSIDE, REMOTE)
    assert one is not None
    assert two is not None
    there = bench.turned(udp(INSIDE, two))
    if filtering != "endpoint-independent":
        # The other one has sent nothing to us yet.
        assert there is None
        back = bench.turned(udp(OTHER_INSIDE, one))
        # It has now. Filters are those of a mapping, and what we sent had another mapping than
        # the one that is called, unless there is only one.
        passes = mapping == "endpoint-independent"
        assert (back is not None) == passes
        if not passes:
            return
        there = bench.turned(udp(INSIDE, two))
    assert there is not None
    source, destination = endpoints(there)
    assert destination == OTHER_INSIDE
    assert source[0] == NAT_IP  # RFC 4787 REQ-9a: the external endpoint
    if mapping == "endpoint-independent":
        assert source == one
    answer = bench.turned(udp(OTHER_INSIDE, source))
    assert answer is not None
    assert endpoints(answer)[1] == INSIDE


def test_a_refused_hairpin_is_not_answered_to_the_outside() -> None:
    bench = NatBench(NatSpec(hairpin=True, refuse_tcp="reset"))
    assert bench.turned(tcp(INSIDE, (NAT_IP, 80), SYN)) is None
    assert bench.table.replies == []


def test_without_hairpin() -> None:
    bench = NatBench(NAMES["restricted-cone"])
    external = bench.map_udp(OTHER_INSIDE, REMOTE)
    assert external is not None
    assert bench.turned(udp(INSIDE, external)) is None
    assert bench.drops() == {"hairpin-off": 1}


# --- timers ---------------------------------------------------------------------------------------


def test_a_udp_mapping_lives_just_as_long_as_specified() -> None:
    bench = NatBench(NatSpec(port="random", udp_timeout_s=30))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    bench.now += 29.999
    assert bench.reaches(REMOTE, external) == INSIDE
    bench.now += 0.001
    assert bench.reaches(REMOTE, external) is None
    assert bench.map_udp(INSIDE, REMOTE) != external


def test_outgoing_packets_refresh() -> None:
    bench = NatBench(NatSpec(port="random", udp_timeout_s=30))
    external = bench.map_udp(INSIDE, REMOTE)
    for _ in range(5):
        bench.now += 29
        assert bench.map_udp(INSIDE, REMOTE) == external


@pytest.mark.parametrize("refreshes", [False, True])
def test_incoming_packets_refresh_if_specified(refreshes: bool) -> None:
    bench = NatBench(NatSpec(udp_timeout_s=30, inbound_refresh=refreshes))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    bench.now += 20
    assert bench.reaches(REMOTE, external) == INSIDE
    bench.now += 20
    assert bench.reaches(REMOTE, external) == (INSIDE if refreshes else None)


def test_each_filter_has_a_timer_but_any_session_keeps_the_mapping() -> None:
    bench = NatBench(NatSpec(port="random", udp_timeout_s=30))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    bench.now += 20
    assert bench.map_udp(INSIDE, OTHER_IP) == external
    bench.now += 20
    assert bench.reaches(REMOTE, external) is None
    assert bench.reaches(OTHER_IP, external) == INSIDE
    assert bench.map_udp(INSIDE, REMOTE) == external


def test_a_caller_does_not_keep_the_mapping_it_came_by() -> None:
    bench = NatBench(NatSpec(filtering="endpoint-independent", udp_timeout_s=30))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    for _ in range(2):
        bench.now += 14
        assert bench.reaches(OTHER_IP, external) == INSIDE
    bench.now += 2
    assert bench.reaches(OTHER_IP, external) is None


def test_expire_frees_everything() -> None:
    bench = NatBench(NatSpec(filtering="endpoint-independent"))
    for port in range(1, 50):
        mapped = bench.map_udp(("10.0.0.2", port), REMOTE)
        assert mapped is not None
        assert bench.reaches(OTHER_IP, mapped) is not None
    assert len(bench.table.mappings()) == 49
    bench.now += 1000
    bench.table.expire()
    assert bench.table.mappings() == []
    flows = bench.table.flows
    assert not any(table for table in (*flows.incoming.values(), *flows.outgoing.values()))


# --- TCP ------------------------------------------------------------------------------------------


def test_tcp_timers_follow_the_state_of_the_connection() -> None:
    bench = NatBench(NatSpec(tcp_timeout_s=1000, tcp_transitory_s=10))
    # Opening: the short timer.
    assert bench.out(tcp(INSIDE, REMOTE, SYN)) is not None
    bench.now += 10
    assert bench.into(tcp(REMOTE, (NAT_IP, 5000), SYN | ACK)) is None
    # Open: the long one.
    external = open_tcp(bench)
    bench.now += 999
    assert bench.into(tcp(REMOTE, external, ACK, b"data")) is not None
    assert bench.out(tcp(INSIDE, REMOTE, ACK, b"data")) is not None
    # Half closed: still the long one.
    assert bench.out(tcp(INSIDE, REMOTE, FIN | ACK)) is not None
    bench.now += 999
    assert bench.into(tcp(REMOTE, external, ACK, b"data")) is not None
    # Closed: the short one again, from now on.
    assert bench.into(tcp(REMOTE, external, FIN | ACK)) is not None
    assert bench.out(tcp(INSIDE, REMOTE, ACK)) is not None
    bench.now += 9.9
    assert bench.into(tcp(REMOTE, external, ACK)) is not None
    bench.now += 0.1
    assert bench.into(tcp(REMOTE, external, ACK)) is None


@pytest.mark.parametrize("from_inside", [False, True])
def test_a_reset_that_was_forged_ends_nothing(from_inside: bool) -> None:
    # RFC 7857 section 2.2: others have the connection go on, and it does.
    bench = NatBench(NatSpec(tcp_timeout_s=1000, tcp_transitory_s=10))
    external = open_tcp(bench)
    assert bench.into(tcp(REMOTE, external, RST)) is not None
    if from_inside:
        assert bench.out(tcp(INSIDE, REMOTE, ACK, b"data")) is not None
    else:
        assert bench.into(tcp(REMOTE, external, ACK, b"data")) is not None
    bench.now += 999
    assert bench.into(tcp(REMOTE, external, ACK, b"data")) is not None
    bench.now += 1
    assert bench.into(tcp(REMOTE, external, ACK, b"data")) is None


def test_a_session_that_is_opened_again_and_again_takes_no_more_memory() -> None:
    bench = NatBench()
    for _ in range(300):
        open_tcp(bench)
        assert bench.out(tcp(INSIDE, REMOTE, RST)) is not None
        bench.now += 1
    assert len(bench.table.flows._expiry) < 10
    bench.now += 10_000
    bench.table.expire()
    assert bench.table.mappings() == []


@pytest.mark.parametrize("from_inside", [False, True])
def test_a_reset_ends_a_connection_and_a_syn_starts_it_again(from_inside: bool) -> None:
    bench = NatBench(NatSpec(tcp_timeout_s=1000, tcp_transitory_s=10))
    external = open_tcp(bench)
    if from_inside:
        assert bench.out(tcp(INSIDE, REMOTE, RST)) is not None
    else:
        assert bench.into(tcp(REMOTE, external, RST)) is not None
    assert open_tcp(bench) == external
    bench.now += 500
    assert bench.into(tcp(REMOTE, external, ACK)) is not None
    assert bench.out(tcp(INSIDE, REMOTE, RST)) is not None
    bench.now += 10
    assert bench.into(tcp(REMOTE, external, ACK)) is None


def test_simultaneous_open() -> None:
    # RFC 5382 REQ-2: both SYNs cross; each then is acknowledged.
    bench = NatBench(NatSpec(tcp_timeout_s=1000, tcp_transitory_s=10))
    syn = bench.out(tcp(INSIDE, REMOTE, SYN))
    assert syn is not None
    external = endpoints(syn)[0]
    assert bench.into(tcp(REMOTE, external, SYN)) is not None
    assert bench.out(tcp(INSIDE, REMOTE, SYN | ACK)) is not None
    assert bench.into(tcp(REMOTE, external, SYN | ACK)) is not None
    bench.now += 999
    assert bench.into(tcp(REMOTE, external, ACK)) is not None


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, 0])
def test_only_a_syn_opens(flags: int) -> None:
    bench = NatBench(NatSpec(filtering="endpoint-independent"))
    assert bench.out(tcp(INSIDE, REMOTE, flags)) is None
    external = open_tcp(bench)
    assert bench.into(tcp(OTHER_IP, external, flags)) is None
    assert bench.drops() == {"no-session": 2}
    assert bench.into(tcp(OTHER_IP, external, SYN)) is not None


def test_unsolicited_syns_are_refused_as_specified() -> None:
    syn = tcp(REMOTE, (NAT_IP, 80), SYN)
    bench = NatBench(NatSpec(refuse_tcp="drop"))
    assert bench.into(syn) is None
    assert bench.table.replies == []
    bench = NatBench(NatSpec(refuse_tcp="reset"))
    assert bench.into(syn) is None
    (reply,) = bench.table.replies
    assert endpoints(reply) == ((NAT_IP, 80), REMOTE)
    assert reply[33] == RST | ACK
    bench = NatBench(NatSpec(refuse_tcp="icmp"))
    assert bench.into(syn) is None
    (reply,) = bench.table.replies
    ip = read_header(reply)
    assert ip is not None
    assert (ip.protocol, reply[20:22]) == (ICMP, b"\x03\x03")
    assert reply[28:] == syn


# --- other kinds --------------------------------------------------------------------------------


def test_one_to_one() -> None:
    spec = NAMES["one-to-one"]
    bench = NatBench(spec, ("203.0.113.2", "203.0.113.3"), ("10.0.0.2", "10.0.0.3"))
    # Open without having sent anything.
    assert bench.reaches(REMOTE, ("203.0.113.3", 99)) == ("10.0.0.3", 99)
    assert bench.map_udp(("10.0.0.3", 99), REMOTE) == ("203.0.113.3", 99)
    assert bench.map_udp(INSIDE, REMOTE) == ("203.0.113.2", 5000)
    assert bench.map_udp(("10.0.0.9", 5000), REMOTE) is None
    assert bench.reaches(REMOTE, ("203.0.113.9", 99)) is None
    assert bench.drops() == {"no-address": 1, "no-mapping": 1}
    hairpin = bench.turned(udp(INSIDE, ("203.0.113.3", 7)))
    assert hairpin is not None
    assert endpoints(hairpin) == (("203.0.113.2", 5000), ("10.0.0.3", 7))
    bench.now += 1000
    bench.table.expire()
    assert bench.table.mappings() == []
    assert bench.reaches(REMOTE, ("203.0.113.3", 99)) == ("10.0.0.3", 99)


def test_one_to_one_behind_a_filter() -> None:
    spec = replace(NAMES["one-to-one"], filtering="address-and-port-dependent")
    bench = NatBench(spec, internals=("10.0.0.2",))
    assert bench.reaches(REMOTE, (NAT_IP, 5000)) is None
    assert bench.map_udp(INSIDE, REMOTE) == (NAT_IP, 5000)
    assert bench.reaches(REMOTE, (NAT_IP, 5000)) == INSIDE
    assert bench.reaches(OTHER_PORT, (NAT_IP, 5000)) is None


@pytest.mark.parametrize("filtering", BEHAVIOURS[1:])
def test_firewall_filters_and_translates_nothing(filtering: Behaviour) -> None:
    bench = NatBench(NatSpec(filtering=filtering, translate="none"))
    assert bench.reaches(REMOTE, INSIDE) is None
    assert bench.map_udp(INSIDE, REMOTE) == INSIDE
    admitted = [bench.reaches(remote, INSIDE) for remote in (REMOTE, OTHER_PORT, OTHER_IP)]
    count = len(BEHAVIOURS) - BEHAVIOURS.index(filtering)
    assert admitted == [INSIDE] * count + [None] * (3 - count)


def test_an_open_firewall_lets_everything_in_at_any_time() -> None:
    spec = NatSpec(filtering="endpoint-independent", translate="none", udp_timeout_s=30)
    bench = NatBench(spec)
    assert spec.is_open
    for _ in range(2):
        assert bench.reaches(REMOTE, INSIDE) == INSIDE
        assert bench.into(tcp(OTHER_IP, INSIDE, SYN)) is not None
        assert bench.map_udp(INSIDE, OTHER_PORT) == INSIDE
        bench.now += 1000
    # It still is a firewall with a state, and no connection begins in the middle.
    assert bench.into(tcp(OTHER_IP, INSIDE, ACK)) is None
    bench.table.expire()
    assert bench.table.mappings() == []
    bench = NatBench(replace(spec, blocked="udp"))
    assert bench.reaches(REMOTE, INSIDE) is None


@pytest.mark.parametrize(
    ("blocked", "passing"),
    [
        ("nothing", {"udp", "tcp-80", "tcp-443", "tcp-22", "echo"}),
        ("udp", {"tcp-80", "tcp-443", "tcp-22", "echo"}),
        ("tcp", {"udp", "echo"}),
        ("all-but-web", {"tcp-80", "tcp-443"}),
        ("all-but-tcp-443", {"tcp-443"}),
    ],
)
def test_blocking(blocked: str, passing: set[str]) -> None:
    bench = NatBench(NatSpec(blocked=blocked))  # type: ignore[arg-type]
    inside, remote = packed(INSIDE[0]), packed(REMOTE[0])
    packets = {
        "udp": udp(INSIDE, REMOTE),
        "echo": echo_packet(inside, remote, 9),
        **{f"tcp-{port}": tcp_packet(inside, 5000, remote, port, SYN) for port in (22, 80, 443)},
    }
    assert {name for name, packet in packets.items() if bench.out(packet)} == passing
    assert bench.drops() == ({"blocked": 5 - len(passing)} if len(passing) < 5 else {})


def test_blocking_holds_for_what_comes_in() -> None:
    spec = replace(NAMES["one-to-one"], blocked="udp")
    bench = NatBench(spec, internals=("10.0.0.2",))
    assert bench.reaches(REMOTE, (NAT_IP, 5000)) is None
    assert bench.into(tcp(REMOTE, (NAT_IP, 5000), SYN)) is not None


# --- control --------------------------------------------------------------------------------------


def test_flush_loses_all_mappings() -> None:
    bench = NatBench(NatSpec(port="sequential"))
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    bench.table.flush()
    assert bench.reaches(REMOTE, external) is None
    assert bench.out(tcp(INSIDE, REMOTE, ACK)) is None
    assert bench.table.mappings() == []
    assert bench.map_udp(OTHER_INSIDE, REMOTE) == external  # allocation starts anew, too


def test_another_external_address() -> None:
    bench = NatBench()
    external = bench.map_udp(INSIDE, REMOTE)
    assert external is not None
    bench.table.set_externals(["203.0.113.77"])
    assert bench.reaches(REMOTE, external) is None
    assert bench.map_udp(INSIDE, REMOTE) == ("203.0.113.77", 5000)


def test_mappings_can_be_looked_at() -> None:
    bench = NatBench(NatSpec(udp_timeout_s=30))
    assert bench.map_udp(INSIDE, REMOTE) is not None
    bench.now += 10
    (view,) = bench.table.mappings()
    assert (view.protocol, view.internal, view.external) == (UDP, INSIDE, (NAT_IP, 5000))
    assert view.remotes == (REMOTE,)
    assert view.expires_in_s == 20


@pytest.mark.parametrize(
    ("spec", "externals", "internals"),
    [
        (NatSpec(), (), ()),
        (NatSpec(), ("2001:db8::1",), ()),
        (NatSpec(), ("here",), ()),
        (NAMES["one-to-one"], (NAT_IP,), ()),
        (NAMES["one-to-one"], (NAT_IP,), ("10.0.0.300",)),
    ],
)
def test_addresses_that_do_not_fit(
    spec: NatSpec, externals: tuple[str, ...], internals: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError):
        NatBench(spec, externals, internals)


def test_a_firewall_has_no_addresses() -> None:
    bench = NatBench(NAMES["firewall"])
    with pytest.raises(SpecError, match="a firewall has no address"):
        bench.table.set_externals([NAT_IP])
    with pytest.raises(SpecError, match="external: a NAT needs"):
        NatBench(NAMES["one-to-one"], internals=(INSIDE[0],)).table.set_externals([])


def test_what_is_no_tcp_udp_or_icmp_is_dropped() -> None:
    bench = NatBench()
    gre = ip_packet(packed("10.0.0.2"), packed("198.51.100.1"), 47, bytes(40))
    assert bench.out(gre) is None
    assert bench.into(gre) is None
    assert bench.drops() == {"protocol": 2}
