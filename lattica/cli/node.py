"""`lattica node`, a peer that runs until it is stopped, and `lattica id`, its name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start
from lattica.cli.shared.event_json import EventOutput, event_output
from lattica.cli.shared.options import (
    ConnectOption,
    EphemeralOption,
    EventsOption,
    ListenOption,
    RelayOption,
)
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.daemon.node.member import Member
    from lattica.nat.swarm.events import EventStream


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
    from lattica.nat.base.keys.identity import Identity

    assert config.identity_path is not None  # `start` fills it in
    is_new = not os.path.exists(config.identity_path)
    peer_id = str(Identity.load_or_create(config.identity_path).peer_id)
    if as_json:
        key_file = str(config.identity_path.absolute())
        say_json({"peer_id": peer_id, "key_file": key_file, "created": is_new})
        return
    if is_new:
        say(f"made a new key in {config.identity_path}", err=True)
    say(peer_id)


def node_command(
    ctx: typer.Context,
    listen: ListenOption = None,
    bootstrap: ConnectOption = None,
    relay: RelayOption = None,
    ephemeral: EphemeralOption = False,
    page: Annotated[
        str | None,
        typer.Option(
            "--page",
            metavar="HOST:PORT",
            help="Show how it is on a web page; 127.0.0.1:0: any port.",
        ),
    ] = None,
    as_json: EventsOption = False,
) -> None:
    """Run a peer until SIGINT or SIGTERM.

    It serves what table [node] of the configuration names (files, documents, ports), and other
    programs of this user by a socket in its data directory: `lattica publish`, `fetch`, `status`
    and `peers` use it while it runs, unless --no-daemon is given.
    """
    overrides = {
        "listen": listen,
        "bootstrap": bootstrap,
        "relays": relay,
        "node.page": page,
    }
    config = start(ctx, overrides, ephemeral=ephemeral, serves_dht=True)
    with event_output(as_json) as output:
        run(_serve, config, output)


async def _serve(config: NodeConfig, output: EventOutput | None) -> None:
    import trio

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.daemon.node.running import member_of
    from lattica.daemon.service_manager import ServiceManager
    from lattica.node import Node

    manager = ServiceManager.from_environment(os.environ)
    async with stopped_by_signals() as stop:
        node = Node(config)
        # Before it starts: peers may connect while it does.
        with node.events() as events:
            async with node, member_of(node, has_key=config.identity_path is not None) as member:
                stop.nursery.start_soon(manager.run, member.summary)
                # The node itself goes on while peers are told what is here no more, and good-bye.
                with trio.CancelScope() as stop.scope:
                    try:
                        await _report(member, events, output)
                    finally:
                        manager.stopping()


async def _report(member: Member, events: EventStream, output: EventOutput | None) -> None:
    node = member.node
    if output is not None:
        socket = None if member.socket is None else str(member.socket)
        output.write_ready(node, socket=socket, page=member.page or None)
        await output.write_all(events)
    else:
        say(f"peer ID: {node.peer_id}")
        for address in node.addrs:
            say(f"listening on {address}")
        if member.socket is not None:
            say(f"local API at {member.socket}")
        if member.page:
            say(f"web page at {member.page}")
        async for _ in events:  # until the node ends
            pass
