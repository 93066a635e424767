"""`lattica swarm-key`, the key of a private network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lattica.cli.shared.options import named_path
from lattica.cli.shared.private_file import write_new
from lattica.cli.shared.terminal import say


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("swarm-key")(swarm_key_command)


def swarm_key_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", parser=named_path, help="Where to write it; never overwritten."
        ),
    ] = Path("swarm.key"),
) -> None:
    """Make the key of a private network.

    Only peers that have it can connect to each other. Copy the file to every one of them, by a way
    that others cannot read, and name it there in the configuration file or the environment:

        private_network_key_file = "swarm.key"

        LATTICA_PRIVATE_NETWORK_KEY_FILE=swarm.key lattica node

    go-libp2p, js-libp2p and IPFS read it, too.
    """
    from lattica.nat.base.keys.swarm_key import make_swarm_key

    write_new(file, make_swarm_key())
    say(f"made the key of a private network in {file}; copy it to each of its peers", err=True)
