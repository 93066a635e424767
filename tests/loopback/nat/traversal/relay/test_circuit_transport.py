"""Connections through a relay, as members of the swarm, and relays that misbehave."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from lattica.config import NodeConfig
from lattica.content import Publisher, fetch
from lattica.errors import (
    AddressError,
    ConnectionClosedError,
    DialError,
    LatticaError,
    ListenError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.multistream import Initiator
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, split_circuit
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import (
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
from lattica.nat.traversal.relay.server.limits import RelayLimits, StrangerLimits
from lattica.node import Node
from tests.support.freed import freed_at_once
from tests.support.nets.nets import ECHO, ask_echo, running, settled, swarm_config, unused_port
from tests.support.nets.relay_nets import (
    addr_of,
    framed,
    relayed_pair,
    relaying,
    scripted_relay,
    through,
    use_relays,
)

MIB = 1024 * 1024
UNLIMITED = RelayLimits(
    open_to_strangers=True,
    strangers_rate=0,
    for_strangers=StrangerLimits(duration=0, data=0, rate=0),
)
SOMEBODY = Identity.generate().peer_id


async def dial_through(relay: Swarm, alice: Swarm, target: Swarm | None = None) -> str:
    """Dial a peer through a relay; return why that fails."""
    peer = SOMEBODY if target is None else target.identity.peer_id
    with pytest.raises(DialError) as caught:
        await alice.dial(peer, [through(relay, peer)])
    return caught.value.attempts[0].error


# --- full members of the swarm ---


async def test_connects_through_a_relay_that_is_not_connected():
    async with relayed_pair() as pair:
        (mine,) = pair.alice.registry.by_peer[pair.bob.identity.peer_id]
        (theirs,) = pair.bob.registry.by_peer[pair.alice.identity.peer_id]
        for connection in (mine, theirs):
            assert connection.is_relayed
            assert connection.path == "relayed"
            _, relay, target = split_circuit(connection.remote_addr)
            assert (relay, target) == (pair.relay.swarm.identity.peer_id, None)
            assert kind_of(connection.local_addr) is Kind.TCP
        assert await ask_echo(pair.alice, pair.bob.identity.peer_id) == b"hello"
        assert await ask_echo(pair.bob, pair.alice.identity.peer_id) == b"hello"


async def test_many_streams_both_ways():
    async with relayed_pair(UNLIMITED) as pair, trio.open_nursery() as nursery:

        async def ask(here: Swarm, there: Swarm, number: int) -> None:
            words = random.Random(number).randbytes(number * 500)
            assert await ask_echo(here, there.identity.peer_id, words) == words

        for number in range(60):
            nursery.start_soon(ask, pair.alice, pair.bob, number)
            nursery.start_soon(ask, pair.bob, pair.alice, number)


async def test_transfer_arrives_intact():
    piece = random.Random(1).randbytes(MIB)
    received = hashlib.sha256()
    done = trio.Event()

    async def sink(stream: Stream) -> None:
        while data := await stream.receive_view():
            received.update(data)
        done.set()

    expected = hashlib.sha256()
    async with relayed_pair(UNLIMITED) as pair:
        pair.bob.protocols.handle("/sink", sink)
        async with await pair.alice.open_stream(pair.bob.identity.peer_id, ["/sink"]) as stream:
            for number in range(64):
                data = bytes([number]) + piece
                expected.update(data)
                await stream.send_all(data)
            await stream.send_eof()
            await done.wait()
    assert received.digest() == expected.digest()


async def test_slow_reader_stops_the_sender():
    async with relayed_pair(UNLIMITED) as pair:
        may_read = trio.Event()

        async def slow(stream: Stream) -> None:
            await may_read.wait()
            count = 0
            while data := await stream.receive_view():
                count += len(data)
            await stream.send_all(str(count).encode())

        pair.bob.protocols.handle("/slow", slow)
        sent = 0
        async with await pair.alice.open_stream(pair.bob.identity.peer_id, ["/slow"]) as stream:
            with trio.move_on_after(1.0):
                while True:
                    await stream.send_all(bytes(64 * 1024))
                    sent += 64 * 1024
            assert sent <= 64 * MIB
            # What was cut off by the cancellation is not counted, and not sent either.
            may_read.set()
            await stream.send_eof()
            assert int(await stream.receive_some()) >= sent


async def test_publish_and_fetch(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(random.Random(3).randbytes(9 * MIB + 5))
    async with relaying(limits=UNLIMITED) as relay:
        nat = TraversalConfig(
            relay=RelayClientConfig(relays=(str(addr_of(relay.swarm)),)),
            port_mapping=PortMappingConfig(enabled=False),
            paths=PathConfig(enabled=False),
        )
        config = NodeConfig(swarm=swarm_config(), nat=nat)
        async with Node(config) as alice, Node(config) as bob, Publisher(bob) as publisher:
            await bob.wait_reachable(60)
            ticket = await publisher.publish(source, "name")
            await alice.connect(str(through(relay.swarm, bob.swarm)))
            result = await fetch(alice, str(ticket), tmp_path / "out")
            assert result.bytes_fetched == 9 * MIB + 5
            assert alice.swarm.registry.by_peer[bob.peer_id][0].is_relayed
    assert (tmp_path / "out" / "weights").read_bytes() == (source / "weights").read_bytes()


async def test_closing_in_good_order_leaves_nothing_behind():
    async with relayed_pair() as pair:
        await pair.alice.disconnect(pair.bob.identity.peer_id)
        await settled(lambda: pair.relay.service.stats.circuits == 0)
        await settled(lambda: pair.alice.identity.peer_id not in pair.bob.registry.by_peer)
        swarms = pair.alice, pair.bob, pair.relay.swarm
        await settled(lambda: not any(c.stream_count for swarm in swarms for c in swarm.registry))
        await pair.connect()
        assert await ask_echo(pair.alice, pair.bob.identity.peer_id) == b"hello"


# --- the end of a circuit ---


async def test_relay_dies_in_mid_transfer():
    async with relayed_pair(UNLIMITED) as pair:
        errors: list[BaseException] = []
        begun, ended = trio.Event(), trio.Event()

        async def sink(stream: Stream) -> None:
            try:
                while await stream.receive_view():
                    begun.set()
                errors.append(AssertionError("the stream ended quietly"))
            except LatticaError as error:
                errors.append(error)
            ended.set()

        pair.bob.protocols.handle("/sink", sink)
        stream = await pair.alice.open_stream(pair.bob.identity.peer_id, ["/sink"])

        async def send() -> None:
            while True:
                await stream.send_all(bytes(MIB))
                if begun.is_set():
                    pair.relay.die()

        with pytest.raises((ConnectionClosedError, StreamResetError)):
            await send()
        await ended.wait()
        assert isinstance(errors[0], ConnectionClosedError | StreamResetError), errors
        await settled(lambda: pair.bob.identity.peer_id not in pair.alice.registry.by_peer)
        await settled(lambda: pair.alice.identity.peer_id not in pair.bob.registry.by_peer)


async def test_relay_cuts_a_circuit_at_its_limit():
    limits = RelayLimits(
        open_to_strangers=True, for_strangers=StrangerLimits(data=MIB, rate=0), strangers_rate=0
    )
    async with relayed_pair(limits) as pair:
        stream = await pair.alice.open_stream(pair.bob.identity.peer_id, [ECHO])

        async def read() -> None:
            while await stream.receive_view():
                pass
            raise AssertionError("the stream ended quietly")

        async with trio.open_nursery() as nursery:

            async def expect(work: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises((ConnectionClosedError, StreamResetError)):
                    await work()

            nursery.start_soon(expect, read)
            nursery.start_soon(expect, lambda: stream.send_all(bytes(4 * MIB)))


# --- dialing ---


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/1/p2p-circuit",
        f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}/p2p-circuit/p2p/{SOMEBODY}/p2p-circuit",
        f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}/p2p-circuit/tcp/1",
        "/p2p-circuit",
    ],
)
async def test_addresses_that_are_not_dialed(text):
    async with running() as swarm:
        transport = CircuitTransport(swarm)
        assert not transport.can_dial(Multiaddr(text))
        with pytest.raises(AddressError):
            split_circuit(Multiaddr(text))


async def test_nobody_listens_on_a_circuit():
    async with running() as swarm:
        transport = CircuitTransport(swarm)
        assert not transport.can_listen(Multiaddr("/p2p-circuit"))
        with pytest.raises(ListenError):
            await transport.listen(Multiaddr("/p2p-circuit"))


async def test_dials_that_make_no_sense():
    async with running() as relay, running() as alice:
        transport = use_relays(alice)
        for addr in (
            through(alice, SOMEBODY),  # we are the relay
            through(relay, relay),  # the relay is the target
            Multiaddr(f"/p2p/{SOMEBODY}/p2p-circuit/p2p/{relay.identity.peer_id}"),
            Multiaddr(f"{addr_of(relay)}/p2p-circuit"),
        ):
            with pytest.raises(AddressError):
                await transport.dial(addr)


async def test_many_dials_at_once_share_one_connection_to_the_relay():
    async with relaying() as relay, running() as alice:
        use_relays(alice)
        errors = []

        async def dial() -> None:
            peer = Identity.generate().peer_id
            with pytest.raises(DialError) as caught:
                await alice.dial(peer, [through(relay.swarm, peer)])
            errors.append(caught.value.attempts[0].error)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(dial)
        assert len(relay.swarm.registry.by_peer[alice.identity.peer_id]) == 1
        assert len(errors) == 20
        assert all("the peer has no reservation at the relay" in error for error in errors)


async def test_one_dead_address_of_the_relay_does_not_matter():
    async with relayed_pair() as pair, running() as carol:
        use_relays(carol)
        bob, relay = pair.bob.identity.peer_id, pair.relay.swarm.identity.peer_id
        dead = Multiaddr(f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{relay}/p2p-circuit")
        await carol.dial(bob, [dead, through(pair.relay.swarm, bob)])
        assert await ask_echo(carol, bob) == b"hello"


async def test_relay_that_is_not_there():
    relay = Identity.generate().peer_id
    addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{relay}/p2p-circuit")
    async with running() as alice:
        use_relays(alice)
        with freed_at_once(DialError), pytest.raises(DialError, match="ECONNREFUSED"):
            await alice.dial(SOMEBODY, [addr])


# --- relays that misbehave ---


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.NO_RESERVATION, "has no reservation at the relay"),
        (Status.CONNECTION_FAILED, "cannot reach the peer"),
        (Status.PERMISSION_DENIED, "does not allow it"),
        (Status.RESOURCE_LIMIT_EXCEEDED, "too many circuits"),
        (Status.MALFORMED_MESSAGE, "refuses the circuit"),
    ],
)
async def test_refusals_say_why(status, words):
    async def refuse(stream: Stream) -> None:
        assert decode_hop(await stream.receive_message(MAX_MESSAGE)) == Connect(SOMEBODY)
        await stream.send_message(encode(HopStatus(status)))

    async with scripted_relay(refuse) as relay, running() as alice:
        use_relays(alice)
        assert words in (error := await dial_through(relay, alice))
        assert status.name in error


BAD_ANSWERS: dict[str, bytes] = {
    "another message": framed(Reserve()),
    "a message for the other protocol": framed(StopConnect(SOMEBODY)),
    "garbage": b"\x05\xff\xff\xff\xff\xff",
    "a huge length": b"\xff\xff\xff\xff\x0f",
    "an unknown status": b"\x05\x08\x02\x28\xe7\x07",
    "nothing": b"",
    "half a message": framed(HopStatus(Status.OK))[:-1],
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_bad_answers(answer):
    async def say(stream: Stream) -> None:
        await stream.receive_message(MAX_MESSAGE)
        await stream.send_all(answer)

    async with scripted_relay(say) as relay, running() as alice:
        use_relays(alice)
        assert await dial_through(relay, alice)
        await settled(lambda: all(c.stream_count == 0 for c in alice.registry))


async def test_relay_that_resets_the_request():
    async with scripted_relay(lambda stream: _reset(stream)) as relay, running() as alice:
        use_relays(alice)
        assert "reset" in await dial_through(relay, alice)


async def _reset(stream: Stream) -> None:
    stream.reset()
    await trio.lowlevel.checkpoint()


async def test_relay_that_does_not_answer():
    async def stall(stream: Stream) -> None:
        await trio.sleep_forever()

    async with scripted_relay(stall) as relay, running() as alice:
        use_relays(alice, circuit_timeout=0.3)
        assert "has not answered within 0.3 s" in await dial_through(relay, alice)
        await settled(lambda: all(c.stream_count == 0 for c in alice.registry))


async def test_peer_that_is_no_relay():
    async with running() as relay, running() as alice:
        use_relays(alice)
        assert "does not speak" in await dial_through(relay, alice)


async def test_relay_that_connects_us_to_somebody_else():
    """It is found out by the key, whatever the relay says."""
    async with running() as carol:
        ours: list[Swarm] = []

        async def bring_to_carol(stream: Stream) -> None:
            await stream.receive_message(MAX_MESSAGE)
            onward = ours[0].registry.by_peer[carol.identity.peer_id][0].open_stream()
            onward.begin_negotiation(Initiator([STOP]))
            await onward.send_message(encode(StopConnect(stream.peer_id)))
            assert decode_stop(await onward.receive_message(MAX_MESSAGE)) == StopStatus(Status.OK)
            await stream.send_message(encode(HopStatus(Status.OK)))

            async def copy(source: Stream, sink: Stream) -> None:
                with suppress(LatticaError):
                    while data := await source.receive_some():
                        await sink.send_all(data)
                    await sink.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)

        async with scripted_relay(bring_to_carol) as relay, running() as alice:
            ours.append(relay)
            transport = use_relays(carol)
            transport.accepts_from.add(relay.identity.peer_id)
            use_relays(alice)
            await relay.dial(carol.identity.peer_id, carol.addrs)
            assert f"expected peer {SOMEBODY}" in await dial_through(relay, alice)
            assert SOMEBODY not in alice.registry.by_peer
            # By its own name it would have been let in.
            await alice.dial(carol.identity.peer_id, [through(relay, carol)])
            assert await ask_echo(alice, carol.identity.peer_id) == b"hello"


# --- circuits that relays bring ---


async def offer(relay: Swarm, bob: Swarm, words: bytes, *, end: bool = False) -> StopStatus:
    """Bring something to Bob as a relay would, and perhaps nothing after it; return the answer."""
    connection = await relay.dial(bob.identity.peer_id, bob.addrs)
    async with connection.open_stream() as stream:
        stream.begin_negotiation(Initiator([STOP]))
        await stream.send_all(words)
        if end:
            await stream.send_eof()
        answer = decode_stop(await stream.receive_message(MAX_MESSAGE))
    assert isinstance(answer, StopStatus)
    return answer


async def test_a_relay_does_not_fill_the_log(caplog):
    async with running() as relay, running() as bob:
        use_relays(bob)
        for _ in range(200):
            answer = await offer(relay, bob, framed(StopStatus(Status.OK)))
            assert answer.status is Status.UNEXPECTED_MESSAGE
    assert 1 <= caplog.text.count("inbound circuit refused") <= 21


async def test_circuits_of_relays_without_a_reservation_are_refused():
    async with running() as relay, running() as bob:
        use_relays(bob)
        answer = await offer(relay, bob, framed(StopConnect(SOMEBODY)))
        assert answer.status is Status.NO_RESERVATION


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (framed(StopStatus(Status.OK)), Status.UNEXPECTED_MESSAGE),
        (b"\x05\xff\xff\xff\xff\xff", Status.MALFORMED_MESSAGE),
        (b"\xff\xff\xff\xff\x0f", Status.MALFORMED_MESSAGE),
        (b"", Status.MALFORMED_MESSAGE),
    ],
)
async def test_bad_offers(words, status):
    async with running() as relay, running() as bob:
        use_relays(bob).accepts_from.add(relay.identity.peer_id)
        assert (await offer(relay, bob, words, end=True)).status is status
        await settled(lambda: all(c.stream_count == 0 for c in bob.registry))


async def test_offers_for_peers_that_may_not_connect():
    async with (
        running() as relay,
        running(access=AccessRules(deny_peers=(str(SOMEBODY),))) as bob,
    ):
        use_relays(bob).accepts_from.add(relay.identity.peer_id)
        for peer in (SOMEBODY, bob.identity.peer_id, relay.identity.peer_id):
            answer = await offer(relay, bob, framed(StopConnect(peer)))
            assert answer.status is Status.PERMISSION_DENIED
        await bob.set_access(AccessRules())
        assert (await offer(relay, bob, framed(StopConnect(SOMEBODY)))).status is Status.OK
        await bob.set_access(AccessRules(deny_peers=(str(SOMEBODY),)))
        answer = await offer(relay, bob, framed(StopConnect(SOMEBODY)))
        assert answer.status is Status.PERMISSION_DENIED


async def test_too_many_circuits_that_are_not_authenticated():
    async with running() as relay, running() as bob:
        transport = use_relays(bob, max_inbound_pending=3)
        transport.accepts_from.add(relay.identity.peer_id)
        connection = await relay.dial(bob.identity.peer_id, bob.addrs)
        answers, streams = [], []
        for _ in range(5):
            stream = connection.open_stream()
            streams.append(stream)
            stream.begin_negotiation(Initiator([STOP]))
            await stream.send_message(encode(StopConnect(SOMEBODY)))
            answers.append(decode_stop(await stream.receive_message(MAX_MESSAGE)))
        refused = StopStatus(Status.RESOURCE_LIMIT_EXCEEDED)
        assert answers == [StopStatus(Status.OK)] * 3 + [refused] * 2
        for stream in streams:
            stream.reset()
        await settled(lambda: not transport._arriving)
        assert (await offer(relay, bob, framed(StopConnect(SOMEBODY)))).status is Status.OK


async def test_relay_that_claims_to_bring_somebody_else():
    """The relay names Somebody, but it is Alice who comes."""

    async with running() as relay, running() as bob, running() as alice:
        use_relays(bob).accepts_from.add(relay.identity.peer_id)
        connection = await relay.dial(bob.identity.peer_id, bob.addrs)
        onward = connection.open_stream()
        onward.begin_negotiation(Initiator([STOP]))
        await onward.send_message(encode(StopConnect(SOMEBODY, Limit(60, 1000))))
        assert decode_stop(await onward.receive_message(MAX_MESSAGE)) == StopStatus(Status.OK)

        async def pass_on(stream: Stream) -> None:
            await stream.receive_message(MAX_MESSAGE)
            await stream.send_message(encode(HopStatus(Status.OK)))

            async def copy(source: Stream, sink: Stream) -> None:
                with suppress(LatticaError):
                    while data := await source.receive_some():
                        await sink.send_all(data)
                sink.reset()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)

        use_relays(alice)
        relay.protocols.handle("/libp2p/circuit/relay/0.2.0/hop", pass_on)
        # Her side may be done before Bob has looked at her key; then she loses it again.
        with suppress(DialError):
            await alice.dial(bob.identity.peer_id, [through(relay, bob)])
        await settled(lambda: bob.identity.peer_id not in alice.registry.by_peer)
        assert alice.identity.peer_id not in bob.registry.by_peer
        assert SOMEBODY not in bob.registry.by_peer
