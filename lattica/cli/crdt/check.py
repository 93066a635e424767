"""`lattica crdt check`: verifies a document's file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lattica.cli.shared.common import EXIT_FAILURE, start
from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say, say_json


def register(group: typer.Typer) -> None:
    """Add this module's command to `group`."""
    group.command("check")(check_command)


def check_command(
    ctx: typer.Context,
    document: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", parser=named_path, help="The document's file; not while a node has it."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify every entry, signature and link in a document's file, and compute its state's root.

    Nothing is changed. Of a sealed document the state is computed if this peer can read it. It ends
    with 1 if something is wrong. A node moves a file that is damaged aside, and has what peers have
    again from them.
    """
    from lattica.crdt.document.check import check_document, problems_of
    from lattica.nat.base.keys.identity import Identity

    path = start(ctx, quiet=True).identity_path
    identity = Identity.load(path) if path is not None and os.path.exists(path) else None
    report = check_document(document, identity)
    root = report.root.hex() if report.root is not None else None
    if as_json:
        say_json(
            {
                "document": report.doc_id.hex(),
                "name": report.name,
                "authors": report.authors,
                "entries": report.entries,
                "erased": report.erased,
                "missing": report.missing,
                "pruned": report.pruned,
                "withdrawn": report.withdrawn,
                "forks": report.forks,
                "unsigned": report.unsigned,
                "unread": report.unread,
                "root": root,
                "problems": list(problems_of(report)),
            }
        )
    else:
        say(f"document {report.doc_id.hex()}")
        say(
            f"{report.entries} entries of {report.authors} authors verified, "
            f"{report.pruned} pruned, {report.withdrawn} withdrawn, {report.forks} forks, "
            f"{report.erased} erased"
        )
        if report.missing:
            say(
                f"{report.missing} payloads are missing, whose erasure does not count any more: "
                "they come back from peers that have them"
            )
        if report.unread:
            say(f"{report.unread} entries are sealed with a read key that this peer does not have")
        elif root is None:
            say("the state needs pycrdt, which is not installed")
        else:
            say(f"state {root}")
        for problem in problems_of(report):
            say(problem, err=True)
    if report.problem_count:
        raise SystemExit(EXIT_FAILURE)
