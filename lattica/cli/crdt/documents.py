"""`lattica crdt` and `create`, `list`, `open`, `get`, `set`, `watch`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica.cli.crdt.by_node import (
    create_by,
    get_by,
    list_by,
    node_for,
    only_alone,
    set_by,
    watch_by,
)
from lattica.cli.crdt.opening import (
    WAIT,
    CapabilityOption,
    DocumentArgument,
    JsonOption,
    WaitOption,
    offline,
    online,
    open_document,
    with_document,
)
from lattica.cli.crdt.owners import owner_json
from lattica.cli.crdt.place_kind import PlaceKind
from lattica.cli.crdt.proofs import readable
from lattica.cli.shared.common import run
from lattica.cli.shared.event_json import ready_object
from lattica.cli.shared.options import (
    ConnectOption,
    EventsOption,
    ListenOption,
    RelayOption,
    json_or_text,
)
from lattica.cli.shared.terminal import say, say_as_read, say_json
from lattica.nat.base.printable import json_text

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.crdt.store.changes import DocumentChange
    from lattica.crdt.store.shared_document import SharedDocument


class ModeName(StrEnum):
    """Who may write, as options name it."""

    OPEN = "open"
    ALLOW_LIST = "allow-list"
    CAPABILITY = "capability"


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("create")(create_command)
    group.command("list")(list_command)
    group.command("open")(open_command)
    group.command("get")(get_command)
    group.command("set")(set_command)
    group.command("watch")(watch_command)


def create_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people; need not be unique.")],
    mode: Annotated[
        ModeName, typer.Option("--mode", help="Who may write; who may write also reads.")
    ] = ModeName.CAPABILITY,
    sealed: Annotated[
        bool,
        typer.Option(
            "--sealed",
            help="Only readers can read what is in it; others can be let keep it and pass it on.",
        ),
    ] = False,
    owner: Annotated[
        list[str] | None,
        typer.Option(
            "--owner", metavar="PEER", help="An owner, instead of this peer; any number of times."
        ),
    ] = None,
    recovery: Annotated[
        list[str] | None,
        typer.Option(
            "--recovery",
            metavar="PEER",
            help="The ID of a key (`lattica --identity FILE id`) that may appoint another owner "
            "after one has contradicted itself; any number of times. Keep the key elsewhere.",
        ),
    ] = None,
    needed: Annotated[
        int, typer.Option("--needed", min=1, help="How many of these have to sign.")
    ] = 1,
    by_owners: Annotated[
        int,
        typer.Option(
            "--by-owners", min=0, help="Or so many of the other owners; 0: they do not appoint."
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a document that belongs to this peer, and print its ID. Others open it by that.

    An owner contradicts itself when a backup or a virtual machine of it is restored. Without
    --recovery or --by-owners it goes on as another session; with it, it neither gives rights nor
    takes any back until `appoint` has put an owner in its place.
    """
    config = offline(ctx)
    daemon = node_for(ctx, config, sealed, owner, recovery, by_owners)
    if daemon is not None:
        create_by(daemon, name, mode.value, as_json)
        return

    async def work(config: NodeConfig) -> None:
        from lattica.crdt.entries.genesis import Mode, Recovery
        from lattica.crdt.keys.identities import identity_key
        from lattica.node import Node

        async with Node(config) as node:
            keys = tuple(sorted(set(map(identity_key, recovery or ()))))
            recovered = None
            if keys or by_owners:
                recovered = Recovery(needed if keys else 0, keys, by_owners)
            made = await node.store.create(
                name,
                mode=Mode[mode.name],
                owners=owner,
                recovery=recovered,
                is_sealed=sealed,
            )
            if as_json:
                made_as = {"document": made.id, "name": made.name, "mode": mode.value}
                say_json({**made_as, "sealed": sealed})
            else:
                say(made.id)

    run(work, config)


