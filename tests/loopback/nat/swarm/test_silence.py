"""A peer that falls silent: busy, or behind a path that is dead."""

from __future__ import annotations

from dataclasses import replace

import trio

from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.config import Timeouts
from lattica.nat.mux.patience import Patience
from lattica.nat.swarm.events import PathChanged
from lattica.node import Node
from tests.support.nets.nets import ECHO, LISTEN_ON, ask_echo, echo, node_config, settled
from tests.support.nets.udp_proxy import udp_proxied

BOTH = (*LISTEN_ON["tcp"], *LISTEN_ON["quic"])
QUICK = Timeouts(keep_alive_interval=0.2, keep_alive_timeout=0.6)


async def ignore(_: object) -> None:
    await trio.sleep_forever()


async def test_patience_is_told_to_all_connections_of_a_peer():
    asking = Timeouts(patience=21.5, quic_patience=17)
    async with (
        Node(node_config(listen=BOTH, timeouts=asking)) as server,
        Node(node_config(listen=())) as client,
    ):
        for addr in server.addrs:
            await client.swarm.dial_fresh(server.peer_id, addr)
        connections = client.swarm.registry.by_peer[server.peer_id]
        await settled(lambda: all(c.patience == Patience(21.5, 17) for c in connections))
        assert len(connections) == 2
        (there,) = {c.patience for c in server.swarm.registry.by_peer[client.peer_id]}
        assert there == Patience(Timeouts().patience, Timeouts().quic_patience)


async def test_a_silent_peer_that_answers_elsewhere_is_on_a_dead_path():
    async with (
        Node(node_config(listen=BOTH)) as server,
        Node(node_config(listen=(), timeouts=QUICK)) as client,
    ):
        server.handle(ECHO, echo)
        quic = next(addr for addr in server.swarm.addrs if kind_of(addr) is Kind.QUIC)
        async with udp_proxied(quic) as proxy:
            await client.connect(f"{proxy.addr}/p2p/{server.peer_id}")
            (connection,) = client.swarm.registry.by_peer[server.peer_id]
            await settled(lambda: connection.patience.blind > 10)
            with client.events() as events, trio.fail_after(60):
                proxy.treat = lambda _: []
                changed = await anext(e async for e in events if isinstance(e, PathChanged))
            assert changed.path == "direct-tcp"
            await connection.closed.wait()
            assert connection.closed_reason == ("the path is dead: the peer answers on another one")
            assert await ask_echo(client, server.peer_id) == b"hello"


async def test_a_silent_peer_whose_system_answers_is_busy(monkeypatch):
    async with (
        Node(node_config(listen=BOTH)) as server,
        Node(node_config(listen=(), timeouts=QUICK)) as client,
    ):
        quic = next(addr for addr in server.swarm.addrs if kind_of(addr) is Kind.QUIC)
        async with udp_proxied(quic) as proxy:
            await client.connect(f"{proxy.addr}/p2p/{server.peer_id}")
            (connection,) = client.swarm.registry.by_peer[server.peer_id]
            await settled(lambda: connection.patience.blind > 10)
            connection.patience = replace(connection.patience, blind=3.0)
            # Its program takes no notice of new connections, which the system accepts.
            monkeypatch.setattr(server.swarm.listeners, "_handle_inbound", ignore)
            silenced = trio.current_time()
            proxy.treat = lambda _: []
            await settled(lambda: connection.session.is_silent and not connection.in_doubt)
            while trio.current_time() < silenced + 5:
                await trio.sleep(0.5)
                assert connection.closed_reason is None
