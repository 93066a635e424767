"""`lattica relay`: the daemon through which peers reach each other, and what its operator does."""

from __future__ import annotations

import typer

from lattica.cli.relay import accounts, bans, serve, tokens


def register(app: typer.Typer) -> None:
    """Add the group of commands to `app`; without one of its commands it runs the relay."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(serve.relay_command)
    tokens.register(group)
    bans.register(group)
    accounts.register(group)
    app.add_typer(group, name="relay")
