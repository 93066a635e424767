"""`lattica relay`, a daemon through which peers reach each other."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import load_for, run, start, wrong_arguments
from lattica.cli.shared.event_json import EventOutput, event_output
from lattica.cli.shared.global_options import GlobalOptions
from lattica.cli.shared.listening import obstacle
from lattica.cli.shared.options import ConnectOption, EventsOption, ListenOption
from lattica.cli.shared.terminal import say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import trio

    from lattica.config import NodeConfig
    from lattica.daemon.relay.server import RelayServer
    from lattica.daemon.service_manager import ServiceManager
    from lattica.nat.swarm.events import EventStream
    from lattica.nat.traversal.relay.server.events import RelayEvent
    from lattica.node import Node

logger = logging.getLogger(__name__)

PORTS = (
    "/ip4/0.0.0.0/tcp/4001",
    "/ip6/::/tcp/4001",
    "/ip4/0.0.0.0/udp/4001/quic-v1/noise",
    "/ip6/::/udp/4001/quic-v1/noise",
)
"""Where a relay listens unless told otherwise."""
STUN_PORTS = ("/ip4/0.0.0.0/udp/3478/quic-v1/noise", "/ip6/::/udp/3478/quic-v1/noise")
"""As well, if they can be had: STUN's own port, which more firewalls let through than others."""
WEB_PORTS = ("/ip4/0.0.0.0/tcp/443/ws", "/ip6/::/tcp/443/ws")
"""As well, if they can be had: for networks that let nothing out but the web."""


def relay_command(
    ctx: typer.Context,
    listen: ListenOption = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER", help="ID of a peer to relay for without limit; may be repeated."
        ),
    ] = None,
    open_to_strangers: Annotated[
        bool | None,
        typer.Option(
            "--open/--closed", help="Relay for anybody else too, within limits.", show_default=False
        ),
    ] = None,
    access: Annotated[
        str | None,
        typer.Option(
            "--access",
            metavar="MODE",
            help="Whom to serve: everyone, allow, deny, token or http.",
        ),
    ] = None,
    deny: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="ID of a peer not to relay for; may be repeated."),
    ] = None,
    bootstrap: ConnectOption = None,
    as_json: EventsOption = False,
) -> None:
    """Run a relay until SIGINT or SIGTERM.

    Peers behind NATs connect through it at once, and go on to find a direct path. It needs a
    public address, and listens on port 4001 (TCP and UDP), and where it may on 3478 (UDP) and 443
    (TCP, WebSocket). What it carries is encrypted from end to end. `lattica id` on another
    machine shows the ID to allow:

        lattica relay --allow 12D3KooW… --allow 12D3KooX…

    It is a meeting point for topics and the DHT as well. SIGHUP reads the configuration again;
    SIGTERM sends clients to other relays, and ends when circuits have
    (docs/operating/operations.md).
    """
    if ctx.invoked_subcommand is not None:
        return
    overrides: dict[str, object] = {
        "listen": listen,
        "bootstrap": bootstrap,
        "nat.relay_server.enabled": True,
        "nat.relay_server.access": access,
        "nat.relay_server.allow_peers": allow,
        "nat.relay_server.deny_peers": deny,
        "nat.relay_server.limits.open_to_strangers": open_to_strangers,
    }
    config = start(ctx, overrides, serves_dht=True, serves_rendezvous=True)
    from lattica.config import key_file_in
    from lattica.daemon.relay.server import require_relay

    with wrong_arguments():
        require_relay(config)
    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    load = partial(load_for, options, overrides, serves_dht=True, serves_rendezvous=True)
    loaded, bound = config, _with_ports(config)

    def load_again() -> NodeConfig:
        again = load()
        # What was filled in when it started is no change; another key or address is.
        path = again.identity_path or key_file_in(again.data_dir)
        same = again.swarm.listen == loaded.swarm.listen
        swarm = replace(again.swarm, listen=bound.swarm.listen) if same else again.swarm
        return replace(again, swarm=swarm, identity_path=path)

    with event_output(as_json) as output:
        run(_serve, bound, load_again, output)


def _with_ports(config: NodeConfig) -> NodeConfig:
    """The relay's own ports, where none are configured."""
    from lattica.nat.config import SwarmConfig

    if config.swarm.listen != SwarmConfig().listen:
        return config
    ports = list(PORTS)
    for addr in (*STUN_PORTS, *WEB_PORTS):
        found = obstacle(addr)
        if found is None:
            ports.append(addr)
            continue
        loss = (
            "networks that only let the web out do not reach this relay there; run as root, or "
            "with CAP_NET_BIND_SERVICE, and stop what else uses the port"
            if addr in WEB_PORTS
            else "port 4001 answers STUN too, but fewer firewalls let it through"
        )
        logger.warning("not listening on %s: %s: %s", addr, found.strerror or found, loss)
    return replace(config, swarm=replace(config.swarm, listen=tuple(ports)))


async def _serve(
    config: NodeConfig, load: Callable[[], NodeConfig], output: EventOutput | None
) -> None:
    import os
    import signal

    from lattica.cli.shared.stopping import receive_signals
    from lattica.daemon.relay.server import RelayServer
    from lattica.daemon.service_manager import ServiceManager

    manager = ServiceManager.from_environment(os.environ)
    relay = RelayServer(config, load, manager)
    # Before it starts: no signal is lost while it does, and peers may connect.
    with (
        receive_signals(signal.SIGHUP, drain=lambda: relay.config.relay.drain) as signals,
        relay.node.events() as events,
    ):
        await _run(relay, manager, events, signals, output)


async def _run(
    relay: RelayServer,
    manager: ServiceManager,
    events: EventStream,
    signals: AsyncIterator[int],
    output: EventOutput | None,
) -> None:
    import trio

    async with relay.node as node, trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        nursery.start_soon(manager.run, relay.summary)
        if output is not None:
            output.write_ready(node)
            relay.service.on_event.append(partial(_tell, nursery, output))
            nursery.start_soon(output.write_all, events)
        else:
            _introduce(node)
        await relay.follow(signals)
        nursery.cancel_scope.cancel()


def _tell(nursery: trio.Nursery, output: EventOutput, event: RelayEvent) -> None:
    """Write an event of the relay's. That nobody can read it ends the command, not the request."""
    try:
        output.write(event)
    except OSError as error:
        if not nursery.cancel_scope.cancel_called:
            nursery.start_soon(_raise, error)


async def _raise(error: Exception) -> None:
    raise error


def _introduce(node: Node) -> None:
    from lattica.nat.base.net.addresses import ip_of

    addresses = [str(address) for address in node.addrs]
    ips = [ip_of(address) for address in node.addrs]
    usable = [a for a, ip in zip(addresses, ips, strict=True) if ip is None or not ip.is_loopback]
    say(f"relay {node.peer_id}")
    say("give peers those of these addresses that they can reach:")
    for address in usable or addresses:
        say(f"  {address}")
