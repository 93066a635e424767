"""`lattica topic pub` and `lattica topic sub`: say something in a topic, and listen to one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start
from lattica.cli.shared.daemon import beside_node
from lattica.cli.shared.event_json import EventOutput, event_output
from lattica.cli.shared.options import ConnectOption, EphemeralOption, ListenOption, RelayOption
from lattica.cli.shared.terminal import say, say_as_read, saying_without_waiting
from lattica.nat.base.printable import json_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lattica.config import NodeConfig
    from lattica.dht.topics.service.topic import Topic
    from lattica.dht.topics.signing import Message
    from lattica.node import Node

NameArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="What it is called.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    topic = typer.Typer(
        help="Publish and subscribe: what is said in a topic reaches all who have subscribed.",
        no_args_is_help=True,
    )
    topic.command("pub")(pub_command)
    topic.command("sub")(sub_command)
    app.add_typer(topic, name="topic")


def pub_command(
    ctx: typer.Context,
    name: NameArgument,
    messages: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MESSAGE]...", help="What to say; without: lines of the input."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0, help="For somebody to subscribe."),
    ] = 30.0,
    peers: Annotated[
        int, typer.Option("--peers", metavar="COUNT", min=1, help="Subscribers to wait for.")
    ] = 1,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each message.")
    ] = False,
) -> None:
    """Say something in a topic, as soon as a connected peer has subscribed:

        lattica topic pub news "hello" --connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…

    Whoever is connected to the same `lattica node` finds each other through the DHT. Ends with 1 if
    nobody has subscribed in time.
    """
    overrides = {"listen": listen, "bootstrap": connect, "relays": relay}
    config = start(ctx, overrides, keep_identity=False, quiet=True, serves_dht=True)
    run(_publish, beside_node(ctx, config), name, messages or [], peers, wait, as_json)


def sub_command(
    ctx: typer.Context,
    name: NameArgument,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after so many messages.")
    ] = None,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    ephemeral: EphemeralOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON objects, one a line.")
    ] = False,
) -> None:
    """Print what is said in a topic, until SIGINT or SIGTERM.

    With --json each message has its author, number and `data`, or `data_base64` where it is not
    text; peers that come and go are told, too.
    """
    overrides = {"listen": listen, "bootstrap": connect, "relays": relay}
    config = start(ctx, overrides, ephemeral=ephemeral, quiet=True, serves_dht=True)
    with event_output(as_json) as output:
        run(_subscribe, beside_node(ctx, config), name, count, output)


async def _publish(
    config: NodeConfig, name: str, messages: list[str], peers: int, wait: float, as_json: bool
) -> None:
    import trio

    from lattica.errors import NotConnectedError
    from lattica.node import Node

    async with Node(config) as node:
        topic = node.topic(name)
        with trio.move_on_after(wait) as scope:
            await topic.wait_peers(peers)
        if scope.cancelled_caught:
            raise NotConnectedError(
                f"{len(topic.peers())} connected peers have subscribed to {name!r} within "
                f"{wait:g} s; connected: {len(node.peers())}"
            )
        async for text in _lines(messages):
            reached = await topic.publish(text)
            if as_json:
                said = {"event": "published", "topic": name, "size": len(text), "peers": reached}
                await say_as_read(json_text(said))


async def _lines(messages: list[str]) -> AsyncIterator[bytes]:
    """The messages, or what comes by standard input, a line each."""
    if messages:
        for text in messages:
            yield text.encode(errors="surrogateescape")
        return
    import trio

    async for line in trio.wrap_file(sys.stdin.buffer):
        yield line.rstrip(b"\r\n")


async def _subscribe(
    config: NodeConfig, name: str, count: int | None, output: EventOutput | None
) -> None:

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.node import Node

    async with stopped_by_signals() as stop, Node(config) as node:
        topic = node.topic(name)
        if output is None:
            _say_where(node)
        else:
            output.write_ready(node, topic=name)
            stop.nursery.start_soon(_tell_peers, topic, output)
        left = count
        async with topic.subscribe() as messages:
            try:
                async for message in messages:
                    if output is not None:
                        output.write_object(_object(message))
                    else:
                        text = _text(message)
                        await say_as_read(repr(message.data) if text is None else text)
                    if left is not None:
                        left -= 1
                        if not left:
                            break
            finally:
                if messages.lost:
                    with saying_without_waiting() as tell:
                        tell(f"lattica: {messages.lost:,} messages were left out, as nobody read")


def _say_where(node: Node) -> None:
    for address in node.addrs:
        say(f"listening on {address}", err=True)


async def _tell_peers(topic: Topic, output: EventOutput) -> None:
    with topic.neighbours() as events:
        async for event in events:
            output.write(event)


def _text(message: Message) -> str | None:
    try:
        return message.data.decode()
    except UnicodeDecodeError:
        return None


def _object(message: Message) -> dict[str, object]:
    import base64

    text = _text(message)
    said = (
        {"data": text}
        if text is not None
        else {"data_base64": base64.b64encode(message.data).decode()}
    )
    return {
        "event": "message",
        "topic": message.topic,
        "source": str(message.source),
        "seqno": message.seqno,
        "via": str(message.via),
        **said,
    }
