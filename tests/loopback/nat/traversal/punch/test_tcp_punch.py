"""TCP hole punching with real swarms: on loopback, where there is no NAT but everything else."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio

from lattica.errors import DialError, IncompleteReadError, RemoteProtocolError, StreamResetError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.tcp import TcpConn
from lattica.nat.traversal.punch import reverse_messages
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.dcutr.messages import (
    DCUTR,
    MAX_MESSAGE,
    Connect,
    Sync,
    decode,
    encode,
)
from lattica.nat.traversal.punch.dcutr.strategy import DcutrStrategy
from lattica.nat.traversal.punch.dcutr.tcp_punch import punch
from lattica.nat.traversal.punch.direct import DirectStrategy
from lattica.nat.traversal.punch.exchange import open_on
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.own_side import OwnSide
from lattica.nat.traversal.punch.reverse_messages import REVERSE
from tests.support.nets.nets import (
    ask_echo,
    mute_listener,
    open_files,
    running,
    settled,
    unused_port,
)
from tests.support.nets.relayed import RelayedPair, relayed_pair

HERE = PunchConfig(allow_loopback=True, window=10.0, retry_interval=0.02)
BRIEF = PunchConfig(allow_loopback=True, window=0.2, retry_interval=0.02)
PATIENCE = 2.0


def closed() -> Multiaddr:
    """An address that refuses."""
    return Multiaddr(f"/ip4/127.0.0.1/tcp/{unused_port()}")


async def punch_from(
    swarm: Swarm,
    other: Swarm,
    addrs: Sequence[Multiaddr],
    *,
    leads: bool,
    config: PunchConfig = HERE,
) -> Connection:
    return await punch(
        swarm,
        other.identity.peer_id,
        addrs,
        config,
        leads=leads,
        patience=PATIENCE,
        rng=random.Random(1),
    )


async def refused(connection: Connection, protocol: str) -> None:
    """The other end speaks the protocol, but not here."""

    async def try_it() -> None:
        stream = await open_on(connection, protocol)
        await stream.receive_some()

    with pytest.raises(StreamResetError):
        await try_it()


# --- one round ---


async def test_both_dial_at_once():
    async with running() as a, running() as b, trio.open_nursery() as nursery:
        found = []

        async def one(swarm: Swarm, other: Swarm, leads: bool) -> None:
            found.append(await punch_from(swarm, other, other.listen_addrs, leads=leads))

        nursery.start_soon(one, a, b, True)
        nursery.start_soon(one, b, a, False)
        await settled(lambda: len(found) == 2)
        assert {connection.path for connection in found} == {"direct-tcp"}
        assert await ask_echo(a, b.identity.peer_id) == b"hello"
        assert await ask_echo(b, a.identity.peer_id) == b"hello"


@pytest.mark.parametrize("leads", [True, False])
async def test_the_other_side_has_not_dialed_yet(leads):
    """Its listening socket takes the connection: also a follower gets through then."""
    async with running() as a, running() as b:
        connection = await punch_from(a, b, b.listen_addrs, leads=leads)
        assert connection.direction is Direction.OUTBOUND
        assert to_endpoint(connection.local_addr).port == to_endpoint(a.listen_addrs[0]).port
        assert await ask_echo(b, a.identity.peer_id) == b"hello"


async def test_a_follower_takes_what_the_leader_begins():
    """Played by hand, as libp2p has it: the leader is the initiator of the set-up."""
    async with running() as a, running() as b:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            place = Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")
            found = []

            async def follow() -> None:
                found.append(await punch_from(a, b, [place], leads=False))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await trio.lowlevel.wait_readable(listener)
                sock, _ = listener.accept()
                sock.setblocking(False)
                await b.adopt(TcpConn(sock), Direction.OUTBOUND, a.identity.peer_id)
        assert found[0].direction is Direction.INBOUND
        assert await ask_echo(b, a.identity.peer_id) == b"hello"


async def test_refused_addresses_are_tried_again_until_one_answers():
    port = unused_port()
    async with running() as a, running(listen=()) as b, trio.open_nursery() as nursery:
        found = []

        async def run() -> None:
            addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")
            found.append(await punch_from(a, b, [addr], leads=True))

        nursery.start_soon(run)
        await trio.sleep(0.1)
        await b.listen(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"))
        await settled(lambda: found)


async def test_what_is_tried_is_limited():
    config = PunchConfig(window=30.0, retry_interval=0.001, max_tries=5)
    async with running() as a, running() as b:
        addrs = [closed(), closed()]
        with pytest.raises(DialError) as caught:
            await punch_from(a, b, addrs, leads=True, config=config)
        assert [attempt.address for attempt in caught.value.attempts] == [str(x) for x in addrs]
        assert "ECONNREFUSED" in str(caught.value)


async def test_somebody_else_answers():
    """Another node, and one that says nothing, at addresses of the peer's; and then the peer."""
    async with running() as a, running() as b, running() as other:
        with mute_listener() as mute:
            addrs = [*other.listen_addrs, mute, *b.listen_addrs]
            connection = await punch_from(a, b, addrs, leads=True)
            assert connection.peer_id == b.identity.peer_id


