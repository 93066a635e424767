"""From a name to files: what it leads to now, or whatever it leads to from now on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.content.download.fetcher import fetch, fetch_manifest, parse_ref
from lattica.content.download.local.former import is_directory
from lattica.content.download.options import FetchOptions, FetchResult
from lattica.content.download.plan import Plan
from lattica.content.errors import StorageError
from lattica.content.events import FetchCallback
from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameRecord, NameRef
from lattica.content.names.resolver import NameResolver
from lattica.content.swarm.dht_finder import dht_finder
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import AddressError, LatticaError
from lattica.nat.base.keys.identity import parse_peer_id

if TYPE_CHECKING:
    from lattica.node import Node

_AGAIN = 10.0
"""Seconds after which a version that could not be fetched is tried again."""


def parse_any_ref(text: str) -> Ticket | Cid | NameRef:
    """What a person gave to say what is to be fetched: a ticket, a content id, or PEER/NAME.

    Raises :class:`TicketError`.
    """
    text = text.strip()
    first, slash, _ = text.partition("/")
    return NameRef.parse(text) if slash and (not first or _is_peer(first)) else parse_ref(text)


def _is_peer(text: str) -> bool:
    try:
        parse_peer_id(text)
    except AddressError:
        return False
    return True


async def resolve_ref(node: Node, ref: Ticket | Cid | NameRef) -> Ticket | Cid:
    """What a name leads to, with its owner as the first to be asked for it; others as they are.

    Raises :class:`~lattica.content.names.resolver.NameNotFoundError`.
    """
    if not isinstance(ref, NameRef):
        return ref
    return _ticket(ref, await NameResolver(node).resolve(ref))


def _ticket(ref: NameRef, record: NameRecord) -> Ticket:
    return Ticket(record.target.cid, ref.peer_id, ref.addrs)


async def follow(
    node: Node,
    ref: NameRef,
    out_dir: Path,
    *,
    on_version: Callable[[FetchResult], object],
    on_problem: Callable[[LatticaError], object],
    progress: FetchCallback | None = None,
    tensors: str | None = None,
    options: FetchOptions | None = None,
) -> None:
    """Keep a directory what a name leads to, until cancelled.

    Each version is fetched as by :func:`~lattica.content.fetch`; of a published directory, files
    that a former version had and the new one lacks are deleted when that is there, unless somebody
    has changed them. `on_version` is called when a version is there. Of the first one the errors
    are raised; of later ones, `on_problem` is told, and it is tried again.

    Raises:
        NameNotFoundError: the name leads nowhere at first.
        ContentError: what it leads to at first cannot be fetched.
        StorageError: the disk refuses, at any time.
    """
    resolver, finder = NameResolver(node), dht_finder(node)
    options = options or FetchOptions()
    record = await resolver.resolve(ref)
    is_first = True
    while True:
        ticket = _ticket(ref, record)
        try:
            manifest = await fetch_manifest(node, ticket, options=options, finder=finder)
            is_whole = tensors is None and is_directory(Plan(ticket.cid, manifest))
            result = await fetch(
                node,
                ticket,
                out_dir,
                progress=progress,
                tensors=tensors,
                options=replace(options, delete_former=is_whole),
                finder=finder,
            )
        except StorageError:
            raise
        except (LatticaError, TimeoutError) as error:
            if is_first:
                raise
            problem = error if isinstance(error, LatticaError) else LatticaError(str(error))
            on_problem(problem)
            with trio.move_on_after(_AGAIN):
                record = await resolver.wait_newer(ref, record.sequence)
            continue
        on_version(result)
        is_first = False
        there = record.target
        while record.target == there:
            record = await resolver.wait_newer(ref, record.sequence)
