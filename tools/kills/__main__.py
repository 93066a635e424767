"""`python -m tools.kills`: SIGKILL for publisher and fetcher at random, then the same bytes."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from tools.kills.kills import KillsError, kill_at_random


def main(
    kills: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    seed: Annotated[int, typer.Option(help="The same one kills in the same order.")] = 7,
    mib: Annotated[int, typer.Option(min=1, max=10_000, help="To publish and fetch.")] = 256,
) -> None:
    """Kill a publisher and a fetcher on loopback at random, then compare the bytes."""
    work = partial(kill_at_random, kills=kills, seed=seed, mib=mib, say=print)
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = trio.run(work, Path(folder))
        except KillsError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
    print(
        f"{result.kills['publisher']} times the publisher was killed, {result.kills['fetcher']} "
        f"times the fetcher; fetched {result.rounds} times, each time the same bytes; at the end "
        f"{result.last_fetched / result.bytes_total:.1%} were still to be fetched"
    )


if __name__ == "__main__":
    typer.run(main)
