"""`lattica expose` and `lattica forward`: a TCP service of one peer on a local port of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start, wrong_arguments
from lattica.cli.shared.daemon import Stopped, by_daemon, running_node, until_stopped
from lattica.cli.shared.event_json import EventOutput, event_output
from lattica.cli.shared.options import (
    ConnectOption,
    EphemeralOption,
    EventsOption,
    ListenOption,
    RelayOption,
)
from lattica.cli.shared.terminal import say, saying_without_waiting

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.daemon.api.client import NodeClient, Responses
    from lattica.daemon.api.pb import node_pb2 as pb
    from lattica.nat.base.keys.identity import PeerId
    from lattica.nat.base.net.multiaddr import Multiaddr
    from lattica.node import Node
    from lattica.rpc.ports.events import PortEvent
    from lattica.rpc.ports.exposer import Exposure
    from lattica.rpc.ports.forwarder import Forward

_ANNOUNCE_TIMEOUT = 10.0
"""Seconds that a printed command waits for addresses at relays."""

IdleOption = Annotated[
    float | None,
    typer.Option(
        "--idle", metavar="SECONDS", help="End connections that are silent so long (7440)."
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("expose")(expose_command)
    app.command("forward")(forward_command)


def expose_command(
    ctx: typer.Context,
    ports: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PORT",
            help="A port of this machine, HOST:PORT, or unix:/PATH, with a name if it is to "
            "have one; PUBLIC:PORT exposes a port under another number.",
        ),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="PEER",
            help="Peer that may connect, by its ID, or `anyone`; may be repeated.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the port is called, if it is one.")
    ] = None,
    idle: IdleOption = None,
    per_peer: Annotated[
        int | None,
        typer.Option(
            "--max-per-peer", metavar="N", help="Connections of one peer at a time (256)."
        ),
    ] = None,
    listen: ListenOption = None,
    bootstrap: ConnectOption = None,
    relay: RelayOption = None,
    ephemeral: EphemeralOption = False,
    as_json: EventsOption = False,
) -> None:
    """Let peers connect to TCP services of this machine, until SIGINT or SIGTERM.

    Prints the command for the other side; that is the only line on standard output. Without --to
    there is a key in it, and whoever has the key may connect; it stays the same as long as this
    peer's own key does:

        lattica expose 8000

        lattica forward /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW… 8000 --key …

    With --to only those peers may (`lattica id` says who a peer is), and need no key:

        lattica expose web=8000 db=unix:/run/postgresql/.s.PGSQL.5432 --to 12D3KooW…

    Peers are connected to what is named here, and to nothing else.
    """
    overrides = {
        "listen": listen,
        "bootstrap": bootstrap,
        "relays": relay,
        "ports.idle_timeout": idle,
        "ports.max_connections_per_peer": per_peer,
    }
    named = [_split_exposed(spec) for spec in ports]
    if name is not None:
        if len(named) != 1 or named[0][0] is not None:
            raise typer.BadParameter("--name is for one port; give several as NAME=PORT")
        named = [(name, named[0][1])]
    anyone = "anyone" in (to or ())
    if anyone and len(to or ()) > 1:
        raise typer.BadParameter("--to is peers or `anyone`")
    config = start(ctx, overrides, ephemeral=ephemeral, quiet=True)
    _check_exposed(named, [] if anyone else to or [])
    daemon = running_node(
        ctx, config, listen=listen, relay=relay, ephemeral=ephemeral, max_per_peer=per_peer
    )
    with event_output(as_json) as output:
        if daemon is not None:
            pairs = [(n or "", target) for n, target in named]
            with by_daemon(daemon, bootstrap) as client, suppress(Stopped):
                responses = client.expose(
                    *pairs, to="anyone" if anyone else to or (), idle_timeout=idle
                )
                until_stopped(_exposed_by(client, responses, output))
            return
        run(_expose, config, named, None if anyone else to or [], output)


def forward_command(
    ctx: typer.Context,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="PEER",
            help="Peer that exposes it: its ID, or addresses with /p2p/ID and commas between.",
        ),
    ],
    ports: Annotated[
        list[str],
        typer.Argument(
            metavar="[LOCAL:]PORT",
            help="Number or name of a port there, and the local port if it is to be another.",
        ),
    ],
    local: Annotated[
        str | None,
        typer.Option(
            "--local",
            metavar="PORT",
            help="Where to listen, if it is one port: PORT (0: any), HOST:PORT or unix:/PATH.",
        ),
    ] = None,
    key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="What `lattica expose` has printed.")
    ] = "",
    idle: IdleOption = None,
    listen: ListenOption = None,
    bootstrap: ConnectOption = None,
    relay: RelayOption = None,
    ephemeral: EphemeralOption = False,
    as_json: EventsOption = False,
) -> None:
    """Connect clients of local ports with services that a peer exposes, until SIGINT or SIGTERM.

    Listens on 127.0.0.1, so that only this machine's programs can connect:

        lattica forward 12D3KooW… 8000

        curl http://127.0.0.1:8000/

    A port that is taken here gets another local number in front, and several ports need one
    command; a name gets any free port unless one is given:

        lattica forward 12D3KooW… 9000:8000 5432:db web

    Goes on when the peer is away: a new connection waits 30 s for a path to it.
    """
    named = [_split_forwarded(spec) for spec in ports]
    if local is not None:
        if len(named) != 1 or named[0][0] is not None:
            raise typer.BadParameter("--local is for one port; give several as LOCAL:PORT")
        named = [(local, named[0][1])]
    overrides = {
        "listen": listen,
        "bootstrap": bootstrap,
        "relays": relay,
        "ports.idle_timeout": idle,
    }
    config = start(ctx, overrides, ephemeral=ephemeral, quiet=True)
    _check_forwarded(peer, named)
    daemon = running_node(ctx, config, listen=listen, relay=relay, ephemeral=ephemeral)
    with event_output(as_json) as output:
        if daemon is not None:
            pairs = [(port, at or "") for at, port in named]
            with by_daemon(daemon, bootstrap) as client, suppress(Stopped):
                responses = client.forward(peer, *pairs, key=key, idle_timeout=idle)
                until_stopped(_forwarded_by(client, responses, output))
            return
        run(_forward, config, peer, named, key, output)


def _split_exposed(spec: str) -> tuple[str | None, str]:
    """The name of a port, if it is given one, and where the service is."""
    from lattica.rpc.ports.endpoints import split_named

    name, target = split_named(spec)
    public, colon, port = spec.partition(":")
    if name is None and colon and public.isdecimal() and port.isdecimal():
        return public, port
    return name, target


def _check_exposed(named: list[tuple[str | None, str]], to: list[str]) -> None:
    from lattica.nat.base.keys.peer_id import parse_peer_id
    from lattica.rpc.ports.endpoints import parse_endpoint

    with wrong_arguments():
        for _, target in named:
            parse_endpoint(target)
        for peer in to:
            parse_peer_id(peer)


def _check_forwarded(peer: str, named: list[tuple[str | None, str]]) -> None:
    from lattica.rpc.ports.endpoints import parse_local
    from lattica.rpc.ports.ports import parse_remote

    with wrong_arguments():
        parse_remote(peer)
        for local, _ in named:
            if local is not None:
                parse_local(local)


def _split_forwarded(spec: str) -> tuple[str | None, str]:
    """Where to listen, if that is said, and the port's name there."""
    local, colon, name = spec.rpartition(":")
    return (local, name) if colon else (None, spec)


