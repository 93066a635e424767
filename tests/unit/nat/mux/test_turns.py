"""Work per turn and for nothing: who floods waits for the others, and is read less."""

from __future__ import annotations

import pytest
import trio

from lattica.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket
from lattica.nat.config import Limits, Timeouts
from lattica.nat.mux.events import Event, EventKind, EventLine
from lattica.nat.mux.turns import OPENING, TURN, NetworkNuisance, Nuisance, Turnstile
from lattica.nat.mux.yamux.session import Session
from tests.support.attacker import data, frame
from tests.support.clock import Clock
from tests.support.pairs.connected import against_manual_peer

_, WINDOW_UPDATE, PINGS, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
PING = frame(PINGS, SYN, 0, 1)


def new_session(clock: Clock) -> Session:
    return Session(initiator=True, clock=clock)


@pytest.mark.parametrize("split", [5, 1000, 100_000])
def test_a_turn_ends_after_so_many_frames_and_nothing_is_lost(split):
    session = new_session(Clock())
    frames = data(2, b"x", SYN) + b"".join(data(2, bytes([n % 256])) for n in range(2000))
    done = []
    for start in range(0, len(frames), split):
        session.turn = TURN
        events = session.receive(frames[start : start + split])
        while session.unfinished:
            assert session.turn <= 0
            session.turn = TURN
            events += session.go_on()
        done += events
    (stream,) = session.streams.values()
    assert b"".join(stream.receive_queue) == b"x" + bytes(n % 256 for n in range(2000))
    assert done[0].kind is EventKind.ACCEPTED


def test_streams_count_for_more_than_frames():
    session = new_session(Clock())
    session.turn = TURN
    session.receive(b"".join(data(n, b"", SYN) for n in range(2, 4000, 2)))
    assert session.unfinished
    assert len(session.streams) <= TURN // OPENING + 1


def test_what_lets_nobody_go_on_is_not_counted_and_the_order_stays():
    done: list[int] = []

    def act(event: Event) -> bool:
        done.append(event.value)
        return event.value % 2 == 1

    line = EventLine()
    line.add((Event(EventKind.READABLE, value=n) for n in range(100)), act)
    assert done == list(range(64))
    line.add([Event(EventKind.READABLE, value=100)], act)
    while line:
        line.next_turn(act)
    assert done == list(range(101))


BEYOND_HONESTY = {
    "empty data": data(2, b""),
    "goodbyes": frame(GO_AWAY, 0, 0, 7),
}
SLOWED = {
    "empty data with ACK": data(2, b"", ACK),
    "no credit": frame(WINDOW_UPDATE, 0, 2, 0),
    "small credit": frame(WINDOW_UPDATE, 0, 2, 1),
    "resets of nothing": frame(WINDOW_UPDATE, RST, 4, 0),
    "resets of nothing, as rust-yamux has them": data(4, b"", RST),
    "the end of nothing": data(4, b"", FIN),
    "credit for nothing": frame(WINDOW_UPDATE, 0, 4, 300_000),
}
WORTHLESS = BEYOND_HONESTY | SLOWED


def flood(session: Session, what: str) -> int:
    """20,000 frames at once; returns how many events they cause."""
    session.receive(data(2, b"", SYN) + data(4, b"", SYN) + frame(WINDOW_UPDATE, RST, 4, 0))
    events = 0
    out = memoryview(bytearray(100_000))
    for _ in range(200):
        events += len(session.receive(WORTHLESS[what] * 100))
        session.fill(out)
    return events


@pytest.mark.parametrize("what", BEYOND_HONESTY)
def test_what_no_honest_peer_sends_ends_the_connection_when_it_is_too_much(what):
    with pytest.raises(RemoteProtocolError, match="too many frames for nothing"):
        flood(new_session(Clock()), what)


@pytest.mark.parametrize("what", SLOWED)
def test_what_carries_nothing_has_the_connection_rest_when_it_is_too_much(what):
    clock = Clock()
    session = new_session(clock)
    assert flood(session, what) == 0
    # 20,000 frames and one reset; 16,384 at once and 1,024 a second are taken.
    rest = (20_001 - 16_384) / 1024
    assert session.nuisance.rests_until == pytest.approx(clock.now + rest)
    clock.now += rest
    assert session.nuisance.rests_until is None


@pytest.mark.parametrize("what", WORTHLESS)
def test_at_an_honest_rate_it_goes_on_for_ever(what):
    clock = Clock()
    session = new_session(clock)
    session.receive(data(2, b"", SYN) + data(4, b"", SYN) + frame(WINDOW_UPDATE, RST, 4, 0))
    out = memoryview(bytearray(100_000))
    for _ in range(300):
        clock.now += 1
        session.receive(WORTHLESS[what] * 100)
        session.fill(out)


RESETS = {
    "as go-yamux has them": frame(WINDOW_UPDATE, RST, 2, 0),
    "as rust-yamux has them": data(2, b"", RST),
}


@pytest.mark.parametrize("how", RESETS)
def test_a_stream_that_is_reset_at_once_is_counted_once(how):
    clock = Clock()
    session = new_session(clock)
    for n in range(2, 2 * 16_384 + 2, 2):
        session.receive(data(n, b"", SYN) + RESETS[how][:4] + n.to_bytes(4) + RESETS[how][8:])
    assert session.nuisance.rests_until is None
    session.receive(RESETS[how])
    assert session.nuisance.rests_until == pytest.approx(clock.now + 1 / 1024)


