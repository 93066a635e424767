"""`lattica crdt` and `create`, `list`, `open`, `get`, `set`, `watch`, `grant`, `revoke`, `rights`,
`keys`, `rotate-key`, `log`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
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
from lattica.cli.crdt.place_kind import PlaceKind
from lattica.cli.crdt.proofs import clock_time, readable
from lattica.cli.shared.common import run, start
from lattica.cli.shared.event_json import EventOutput, event_output
from lattica.cli.shared.options import (
    ConnectOption,
    EventsOption,
    ListenOption,
    RelayOption,
    named_path,
)
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.crdt.canonical import Plain
    from lattica.crdt.store.changes import DocumentChange
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.node import Node

DocumentArgument = Annotated[
    str, typer.Argument(metavar="DOCUMENT", help="Its ID, 64 hexadecimal digits, or its name.")
]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="For peers that have the document, if --connect or the configuration names any.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CapabilityOption = Annotated[
    Path | None,
    typer.Option(
        "--capability", metavar="FILE", parser=named_path, help="What `grant -o` has written."
    ),
]
_WAIT = 10.0


class ModeName(StrEnum):
    """Who may write, as options name it."""

    OPEN = "open"
    ALLOW_LIST = "allow-list"
    CAPABILITY = "capability"


class LevelName(StrEnum):
    """What a right is for, as options name it."""

    PULL = "pull"
    READ = "read"
    WRITE = "write"
    MANAGE = "manage"


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("create")(create_command)
    group.command("list")(list_command)
    group.command("open")(open_command)
    group.command("get")(get_command)
    group.command("set")(set_command)
    group.command("watch")(watch_command)
    group.command("grant")(grant_command)
    group.command("revoke")(revoke_command)
    group.command("rights")(rights_command)
    group.command("keys")(keys_command)
    group.command("rotate-key")(rotate_key_command)
    group.command("log")(log_command)


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
    as_json: JsonOption = False,
) -> None:
    """Make a document that belongs to this peer, and print its ID. Others open it by that."""
    config = _offline(ctx)
    daemon = node_for(ctx, config, sealed)
    if daemon is not None:
        create_by(daemon, name, mode.value, as_json)
        return

    async def work(config: NodeConfig) -> None:
        from lattica.crdt.entries.genesis import Mode
        from lattica.node import Node

        async with Node(config) as node:
            made = await node.store.create(name, mode=Mode[mode.name], is_sealed=sealed)
            if as_json:
                made_as = {"document": made.id, "name": made.name, "mode": mode.value}
                say_json({**made_as, "sealed": sealed})
            else:
                say(made.id)

    run(work, config)


def list_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the documents whose files are here."""
    config = _offline(ctx)
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
    config = only_alone(ctx, _online(ctx, listen, connect, relay))
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
    config = _online(ctx, listen, connect, relay)
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
    wait: WaitOption = _WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    _as_json: Annotated[bool, typer.Option("--json", help="As it is without, too.")] = False,
) -> None:
    """Print a value as JSON, after a look at what peers have if any are named.

    Ends with 1 if a register has no value. Bytes are shown as {"hex": …}.
    """
    config = _online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay, kind is not PlaceKind.REGISTER)
    if daemon is not None:
        get_by(daemon, document, name, wait)
        return

    async def work(config: NodeConfig) -> None:
        async def show(node: Node, opened: SharedDocument) -> None:
            if name is None:
                everything = {each: readable(value) for each, value in opened.registers.items()}
                say_json(everything)
                return
            value = _value(opened, kind, name)
            if value is None:
                from lattica.errors import ContentNotFoundError

                raise ContentNotFoundError(f"{name!r} has no value in {opened.name!r}")
            say_json(value)

        await _with_document(config, document, None, wait, show, before=True)

    run(work, config)


