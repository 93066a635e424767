"""Commands for content: what is published, fetched and kept."""

from __future__ import annotations

import typer

from lattica.cli.content import by_node, diff, fetch, hf_door, publish, store


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for module in (publish, fetch, by_node, diff, hf_door, store):
        module.register(app)
