"""AutoNAT v2 between real swarms on loopback, and servers and clients that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lattica.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.autonat.client import AutonatClient
from lattica.nat.traversal.autonat.client_core import AddressReachability, Reachability
from lattica.nat.traversal.autonat.config import AutonatClientConfig, AutonatServerConfig
from lattica.nat.traversal.autonat.messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_CHUNK,
    MAX_DIAL_BACK,
    MAX_MESSAGE,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    ResponseStatus,
    decode,
    decode_dial_back,
    encode,
    encode_dial_back,
    encode_dial_back_response,
)
from lattica.nat.traversal.autonat.server import AutonatServer
from tests.support.nets import nets

LAB_SERVER = AutonatServerConfig(allow_private=True, dial_data_delay=0.0)
LAB_CLIENT = AutonatClientConfig(allow_private=True, dial_back_grace=0.2)
PATIENCE = 30.0
BOTH = (*nets.LISTEN_ON["tcp"], *nets.LISTEN_ON["quic"])
OK = DialResponse(ResponseStatus.OK, 0, DialStatus.OK)


@asynccontextmanager
async def serving(config: AutonatServerConfig = LAB_SERVER) -> AsyncIterator[Swarm]:
    """A swarm that is an AutoNAT server."""
    async with nets.running() as swarm:
        swarm.protocols.handle_all(AutonatServer(swarm, config).handlers)
        yield swarm


@asynccontextmanager
async def asking(
    swarm: Swarm,
    servers: Sequence[Swarm],
    addrs: Sequence[Multiaddr],
    config: AutonatClientConfig = LAB_CLIENT,
) -> AsyncIterator[tuple[AutonatClient, list[AddressReachability]]]:
    """A client that has addresses checked by servers; and the changes that it has told."""
    for server in servers:
        await swarm.dial(server.identity.peer_id, server.addrs)
    changes: list[AddressReachability] = []
    client = AutonatClient(
        swarm,
        lambda: [server.identity.peer_id for server in servers],
        lambda: addrs,
        config,
        on_change=changes.append,
    )
    swarm.protocols.handle_all(client.handlers)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            yield client, changes
            nursery.cancel_scope.cancel()


def reachability(client: AutonatClient, addr: Multiaddr) -> Reachability | None:
    result = client.results.get(addr)
    return None if result is None else result.reachability


async def known(client: AutonatClient, addr: Multiaddr) -> AddressReachability:
    """The first result of an address."""
    await nets.settled(lambda: reachability(client, addr) not in (None, Reachability.UNKNOWN))
    return client.results[addr]


class TestBothOfOurs:
    async def test_an_address_where_we_listen_is_reachable(self) -> None:
        async with (
            serving() as server,
            nets.running(listen=BOTH) as swarm,
            asking(swarm, [server], swarm.addrs) as (client, changes),
        ):
            for addr in swarm.addrs:
                result = await known(client, addr)
                assert result.reachability is Reachability.REACHABLE
                assert (result.agreeing, result.asked) == (1, 1)
            assert {change.addr for change in changes} == set(swarm.addrs)

    async def test_the_server_knows_that_the_nonce_has_arrived(self, caplog: Any) -> None:
        caplog.set_level("DEBUG", "lattica.nat.traversal.autonat")
        async with (
            serving() as server,
            nets.running(listen=BOTH) as swarm,
            asking(swarm, [server], swarm.addrs) as (client, _),
        ):
            for addr in swarm.addrs:
                await known(client, addr)
                assert f"dialed back: OK addr={addr}" in caplog.text

    async def test_an_address_where_nobody_listens_is_not(self) -> None:
        closed = Multiaddr(f"/ip4/127.0.0.1/tcp/{nets.unused_port()}")
        async with (
            serving() as server,
            nets.running() as swarm,
            asking(swarm, [server], [closed]) as (client, _),
        ):
            result = await known(client, closed)
            assert result.reachability is Reachability.UNREACHABLE

    async def test_an_address_where_somebody_else_listens_is_not(self) -> None:
        async with (
            serving() as server,
            nets.running() as swarm,
            nets.running() as other,
            asking(swarm, [server], other.addrs) as (client, _),
        ):
            result = await known(client, other.addrs[0])
            assert result.reachability is Reachability.UNREACHABLE

    async def test_two_servers_agree(self) -> None:
        async with (
            serving() as one,
            serving() as two,
            nets.running() as swarm,
            asking(swarm, [one, two], swarm.addrs) as (client, _),
        ):
            result = await known(client, swarm.addrs[0])
            assert result.reachability is Reachability.REACHABLE
            assert result.agreeing == 2

    async def test_dial_data_is_sent_for_another_address(self) -> None:
        # The server sees us at 127.0.0.1.
        addr = Multiaddr(f"/ip4/127.0.0.2/tcp/{nets.unused_port()}")
        async with serving() as server, nets.running() as swarm:
            await swarm.listen(addr)
            async with asking(swarm, [server], [addr]) as (client, _):
                result = await known(client, addr)
                assert result.reachability is Reachability.REACHABLE

    async def test_the_connection_to_the_server_stays_in_use(self) -> None:
        async with serving() as server, nets.running() as swarm:
            peer_id = server.identity.peer_id
            async with asking(swarm, [server], swarm.addrs) as (client, _):
                first = swarm.registry.best(peer_id)
                await known(client, swarm.addrs[0])
                await nets.settled(lambda: len(swarm.registry.by_peer[peer_id]) == 1)
                assert swarm.registry.best(peer_id) is first
                assert len(server.registry.by_peer[swarm.identity.peer_id]) == 1

    async def test_the_dial_back_comes_from_a_port_of_its_own(self) -> None:
        async with serving() as server, nets.running(listen=BOTH) as swarm:
            inbound: list[Multiaddr] = []

            async def note(connection: Any) -> None:
                if connection.direction is Direction.INBOUND:
                    inbound.append(connection.remote_addr)

            swarm.on_connected.append(note)
            async with asking(swarm, [server], swarm.addrs) as (client, _):
                for addr in swarm.addrs:
                    await known(client, addr)
                ports = {to_endpoint(addr).port for addr in server.listen_addrs}
                assert len(inbound) == 2
                assert not ports & {to_endpoint(addr).port for addr in inbound}

    async def test_all_is_checked_anew_when_the_network_changes(self) -> None:
        async with (
            serving() as server,
            nets.running() as swarm,
            asking(swarm, [server], swarm.addrs) as (client, changes),
        ):
            await known(client, swarm.addrs[0])
            client.network_changed()
            assert reachability(client, swarm.addrs[0]) is Reachability.UNKNOWN
            await known(client, swarm.addrs[0])
            assert [change.reachability.value for change in changes] == [
                "reachable",
                "unknown",
                "reachable",
            ]

    async def test_the_network_may_change_at_any_time(self) -> None:
        """Before it runs, whatever it is doing, again and again, and when it has ended."""
        busy = replace(LAB_SERVER, per_minute_and_peer=1000, per_minute_and_network=1000)
        config = replace(LAB_CLIENT, server_pause_min=0.1, server_pause_max=0.1)
        async with serving(busy) as server, nets.running(listen=BOTH) as swarm:
            told: list[AddressReachability] = []

            def on_change(result: AddressReachability) -> None:
                told.append(result)
                if len(told) < 5 and result.reachability is not Reachability.UNKNOWN:
                    client.network_changed()  # even while a result is told

            await swarm.dial(server.identity.peer_id, server.addrs)
            client = AutonatClient(
                swarm,
                lambda: [server.identity.peer_id],
                lambda: swarm.addrs,
                config,
                on_change=on_change,
            )
            swarm.protocols.handle_all(client.handlers)
            client.network_changed()
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    for number in range(30):
                        await trio.sleep(0.002 * (number % 3))
                        client.network_changed()
                    for addr in swarm.addrs:
                        result = await known(client, addr)
                        assert result.reachability is Reachability.REACHABLE
                    await nets.settled(client.is_idle)
                    nursery.cancel_scope.cancel()
            client.network_changed()
            assert {reachability(client, addr) for addr in swarm.addrs} == {Reachability.UNKNOWN}

    async def test_a_peer_without_the_protocol_is_no_server(self) -> None:
        async with (
            nets.running() as plain,
            serving() as server,
            nets.running() as swarm,
            asking(swarm, [plain, server], swarm.addrs) as (client, _),
        ):
            result = await known(client, swarm.addrs[0])
            assert (result.agreeing, result.asked) == (1, 1)

    async def test_only_configured_servers_are_asked(self) -> None:
        async with serving() as server, serving() as other, nets.running() as swarm:
            asked: list[Stream] = []

            async def handler(stream: Stream) -> None:
                asked.append(stream)

            other.protocols.handle(DIAL_REQUEST, handler)
            await swarm.dial(other.identity.peer_id, other.addrs)
            async with asking(swarm, [server], swarm.addrs) as (client, _):
                await known(client, swarm.addrs[0])
            assert asked == []


async def ask(swarm: Swarm, server: PeerId, *messages: Message | bytes) -> list[Message]:
    """Send messages to a server, and return its answers to the end of the stream."""
    answers: list[Message] = []
    async with await swarm.open_stream(server, [DIAL_REQUEST]) as stream:
        for message in messages:
            if isinstance(message, bytes):
                await stream.send_all(message)
            else:
                await stream.send_message(encode(message))
        while True:
            try:
                answers.append(decode(await stream.receive_message(MAX_MESSAGE)))
            except LatticaError:
                return answers


class TestTheServer:
    async def test_says_which_address_it_has_dialed(self) -> None:
        addrs = (None, Multiaddr("/dns4/example.org/tcp/1"), Multiaddr("/ip4/127.0.0.1/tcp/0"))
        async with serving() as server, nets.running() as swarm:
            await swarm.dial(server.identity.peer_id, server.addrs)
            request = DialRequest((*addrs, *swarm.addrs), 7)
            answers = await ask(swarm, server.identity.peer_id, request)
            # Nobody takes the nonce here.
            assert answers == [
                DialResponse(ResponseStatus.OK, 3, DialStatus.E_DIAL_BACK_ERROR),
            ]

    async def test_does_not_dial_private_addresses(self) -> None:
        async with serving(AutonatServerConfig()) as server, nets.running() as swarm:
            await swarm.dial(server.identity.peer_id, server.addrs)
            answers = await ask(swarm, server.identity.peer_id, DialRequest(swarm.addrs, 7))
            assert answers == [DialResponse(ResponseStatus.E_DIAL_REFUSED)]
            assert len(swarm.registry.by_peer[server.identity.peer_id]) == 1

    async def test_does_not_dial_what_its_owner_forbids(self) -> None:
        rules = replace(nets.swarm_config().access, deny_networks=("127.0.0.9/32",))
        async with nets.running(access=rules) as server, nets.running() as swarm:
            server.protocols.handle_all(AutonatServer(server, LAB_SERVER).handlers)
            await swarm.dial(server.identity.peer_id, server.addrs)
            request = DialRequest((Multiaddr("/ip4/127.0.0.9/tcp/1"),), 7)
            chunks = [DialDataResponse(bytes(MAX_CHUNK))] * 25
            answers = await ask(swarm, server.identity.peer_id, request, *chunks)
            assert isinstance(answers[0], DialDataRequest)
            assert answers[1:] == [DialResponse(ResponseStatus.E_DIAL_REFUSED)]

    async def test_has_limits(self) -> None:
        limited = replace(LAB_SERVER, per_minute_and_peer=2)
        async with serving(limited) as server, nets.running() as swarm:
            await swarm.dial(server.identity.peer_id, server.addrs)
            request = DialRequest((Multiaddr("/dns4/example.org/tcp/1"),), 7)
            found = [(await ask(swarm, server.identity.peer_id, request))[0] for _ in range(3)]
            refused, rejected = ResponseStatus.E_DIAL_REFUSED, ResponseStatus.E_REQUEST_REJECTED
            assert found == [DialResponse(status) for status in (refused, refused, rejected)]

    async def test_gives_up_on_an_asker_who_says_nothing(self, mock_clock: MockClock) -> None:
        async with serving() as server, nets.running() as swarm:
            await swarm.dial(server.identity.peer_id, server.addrs)
            stream = await swarm.open_stream(server.identity.peer_id, [DIAL_REQUEST])
            ended = trio.Event()

            async def wait() -> None:
                with pytest.raises(LatticaError):
                    await stream.receive_some()
                ended.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await nets.advance(mock_clock, LAB_SERVER.request_timeout + 1)
                await ended.wait()

    @pytest.mark.parametrize(
        "nonsense",
        [b"\x05hello", b"\xff\xff\xff\x7f", OK, DialDataResponse(b"x" * 200)],
    )
    async def test_resets_nonsense(self, nonsense: Message | bytes) -> None:
        async with serving() as server, nets.running() as swarm:
            await swarm.dial(server.identity.peer_id, server.addrs)
            assert await ask(swarm, server.identity.peer_id, nonsense) == []
            request = DialRequest(swarm.addrs, 7)
            assert await ask(swarm, server.identity.peer_id, request) != []

    @pytest.mark.parametrize("answers", [False, True])
    async def test_how_a_peer_ends_after_the_nonce(self, answers: bool) -> None:
        """rust-libp2p resets the stream behind its answer, which may be lost by that."""
        nonces: list[int] = []

        async def take(stream: Stream) -> None:
            nonces.append(decode_dial_back(await stream.receive_message(MAX_DIAL_BACK)))
            if answers:
                await stream.send_message(encode_dial_back_response())
            stream.reset()

        async with serving() as server, nets.running() as swarm:
            swarm.protocols.handle(DIAL_BACK, take)
            await swarm.dial(server.identity.peer_id, server.addrs)
            answer = await ask(swarm, server.identity.peer_id, DialRequest(swarm.addrs, 7))
        assert nonces == [7]
        assert answer == [OK]

    async def test_a_peer_that_does_not_take_the_nonce(self) -> None:
        async def refuse(stream: Stream) -> None:
            await stream.receive_message(MAX_DIAL_BACK)
            await stream.send_all(b"\x02\x08\x01")

        async with serving() as server, nets.running() as swarm:
            swarm.protocols.handle(DIAL_BACK, refuse)
            await swarm.dial(server.identity.peer_id, server.addrs)
            answer = await ask(swarm, server.identity.peer_id, DialRequest(swarm.addrs, 7))
        assert answer == [DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_BACK_ERROR)]

    async def test_tells_of_a_dial_that_meets_a_mute_listener(self) -> None:
        quick = replace(LAB_SERVER, dial_timeout=0.1)
        with nets.mute_listener() as addr:
            async with serving(quick) as server, nets.running() as swarm:
                await swarm.dial(server.identity.peer_id, server.addrs)
                answers = await ask(swarm, server.identity.peer_id, DialRequest((addr,), 7))
        assert answers == [DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_ERROR)]


class FakeServer:
    """Answers as it is told to. `before` runs between request and answer."""

    def __init__(self, swarm: Swarm, *answers: Message) -> None:
        self.swarm = swarm
        self.answers = answers
        self.requests: list[DialRequest] = []
        self.received = 0
        swarm.protocols.handle(DIAL_REQUEST, self.serve)

    async def before(self, stream: Stream, request: DialRequest) -> None:
        await trio.lowlevel.checkpoint()

    async def serve(self, stream: Stream) -> None:
        request = decode(await stream.receive_message(MAX_MESSAGE))
        assert isinstance(request, DialRequest)
        self.requests.append(request)
        await self.before(stream, request)
        for answer in self.answers:
            await stream.send_message(encode(answer))
            while isinstance(answer, DialDataRequest) and self.received < answer.num_bytes:
                chunk = decode(await stream.receive_message(MAX_MESSAGE))
                assert isinstance(chunk, DialDataResponse)
                self.received += len(chunk.data)


async def deliver(connection: Any, nonce: int) -> bytes:
    """Send a nonce on a connection, and return the answer; empty for a reset."""
    stream = await connection.open(DIAL_BACK)
    await stream.send_message(encode_dial_back(nonce))
    try:
        return await stream.receive_message(MAX_DIAL_BACK)
    except LatticaError:
        return b""


class TestTheClient:
    async def outcome(self, fake: FakeServer, honest: Swarm) -> AddressReachability:
        """What a client believes that asks both servers."""
        async with (
            nets.running() as swarm,
            asking(swarm, [fake.swarm, honest], swarm.addrs) as (client, _),
        ):
            return await known(client, swarm.addrs[0])

    async def test_a_server_that_lies_does_not_count(self, caplog: Any) -> None:
        async with nets.running() as liar, nets.running() as swarm:
            fake = FakeServer(liar, OK)
            async with asking(swarm, [liar], swarm.addrs) as (client, changes):
                await nets.settled(lambda: "claims what did not happen" in caplog.text)
                assert reachability(client, swarm.addrs[0]) is Reachability.UNKNOWN
                client.look_again()
                await nets.settled(lambda: len(fake.requests) == 1)
            assert changes == []

    async def test_the_honest_one_is_believed(self) -> None:
        async with nets.running() as liar, serving() as honest:
            result = await self.outcome(FakeServer(liar, OK), honest)
            assert result.reachability is Reachability.REACHABLE
            assert (result.agreeing, result.asked) == (1, 1)

    @pytest.mark.parametrize(
        "answers",
        [
            (DialDataRequest(0, 100_001),),
            (DialDataRequest(1, 40_000),),
            (DialRequest((), 1),),
            (DialResponse(ResponseStatus.OK, 1, DialStatus.E_DIAL_ERROR),),
            (DialResponse(ResponseStatus.E_INTERNAL_ERROR),),
            (DialResponse(ResponseStatus.E_DIAL_REFUSED),),
            (DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_BACK_ERROR),),
            (),
        ],
        ids=str,
    )
    async def test_nonsense_does_not_count(self, answers: tuple[Message, ...]) -> None:
        async with nets.running() as other, serving() as honest:
            fake = FakeServer(other, *answers)
            result = await self.outcome(fake, honest)
            assert result.reachability is Reachability.REACHABLE
            assert result.asked == 1
            assert fake.received == 0

    async def test_dial_data_is_what_was_asked_for(self) -> None:
        unreachable = DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_ERROR)
        async with nets.running() as other, nets.running() as swarm:
            fake = FakeServer(other, DialDataRequest(0, 100_000), unreachable)
            async with asking(swarm, [other], swarm.addrs) as (client, _):
                result = await known(client, swarm.addrs[0])
                assert result.reachability is Reachability.UNREACHABLE
            assert fake.received == 100_000

    async def test_a_nonce_on_the_old_connection_is_no_proof(self, caplog: Any) -> None:
        class Lazy(FakeServer):
            async def before(self, stream: Stream, request: DialRequest) -> None:
                self.answer = await deliver(stream.connection, request.nonce)

        async with nets.running() as lazy, nets.running() as swarm:
            caplog.set_level("DEBUG", "lattica.nat.traversal.autonat")
            fake = Lazy(lazy, OK)
            async with asking(swarm, [lazy], swarm.addrs) as (client, _):
                await nets.settled(lambda: "neither is shown" in caplog.text)
                assert reachability(client, swarm.addrs[0]) is Reachability.UNKNOWN
            assert fake.answer  # it did arrive

    async def test_a_dial_back_to_another_address_is_no_proof(self, caplog: Any) -> None:
        class Sloppy(FakeServer):
            other: Multiaddr

            async def before(self, stream: Stream, request: DialRequest) -> None:
                async with self.swarm.dial_unshared(stream.peer_id, self.other) as connection:
                    self.answer = await deliver(connection, request.nonce)

        addrs = (*nets.LISTEN_ON["tcp"], *nets.LISTEN_ON["tcp"])
        async with nets.running() as sloppy, nets.running(listen=addrs) as swarm:
            caplog.set_level("DEBUG", "lattica.nat.traversal.autonat")
            fake = Sloppy(sloppy, OK)
            asked, fake.other = swarm.addrs
            async with asking(swarm, [sloppy], [asked]) as (client, _):
                await nets.settled(lambda: "neither is shown" in caplog.text)
                assert reachability(client, asked) is Reachability.UNKNOWN
            assert fake.answer

    async def test_a_nonce_that_was_not_asked_for_is_reset(self) -> None:
        async with (
            serving() as server,
            nets.running() as swarm,
            nets.running() as stranger,
            asking(swarm, [server], []),
        ):
            connection = await stranger.dial(swarm.identity.peer_id, swarm.addrs)
            assert await deliver(connection, 12345) == b""
            stream = await connection.open(DIAL_BACK)
            await stream.send_all(b"\xff\xff\xff\x7f")
            with pytest.raises((LatticaError, RemoteProtocolError)):
                await stream.receive_message(MAX_DIAL_BACK)

    async def test_ends_cleanly_in_the_middle_of_a_check(self) -> None:
        class Silent(FakeServer):
            async def before(self, stream: Stream, request: DialRequest) -> None:
                await trio.sleep_forever()

        async with nets.running() as silent, nets.running() as swarm:
            fake = Silent(silent)
            async with asking(swarm, [silent], swarm.addrs) as (_, changes):
                await nets.settled(lambda: fake.requests)
            assert changes == []
            assert swarm.on_connected == []
