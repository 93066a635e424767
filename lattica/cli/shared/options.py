"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def named_path(text: str) -> Path:
    """A path that was named: an empty text, as of an unset variable, is not taken as `.`."""
    if not text:
        raise typer.BadParameter("it is empty; name a file or directory; '.' is this one")
    return Path(text)


def bytes_a_second(megabytes: float | None) -> float:
    """What a :data:`MaxRateOption` says; infinite where it is not given."""
    return float("inf") if megabytes is None else megabytes * 1e6


ListenOption = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="ADDR", help="Multiaddr to listen on; may be repeated."),
]
EphemeralOption = Annotated[
    bool, typer.Option("--ephemeral", help="Use a new key for this run only.")
]
RelayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="ADDR",
        help="Relay by which peers reach this one behind a NAT, with /p2p/ID; may be repeated.",
    ),
]
MaxRateOption = Annotated[
    float | None,
    typer.Option("--max-rate", metavar="MB", min=0.001, help="At most so many megabytes a second."),
]
OwnKeyOption = Annotated[
    bool,
    typer.Option(
        "--own-key",
        help="Use this peer's own key, as relays with an allow-list need; not while it runs.",
    ),
]
EventsOption = Annotated[
    bool, typer.Option("--json", help="Print events as JSON objects, one a line.")
]
ConnectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--connect",
        metavar="ADDR",
        help="Peer to stay connected to, best with /p2p/ID; may be repeated.",
    ),
]
