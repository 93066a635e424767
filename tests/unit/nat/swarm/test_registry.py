"""Which of several connections to a peer counts, and which go when there are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import Limits
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.registry import SIMULTANEOUS, Registry

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
PEERS = sorted((Identity.generate().peer_id for _ in range(3)), key=PeerId.to_bytes)
SMALL, MIDDLE, LARGE = PEERS
TCP = Multiaddr("/ip4/8.8.8.8/tcp/4001")
QUIC = Multiaddr("/ip4/8.8.8.8/udp/4001/quic-v1/noise")
LAN_TCP = Multiaddr("/ip4/192.168.1.2/tcp/4001")
LAN_QUIC = Multiaddr("/ip4/192.168.1.2/udp/4001/quic-v1/noise")


@dataclass(eq=False)
class Conn:
    """What the registry looks at."""

    peer_id: PeerId
    direction: Direction = IN
    established_at: float = 0.0
    stream_count: int = 0
    last_stream_at: float = 0.0
    retired_at: float | None = None
    remote_addr: Multiaddr = TCP
    is_relayed: bool = False
    closed_reason: str | None = None
    name: str = ""


def registry(local: PeerId = MIDDLE, **limits: Any) -> Any:
    return Registry(local, Limits(**limits))


# --- one peer ---


def test_the_first_comes_and_the_last_goes():
    reg = registry()
    a, b = Conn(SMALL, IN), Conn(SMALL, IN, established_at=100)
    assert reg.best(SMALL) is None
    assert reg.add(a)
    assert not reg.add(b)
    assert (reg.total, list(reg)) == (2, [b, a])
    assert not reg.remove(a)
    assert not reg.remove(a)
    assert reg.remove(b)
    assert not reg.remove(b)
    assert (reg.total, reg.by_peer, reg.best(SMALL)) == (0, {}, None)


@pytest.mark.parametrize(
    ("peer", "kept"), [(SMALL, IN), (LARGE, OUT)], ids=["peer is smaller", "we are smaller"]
)
@pytest.mark.parametrize("order", [(IN, OUT), (OUT, IN)])
def test_of_two_dials_at_once_that_of_the_smaller_peer_is_kept(peer, kept, order):
    reg = registry()
    connections = [Conn(peer, direction, established_at=i) for i, direction in enumerate(order)]
    for connection in connections:
        reg.add(connection)
    assert reg.best(peer).direction is kept
    assert [c.retired_at is not None for c in connections] == [
        c.direction is not kept for c in connections
    ]
    assert next(iter(reg)) is reg.best(peer)


@pytest.mark.parametrize("order", [(IN, OUT), (OUT, IN)])
@pytest.mark.parametrize("peer", [SMALL, LARGE])
def test_much_later_the_newer_one_is_preferred(peer, order):
    reg = registry()
    old = Conn(peer, order[0])
    new = Conn(peer, order[1], established_at=SIMULTANEOUS)
    reg.add(old)
    reg.add(new)
    assert reg.best(peer) is new
    assert old.retired_at == SIMULTANEOUS


def test_a_second_dial_of_one_side_supersedes_its_first():
    reg = registry()
    first, second = Conn(LARGE, OUT), Conn(LARGE, OUT, established_at=0.1)
    reg.add(first)
    reg.add(second)
    assert reg.best(LARGE) is second
    assert (first.retired_at, second.retired_at) == (0.1, None)


@given(
    st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.lists(st.floats(0, SIMULTANEOUS / 2), min_size=12, max_size=12),
)
def test_both_sides_prefer_the_same_connection(dialers, random, delays):
    """`dialers` says who dialed which connection. Each side dials one after the other, but
    the ends of one side's dials and of the other's mix differently on the two sides."""
    dials = {peer: [i for i, d in enumerate(dialers) if d is peer] for peer in (SMALL, LARGE)}
    chosen = {}
    for local, remote in ((SMALL, LARGE), (LARGE, SMALL)):
        reg = registry(local)
        queues = [list(queue) for queue in dials.values() if queue]
        clock = 0.0
        while queues:
            queue = random.choice(queues)
            number = queue.pop(0)
            queues = [q for q in queues if q]
            clock += delays[number] / len(dialers)
            direction = OUT if dialers[number] is local else IN
            reg.add(Conn(remote, direction, established_at=clock, name=str(number)))
        alive = [c for c in reg if c.retired_at is None]
        assert alive == [reg.best(remote)]
        chosen[local] = alive[0].name
    assert chosen[SMALL] == chosen[LARGE]


def test_a_dead_connection_is_not_offered():
    reg = registry()
    first, second = Conn(SMALL, IN), Conn(SMALL, IN, established_at=1)
    reg.add(first)
    reg.add(second)
    second.closed_reason = "closed by the peer"
    assert reg.best(SMALL) is first
    reg.remove(second)
    assert reg.best(SMALL) is first
    first.closed_reason = "closed by the peer"
    assert reg.best(SMALL) is None


def test_a_dead_connection_is_not_preferred_to_a_new_one():
    reg = registry()
    dead, new = Conn(SMALL, IN), Conn(SMALL, OUT)
    reg.add(dead)
    dead.closed_reason = "closed by the peer"
    reg.add(new)
    assert reg.best(SMALL) is new


def test_a_retired_connection_serves_again_when_it_is_the_only_one_left():
    reg = registry()
    kept, other = Conn(SMALL, IN), Conn(SMALL, OUT)
    reg.add(kept)
    reg.add(other)
    assert other.retired_at is not None
    reg.remove(kept)
    assert reg.best(SMALL) is other
    assert other.retired_at is None


def test_removing_a_retired_one_changes_nothing_for_the_other():
    reg = registry()
    kept, other = Conn(SMALL, IN), Conn(SMALL, OUT)
    reg.add(kept)
    reg.add(other)
    assert not reg.remove(other)
    assert reg.best(SMALL) is kept


def test_a_retired_connection_goes_when_it_has_been_idle():
    reg = registry()
    reg.add(Conn(SMALL, IN, established_at=10))
    other = Conn(SMALL, OUT, established_at=11, last_stream_at=12, stream_count=1)
    reg.add(other)
    assert reg.to_retire(100, idle=2) == []
    other.stream_count = 0
    assert reg.to_retire(13.9, idle=2) == []
    assert reg.to_retire(14, idle=2) == [other]


def test_a_retired_connection_has_time_though_it_was_idle_before():
    reg = registry()
    old = Conn(SMALL, OUT)
    reg.add(old)
    reg.add(Conn(SMALL, IN, established_at=100))
    assert reg.to_retire(101.9, idle=2) == []
    assert reg.to_retire(102, idle=2) == [old]


# --- better and worse paths ---


@pytest.mark.parametrize("direct_first", [True, False])
@pytest.mark.parametrize("later", [0.1, 1000.0])
def test_a_direct_connection_is_preferred_to_a_relayed_one(direct_first, later):
    reg = registry()
    direct, relayed = Conn(SMALL, OUT), Conn(SMALL, IN, is_relayed=True)
    first, second = (direct, relayed) if direct_first else (relayed, direct)
    second.established_at = later
    reg.add(first)
    reg.add(second)
    assert reg.best(SMALL) is direct
    assert relayed.retired_at is not None
    reg.remove(direct)
    assert reg.best(SMALL) is relayed


def test_without_the_best_a_direct_one_serves_again_before_a_relayed_one():
    reg = registry()
    old = Conn(SMALL, OUT)
    relayed = Conn(SMALL, OUT, is_relayed=True, established_at=10)
    new = Conn(SMALL, OUT, established_at=20)
    for connection in (old, relayed, new):
        reg.add(connection)
    reg.remove(new)
    assert reg.best(SMALL) is old


@pytest.mark.parametrize(("worse", "better"), [(TCP, QUIC), (LAN_QUIC, LAN_TCP)])
@pytest.mark.parametrize("better_first", [True, False])
@pytest.mark.parametrize("directions", [(OUT, OUT), (IN, OUT), (OUT, IN)])
def test_of_two_found_at_once_both_sides_keep_the_better_way(
    worse, better, better_first, directions
):
    reg = registry()
    addrs = (better, worse) if better_first else (worse, better)
    for at, (addr, direction) in enumerate(zip(addrs, directions, strict=True)):
        reg.add(Conn(LARGE, direction, established_at=at, remote_addr=addr))
    assert reg.best(LARGE).remote_addr == better


def test_later_the_newer_way_is_preferred_though_it_is_worse():
    reg = registry()
    reg.add(Conn(LARGE, OUT, remote_addr=QUIC))
    reg.add(Conn(LARGE, OUT, established_at=SIMULTANEOUS, remote_addr=TCP))
    assert reg.best(LARGE).remote_addr == TCP


# --- too many ---


def test_trimming_starts_over_the_limit_and_stops_at_the_watermark():
    reg = registry(max_connections=10, low_watermark=0.8, trim_grace=0)
    connections = [Conn(Identity.generate().peer_id, last_stream_at=i) for i in range(10)]
    for connection in reversed(connections):
        reg.add(connection)
    assert reg.to_trim(1000) == []
    assert reg.to_trim(1000, adding=1) == connections[:2]
    reg.add(Conn(SMALL, last_stream_at=99))
    assert reg.to_trim(1000) == connections[:3]


def test_a_watermark_at_the_limit_still_makes_room_for_one():
    reg = registry(max_connections=2, low_watermark=1, trim_grace=0)
    old, new = Conn(SMALL), Conn(LARGE, last_stream_at=1)
    reg.add(old)
    reg.add(new)
    assert reg.to_trim(10) == []
    assert reg.to_trim(10, adding=1) == [old]


def test_order_of_trimming():
    reg = registry(max_connections=1, low_watermark=0.1, trim_grace=0)
    peers = {name: Identity.generate().peer_id for name in ("busy", "valued", "recent", "idle")}
    busy, valued, recent, idle = (Conn(peers[name], name=name) for name in peers)
    busy.stream_count = 3
    valued.last_stream_at = 1
    recent.last_stream_at = 2
    reg.tags.tag(valued.peer_id, "relay", 10)
    for connection in (busy, valued, recent, idle):
        reg.add(connection)
    assert [c.name for c in reg.to_trim(1000)] == ["idle", "recent", "valued", "busy"]


def test_protected_and_new_ones_are_spared():
    reg = registry(max_connections=1, low_watermark=0.1, trim_grace=20)
    protected, new, old = Conn(SMALL), Conn(LARGE, established_at=90), Conn(MIDDLE)
    for connection in (protected, new, old):
        reg.add(connection)
    reg.tags.protect(SMALL, "relay")
    reg.tags.protect(SMALL, "friend")
    assert reg.to_trim(100) == [old]
    assert set(reg.to_trim(110)) == {old, new}
    reg.tags.unprotect(SMALL, "relay")
    assert protected not in reg.to_trim(110)
    reg.tags.unprotect(SMALL, "friend")
    assert protected in reg.to_trim(110)


def at(host: str) -> Multiaddr:
    return Multiaddr(f"/ip4/{host}/tcp/4001")


def test_one_host_gives_its_places_to_others_however_young_and_busy_they_are():
    reg = registry(max_connections=300, trim_grace=20)
    honest = [Conn(Identity.generate().peer_id, remote_addr=at(f"10.0.{i}.1")) for i in range(20)]
    enemies = [
        Conn(
            PeerId(b"\x00\x02" + bytes(divmod(i, 256))),
            established_at=99,
            last_stream_at=99,
            stream_count=5,
            remote_addr=at("192.0.2.66"),
        )
        for i in range(280)
    ]
    for connection in (*honest, *enemies):
        reg.add(connection)
    trimmed = reg.to_trim(100, adding=1)
    assert len(trimmed) == 30
    assert all(connection in enemies for connection in trimmed)


def test_a_peer_with_many_connections_gives_them_before_its_neighbours():
    reg = registry(max_connections=12, low_watermark=0.7, trim_grace=0)
    greedy = [Conn(LARGE, last_stream_at=99, remote_addr=at("192.0.2.1")) for _ in range(5)]
    others = [Conn(Identity.generate().peer_id, remote_addr=at("192.0.2.1")) for _ in range(7)]
    for connection in (*greedy, *others):
        reg.add(connection)
    assert all(c in greedy for c in reg.to_trim(100, adding=1))


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 50)),
        max_size=30,
    ),
    st.integers(1, 20),
    st.floats(0.05, 1),
)
def test_what_is_trimmed_is_never_too_much_nor_spared(rows, limit, watermark):
    reg = registry(max_connections=limit, low_watermark=watermark, trim_grace=10)
    for serial, (protected, _, streams, age) in enumerate(rows):
        peer_id = PeerId(b"\x00\x02" + bytes(divmod(serial, 256)))
        reg.add(Conn(peer_id, established_at=100 - age, stream_count=streams))
        if protected:
            reg.tags.protect(peer_id, "x")
    trimmed = reg.to_trim(100)
    assert len(set(map(id, trimmed))) == len(trimmed)
    for connection in trimmed:
        assert connection.established_at <= 90
        assert not reg.tags.is_protected(connection.peer_id)
    if trimmed:
        assert reg.total > limit
        assert reg.total - len(trimmed) >= int(limit * watermark)
    elif reg.total > limit:
        assert all(reg.tags.is_protected(c.peer_id) or c.established_at > 90 for c in reg)