async def _expose(
    config: NodeConfig,
    named: list[tuple[str | None, str]],
    to: list[str] | None,
    output: EventOutput | None,
) -> None:
    async def work(node: Node, tell: Callable[[PortEvent], None]) -> None:
        from lattica.rpc.ports.endpoints import parse_endpoint

        ports = node.ports
        names = [name or str(parse_endpoint(target).port) for name, target in named]
        key = None if to is None or to else ports.key_for(*names)
        for name, target in named:
            whom = "anyone" if to is None else to
            exposure = ports.expose(target, name=name, to=whom, key=key, on_event=tell)
            if output is None:
                say(f"exposing {exposure.name}: {exposure.target}, {_to_whom(exposure)}", err=True)
        await node.wait_announced(_ANNOUNCE_TIMEOUT)
        command = _forward_command(node.peer_id, node.addrs, names, key)
        if output is not None:
            exposed = [{"port": e.name, "target": str(e.target)} for e in ports.exposed]
            output.write_ready(node, exposed=exposed, key=key, command=command)
            return
        for address in node.addrs:
            say(f"listening on {address}", err=True)
        say("for the other side:", err=True)
        say(command)
        for reason in node.announcing:
            say(f"there may be more addresses soon: {reason}", err=True)
        say("exposed until Ctrl-C", err=True)

    await _run_ports(config, work, output)


