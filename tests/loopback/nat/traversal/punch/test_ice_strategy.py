"""UDP hole punching between swarms: over a relay on the loopback interface, to QUIC."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest
import trio

from lattica.errors import DialError, StreamResetError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.quic.endpoint import QuicEndpoint
from lattica.nat.swarm.addresses.nat_report import NatReport
from lattica.nat.traversal.punch.ice.candidates import CandidateType, local_candidate
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.punch.ice.messages import (
    ICE,
    Description,
    Offer,
    Start,
    encode,
    new_credentials,
)
from lattica.nat.traversal.punch.ice.strategy import IceStrategy
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.probe_budget import CHECK_COST, ProbeBudget
from tests.support.nets.nets import LISTEN_ON, LOOPBACK, settled
from tests.support.nets.relayed import RelayedPair, relayed_pair

BOTH = (*LISTEN_ON["tcp"], *LISTEN_ON["quic"])
LIMIT = 120


class Net:
    """A relayed pair, each of which can punch."""

    def __init__(
        self, pair: RelayedPair, budget: ProbeBudget | None = None, **changes: Any
    ) -> None:
        config = IceConfig(**{"allow_loopback": True, **changes})
        self.pair = pair
        self.source = IceStrategy(pair.source, config, budget=budget)
        self.target = IceStrategy(pair.target, config)
        pair.source.protocols.handle_all(self.source.handlers)

    def attempt_is_over(self) -> bool:
        both = self.source._sockets, self.target._sockets
        return not any(sockets._sessions or sockets._listening for sockets in both)


async def open_net(stack: AsyncExitStack, listen: tuple[str, ...] = BOTH, **changes: Any) -> Net:
    return Net(await stack.enter_async_context(relayed_pair(listen=listen)), **changes)


async def test_a_relayed_connection_becomes_direct():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            direct = await net.target.attempt(net.pair.of_target)
            assert direct.path == "direct-quic"
            assert direct.peer_id == net.pair.source.identity.peer_id
            other = await net.pair.source.wait_direct(net.pair.target.identity.peer_id)
            assert other.path == "direct-quic"
            await settled(net.attempt_is_over)
            assert not net.source._awaited


async def test_many_attempts_at_a_time_share_a_socket():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            found: list[Connection] = []

            async def attempt() -> None:
                found.append(await net.target.attempt(net.pair.of_target))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(attempt)
            assert [connection.path for connection in found] == ["direct-quic"] * 3
            await settled(net.attempt_is_over)


async def test_an_attempt_can_be_cancelled_and_leaves_nothing_behind():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            net.pair.source.protocols.handle(ICE, _say_nothing)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(net.target.attempt, net.pair.of_target)
                await settled(lambda: net.pair.of_target.stream_count)
                nursery.cancel_scope.cancel()
            await settled(net.attempt_is_over)
            await settled(lambda: not net.pair.of_target.stream_count)


async def _say_nothing(stream: Stream) -> None:
    while await stream.receive_some():
        pass


async def test_a_peer_that_says_nothing():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack, coordination_timeout=0.05)
            net.pair.source.protocols.handle(ICE, _say_nothing)
            with pytest.raises(DialError, match="did not answer over the relay"):
                await net.target.attempt(net.pair.of_target)


async def test_a_peer_that_does_not_speak_it():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            net.pair.source.protocols.unhandle(ICE)
            with pytest.raises(NotApplicable, match="does not speak"):
                await net.target.attempt(net.pair.of_target)
            # Once it has said what it speaks, nobody needs to ask.
            net.pair.of_target.agent = "somebody/1.0"
            net.pair.source.protocols.handle(ICE, _say_nothing)
            with pytest.raises(NotApplicable, match="does not speak"):
                await net.target.attempt(net.pair.of_target)


async def test_it_is_not_for_nodes_without_udp():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack, listen=LOOPBACK)
            with pytest.raises(NotApplicable, match="does not listen on UDP"):
                await net.target.attempt(net.pair.of_target)
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            net.pair.target.nat.set(NatReport(udp_works=False))
            with pytest.raises(NotApplicable, match="UDP is blocked"):
                await net.target.attempt(net.pair.of_target)
            net.pair.target.nat.set(NatReport())
            net.pair.source.nat.set(NatReport(udp_works=False))
            with pytest.raises(DialError, match="declines: UDP is blocked"):
                await net.target.attempt(net.pair.of_target)
        async with AsyncExitStack() as stack:
            net = await open_net(stack, enabled=False)
            assert not net.source.handlers
            with pytest.raises(NotApplicable, match="turned off"):
                await net.target.attempt(net.pair.of_target)


async def test_a_peer_that_listens_on_no_udp_declines():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            net.source._endpoints = lambda: ()  # type: ignore[method-assign]
            with pytest.raises(DialError, match="declines: it does not listen on UDP"):
                await net.target.attempt(net.pair.of_target)


async def test_a_peer_that_asks_too_often_is_declined():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack, attempts_per_minute=1)
            await net.target.attempt(net.pair.of_target)
            with pytest.raises(DialError, match="asked too often"):
                await net.target.attempt(net.pair.of_target)


async def test_loopback_is_not_used_unless_it_is_allowed():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack, allow_loopback=False)
            with pytest.raises(NotApplicable):
                await net.target.attempt(net.pair.of_target)


async def test_a_quic_dial_that_fails_is_a_failed_attempt(monkeypatch):
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            dial = net.pair.target.dial_fresh
            somebody_else = Identity.generate().peer_id

            async def dial_another(peer_id: PeerId, addr: Multiaddr, **more: bool) -> Connection:
                return await dial(somebody_else, addr, **more)

            monkeypatch.setattr(net.pair.target, "dial_fresh", dial_another)
            with pytest.raises(DialError, match=str(somebody_else)):
                await net.target.attempt(net.pair.of_target)
            await settled(net.attempt_is_over)


# --- what a peer may say ---


async def offer_by_hand(relayed: Connection, offer: bytes) -> Stream:
    stream = await relayed.open(ICE)
    await stream.send_all(offer)
    return stream


def an_offer(*ports: int, hosts: tuple[str, ...] = ("127.0.0.1",)) -> bytes:
    candidates = tuple(
        local_candidate(CandidateType.HOST, host, port, base=0, rank=rank)
        for rank, (host, port) in enumerate(product(hosts, ports))
    )
    return encode(Offer(Description(new_credentials(lambda n: bytes(range(n))), candidates)))


async def test_garbage_costs_the_stream_and_nothing_else():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            stream = await offer_by_hand(net.pair.of_target, b"\x05hello")
            await settled(lambda: stream.is_dead)
            direct = await net.target.attempt(net.pair.of_target)
            assert direct.path == "direct-quic"


async def test_an_opener_that_goes_away_ends_the_attempt():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            stream = await offer_by_hand(net.pair.of_target, an_offer(9))
            await settled(lambda: net.source._sockets._sessions)
            stream.reset()
            await settled(net.attempt_is_over)


async def test_attempts_at_a_time_are_limited():
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack, max_attempts=1)
            stream = await offer_by_hand(net.pair.of_target, an_offer(9))
            await settled(lambda: net.source._sockets._sessions)
            with pytest.raises(DialError, match="too many attempts"):
                await net.target.attempt(net.pair.of_target)
            stream.reset()


# --- what a peer may have sent to others ---


@pytest.fixture
def victims(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many datagrams each host would have got; none is sent."""
    counted: Counter[str] = Counter()

    def count(self: QuicEndpoint, data: bytes, destination: tuple[Any, ...]) -> None:
        counted[destination[0]] += 1

    monkeypatch.setattr(QuicEndpoint, "send_probe", count)
    return counted


