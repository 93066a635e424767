"""The relay on real swarms: reservations, circuits, their limits, and ends of every kind."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import ConnectionClosedError, LatticaError, StreamResetError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import (
    CircuitTransport,
    ask_relay,
    direct_connection,
)
from lattica.nat.traversal.relay.messages import (
    HOP,
    MAX_MESSAGE,
    STOP,
    Connect,
    HopStatus,
    Limit,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.server.access import Lists
from lattica.nat.traversal.relay.server.events import (
    CircuitClosed,
    CircuitOpened,
    Refused,
    RelayEvent,
    ReservationEnded,
    ReservationMade,
)
from lattica.nat.traversal.relay.server.limits import CircuitLimits, RelayLimits, StrangerLimits
from lattica.nat.traversal.relay.server.quotas import Quotas
from lattica.nat.traversal.relay.server.service import REQUEST_TIMEOUT, STOP_TIMEOUT, RelayService
from lattica.nat.traversal.relay.voucher import Voucher, open_voucher
from tests.support.nets.nets import advance, ask_echo, running, settled
from tests.support.nets.relay_nets import framed

pytestmark = pytest.mark.usefixtures("swarm_transport")

stands_still = pytest.mark.only_over("tcp", "QUIC sends by the clock, which stands still here")

KIB = 1024
MIB = 1024 * KIB
PATTERN = random.Random(5).randbytes(3 * MIB + 17)
FREE = StrangerLimits(duration=0, data=0, rate=0)


@dataclass
class Relay:
    """A relay, and what it has said about itself."""

    swarm: Swarm
    service: RelayService
    events: list[RelayEvent] = field(default_factory=list)

    def streams(self) -> int:
        return sum(connection.stream_count for connection in self.swarm.registry)


@asynccontextmanager
async def relaying(
    *, allow: tuple[PeerId, ...] = (), strangers: StrangerLimits = FREE, **limits
) -> AsyncIterator[Relay]:
    """A relay, open to strangers and without limits unless told otherwise."""
    given = {"open_to_strangers": True, "strangers_rate": 0, "for_strangers": strangers, **limits}
    async with running() as swarm, trio.open_nursery() as nursery:
        relay = Relay(swarm, RelayService(swarm, RelayLimits(**given), allow))
        relay.service.on_event.append(relay.events.append)
        swarm.protocols.handle_all(relay.service.handlers)
        await nursery.start(relay.service.run)
        yield relay
        nursery.cancel_scope.cancel()


@dataclass
class Client:
    """A peer that is connected to the relay; what arrives over `stop` is in `arrived`."""

    swarm: Swarm
    relay: PeerId
    answer: bytes = framed(StopStatus(Status.OK))
    """What it says to who calls it; empty: nothing."""
    calls: list[StopConnect] = field(default_factory=list)
    arrived: list[Stream] = field(default_factory=list)

    @property
    def peer_id(self) -> PeerId:
        return self.swarm.identity.peer_id

    async def on_stop(self, stream: Stream) -> None:
        call = decode_stop(await stream.receive_message(MAX_MESSAGE))
        assert isinstance(call, StopConnect)
        self.calls.append(call)
        if self.answer:
            await stream.send_all(self.answer)
        self.arrived.append(stream)
        await trio.sleep_forever()  # the stream is the test's

    async def ask(self, request: Reserve | Connect) -> tuple[Stream, HopStatus]:
        connection = direct_connection(self.swarm, self.relay)
        assert connection is not None
        return await ask_relay(connection, request)

    async def status(self, request: Reserve | Connect) -> Status:
        stream, answer = await self.ask(request)
        if not (isinstance(request, Connect) and answer.status is Status.OK):
            await stream.aclose()
        return answer.status


@asynccontextmanager
async def client_of(relay: Relay, identity: Identity | None = None) -> AsyncIterator[Client]:
    async with running(identity, listen=()) as swarm:
        client = Client(swarm, relay.swarm.identity.peer_id)
        swarm.protocols.handle(STOP, client.on_stop)
        await swarm.dial(client.relay, relay.swarm.addrs)
        await relay.swarm.wait_connected(client.peer_id)
        yield client


@asynccontextmanager
async def three(**options) -> AsyncIterator[tuple[Relay, Client, Client]]:
    """A relay, a peer that has reserved there, and one that wants to reach it."""
    async with (
        relaying(**options) as relay,
        client_of(relay) as target,
        client_of(relay) as source,
    ):
        assert await target.status(Reserve()) is Status.OK
        yield relay, target, source


async def circuit(source: Client, target: Client) -> tuple[Stream, Stream]:
    """Both ends of a new circuit."""
    before = len(target.arrived)
    near, answer = await source.ask(Connect(target.peer_id))
    assert answer.status is Status.OK
    await settled(lambda: len(target.arrived) > before)
    return near, target.arrived[-1]


async def send(stream: Stream, data: bytes) -> None:
    """Send and end."""
    await stream.send_all(data)
    await stream.send_eof()


async def pour(stream: Stream) -> None:
    """Send more than anybody takes, until it is stopped."""
    with contextlib.suppress(LatticaError):
        await stream.send_all(memoryview(bytes(64 * MIB)))


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


async def fails(stream: Stream) -> LatticaError:
    """Read until the stream fails; a good end is a failure of the test."""
    with pytest.raises((StreamResetError, ConnectionClosedError)) as caught:
        await read_all(stream)
    return caught.value


# --- reservations ---


async def test_a_client_that_comes_again_and_again_has_one_reservation():
    identity = Identity.generate()
    async with relaying(reservations_per_ip=1, max_reservations=1) as relay:
        for _ in range(60):
            async with client_of(relay, identity) as client:
                assert await client.status(Reserve()) is Status.OK
                assert relay.service.stats.reservations == 1
        await settled(lambda: relay.service.stats.reservations == 0)
        assert all(usage.used == 0 for usage in relay.service.usage())


async def test_reservation_says_where_until_when_and_has_a_voucher():
    lifetime: Any = pytest.approx(600)  # what a clock that began anywhere makes of it
    async with relaying(reservation_lifetime=600.0) as relay, client_of(relay) as client:
        stream, answer = await client.ask(Reserve())
        assert await read_all(stream) == b""
        assert answer.status is Status.OK
        assert answer.limit is None
        reservation = answer.reservation
        assert reservation is not None
        # With the relay's ID and without /p2p-circuit, which clients put behind.
        (addr,) = relay.swarm.addrs
        me = relay.swarm.identity.peer_id
        assert reservation.addrs == (addr.encapsulate(Multiaddr(f"/p2p/{me}")),)
        assert abs(reservation.expire - time.time() - 600) < 60
        voucher = Voucher(me, client.peer_id, reservation.expire)
        assert open_voucher(reservation.voucher) == voucher
        assert relay.events == [ReservationMade(client.peer_id, lifetime, renewed=False)]
        assert await client.status(Reserve()) is Status.OK
        assert relay.events[1:] == [ReservationMade(client.peer_id, lifetime, renewed=True)]
        assert relay.service.stats.reservations == 1


async def test_reservation_tells_the_limits_of_circuits():
    limits = StrangerLimits(duration=30, data=5000)
    async with relaying(strangers=limits) as relay, client_of(relay) as client:
        _, answer = await client.ask(Reserve())
        assert answer.limit == Limit(30, 5000)


async def test_only_addresses_that_others_can_use_are_told():
    async with running() as swarm:
        given = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/8.8.8.8/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            f"/ip4/8.8.4.4/tcp/1/p2p/{swarm.identity.peer_id}/p2p-circuit",
            "/dns4/relay.example/tcp/443/wss",
        ]
        service = RelayService(swarm, addresses=lambda: map(Multiaddr, given))
        told = [str(addr) for addr in service._advertised()]
        me = f"/p2p/{swarm.identity.peer_id}"
        assert told == [
            f"/ip4/8.8.8.8/tcp/1{me}",
            f"/dns4/relay.example/tcp/443/wss{me}",
            f"/ip4/192.168.1.2/tcp/1{me}",
        ]
        given[:] = [f"/ip4/8.8.8.8/tcp/{port}" for port in range(1, 1000)]
        assert len(service._advertised()) == 16


async def test_reservation_ends_with_the_connection():
    async with three() as (relay, target, source):
        await target.swarm.disconnect(target.relay)
        await settled(lambda: relay.service.stats.reservations == 0)
        assert relay.events[-1] == ReservationEnded(target.peer_id, "the peer has disconnected")
        assert await source.status(Connect(target.peer_id)) is Status.NO_RESERVATION
        assert not relay.swarm.registry.tags.is_protected(target.peer_id)


async def test_reservation_is_kept_while_any_connection_lasts():
    async with three() as (relay, target, source):
        (addr,) = relay.swarm.addrs
        second = await target.swarm.dial_fresh(target.relay, addr)
        connections = relay.swarm.registry.by_peer[target.peer_id]
        await settled(lambda: len(connections) == 2)
        assert relay.swarm.registry.tags.is_protected(target.peer_id)
        (first,) = (c for c in target.swarm.registry.by_peer[target.relay] if c is not second)
        first.abort("test")
        await settled(lambda: len(connections) == 1)
        near, far = await circuit(source, target)
        await near.send_all(b"hello")
        assert await far.receive_exactly(5) == b"hello"


@stands_still
async def test_reservation_runs_out(mock_clock):
    async with three(reservation_lifetime=10.0) as (relay, target, source):
        await advance(mock_clock, 6)
        assert await target.status(Reserve()) is Status.OK
        await advance(mock_clock, 6)
        assert relay.service.stats.reservations == 1
        await advance(mock_clock, 6)
        assert relay.events[-1] == ReservationEnded(target.peer_id, "it was not renewed")
        assert await source.status(Connect(target.peer_id)) is Status.NO_RESERVATION


# --- circuits ---


async def test_circuit_carries_both_ways_and_ends_one_way_at_a_time():
    async with three() as (relay, target, source):
        near, far = await circuit(source, target)
        assert target.calls == [StopConnect(source.peer_id)]
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, near, PATTERN)
            received.append(await read_all(far))
        # The other direction is still open, however long nothing comes.
        await far.send_all(b"late")
        assert await near.receive_exactly(4) == b"late"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, far, PATTERN[::-1])
            received.append(await read_all(near))
        assert received == [PATTERN, PATTERN[::-1]]
        await settled(lambda: relay.service.stats.circuits == 0)
        opened, closed = relay.events[1:]
        assert opened == CircuitOpened(source.peer_id, target.peer_id)
        assert isinstance(closed, CircuitClosed)
        sent = (closed.bytes_from_source, closed.bytes_from_target)
        assert sent == (len(PATTERN), len(PATTERN) + 4)
        assert closed.reason == "closed by its ends"
        assert relay.service.stats.bytes_total == sum(sent)
        await settled(lambda: relay.streams() == 0)


async def test_what_comes_with_the_request_or_the_answer_is_passed_on():
    async with three() as (_, target, source):
        target.answer += b"from the target"
        connection = direct_connection(source.swarm, source.relay)
        assert connection is not None
        near = await source.swarm.open_stream(source.relay, [HOP])
        await near.send_all(framed(Connect(target.peer_id)) + b"from the source")
        assert decode_hop(await near.receive_message(MAX_MESSAGE)) == HopStatus(Status.OK)
        assert await near.receive_exactly(15) == b"from the target"
        assert await target.arrived[0].receive_exactly(15) == b"from the source"


async def test_many_circuits_at_once():
    async with three(strangers=StrangerLimits(0, 0, 0, per_peer=100)) as (relay, target, source):
        ends = [await circuit(source, target) for _ in range(40)]
        assert relay.service.stats.circuits == 40
        async with trio.open_nursery() as nursery:
            for number, (near, far) in enumerate(ends):
                nursery.start_soon(send, near, PATTERN[number : 100 * KIB])
                nursery.start_soon(send, far, b"")
        for number, (near, far) in enumerate(ends):
            assert await read_all(far) == PATTERN[number : 100 * KIB]
            assert await read_all(near) == b""
        await settled(lambda: relay.service.stats.circuits == 0)


async def test_peers_that_do_not_read_cost_their_windows_and_no_more():
    async with three() as (relay, target, source):
        near, _ = await circuit(source, target)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, near)
            await settled(lambda: relay.service.stats.bytes_total > 100 * KIB)
            await wait_all_tasks_blocked(0.2)
            # The windows of both streams, which have not had much occasion to grow.
            assert relay.swarm.receive_memory.used <= 2 * MIB
            assert relay.service.stats.bytes_total <= 4 * MIB
            near.reset()


async def test_whole_connections_go_through():
    async with relaying() as relay, client_of(relay) as target, client_of(relay) as source:
        for client in (target, source):
            transport = CircuitTransport(client.swarm)
            transport.accepts_from.add(client.relay)
            client.swarm.add_transport(transport)
            client.swarm.protocols.handle_all(transport.handlers)
        assert await target.status(Reserve()) is Status.OK
        (addr,) = relay.swarm.addrs
        through = Multiaddr(f"{addr}/p2p/{target.relay}/p2p-circuit")
        connection = await source.swarm.dial(target.peer_id, [through])
        assert connection.is_relayed
        assert connection.session._relayed, "its windows grow as is good there"
        words = PATTERN[
            :200_000
        ]  # who sends first and reads then must not send more than windows hold
        assert await ask_echo(source.swarm, target.peer_id, words) == words

        # Over such a connection nobody is relayed: there is no end to such chains.
        service = RelayService(target.swarm, RelayLimits(open_to_strangers=True))
        target.swarm.protocols.handle_all(service.handlers)
        for request in (Reserve(), Connect(relay.swarm.identity.peer_id)):
            before = int(time.time())
            stream, answer = await ask_relay(connection, request)
            assert answer.status is Status.PERMISSION_DENIED
            assert answer.clock is not None
            assert before <= answer.clock <= time.time()
            await stream.aclose()
        await source.swarm.disconnect(target.peer_id)
        await settled(lambda: relay.service.stats.circuits == 0)


# --- ends that are not good ---


@pytest.mark.parametrize("who", ["source", "target"])
async def test_reset_is_passed_on(who):
    async with three() as (relay, target, source):
        ends = await circuit(source, target)
        killed, other = ends if who == "source" else ends[::-1]
        await killed.send_all(b"x")
        assert await other.receive_exactly(1) == b"x"
        killed.reset()
        assert isinstance(await fails(other), StreamResetError)
        await settled(lambda: relay.service.stats.circuits == 0 and relay.streams() == 0)


@pytest.mark.parametrize("who", ["source", "target"])
async def test_lost_connection_of_one_end_resets_the_other(who):
    async with three() as (relay, target, source):
        near, far = await circuit(source, target)
        lost, other = (source, far) if who == "source" else (target, near)
        for connection in list(lost.swarm.registry):
            connection.abort("test")
        assert isinstance(await fails(other), StreamResetError)
        await settled(lambda: relay.service.stats.circuits == 0)


@stands_still
@pytest.mark.parametrize("how", ["reset", "connection"])
async def test_end_that_is_gone_is_noticed_though_the_other_does_not_read(mock_clock, how):
    async with three() as (relay, target, source):
        near, far = await circuit(source, target)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, near)
            await settled(lambda: relay.service.stats.bytes_total > 100 * KIB)
            if how == "reset":
                near.reset()
            else:
                for connection in list(source.swarm.registry):
                    connection.abort("test")
        await advance(mock_clock, 3)
        assert relay.service.stats.circuits == 0
        closed = relay.events[-1]
        assert isinstance(closed, (CircuitClosed, ReservationEnded))
        await fails(far)


async def test_relay_that_goes_away_ends_both_ends_with_an_error():
    async with three() as (relay, target, source):
        near, far = await circuit(source, target)
        await relay.swarm.close()
        for stream in (near, far):
            await fails(stream)


# --- limits ---


async def test_circuit_moves_its_bytes_and_not_one_more():
    limits = StrangerLimits(duration=0, data=100 * KIB, rate=0)
    async with three(strangers=limits) as (relay, target, source):
        near, far = await circuit(source, target)
        assert target.calls == [StopConnect(source.peer_id, Limit(None, 100 * KIB))]
        await far.send_all(PATTERN[: 100 * KIB])  # each direction has its own count
        await near.send_all(PATTERN[: 100 * KIB])
        assert await far.receive_exactly(100 * KIB) == PATTERN[: 100 * KIB]
        assert await near.receive_exactly(100 * KIB) == PATTERN[: 100 * KIB]
        await near.send_all(b"x")
        for stream in (near, far):
            assert isinstance(await fails(stream), StreamResetError)
        await settled(lambda: relay.service.stats.circuits == 0)
        closed = relay.events[-1]
        assert isinstance(closed, CircuitClosed)
        assert closed.bytes_from_source == 100 * KIB
        assert "used up" in closed.reason


async def test_circuit_that_used_all_its_bytes_may_end_well():
    async with three(strangers=StrangerLimits(duration=0, data=1000)) as (_, target, source):
        near, far = await circuit(source, target)
        await send(near, bytes(1000))
        await send(far, b"")
        assert await read_all(far) == bytes(1000)
        assert await read_all(near) == b""


@stands_still
async def test_circuit_ends_when_its_time_is_up(mock_clock):
    async with three(strangers=StrangerLimits(duration=20, data=0)) as (relay, target, source):
        near, far = await circuit(source, target)
        assert target.calls[0].limit == Limit(20, None)
        await advance(mock_clock, 19)
        await near.send_all(b"hello")
        assert await far.receive_exactly(5) == b"hello"
        await advance(mock_clock, 2)
        for stream in (near, far):
            assert isinstance(await fails(stream), StreamResetError)
        closed = relay.events[-1]
        assert isinstance(closed, CircuitClosed)
        assert closed.reason == "its time is up"


@stands_still
@pytest.mark.parametrize(("own", "shared"), [(100 * KIB, 0), (0, 100 * KIB)])
async def test_fast_circuit_is_slowed_down_and_loses_nothing(mock_clock, own, shared):
    strangers = StrangerLimits(duration=0, data=0, rate=own)
    async with three(strangers=strangers, strangers_rate=shared) as (relay, target, source):
        near, far = await circuit(source, target)
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, near, PATTERN[:MIB])

            async def read() -> None:
                received.append(await read_all(far))

            nursery.start_soon(read)
            await advance(mock_clock, 5)
            # A quarter of a second at once, and one message on credit.
            assert relay.service.stats.bytes_total <= (5 + 0.25) * 100 * KIB + 64 * KIB
            await advance(mock_clock, 10)
        assert received == [PATTERN[:MIB]]


async def test_allowed_peers_have_limits_of_their_own():
    ids = [Identity.generate() for _ in range(2)]
    allow = tuple(identity.peer_id for identity in ids)
    async with (
        relaying(allow=allow, open_to_strangers=False, for_allowed=CircuitLimits(data=77)) as relay,
        client_of(relay, ids[0]) as target,
        client_of(relay, ids[1]) as source,
        client_of(relay) as stranger,
    ):
        assert await target.status(Reserve()) is Status.OK
        stream, answer = await source.ask(Connect(target.peer_id))
        assert answer == HopStatus(Status.OK, limit=Limit(None, 77))
        stream.reset()
        for request in (Reserve(), Connect(target.peer_id)):
            assert await stranger.status(request) is Status.PERMISSION_DENIED
        assert relay.events[-1] == Refused(
            stranger.peer_id,
            target.peer_id,
            Status.PERMISSION_DENIED,
            "the peer is not on the allow-list",
            "access",
        )
        assert relay.service.limits_hit == {"access": 2}
        assert relay.service.stats.refused_total == 2


# --- refusals ---


async def test_refusals_of_a_full_relay():
    strangers = StrangerLimits(duration=0, data=0, rate=0, per_peer=1)
    async with three(max_reservations=1, strangers=strangers) as (_, target, source):
        assert await source.status(Reserve()) is Status.RESERVATION_REFUSED
        near, _ = await circuit(source, target)
        request = Connect(target.peer_id)
        assert await source.status(request) is Status.RESOURCE_LIMIT_EXCEEDED
        near.reset()
        await settled(lambda: target.arrived[0].is_dead)
        while await source.status(request) is Status.RESOURCE_LIMIT_EXCEEDED:
            await trio.sleep(0.01)
        assert len(target.calls) == 2


async def test_refusal_of_peers_that_have_not_reserved():
    async with three() as (_, target, source):
        stranger = Identity.generate().peer_id
        for peer in (stranger, source.peer_id, source.relay):
            assert await source.status(Connect(peer)) in (
                Status.NO_RESERVATION,
                Status.CONNECTION_FAILED,
            )
        assert target.calls == []


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (encode_length_prefixed(b"\xff\xff"), Status.MALFORMED_MESSAGE),
        (encode_length_prefixed(b"\x08\x01"), Status.MALFORMED_MESSAGE),
        (b"\xff" * 10, Status.MALFORMED_MESSAGE),
        (framed(HopStatus(Status.OK)), Status.UNEXPECTED_MESSAGE),
    ],
)
async def test_nonsense_is_answered(sent, expected):
    async with relaying() as relay, client_of(relay) as client:
        stream = await client.swarm.open_stream(client.relay, [HOP])
        await stream.send_all(sent)
        await stream.send_eof()
        assert decode_hop(await stream.receive_message(MAX_MESSAGE)) == HopStatus(expected)
        assert await read_all(stream) == b""


@stands_still
async def test_request_that_does_not_come_is_not_waited_for(mock_clock):
    async with relaying() as relay, client_of(relay) as client:
        stream = await client.swarm.open_stream(client.relay, [HOP])
        await stream.send_all(b"\x02")
        await advance(mock_clock, REQUEST_TIMEOUT + 1)
        assert isinstance(await fails(stream), StreamResetError)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            framed(StopStatus(Status.PERMISSION_DENIED)),
            Status.PERMISSION_DENIED,
        ),
        (
            framed(StopStatus(Status.RESOURCE_LIMIT_EXCEEDED)),
            Status.RESOURCE_LIMIT_EXCEEDED,
        ),
        (
            framed(StopStatus(Status.CONNECTION_FAILED)),
            Status.CONNECTION_FAILED,
        ),
        (
            framed(StopStatus(Status.MALFORMED_MESSAGE)),
            Status.CONNECTION_FAILED,
        ),
        (
            framed(StopConnect(Identity.generate().peer_id)),
            Status.CONNECTION_FAILED,
        ),
        (b"\xff" * 10, Status.CONNECTION_FAILED),
    ],
)
async def test_target_that_refuses(answer, expected):
    async with three() as (relay, target, source):
        target.answer = answer
        assert await source.status(Connect(target.peer_id)) is expected
        assert relay.service.stats.circuits == 0
        assert relay.service.stats.circuits_total == 0
        assert isinstance(relay.events[-1], Refused)


@pytest.mark.parametrize("is_known", [False, True])
async def test_target_that_does_not_know_the_protocol(is_known):
    async with three() as (relay, target, source):
        target.swarm.protocols.unhandle(STOP)
        if is_known:
            (connection,) = relay.swarm.registry.by_peer[target.peer_id]
            connection.known_protocols.add(STOP)
        assert await source.status(Connect(target.peer_id)) is Status.CONNECTION_FAILED
        assert relay.service.stats.circuits == 0


@stands_still
async def test_target_that_stalls_does_not_hold_the_source(mock_clock):
    async with three() as (relay, target, source):
        target.answer = b""
        statuses: list[Status] = []
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                statuses.append(await source.status(Connect(target.peer_id)))

            nursery.start_soon(connect)
            await settled(lambda: target.arrived)
            await advance(mock_clock, STOP_TIMEOUT + 1)
        assert statuses == [Status.CONNECTION_FAILED]
        assert relay.service.stats.circuits == 0
        await settled(lambda: target.arrived[0].is_dead)


@stands_still
async def test_source_that_leaves_while_the_target_stalls(mock_clock):
    async with three() as (relay, target, source):
        target.answer = b""
        stream = await source.swarm.open_stream(source.relay, [HOP])
        await stream.send_message(encode(Connect(target.peer_id)))
        await settled(lambda: target.arrived)
        assert relay.service.stats.circuits == 1
        stream.reset()
        await advance(mock_clock, 2)
        assert relay.service.stats.circuits == 0
        await settled(lambda: target.arrived[0].is_dead)


async def test_target_that_goes_while_it_is_called():
    async with three() as (relay, target, source):
        target.answer = b""
        statuses: list[Status] = []
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                statuses.append(await source.status(Connect(target.peer_id)))

            nursery.start_soon(connect)
            await settled(lambda: target.arrived)
            for connection in list(target.swarm.registry):
                connection.abort("test")
        assert statuses == [Status.CONNECTION_FAILED]
        await settled(lambda: relay.service.stats.reservations == 0)


# --- quotas, bans and leaving ---


async def test_a_month_that_is_used_up_ends_circuits_and_says_which_limit_it_was():
    quotas = Quotas(month_per_peer=1000)
    async with relaying() as relay, client_of(relay) as target, client_of(relay) as source:
        relay.service.set_limits(RelayLimits(open_to_strangers=True), quotas)
        assert await target.status(Reserve()) is Status.OK
        near, answer = await source.ask(Connect(target.peer_id))
        assert answer.status is Status.OK
        await near.send_all(bytes(1001))
        with pytest.raises(StreamResetError):
            await near.receive_view()
        assert await source.status(Connect(target.peer_id)) is Status.RESOURCE_LIMIT_EXCEEDED
        assert relay.service.limits_hit == {"month_per_peer": 2}
        used = {u.name: (u.used, u.limit) for u in relay.service.usage()}
        assert used["month_per_peer"] == (1000, 1000)


async def test_who_is_not_served_any_more_is_let_go():
    async with relaying() as relay, client_of(relay) as target, client_of(relay) as source:
        assert await target.status(Reserve()) is Status.OK
        near, _ = await source.ask(Connect(target.peer_id))
        relay.service.access = Lists((), [source.peer_id], strangers=True)
        with trio.fail_after(60), pytest.raises(StreamResetError):
            await near.receive_view()
        relay.service.access = Lists((), [target.peer_id], strangers=True)
        with trio.fail_after(60):
            while relay.service.stats.reservations:
                await trio.sleep(0.05)
        assert await target.status(Reserve()) is Status.PERMISSION_DENIED


async def test_a_relay_that_leaves_grants_nothing_and_waits_for_its_circuits():
    async with relaying() as relay, client_of(relay) as target, client_of(relay) as source:
        assert await target.status(Reserve()) is Status.OK
        near, _ = await source.ask(Connect(target.peer_id))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.service.drain, 60.0)
            while await source.status(Reserve()) is not Status.RESERVATION_REFUSED:
                await trio.sleep(0.01)
            assert await source.status(Connect(target.peer_id)) is Status.RESOURCE_LIMIT_EXCEEDED
            await near.send_all(b"still open")
            while not target.arrived:
                await trio.sleep(0.01)
            assert bytes(await target.arrived[0].receive_view()) == b"still open"
            with trio.fail_after(60):
                near.reset()
                target.arrived[0].reset()
                while nursery.child_tasks:
                    await trio.sleep(0.01)
