"""From a name to files: what it leads to now, or whatever it leads to from now on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from lattica.content.download.fetcher import fetch
from lattica.content.download.finding import fetch_manifest, named_by, parse_ref
from lattica.content.download.local.former import is_directory
from lattica.content.download.options import FetchOptions, FetchResult
from lattica.content.download.plan import Plan
from lattica.content.errors import StorageError
from lattica.content.events import FetchCallback
from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameRecord, NameRef
from lattica.content.names.registry import PREFIX, RegistryRef, open_registry
from lattica.content.names.resolver import NameResolver
from lattica.content.swarm.dht_finder import dht_finder
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import AddressError, LatticaError, LocalProtocolError
from lattica.nat.base.keys.identity import parse_peer_id

if TYPE_CHECKING:
    from lattica.node import Node

_AGAIN = 10.0
"""Seconds after which a version that could not be fetched is tried again."""


def parse_any_ref(text: str) -> Ticket | Cid | NameRef | RegistryRef:
    """What a person gave to say what is to be fetched: a ticket, a content id, PEER/NAME, or
    crdt:DOCUMENT/MODEL.

    Raises :class:`TicketError`.
    """
    text = text.strip()
    if text.startswith(PREFIX):
        return RegistryRef.parse(text)
    first, slash, _ = text.partition("/")
    return NameRef.parse(text) if slash and (not first or _is_peer(first)) else parse_ref(text)


def check_followed(ref: Ticket | Cid | NameRef | RegistryRef) -> NameRef | RegistryRef:
    """What can be followed: something that leads to one thing after the other.

    Raises :class:`~lattica.errors.LocalProtocolError`.
    """
    if not isinstance(ref, NameRef | RegistryRef):
        raise LocalProtocolError(
            "only a name can be followed, PEER/NAME or crdt:DOCUMENT/MODEL, and not a ticket or "
            "content id"
        )
    if isinstance(ref, RegistryRef) and ref.version is not None:
        raise LocalProtocolError("what is in use can be followed, and not one version")
    return ref


def _is_peer(text: str) -> bool:
    try:
        parse_peer_id(text)
    except AddressError:
        return False
    return True


async def resolve_ref(node: Node, ref: Ticket | Cid | NameRef | RegistryRef) -> Ticket | Cid:
    """What a name leads to, with its owner as the first to be asked for it; others as they are.

    Raises :class:`~lattica.errors.NameNotFoundError`.
    """
    if isinstance(ref, RegistryRef):
        async with open_registry(node, ref) as name:
            return await name.resolve()
    if not isinstance(ref, NameRef):
        return ref
    return _ticket(ref, await NameResolver(node).resolve(ref))


def _ticket(ref: NameRef, record: NameRecord) -> Ticket:
    return Ticket(record.target.cid, ref.peer_id, ref.addrs)


class _Name(Protocol):
    """What leads to one thing after the other."""

    async def resolve(self) -> Ticket | Cid: ...

    async def wait_other(self, known: Ticket | Cid) -> Ticket | Cid:
        """Wait until it leads elsewhere than to what is known."""
        ...

    async def again(self, known: Ticket | Cid) -> Ticket | Cid:
        """The same, for a short time: whoever asks could not fetch what is known."""
        ...


class _OwnedName:
    """A name below its owner's peer ID."""

    def __init__(self, node: Node, ref: NameRef) -> None:
        self._resolver, self._ref = NameResolver(node), ref
        self._record: NameRecord

    async def resolve(self) -> Ticket | Cid:
        self._record = await self._resolver.resolve(self._ref)
        return _ticket(self._ref, self._record)

    async def again(self, known: Ticket | Cid) -> Ticket | Cid:
        with trio.move_on_after(_AGAIN):
            self._record = await self._resolver.wait_newer(self._ref, self._record.sequence)
        return _ticket(self._ref, self._record)

    async def wait_other(self, known: Ticket | Cid) -> Ticket | Cid:
        there = self._record.target
        while self._record.target == there:
            self._record = await self._resolver.wait_newer(self._ref, self._record.sequence)
        return _ticket(self._ref, self._record)


async def follow(
    node: Node,
    ref: NameRef | RegistryRef,
    out_dir: Path,
    *,
    on_version: Callable[[FetchResult], Awaitable[object]],
    on_problem: Callable[[LatticaError], Awaitable[object]],
    progress: FetchCallback | None = None,
    tensors: str | None = None,
    options: FetchOptions | None = None,
) -> None:
    """Keep a directory what a name leads to, until cancelled.

    Each version is fetched as by :func:`~lattica.content.fetch`; of a published directory, files
    that a former version had and the new one lacks are deleted when that is there, unless somebody
    has changed them. `on_version` is awaited when a version is there. Of the first one the errors
    are raised; of later ones, `on_problem` is told, and it is tried again.

    Raises:
        NameNotFoundError: the name leads nowhere at first.
        ContentError: what it leads to at first cannot be fetched.
        StorageError: the disk refuses, at any time.
    """
    async with AsyncExitStack() as stack:
        name: _Name
        if isinstance(ref, RegistryRef):
            name = await stack.enter_async_context(open_registry(node, ref))
        else:
            name = _OwnedName(node, ref)
        finder = dht_finder(node)
        options = options or FetchOptions()
        ticket = await name.resolve()
        is_first = True
        while True:
            try:
                manifest = await fetch_manifest(node, ticket, options=options, finder=finder)
                cid, _ = named_by(ticket)
                is_whole = tensors is None and is_directory(Plan(cid, manifest))
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
                await on_problem(problem)
                ticket = await name.again(ticket)
                continue
            await on_version(result)
            is_first = False
            ticket = await name.wait_other(ticket)