def _to_whom(exposure: Exposure) -> str:
    if exposure.key is not None:
        return "to whoever has the key"
    if exposure.allowed is None:
        return "to anyone who can reach this peer"
    return f"to {', '.join(sorted(map(str, exposure.allowed)))}"


def _exposed_by(
    client: NodeClient, responses: Responses[pb.PortMessage], output: EventOutput | None
) -> Iterator[Callable[[], None]]:
    """Tell what a node that runs exposes, and what happens to connections."""
    from lattica.nat.base.keys.peer_id import parse_peer_id
    from lattica.nat.base.net.addresses import parse_multiaddr

    ready = next(responses)
    status = client.status()
    addrs = [parse_multiaddr(addr) for addr in status.addrs]
    names, key = [port.name for port in ready.ports], ready.key or None
    command = _forward_command(parse_peer_id(status.peer_id), addrs, names, key)
    if output is not None:
        exposed = [{"port": port.name, "target": port.place} for port in ready.ports]
        yield partial(output.write_ready, status, exposed=exposed, key=key, command=command)
    else:
        for port in ready.ports:
            line = f"exposing {port.name}: {port.place}, by the node that runs here"
            yield partial(say, line, err=True)
        yield partial(say, "for the other side:", err=True)
        yield partial(say, command)
        yield partial(say, "exposed until Ctrl-C", err=True)
    yield from _tell_all(responses, output)


def _forwarded_by(
    client: NodeClient, responses: Responses[pb.PortMessage], output: EventOutput | None
) -> Iterator[Callable[[], None]]:
    """Tell where a node that runs listens, and what happens to connections."""
    ready = next(responses)
    if output is not None:
        forwards = [{"port": port.name, "local": port.place} for port in ready.ports]
        yield partial(output.write_ready, client.status(), forwards=forwards)
    else:
        for port in ready.ports:
            whose = f"port {port.name} of {ready.peer_id}, by the node that runs here"
            yield partial(say, f"{port.place} is {whose}")
    yield from _tell_all(responses, output)


def _tell_all(
    responses: Responses[pb.PortMessage], output: EventOutput | None
) -> Iterator[Callable[[], None]]:
    for message in responses:
        yield partial(_tell, _event_of(message), output, partial(say, err=True))


def _event_of(message: pb.PortMessage) -> PortEvent:
    """What happened to a connection of a node that runs."""
    from lattica.nat.base.keys.peer_id import parse_peer_id
    from lattica.rpc.ports.events import (
        ConnectionClosed,
        ConnectionOpened,
        ConnectionRefused,
        Side,
    )

    side, peer = Side(message.side), parse_peer_id(message.peer_id)
    if message.event == "connection_refused":
        return ConnectionRefused(side, message.port, peer, message.reason)
    opened = (side, message.id, message.port, peer, message.local, message.path)
    if message.event == "connection_opened":
        return ConnectionOpened(*opened)
    counts = (message.bytes_to_peer, message.bytes_from_peer, message.seconds, message.reason)
    return ConnectionClosed(*opened, *counts)


def _forward_command(
    peer_id: PeerId, addrs: Iterable[Multiaddr], names: Iterable[str], key: str | None
) -> str:
    """What to run on another machine."""
    command = f"lattica forward {_addresses(peer_id, addrs)} {' '.join(names)}"
    return command if key is None else f"{command} --key {key}"