def test_streams_beyond_the_limit_have_the_connection_rest():
    clock, limits = Clock(), Limits(max_streams_per_connection=1)
    session = Session(initiator=True, clock=clock, limits=limits)
    out = memoryview(bytearray(100_000))
    for n in range(2, 2 * 20_000, 2):
        session.receive(data(n, b"", SYN))
        session.fill(out)
    assert session.nuisance.rests_until == pytest.approx(clock.now + (19_998 - 16_384) / 1024)


def test_a_peer_that_is_not_read_is_not_blamed_for_its_silence():
    clock = Clock()
    session = Session(initiator=True, clock=clock, timeouts=Timeouts(keep_alive_timeout=3))
    session.receive(data(2, b"", SYN))
    session.nuisance.count("frames", 16_384 + 6 * 1024)
    for _ in range(6):
        clock.now += 1
        session.tick()
    assert session.nuisance.rests_until is None
    clock.now += 1
    session.tick()
    assert not session.is_silent
    clock.now += 1
    with pytest.raises(ConnectionClosedError, match="has not answered for 3 s"):
        session.tick()


def test_connections_of_one_network_share_what_they_may_send_for_nothing():
    clock, networks = Clock(), NetworkNuisance()
    many = [Nuisance(clock, networks.of("192.0.2.0/24")) for _ in range(16)]
    for one in many:
        one.count("frames", 4096)
        assert one.rests_until is None  # 65,536 are taken of a network at once
    rests = []
    for one in many:
        one.count("frames", 1024)
        rests.append(one.rests_until)
    # They go on one after the other, a quarter of a second apart; who has sent nothing rests not.
    assert rests == pytest.approx([clock.now + 0.25 * n for n in range(1, 17)])
    assert Nuisance(clock, networks.of("192.0.2.0/24")).rests_until is None
    other = Nuisance(clock, networks.of("198.51.100.0/24"))
    other.count("frames", 1024)
    assert other.rests_until is None


def test_no_connection_rests_for_longer_than_eight_seconds():
    clock, networks = Clock(), NetworkNuisance()
    for _ in range(100):
        one = Nuisance(clock, networks.of("192.0.2.0/24"))
        one.count("frames", 60_000)
        assert (one.rests_until or clock.now) <= clock.now + 8


FLOODS = {
    "resets as rust-yamux has them": lambda n: data(n, b"", SYN) + data(n, b"", RST),
    "resets as go-yamux has them": lambda n: data(n, b"", SYN) + frame(WINDOW_UPDATE, RST, n, 0),
    "resets after a proposal": lambda n: data(n, bytes(30), SYN) + data(n, b"", RST),
    "credit for a stream that is no more": lambda n: frame(WINDOW_UPDATE, 0, 1, 1) + PING,
}


@pytest.mark.parametrize("how", FLOODS)
async def test_who_floods_is_read_less_and_keeps_the_connection(how, autojump_clock):
    # 1,024 a second are taken after the first, so it takes 3 seconds to read all of them.
    count = 3 * 1024
    async with against_manual_peer(ticking=True, capacity=64 * 1024) as (end, peer):
        await peer.say(data(1, b"", SYN) + frame(WINDOW_UPDATE, RST, 1, 0))
        end.connection.session.nuisance.count("frames", 16_384)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.hear_all)
            for start in range(0, count, 64):
                flood = range(2 * start + 3, 2 * (start + 64) + 3, 2)
                await peer.say(b"".join(map(FLOODS[how], flood)))
            await peer.say(data(2 * count + 3, b"still there", SYN))
            while not (end.accepted and end.accepted[-1].id == 2 * count + 3):
                await end.arrival.wait()
            assert await end.accepted[-1].receive_exactly(11) == b"still there"
            assert trio.current_time() - began == pytest.approx(3, abs=0.1)
            assert end.connection.closed_reason is None
            nursery.cancel_scope.cancel()


async def test_a_peer_that_leaves_is_not_kept_for_what_it_has_sent(autojump_clock):
    async with against_manual_peer(ticking=True) as (end, peer):
        end.connection.session.nuisance.count("frames", 1_000_000)
        await peer.say(data(1, b"", SYN))
        await trio.sleep(0.1)
        assert not end.accepted
        await peer.raw.aclose()
        with trio.fail_after(7):
            await end.connection.closed.wait()


async def test_what_costs_much_waits_until_it_is_paid(autojump_clock):
    async with against_manual_peer() as (end, _):
        for seconds in (0, 1, 2):
            began = trio.current_time()
            await end.connection.charge("identify", 16_384 if not seconds else 1024 * seconds)
            assert trio.current_time() - began == pytest.approx(seconds)


def test_memory_for_networks_is_bounded():
    networks = NetworkNuisance()
    used: TokenBucket = networks.of("one")
    for n in range(5000):
        assert networks.of("one") is used
        networks.of(n)
    assert len(networks._buckets) <= 1024


async def test_those_of_one_network_go_one_by_one_and_others_beside_them(autojump_clock):
    turnstile = Turnstile()
    rounds: list[str] = []

    async def go(network: str, turns: int) -> None:
        for _ in range(turns):
            await turnstile.wait(network)
            rounds.append(network)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(go, "many", 4)
        nursery.start_soon(go, "one", 40)
    last = len(rounds) - 1 - rounds[::-1].index("one")
    # As many turns for the one as for the fifty, within a few.
    assert rounds[: last + 1].count("many") <= 3 * 40
    assert not turnstile._lines


async def test_a_cancelled_one_leaves_the_line(autojump_clock):
    turnstile = Turnstile()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(turnstile.wait, "a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await turnstile.wait("a")
    await turnstile.wait("a")
    assert not turnstile._lines
