"""`lattica dht`: values, providers and peers, found without a centre."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import EXIT_FAILURE, run, start
from lattica.cli.shared.daemon import (
    Stopped,
    beside_node,
    by_daemon,
    running_node,
    until_stopped,
)
from lattica.cli.shared.options import (
    ConnectOption,
    EphemeralOption,
    ListenOption,
    RelayOption,
    json_or_text,
)
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from lattica.config import NodeConfig
    from lattica.daemon.api.client import NodeClient
    from lattica.dht.records.found import DhtValue, FoundPeer
    from lattica.node import Node

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="What it is stored under.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A CID, or any name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON objects, one a line.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    dht = typer.Typer(
        help="Values, providers and peers, found without a centre. Each command joins by "
        "--connect, the `bootstrap` of the configuration, or the `lattica node` that runs here.",
        no_args_is_help=True,
    )
    dht.command("get")(get_command)
    dht.command("put")(put_command)
    dht.command("provide")(provide_command)
    dht.command("find")(find_command)
    dht.command("peers")(peers_command)
    app.add_typer(dht, name="dht")


def get_command(
    ctx: typer.Context,
    key: KeyArgument,
    owner: Annotated[
        str | None, typer.Option(metavar="PEER", help="Only what this peer has signed.")
    ] = None,
    connect: ConnectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the newest value under a key, as JSON; status 1 where there is none.

    With --json all values, each with its owner, sequence and expiry.
    """
    config = start(ctx, {"bootstrap": connect}, keep_identity=False, quiet=True)

    async def get(node: Node) -> int:
        found = await node.dht.get(key, owner=owner)
        if found is None:
            say(f"lattica: nothing is stored under {key}", err=True)
            return EXIT_FAILURE
        if as_json:
            for value in found.values:
                say_json({"key": key, **_value(value)})
        else:
            say(json.dumps(_plain(found.value), ensure_ascii=False))
        return 0

    sys.exit(run(_with_node, beside_node(ctx, config), get))


def put_command(
    ctx: typer.Context,
    key: KeyArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="JSON; anything else is text.")],
    subkey: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of this peer's values it is.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long it is valid; a day.")
    ] = None,
    connect: ConnectOption = None,
    ephemeral: EphemeralOption = False,
    as_json: JsonOption = False,
) -> None:
    """Store a value, signed with this peer's key, and say how many peers hold it.

    It lasts until it expires, as peers pass it on; nobody else can change it.
    """
    config = start(ctx, {"bootstrap": connect}, ephemeral=ephemeral, quiet=True)
    data = json_or_text(value)

    def show(owner: str, held: int) -> None:
        if as_json:
            say_json({"key": key, "owner": owner, "peers": held})
        else:
            say(f"held by {'1 peer' if held == 1 else f'{held} peers'}; owner {owner}")

    daemon = running_node(ctx, config, ephemeral=ephemeral)
    if daemon is not None:
        with by_daemon(daemon, connect):
            show(daemon.status().peer_id, daemon.dht_put(key, data, subkey=subkey, ttl=ttl))
        return

    async def put(node: Node) -> int:
        show(str(node.peer_id), await node.dht.put(key, data, subkey=subkey, ttl=ttl))
        return 0

    sys.exit(run(_with_node, config, put))


