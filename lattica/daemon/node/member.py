"""A node as a daemon has it: what it serves of its own accord, and what of it is under way."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.daemon.node.log_lines import LogLines
from lattica.daemon.node.transfers import Transfers
from lattica.nat.base.errors import ConfigError, LatticaError

if TYPE_CHECKING:
    from lattica.content import FetchOptions, FetchResult, Ticket
    from lattica.content.download.ranges import ByteRange
    from lattica.content.events import FetchEvent, HashProgress
    from lattica.content.hub.repository import RevisionRef
    from lattica.content.names.registry import RegistryRef
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.daemon.node.config import MemberConfig
    from lattica.facades.facade import Content
    from lattica.node import Node
    from lattica.rpc.ports.exposer import Exposure

logger = logging.getLogger(__name__)

_FIND_DOCUMENT = 60.0
"""Seconds in which a peer is looked for that has a document, before that is logged."""
_PUBLISH_AGAIN = 60.0
"""Seconds after which a path that cannot be published is tried again."""


class Member:
    """What the API, the page and the commands ask. For the trio thread only.

    Args:
        node: runs as long as this is used.
        nursery: where what the configuration names is published and opened.
        content: publishes and fetches by the node.
        logs: the program's.
    """

    def __init__(self, node: Node, nursery: trio.Nursery, content: Content, logs: LogLines) -> None:
        self.node = node
        self.content = content
        self.logs = logs
        self.transfers = Transfers()
        self.exposures: list[Exposure] = []
        self.socket: Path | None = None
        """Where the API listens, if it does."""
        self.page = ""
        """The address of the web page, if there is one."""
        self.started_at = trio.current_time()
        self._nursery = nursery
        self._documents: dict[str, SharedDocument] = {}

    def summary(self) -> str:
        """How it is, in a line."""
        served = sum(1 for _ in self.content.publications())
        return f"{len(self.node.peers())} peers connected, {served} publications served"

    # --- what the configuration names ---

    def serve(self, config: MemberConfig) -> None:
        """Begin to serve what is named. What is not there yet is tried again, and logged.

        Raises:
            ConfigError: a port or a peer that is none.
        """
        self._expose(config)
        for path in config.publish:
            self._nursery.start_soon(self._keep_published, path)
        for document in config.documents:
            self._nursery.start_soon(self._keep_open, document)

    def _expose(self, config: MemberConfig) -> None:
        from lattica.rpc.ports.endpoints import split_named

        for spec in config.expose:
            name, target = split_named(spec)
            try:
                exposure = self.node.ports.expose(target, name=name, to=config.expose_to or None)
            except LatticaError as error:
                raise ConfigError(f"node.expose: {spec!r}: {error}") from None
            self.exposures.append(exposure)
            how = "to those in node.expose_to" if exposure.key is None else f"key {exposure.key}"
            logger.info("exposing %s as %s, %s", exposure.target, exposure.name, how)

    async def _keep_published(self, path: Path) -> None:
        while True:
            try:
                ticket = await self.publish(path, None, lambda _: None)
            except LatticaError as error:
                logger.warning(
                    "%s is not served: %s; trying again in %g s", path, error, _PUBLISH_AGAIN
                )
                await trio.sleep(_PUBLISH_AGAIN)
                continue
            logger.info("serving %s: %s", path, ticket)
            return

    async def _keep_open(self, document: str) -> None:
        while True:
            try:
                opened = await self.open_document(document, timeout=_FIND_DOCUMENT)
            except TimeoutError as error:
                logger.warning("document %s is not open: %s; looking on", document, error)
                continue
            except LatticaError as error:
                logger.error("document %s cannot be opened: %s", document, error)
                return
            logger.info("document %s is open: %s", opened.name, opened.id)
            return

    # --- what is asked ---

    async def publish(
        self,
        path: Path,
        name: str | None,
        progress: Callable[[HashProgress], object],
        *,
        follow_links: bool = False,
        sign: bool = False,
        rate: float = math.inf,
        repo: RevisionRef | None = None,
    ) -> Ticket:
        """Hash a file or directory, and serve it until the node ends or it is unpublished.

        Raises what :meth:`lattica.content.Publisher.publish` does.
        """
        with self.transfers.begin("publish", str(path), name or path.name) as transfer:

            def note(event: HashProgress) -> None:
                transfer.update(event)
                progress(event)

            return await self.content.publish(
                path,
                name,
                note,
                announce_timeout=10.0,
                follow_links=follow_links,
                sign=sign,
                rate=rate,
                repo=repo,
            )

    async def publish_in(
        self,
        registry: RegistryRef,
        path: Path,
        name: str | None,
        progress: Callable[[HashProgress], object],
        *,
        follow_links: bool = False,
        sign: bool = False,
        rate: float = math.inf,
        repo: RevisionRef | None = None,
    ) -> tuple[Ticket, RegistryRef]:
        """Publish as :meth:`publish` does, and have a name in a document lead to it: the version is
        returned. The document stays open until the node ends. Where that fails, nothing new is
        served.

        Raises :func:`~lattica.content.names.registry.open_registry`'s errors, too, and
        :class:`LocalProtocolError` where the version has other content, or the node may not write.
        """
        from lattica.content.names.registry import open_registry

        async with open_registry(self.node, registry) as place:  # before all of it is hashed
            served = {publication.cid for publication, _ in self.content.publications()}
            ticket = await self.publish(
                path, name, progress, follow_links=follow_links, sign=sign, rate=rate, repo=repo
            )
            try:
                version = place.publish(ticket.cid)
                await self.open_document(registry.document)
            except LatticaError:
                if ticket.cid not in served:
                    self.content.unpublish(ticket)
                raise
        return ticket, replace(registry, version=version)

    async def fetch(
        self,
        ref: str,
        directory: Path,
        tensors: str | None,
        options: FetchOptions,
        progress: Callable[[FetchEvent], object],
        *,
        ranges: Sequence[ByteRange] = (),
    ) -> FetchResult:
        """Fetch into a directory. Raises what :func:`lattica.content.fetch` does."""
        with self.transfers.begin("fetch", str(directory), ref) as transfer:

            def note(event: FetchEvent) -> None:
                transfer.update(event)
                progress(event)

            return await self.content.fetch(ref, directory, tensors, options, note, ranges=ranges)

    async def follow(
        self,
        name: str,
        directory: Path,
        tensors: str | None,
        options: FetchOptions,
        progress: Callable[[FetchEvent], object],
        *,
        on_version: Callable[[FetchResult], Awaitable[object]],
        on_problem: Callable[[LatticaError], Awaitable[object]],
    ) -> None:
        """Keep a directory what a name leads to, until cancelled.

        Raises what :func:`lattica.content.names.following.follow` does.
        """
        with self.transfers.begin("follow", str(directory), name) as transfer:

            def note(event: FetchEvent) -> None:
                transfer.update(event)
                progress(event)

            async def is_there(result: FetchResult) -> None:
                transfer.rest("done")
                await on_version(result)

            async def has_failed(error: LatticaError) -> None:
                transfer.rest("failed")
                await on_problem(error)

            await self.content.follow(
                name,
                directory,
                tensors,
                options,
                note,
                on_version=is_there,
                on_problem=has_failed,
            )

    async def open_document(
        self,
        document: str,
        *,
        capability: bytes | None = None,
        timeout: float = 30.0,
        must_exist: bool = False,
    ) -> SharedDocument:
        """Open a document, and replicate it until the node ends; see :meth:`Store.open`."""
        opened = await self.node.store.open(
            document, capability=capability, timeout=timeout, must_exist=must_exist
        )
        self.keep(opened)
        return opened

    def keep(self, document: SharedDocument) -> None:
        """Know a document that is open."""
        self._documents[document.id] = document

    @property
    def documents(self) -> dict[str, SharedDocument]:
        """Those that are open, by ID."""
        return {name: each for name, each in self._documents.items() if each.is_open}
