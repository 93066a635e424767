"""A node that keeps itself reachable through relays, whatever these do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from lattica.errors import (
    AccessDeniedError,
    AddressError,
    DialAttempt,
    DialError,
    PeerMismatchError,
)
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.printable import utc_text
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.dialing.dialer import Dialer
from lattica.nat.swarm.events import AddressesChanged, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport
from lattica.nat.traversal.relay.client.client import RelayClient
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.client.reservations import Phase
from lattica.nat.traversal.relay.client.status import RelayStatus, Source
from lattica.nat.traversal.relay.messages import (
    HOP,
    MAX_MESSAGE,
    HopStatus,
    Limit,
    Reservation,
    Reserve,
    Status,
    decode_hop,
    encode,
)
from lattica.nat.traversal.relay.server.limits import RelayLimits, StrangerLimits
from lattica.nat.traversal.relay.token import Token, seal_token, token_text
from lattica.nat.traversal.relay.voucher import seal
from tests.support.nets.nets import LISTEN_ON, ask_echo, running, settled, swarm_config, unused_port
from tests.support.nets.relay_nets import (
    addr_of,
    framed,
    relaying,
    reserving,
    scripted_relay,
    through,
    use_relays,
)

QUICK: dict[str, Any] = {"request_timeout": 30.0, "retry_first": 0.05, "retry_limit": 0.2}
BOTH = LISTEN_ON["tcp"] + LISTEN_ON["quic"]


def status_of(client: RelayClient, relay: Swarm) -> RelayStatus:
    return next(s for s in client.status() if s.relay == relay.identity.peer_id)


def is_reserved(client: RelayClient, relay: Swarm) -> bool:
    return any(
        s.relay == relay.identity.peer_id and s.reserved_until is not None for s in client.status()
    )


@contextmanager
def log_of_client(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.INFO, logger="lattica.nat.traversal.relay.client"):
        yield lambda: [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("lattica.nat.traversal.relay.client")
        ]


# --- being reachable ---


async def test_reserves_tells_where_and_takes_it_back(caplog):
    with log_of_client(caplog) as log:
        async with relaying() as relay, running() as bob:
            with bob.events.subscribe() as events:
                async with reserving(bob, addr_of(relay.swarm)) as client:
                    await client.wait_ready(60)
                    relay_id = relay.swarm.identity.peer_id
                    expected = Multiaddr(f"{relay.swarm.addrs[0]}/p2p/{relay_id}/p2p-circuit")
                    assert list(client.addrs) == [expected]
                    assert bob.addrs[-1] == expected
                    status = status_of(client, relay.swarm)
                    assert status.source is Source.CONFIGURED
                    assert status.path == "direct-tcp"
                    assert status.chosen
                    assert status.last_error == ""
                    assert status.reserved_until is not None
                    assert 3500 < status.reserved_until - time.time() <= 3601
                    assert bob.registry.tags.is_protected(relay_id)
                    assert relay.service.stats.reservations == 1
                assert not client.addrs
                assert expected not in bob.addrs
                assert not bob.registry.tags.is_protected(relay_id)
                told = [await anext(events), await anext(events), await anext(events)]
                changes = [e for e in told if isinstance(e, AddressesChanged)]
                assert [expected in change.addrs for change in changes][:1] == [True]
        assert len(log()) == 1
        assert log()[0].startswith("reserved for ")


async def test_holds_as_many_as_wanted_and_knows_the_others():
    async with relaying() as a, relaying() as b, relaying() as c, running() as bob:
        relays = [r.swarm for r in (a, b, c)]
        async with reserving(bob, *map(addr_of, relays), reservations=2) as client:
            await settled(lambda: sum(is_reserved(client, r) for r in relays) == 2)
            await settled(lambda: all(status_of(client, r).path for r in relays))
            assert len(client.addrs) == 2


async def test_limits_are_told():
    limits = RelayLimits(
        open_to_strangers=True, for_strangers=StrangerLimits(duration=60, data=1000)
    )
    async with (
        relaying(limits=limits) as relay,
        running() as bob,
        reserving(bob, addr_of(relay.swarm)) as client,
    ):
        await client.wait_ready(60)
        assert status_of(client, relay.swarm).limit == Limit(60, 1000)


async def test_nothing_to_do():
    async with relaying() as relay, running() as bob:
        async with reserving(bob, addr_of(relay.swarm), reservations=0):
            pass
        async with reserving(bob, addr_of(bob)) as client:  # the same list is given to every node
            assert client.status() == ()
            with pytest.raises(TimeoutError, match="no relay is known"):
                await client.wait_ready(0.01)
        assert not relay.swarm.registry.total


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/4001",
        f"/p2p/{Identity.generate().peer_id}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}/p2p-circuit",
        "relay.example:4001",
    ],
)
async def test_addresses_that_cannot_be_relays(text):
    async with running() as bob:
        with pytest.raises(AddressError):
            RelayClient(bob, CircuitTransport(bob), RelayClientConfig(relays=(text,)))


# --- relays that come and go ---


async def test_another_relay_takes_the_place_of_one_that_dies():
    async with relaying() as a, relaying() as b, running() as bob, running() as alice:
        use_relays(alice)
        relays = [a, b]
        async with reserving(bob, *(addr_of(r.swarm) for r in relays), reservations=1) as client:
            await client.wait_ready(60)
            await settled(lambda: all(status_of(client, r.swarm).path for r in relays))
            first = next(r for r in relays if is_reserved(client, r.swarm))
            second = next(r for r in relays if r is not first)
            assert not is_reserved(client, second.swarm)
            first.die()
            await settled(lambda: is_reserved(client, second.swarm))
            assert not is_reserved(client, first.swarm)
            assert "has ended" in status_of(client, first.swarm).last_error
            bob_id = bob.identity.peer_id
            await alice.dial(bob_id, client.addrs)
            assert alice.registry.by_peer[bob_id][0].remote_addr == client.addrs[0]
            assert await ask_echo(alice, bob_id) == b"hello"


async def test_a_relay_that_starts_anew_is_used_again():
    identity, port = Identity.generate(), unused_port()
    listen = (f"/ip4/127.0.0.1/tcp/{port}",)
    async with running() as bob:
        addr = Multiaddr(f"{listen[0]}/p2p/{identity.peer_id}")
        async with reserving(bob, addr, **QUICK) as client:
            for _ in range(3):
                async with relaying(identity, listen=listen) as relay:
                    await settled(lambda: client.addrs)
                    assert relay.service.stats.reservations == 1
                await settled(lambda: not client.addrs)


async def test_unreachable_relays_are_reported_once(caplog):
    relay = Identity.generate().peer_id
    with log_of_client(caplog) as log:
        async with running() as bob:
            addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{relay}")
            async with reserving(bob, addr, **QUICK) as client:
                dialing = client._relays[relay].dialing
                await settled(lambda: dialing.failures >= 4)
                with pytest.raises(TimeoutError, match="ECONNREFUSED"):
                    await client.wait_ready(0.01)
                assert "ECONNREFUSED" in client.status()[0].last_error
    assert len(log()) == 1
    assert log()[0].startswith("relay is unreachable")


async def test_network_change_renews_at_once():
    requests = 0

    async def grant(stream: Stream) -> None:
        nonlocal requests
        assert decode_hop(await stream.receive_message(MAX_MESSAGE)) == Reserve()
        requests += 1
        expire = int(time.time()) + 3600
        await stream.send_message(encode(HopStatus(Status.OK, Reservation(expire))))

    async with (
        scripted_relay(grant) as relay,
        running() as bob,
        reserving(bob, addr_of(relay)) as client,
    ):
        await client.wait_ready(60)
        assert requests == 1
        bob.events.publish(NetworkChanged("the cable was pulled"))
        await settled(lambda: requests == 2)
        assert is_reserved(client, relay)


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_wrong_clock_costs_no_reservation(hours, caplog):
    def wrong() -> float:
        return time.time() + hours * 3600

    with log_of_client(caplog) as log:
        async with (
            relaying() as relay,
            running() as bob,
            running() as alice,
            reserving(bob, addr_of(relay.swarm), more={"wall_clock": wrong}) as client,
        ):
            await client.wait_ready(60)
            status = status_of(client, relay.swarm)
            assert status.reserved_until is not None
            assert 3500 < status.reserved_until - wrong() <= 3601
            assert status.clock_offset == pytest.approx(-hours * 3600, abs=30)
            use_relays(alice)
            connection = await alice.dial(
                bob.identity.peer_id, [through(relay.swarm, bob.identity.peer_id)]
            )
            assert connection.is_relayed
    assert sum("clock" in line for line in log()) == 1


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_wrong_clock_of_a_relay_of_others_costs_no_reservation(hours):
    async def grant(stream: Stream) -> None:
        assert decode_hop(await stream.receive_message(MAX_MESSAGE)) == Reserve()
        expire = int(time.time()) + 3600 * (hours + 1)
        await stream.send_message(encode(HopStatus(Status.OK, Reservation(expire))))

    async with (
        scripted_relay(grant) as relay,
        running() as bob,
        reserving(bob, addr_of(relay)) as client,
    ):
        await client.wait_ready(60)
        renewed = client._relays[relay.identity.peer_id].reserving.due - trio.current_time()
        assert 50 < renewed <= 300


async def test_a_refusal_tells_of_a_relays_clock_by_which_a_token_has_run_out():
    ends = int(time.time()) + 3600

    async def refuse(stream: Stream) -> None:
        await stream.receive_message(MAX_MESSAGE)
        answer = HopStatus(Status.PERMISSION_DENIED, clock=int(time.time()) + 7200)
        await stream.send_message(encode(answer))

    async with scripted_relay(refuse) as relay, running() as bob:
        token = Token(relay.identity.peer_id, bob.identity.peer_id, "00" * 8, ends)
        texts = (token_text(seal_token(relay.identity, token)),)
        async with reserving(bob, addr_of(relay), tokens=texts) as client:
            await settled(lambda: bool(status_of(client, relay).last_error))
            status = status_of(client, relay)
        assert f"the token ran out at {utc_text(ends)}, as the relay's clock" in status.last_error
        assert "one of the two is wrong" in status.last_error
        assert status.clock_offset == pytest.approx(7200, abs=600)


async def test_what_is_run_again_after_an_error_is_as_new():
    """An error ends the client while the relay is asked: the next life asks again."""
    asked: list[trio.CancelScope] = []

    async def answer(stream: Stream) -> None:
        await stream.receive_message(MAX_MESSAGE)
        if not asked:
            with trio.CancelScope() as scope:
                asked.append(scope)
                await trio.sleep_forever()
            return
        reservation = Reservation(int(time.time()) + 3600, lifetime=3600)
        await stream.send_message(encode(HopStatus(Status.OK, reservation)))

    async with scripted_relay(answer) as relay, running() as bob:
        config = RelayClientConfig(relays=(str(addr_of(relay)),), request_timeout=60)
        client = RelayClient(bob, use_relays(bob), config)
        step = client._step

        def fail(now: float) -> None:
            step(now)
            if asked:
                raise ZeroDivisionError

        client._step = fail  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError), single_error():
            await client.run()
        assert client._relays[relay.identity.peer_id].reserving.phase is Phase.ASKING
        asked[0].cancel()
        client._step = step  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            await client.wait_ready(60)
            assert is_reserved(client, relay)
            nursery.cancel_scope.cancel()


async def pauses_of_dials(error: Exception, is_held_elsewhere: bool = False) -> list[float]:
    """Between 20 attempts to reach a relay that fail, in virtual time."""
    bob = Swarm(Identity.generate(), swarm_config())
    relay, other = (f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}" for _ in range(2))

    async def dial(peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        raise error

    bob.dial = dial  # type: ignore[method-assign]
    config = RelayClientConfig(relays=(relay, other))
    client = RelayClient(bob, use_relays(bob), config)
    wanted, held = client._relays.values()
    if is_held_elsewhere:
        held.reserving.ask(trio.current_time())
        held.reserving.granted(trio.current_time(), 1e6)
    pauses: list[float] = []
    for _ in range(20):
        await client._dialer.dial(wanted)
        client._hurry(now := trio.current_time())
        pauses.append(wanted.dialing.due - now)
        await trio.sleep_until(wanted.dialing.due)
    return pauses


NOBODY = DialError("relay", [DialAttempt("/ip4/127.0.0.1/tcp/1", "refused", OSError("refused"))])
ANOTHER = DialError(
    "relay", [DialAttempt("/ip4/127.0.0.1/tcp/1", "another", PeerMismatchError("one", "another"))]
)


async def test_who_is_reached_through_no_relay_looks_for_one_often_however_long(autojump_clock):
    assert max(await pauses_of_dials(NOBODY)) <= 8


@pytest.mark.parametrize(
    ("error", "is_held_elsewhere"),
    [(NOBODY, True), (ANOTHER, False), (AccessDeniedError("not that one"), False)],
)
async def test_a_relay_that_is_not_needed_or_does_not_want_us_is_left_alone(
    error, is_held_elsewhere, autojump_clock
):
    pauses = await pauses_of_dials(error, is_held_elsewhere)
    assert min(pauses[10:]) >= 150


# --- relays that misbehave ---


def _voucher(relay: Swarm, bob: Swarm) -> HopStatus:
    expire = int(time.time()) + 3600
    return HopStatus(
        Status.OK, Reservation(expire, (), seal(relay.identity, bob.identity.peer_id, expire))
    )


def _voucher_of_another(relay: Swarm, bob: Swarm) -> HopStatus:
    expire = int(time.time()) + 3600
    voucher = seal(Identity.generate(), bob.identity.peer_id, expire)
    return HopStatus(Status.OK, Reservation(expire, (), voucher))


def _voucher_for_another(relay: Swarm, bob: Swarm) -> HopStatus:
    expire = int(time.time()) + 3600
    voucher = seal(relay.identity, Identity.generate().peer_id, expire)
    return HopStatus(Status.OK, Reservation(expire, (), voucher))


def _voucher_long_over(relay: Swarm, bob: Swarm) -> HopStatus:
    expire = int(time.time())
    voucher = seal(relay.identity, bob.identity.peer_id, expire - 7200)
    return HopStatus(Status.OK, Reservation(expire + 3600, (), voucher))


BAD_ANSWERS: dict[str, Callable[[Swarm, Swarm], HopStatus | bytes]] = {
    "does not say when": lambda r, b: HopStatus(Status.OK, Reservation(0)),
    "lasts for 2 s only": lambda r, b: HopStatus(
        Status.OK, Reservation(int(time.time()) + 3600, lifetime=2)
    ),
    "gives no reservation": lambda r, b: HopStatus(Status.OK),
    "of another relay": _voucher_of_another,
    "for another peer": _voucher_for_another,
    "at another time": _voucher_long_over,
    "the envelope of a voucher": lambda r, b: HopStatus(
        Status.OK, Reservation(int(time.time()) + 3600, (), b"junk")
    ),
    "gives this node no reservation": lambda r, b: HopStatus(Status.RESERVATION_REFUSED),
    "too many reservations": lambda r, b: HopStatus(Status.RESOURCE_LIMIT_EXCEEDED),
    "does not allow": lambda r, b: HopStatus(Status.PERMISSION_DENIED),
    "something else than a status": lambda r, b: framed(Reserve()),
    "not valid protobuf": lambda r, b: b"\x05\xff\xff\xff\xff\xff",
    "bytes, where 4096 are allowed": lambda r, b: b"\xff\xff\xff\xff\x0f",
    "ended where a message was expected": lambda r, b: b"",
    "unknown type": lambda r, b: b"\x02\x08\x7f",
}


@pytest.mark.parametrize("words", BAD_ANSWERS)
async def test_bad_answers_cost_the_relay_its_place_and_one_line(words, caplog):
    requests = 0

    async def answer(stream: Stream) -> None:
        nonlocal requests
        await stream.receive_message(MAX_MESSAGE)
        requests += 1
        said = BAD_ANSWERS[words](bad, bob)
        await stream.send_all(said if isinstance(said, bytes) else framed(said))

    with log_of_client(caplog) as log:
        async with (
            # The good one only later, so that the bad one has its chance.
            scripted_relay(answer) as bad,
            relaying() as good,
            running() as bob,
            reserving(bob, addr_of(bad), reservations=1, **QUICK) as client,
        ):
            await settled(lambda: requests >= 3)
            assert words in status_of(client, bad).last_error
            assert bad.identity.peer_id not in client._transport.accepts_from
            assert not client.addrs
            client._configure(str(addr_of(good.swarm)))
            await client.wait_ready(60)
            assert is_reserved(client, good.swarm)
    assert sum("no reservation:" in line for line in log()) == 1


async def test_relay_that_stalls():
    async def stall(stream: Stream) -> None:
        await trio.sleep_forever()

    async with scripted_relay(stall) as bad, relaying() as good, running() as bob:
        addrs = addr_of(bad), addr_of(good.swarm)
        async with reserving(bob, *addrs, reservations=1, request_timeout=1.0) as client:
            await client.wait_ready(60)
            assert is_reserved(client, good.swarm)


async def test_relay_that_is_none_any_more():
    async with (
        running() as no_relay,
        running() as bob,
        reserving(bob, addr_of(no_relay), **QUICK) as client,
    ):
        await settled(lambda: "does not speak" in status_of(client, no_relay).last_error)


async def test_relay_that_lies_about_its_addresses():
    async def lie(stream: Stream) -> None:
        await stream.receive_message(MAX_MESSAGE)
        victims = (
            "/ip4/10.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            f"/ip4/8.8.8.8/tcp/53/p2p/{Identity.generate().peer_id}",
            *(f"/ip4/8.8.4.{n}/tcp/53" for n in range(12)),
        )
        expire = int(time.time()) + 3600
        reservation = Reservation(expire, tuple(map(Multiaddr, victims)))
        await stream.send_message(encode(HopStatus(Status.OK, reservation)))

    async with (
        scripted_relay(lie) as relay,
        running() as bob,
        reserving(bob, addr_of(relay)) as client,
    ):
        await client.wait_ready(60)
        assert len(client.addrs) <= 8
        text = " ".join(map(str, client.addrs))
        assert "/10.0.0.1/" not in text
        assert "/192.168.1.1/" not in text
        assert "/8.8.8.8/" not in text
        assert all(str(addr).endswith("/p2p-circuit") for addr in client.addrs)


async def test_circuits_are_taken_only_while_there_is_a_reservation():
    async with (
        relaying() as relay,
        running() as bob,
        reserving(bob, addr_of(relay.swarm)) as client,
    ):
        await client.wait_ready(60)
        accepts = client._transport.accepts_from
        assert accepts == {relay.swarm.identity.peer_id}
        relay.die()
        await settled(lambda: not accepts)


# --- how relays are connected, and found ---


def tcp_connections(swarm: Swarm, relay: Swarm) -> int:
    return sum(
        kind_of(c.remote_addr) is Kind.TCP and c.direction is Direction.OUTBOUND
        for c in swarm.registry.by_peer.get(relay.identity.peer_id, ())
    )


async def test_tcp_is_preferred_to_quic():
    async with (
        relaying(listen=BOTH) as relay,
        running(listen=BOTH) as bob,
        reserving(bob, *_all_addrs(relay.swarm)) as client,
    ):
        await client.wait_ready(60)
        assert status_of(client, relay.swarm).path == "direct-tcp"
        assert len(client.addrs) == 2  # and others may come over either


def _all_addrs(swarm: Swarm) -> list[Multiaddr]:
    return [addr.encapsulate(Multiaddr(f"/p2p/{swarm.identity.peer_id}")) for addr in swarm.addrs]


async def test_quic_only():
    quic = LISTEN_ON["quic"]
    async with (
        relaying(listen=quic) as relay,
        running(listen=BOTH) as bob,
        reserving(bob, *_all_addrs(relay.swarm)) as client,
        running() as alice,
    ):
        await client.wait_ready(60)
        assert status_of(client, relay.swarm).path == "direct-quic"
        use_relays(alice)
        await alice.dial(bob.identity.peer_id, [through(relay.swarm, bob)])
        assert await ask_echo(alice, bob.identity.peer_id) == b"hello"


async def test_tcp_is_added_to_a_relay_that_was_connected_over_quic():
    async with relaying(listen=BOTH) as relay, running(listen=BOTH) as bob:
        over_quic = [addr for addr in relay.swarm.addrs if kind_of(addr) is Kind.QUIC]
        await bob.dial(relay.swarm.identity.peer_id, over_quic)
        async with reserving(bob, *_all_addrs(relay.swarm)) as client:
            await client.wait_ready(60)
            await settled(lambda: tcp_connections(bob, relay.swarm) == 1)
            assert is_reserved(client, relay.swarm)


async def test_tcp_from_another_port_keeps_no_mapping_of_the_one_that_is_listened_on(monkeypatch):
    """The system does not let one dial from there while a connection of before is not over: TCP
    from another port was taken for it for as long as it lasted, and no hole was punched by TCP.
    """
    async with relaying(listen=BOTH) as relay, running(listen=BOTH) as bob:
        over_tcp = [addr for addr in relay.swarm.addrs if kind_of(addr) is Kind.TCP]
        with monkeypatch.context() as patches:
            patches.setattr(Dialer, "tcp_listen_port", lambda *_: None)
            connection = await bob.dial(relay.swarm.identity.peer_id, over_tcp)
        assert not bob.shows_a_port(connection)
        async with reserving(bob, *_all_addrs(relay.swarm)) as client:
            await client.wait_ready(60)
            await settled(lambda: any(map(bob.shows_a_port, bob.registry)))


async def test_bootstrap_peers_that_relay_are_used():
    async with relaying() as relay, running() as plain, running() as bob:
        peers = [relay.swarm.identity.peer_id, plain.identity.peer_id]
        async with reserving(bob, more={"bootstrap": lambda: peers}) as client:
            for swarm in (relay.swarm, plain):
                connection = await bob.dial(swarm.identity.peer_id, swarm.addrs)
                if swarm is relay.swarm:
                    connection.known_protocols.add(HOP)  # as identify would tell
            await client.wait_ready(60)
            (status,) = client.status()
            assert status.source is Source.BOOTSTRAP
            assert status.relay == relay.swarm.identity.peer_id


async def test_bootstrap_peers_are_not_used_if_that_is_not_wanted():
    async with relaying() as relay, running() as bob:
        peers = [relay.swarm.identity.peer_id]
        more = {"bootstrap": lambda: peers}
        async with reserving(bob, more=more, use_bootstrap=False) as client:
            connection = await bob.dial(relay.swarm.identity.peer_id, relay.swarm.addrs)
            connection.known_protocols.add(HOP)
            client._wake.set()
            await trio.sleep(0.05)
            assert client.status() == ()


async def test_relays_are_discovered_only_while_there_are_too_few():
    calls = 0
    async with relaying() as a, relaying() as b, running() as bob:

        async def discover() -> list[Multiaddr]:
            nonlocal calls
            calls += 1
            return [addr_of(b.swarm), Multiaddr("/ip4/127.0.0.1/tcp/1"), addr_of(bob)]

        more = {"discover": discover}
        async with reserving(bob, addr_of(a.swarm), more=more, reservations=1) as client:
            await client.wait_ready(60)
            assert calls == 0
            a.die()
            # Pauses between two looks are long, but the first is at once.
            await settled(lambda: is_reserved(client, b.swarm))
            assert calls == 1
            assert status_of(client, b.swarm).source is Source.DISCOVERED


async def test_discovery_that_fails_harms_nobody():
    async with running() as bob:

        async def discover() -> list[Multiaddr]:
            raise RuntimeError("no idea")

        async with reserving(bob, more={"discover": discover}) as client:
            await settled(lambda: client._discovering.failures == 1)
            assert client.status() == ()
