"""`lattica relay ban`, `unban` and `bans`: who is not even connected."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from lattica.cli.relay.operator import EachJsonOption, opened, parse_seconds, time_text
from lattica.cli.shared.common import wrong_arguments
from lattica.cli.shared.terminal import say, say_json
from lattica.nat.base.errors import LatticaError

WhatArgument = Annotated[
    str, typer.Argument(metavar="PEER|NETWORK", help="A peer's ID, or a network: 192.0.2.0/24.")
]


def register(group: typer.Typer) -> None:
    """Add the commands to `group`."""
    group.command("ban")(ban_command)
    group.command("unban")(unban_command)
    group.command("bans")(bans_command)


def ban_command(
    ctx: typer.Context,
    what: WhatArgument,
    lasts: Annotated[
        int | None,
        typer.Option("--for", metavar="TIME", parser=parse_seconds, help="As 12h, 7d; else ever."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why, for you.")] = "",
) -> None:
    """Keep a peer or a network out; a relay that runs disconnects it within seconds."""
    from lattica.daemon.access.database import BanRow
    from lattica.daemon.relay.keeper import parse_ban

    with wrong_arguments():
        name = parse_ban(what)
    now = int(time.time())
    row = BanRow(name, note, now, now + lasts if lasts else 0)
    with opened(ctx) as (_, database):
        database.add_ban(row)
    say(f"banned {name}" + (f" until {time_text(row.not_after)}" if lasts else ""))


def unban_command(ctx: typer.Context, what: WhatArgument) -> None:
    """Let a peer or a network in again."""
    from lattica.daemon.relay.keeper import parse_ban

    with wrong_arguments():
        name = parse_ban(what)
    with opened(ctx) as (_, database):
        if not database.remove_ban(name):
            raise LatticaError(f"there is no ban of {name}")
    say(f"let in again: {name}")


def bans_command(
    ctx: typer.Context,
    as_json: EachJsonOption = False,
) -> None:
    """List who is kept out."""
    with opened(ctx) as (_, database):
        rows = database.bans()
    for row in rows:
        if as_json:
            say_json(dataclasses.asdict(row))
            continue
        until = f"until {time_text(row.not_after)}" if row.not_after else "for ever"
        say(f"{row.what}  {until}  {row.note}".rstrip())
