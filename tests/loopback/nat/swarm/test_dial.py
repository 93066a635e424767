"""Connecting: by which address, to whom, and what happens when that is difficult."""

from __future__ import annotations

import socket
import traceback

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from lattica.errors import (
    AccessDeniedError,
    DialError,
    LocalProtocolError,
    NotConnectedError,
    PeerMismatchError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import to_endpoint, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules, Limits, Timeouts
from lattica.nat.mux.connection import Direction
from lattica.nat.mux.session import NOT_LET_IN
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.tcp import TcpTransport
from tests.support.nets.nets import (
    ECHO,
    advance,
    ask_echo,
    black_hole,
    mute_listener,
    open_files,
    running,
    settled,
    swarm_config,
    unused_port,
)

pytestmark = pytest.mark.usefixtures("swarm_transport")

REFUSED = "/ip4/127.0.0.1/tcp"


def addr_of(swarm: Swarm) -> Multiaddr:
    return swarm.addrs[0]


# --- one peer, one address ---


async def test_connect_dials_what_is_known_and_remembers_what_worked():
    async with running() as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        with pytest.raises(NotConnectedError, match="no address"):
            await client.connect(peer_id)
        with pytest.raises(DialError):
            await client.connect(peer_id, [Multiaddr(f"{REFUSED}/{unused_port()}")])
        assert client.address_book.addrs(peer_id) == []
        connection = await client.connect(peer_id, [addr_of(server)])
        assert await client.connect(peer_id) is connection
        await client.disconnect(peer_id)
        assert (await client.connect(peer_id)).remote_addr == addr_of(server)


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
@pytest.mark.parametrize("suffix", ["", "/ws"])
@pytest.mark.parametrize("named", [True, False])
async def test_connect_with_and_without_the_peers_id(listen, suffix, named):
    async with running(listen=(listen + suffix,)) as server, running(listen=()) as client:
        connection = await client.dial(
            server.identity.peer_id if named else None, [addr_of(server)]
        )
        assert connection.peer_id == server.identity.peer_id
        assert connection.direction is Direction.OUTBOUND
        assert connection.remote_addr == addr_of(server)
        inbound = await server.wait_connected(client.identity.peer_id)
        assert inbound.direction is Direction.INBOUND
        assert inbound.remote_addr == connection.local_addr
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        assert await ask_echo(server, client.identity.peer_id) == b"hello"


async def test_a_peer_named_in_the_address_must_be_the_one():
    async with running() as server, running() as client:
        other = Identity.generate().peer_id
        addr = addr_of(server)
        for peer_id, target in ((other, addr), (None, with_peer(addr, other))):
            with pytest.raises(DialError, match=f"expected peer {other}, but .* stale") as caught:
                await client.dial(peer_id, [target])
            assert isinstance(caught.value.attempts[0].cause, PeerMismatchError)
        with pytest.raises(DialError, match=f"the address belongs to {other}"):
            await client.dial(server.identity.peer_id, [with_peer(addr, other)])
        assert client.registry.total == 0
        await settled(lambda: not server.registry.total)
        named = with_peer(addr, server.identity.peer_id)
        assert (await client.dial(None, [named])).peer_id == server.identity.peer_id


async def test_a_connected_peer_is_not_dialed_again():
    async with running() as server, running() as client:
        first = await client.dial(server.identity.peer_id, [addr_of(server)])
        again = await client.dial(server.identity.peer_id, [Multiaddr(f"{REFUSED}/1")])
        assert again is first


@pytest.mark.only_over("tcp", "source ports are TCP's")
async def test_dialing_from_the_listening_port():
    async with running() as server, running() as client:
        connection = await client.dial(None, [addr_of(server)])
        assert connection.local_addr == addr_of(client)
    async with running() as server, running(dial_from_listen_port=False) as client:
        connection = await client.dial(None, [addr_of(server)])
        assert connection.local_addr != addr_of(client)


@pytest.mark.only_over("tcp", "source ports are TCP's")
async def test_dialing_from_a_listening_port_that_another_has_at_another_address():
    """As any program may by chance, with a connection from a port of the kernel's choice."""
    with socket.socket() as other:
        async with running() as server, running() as client:
            other.bind(("127.0.0.2", to_endpoint(addr_of(client)).port))
            connection = await client.dial(None, [addr_of(server)])
            assert connection.local_addr == addr_of(client)


async def test_nobody_connects_to_himself():
    async with running() as swarm:
        with pytest.raises(LocalProtocolError, match="itself"):
            await swarm.dial(swarm.identity.peer_id, [addr_of(swarm)])
        for from_listen_port in (True, False):
            async with running(swarm.identity, dial_from_listen_port=from_listen_port) as twin:
                with pytest.raises(DialError, match=r"own (identity|handshake)|itself"):
                    await twin.dial(None, [addr_of(twin)])
                with pytest.raises(DialError, match="own identity"):
                    await twin.dial(None, [addr_of(swarm)])
        assert swarm.registry.total == 0


# --- many addresses ---


@pytest.mark.parametrize("obstacle", [black_hole, mute_listener])
async def test_a_bad_address_beside_a_good_one_is_no_obstacle(obstacle):
    timeouts = Timeouts(dial=60, connect=60)
    with obstacle() as bad:
        async with running() as server, running(timeouts=timeouts) as client:
            connection = await client.dial(server.identity.peer_id, [bad, addr_of(server)])
            assert connection.remote_addr == addr_of(server)
            assert client.registry.total == 1


async def test_a_stranger_at_the_first_address_is_no_obstacle():
    async with running() as server, running() as stranger, running() as client:
        connection = await client.dial(
            server.identity.peer_id, [addr_of(stranger), addr_of(server)]
        )
        assert connection.peer_id == server.identity.peer_id
        await settled(lambda: not stranger.registry.total)


async def test_when_all_addresses_fail_the_error_says_why_for_each():
    access = AccessRules(deny_networks=("10.0.0.0/8",))
    with black_hole() as hole, mute_listener() as mute:
        async with (
            running() as stranger,
            running(access=access, timeouts=Timeouts(dial=3)) as client,
        ):
            peer_id = Identity.generate().peer_id
            refused = f"{REFUSED}/{unused_port()}"
            reasons = {
                refused: "ECONNREFUSED",
                str(hole): "timed out after 3 s",
                str(mute): "timed out after 3 s",
                str(addr_of(stranger)): f"but the peer at that address is "
                f"{stranger.identity.peer_id}",
                "/ip4/10.1.2.3/tcp/1": "10.0.0.0/8 of access.deny_networks",
                "/ip4/127.0.0.1/udp/1/quic-v1": "no transport",
                "/dns4/name.invalid/tcp/1": "name.invalid was not resolved",
                f"/ip4/127.0.0.1/tcp/1/p2p/{stranger.identity.peer_id}": "belongs to",
            }
            before = open_files()
            with pytest.raises(DialError) as caught:
                await client.dial(peer_id, [Multiaddr(addr) for addr in reasons])
            attempts = {attempt.address: attempt.error for attempt in caught.value.attempts}
            assert attempts.keys() == reasons.keys()
            for addr, reason in reasons.items():
                assert reason in attempts[addr]
                assert addr in str(caught.value)
            assert caught.value.target == peer_id
            await settled(lambda: open_files() == before)


async def test_no_address_and_unusable_peers():
    async with running() as swarm:
        with pytest.raises(DialError, match="no address known"):
            await swarm.dial(Identity.generate().peer_id, [])
        with assert_checkpoints(), pytest.raises(NotConnectedError, match="connect first"):
            await swarm.open_stream(Identity.generate().peer_id, [ECHO])
    for use in (
        lambda: swarm.dial(None, []),
        lambda: swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0")),
        lambda: swarm.wait_connected(Identity.generate().peer_id),
    ):
        with pytest.raises(LocalProtocolError, match="not running"):
            await use()


async def test_a_dial_under_way_is_told_that_its_swarm_has_stopped():
    """Not by a group of exceptions, which nobody who dials expects."""
    with mute_listener() as silent:
        async with running(listen=()) as client, trio.open_nursery() as nursery:

            async def dial() -> None:
                with pytest.raises(LocalProtocolError, match="not running"):
                    await client.dial(Identity.generate().peer_id, [silent])

            nursery.start_soon(dial)
            await wait_all_tasks_blocked()
            await client.close()


async def test_the_whole_of_a_connect_has_a_limit_of_its_own():
    with mute_listener() as one, mute_listener() as two:
        async with running(timeouts=Timeouts(dial=60, connect=0.3)) as client:
            with pytest.raises(DialError, match=r"gave up after 0.3 s in total"):
                await client.dial(Identity.generate().peer_id, [one, two])


# --- several callers ---


@pytest.mark.only_over("tcp", "over QUIC the dialer is done before the other end")
async def test_callers_share_a_dial():
    async with running() as server, running() as client:
        connections = []

        async def dial():
            connections.append(await client.dial(server.identity.peer_id, [addr_of(server)]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(dial)
        assert len({id(connection) for connection in connections}) == 1
        assert client.registry.total == server.registry.total == 1


async def test_callers_share_the_error_of_a_dial():
    async with running(timeouts=Timeouts(dial=0.3)) as client:
        with mute_listener() as mute:
            peer_id, errors = Identity.generate().peer_id, []

            async def dial():
                with pytest.raises(DialError) as caught:
                    await client.dial(peer_id, [mute])
                errors.append(caught.value)

            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(dial)
            assert len({(str(error), error.attempts) for error in errors}) == 1
            # Each its own, or the traceback of one would have the frames of all.
            assert len(set(map(id, errors))) == 200
            assert max(len(traceback.extract_tb(error.__traceback__)) for error in errors) < 20


async def test_cancelling_the_first_caller_does_not_fail_the_others():
    async with running() as server, running() as client:
        peer_id, connections = server.identity.peer_id, []
        with mute_listener() as mute:
            async with trio.open_nursery() as nursery:

                async def impatient():
                    with trio.CancelScope() as scope:
                        impatient_scope.append(scope)
                        await client.dial(peer_id, [mute])

                async def patient():
                    connections.append(await client.dial(peer_id, [mute, addr_of(server)]))

                impatient_scope: list[trio.CancelScope] = []
                nursery.start_soon(impatient)
                await wait_all_tasks_blocked()
                for _ in range(3):
                    nursery.start_soon(patient)
                await wait_all_tasks_blocked()
                assert not connections
                impatient_scope[0].cancel()
        assert len(connections) == 3
        assert len(set(map(id, connections))) == 1


async def test_a_caller_with_a_better_address_does_not_get_the_error_of_another():
    async with running() as server, running(timeouts=Timeouts(dial=2)) as client:
        peer_id = server.identity.peer_id
        with mute_listener() as mute:
            async with trio.open_nursery() as nursery:

                async def badly_informed():
                    with pytest.raises(DialError):
                        await client.dial(peer_id, [mute])

                nursery.start_soon(badly_informed)
                await wait_all_tasks_blocked()
                await client.dial(peer_id, [addr_of(server)])


async def test_a_peer_that_connects_to_us_meanwhile_ends_a_hopeless_dial():
    """By itself it would go on for longer than any test may take."""
    hopeless = Timeouts(dial=3600, connect=3600, handshake=3600)
    async with running(timeouts=hopeless) as one, running() as other:
        with mute_listener() as mute:
            async with trio.open_nursery() as nursery:

                async def dial():
                    connection = await one.dial(other.identity.peer_id, [mute])
                    assert connection.direction is Direction.INBOUND

                nursery.start_soon(dial)
                await wait_all_tasks_blocked()
                await other.dial(one.identity.peer_id, [addr_of(one)])


# --- one address, afresh (for hole punching) ---


async def test_a_fresh_dial_although_the_peer_is_connected():
    async with running() as server, running() as client:
        peer_id = server.identity.peer_id
        first = await client.dial(peer_id, server.addrs)
        fresh = await client.dial_fresh(peer_id, addr_of(server))
        assert fresh is not first
        assert client.registry.best(peer_id) is fresh
        assert await ask_echo(client, peer_id) == b"hello"


async def test_a_fresh_dial_in_the_responders_part():
    """The side that dials need not be the one that begins the set-up."""
    async with running() as a, running() as b:
        listener = await TcpTransport().listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))

        async def begin():
            raw = await listener.accept()
            await b.adopt(raw, Direction.OUTBOUND, a.identity.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            peer_id = b.identity.peer_id
            await a.dial_fresh(peer_id, listener.addrs[0], as_responder=True)
        assert await ask_echo(a, peer_id) == b"hello"
        assert await ask_echo(b, a.identity.peer_id) == b"hello"
        await listener.aclose()


async def test_fresh_dials_that_fail():
    limits = Limits(max_connections_per_peer=1)
    async with (
        running() as server,
        running(limits=limits) as client,
        running(timeouts=Timeouts(dial=0.1)) as impatient,
    ):
        peer_id, other = server.identity.peer_id, Identity.generate().peer_id
        with mute_listener() as mute:
            for swarm, target, addr, reason in (
                (impatient, peer_id, mute, "timed out after 0.1 s"),
                (client, peer_id, Multiaddr(f"{REFUSED}/{unused_port()}"), "ECONNREFUSED"),
                (client, other, addr_of(server), f"expected peer {other}"),
                (client, peer_id, Multiaddr("/ip4/127.0.0.1/udp/1"), "no transport"),
            ):
                with pytest.raises(DialError, match=reason) as caught:
                    await swarm.dial_fresh(target, addr)
                assert [attempt.address for attempt in caught.value.attempts] == [str(addr)]
        await client.dial_fresh(peer_id, addr_of(server))
        with pytest.raises(ResourceLimitError, match="too many connections"):
            await client.dial_fresh(peer_id, addr_of(server))


# --- both at once ---


@pytest.mark.parametrize("from_listen_port", [True, False])
@pytest.mark.only_over("tcp", "QUIC needs a clock that goes on")
async def test_two_that_dial_each_other_keep_one_connection(mock_clock, from_listen_port):
    """Whatever the order of events, both end with the same one, and nothing in use breaks."""
    simultaneous = 0
    for _ in range(8):
        async with (
            running(dial_from_listen_port=from_listen_port) as a,
            running(dial_from_listen_port=from_listen_port) as b,
        ):
            sides = ((a, b.identity.peer_id, addr_of(b)), (b, a.identity.peer_id, addr_of(a)))
            streams: list[Stream] = []

            async def connect(swarm, peer_id, addr, streams=streams):
                await swarm.dial(peer_id, [addr])
                streams.append(await swarm.open_stream(peer_id, [ECHO]))

            async with trio.open_nursery() as nursery:
                for side in sides:
                    nursery.start_soon(connect, *side)
            await wait_all_tasks_blocked(0.005)
            simultaneous += a.registry.total == b.registry.total == 2
            if a.registry.total == 2:
                # Streams on the one that is given up keep it.
                used = {id(stream.connection) for stream in streams}
                await advance(mock_clock, 10)
                assert a.registry.total == b.registry.total
                assert len(used) <= 2
            for stream in streams:
                await stream.send_all(b"still here")
                assert await stream.receive_exactly(10) == b"still here"
                await stream.send_eof()
                assert await stream.receive_some() == b""
                await stream.aclose()
            await advance(mock_clock, 10)
            (left,), (right,) = a.registry, b.registry
            assert left.retired_at is None
            assert right.retired_at is None
            assert (left.local_addr, left.remote_addr) == (right.remote_addr, right.local_addr)
            for swarm, peer_id, _ in sides:
                assert await ask_echo(swarm, peer_id) == b"hello"
    if not from_listen_port:
        assert simultaneous, "the dials never met: nothing was tested"


# --- who may ---


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise"])
async def test_denied_and_not_allowed_peers(listen: str) -> None:
    friend, stranger = Identity.generate(), Identity.generate()
    for access in (
        AccessRules(deny_peers=(str(stranger.peer_id),)),
        AccessRules(allow_peers=(str(friend.peer_id),)),
    ):
        async with (
            running(listen=(listen,), access=access) as guarded,
            running(friend) as good,
            running(stranger) as bad,
        ):
            with pytest.raises(AccessDeniedError, match="access"):
                await guarded.dial(stranger.peer_id, [addr_of(bad)])
            with pytest.raises(DialError, match=r"access\."):
                await guarded.dial(None, [addr_of(bad)])
            # He is refused once he has shown who he is.
            refused = await bad.dial(None, [addr_of(guarded)])
            await settled(lambda: not bad.registry.total)
            assert refused.closed_reason == NOT_LET_IN
            assert guarded.registry.total == 0
            await good.dial(None, [addr_of(guarded)])
            await guarded.wait_connected(friend.peer_id)
            assert await ask_echo(good, guarded.identity.peer_id) == b"hello"


async def test_denied_and_not_allowed_networks():
    for access in (
        AccessRules(deny_networks=("127.0.0.0/8",)),
        AccessRules(allow_networks=("::1/128", "10.0.0.0/8")),
    ):
        listen = ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")
        async with running(access=access, listen=listen) as guarded, running() as other:
            v4, v6 = guarded.addrs
            with pytest.raises(DialError, match=r"access.*_networks"):
                await guarded.dial(None, [addr_of(other)])
            with pytest.raises(DialError, match="closed"):
                await other.dial(None, [v4])
            assert guarded.registry.total == 0
            await other.dial(None, [v6])


# --- private networks ---


async def test_private_networks():
    key, other = bytes(range(32)), bytes(32)
    async with (
        running(private_network_key=key) as member,
        running(private_network_key=key) as peer,
        running(private_network_key=other) as foreign,
        running() as public,
    ):
        await peer.dial(member.identity.peer_id, [addr_of(member)])
        assert await ask_echo(peer, member.identity.peer_id, bytes(300_000)) == bytes(300_000)
        # Each is told why, whatever the random bytes are, and not by a time limit.
        # Over TCP it is what this side makes of the bytes, over QUIC what the handshake says.
        for dialer, server, hint in (
            (foreign, member, "another private network key, or none|this private network's key"),
            (public, member, "or is in a private network|this private network's key"),
            (member, public, "another private network key, or none|and this node is not"),
        ):
            with pytest.raises(DialError, match=hint):
                await dialer.dial(server.identity.peer_id, [addr_of(server)])
        assert public.registry.total == foreign.registry.total == 0
        assert member.registry.total == 1


# --- limits and ends ---


async def test_when_the_peer_refuses_one_connection_more_the_older_one_serves_on():
    async with running(limits=Limits(max_connections_per_peer=1)) as server, running() as client:
        await client.dial(None, [addr_of(server)])
        second = await client.dial(None, [addr_of(server)])
        await settled(lambda: second.closed_reason is not None or client.registry.total == 1)
        assert await ask_echo(client, server.identity.peer_id) == b"hello"


async def test_dialing_one_peer_again_and_again_by_bare_address():
    """Each makes a new connection; over the limit the caller gets one that is there."""
    async with running() as server, running(limits=Limits(max_connections_per_peer=2)) as client:
        for _ in range(5):
            connection = await client.dial(None, [addr_of(server)])
            assert connection.closed_reason is None
            assert connection in list(client.registry)
        assert client.registry.total <= 2


async def test_a_swarm_that_stops_takes_no_new_connection():
    async with running() as server:
        client = Swarm(Identity.generate(), swarm_config())
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            await client.close()
        assert client.registry.total == 0
        with pytest.raises((LocalProtocolError, ResourceLimitError)):
            await client.dial(server.identity.peer_id, [addr_of(server)])