async def lie(net: Net, *hosts: str) -> None:
    """Be a peer that names the addresses of others, and let it all go through."""
    offer = an_offer(*range(1000, 1000 + 16 // len(hosts)), hosts=hosts)
    stream = await offer_by_hand(net.pair.of_target, offer)
    if await stream.receive_some():
        await stream.send_all(encode(Start()))
        assert not await stream.receive_some()


async def test_only_the_target_of_a_relayed_connection_begins(victims):
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            net = await open_net(stack)
            net.pair.target.protocols.handle_all(net.target.handlers)
            relay = IceStrategy(net.pair.relay, IceConfig(allow_loopback=True))
            net.pair.relay.protocols.handle_all(relay.handlers)
            direct = net.pair.target.registry.best(net.pair.relay.identity.peer_id)
            assert direct is not None

            async def ask(connection: Connection) -> None:
                await (await offer_by_hand(connection, an_offer(9))).receive_some()

            for wrong in (net.pair.of_source, direct):
                with pytest.raises(StreamResetError):
                    await ask(wrong)
            assert not victims


async def test_a_victim_gets_no_more_than_the_budget_however_often_peers_lie(victims):
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            brief: dict[str, Any] = {
                "timeout": 0.4,
                "patience": 0.4,
                "pacing": 0.005,
                "first_timeout": 0.02,
            }
            budget = ProbeBudget(30 * CHECK_COST, 50 * CHECK_COST, clock=trio.current_time)
            net = await open_net(stack, budget=budget, longest_timeout=0.02, **brief)
            for host, most in (("127.0.0.2", 30), ("127.0.0.3", 20)):
                while victims[host] < most:
                    await lie(net, host)
                await lie(net, host)
                assert victims[host] == most
            assert not budget.take("127.0.0.4", CHECK_COST)


async def test_what_the_access_rules_forbid_gets_nothing(victims):
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            rules = AccessRules(deny_networks=("127.0.0.2/32",))
            pair = await stack.enter_async_context(relayed_pair(listen=BOTH, access=rules))
            net = Net(pair, timeout=0.3, patience=0.3)
            while not victims:
                await lie(net, "127.0.0.2", "127.0.0.3")
            assert victims.keys() == {"127.0.0.3"}