def _addresses(peer_id: PeerId, addrs: Iterable[Multiaddr]) -> str:
    """The addresses to tell another machine, or where there are none, the ID."""
    from lattica.nat.base.net.addresses import ip_of, split_peer, with_peer
    from lattica.nat.base.net.ranking import fitting, ranked

    plain = ranked(split_peer(addr)[0] for addr in addrs)
    remote = [addr for addr in plain if (ip := ip_of(addr)) is None or not ip.is_loopback]
    told = fitting(remote or plain, 8, 2048)
    return ",".join(str(with_peer(addr, peer_id)) for addr in told) or str(peer_id)


async def _forward(
    config: NodeConfig,
    peer: str,
    named: list[tuple[str | None, str]],
    key: str,
    output: EventOutput | None,
) -> None:
    from dataclasses import replace

    from lattica.cli.shared.listening import beside_others

    # It listens for other peers only so that a hole can be punched to it.
    listen = beside_others(config.swarm.listen)
    config = replace(config, swarm=replace(config.swarm, listen=listen))

    async def work(node: Node, tell: Callable[[PortEvent], None]) -> None:
        forwards: list[Forward] = []
        for local, name in named:
            forwards.append(
                await node.ports.forward(peer, name, local=local, key=key, on_event=tell)
            )
        if output is not None:
            listening = [{"port": f.name, "local": str(f.local)} for f in forwards]
            output.write_ready(node, forwards=listening)
        else:
            for forward in forwards:
                say(f"{forward.local} is port {forward.name} of {forward.peer_id}")
        for forward in forwards:
            await _check(node, peer, forward, key)

    await _run_ports(config, work, output)


async def _check(node: Node, peer: str, forward: Forward, key: str) -> None:
    """Refusals are known at once; a peer that is away may come."""
    from lattica.errors import UnsupportedProtocolError

    try:
        await node.ports.check(peer, forward.name, key=key)
    except TimeoutError as error:
        say(f"not reached yet, and still tried for each connection: {error}", err=True)
    except UnsupportedProtocolError:
        say(f"{forward.peer_id} exposes nothing at present", err=True)


async def _run_ports(
    config: NodeConfig,
    work: Callable[[Node, Callable[[PortEvent], None]], Awaitable[None]],
    output: EventOutput | None,
) -> None:
    import math

    import trio

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.node import Node

    broken: list[OSError] = []

    with saying_without_waiting() as say_line:
        async with stopped_by_signals() as stop:

            def tell(event: PortEvent) -> None:
                try:
                    _tell(event, output, say_line)
                except OSError as error:  # nobody reads it any more
                    broken.append(error)
                    stop.nursery.cancel_scope.cancel()

            async with Node(config) as node:
                await work(node, tell)
                await trio.sleep(math.inf)
    if broken:
        raise broken[0]


def _tell(event: PortEvent, output: EventOutput | None, say_line: Callable[[str], None]) -> None:
    """Print what happened to a connection. Raises OSError when nobody can read it any more."""
    if output is not None:
        output.write(event)
    else:
        say_line(_line(event))


def _line(event: PortEvent) -> str:
    """What happened to a connection, for a person."""
    from lattica.rpc.ports.events import ConnectionClosed, ConnectionOpened, Side

    if isinstance(event, ConnectionOpened | ConnectionClosed):
        who = (
            f"{event.port}: {event.peer_id} → {event.local}"
            if event.side is Side.EXPOSE
            else f"{event.port}: {event.local} → {event.peer_id}"
        )
        if isinstance(event, ConnectionOpened):
            return f"#{event.id} {who} opened, {event.path}"
        return (
            f"#{event.id} {who} {event.reason}, {event.bytes_to_peer:,} bytes to the peer, "
            f"{event.bytes_from_peer:,} from it, {event.seconds:.1f} s, {event.path}"
        )
    return f"{event.port}: not connected, peer {event.peer_id}: {event.reason}"
