"""`lattica diff`: what is new in a publication, beside an older one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start, wrong_arguments
from lattica.cli.shared.options import ConnectOption
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import Cid, Ticket
    from lattica.content.manifest.difference import Changes, Difference
    from lattica.content.manifest.manifest import Manifest
    from lattica.node import Node

_SHOWN = 20
"""Names that are printed of a list."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("diff")(diff_command)


def diff_command(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Ticket, content id, or path.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Ticket, content id, or path.")],
    bootstrap: ConnectOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which files and tensors changed from OLD to NEW, and how many bytes would travel.

    Of what is published only the manifest is fetched; what lies at a path is hashed.

        lattica diff ./my-model lattica1…
    """
    config = start(ctx, {"bootstrap": bootstrap}, keep_identity=False, quiet=True)
    with wrong_arguments():
        refs = [_parsed(text) for text in (old, new)]
    difference = run(_diff, config, refs)
    _show(difference, as_json)


def _parsed(text: str) -> Ticket | Cid | Path:
    from lattica.content.download.finding import parse_ref
    from lattica.content.errors import TicketError

    # A ticket may be longer than the name of a file, which `Path.exists` raises for.
    if os.path.exists(text):
        return Path(text)
    try:
        return parse_ref(text)
    except TicketError as error:
        if text.strip().startswith(("lattica", "bafk")):
            raise
        raise TicketError(
            f"{text!r} is no file or directory here, and no ticket: {error}"
        ) from None


async def _diff(config: NodeConfig, refs: list[Ticket | Cid | Path]) -> Difference:
    from contextlib import AsyncExitStack
    from dataclasses import replace

    from lattica.content.manifest.difference import compare
    from lattica.nat.traversal.portmap.config import PortMappingConfig
    from lattica.node import Node

    async with AsyncExitStack() as stack:
        node: Node | None = None
        if not all(isinstance(ref, Path) for ref in refs):
            config = replace(
                config,
                swarm=replace(config.swarm, listen=()),
                nat=replace(config.nat, port_mapping=PortMappingConfig(enabled=False)),
            )
            node = await stack.enter_async_context(Node(config))
        old, new = [await _manifest(node, ref) for ref in refs]
    return compare(old, new)


async def _manifest(node: Node | None, ref: Ticket | Cid | Path) -> Manifest:
    from lattica.content.download.finding import fetch_manifest
    from lattica.content.publish.catalog import make_publication

    if isinstance(ref, Path) or node is None:
        assert isinstance(ref, Path)
        return (await make_publication(ref)).manifest
    return await fetch_manifest(node, ref)


def _show(difference: Difference, as_json: bool) -> None:
    from dataclasses import asdict

    from lattica.content.disk import format_bytes

    if as_json:
        say_json(asdict(difference))
        return
    for kind, changes in (("file", difference.files), ("tensor", difference.tensors)):
        _show_changes(kind, changes)
    say(
        f"{format_bytes(difference.bytes_to_fetch)} of {format_bytes(difference.bytes_total)} "
        "would travel"
    )


def _show_changes(kind: str, changes: Changes) -> None:
    for what in ("added", "removed", "changed"):
        names: tuple[str, ...] = getattr(changes, what)
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
            say(f"{len(names)} {kind}{'' if len(names) == 1 else 's'} {what}: {shown}")