def list_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the documents whose files are here."""
    config = offline(ctx)
    daemon = node_for(ctx, config)
    if daemon is not None:
        list_by(daemon, as_json)
        return

    async def work(config: NodeConfig) -> None:
        from lattica.node import Node

        async with Node(config) as node:
            for each in node.store.documents():
                mode = each.mode.name.lower().replace("_", "-")
                if as_json:
                    say_json({"document": each.id, "name": each.name, "mode": mode})
                else:
                    say(f"{each.id} {mode} {each.name}")

    run(work, config)


def open_command(
    ctx: typer.Context,
    document: DocumentArgument,
    capability: CapabilityOption = None,
    wait: WaitOption = 30.0,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: EventsOption = False,
) -> None:
    """Keep a document, and replicate it with all peers that have it, until SIGINT or SIGTERM."""
    config = only_alone(ctx, online(ctx, listen, connect, relay))
    _serve(config, document, capability, wait, None, as_json)


def watch_command(
    ctx: typer.Context,
    document: DocumentArgument,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only names that begin with this.")
    ] = "",
    capability: CapabilityOption = None,
    wait: WaitOption = 30.0,
    listen: ListenOption = None,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: EventsOption = False,
) -> None:
    """As `open`, and print what changes, with what is there now, until SIGINT or SIGTERM.

    A place that changes several times before it can be printed is printed once, as it is then.
    """
    config = online(ctx, listen, connect, relay)
    daemon = node_for(ctx, config, capability, listen, connect, relay)
    if daemon is not None:
        watch_by(daemon, document, prefix, wait, as_json)
        return
    _serve(config, document, capability, wait, prefix, as_json)


def get_command(
    ctx: typer.Context,
    document: DocumentArgument,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which; without: all registers.")
    ] = None,
    kind: Annotated[PlaceKind, typer.Option("--kind", help="Of what.")] = PlaceKind.REGISTER,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    _as_json: Annotated[bool, typer.Option("--json", help="As it is without, too.")] = False,
) -> None:
    """Print a value as JSON, after a look at what peers have if any are named.

    Ends with 1 if a register has no value. Bytes are shown as {"hex": …}.
    """
    config = online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay, kind is not PlaceKind.REGISTER)
    if daemon is not None:
        get_by(daemon, document, name, wait)
        return

    def show(opened: SharedDocument) -> None:
        if name is None:
            everything = {each: readable(value) for each, value in opened.registers.items()}
            say_json(everything)
            return
        value = _value(opened, kind, name)
        if value is None:
            from lattica.errors import ContentNotFoundError

            raise ContentNotFoundError(f"{name!r} has no value in {opened.name!r}")
        say_json(value)

    with_document(config, document, show, wait=wait, before=True)


def set_command(
    ctx: typer.Context,
    document: DocumentArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the register.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="JSON; what is none is taken as a text."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Have it have no value.")] = False,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a register; it is on disk, and with peers if any are named, when this ends.

    Ends with 1 if peers are named and none of them has got it within --wait.
    """
    if delete == (value is not None):
        raise typer.BadParameter("give either a VALUE or --delete")
    written = None if value is None else json_or_text(value)
    config = online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay)
    if daemon is not None:
        set_by(daemon, document, name, written, wait, as_json)
        return

    def write(opened: SharedDocument) -> None:
        opened.registers[name] = written

    peers = with_document(
        config, document, write, wait=wait, before=True, after=True, must_exist=False
    )
    if as_json:
        say_json({"name": name, "peers": [str(peer) for peer in peers]})


# Running.


def _serve(
    config: NodeConfig,
    document: str,
    capability: Path | None,
    wait: float,
    prefix: str | None,
    as_json: bool,
) -> None:
    run(_replicate, config, document, capability, wait, prefix, as_json)


async def _replicate(
    config: NodeConfig,
    document: str,
    capability: Path | None,
    wait: float,
    prefix: str | None,
    as_json: bool,
) -> None:
    import trio

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.node import Node

    async with stopped_by_signals(), Node(config) as node:
        opened = await open_document(node, document, capability, wait)
        if as_json:
            await say_as_read(json_text(ready_object(node, document=opened.id, name=opened.name)))
        else:
            for address in node.addrs:
                say(f"listening on {address}", err=True)
            say(f"document {opened.id} ({opened.name})", err=True)
        if prefix is None:
            await trio.sleep_forever()
        with opened.changes() as changes:
            async for change in changes:
                for event in _changed(opened, change, prefix):
                    await say_as_read(json_text(event) if as_json else _line(event))


def _changed(
    opened: SharedDocument, change: DocumentChange, prefix: str
) -> Iterator[dict[str, object]]:
    from lattica.crdt.store.changes import ErasedChange, OwnersChange, PresenceChange, Rebuilt

    if isinstance(change, OwnersChange):
        yield {"event": "owners", "owners": [owner_json(each) for each in opened.owners()]}
    elif isinstance(change, ErasedChange):
        yield {"event": "erased"}
    elif isinstance(change, Rebuilt):
        for name, value in opened.registers.items():
            if name.startswith(prefix):
                yield {
                    "event": "changed",
                    "kind": "register",
                    "name": name,
                    "value": readable(value),
                }
    elif isinstance(change, PresenceChange):
        peers = opened.presence.peers()
        yield {
            "event": "presence",
            "peer": str(change.peer),
            "here": change.peer in peers,
            "value": readable(peers.get(change.peer)),
        }
    elif change.name.startswith(prefix):
        kind = PlaceKind(change.kind.name.lower())
        yield {
            "event": "changed",
            "kind": kind.value,
            "name": change.name,
            "item": readable(change.item),
            "value": _value(opened, kind, change.name),
        }


def _line(event: dict[str, object]) -> str:
    if event["event"] == "owners":
        return f"owners: {json.dumps(event['owners'])}"
    if event["event"] == "erased":
        return "erased: what entries say is gone (`lattica crdt log`)"
    if event["event"] == "presence":
        return (
            f"{event['peer']} {'here' if event['here'] else 'gone'}: {json.dumps(event['value'])}"
        )
    return f"{event['kind']} {json.dumps(event['name'])}: {json.dumps(event['value'])}"


def _value(opened: SharedDocument, kind: PlaceKind, name: str) -> Any:
    """What is at a name, as JSON has it."""
    match kind:
        case PlaceKind.REGISTER:
            return readable(opened.registers.get(name))
        case PlaceKind.COUNTER:
            return opened.counter(name).value
        case PlaceKind.SET:
            return [readable(each) for each in opened.set(name)]
        case PlaceKind.CLAIM:
            return [
                {
                    "item": readable(item),
                    "session": holder.author.hex(),
                    "until_milliseconds": holder.until,
                }
                for item, holder in opened.claims(name).held()
            ]
        case PlaceKind.TEXT:
            return str(opened.text(name))
        case PlaceKind.LIST:
            return [readable(each) for each in opened.list(name)]
