"""What the blocking and the asyncio facade do alike: hold a node in a trio thread."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, TypeVar

import trio

from lattica.content.errors import ContentNotFoundError
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.in_process import NodeInProcess

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import ByteRange, FetchOptions, FetchResult, Publisher, Ticket
    from lattica.content.events import FetchCallback, HashCallback
    from lattica.content.hub.publishing import InMemory
    from lattica.content.hub.repository import RevisionRef
    from lattica.content.manifest.cid import Cid
    from lattica.content.names.service import Names
    from lattica.content.publish.catalog import Publication
    from lattica.content.tensors.state_dict import Loaded
    from lattica.content.tensors.streaming import RemoteTensors
    from lattica.nat.base.errors import LatticaError
    from lattica.nat.base.keys.identity import Identity, PeerId
    from lattica.nat.mux.stream import Stream
    from lattica.node import Node

E = TypeVar("E")

RPC = ("lattica.rpc.rpc",)
DHT = ("lattica.dht.dht", "lattica.node.dht_ties")
TOPICS = (
    "lattica.dht.topics.service.topics",
    "lattica.node.discovery",
    "lattica.nat.quic.qh3.signatures",
)
DISCOVERY = (*DHT, "lattica.dht.rendezvous.service", "lattica.node.discovery")
DOCUMENTS = (*TOPICS, "lattica.crdt.store.store")
"""What the parts of a node import when they are first asked for; for :func:`import_here`."""
_CONTENT = (
    "lattica.content.download.fetcher",
    "lattica.content.download.finding",
    "lattica.content.names.following",
    "lattica.content.names.record",
    "lattica.content.names.service",
    "lattica.content.publish.server",
    "lattica.content.swarm.dht_finder",
    "lattica.content.tensors.state_dict",
)


def make_node(config: NodeConfig | None, identity: Identity | None) -> Node:
    """Make the node, in its thread: the caller does not pay for the import before `start`.

    Without a configuration it has the loaded one (:func:`lattica.load_config`).
    """
    from lattica.node import Node

    return Node(config, identity=identity)


def import_here(*modules: str) -> None:
    """Have these modules imported by this thread, which is not trio's.

    In a process whose threads are busy in Python an import takes seconds, in which trio's thread
    would give no peer an answer.
    """
    for module in modules:
        if module not in sys.modules:
            import_module(module)


async def _load_content() -> None:
    """:func:`import_here` of what publishes and fetches, in a thread."""
    if not all(module in sys.modules for module in _CONTENT):
        await trio.to_thread.run_sync(import_here, *_CONTENT)


class Content:
    """Publishing and fetching by a node; used in its trio thread only. :meth:`opened` makes it."""

    def __init__(self, node: Node, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self._node = node
        self._stack = stack
        self._nursery = nursery
        self._publisher: Publisher | None = None
        self._names: Names | None = None
        self._descriptions: dict[Cid, InMemory] | None = None
        """Of revisions, as a shelf of the node's service."""
        self._described: dict[Cid, Cid] = {}
        """From publications to their descriptions."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, node: Node) -> AsyncIterator[Content]:
        """For a node that runs; what is published is served until the end of the block."""
        # The nursery is this task's: what publishes is any other.
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            stack.callback(nursery.cancel_scope.cancel)
            yield cls(node, stack, nursery)

    async def publish(
        self,
        path: Path | str,
        name: str | None,
        progress: HashCallback | None = None,
        *,
        announce_timeout: float,
        follow_links: bool = False,
        sign: bool = False,
        rate: float = math.inf,
        repo: RevisionRef | None = None,
    ) -> Ticket:
        """See :meth:`lattica.content.Publisher.publish`. Serves until the node stops; with a name,
        it can be fetched as PEER/NAME, too, and as a revision of a repository by a hub's clients,
        who know of no links."""
        publisher = await self._open_publisher()
        served = {publication.cid for publication in publisher.catalog}
        ticket = await publisher.publish(
            path,
            repo.title if repo is not None and name is None else name,
            progress=progress,
            announce_timeout=announce_timeout,
            follow_links=follow_links or repo is not None,
            sign=sign,
            rate=rate,
        )
        if repo is not None:
            try:
                await self._publish_revision(repo, ticket.cid)
            except BaseException:  # who asked for it may be gone
                if ticket.cid not in served:
                    publisher.unpublish(ticket)
                raise
        self._announce(ticket, name)
        return ticket

    async def _publish_revision(self, ref: RevisionRef, cid: Cid) -> None:
        await trio.to_thread.run_sync(import_here, "lattica.content.hub.publishing")
        from lattica.content.hub.publishing import describe_revision
        from lattica.content.publish.service import serving

        assert self._publisher is not None
        publication = self._publisher.catalog.get(cid)
        assert publication is not None
        revision = await describe_revision(ref, publication)
        description = revision.description
        if self._descriptions is None:
            self._descriptions = {}
            self._stack.enter_context(serving(self._node, self._descriptions.get))
        self._descriptions[description.cid] = description
        self._described[cid] = description.cid
        revision.give_names(self._open_names())
        self._provide(description.cid)

    async def _open_publisher(self) -> Publisher:
        await _load_content()
        from lattica.content import Publisher

        if self._publisher is None:
            self._publisher = Publisher(self._node)
            await self._stack.enter_async_context(self._publisher)
        return self._publisher

    def _announce(self, ticket: Ticket, name: str | None) -> None:
        """Let others find what is published: by its name, and by its content id."""
        from lattica.content.names.record import NameTarget

        if name is not None:
            self._open_names().publish_if_possible(name, NameTarget(ticket.cid))
        self._provide(ticket.cid)

    def _open_names(self) -> Names:
        from lattica.content.names.service import Names

        if self._names is None:
            self._names = Names(self._node, self._nursery)
            self._stack.callback(self._names.close)
        return self._names

    def _provide(self, cid: Cid) -> None:
        from lattica.content.swarm.dht_finder import dht_finder

        finder = dht_finder(self._node)
        if finder is not None:
            self._nursery.start_soon(partial(finder.provide, cid, is_here=lambda: self._has(cid)))

    def _has(self, cid: Cid) -> bool:
        """Whether it is served here."""
        is_published = self._publisher is not None and self._publisher.catalog.get(cid) is not None
        return is_published or (self._descriptions is not None and cid in self._descriptions)

    async def publish_state_dict(
        self, state: Mapping[str, Any], directory: Path | str, name: str, max_shard: int
    ) -> Ticket:
        """See :func:`lattica.content.publish_state_dict`. Serves until the node stops."""
        await _load_content()
        from lattica.content import publish_state_dict

        publisher = await self._open_publisher()
        ticket = await publish_state_dict(publisher, state, directory, name, max_shard=max_shard)
        self._announce(ticket, name)
        return ticket

    async def load_state_dict(
        self,
        ref: Ticket | Cid | str,
        state: Mapping[str, Any],
        strict: bool,
        options: FetchOptions | None,
    ) -> Loaded:
        """See :func:`lattica.content.load_state_dict`; a text may be PEER/NAME, too."""
        await _load_content()
        from lattica.content import load_state_dict
        from lattica.content.swarm.dht_finder import dht_finder

        return await load_state_dict(
            self._node,
            await self._resolved(ref),
            state,
            strict=strict,
            options=options,
            finder=dht_finder(self._node),
        )

    async def open_tensors(
        self, ref: Ticket | Cid | str, options: FetchOptions | None
    ) -> RemoteTensors:
        """See :func:`lattica.content.tensors.streaming.open_tensors`; a text may be PEER/NAME."""
        await _load_content()
        from lattica.content.swarm.dht_finder import dht_finder
        from lattica.content.tensors.streaming import open_tensors

        finder = dht_finder(self._node)
        return await open_tensors(
            self._node, await self._resolved(ref), options=options, finder=finder
        )

    def unpublish(self, publication: Ticket | Cid | str) -> None:
        """See :meth:`lattica.content.Publisher.unpublish`. Its names are withdrawn then, and the
        DHT is told that it is here no more."""
        if self._publisher is None:
            raise ContentNotFoundError("nothing is published here")
        self._publisher.unpublish(publication)
        from lattica.content.download.finding import named_by

        cid, _ = named_by(publication)
        if self._names is not None:
            self._names.withdraw(cid)
        self._withdraw(cid)
        description = self._described.pop(cid, None)
        if description is not None and self._descriptions is not None:
            del self._descriptions[description]
            self._withdraw(description)

    def _withdraw(self, cid: Cid) -> None:
        from lattica.content.swarm.dht_finder import dht_finder

        finder = dht_finder(self._node)
        if finder is not None:
            self._nursery.start_soon(finder.withdraw, cid)

    def publications(self) -> Iterator[tuple[Publication, Ticket]]:
        """What is published, each with a ticket as it would be made now."""
        if self._publisher is not None:
            for publication in self._publisher.catalog:
                yield publication, self._publisher.ticket(publication.cid)

    async def fetch(
        self,
        ticket: Ticket | str,
        out_dir: Path | str,
        tensors: str | None,
        options: FetchOptions | None,
        progress: FetchCallback | None = None,
        *,
        ranges: Sequence[ByteRange] = (),
    ) -> FetchResult:
        """See :func:`lattica.content.fetch`; a text may be PEER/NAME, too."""
        await _load_content()
        from lattica.content import fetch
        from lattica.content.swarm.dht_finder import dht_finder

        return await fetch(
            self._node,
            await self._resolved(ticket),
            out_dir,
            progress=progress,
            tensors=tensors,
            ranges=ranges,
            options=options,
            finder=dht_finder(self._node),
        )

    async def follow(
        self,
        name: str,
        out_dir: Path | str,
        tensors: str | None,
        options: FetchOptions,
        progress: FetchCallback,
        *,
        on_version: Callable[[FetchResult], Awaitable[object]],
        on_problem: Callable[[LatticaError], Awaitable[object]],
    ) -> None:
        """See :func:`lattica.content.names.following.follow`."""
        await _load_content()
        from lattica.content.names.following import check_followed, follow, parse_any_ref

        await follow(
            self._node,
            check_followed(parse_any_ref(name)),
            Path(out_dir),
            on_version=on_version,
            on_problem=on_problem,
            progress=progress,
            tensors=tensors,
            options=options,
        )

    async def _resolved(self, ref: Ticket | Cid | str) -> Ticket | Cid:
        from lattica.content.names.following import parse_any_ref, resolve_ref

        return await resolve_ref(self._node, parse_any_ref(ref) if isinstance(ref, str) else ref)


class NodeFacade(NodeInProcess):
    """A :class:`~lattica.node.Node` in a thread of its own. Base of the facades."""

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        identity: Identity | None = None,
        **settings: Never,
    ) -> None:
        from lattica.config import refuse_settings, require_config

        refuse_settings(settings)
        require_config(config)
        self._config = config
        self._identity = identity
        self._bridge = self._make_bridge()
        self._opened: tuple[Node, Content] | None = None

    def __repr__(self) -> str:
        if not self._bridge.is_open or self._opened is None:
            return f"<{type(self).__name__}, {'closed' if self._bridge.closing else 'not started'}>"
        return f"<{type(self).__name__} {self.peer_id}>"

    def _make_bridge(self) -> Bridge[tuple[Node, Content]]:
        return Bridge(self._open, name=type(self).__name__)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Node, Content]]:
        async with make_node(self._config, self._identity) as node, Content.opened(node) as content:
            self._bridge.linger = node.config.swarm.timeouts.shutdown
            yield node, content

    @property
    def peer_id(self) -> PeerId:
        """This node's name in the mesh; in the node's own thread, too."""
        self._bridge.check_runs()
        assert self._opened is not None
        return self._opened[0].peer_id

    @property
    def config(self) -> NodeConfig:
        """What the node has been told."""
        return self._node.config

    @property
    def identity(self) -> Identity:
        """The node's key."""
        return self._node.identity

    @property
    def _node(self) -> Node:
        """The node; raises unless it runs."""
        self._bridge.check()
        assert self._opened is not None
        return self._opened[0]

    @property
    def _content(self) -> Content:
        self._bridge.check()
        assert self._opened is not None
        return self._opened[1]

    def _grace(self) -> float:
        """Seconds that handlers have to return when the node has stopped."""
        return 0.0 if self._opened is None else self._opened[0].config.swarm.timeouts.shutdown

    def _discard(self, stream: Stream) -> None:
        """Dispose of a stream whose opener has gone away."""
        self._bridge.soon(stream.reset)
