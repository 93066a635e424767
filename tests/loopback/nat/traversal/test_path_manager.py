"""From a relayed path to a direct one and back, on loopback with a real relay."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from lattica.errors import DialError, LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm import registry
from lattica.nat.swarm.events import EventStream, NetworkChanged, PathChanged
from lattica.nat.swarm.status import PathStatus
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.path_manager import PathManager
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.relay.circuit import circuit_addr
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport
from lattica.nat.traversal.relay.client.client import RelayClient
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService
from tests.support.nets.nets import ECHO, ask_echo, proxied, running, settled

Attempt = Callable[[Connection], Awaitable[Connection]]


@dataclass(frozen=True)
class FakeStrategy:
    """A strategy whose attempts are the test's."""

    name: str
    try_it: Attempt

    @property
    def handlers(self):
        return {}

    async def attempt(self, relayed: Connection) -> Connection:
        return await self.try_it(relayed)


@dataclass
class Net:
    """`dialer` reaches `dialed` through the relay; the latter's side improves the path."""

    relay: Swarm
    dialed: Swarm
    dialer: Swarm
    manager: PathManager

    @property
    def peer(self) -> PeerId:
        return self.dialer.identity.peer_id

    async def connect_relayed(self) -> Connection:
        relay = self.relay.identity.peer_id
        addr = circuit_addr(self.relay.addrs[0], relay)
        connection = await self.dialer.dial(self.dialed.identity.peer_id, [addr])
        assert connection.path == "relayed"
        return connection

    @property
    def status(self) -> PathStatus:
        """What the manager says of the path to the dialer."""
        status = self.manager.status(self.peer)
        assert status is not None
        return status

    async def direct(self, relayed: Connection) -> Connection:
        """What a strategy does in the end."""
        return await self.dialed.dial_fresh(relayed.peer_id, self.dialer.addrs[0])


@asynccontextmanager
async def net(*strategies: FakeStrategy, **changes) -> AsyncIterator[Net]:
    async with running() as relay, running() as dialed, running() as dialer:
        service = RelayService(relay, RelayLimits(open_to_strangers=True))
        relay.protocols.handle_all(service.handlers)
        reach = with_peer(relay.addrs[0], relay.identity.peer_id)
        clients = []
        for swarm in (dialed, dialer):
            config = RelayClientConfig(relays=(str(reach),))
            transport = CircuitTransport(swarm, config)
            swarm.add_transport(transport)
            swarm.protocols.handle_all(transport.handlers)
            clients.append(RelayClient(swarm, transport, config))
        manager = PathManager(dialed, strategies, PathConfig(**changes))
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            await nursery.start(manager.run)
            for client in clients:
                await nursery.start(client.run)
                await client.wait_ready(60)
            yield Net(relay, dialed, dialer, manager)
            nursery.cancel_scope.cancel()


async def fail(relayed: Connection) -> Connection:
    raise DialError(relayed.peer_id, [])


async def path_change(events: EventStream) -> PathChanged:
    async for event in events:
        if isinstance(event, PathChanged):
            return event
    raise AssertionError("the swarm has ended")


async def test_relayed_then_direct_while_a_stream_goes_on():
    tries: list[Connection] = []

    async def direct(relayed: Connection) -> Connection:
        tries.append(relayed)
        await go_on.wait()
        return await here.direct(relayed)

    go_on = trio.Event()
    async with net(FakeStrategy("fails", fail), FakeStrategy("direct", direct)) as here:
        relayed = await here.connect_relayed()
        dialed = here.dialed.identity.peer_id
        async with await here.dialer.open_stream(dialed, [ECHO]) as stream:
            await stream.send_all(b"one")
            assert await stream.receive_exactly(3) == b"one"
            with here.dialer.events.subscribe() as events:
                go_on.set()
                change = await path_change(events)
            assert (change.path, change.previous) == ("direct-tcp", "relayed")
            await stream.send_all(b"two")
            assert await stream.receive_exactly(3) == b"two"
            assert stream.connection is relayed
        assert await ask_echo(here.dialer, dialed) == b"hello"
        await settled(lambda: here.status.ways)
        status = here.status
        assert (status.path, status.relay, status.next_attempt) == ("direct-tcp", None, None)
        reports = {report.name: report.ok for report in status.ways}
        assert reports == {"fails": False, "direct": True}
        await settled(lambda: relayed.closed_reason)  # nobody uses it any more
        assert len(tries) == 1
        assert await ask_echo(here.dialed, here.peer) == b"hello"


