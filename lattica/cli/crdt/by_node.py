"""`lattica crdt` by the `lattica node` that runs here, which has the key and the documents."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from lattica.cli.crdt.proofs import readable
from lattica.cli.shared.daemon import Stopped, by_daemon, running_node, until_stopped
from lattica.cli.shared.event_json import ready_object
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import typer

    from lattica.config import NodeConfig
    from lattica.crdt.base.canonical import Plain
    from lattica.crdt.document import LogEntry
    from lattica.daemon.api.client import NodeClient


def node_for(ctx: typer.Context, config: NodeConfig, *given: object) -> NodeClient | None:
    """The node that runs here, if there is one.

    Raises:
        LocalProtocolError: there is one, and options are `given` that it cannot do.
    """
    client = running_node(ctx, config)
    if client is not None and any(given):
        client.close()
        _refuse("these options are")
    return client


def only_alone(ctx: typer.Context, config: NodeConfig) -> NodeConfig:
    """The same configuration, of a command that no node can do.

    Raises LocalProtocolError where a node runs.
    """
    client = running_node(ctx, config)
    if client is not None:
        client.close()
        _refuse("this command is")
    return config


def _refuse(what: str) -> None:
    """Say what a node that runs does not do."""
    from lattica.nat.base.errors import LocalProtocolError

    raise LocalProtocolError(
        f"{what} not for the documents of the `lattica node` that runs here, which has their key "
        "and files: end it first; create, list, set, log, erase, prune, and get and watch of "
        "registers, are done by it if they name no peers (it is connected to them itself)"
    )


def _existing(client: NodeClient, document: str, wait: float) -> str:
    """The ID of a document that the node or a peer has, and that the node has open from now on."""
    return client.crdt_open(document, timeout=wait, must_exist=True).id


def create_by(client: NodeClient, name: str, mode: str, as_json: bool) -> None:
    """Have the node make a document, and keep it."""
    with by_daemon(client):
        made = client.crdt_create(name, mode=mode)
        if as_json:
            say_json({"document": made.id, "name": made.name, "mode": mode})
        else:
            say(made.id)


def list_by(client: NodeClient, as_json: bool) -> None:
    """Print the node's documents."""
    with by_daemon(client):
        for each in client.crdt_list():
            if as_json:
                say_json({"document": each.id, "name": each.name, "mode": each.mode})
            else:
                say(f"{each.id} {each.mode} {each.name}")


def get_by(client: NodeClient, document: str, name: str | None, wait: float) -> None:
    """Print registers as the node has them."""
    with by_daemon(client):
        opened = client.crdt_open(document, timeout=wait, must_exist=True)
        found = client.crdt_get(opened.id, name or "")
        if name is None:
            say_json({each: readable(value) for each, value in found.items()})
            return
        if name not in found:
            from lattica.errors import ContentNotFoundError

            raise ContentNotFoundError(f"{name!r} has no value in {opened.name!r}")
        say_json(readable(found[name]))


def set_by(
    client: NodeClient, document: str, name: str, value: Plain, wait: float, as_json: bool
) -> None:
    """Have the node write a register; its peers get it by itself."""
    with by_daemon(client):
        client.crdt_set(client.crdt_open(document, timeout=wait).id, name, value)
        if as_json:
            say_json({"name": name, "peers": []})


def log_by(client: NodeClient, document: str) -> Iterator[LogEntry]:
    """The entries of a document as the node has them."""
    from lattica.crdt.document import LogEntry
    from lattica.nat.base.keys.identity import PeerId

    with by_daemon(client), client.crdt_log(_existing(client, document, 0.0)) as entries:
        for each in entries:
            yield LogEntry(
                each.milliseconds,
                PeerId.from_base58(each.peer_id),
                each.session,
                each.seq,
                each.id,
                each.kind,
                each.name if each.HasField("name") else None,
                each.size,
                each.is_erased,
            )


def erase_by(client: NodeClient, document: str, entries: Sequence[str], wait: float) -> int:
    """Have the node erase entries; its peers hear of it by itself. How many were not before."""
    with by_daemon(client):
        return client.crdt_erase(_existing(client, document, wait), entries)


def prune_by(client: NodeClient, document: str, grace: float, wait: float) -> tuple[int, str]:
    """Have the node drop what is not needed; its peers hear by itself what it calls final. How many
    entries went; if none, why.
    """
    with by_daemon(client):
        reply = client.crdt_prune(_existing(client, document, wait), grace)
        return reply.pruned, reply.why


def watch_by(client: NodeClient, document: str, prefix: str, wait: float, as_json: bool) -> None:
    """Print registers as the node has them, and as they change, until a signal."""
    from lattica.daemon.api.values import unpack

    def watch() -> Iterator[Callable[[], None]]:
        status, opened = client.status(), client.crdt_open(document, timeout=wait)
        if as_json:
            yield partial(say_json, ready_object(status, document=opened.id, name=opened.name))
        with client.crdt_watch(opened.id, prefix) as registers:
            for each in registers:
                value = readable(unpack(each.value)) if each.value else None
                if as_json:
                    changed = {"kind": "register", "name": each.name, "value": value}
                    yield partial(say_json, {"event": "changed", **changed})
                else:
                    yield partial(say, f"register {json.dumps(each.name)}: {json.dumps(value)}")

    with by_daemon(client), suppress(Stopped):
        until_stopped(watch())