def provide_command(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="CIDs, or any names.")],
    listen: ListenOption = None,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    ephemeral: EphemeralOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say that this peer has something, until SIGINT or SIGTERM; then that it has it no more."""
    overrides = {"listen": listen, "bootstrap": connect, "relays": relay}
    config = start(ctx, overrides, ephemeral=ephemeral, quiet=True)

    def show(name: str, peer: str, held: int) -> None:
        if as_json:
            say_json({"name": name, "peer_id": peer, "peers": held})
        else:
            say(f"{name}: known to {held} peers")

    daemon = running_node(ctx, config, ephemeral=ephemeral, listen=listen, relay=relay)
    if daemon is not None:
        with by_daemon(daemon, connect):
            _provide_by(daemon, names, show)
        return

    async def provide(node: Node) -> int:
        import trio

        await node.wait_announced()
        try:
            for name in names:
                show(name, str(node.peer_id), await node.dht.provide(name))
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5.0, shield=True):
                for name in names:
                    await node.dht.withdraw(name)

    sys.exit(run(_with_node, config, provide, False))


def _provide_by(
    client: NodeClient, names: list[str], show: Callable[[str, str, int], None]
) -> None:
    peer = client.status().peer_id

    def provide() -> Iterator[Callable[[], None]]:
        with client.events() as events:
            for name in names:
                yield partial(show, name, peer, client.dht_provide(name))
            for _ in events:  # until the end of the node
                pass

    try:
        until_stopped(provide())
    except Stopped:
        for name in names:
            client.dht_withdraw(name, timeout=5.0)


def find_command(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A CID, any name, or the ID of a peer.")
    ],
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="So many are enough.")
    ] = None,
    connect: ConnectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print who provides something, as they are found, or where a peer is; status 1: nobody."""
    config = start(ctx, {"bootstrap": connect}, keep_identity=False, quiet=True)

    async def find(node: Node) -> int:
        found = 0
        async for peer in _found(node, name, count):
            found += 1
            _show(peer, as_json)
        if not found:
            say(f"lattica: nobody is known for {name}", err=True)
        return 0 if found else EXIT_FAILURE

    sys.exit(run(_with_node, beside_node(ctx, config), find))


async def _found(node: Node, name: str, count: int | None) -> AsyncIterator[FoundPeer]:
    from lattica.errors import AddressError
    from lattica.nat.base.keys.identity import parse_peer_id

    try:
        peer_id = parse_peer_id(name)
    except AddressError:
        async for peer in node.dht.find_providers(name, count=count):
            yield peer
        return
    known = await node.dht.find_peer(peer_id)
    if known is not None:
        yield known


def peers_command(
    ctx: typer.Context, connect: ConnectOption = None, as_json: JsonOption = False
) -> None:
    """Join, and print the peers of the DHT that are near to this one and far from it."""
    config = start(ctx, {"bootstrap": connect}, keep_identity=False, quiet=True)

    async def peers(node: Node) -> int:
        await node.dht.find_peer(node.peer_id)  # asks those who are near
        for peer in node.dht.peers():
            _show(peer, as_json)
        return 0

    sys.exit(run(_with_node, beside_node(ctx, config), peers))


def _show(peer: FoundPeer, as_json: bool) -> None:
    addrs = [str(addr) for addr in peer.addrs]
    if as_json:
        say_json({"peer_id": str(peer.peer_id), "addrs": addrs})
    else:
        say("\n".join(addrs) or str(peer.peer_id))


def _value(value: DhtValue) -> dict[str, object]:
    return {
        "value": _plain(value.value),
        "owner": str(value.owner),
        "subkey": value.subkey,
        "sequence": value.sequence,
        "expires": value.expires,
    }


def _plain(value: object) -> object:
    """As JSON has it: bytes as `{"base64": …}`."""
    import base64

    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(_plain(key)): _plain(item)
            for key, item in value.items()
        }
    return list(map(_plain, value)) if isinstance(value, list) else value


async def _with_node(
    config: NodeConfig, command: Callable[[Node], Awaitable[int]], is_brief: bool = True
) -> int:
    """Run a command; one that is over in a moment (`is_brief`) is nobody's server."""
    from dataclasses import replace

    import trio

    from lattica.cli.shared.listening import beside_others
    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.errors import NoDhtPeersError
    from lattica.node import Node

    if not config.bootstrap:
        raise NoDhtPeersError("no peer is known to ask: name one by --connect, or as `bootstrap`")
    config = replace(
        config,
        swarm=replace(config.swarm, listen=beside_others(config.swarm.listen)),
        dht=replace(config.dht, enabled=True, mode="client" if is_brief else config.dht.mode),
    )
    if is_brief:
        from lattica.nat.traversal.portmap.config import PortMappingConfig

        config = replace(
            config, nat=replace(config.nat, port_mapping=PortMappingConfig(enabled=False))
        )
    status = 0
    async with stopped_by_signals() as stop:
        # The node goes on while the command says goodbye.
        scope = stop.scope = trio.CancelScope()
        async with Node(config) as node:
            with scope:
                status = await command(node)
    if is_brief and stop.signal is not None:
        return 128 + stop.signal
    return status