@pytest.mark.parametrize("leads", [True, False])
async def test_nothing_is_left_behind(leads):
    async with running() as a, running() as b:
        await settled(lambda: True)
        before = open_files()
        with mute_listener() as mute:
            with pytest.raises(DialError):
                await punch_from(a, b, [closed()], leads=leads, config=BRIEF)
            with trio.move_on_after(0.1) as scope:
                await punch_from(a, b, [closed(), mute], leads=leads)
            assert scope.cancelled_caught
        await settled(lambda: open_files() == before)


async def test_forbidden_networks_are_not_dialed():
    rules = AccessRules(deny_networks=("127.0.0.0/8",))
    async with running(access=rules) as a, running() as b:
        with pytest.raises(DialError, match="deny_networks"):
            await punch_from(a, b, b.listen_addrs, leads=True)


async def test_no_way_dials_what_the_access_rules_forbid():
    rules = AccessRules(deny_networks=("127.0.0.2/32",))
    forbidden, allowed = (Multiaddr(f"/ip4/127.0.0.{n}/tcp/9") for n in (2, 3))
    async with running(access=rules) as a, running() as b:
        side = OwnSide(a, [Kind.TCP], allow_loopback=True)
        assert side.dialable([forbidden, allowed], b.identity.peer_id) == [allowed]
        await a.set_access(AccessRules(deny_networks=("127.0.0.3/32",)))
        assert side.dialable([forbidden, allowed], b.identity.peer_id) == [forbidden]


async def test_no_addresses_at_all():
    async with running() as a, running() as b:
        with pytest.raises(DialError):
            await punch_from(a, b, [], leads=True)


# --- with the exchange before it ---


async def test_relayed_becomes_direct():
    async with relayed_pair() as pair:
        pair.source.protocols.handle_all(DcutrStrategy(pair.source, HERE).handlers)
        pair.of_target.known_protocols.add(REVERSE)  # as identify would tell
        connection = await DcutrStrategy(pair.target, HERE).attempt(pair.of_target)
        assert connection.path == "direct-tcp"
        source, target = pair.source.identity.peer_id, pair.target.identity.peer_id
        await settled(lambda: not getattr(pair.source.registry.best(target), "is_relayed", True))
        assert await ask_echo(pair.source, target) == b"hello"
        assert await ask_echo(pair.target, source) == b"hello"


async def test_a_peer_that_does_not_punch():
    async with relayed_pair() as pair:
        with pytest.raises(NotApplicable, match="does not speak"):
            await DcutrStrategy(pair.target, HERE).attempt(pair.of_target)
        assert pair.of_target.closed_reason is None


@pytest.mark.parametrize(
    "changes", [{"listen": ()}, {"dial_from_listen_port": False}], ids=["deaf", "other ports"]
)
async def test_where_it_cannot_work(changes):
    async with relayed_pair() as pair, running(**changes) as other:
        with pytest.raises(NotApplicable):
            await DcutrStrategy(other, HERE).attempt(pair.of_target)


async def test_loopback_addresses_are_neither_told_nor_dialed_by_default():
    async with relayed_pair(listen=("/ip4/127.0.0.1/tcp/0",)) as pair:
        pair.source.protocols.handle_all(DcutrStrategy(pair.source, HERE).handlers)
        with pytest.raises(NotApplicable):
            await DcutrStrategy(pair.target).attempt(pair.of_target)


@pytest.mark.parametrize("ends", [True, False], ids=["a stream each", "one stream"])
async def test_three_rounds(ends):
    """With a peer that never dials: rounds on one stream, or on as many as it ends."""
    async with relayed_pair() as pair:
        heard: list[object] = []
        streams = 0

        async def serve(stream):
            nonlocal streams
            streams += 1
            with suppress(IncompleteReadError):
                while True:
                    message = decode(await stream.receive_message(MAX_MESSAGE))
                    heard.append(message)
                    if isinstance(message, Connect):
                        await stream.send_all(encode(Connect((closed(),))))
                    elif ends:
                        return

        pair.source.protocols.handle(DCUTR, serve)
        with pytest.raises(DialError):
            await DcutrStrategy(pair.target, BRIEF).attempt(pair.of_target)
        told = Connect(pair.target.listen_addrs)
        assert heard == [told, Sync()] * 3
        assert streams == (3 if ends else 1)


async def test_a_peer_that_answers_nonsense():
    async with relayed_pair() as pair:

        async def serve(stream):
            await stream.send_all(encode(Sync()))
            await trio.sleep_forever()

        pair.source.protocols.handle(DCUTR, serve)
        with pytest.raises(RemoteProtocolError):
            await DcutrStrategy(pair.target, HERE).attempt(pair.of_target)


async def test_only_the_target_of_a_relayed_connection_begins():
    async with relayed_pair() as pair:
        pair.target.protocols.handle_all(DcutrStrategy(pair.target, HERE).handlers)
        await refused(pair.of_source, DCUTR)


