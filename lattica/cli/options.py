"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RelayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="ADDR",
        help="Relay by which peers reach this one behind a NAT, with /p2p/ID; may be repeated.",
    ),
]
ConnectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--connect",
        metavar="ADDR",
        help="Peer to stay connected to, best with /p2p/ID; may be repeated.",
    ),
]
