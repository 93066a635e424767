"""`lattica relay accounts`: what each peer has had of the relay."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from lattica.cli.relay.operator import EachJsonOption, bytes_text, opened, time_text
from lattica.cli.shared.terminal import say, say_json


def register(group: typer.Typer) -> None:
    """Add the command to `group`."""
    group.command("accounts")(accounts_command)


def accounts_command(
    ctx: typer.Context,
    count: Annotated[
        int, typer.Option("--limit", metavar="COUNT", min=1, help="So many, the busiest first.")
    ] = 50,
    as_json: EachJsonOption = False,
) -> None:
    """Show what peers have used, those with most bytes first.

    Bytes are those of circuits that have ended; `month` is what counts for quotas, with those that
    are open.
    """
    from lattica.daemon.relay.keeper import month_of

    with opened(ctx) as (_, database):
        rows = database.accounts()[:count]
        traffic = database.traffic(month_of(time.time()))
    month = {name: used for whose, name, used in traffic if whose == "peer"}
    for row in rows:
        used = month.get(row.peer, 0)
        if as_json:
            say_json({**dataclasses.asdict(row), "month": used})
            continue
        say(
            f"{row.peer}  sent {bytes_text(row.bytes_sent)}  "
            f"received {bytes_text(row.bytes_received)}  this month {bytes_text(used)}  "
            f"circuits {row.circuits}  reservations {row.reservations}  refused {row.refused}  "
            f"last seen {time_text(row.last_seen)}"
        )