async def test_a_peer_asks_too_often():
    async with relayed_pair() as pair:
        config = PunchConfig(allow_loopback=True, window=0.05, rounds_per_minute=2)
        pair.source.protocols.handle_all(DcutrStrategy(pair.source, config).handlers)
        answers = 0
        for _ in range(4):
            stream = await open_on(pair.of_target, DCUTR)
            try:
                await stream.send_all(encode(Connect((closed(),))))
                answers += bool(await stream.receive_some())
            except StreamResetError:
                continue
            finally:
                stream.close()
        assert answers == 2


async def test_a_stranger_to_the_rules_at_the_other_end():
    """The responder takes no harm from an initiator that goes away in the middle."""
    async with relayed_pair() as pair:
        strategy = DcutrStrategy(pair.source, HERE)
        pair.source.protocols.handle_all(strategy.handlers)
        for words in (b"", encode(Connect(())), encode(Sync()), b"\xff\xff\xff"):
            stream = await open_on(pair.of_target, DCUTR)
            if words:
                await stream.send_all(words)
            stream.reset()
        await settled(lambda: strategy._serving == 0)


# --- plain dials, and reversal ---


def knows_where(pair: RelayedPair) -> None:
    """The target has heard where the source listens."""
    pair.target.address_book.add(pair.of_target.peer_id, pair.source.listen_addrs, 60)


async def test_the_peer_is_dialed():
    async with relayed_pair() as pair:
        knows_where(pair)
        connection = await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        assert connection.direction is Direction.OUTBOUND
        assert not connection.is_relayed


async def test_a_connection_that_has_ended_already_is_worth_another_attempt(monkeypatch):
    async with relayed_pair() as pair:
        knows_where(pair)

        async def dial(peer_id: PeerId, addr: Multiaddr, **more: object) -> Connection:
            await trio.lowlevel.checkpoint()
            return pair.of_target  # and nothing is in the registry

        monkeypatch.setattr(pair.target, "dial_fresh", dial)
        with pytest.raises(DialError, match="ended already"):
            await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        # Also where the peer has been asked, and says that it has dialed, which was so.
        pair.source.protocols.handle_all(DirectStrategy(pair.source, HERE).handlers)
        strategy = DirectStrategy(pair.target, HERE)
        monkeypatch.setattr(strategy, "_ask", lambda relayed: trio.lowlevel.checkpoint())
        with pytest.raises(DialError, match="ended already"):
            await strategy.attempt(pair.of_target)


async def test_reversal_is_served_where_hole_punching_is_off():
    async with relayed_pair() as pair:
        config = PunchConfig(enabled=False, allow_loopback=True)
        assert not DcutrStrategy(pair.source, config).handlers
        pair.source.protocols.handle_all(DirectStrategy(pair.source, config).handlers)
        with pytest.raises(NotApplicable, match="turned off"):
            await DcutrStrategy(pair.target, config).attempt(pair.of_target)
        connection = await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        assert not connection.is_relayed


async def test_the_peer_dials():
    async with relayed_pair() as pair:
        pair.source.protocols.handle_all(DirectStrategy(pair.source, HERE).handlers)
        connection = await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        assert connection.direction is Direction.INBOUND
        assert not connection.is_relayed


async def test_neither_can():
    async with relayed_pair() as pair:
        with pytest.raises(NotApplicable):
            await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        pair.target.address_book.add(pair.of_target.peer_id, [closed()], 60)
        with pytest.raises(DialError):
            await DirectStrategy(pair.target, HERE).attempt(pair.of_target)
        # The peer refuses what it must not dial: by default that is all of loopback.
        pair.source.protocols.handle_all(DirectStrategy(pair.source).handlers)
        with pytest.raises(DialError, match="none of the addresses may be dialed"):
            await DirectStrategy(pair.target, HERE).attempt(pair.of_target)


async def test_a_peer_that_says_it_has_dialed():
    async with relayed_pair() as pair:

        async def serve(stream):
            await stream.send_message(reverse_messages.encode(reverse_messages.Answer(True)))

        pair.source.protocols.handle(REVERSE, serve)
        with pytest.raises(DialError, match="has not"):
            await DirectStrategy(pair.target, HERE).attempt(pair.of_target)


async def test_reversal_is_for_relayed_connections_only_and_not_too_often():
    async with relayed_pair() as pair:
        config = PunchConfig(allow_loopback=True, rounds_per_minute=1, direct_timeout=0.2)
        pair.source.protocols.handle_all(DirectStrategy(pair.source, config).handlers)
        strategy = DirectStrategy(pair.target, HERE)
        # Where it listens nothing answers any more.
        for listener in pair.target.listeners._all:
            await listener.aclose()
        for reason in ("none of the addresses answered", "too many requests"):
            with pytest.raises(DialError, match=reason):
                await strategy.attempt(pair.of_target)
        to_relay = pair.source.registry.best(pair.relay.identity.peer_id)
        pair.relay.protocols.handle_all(DirectStrategy(pair.relay, HERE).handlers)
        assert to_relay is not None
        await refused(to_relay, REVERSE)
