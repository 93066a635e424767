"""`lattica store`: blocks and publications that this machine keeps."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import EXIT_BAD, run, start, wrong_arguments
from lattica.cli.shared.options import ConnectOption, EphemeralOption, ListenOption, named_path
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content.manifest.cid import Cid
    from lattica.content.store.index import StoredPublication
    from lattica.content.store.store import ContentStore

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        parser=named_path,
        help="The store; by default `store` in the data directory.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CidArgument = Annotated[str, typer.Argument(metavar="CID", help="Content id (bafkrei…).")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    group = typer.Typer(help="What this machine keeps of content.", no_args_is_help=True)
    group.command("add")(add_command)
    group.command("ls")(ls_command)
    group.command("pin")(pin_command)
    group.command("unpin")(unpin_command)
    group.command("gc")(gc_command)
    group.command("verify")(verify_command)
    group.command("serve")(serve_command)
    app.add_typer(group, name="store")


def _size(text: str) -> int:
    """A size that a person has written, such as 10G or 500 MB, in bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:b|ib)?\s*", text.lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size such as 500M or 10G")
    return int(float(found[1]) * _UNITS[found[2]])


QuotaOption = Annotated[
    int | None,
    typer.Option(metavar="SIZE", parser=_size, help="Bytes of blocks at most, such as 10G."),
]


def _open(
    ctx: typer.Context, directory: Path | None, quota: int | None = None
) -> tuple[ContentStore, NodeConfig]:
    config = start(ctx, quiet=True)
    from lattica.content.store.store import ContentStore

    return ContentStore(directory or config.data_dir / "store", quota), config


def _cid(text: str) -> Cid:
    from lattica.content import Cid

    with wrong_arguments():
        return Cid.parse(text.strip())


def add_command(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", parser=named_path, help="File or directory.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name, where that is to be another.")
    ] = None,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Keep no copy: only what its files are, and where."),
    ] = False,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it until it is unpinned.")] = False,
    keep_for: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.0, help="Keep it for so long.")
    ] = None,
    quota: QuotaOption = None,
    store: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a file or directory, and print its content id.

    Without --pin or --keep-for the next `lattica store gc` removes it.
    """
    opened, _ = _open(ctx, store, quota)
    with opened:
        stored = run(_add, opened, path, name, not reference)
        if pin or keep_for is not None:
            opened.pin(stored.cid, None if pin else keep_for)
        if as_json:
            [found] = [p for p in opened.publications() if p.cid == stored.cid]
            say_json(_fields(found))
        else:
            say(str(stored.cid))


async def _add(store: ContentStore, path: Path, name: str | None, copy: bool) -> StoredPublication:
    from functools import partial

    import trio

    from lattica.cli.content.progress import HashDisplay
    from lattica.content.publish.catalog import make_publication

    with HashDisplay() as display:
        publication = await make_publication(path, name, display)
    return await trio.to_thread.run_sync(partial(store.add, publication, copy=copy))


def _fields(stored: StoredPublication) -> dict[str, object]:
    return {
        "cid": str(stored.cid),
        "name": stored.name,
        "bytes": stored.size,
        "reference": stored.by_reference,
        "pinned": stored.is_pinned,
        "expires": stored.expires,
        "added": stored.added,
        "used": stored.used,
    }


def ls_command(
    ctx: typer.Context, store: DirectoryOption = None, as_json: JsonOption = False
) -> None:
    """List what is kept, what was used last at the end."""
    from lattica.content.disk import format_bytes

    opened, _ = _open(ctx, store)
    with opened:
        found = opened.publications()
        if as_json:
            fields = {
                "publications": [_fields(stored) for stored in found],
                "bytes": opened.bytes_used(),
            }
            say_json(fields)
            return
        for stored in found:
            kept = "pinned" if stored.is_pinned else ""
            if stored.expires is not None:
                kept = f"until {datetime.fromtimestamp(stored.expires):%Y-%m-%d %H:%M}"
            where = "elsewhere" if stored.by_reference else ""
            notes = ", ".join(note for note in (kept, where) if note)
            say(f"{stored.cid}  {format_bytes(stored.size):>10}  {stored.name}  {notes}".rstrip())
        say(f"{len(found)} kept, {format_bytes(opened.bytes_used())} of blocks", err=True)


def pin_command(
    ctx: typer.Context,
    cid: CidArgument,
    keep_for: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.0, help="Only for so long.")
    ] = None,
    store: DirectoryOption = None,
) -> None:
    """Keep something, whatever `lattica store gc` is told."""
    parsed = _cid(cid)
    opened, _ = _open(ctx, store)
    with opened:
        opened.pin(parsed, keep_for)


def unpin_command(ctx: typer.Context, cid: CidArgument, store: DirectoryOption = None) -> None:
    """Let the next `lattica store gc` remove something."""
    parsed = _cid(cid)
    opened, _ = _open(ctx, store)
    with opened:
        opened.unpin(parsed)


def gc_command(
    ctx: typer.Context,
    quota: QuotaOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    store: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what is neither pinned nor kept for a time, and that nobody reads.

    With --quota only until blocks have no more than that; what was used longest ago goes first.
    """
    from lattica.content.disk import format_bytes

    opened, _ = _open(ctx, store)
    with opened:
        result = opened.collect(quota or 0, dry_run=dry_run)
    if as_json:
        fields = {
            "publications": [str(stored.cid) for stored in result.publications],
            "blocks": result.blocks,
            "bytes_freed": result.bytes_freed,
            "in_use": result.in_use,
        }
        say_json(fields)
        return
    for stored in result.publications:
        say(f"{stored.cid}  {stored.name}")
    verb = "would be freed" if dry_run else "freed"
    say(f"{result.blocks} blocks, {format_bytes(result.bytes_freed)} {verb}", err=True)
    if result.in_use:
        say(f"{result.in_use} stay because they are being read", err=True)


