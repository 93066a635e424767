"""`lattica fetch`: what another peer has published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.content.by_node import addrs_where_it_serves, fetch_by
from lattica.cli.content.following_by_node import follow_by
from lattica.cli.shared.common import run, start, wrong_arguments
from lattica.cli.shared.daemon import running_node
from lattica.cli.shared.options import (
    ConnectOption,
    ListenOption,
    MaxRateOption,
    OwnKeyOption,
    bytes_a_second,
    named_path,
)
from lattica.cli.shared.terminal import say, say_json
from lattica.nat.base.errors import ConfigError, LatticaError, NotConnectedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lattica.cli.shared.path_watch import PathStep
    from lattica.config import NodeConfig
    from lattica.content import ByteRange, Cid, FetchOptions, FetchResult, Ticket
    from lattica.content.names.record import NameRef
    from lattica.content.names.registry import RegistryRef
    from lattica.node import Node

_SIGNAL_EXIT = 128
_WAIT_FOR_PEERS = 10.0
_SHOWN_FILES = 5
"""Names that are printed of a list of files."""


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("fetch")(fetch_command)


def fetch_command(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="Ticket from `lattica publish`, PEER/NAME for what a peer has published by that "
            "name, crdt:DOCUMENT/MODEL for what a replicated document says is in use, or a content "
            "id (bafkrei…).",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            parser=named_path,
            help="Directory to fetch into; made if necessary.",
        ),
    ] = Path(),
    signed_by: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PEER",
            help="Only what this peer has signed (`lattica publish --sign`), whoever sends it.",
        ),
    ] = None,
    tensors: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Only tensors with such names, as smaller safetensors or GGUF files.",
        ),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="[PATH:]FIRST-LAST",
            help="Only these bytes of a file, to a file of its own; may be repeated.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="With --tensors: replace files in DIR that have tensors which are not selected.",
        ),
    ] = False,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete",
            help="When all is there, delete files in DIR that a former fetch into DIR has written "
            "and that are not part of this, unless they have been changed since; those in the way "
            "of this, before.",
        ),
    ] = False,
    delete_matching: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Delete other files in DIR that are not part of this too, by name or path; may "
            "be repeated.",
        ),
    ] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            parser=named_path,
            help="Copy what a file or directory has of it, for instance an older version; may be "
            "repeated.",
        ),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share/--no-share",
            help="Serve to others who fetch the same what is here of it, and be told of them.",
        ),
    ] = True,
    share_for: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="Serve it on for so long when all is there."),
    ] = 0.0,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Of a name: go on, fetch each later version into DIR, and delete there what "
            "it has no more.",
        ),
    ] = False,
    max_rate: MaxRateOption = None,
    bootstrap: ConnectOption = None,
    listen: ListenOption = None,
    own_key: OwnKeyOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when it is done.")
    ] = False,
) -> None:
    """Fetch what a ticket names into DIR, and verify every byte of it.

    The files of a published directory land in DIR itself. A file gets its name only when it is
    complete; one that had the name before is replaced. When the command is interrupted, run it
    again: it goes on where it was. Files that are there already are verified, not fetched, and what
    other files in DIR have of it is copied. Files of a former version stay, and are named; with
    --delete they go. Directories in DIR that other fetches were into are left alone.

        lattica fetch lattica1… -o ./my-model

        lattica fetch lattica1… -o ./one-layer --tensors 'model.layers.0.*'

    A selection is written to a smaller file of the same name. Where one with other tensors has it,
    the whole file or another selection, nothing is fetched, unless --replace is given.

    With --range only these bytes are written, to a file named after them (weights.bin.0-1023).
    FIRST- goes to the end, -COUNT is so many bytes before it:

        lattica fetch lattica1… -o ./parts --range weights.bin:0-1023

    Many who fetch the same at the same time get it from each other, too, and the publisher sends
    little more than it would to one. --share-for 3600 lets those who come later have it from here.

        lattica fetch bafkrei… -o ./my-model --connect /ip4/192.0.2.1/tcp/4001

    What a peer has published with --name is found by that name as long as the peer, or the DHT,
    can be asked; --watch keeps DIR what the name leads to, until SIGINT or SIGTERM:

        lattica fetch 12D3KooW…/my-model -o ./my-model --watch --connect /ip4/192.0.2.1/tcp/4001

        lattica fetch /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…/my-model -o ./my-model

    So does a name in a registry of models, which is a replicated document (`lattica publish
    --registry`), and is known to whoever has the document:

        lattica fetch crdt:cluster/chat -o ./chat --watch --connect /ip4/192.0.2.1/tcp/4001

    Where a `lattica node` runs here, that fetches it, unless --listen or --no-daemon is given. With
    --watch it goes on for as long as the command runs, also when the node is started anew.

    In GLOB, *, ? and brackets mean what they do in a shell. Brackets that belong to a name get a
    backslash:

        lattica fetch lattica1… -o ./one-layer --tensors 'blocks\\\\[0\\].*'
    """
    overrides = {"listen": listen, "bootstrap": bootstrap}
    config = start(ctx, overrides, keep_identity=own_key, quiet=True)
    import dataclasses

    from lattica.content import ByteRange, FetchOptions
    from lattica.content.names.following import check_followed, parse_any_ref
    from lattica.nat.base.keys.peer_id import parse_peer_id

    with wrong_arguments():
        parsed = parse_any_ref(ref)
        if watch:
            check_followed(parsed)
        parts = tuple(ByteRange.parse(text) for text in ranges or ())
        if parts and (watch or tensors is not None):
            raise ConfigError("--range goes with neither --tensors nor --watch")
        options = FetchOptions(
            delete_former=delete,
            delete_matching=tuple(delete_matching or ()),
            replace_tensors=replace,
            signed_by=None if signed_by is None else parse_peer_id(signed_by),
            base=tuple(base or ()),
            share=share,
            share_for=share_for,
            rate=bytes_a_second(max_rate),
        )
    daemon = running_node(ctx, config, listen=listen)
    own = () if daemon is None else addrs_where_it_serves(daemon, parsed)
    if daemon is not None and own:  # it has nothing to fetch; a node of the command's own does
        daemon.close()
        config = dataclasses.replace(
            config, identity_path=None, bootstrap=(*config.bootstrap, *own)
        )
    elif daemon is not None and watch:
        show = partial(_show_result, paths=[], out=out.absolute(), as_json=as_json, delete=True)
        follow_by(daemon, ref, out, tensors, options, bootstrap, show)
        return
    elif daemon is not None:
        result = fetch_by(daemon, ref, out, tensors, parts, options, bootstrap)
        _show_result(result, [], out.absolute(), as_json, delete)
        return
    code = run(_fetch, config, parsed, out, tensors, parts, options, as_json, watch)
    if code:
        raise typer.Exit(code)


async def _fetch(
    config: NodeConfig,
    parsed: Ticket | Cid | NameRef | RegistryRef,
    out: Path,
    tensors: str | None,
    ranges: Sequence[ByteRange],
    options: FetchOptions,
    as_json: bool,
    watch: bool,
) -> int:
    from dataclasses import replace

    from lattica.cli.content.progress import FetchDisplay
    from lattica.cli.shared.listening import beside_others
    from lattica.cli.shared.path_watch import PathWatch
    from lattica.cli.shared.stopping import stopped_by_signals
    from lattica.content import Cid, fetch
    from lattica.content.names.following import follow, resolve_ref
    from lattica.content.names.record import NameRef
    from lattica.content.names.registry import RegistryRef
    from lattica.content.swarm.dht_finder import dht_finder
    from lattica.nat.traversal.portmap.config import PortMappingConfig
    from lattica.node import Node

    # It listens only so that a hole can be punched to it, and maps no port at the router.
    config = replace(
        config,
        swarm=replace(config.swarm, listen=beside_others(config.swarm.listen)),
        nat=replace(config.nat, port_mapping=PortMappingConfig(enabled=False)),
    )
    steps: list[PathStep] = []
    versions = 0

    async def show_version(result: FetchResult) -> None:
        nonlocal versions
        versions += 1
        _show_result(result, steps, out, as_json, delete=True)

    async def show_problem(error: LatticaError) -> None:
        say(f"not fetched yet: {error}", err=True)

    async with stopped_by_signals() as stop:
        async with Node(config) as node:
            with FetchDisplay() as display, node.events() as events:
                if isinstance(parsed, Cid | RegistryRef):
                    await _wait_for_peers(node)
                else:
                    path_watch = PathWatch(parsed.peer_id, display.on_path)
                    stop.nursery.start_soon(path_watch.run, events)
                    steps = path_watch.steps
                if isinstance(parsed, NameRef) and not parsed.addrs:
                    await _wait_for_peers(node)
                if watch and isinstance(parsed, NameRef | RegistryRef):
                    await follow(
                        node,
                        parsed,
                        out,
                        on_version=show_version,
                        on_problem=show_problem,
                        progress=display,
                        tensors=tensors,
                        options=options,
                    )
                result = await fetch(
                    node,
                    await resolve_ref(node, parsed),
                    out,
                    progress=display,
                    tensors=tensors,
                    ranges=ranges,
                    options=options,
                    finder=dht_finder(node),
                )
        _show_result(result, steps, out, as_json, options.delete_former)
    if stop.signal is None or versions:
        return 0
    say("interrupted; the same command goes on from here", err=True)
    return _SIGNAL_EXIT + stop.signal


async def _wait_for_peers(node: Node) -> None:
    """Where nobody is named who has it, those that are connected are asked."""
    import trio

    with trio.move_on_after(_WAIT_FOR_PEERS):
        while not node.peers():
            await node.swarm.wait_changed()
    if not node.peers() and not node.config.bootstrap:
        raise NotConnectedError(
            "no peer is known to ask: name one by --connect, or give a ticket or "
            "ADDRESS/p2p/PEER/NAME"
        )


def _show_result(
    result: FetchResult,
    paths: Sequence[PathStep],
    out: Path,
    as_json: bool,
    delete: bool,
) -> None:
    from lattica.content.disk import format_bytes

    path = result.paths[0] if len(result.paths) == 1 else out
    rate = result.bytes_fetched / result.seconds / 1e6 if result.seconds > 0 else 0.0
    if as_json:
        fields = {
            "path": str(path),
            "cid": str(result.cid),
            "name": result.name,
            "files": len(result.paths),
            "bytes": result.bytes_total,
            "bytes_fetched": result.bytes_fetched,
            "seconds": round(result.seconds, 3),
            "mb_per_s": round(rate, 1),
            "paths": [{"path": step.path, "after_s": round(step.after, 3)} for step in paths],
            "sources": [
                {"peer_id": str(source.peer_id), "bytes": source.bytes_fetched}
                for source in result.sources
            ],
            "bytes_shared": result.bytes_shared,
            "other_files": list(map(str, result.other_files)),
            "removed_files": list(map(str, result.removed_files)),
        }
        say_json(fields)
        return
    if not result.bytes_fetched:
        size = format_bytes(result.bytes_total)
        say(f"{path}: {size}, verified; nothing had to be fetched")
    else:
        say(
            f"{path}: {format_bytes(result.bytes_total)}, verified; "
            f"{format_bytes(result.bytes_fetched)} fetched in {result.seconds:.1f} s, "
            f"{rate:.{0 if rate >= 10 else 1}f} MB/s{_from_whom(result)}"
        )
    if result.bytes_shared:
        say(f"{format_bytes(result.bytes_shared)} sent to others meanwhile", err=True)
    _show_others(result, out, delete)


def _from_whom(result: FetchResult) -> str:
    return f", from {len(result.sources)} peers" if len(result.sources) > 1 else ""


def _show_others(result: FetchResult, out: Path, delete: bool) -> None:
    if result.removed_files:
        say(f"deleted {_named(result.removed_files, out)}")
    if result.other_files:
        count = len(result.other_files)
        say(
            f"{_named(result.other_files, out)} {'is' if count == 1 else 'are'} not part of this",
            err=True,
        )
        former = len(result.former_files)
        them = "it" if former == count == 1 else "them" if former == count else f"{former}"
        if former and not delete:
            say(f"a former fetch has written {them}: --delete would remove {them}", err=True)
        elif former:
            say(f"--delete could not remove {them}: the system does not let go", err=True)
    if result.directory_cut:
        say(
            f"{out} has more files than are looked at; there may be others that are not part of "
            "this",
            err=True,
        )


def _named(paths: Sequence[Path], out: Path) -> str:
    """`3 files (a, b, …)`."""
    count = len(paths)
    names = ", ".join(str(path.relative_to(out)) for path in paths[:_SHOWN_FILES])
    more = ", …" if count > _SHOWN_FILES else ""
    return f"{count} file{'' if count == 1 else 's'} ({names}{more})"
