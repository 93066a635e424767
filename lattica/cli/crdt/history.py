"""`lattica crdt` and `log`, `erase`, `prune`: what was written, and what of it goes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.crdt.by_node import erase_by, log_by, node_for, prune_by
from lattica.cli.crdt.opening import (
    WAIT,
    DocumentArgument,
    JsonOption,
    WaitOption,
    offline,
    online,
    with_document,
)
from lattica.cli.crdt.proofs import clock_time
from lattica.cli.shared.options import ConnectOption, RelayOption
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.crdt.document import LogEntry
    from lattica.crdt.store.shared_document import SharedDocument


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("log")(log_command)
    group.command("erase")(erase_command)
    group.command("prune")(prune_command)


def log_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """Print a document's entries as they are here: when, who, the beginning of the ID (which
    `erase` takes), what.
    """
    config = offline(ctx)
    daemon = node_for(ctx, config)
    if daemon is not None:
        _say_log(log_by(daemon, document), as_json)
        return
    with_document(config, document, lambda opened: _say_log(opened.entries(), as_json))


def erase_command(
    ctx: typer.Context,
    document: DocumentArgument,
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="ENTRY...", help="IDs as `log` prints them: the first 8 digits or more."
        ),
    ],
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase what entries say, here and at all peers, for good.

    That they were written, by whom and when, stays. Who has written an entry erases it, or an owner
    of the document. What still counts is written over first: `set` another value, or --delete it,
    and then erase the entry that had the old one. Texts and lists cannot be erased from.

    Peers erase it as soon as they hear of it. A peer that is never heard of again, a copy of a
    file, a backup, or what somebody has written down, is out of reach.

    Ends with 1 if nothing is erased, or peers are named and none of them has heard of it within
    --wait.
    """
    config = online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay)
    erased: list[int] = []
    peers: tuple[object, ...] = ()
    if daemon is not None:
        erased.append(erase_by(daemon, document, entries, wait))
    else:
        peers = with_document(
            config,
            document,
            lambda opened: erased.append(opened.erase(*entries)),
            wait=wait,
            before=True,
            after=True,
        )
    if as_json:
        say_json({"erased": sum(erased), "peers": [str(peer) for peer in peers]})
    else:
        say(f"{sum(erased)} erased")


def prune_command(
    ctx: typer.Context,
    document: DocumentArgument,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            help="What is younger, or came here later, stays: peers that are away for less get it "
            "as it was written.",
        ),
    ] = 7 * 86_400,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop entries that are not needed any more, here, and print how many.

    What the document says stays as it is. What goes is what was written over; peers that lack it
    get a snapshot. It goes here alone: each peer prunes for itself. What nobody is to read any more
    is erased, and that before it is pruned.

    In a document with owners an owner prunes first: that calls what is so old final, for all, so
    that it counts whatever right is taken back later. Others drop what owners have called final.

    Ends with 1 if peers are named and none of them is in step within --wait after it; what has gone
    is gone.
    """
    config = online(ctx, None, connect, relay)
    daemon = node_for(ctx, config, connect, relay)
    pruned, why, peers = 0, "", tuple[object, ...]()
    if daemon is not None:
        pruned, why = prune_by(daemon, document, grace, wait)
    else:

        def prune(opened: SharedDocument) -> None:
            nonlocal pruned, why
            pruned = opened.prune(grace)
            why = "" if pruned else opened.why_not_pruned()

        peers = with_document(config, document, prune, wait=wait, before=True, after=True)
    if as_json:
        named = [str(peer) for peer in peers]
        say_json({"pruned": pruned, "why": why or None, "peers": named})
    else:
        say(f"{pruned} pruned{why and f': {why}'}")


def _say_log(entries: Iterable[LogEntry], as_json: bool) -> None:
    for each in entries:
        if as_json:
            say_json(
                {
                    "milliseconds": each.milliseconds,
                    "peer": str(each.peer),
                    "session": each.author.hex(),
                    "seq": each.seq,
                    "entry": each.id.hex(),
                    "kind": each.kind,
                    "name": each.name,
                    "bytes": each.size,
                    "erased": each.is_erased,
                }
            )
        else:
            name = "" if each.name is None else f" {json.dumps(each.name)}"
            what = f"{each.kind}{' erased' if each.is_erased else name}"
            who = f"{clock_time(each.milliseconds)} {each.peer} #{each.seq}"
            say(f"{who} {each.id.hex()[:16]} {what}")
