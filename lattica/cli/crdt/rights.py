"""`lattica crdt` and `grant`, `revoke`, `rights`, `keys`, `rotate-key`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.crdt.by_node import only_alone
from lattica.cli.crdt.opening import (
    WAIT,
    DocumentArgument,
    JsonOption,
    WaitOption,
    offline,
    online,
    with_document,
    write_file,
)
from lattica.cli.crdt.proofs import clock_time
from lattica.cli.shared.options import ConnectOption, RelayOption, named_path
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.crdt.store.shared_document import SharedDocument


class LevelName(StrEnum):
    """What a right is for, as options name it."""

    PULL = "pull"
    READ = "read"
    WRITE = "write"
    MANAGE = "manage"


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("grant")(grant_command)
    group.command("revoke")(revoke_command)
    group.command("rights")(rights_command)
    group.command("keys")(keys_command)
    group.command("rotate-key")(rotate_key_command)


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
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a peer a right in a document of this peer, or one that it may manage."""

    def grant(opened: SharedDocument) -> None:
        from lattica.crdt.access.capability import Level

        capability = opened.grant(peer, Level[level.name], prefix=prefix, lasts=lasts, depth=depth)
        if out is not None:
            write_file(out, capability)
        if as_json:
            say_json({"peer": peer, "level": level.value, "capability": capability.hex()})

    config = only_alone(ctx, online(ctx, None, connect, relay))
    with_document(config, document, grant, wait=wait, before=True, after=True)


def revoke_command(
    ctx: typer.Context,
    document: DocumentArgument,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Whose rights: its ID.")],
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back all rights of a peer, and those that it has passed on.

    What it wrote and is here, or at peers that are named, still counts. A sealed document gets
    another read key, so that it reads nothing that comes later.
    """

    def revoke(opened: SharedDocument) -> None:
        count = opened.revoke(peer)
        if as_json:
            say_json({"peer": peer, "revoked": count})

    config = only_alone(ctx, online(ctx, None, connect, relay))
    with_document(config, document, revoke, wait=wait, before=True, after=True)


def rights_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """List the rights that were given in a document, as far as is known here."""

    def show(opened: SharedDocument) -> None:
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

    with_document(only_alone(ctx, offline(ctx)), document, show)


def keys_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """List the read keys of a sealed document: since when, and whether they are here."""

    def show(opened: SharedDocument) -> None:
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

    with_document(only_alone(ctx, offline(ctx)), document, show)


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
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put another read key in place in a sealed document of this peer.

    It is for those who may read now; `revoke` does so by itself.
    """

    def rotate(opened: SharedDocument) -> None:
        key = opened.rotate_key(history=not no_history)
        if as_json:
            say_json({"key": key.hex()})
        else:
            say(key.hex())

    config = only_alone(ctx, online(ctx, None, connect, relay))
    with_document(config, document, rotate, wait=wait, before=True, after=True)
