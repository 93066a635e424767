"""Frames of QUIC that only qh3 sees, of a peer that is made to send what no library does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Any

import pytest
import trio

from lattica.config import load_config
from lattica.errors import StreamResetError
from lattica.nat.mux.stream import Stream
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.qh3.native import Runs
from lattica.nat.quic.session import cost
from lattica.nat.quic.session.session import QuicSession
from lattica.node import Node
from tests.support.clock import Passes
from tools.attack.attack import Victim
from tools.attack.attacks.quic import connected
from tools.attack.attacks.quic_packets import (
    Sealer,
    challenges,
    connection_ids,
    filled,
)

PATIENCE = 200
CONFIG = load_config(
    environment={},
    overrides={
        "listen": ["/ip4/127.0.0.1/udp/0/quic-v1/noise"],
        "nat.port_mapping.enabled": False,
        # Who reads no answers is let go for that as well, and on a slow machine sooner.
        "swarm.timeouts.delivery": 600,
        "swarm.timeouts.keep_alive_timeout": 600,
    },
)


def few_challenges() -> Iterator[bytes]:
    """No more of them in a packet than small datagrams may leave at once."""
    several = challenges()
    while True:
        yield b"".join(islice(several, 8)) + bytes(1000)


@asynccontextmanager
async def two_ends() -> AsyncIterator[tuple[QuicConnection, QuicConnection]]:
    """A victim's end of a connection, and an enemy's, which reads none of the answers."""
    async with Node(CONFIG) as node, connected(Victim("", str(node.addrs[0]), "", "")) as enemy:
        with trio.fail_after(PATIENCE):
            while not node.swarm.registry.total:
                await trio.sleep(0.01)
        [victim] = node.swarm.registry
        assert isinstance(victim, QuicConnection)
        endpoint: Any = enemy._link._carrier
        endpoint._deliver = lambda _: None
        yield victim, enemy


@asynccontextmanager
async def attacked(frames: Iterator[bytes], packets: int) -> AsyncIterator[QuicConnection]:
    """The victim's end of a connection on which so many packets of frames come."""
    async with two_ends() as (victim, enemy), trio.open_nursery() as nursery:
        link, sealer = enemy._link, Sealer.of(enemy)

        async def flood() -> None:
            for payload in islice(filled(frames), packets):
                link._carrier.send([sealer.packet(payload)], link.destination)
                await trio.sleep(0.001)  # so that no socket's buffer overflows

        nursery.start_soon(flood)
        yield victim
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        (challenges, "challenges of the path"),
        (connection_ids, "packets that take long"),
    ],
)
async def test_who_sends_what_costs_more_than_it_should_is_read_less(monkeypatch, frames, what):
    monkeypatch.setattr(cost, "_MOST_OUTSTANDING", 10**6)  # as if answers were acknowledged
    async with attacked(frames(), 3000) as victim:
        nuisance = victim.session.nuisance
        with trio.fail_after(PATIENCE):
            while nuisance.rests_until is None:
                await trio.sleep(0.01)
        assert nuisance.last == what


async def test_answers_that_are_asked_for_together_leave_some_at_a_time(monkeypatch):
    answers: list[int] = []
    transmit = QuicSession.transmit

    def noting(session: QuicSession) -> Runs:
        runs = transmit(session)
        answers.append(sum(len(datagrams) for datagrams, _ in runs))
        return runs

    async with two_ends() as (victim, enemy):
        sealer, link = Sealer.of(enemy), victim._link
        packets = [sealer.packet(payload) for payload in islice(filled(challenges()), 32)]
        monkeypatch.setattr(QuicSession, "transmit", noting)
        link.deliver(b"".join(packets), len(packets[0]), link.destination)
        with trio.fail_after(PATIENCE):
            while sum(answers) < 2000:
                await trio.sleep(0.01)
    assert max(answers) <= 512


async def test_who_acknowledges_no_answer_is_let_go():
    async with attacked(few_challenges(), 20_000) as victim:
        with trio.fail_after(PATIENCE):
            while victim.closed_reason is None:
                await trio.sleep(0.01)
        assert "not acknowledged" in str(victim.closed_reason)


async def test_users_of_streams_that_are_reset_together_go_on_some_at_a_time():
    passes = Passes()
    ended = trio.Event()

    async def use(stream: Stream) -> None:
        with suppress(StreamResetError):
            await stream.receive_some()
        passes.total += 1
        if passes.total == 200:
            ended.set()

    async with Node(CONFIG) as node:
        node.handle("/use/1", use)
        async with connected(Victim("", str(node.addrs[0]), "", "")) as enemy:
            streams = [await enemy.open("/use/1", optimistic=False) for _ in range(200)]
            trio.lowlevel.add_instrument(passes)
            for stream in streams:
                stream.reset()
            with trio.fail_after(PATIENCE):
                await ended.wait()
            trio.lowlevel.remove_instrument(passes)
    assert passes.most <= 2 * 32