async def test_the_side_that_dialed_waits_for_the_other():
    tries = []

    async def note(relayed: Connection) -> Connection:
        tries.append(relayed)
        return await fail(relayed)

    async with net(FakeStrategy("counted", note)) as here:
        relay = here.relay.identity.peer_id
        addr = circuit_addr(here.relay.addrs[0], relay)
        connection = await here.dialed.dial(here.peer, [addr])
        assert connection.direction is Direction.OUTBOUND
        await trio.sleep(0.2)
        assert tries == []
        status = here.status
        assert (status.path, status.relay, status.ways) == ("relayed", relay, ())


async def test_the_side_whose_peer_dials_as_well_improves_the_peers_circuit(monkeypatch):
    """Each looked at the other's, and none at a direct path."""
    monkeypatch.setattr(registry, "SIMULTANEOUS", 0.0)  # so that the newer one is in use

    async def direct(relayed: Connection) -> Connection:
        return await here.direct(relayed)

    async with net(FakeStrategy("direct", direct)) as here:
        addr = circuit_addr(here.relay.addrs[0], here.relay.identity.peer_id)
        connection = await here.dialed.dial(here.peer, [addr])
        assert connection.direction is Direction.OUTBOUND
        await here.dialer.wait_connected(here.dialed.identity.peer_id)
        await here.dialer.dial_fresh(here.dialed.identity.peer_id, addr)
        await settled(lambda: here.status.path == "direct-tcp")


async def test_what_cannot_work_is_left_until_the_network_changes(caplog):
    tries = []

    async def never(relayed: Connection) -> Connection:
        tries.append(relayed)
        raise NotApplicable("both are behind endpoint-dependent NATs")

    caplog.set_level(logging.INFO)
    async with net(FakeStrategy("punch", never)) as here:
        await here.connect_relayed()
        await settled(lambda: "stays relayed" in caplog.text)
        status = here.status
        [report] = status.ways
        assert (report.ok, report.applicable) == (False, False)
        assert "endpoint-dependent" in report.reason
        assert status.next_attempt is None
        assert len(tries) == 1
        here.dialed.events.publish(NetworkChanged("test"))
        await settled(lambda: len(tries) == 2)


async def test_failures_are_repeated_with_pauses_and_a_defect_is_one_of_them(caplog):
    tries = []

    async def broken(relayed: Connection) -> Connection:
        tries.append(trio.current_time())
        if len(tries) < 3:
            raise ZeroDivisionError
        return await here.direct(relayed)

    async with net(FakeStrategy("broken", broken), first_delay=0.05) as here:
        await here.connect_relayed()
        await settled(lambda: here.status.path == "direct-tcp")
        assert len(tries) == 3
        assert "internal error" in caplog.text


async def test_ways_that_take_too_long_are_given_up():
    async def endless(relayed: Connection) -> Connection:
        await trio.sleep_forever()
        raise AssertionError

    async with net(FakeStrategy("endless", endless), timeout=0.1, attempts=1) as here:
        await here.connect_relayed()
        await settled(lambda: here.status.ways)
        [report] = here.status.ways
        assert "gave up after 0.1 s" in report.reason


async def test_an_attempt_ends_with_the_relayed_connection_and_the_next_one_is_used():
    """The peer has made two circuits, and drops the one that was here first."""
    tries: list[Connection] = []

    async def stuck_then_direct(relayed: Connection) -> Connection:
        tries.append(relayed)
        if len(tries) == 1:
            await trio.sleep_forever()
        return await here.direct(relayed)

    async with net(FakeStrategy("fake", stuck_then_direct), attempts=1) as here:
        first = await here.connect_relayed()
        await settled(lambda: tries)
        first.abort("another one was faster")
        await settled(lambda: here.dialed.identity.peer_id not in here.dialer.registry.by_peer)
        await here.connect_relayed()
        await settled(lambda: here.manager.status(here.peer) and here.status.path == "direct-tcp")
        assert len(tries) == 2


