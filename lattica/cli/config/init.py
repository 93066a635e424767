"""`lattica config init`: a configuration to begin with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say
from lattica.nat.base.errors import ConfigError


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
    import os
    from importlib.resources import files

    text = files("lattica.cli.config.examples").joinpath(f"{profile.value}.toml").read_text()
    try:
        # What is filled in may be secret.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already, and is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None
    say(f"wrote {file}; see what it comes to with: lattica --config {file} config show --changed")