def set_command(
    ctx: typer.Context,
    document: DocumentArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the register.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="JSON; what is none is taken as a text."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Have it have no value.")] = False,
    wait: WaitOption = _WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a register; it is on disk, and with peers if any are named, when this ends.

    Ends with 1 if peers are named and none of them has got it within --wait.
    """
    if delete == (value is not None):
        raise typer.BadParameter("give either a VALUE or --delete")
    written = None if value is None else _parsed(value)
    config = _online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay)
    if daemon is not None:
        set_by(daemon, document, name, written, wait, as_json)
        return

    async def work(config: NodeConfig) -> None:
        async def write(node: Node, opened: SharedDocument) -> None:
            opened.registers[name] = written

        peers = await _with_document(config, document, None, wait, write, before=True, after=True)
        if as_json:
            say_json({"name": name, "peers": [str(peer) for peer in peers]})

    run(work, config)


def grant_command(
    ctx: typer.Context,
    document: DocumentArgument,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Who gets the right: its ID.")],
    level: Annotated[
        LevelName,
        typer.Option(
            "--level", help="To do what; to pull is to keep a sealed document, and not to read it."
        ),
    ] = LevelName.WRITE,
    prefix: Annotated[
        str, typer.Option("--prefix", help="What names have to begin with that it writes at.")
    ] = "",
    lasts: Annotated[
        float | None, typer.Option("--lasts", metavar="SECONDS", min=1, help="Until it ends.")
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=0, max=7, help="How many times it may be passed on.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", parser=named_path, help="Write the capability here."
        ),
    ] = None,
    wait: WaitOption = _WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a peer a right in a document of this peer, or one that it may manage."""

    async def work(config: NodeConfig) -> None:
        from lattica.crdt.access.capability import Level

        async def grant(node: Node, opened: SharedDocument) -> None:
            capability = opened.grant(
                peer, Level[level.name], prefix=prefix, lasts=lasts, depth=depth
            )
            if out is not None:
                _write(out, capability)
            if as_json:
                say_json({"peer": peer, "level": level.value, "capability": capability.hex()})

        await _with_document(config, document, None, wait, grant, before=True, after=True)

    run(work, only_alone(ctx, _online(ctx, None, connect, relay)))


def revoke_command(
    ctx: typer.Context,
    document: DocumentArgument,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Whose rights: its ID.")],
    wait: WaitOption = _WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back all rights of a peer, and those that it has passed on.

    What it wrote and is here, or at peers that are named, still counts. A sealed document gets
    another read key, so that it reads nothing that comes later.
    """

    async def work(config: NodeConfig) -> None:
        async def revoke(node: Node, opened: SharedDocument) -> None:
            count = opened.revoke(peer)
            if as_json:
                say_json({"peer": peer, "revoked": count})

        await _with_document(config, document, None, wait, revoke, before=True, after=True)

    run(work, only_alone(ctx, _online(ctx, None, connect, relay)))


def rights_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """List the rights that were given in a document, as far as is known here."""

    async def work(config: NodeConfig) -> None:
        async def show(node: Node, opened: SharedDocument) -> None:
            for each in opened.rights():
                right: dict[str, object] = {
                    "peer": str(each.peer),
                    "level": each.level.name.lower(),
                    "prefix": each.prefix,
                    "expires_milliseconds": each.expires,
                    "given_by": str(each.given_by),
                    "revoked": each.is_revoked,
                }
                if as_json:
                    say_json(right)
                else:
                    where = f" at {each.prefix}…" if each.prefix else ""
                    revoked = ", taken back" if each.is_revoked else ""
                    say(f"{each.peer} {right['level']}{where}, by {each.given_by}{revoked}")

        await _with_document(config, document, None, 0.0, show)

    run(work, only_alone(ctx, _offline(ctx)))


def keys_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """List the read keys of a sealed document: since when, and whether they are here."""

    async def work(config: NodeConfig) -> None:
        async def show(node: Node, opened: SharedDocument) -> None:
            for each in opened.read_keys():
                key: dict[str, object] = {
                    "key": each.id.hex(),
                    "milliseconds": each.milliseconds,
                    "here": each.is_here,
                    "current": each.is_current,
                    "problem": each.problem or None,
                }
                if as_json:
                    say_json(key)
                else:
                    said = f"{key['key']} since {clock_time(each.milliseconds)}"
                    said += ", written with" if each.is_current else ""
                    said += "" if each.is_here else f", not here {each.problem}".rstrip()
                    say(said)

        await _with_document(config, document, None, 0.0, show)

    run(work, only_alone(ctx, _offline(ctx)))


def rotate_key_command(
    ctx: typer.Context,
    document: DocumentArgument,
    no_history: Annotated[
        bool,
        typer.Option(
            "--no-history",
            help="Who gets a right to read later does not read what was written until now.",
        ),
    ] = False,
    wait: WaitOption = _WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put another read key in place in a sealed document of this peer.

    It is for those who may read now; `revoke` does so by itself.
    """

    async def work(config: NodeConfig) -> None:
        async def rotate(node: Node, opened: SharedDocument) -> None:
            key = opened.rotate_key(history=not no_history)
            if as_json:
                say_json({"key": key.hex()})
            else:
                say(key.hex())

        await _with_document(config, document, None, wait, rotate, before=True, after=True)

    run(work, only_alone(ctx, _online(ctx, None, connect, relay)))


def log_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """Print a document's entries as they are here: when, who, what."""

    async def work(config: NodeConfig) -> None:
        async def show(node: Node, opened: SharedDocument) -> None:
            for each in opened.entries():
                entry: dict[str, object] = {
                    "milliseconds": each.milliseconds,
                    "peer": str(each.peer),
                    "session": each.author.hex(),
                    "seq": each.seq,
                    "entry": each.id.hex(),
                    "kind": each.kind,
                    "name": each.name,
                    "bytes": each.size,
                }
                if as_json:
                    say_json(entry)
                else:
                    name = "" if each.name is None else f" {json.dumps(each.name)}"
                    say(f"{each.milliseconds} {each.peer} #{each.seq} {each.kind}{name}")

        await _with_document(config, document, None, 0.0, show)

    run(work, only_alone(ctx, _offline(ctx)))


# Running.


def _offline(ctx: typer.Context) -> NodeConfig:
    """For what concerns this peer's files only."""
    return start(ctx, {"swarm.listen": ["/ip4/127.0.0.1/tcp/0"], "bootstrap": None}, quiet=True)


def _online(
    ctx: typer.Context,
    listen: list[str] | None,
    connect: list[str] | None,
    relay: list[str] | None,
) -> NodeConfig:
    return start(ctx, {"listen": listen, "bootstrap": connect, "relays": relay}, quiet=True)


async def _with_document(
    config: NodeConfig,
    document: str,
    capability: Path | None,
    wait: float,
    work: Callable[[Node, SharedDocument], Awaitable[None]],
    *,
    before: bool = False,
    after: bool = False,
) -> tuple[object, ...]:
    """Do something with a document, in step with peers before or after it, if any are named."""
    from lattica.node import Node

    async with Node(config) as node:
        opened = await _open(node, document, capability, wait)
        if before and config.bootstrap:
            await _try_synced(opened, wait)
        await work(node, opened)
        if after and config.bootstrap:
            return await opened.synced(timeout=wait)
    return ()


async def _open(node: Node, document: str, capability: Path | None, wait: float) -> SharedDocument:
    shown = None if capability is None else _read(capability)
    return await node.store.open(document, capability=shown, timeout=wait)


async def _try_synced(opened: SharedDocument, wait: float) -> None:
    try:
        await opened.synced(timeout=wait)
    except TimeoutError as error:
        say(f"as it is here: {error}", err=True)


def _serve(
    config: NodeConfig,
    document: str,
    capability: Path | None,
    wait: float,
    prefix: str | None,
    as_json: bool,
) -> None:
    with event_output(as_json) as output:
        run(_replicate, config, document, capability, wait, prefix, output)


async def _replicate(
    config: NodeConfig,
    document: str,
    capability: Path | None,
    wait: float,
    prefix: str | None,
    output: EventOutput | None,
) -> None:
    import math

    import trio

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.node import Node

    async with stopped_by_signals(), Node(config) as node:
        opened = await _open(node, document, capability, wait)
        if output is not None:
            output.write_ready(node, document=opened.id, name=opened.name)
        else:
            for address in node.addrs:
                say(f"listening on {address}", err=True)
            say(f"document {opened.id} ({opened.name})", err=True)
        if prefix is None:
            await trio.sleep(math.inf)
        with opened.changes() as changes:
            async for change in changes:
                for line in _changed(opened, change, prefix or ""):
                    if output is not None:
                        output.write_object(line)
                    else:
                        say(_line(line))


def _changed(
    opened: SharedDocument, change: DocumentChange, prefix: str
) -> Iterator[dict[str, object]]:
    from lattica.crdt.store.changes import PresenceChange, Rebuilt

    if isinstance(change, Rebuilt):
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


def _parsed(text: str) -> Plain:
    try:
        value: Plain = json.loads(text)
    except ValueError:
        return text
    return value


def _read(path: Path) -> bytes:
    from lattica.nat.base.errors import ConfigError

    try:
        with path.open("rb") as file:
            return file.read(64 * 1024)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    from lattica.nat.base.errors import ConfigError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
