"""What connections that have ended may leave in memory."""

from __future__ import annotations

from lattica.nat.base.limits.places import Source
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.yamux.session import Session
from tests.support.attacker import data
from tests.support.clock import Clock

SYN = 1


def full_session(budget: MemoryBudget, network: str, streams: int) -> Session:
    session = Session(initiator=True, clock=Clock(), budget=budget, source=Source(network, network))
    for number in range(2, 2 * streams + 2, 2):
        session.receive(data(number, bytes(200 * KIB), SYN))
    return session


def test_what_nobody_reads_after_the_end_takes_a_sixteenth():
    budget = MemoryBudget(32 * MIB)
    session = full_session(budget, "a", 100)
    streams = list(session.streams.values())
    assert budget.used == 100 * 200 * KIB
    ended = session.close("the peer is gone")
    assert budget.used <= 2 * MIB
    kept = [stream for stream in streams if stream.receive_queue]
    assert len(kept) == 10
    # All have to be told, and what is kept can be read.
    assert set(ended) == set(streams)
    assert {stream.reset_reason for stream in kept} == {"the peer is gone"}


def test_whoever_left_most_yields_and_living_connections_keep_all():
    budget = MemoryBudget(32 * MIB)
    alive = full_session(budget, "alive", 50)
    small = full_session(budget, "small", 2)
    of_small = list(small.streams.values())
    small.close("gone")
    large = full_session(budget, "large", 90)
    of_large = list(large.streams.values())
    large.close("gone")
    assert all(stream.receive_queue for stream in of_small)
    assert sum(bool(stream.receive_queue) for stream in of_large) == 8
    assert all(stream.receive_queue for stream in alive.streams.values())
    assert budget.used == (50 + 2 + 8) * 200 * KIB
