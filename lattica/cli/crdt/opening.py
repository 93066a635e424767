"""How a command opens a document: among this peer's files alone, or in step with peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import run, start
from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.node import Node

DocumentArgument = Annotated[
    str, typer.Argument(metavar="DOCUMENT", help="Its ID, 64 hexadecimal digits, or its name.")
]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="For peers that have the document, if --connect or the configuration names any.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CapabilityOption = Annotated[
    Path | None,
    typer.Option(
        "--capability", metavar="FILE", parser=named_path, help="What `grant -o` has written."
    ),
]
WAIT = 10.0


def offline(ctx: typer.Context) -> NodeConfig:
    """For what concerns this peer's files only."""
    return start(ctx, {"swarm.listen": ["/ip4/127.0.0.1/tcp/0"], "bootstrap": None}, quiet=True)


def online(
    ctx: typer.Context,
    listen: list[str] | None,
    connect: list[str] | None,
    relay: list[str] | None,
) -> NodeConfig:
    """For what is done with peers, if any are named."""
    return start(ctx, {"listen": listen, "bootstrap": connect, "relays": relay}, quiet=True)


def with_document(
    config: NodeConfig,
    document: str,
    work: Callable[[SharedDocument], object],
    *,
    wait: float = 0.0,
    before: bool = False,
    after: bool = False,
    must_exist: bool = True,
) -> tuple[object, ...]:
    """Do something with a document, in step with peers before or after it, if any are named.

    One that does not have to exist is begun, as by `open`. Returns with whom it was in step
    afterwards.
    """

    async def on_node() -> tuple[object, ...]:
        from lattica.node import Node

        async with Node(config) as node:
            opened = await node.store.open(document, timeout=wait, must_exist=must_exist)
            if before and config.bootstrap:
                await _try_synced(opened, wait)
            work(opened)
            if after and config.bootstrap:
                return await opened.synced(timeout=wait)
        return ()

    return run(on_node)


async def open_document(
    node: Node, document: str, capability: Path | None, wait: float
) -> SharedDocument:
    """Open a document by ID or name, with a capability from a file."""
    shown = None if capability is None else read_file(capability)
    return await node.store.open(document, capability=shown, timeout=wait)


async def _try_synced(opened: SharedDocument, wait: float) -> None:
    try:
        await opened.synced(timeout=wait)
    except TimeoutError as error:
        say(f"as it is here: {error}", err=True)


def read_file(path: Path) -> bytes:
    """What is in a file that was handed over. Raises ConfigError."""
    from lattica.nat.base.errors import ConfigError

    try:
        with path.open("rb") as file:
            return file.read(64 * 1024)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def write_file(path: Path, data: bytes) -> None:
    """Write what is to be handed over. Raises ConfigError."""
    from lattica.nat.base.errors import ConfigError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
