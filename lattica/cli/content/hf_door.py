"""`lattica hf-door`: models from the mesh for programs that know the Hugging Face hub only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start, wrong_arguments
from lattica.cli.shared.options import (
    ConnectOption,
    ListenOption,
    MaxRateOption,
    OwnKeyOption,
    RelayOption,
    bytes_a_second,
    named_path,
)
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import FetchOptions
    from lattica.content.swarm.messages import Member

_DIRECTORY = "hf-door"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("hf-door")(hf_door_command)


def hf_door_command(
    ctx: typer.Context,
    publishers: Annotated[
        list[str],
        typer.Argument(
            metavar="PEER...",
            help="Peers whose repositories are served: a ticket of theirs, an address that ends "
            "in /p2p/ID, or a peer ID.",
        ),
    ],
    http: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where clients connect; port 0: any."),
    ] = "127.0.0.1:8808",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=named_path,
            help="Where what was read is kept; by default in the data directory.",
        ),
    ] = None,
    max_rate: MaxRateOption = None,
    bootstrap: ConnectOption = None,
    listen: ListenOption = None,
    relay: RelayOption = None,
    own_key: OwnKeyOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the line.")
    ] = False,
) -> None:
    """Serve the Hugging Face hub's routes on this machine, with models from the mesh behind them.

    Programs that use `huggingface_hub` (transformers, vLLM, …) run unchanged: they are told by
    HF_ENDPOINT where the hub is, and this command prints that line, the only one on standard
    output. On the machine that has the model:

        lattica publish --repo my-org/my-model@v1 ./my-model

    And where it is to be used:

        lattica hf-door lattica1…

        export HF_ENDPOINT=http://127.0.0.1:8808

        hf download my-org/my-model --revision v1

    Only the named peers say what a repository consists of. The bytes come from all who have them,
    other doors included; each is compared with its hash before it is passed on. Until SIGINT or
    SIGTERM.
    """
    overrides = {"bootstrap": bootstrap, "listen": listen, "relays": relay}
    config = start(ctx, overrides, keep_identity=own_key, quiet=True)
    from lattica.content import FetchOptions

    host, colon, port = http.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{http!r} is not HOST:PORT", param_hint="--http")
    with wrong_arguments():
        members = [_parse_publisher(text) for text in publishers]
        options = FetchOptions(rate=bytes_a_second(max_rate))
    directory = cache or config.data_dir / _DIRECTORY
    run(_serve, config, members, directory, (host.strip("[]"), int(port)), options, as_json)


def _parse_publisher(text: str) -> Member:
    """A peer, and where it is if that is said. Raises :class:`~lattica.errors.AddressError`."""
    from lattica.content import Ticket
    from lattica.content.swarm.messages import Member
    from lattica.errors import AddressError
    from lattica.nat.base.keys.identity import parse_peer_id
    from lattica.nat.base.net.addresses import parse_multiaddr, split_peer

    text = text.strip()
    if text.lower().startswith("lattica"):
        ticket = Ticket.parse(text)
        return Member(ticket.peer_id, ticket.addrs)
    if not text.startswith("/"):
        return Member(parse_peer_id(text), ())
    address, peer = split_peer(parse_multiaddr(text))
    if peer is None:
        raise AddressError(f"{text} does not say which peer is there; it has to end in /p2p/ID")
    return Member(peer, (address,) if address.components else ())


async def _serve(
    config: NodeConfig,
    publishers: list[Member],
    directory: Path,
    where: tuple[str, int],
    options: FetchOptions,
    as_json: bool,
) -> None:
    from dataclasses import replace

    import trio

    from lattica.cli.shared.listening import beside_others
    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.errors import ConfigError, NotConnectedError
    from lattica.node import Node

    is_found_otherwise = config.bootstrap or config.nat.relay.relays or config.discovery.mdns
    if not is_found_otherwise and not any(each.addrs for each in publishers):
        raise NotConnectedError(
            "nobody is known who could say where these peers are: name a peer by --connect, or "
            "give their tickets, or addresses that end in /p2p/ID"
        )

    try:
        from lattica.content.hub.door import serve_door
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise ConfigError("the door needs h11: pip install 'lattica-stack[hf]'") from None
    config = replace(config, swarm=replace(config.swarm, listen=beside_others(config.swarm.listen)))
    host, port = where
    async with stopped_by_signals() as stop, Node(config) as node:

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            await serve_door(
                node,
                publishers,
                directory,
                host=host,
                port=port,
                options=options,
                task_status=task_status,
            )

        url = await stop.nursery.start(serve)
        if as_json:
            say_json({"endpoint": url, "peer_id": str(node.peer_id), "cache": str(directory)})
        else:
            say(f"export HF_ENDPOINT={url}")
            say("serving until Ctrl-C", err=True)
        await trio.sleep_forever()
