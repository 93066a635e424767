"""Publishing: files and directories, hashed, on a shelf of the node's service, with tickets."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import trio

from lattica.content.errors import ContentError, ContentNotFoundError
from lattica.content.events import HashCallback
from lattica.content.manifest.cid import Cid
from lattica.content.publish.catalog import Catalog, check_shards, make_publication
from lattica.content.publish.service import ContentService, PublisherLimits, service_of
from lattica.content.ticket import Ticket
from lattica.nat.base.checks import require
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.host import Host

__all__ = ["ANNOUNCE_TIMEOUT", "Publisher", "PublisherLimits"]

ANNOUNCE_TIMEOUT = 10.0
"""Seconds to wait for a relay before a ticket is made without it."""


@runtime_checkable
class _HasIdentity(Protocol):
    """A host that has its key at hand, as nodes have."""

    identity: Identity


def _identity_of(node: Host) -> Identity:
    if isinstance(node, _HasIdentity):
        return node.identity
    raise LocalProtocolError("this host does not have its key at hand, to sign with it")


class Publisher(InProcess):
    """Serves publications as long as it is open: `async with Publisher(node) as publisher`.

    How clients are served, and what they may cost: :class:`ContentService`. Whoever fetches the
    same at the same time is told of the others, so that they help each other.
    """

    def __init__(self, node: Host, limits: PublisherLimits | None = None) -> None:
        self._node = node
        self._limits = limits or PublisherLimits()
        self._service: ContentService | None = None
        self.catalog = Catalog()

    def __repr__(self) -> str:
        names = [publication.manifest.name for publication in self.catalog]
        return f"<Publisher of {len(names)}{': ' if names else ''}{', '.join(names)}>"

    async def __aenter__(self) -> Publisher:
        service = service_of(self._node)
        service.put(self.catalog.get, self._limits)
        self._service = service
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        service, self._service = self._service, None
        for publication in list(self.catalog):
            self.catalog.remove(publication.cid)
            if service is not None:
                service.limit(publication.cid, math.inf)
        if service is not None:
            service.take(self.catalog.get)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def publish(
        self,
        path: Path | str,
        name: str | None = None,
        *,
        progress: HashCallback | None = None,
        announce_timeout: float = ANNOUNCE_TIMEOUT,
        follow_links: bool = False,
        sign: bool = False,
        rate: float = math.inf,
    ) -> Ticket:
        """Hash a file or directory, serve it, and return a ticket for it.

        Symbolic links in a directory are kept if they stay in it, and otherwise an error; with
        `follow_links` what they lead to is published in their place. With `sign` the
        manifest is signed with the node's key, and has another content id by that. Of it no more
        than `rate` bytes a second are sent, to all clients together; the same again has what was
        said last.
        `progress` is called with :class:`~lattica.content.Progress`, and with nothing else.
        Relays that were configured, and the router, may have been asked only just now: for what
        they add to this node's addresses it waits, but no longer than `announce_timeout` seconds.
        A ticket that may be better later says so (`Ticket.can_improve`); :meth:`ticket` makes
        another one.

        Raises:
            ConfigError: a rate that is none.
            ContentError: for what cannot be read or published, and for an index of a sharded
                checkpoint that does not agree with the shards.
        """
        if self._service is None:
            raise LocalProtocolError("a Publisher is used with `async with`")
        if path == "":  # which Path takes as the current directory
            raise ContentError("name a file or directory to publish; '.' is this one")
        require(rate > 0, "rate", "a positive number of bytes a second", rate)
        identity = _identity_of(self._node) if sign else None
        with nullcontext() if any(self.catalog) else self._service.starting():
            publication = await make_publication(
                Path(path), name, progress, follow_links=follow_links, sign=identity
            )
            await trio.to_thread.run_sync(check_shards, publication)
            await self._node.wait_announced(announce_timeout)
            self._service.limit(publication.cid, rate)
            self.catalog.add(publication)
        return self.ticket(publication.cid)

    def unpublish(self, publication: Ticket | Cid | str) -> None:
        """Serve something no longer: what a ticket (or its text) names, or a content id.

        Downloads that are under way fail at what they ask for next. The same content that was
        published several times is one publication.

        Raises:
            ContentNotFoundError: it is not published here.
            TicketError: the text is no ticket.
        """
        if isinstance(publication, str):
            publication = Ticket.parse(publication)
        cid = publication.cid if isinstance(publication, Ticket) else publication
        if self.catalog.get(cid) is None:
            raise ContentNotFoundError(f"{cid} is not published here")
        self.catalog.remove(cid)
        if self._service is not None:
            self._service.limit(cid, math.inf)
            self._service.tell()

    def ticket(self, cid: Cid) -> Ticket:
        """A ticket with this node's addresses as they are now."""
        node = self._node
        return Ticket.make(cid, node.peer_id, node.addrs, can_improve=node.announcing)
