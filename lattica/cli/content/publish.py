"""`lattica publish`: a file or directory for others to fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.content.by_node import publish_by, say_name, say_repo
from lattica.cli.shared.common import run, start, wrong_arguments
from lattica.cli.shared.daemon import running_node
from lattica.cli.shared.options import (
    ConnectOption,
    EphemeralOption,
    ListenOption,
    MaxRateOption,
    RelayOption,
    bytes_a_second,
    named_path,
)
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import Publisher, Ticket
    from lattica.content.hub.repository import RevisionRef
    from lattica.content.names.registry import RegistryRef
    from lattica.content.publish.catalog import Publication
    from lattica.node import Node


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("publish")(publish_command)


def publish_command(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", parser=named_path, help="File, or directory with all below it."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name shown to whoever fetches it, by which they may fetch it as PEER/NAME.",
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="NAME@REV",
            help="Publish it as this revision (`main` by default) of a repository, for "
            "`lattica hf-door`.",
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="crdt:DOCUMENT/MODEL[@VERSION]",
            help="Have the registry of models in a replicated document say that this is the "
            "version in use.",
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links",
            help="Publish what symbolic links lead to in their place. Otherwise they are kept, "
            "and have to stay inside PATH.",
        ),
    ] = False,
    sign: Annotated[
        bool,
        typer.Option("--sign", help="Sign it with this peer's key, for `lattica fetch --from`."),
    ] = False,
    listen: ListenOption = None,
    bootstrap: ConnectOption = None,
    relay: RelayOption = None,
    max_rate: MaxRateOption = None,
    ephemeral: EphemeralOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the ticket.")
    ] = False,
) -> None:
    """Publish a file or directory: print a ticket, and serve until SIGINT or SIGTERM.

    Nothing is copied: leave the files as they are while they are served. The ticket is the only
    line on standard output; give it to `lattica fetch` on another machine:

        lattica publish ./my-model

        lattica fetch lattica1… -o ./my-model

    Behind a NAT, name a relay that both sides can reach; the ticket then leads through it until
    there is a direct path:

        lattica publish ./my-model --relay /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…

    With --repo, programs that know the Hugging Face hub get it by `lattica hf-door` on any machine:

        lattica publish ./my-model --repo my-org/my-model@v1

    With --registry a replicated document leads to it, for who may write there by its rights:

        lattica publish ./my-model --registry crdt:cluster/chat@7

    A ticket stays good when this command is run again on the same files with the same key and
    addresses, for instance with --listen /ip4/0.0.0.0/tcp/4001.

    Where a `lattica node` runs here, that serves it, and the command ends when the ticket is there;
    with --listen, --relay, --ephemeral or --no-daemon it serves by itself.
    """
    overrides = {"listen": listen, "bootstrap": bootstrap, "relays": relay}
    config = start(ctx, overrides, ephemeral=ephemeral)
    from lattica.content.hub.repository import RevisionRef
    from lattica.content.names.registry import RegistryRef

    with wrong_arguments():
        ref = None if repo is None else RevisionRef.parse(repo)
        place = None if registry is None else RegistryRef.parse(registry)
    follow_links = follow_links or ref is not None  # a hub's clients know of no links
    rate = bytes_a_second(max_rate)
    daemon = running_node(ctx, config, listen=listen, relay=relay, ephemeral=ephemeral)
    if daemon is not None:
        publish_by(
            daemon,
            path,
            name,
            bootstrap,
            as_json,
            follow_links=follow_links,
            sign=sign,
            registry=place,
            repo=ref,
            rate=rate,
        )
        return
    run(_publish, config, path, name, ref, place, follow_links, sign, rate, as_json)


async def _publish(
    config: NodeConfig,
    path: Path,
    name: str | None,
    repo: RevisionRef | None,
    registry: RegistryRef | None,
    follow_links: bool,
    sign: bool,
    rate: float,
    as_json: bool,
) -> None:
    from contextlib import AsyncExitStack
    from dataclasses import replace

    import trio

    from lattica.cli.content.progress import HashDisplay
    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.content import Publisher, PublisherLimits
    from lattica.content.hub.publishing import describe_revision
    from lattica.content.names.record import NameTarget
    from lattica.content.names.registry import open_registry
    from lattica.content.names.service import open_names
    from lattica.content.publish.catalog import check_publishable
    from lattica.content.swarm.dht_finder import dht_finder
    from lattica.node import Node

    shown = name
    if name is None and repo is not None:
        shown = repo.title
    async with stopped_by_signals() as stop:
        # Before anybody is told that there is a peer.
        await check_publishable(path, shown, follow_links=follow_links)
        limits = PublisherLimits(rate=rate)
        async with (
            Node(config) as node,
            Publisher(node, limits) as publisher,
            open_names(node) as names,
            AsyncExitStack() as shelf,
        ):
            with HashDisplay() as display:
                await publisher.publish(
                    path, shown, progress=display, follow_links=follow_links, sign=sign
                )
            [publication] = publisher.catalog
            if name is not None and not names.publish_if_possible(
                name, NameTarget(publication.cid)
            ):
                name = None
            revision = None if repo is None else await describe_revision(repo, publication)
            cids = [publication.cid]
            if revision is not None:
                shelf.enter_context(revision.published(node, names))
                cids.append(revision.description.cid)
            if registry is not None:
                place = await shelf.enter_async_context(open_registry(node, registry))
                registry = replace(registry, version=place.publish(publication.cid))
            ticket = publisher.ticket(publication.cid)
            if registry is not None:
                say(f"in use as {registry}", err=True)
            _show_ticket(ticket, publication, as_json, name, repo, registry)
            finder = dht_finder(node)
            # The node goes on while it says that it has it no more.
            with trio.CancelScope() as stop.scope:
                if finder is not None:
                    for cid in cids:
                        stop.nursery.start_soon(finder.provide, cid)
                await _show_better(node, publisher, ticket)
                await trio.sleep_forever()
            if finder is not None:
                for cid in cids:
                    await finder.withdraw(cid)


async def _show_better(node: Node, publisher: Publisher, ticket: Ticket) -> None:
    """Print another ticket, on standard error, when what the first one lacked is there."""
    shown = ticket
    while shown.can_improve:
        await node.swarm.wait_changed()
        now = publisher.ticket(ticket.cid)
        if len(now.can_improve) < len(shown.can_improve):
            if now.addrs != shown.addrs:
                say(f"a better ticket, now that more is known: {now}", err=True)
            shown = now


def _show_ticket(
    ticket: Ticket,
    publication: Publication,
    as_json: bool,
    name: str | None,
    repo: RevisionRef | None,
    registry: RegistryRef | None,
) -> None:
    from lattica.content.disk import format_bytes

    manifest = publication.manifest
    if as_json:
        fields = {
            "ticket": str(ticket),
            "cid": str(ticket.cid),
            "name": manifest.name,
            "files": len(manifest.files),
            "bytes": manifest.size,
            "peer_id": str(ticket.peer_id),
            "addrs": [str(address) for address in ticket.addrs],
            "can_improve": list(ticket.can_improve),
            "published_name": None if name is None else f"{ticket.peer_id}/{name}",
            "repo": None if repo is None else str(repo),
            "registry": None if registry is None else str(registry),
        }
        say_json(fields)
        return
    files = "1 file" if len(manifest.files) == 1 else f"{len(manifest.files)} files"
    say(f"publishing {manifest.name}: {files}, {format_bytes(manifest.size)}", err=True)
    for address in ticket.addrs:
        say(f"listening on {address}", err=True)
    if name is not None:
        say_name(str(ticket.peer_id), [str(address) for address in ticket.addrs], name)
    if repo is not None:
        say_repo(str(repo))
    say("ticket, for `lattica fetch TICKET -o DIR`:", err=True)
    say(str(ticket))
    for reason in ticket.can_improve:
        say(f"this ticket may get better: {reason}", err=True)
    say("serving until Ctrl-C", err=True)
