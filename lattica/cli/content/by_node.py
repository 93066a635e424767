"""`lattica publish` and `fetch` by the node that runs here, and `lattica unpublish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica.cli.shared.common import reported_errors, start
from lattica.cli.shared.daemon import Stopped, by_daemon, required_node
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.content import ByteRange, FetchOptions, FetchResult
    from lattica.content.events import FetchEvent
    from lattica.content.hub.repository import RevisionRef
    from lattica.content.manifest.cid import Cid
    from lattica.content.names.record import NameRef
    from lattica.content.names.registry import RegistryRef
    from lattica.content.ticket import Ticket
    from lattica.daemon.api.client import NodeClient
    from lattica.daemon.api.pb import node_pb2 as pb


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("unpublish")(unpublish_command)


def unpublish_command(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Ticket, or a content id.")],
) -> None:
    """Have the `lattica node` that runs here serve something no longer."""
    with by_daemon(required_node(start(ctx, quiet=True))) as client:
        client.unpublish(ref)


def publish_by(
    client: NodeClient,
    path: Path,
    name: str | None,
    connect: Sequence[str] | None,
    as_json: bool,
    *,
    follow_links: bool = False,
    sign: bool = False,
    registry: RegistryRef | None = None,
    repo: RevisionRef | None = None,
    rate: float,
) -> None:
    """Have the node publish it, and print the ticket."""
    from lattica.cli.content.progress import HashDisplay
    from lattica.content.disk import format_bytes
    from lattica.content.events import HashProgress

    with by_daemon(client, connect):
        status = client.status()
        with HashDisplay() as display:
            made = client.publish(
                path,
                name,
                follow_links=follow_links,
                sign=sign,
                registry=None if registry is None else str(registry),
                repo=None if repo is None else str(repo),
                rate=rate,
                progress=lambda p: display(HashProgress(p.bytes_done, p.bytes_total)),
            )
        if as_json:
            fields = {
                "ticket": made.ticket,
                "cid": made.cid,
                "name": made.name,
                "files": made.files,
                "bytes": made.bytes,
                "peer_id": status.peer_id,
                "addrs": [*status.addrs],
                "can_improve": [*made.can_improve],
                "published_name": None if name is None else f"{status.peer_id}/{name}",
                "repo": made.repo or None,
                "registry": made.registry or None,
                "daemon_pid": status.pid,
            }
            say_json(fields)
            return
        files = "1 file" if made.files == 1 else f"{made.files} files"
        say(f"publishing {made.name}: {files}, {format_bytes(made.bytes)}", err=True)
        if made.registry:
            say(f"in use as {made.registry}", err=True)
        if name is not None:
            say_name(status.peer_id, status.addrs, name)
        if made.repo:
            say_repo(made.repo)
        say("ticket, for `lattica fetch TICKET -o DIR`:", err=True)
        say(made.ticket)
        for reason in made.can_improve:
            say(f"this ticket may get better: {reason}", err=True)
        say(
            f"served by the node that runs here (process {status.pid}) until it ends, or "
            "`lattica unpublish TICKET`",
            err=True,
        )


def say_name(peer: str, addrs: Sequence[str], name: str) -> None:
    """Print how something is fetched by its name, for a shell, and from anywhere if there is an
    address; it may end in `/p2p/ID`."""
    from shlex import quote

    owner = f"{addrs[0].removesuffix(f'/p2p/{peer}')}/p2p/{peer}" if addrs else peer
    say(f"by its name: lattica fetch {quote(f'{owner}/{name}')} -o DIR", err=True)


def say_repo(repo: str) -> None:
    """Print what a hub's clients get it by."""
    say(f"as {repo}, for clients of a hub: lattica hf-door TICKET", err=True)


def addrs_where_it_serves(
    client: NodeClient, ref: Ticket | Cid | NameRef | RegistryRef
) -> tuple[str, ...]:
    """Where to connect to the node, if it is the one that serves what is to be fetched."""
    from lattica.content.manifest.cid import Cid
    from lattica.content.names.registry import RegistryRef

    if isinstance(ref, RegistryRef):
        return ()  # what a node serves itself it reads
    with reported_errors():
        status = client.status()
    if isinstance(ref, Cid):
        is_here = str(ref) in {each.cid for each in status.publications}
    else:
        is_here = str(ref.peer_id) == status.peer_id
    return tuple(status.addrs) if is_here else ()


def fetch_by(
    client: NodeClient,
    ref: str,
    out: Path,
    tensors: str | None,
    ranges: Sequence[ByteRange],
    options: FetchOptions,
    connect: Sequence[str] | None,
) -> FetchResult:
    """Have the node fetch it."""
    from lattica.cli.content.progress import FetchDisplay

    with by_daemon(client, connect):
        try:
            with FetchDisplay() as display:

                def progress(message: pb.FetchProgress) -> None:
                    event = event_of(message)
                    if event is not None:
                        display(event)

                done = client.fetch(
                    ref,
                    out,
                    tensors=tensors,
                    ranges=ranges,
                    delete_former=options.delete_former,
                    progress=progress,
                    **keywords_of(options),
                )
        except Stopped:
            say("interrupted; the same command goes on from here", err=True)
            raise
    return result_of(done)


def keywords_of(options: FetchOptions) -> dict[str, Any]:
    """What :meth:`NodeClient.fetch` and :meth:`~NodeClient.follow` take of the options."""
    import math

    return {
        "replace_tensors": options.replace_tensors,
        "delete_matching": options.delete_matching,
        "base": options.base,
        "share": options.share,
        "share_for": options.share_for,
        "signed_by": None if options.signed_by is None else str(options.signed_by),
        "rate": 0.0 if math.isinf(options.rate) else options.rate,
    }


def event_of(message: pb.FetchProgress) -> FetchEvent | None:
    """What the display shows; the content id it does not show."""
    from lattica.content.events import Checking, FetchProgress, FetchStarted, Retrying, Sharing
    from lattica.content.manifest.cid import Cid

    done, total = message.bytes_done, message.bytes_total
    match message.phase:
        case "starting":
            unknown = Cid(bytes(32))
            return FetchStarted(
                unknown, message.name, message.files, message.directories, bytes_total=total
            )
        case "checking":
            return Checking(done, total)
        case "fetching" if message.bytes_fetched or message.sources:
            return FetchProgress(
                done, total, message.bytes_fetched, message.bytes_per_second, message.sources
            )
        case "waiting":
            return Retrying(message.error, message.seconds)
        case "sharing":
            return Sharing(done, total, message.seconds)
    return None


def result_of(done: pb.FetchDone) -> FetchResult:
    """What the command prints."""
    from lattica.content.download.options import FetchResult, FetchSource
    from lattica.content.manifest.cid import Cid
    from lattica.nat.base.keys.peer_id import parse_peer_id

    return FetchResult(
        cid=Cid.parse(done.cid),
        name=done.name,
        paths=tuple(map(Path, done.paths)),
        bytes_total=done.bytes_total,
        bytes_fetched=done.bytes_fetched,
        seconds=done.seconds,
        sources=tuple(
            FetchSource(parse_peer_id(each.peer_id), each.bytes_fetched) for each in done.sources
        ),
        bytes_shared=done.bytes_shared,
        other_files=tuple(map(Path, done.other_files)),
        former_files=tuple(map(Path, done.former_files)),
        removed_files=tuple(map(Path, done.removed_files)),
        directory_cut=done.directory_cut,
    )
