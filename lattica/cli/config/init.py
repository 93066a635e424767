"""`lattica config init`: a configuration to begin with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lattica.cli.shared.options import named_path
from lattica.cli.shared.private_file import write_new
from lattica.cli.shared.terminal import say


class Profile(StrEnum):
    """What the configuration is for; each is a file of `examples`."""

    RELAY = "relay"
    CLUSTER = "cluster"
    LAPTOP = "laptop"


def init_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE.toml]", parser=named_path, help="Where to write it; never overwritten."
        ),
    ] = Path("lattica.toml"),
    profile: Annotated[
        Profile,
        typer.Option(
            "--for",
            help="A public relay, a member of a private cluster, or somebody's own machine.",
        ),
    ] = Profile.LAPTOP,
) -> None:
    """Write a configuration with comments, to be changed."""
    from importlib.resources import files

    text = files("lattica.cli.config.examples").joinpath(f"{profile.value}.toml").read_bytes()
    write_new(file, text)  # what is filled in may be secret
    say(f"wrote {file}; see what it comes to with: lattica --config {file} config show --changed")