def verify_command(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged, to be added again.")
    ] = False,
    store: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash everything again. Exit status 3 if something is damaged."""
    opened, _ = _open(ctx, store)
    with opened:
        result = opened.verify(repair=repair)
    if as_json:
        fields = {
            "blocks": result.blocks,
            "damaged": [str(cid) for cid in result.damaged],
            "publications": [str(cid) for cid in result.publications],
        }
        say_json(fields)
    else:
        for cid in result.damaged:
            say(f"{cid}  a block that is damaged or gone")
        for cid in result.publications:
            say(f"{cid}  cannot be served whole")
        say(f"{result.blocks} blocks, {len(result.damaged)} of them damaged", err=True)
    if result.damaged or result.publications:
        raise typer.Exit(EXIT_BAD)


def serve_command(
    ctx: typer.Context,
    cids: Annotated[
        list[str] | None, typer.Argument(metavar="[CID]...", help="By default everything.")
    ] = None,
    listen: ListenOption = None,
    bootstrap: ConnectOption = None,
    ephemeral: EphemeralOption = False,
    store: DirectoryOption = None,
) -> None:
    """Serve publications of the store until SIGINT or SIGTERM: a ticket for each, one a line."""
    parsed = [_cid(text) for text in cids or ()]
    config = start(ctx, {"listen": listen, "bootstrap": bootstrap}, ephemeral=ephemeral)
    from lattica.content.store.store import ContentStore

    with ContentStore(store or config.data_dir / "store") as opened:
        run(_serve, config, opened, parsed)


async def _serve(config: NodeConfig, store: ContentStore, cids: list[Cid]) -> None:
    from contextlib import ExitStack

    import trio

    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.content import Ticket
    from lattica.content.publish.server import ANNOUNCE_TIMEOUT
    from lattica.content.publish.service import serving
    from lattica.content.swarm.dht_finder import dht_finder
    from lattica.errors import ContentNotFoundError
    from lattica.node import Node

    cids = cids or [stored.cid for stored in store.publications()]
    if not cids:
        raise ContentNotFoundError("the store is empty; see `lattica store add`")
    with ExitStack() as stack:
        shelf = {cid: stack.enter_context(store.reading(cid)) for cid in cids}
        async with stopped_by_signals() as stop, Node(config) as node:
            stack.enter_context(serving(node, shelf.get))
            await node.wait_announced(ANNOUNCE_TIMEOUT)
            finder = dht_finder(node)
            for cid in cids:
                say(str(Ticket.make(cid, node.peer_id, node.addrs)))
                if finder is not None:
                    stop.nursery.start_soon(finder.provide, cid)
            say("serving until Ctrl-C", err=True)
            await trio.sleep_forever()
