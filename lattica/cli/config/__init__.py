"""`lattica config`: what is set and by what, whether it is right, and something to begin with."""

from __future__ import annotations

import typer

from lattica.cli.config import check, init, show


def register(app: typer.Typer) -> None:
    """Add the group of commands to `app`."""
    group = typer.Typer(help="The configuration of this peer.", no_args_is_help=True)
    group.command("show")(show.show_command)
    group.command("check")(check.check_command)
    group.command("init")(init.init_command)
    app.add_typer(group, name="config")
