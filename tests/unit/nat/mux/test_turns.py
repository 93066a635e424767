"""Work per turn and for nothing: who floods waits for the others, and then has to go."""

from __future__ import annotations

import pytest
import trio

from lattica.errors import RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket
from lattica.nat.mux.events import EventKind
from lattica.nat.mux.turns import OPENING, TURN, NetworkNuisance, Nuisance, Turnstile
from lattica.nat.mux.yamux import Session
from tests.support.attacker import data, frame
from tests.support.clock import Clock

_, WINDOW_UPDATE, _, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


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


WORTHLESS = {
    "empty data": data(2, b""),
    "empty data with ACK": data(2, b"", ACK),
    "no credit": frame(WINDOW_UPDATE, 0, 2, 0),
    "small credit": frame(WINDOW_UPDATE, 0, 2, 1),
    "goodbyes": frame(GO_AWAY, 0, 0, 7),
    "resets of nothing": frame(WINDOW_UPDATE, RST, 4, 0),
    "credit for nothing": frame(WINDOW_UPDATE, 0, 4, 300_000),
}


@pytest.mark.parametrize("what", WORTHLESS)
def test_what_carries_nothing_ends_the_connection_when_it_is_too_much(what):
    clock = Clock()
    session = new_session(clock)
    session.receive(data(2, b"", SYN) + data(4, b"", SYN) + frame(WINDOW_UPDATE, RST, 4, 0))
    events = 0
    out = memoryview(bytearray(100_000))
    with pytest.raises(RemoteProtocolError, match="for nothing"):  # noqa: PT012
        for _ in range(200):
            events += len(session.receive(WORTHLESS[what] * 100))
            session.fill(out)
    assert events <= 1


@pytest.mark.parametrize("what", WORTHLESS)
def test_at_an_honest_rate_it_goes_on_for_ever(what):
    clock = Clock()
    session = new_session(clock)
    session.receive(data(2, b"", SYN) + data(4, b"", SYN) + frame(WINDOW_UPDATE, RST, 4, 0))
    out = memoryview(bytearray(100_000))
    for _ in range(1000):
        clock.now += 1
        session.receive(WORTHLESS[what] * 100)
        session.fill(out)


def test_streams_that_are_reset_at_once_are_counted_too():
    session = new_session(Clock())
    with pytest.raises(RemoteProtocolError, match="a reset at last"):  # noqa: PT012
        for n in range(2, 100_000, 2):
            session.receive(data(n, b"", SYN) + frame(WINDOW_UPDATE, RST, n, 0))


def test_connections_of_one_network_share_what_they_may_send_for_nothing():
    clock, networks = Clock(), NetworkNuisance()
    count = 0
    with pytest.raises(RemoteProtocolError):  # noqa: PT012
        for _ in range(100):
            one = Nuisance(clock, networks.of("192.0.2.0/24"))
            for _ in range(8000):
                one.count("a frame")
                count += 1
    assert count < 70_000
    Nuisance(clock, networks.of("198.51.100.0/24")).count("a frame")


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
