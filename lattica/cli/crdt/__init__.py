"""`lattica crdt …`: documents of the CRDT store."""

from __future__ import annotations

import typer

from lattica.cli.crdt import check, documents, history, owners, proofs, rights


def register(app: typer.Typer) -> None:
    """Add this package's commands to `app`."""
    group = typer.Typer(help="Replicated documents, and proofs of them.", no_args_is_help=True)
    documents.register(group)
    history.register(group)
    rights.register(group)
    owners.register(group)
    check.register(group)
    proofs.register(group)
    app.add_typer(group, name="crdt")
