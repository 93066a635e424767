"""netlab's pure cores for any input: the NAT against a model of RFC 4787, links, trains, STUN."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from tests.support.packets.nat_bench import NAT_IP, Endpoint, NatBench, endpoints, udp
from tests.support.packets.nat_packets import checksum_errors, udp_packet
from tools.netlab.packets import stun
from tools.netlab.packets.codec import (
    ACK,
    MORE_FRAGMENTS,
    SYN,
    UDP,
    adjusted,
    checksum,
    ip_packet,
    packed,
    read_header,
    tcp_packet,
)
from tools.netlab.packets.nat_table import DROP
from tools.netlab.packets.trains import split, wire_bytes
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.nat import NAMES, Behaviour, NatSpec, PortAllocation
from tools.netlab.wire.shaper import NEVER, Shaper

behaviours = st.sampled_from(get_args(Behaviour))
ports = st.sampled_from(get_args(PortAllocation))
nat_specs = st.builds(
    NatSpec, mapping=behaviours, filtering=behaviours, port=ports, hairpin=st.booleans()
)
insides = st.tuples(st.sampled_from(["10.0.0.2", "10.0.0.3"]), st.integers(1, 3))
remotes = st.tuples(st.sampled_from(["198.51.100.1", "198.51.100.2"]), st.integers(1, 3))
protocols = st.sampled_from(["udp", "tcp"])


def packet(protocol: str, source: Endpoint, destination: Endpoint, data: bytes) -> bytes:
    if protocol == "udp":
        return udp(source, destination, data)
    a, b = packed(source[0]), packed(destination[0])
    return tcp_packet(a, source[1], b, destination[1], SYN, data)


# --- the NAT --------------------------------------------------------------------------------------


@given(nat_specs, st.lists(st.tuples(protocols, insides, remotes), max_size=30), st.randoms())
def test_a_reply_comes_back_exactly(
    spec: NatSpec, sends: list[tuple[str, Endpoint, Endpoint]], rng: random.Random
) -> None:
    bench = NatBench(spec, seed=rng.randrange(1000))
    replies = []
    for protocol, inside, remote in sends:
        data = rng.randbytes(rng.randrange(20))
        out = bench.out(packet(protocol, inside, remote, data))
        assert out is not None
        external, destination = endpoints(out)
        assert (external[0], destination) == (NAT_IP, remote)
        assert out.endswith(data)
        replies.append((protocol, inside, remote, external, data))
    rng.shuffle(replies)
    for protocol, inside, remote, external, data in replies:
        back = bench.into(packet(protocol, remote, external, data))
        assert back is not None
        assert endpoints(back) == (remote, inside)
        assert back.endswith(data)


@given(
    nat_specs,
    protocols,
    st.lists(
        st.one_of(
            st.tuples(st.just("out"), insides, remotes),
            st.tuples(st.just("in"), st.integers(0, 9), remotes),
            st.tuples(st.just("wait"), st.integers(1, 40), remotes),
        ),
        max_size=40,
    ),
)
def test_nothing_passes_that_the_filter_forbids(
    spec: NatSpec, protocol: str, steps: list[tuple[str, object, Endpoint]]
) -> None:
    """The model: who sent what, when, from which mapping. Nothing refreshes but what is sent."""
    timeouts = {"udp_timeout_s": 30, "tcp_transitory_s": 30, "tcp_timeout_s": 30}
    bench = NatBench(replace(spec, **timeouts))  # type: ignore[arg-type]
    sent: dict[tuple[Endpoint, Endpoint, Endpoint], float] = {}  # inside, external, remote: when
    known: list[Endpoint] = []
    for kind, subject, remote in steps:
        live = {key for key, when in sent.items() if bench.now < when + 30}
        if kind == "wait":
            assert isinstance(subject, int)
            bench.now += subject
        elif kind == "out":
            inside = subject
            assert isinstance(inside, tuple)
            out = bench.out(packet(protocol, inside, remote, b""))
            assert out is not None
            external = endpoints(out)[0]
            # The mapping is the one that RFC 4787 section 4.1 says, if there is one.
            scope = {"endpoint-independent": 0, "address-dependent": 1}.get(spec.mapping, 2)
            same = {e for i, e, r in live if i == inside and r[:scope] == remote[:scope]}
            called = {e for i, e, _ in live if i == inside}
            if scope == 0:
                assert not same or same == {external}
            else:
                # Or it answers a caller who came in by another mapping.
                assert not same or external in called
            # And nobody else has it.
            assert all(i == inside for i, e, _ in live if e == external)
            sent[inside, external, remote] = bench.now
            known.append(external)
        elif known:
            assert isinstance(subject, int)
            external = known[subject % len(known)]
            depth = {"endpoint-independent": 0, "address-dependent": 1}.get(spec.filtering, 2)
            owners = {i for i, e, r in live if e == external and r[:depth] == remote[:depth]}
            came = bench.into(packet(protocol, remote, external, b""))
            assert (endpoints(came)[1] if came else None) == (owners.pop() if owners else None)


@given(st.sampled_from(sorted(NAMES)), st.binary(max_size=120), st.booleans(), st.booleans())
def test_noise_neither_passes_nor_crashes(
    name: str, noise: bytes, outbound: bool, partial: bool
) -> None:
    bench = NatBench(NAMES[name], internals=("10.0.0.2",))
    buffer = bytearray(noise)
    verdict = (bench.table.outbound if outbound else bench.table.inbound)(buffer, partial)
    if verdict != DROP:
        # It was a packet by chance, and one that may pass.
        ip = read_header(noise)
        assert ip is not None
        assert outbound or NAMES[name].is_open
    elif not bench.table._held:
        assert sum(bench.drops().values()) == 1
    assert len(buffer) == len(noise)


@given(
    st.sampled_from(sorted(NAMES)),
    protocols,
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(20, 60),
    st.booleans(),
)
def test_damaged_packets_do_not_crash_the_nat(
    name: str, protocol: str, changes: list[tuple[int, int]], size: int, known: bool
) -> None:
    bench = NatBench(NAMES[name], internals=("10.0.0.2",))
    good = packet(protocol, ("10.0.0.2", 5), ("198.51.100.1", 443), bytes(20))
    if known:
        bench.out(good)
    damaged = bytearray(good[:size])
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    for process in (bench.table.outbound, bench.table.inbound):
        result = bytearray(damaged)
        before, after = read_header(damaged), None
        if process(result) != DROP:
            after = read_header(result)
            assert after is not None
            assert before is not None
            assert after.length == before.length
            # It may have been wrong before, but a checksum is not made right or wrong here.
            assert ("ip" in checksum_errors(result)) == ("ip" in checksum_errors(damaged))


@given(nat_specs, st.permutations([(ident, part) for ident in (1, 2) for part in range(3)]))
def test_fragments_in_any_order_make_the_datagrams_that_were_sent(
    spec: NatSpec, order: list[tuple[int, int]]
) -> None:
    inside, remote = ("10.0.0.2", 1), ("198.51.100.1", 2)
    bench = NatBench(spec)
    external = bench.map_udp(inside, remote)
    assert external is not None
    wholes = {ident: udp(remote, external, bytes((ident,)) * 40) for ident in (1, 2)}
    came: dict[int, dict[int, bytes]] = {1: {}, 2: {}}
    for ident, part in order:
        body = wholes[ident][20:][part * 16 : part * 16 + 16]
        fragment = part * 2 | (MORE_FRAGMENTS if part < 2 else 0)
        a, b = packed(remote[0]), packed(external[0])
        passed = bench.into(ip_packet(a, b, UDP, body, ident=ident, fragment=fragment))
        released, bench.table.released = bench.table.released, []
        assert all(to_inside for to_inside, _ in released)
        for packet_ in [packet_ for _, packet_ in released] + ([passed] if passed else []):
            ip = read_header(packet_)
            assert ip is not None
            came[ip.ident[-1]][ip.fragment & 7] = bytes(packet_[20:])
    for ident, parts in came.items():
        assert sorted(parts) == [0, 2, 4]
        body = parts[0] + parts[2] + parts[4]
        whole = ip_packet(packed(remote[0]), packed(inside[0]), UDP, body)
        assert whole[20:] == body  # its checksum was right
        assert body[8:] == bytes((ident,)) * 40
    assert bench.drops() == {}


@given(nat_specs, st.randoms())
def test_established_tcp_passes_both_ways(spec: NatSpec, rng: random.Random) -> None:
    bench = NatBench(spec, seed=rng.randrange(1000))
    inside, remote = ("10.0.0.2", 1), ("198.51.100.1", 2)
    a, b = packed(inside[0]), packed(remote[0])
    syn = bench.out(tcp_packet(a, 1, b, 2, SYN))
    assert syn is not None
    external = endpoints(syn)[0]
    nat = packed(external[0])
    assert bench.into(tcp_packet(b, 2, nat, external[1], SYN | ACK)) is not None
    last_sent = bench.now
    for _ in range(10):
        bench.now += rng.uniform(0, spec.tcp_timeout_s / 2)
        is_alive = bench.now < last_sent + spec.tcp_timeout_s
        if rng.random() < 0.5:
            sent = bench.out(tcp_packet(a, 1, b, 2, ACK, rng.randbytes(9)))
            assert (sent is not None) == is_alive
            last_sent = bench.now
        else:
            came = bench.into(tcp_packet(b, 2, nat, external[1], ACK, rng.randbytes(9)))
            assert (came is not None) == is_alive
        if not is_alive:
            return


@given(st.binary(min_size=1, max_size=60), st.integers(0, 58), st.binary(min_size=2, max_size=2))
def test_adjusted_checksums_are_the_full_ones(data: bytes, at: int, word: bytes) -> None:
    data = b"\1" + data + bytes(len(data) % 2 + 1)  # no packet is all zeros
    data += bytes(len(data) % 2)
    at = 2 + at // 2 * 2 % max(2, len(data) - 2)
    old = data[at : at + 2]
    if len(old) < 2:
        return
    changed = data[:at] + word + data[at + 2 :]
    delta = int.from_bytes(word) - int.from_bytes(old)
    assert adjusted(checksum(data), delta) == checksum(changed)


# --- links ----------------------------------------------------------------------------------------

chances = st.sampled_from([0.0, 0.1, 0.5])


@st.composite
def link_specs(draw: st.DrawFn) -> LinkSpec:
    delay = draw(st.sampled_from([0.0, 0.01, 0.3]))
    return LinkSpec(
        delay_s=delay,
        jitter_s=draw(st.sampled_from([0.0, delay / 2, delay])),
        jitter_shape=draw(st.sampled_from(["uniform", "normal"])),
        jitter_reorders=draw(st.booleans()),
        loss=draw(chances),
        burst=draw(st.sampled_from([None, BurstLoss(0.1, 0.5)])),
        reorder=draw(chances) if delay else 0.0,
        duplicate=draw(chances),
        rate_bps=draw(st.sampled_from([None, 8e4, 8e6])),
    )


# (seconds since the previous one, bytes)
offers = st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.05]), st.integers(1, 2000)), max_size=60)


def run_link(
    spec: LinkSpec, packets: list[tuple[float, int]], look_every: float | None
) -> tuple[Shaper[int], list[int], dict[int, list[float]]]:
    """Offer packets; look at the link when it says (None) or now and then. What came out, in
    order, and (only with None) when."""
    shaper: Shaper[int] = Shaper(spec, random.Random(7))
    out: list[int] = []
    times: dict[int, list[float]] = {}

    def take(now: float) -> None:
        for number in shaper.dequeue(now):
            out.append(number)
            times.setdefault(number, []).append(now)

    now, look = 0.0, 0.0
    for number, (pause, size) in enumerate(packets):
        now += pause
        if look_every is None:
            while shaper.next_due() <= now:
                take(shaper.next_due())
        elif now >= look:
            look = now + look_every
            take(now)
        shaper.enqueue(now, number, size)
    while (due := shaper.next_due()) != NEVER:
        take(due)
    return shaper, out, times


@given(link_specs(), offers)
def test_links_lose_and_make_nothing_unaccounted(
    spec: LinkSpec, packets: list[tuple[float, int]]
) -> None:
    shaper, out, times = run_link(spec, packets, None)
    stats = shaper.stats
    assert stats.offered == len(packets)
    assert stats.delivered == len(out)
    assert stats.offered + stats.duplicated == stats.delivered + stats.lost + stats.overflowed
    assert stats.delivered_bytes == sum(packets[number][1] for number in out)
    assert shaper.queued_bytes == 0
    if not spec.duplicate:
        assert len(set(out)) == len(out)
    if not (spec.reorder or spec.jitter_reorders):
        assert out == sorted(out)
    offered_at = 0.0
    for number, (pause, size) in enumerate(packets):
        offered_at += pause
        for arrived in times.get(number, []):
            transmission = 0.0 if spec.rate_bps is None else size * 8 / spec.rate_bps
            least = 0.0
            if not spec.reorder and not spec.jitter_s:
                least = spec.delay_s
            assert arrived >= offered_at + transmission + least - 1e-9


@given(link_specs(), offers, st.sampled_from([0.0, 0.01, 1.0]))
def test_looking_seldom_changes_nothing(
    spec: LinkSpec, packets: list[tuple[float, int]], look_every: float
) -> None:
    exact, out, _ = run_link(spec, packets, None)
    lazy, lazy_out, _ = run_link(spec, packets, look_every)
    assert lazy.stats == exact.stats
    assert lazy_out == out


@given(st.sampled_from([8e4, 8e6]), offers)
def test_no_more_than_the_rate_comes_out(rate: float, packets: list[tuple[float, int]]) -> None:
    _, out, times = run_link(LinkSpec(rate_bps=rate), packets, None)
    events = sorted((arrived, packets[number][1]) for number in out for arrived in times[number])
    for start in range(len(events)):
        # The packet that ends at `start` was sent before; those after it took their time.
        size = sum(size for _, size in events[start + 1 :])
        assert events[-1][0] - events[start][0] >= size * 8 / rate - 1e-9


# --- trains and STUN ------------------------------------------------------------------------------


@given(st.binary(min_size=2, max_size=4000), st.integers(1, 1500), st.integers(1, 5000))
def test_a_split_train_has_the_same_bytes(data: bytes, payload: int, train_bytes: int) -> None:
    packet_ = udp_packet(packed("10.0.0.1"), 1, packed("10.0.0.2"), 2, data)
    frame = bytes((1, 5, 0, 0)) + payload.to_bytes(2, "little") + bytes((20, 0, 6, 0)) + packet_
    parts = split(frame, train_bytes)
    assert b"".join(bytes(part[38:]) for part, _ in parts) == data
    assert sum(size for _, size in parts) == wire_bytes(frame)
    for part, size in parts:
        assert not checksum(part[10:30])
        assert int.from_bytes(part[12:14]) == len(part) - 10
        assert wire_bytes(part) == size
        # What is longer than a train is a single packet.
        assert size <= train_bytes or len(part) - 38 <= payload


@given(st.binary(max_size=100))
def test_stun_noise(data: bytes) -> None:
    for candidate in (data, bytes.fromhex("000100502112a442") + data):
        with pytest.raises(RemoteProtocolError):
            stun.decode(candidate)


@given(st.binary(max_size=64))
def test_stun_bodies(body: bytes) -> None:
    body += bytes(-len(body) % 4)
    head = b"\1\1" + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + bytes(12)
    try:
        message = stun.decode(head + body)
    except RemoteProtocolError:
        return
    assert stun.decode(stun.encode(message)) == message
