"""`lattica node`, a peer that runs until it is stopped, and `lattica id`, its name."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.common import run, start

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.nat.events import SwarmEvent
    from lattica.node import Node


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("node")(node_command)
    app.command("id")(id_command)


def id_command(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show this peer's ID; a key is made when there is none yet."""
    config = start(ctx)
    from lattica.identity import Identity

    assert config.identity_path is not None  # `start` fills it in
    is_new = not config.identity_path.exists()
    peer_id = str(Identity.load_or_create(config.identity_path).peer_id)
    if as_json:
        key_file = str(config.identity_path.absolute())
        typer.echo(json.dumps({"peer_id": peer_id, "key_file": key_file, "created": is_new}))
        return
    if is_new:
        typer.echo(f"made a new key in {config.identity_path}", err=True)
    typer.echo(peer_id)


def node_command(
    ctx: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDR", help="Multiaddr to listen on; may be repeated."),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            "--connect",
            metavar="ADDR",
            help="Peer to stay connected to, best with /p2p/ID; may be repeated.",
        ),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Use a new key for this run only.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON objects, one a line.")
    ] = False,
) -> None:
    """Run a peer until SIGINT or SIGTERM."""
    overrides = {"listen": listen, "bootstrap": bootstrap}
    config = start(ctx, overrides, keep_identity=not ephemeral)
    run(_serve, config, as_json)


async def _serve(config: NodeConfig, as_json: bool) -> None:
    import signal

    import trio

    from lattica.node import Node

    # Entered first: a signal that arrives while the node starts is not lost.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            async with Node(config) as node:
                await _report(node, as_json)


async def _report(node: Node, as_json: bool) -> None:
    with node.events() as events:
        addresses = [str(address) for address in node.addrs]
        if as_json:
            ready = {"event": "ready", "peer_id": str(node.peer_id), "addrs": addresses}
            typer.echo(json.dumps(ready))
        else:
            typer.echo(f"peer ID: {node.peer_id}")
            for address in addresses:
                typer.echo(f"listening on {address}")
        async for event in events:
            if as_json:
                typer.echo(json.dumps(_event_object(event)))


def _event_object(event: SwarmEvent) -> dict[str, object]:
    """`{"event": "peer_connected", …}`: the class's name, and its fields as JSON values."""
    import dataclasses
    import re

    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(event).__name__).lower()
    values = {f.name: _json_value(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return {"event": name, **values}


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return _json_value(value.value)
    return str(value)