async def test_a_broken_direct_path_falls_back_to_the_relay():
    async def direct(relayed: Connection) -> Connection:
        return await here.direct(relayed)

    async with net(FakeStrategy("direct", direct)) as here:
        await here.connect_relayed()
        await settled(lambda: here.status.path == "direct-tcp")
        await settled(lambda: len(here.dialed.registry.by_peer[here.peer]) == 1)
        relay = here.relay.identity.peer_id
        addr = circuit_addr(here.relay.addrs[0], relay)
        here.dialed.address_book.add(here.peer, [addr], 60)
        stream = await here.dialed.open_stream(here.peer, [ECHO])
        await stream.send_all(b"before")
        assert await stream.receive_exactly(6) == b"before"
        stream.connection.abort("the test breaks it")
        with pytest.raises(LatticaError, match="the test breaks it"):
            await stream.receive_some()
        await settled(lambda: here.dialed.registry.best(here.peer))
        assert await ask_echo(here.dialed, here.peer) == b"hello"


async def test_a_path_that_the_other_side_made_and_that_dies_is_looked_for_again():
    tries: list[Connection] = []

    async def never(relayed: Connection) -> Connection:
        tries.append(relayed)
        raise NotApplicable("not today")

    async with net(FakeStrategy("fake", never), lasting=0.01) as here:
        await here.connect_relayed()
        await settled(lambda: here.manager.status(here.peer) and here.status.ways)
        assert here.status.next_attempt is None
        direct = await here.dialer.dial_fresh(here.dialed.identity.peer_id, here.dialed.addrs[0])
        await settled(lambda: here.status.path == "direct-tcp")
        await trio.sleep(0.05)
        direct.abort("the NAT has forgotten it")
        await settled(lambda: len(tries) == 2)


async def test_direct_paths_that_die_at_once_are_not_punched_for_all_the_time():
    tries: list[Connection] = []

    async def short_lived(relayed: Connection) -> Connection:
        tries.append(relayed)
        connection = await here.direct(relayed)
        connection.abort("a firewall that does not like it")
        return connection

    async with net(FakeStrategy("fake", short_lived), first_delay=0.4) as here:
        await here.connect_relayed()
        await settled(lambda: tries)
        await trio.sleep(1.0)
        assert len(tries) <= 4


async def test_news_of_a_peer_bring_one_more_attempt():
    tries: list[Connection] = []

    async def never(relayed: Connection) -> Connection:
        tries.append(relayed)
        raise NotApplicable("not today")

    async with net(FakeStrategy("fake", never), revival=0.01) as here:
        await here.connect_relayed()
        await settled(lambda: here.manager.status(here.peer) and here.status.ways)
        await trio.sleep(0.02)
        here.manager.peer_changed(here.peer)
        await settled(lambda: len(tries) == 2)
        here.manager.peer_changed(here.relay.identity.peer_id)  # of whom there is no plan


async def test_a_direct_path_that_the_peer_has_left_is_noticed_soon():
    """The peer comes through the relay, because to it the direct path is dead."""
    async with net(probe_timeout=0.3) as here, proxied(here.dialer.addrs[0]) as proxy:
        direct = await here.dialed.dial_fresh(here.peer, proxy.addr)
        other = await here.dialer.wait_connected(here.dialed.identity.peer_id)
        proxy.freeze()
        other.abort("the network has changed")
        await settled(lambda: here.dialed.identity.peer_id not in here.dialer.registry.by_peer)
        await here.connect_relayed()
        await settled(lambda: direct.closed_reason)
        assert "the path is dead" in str(direct.closed_reason)
        assert here.status.path == "relayed"


async def test_a_direct_path_that_lives_is_kept():
    async with net(probe_timeout=1.0) as here:
        direct = await here.dialed.dial_fresh(here.peer, here.dialer.addrs[0])
        other = await here.dialer.wait_connected(here.dialed.identity.peer_id)
        # Only one side believes that it is gone; the other's pings are answered still.
        here.dialer.registry.by_peer[other.peer_id].remove(other)
        relayed = await here.connect_relayed()
        await settled(lambda: len(here.dialed.registry.by_peer[here.peer]) == 2)
        await trio.sleep(1.5)
        assert direct.closed_reason is None
        assert here.dialed.registry.best(here.peer) is direct
        here.dialer.registry.by_peer[other.peer_id].append(other)
        assert relayed.closed_reason is None
