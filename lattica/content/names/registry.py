"""Names that live in a replicated document: `crdt:DOCUMENT/MODEL` is what its registry of models
(:class:`~lattica.crdt.uses.model_registry.ModelRegistry`) says is in use.

Who may say so is a matter of the document's rights, and not of one key; and whoever has the
document knows it, also while its writers are away.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lattica.content.download.finding import named_by, parse_ref
from lattica.content.errors import NameNotFoundError, TicketError
from lattica.content.manifest.cid import Cid
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.crdt.uses.model_registry import ModelVersion
    from lattica.node import Node

logger = logging.getLogger(__name__)

PREFIX = "crdt:"
_TIMEOUT = 15.0
"""Seconds to find a peer that has the document, and to be in step with it."""
_AGAIN = 10.0
"""Seconds after which what could not be fetched is tried again."""


@dataclass(frozen=True, slots=True)
class RegistryRef:
    """A model in a document, and perhaps which version of it."""

    document: str
    """An ID, or a name."""
    model: str
    version: str | None = None
    """None: the one in use."""

    def __str__(self) -> str:
        version = "" if self.version is None else f"@{self.version}"
        return f"{PREFIX}{self.document}/{self.model}{version}"

    @classmethod
    def parse(cls, text: str) -> RegistryRef:
        """Parse `crdt:DOCUMENT/MODEL`, or `crdt:DOCUMENT/MODEL@VERSION`.

        Raises:
            TicketError: it is no such thing.
        """
        text = text.strip()
        document, _, place = text.removeprefix(PREFIX).rpartition("/")
        model, at, version = place.partition("@")
        if not text.startswith(PREFIX) or not document or not model or (at and not version):
            raise TicketError(f"{text!r:.200} is no crdt:DOCUMENT/MODEL or …/MODEL@VERSION")
        return cls(document, model, version or None)


def content_of(ref: RegistryRef, version: ModelVersion | None) -> Ticket | Cid:
    """What a version is fetched by: its content id with who has published it as the first to be
    asked, or its ticket.

    Raises:
        NameNotFoundError: there is no version, or its content is nothing that can be fetched.
    """
    if version is None:
        what = "no version of it is in use" if ref.version is None else "there is no such version"
        raise NameNotFoundError(f"the name {ref} leads nowhere: {what}")
    try:
        content = parse_ref(version.content)
    except TicketError as error:
        raise NameNotFoundError(f"the name {ref} leads to what is no content: {error}") from None
    if isinstance(content, Cid) and version.published_by is not None:
        return Ticket(content, version.published_by, ())
    return content


class RegistryName:
    """One name of a registry whose document is open. Made by :func:`open_registry`."""

    def __init__(self, node: Node, ref: RegistryRef, document: SharedDocument) -> None:
        from lattica.crdt.uses.model_registry import ModelRegistry

        self._node = node
        self._ref = ref
        self._document = document
        self._registry = ModelRegistry(document)

    def look_up(self) -> Ticket | Cid:
        """What it leads to as far as is known here. Raises :class:`NameNotFoundError`."""
        ref = self._ref
        if ref.version is None:
            version = self._registry.current(ref.model)
        else:
            versions = self._registry.versions(ref.model)
            version = next((each for each in versions if each.version == ref.version), None)
        content = content_of(ref, version)
        if isinstance(content, Ticket) and content.peer_id == self._node.peer_id:
            return content.cid
        return content

    async def resolve(self) -> Ticket | Cid:
        """What it leads to at the peers that have the document; as is known here without them.

        Raises :class:`NameNotFoundError`.
        """
        try:
            await self._document.synced(timeout=_TIMEOUT)
        except TimeoutError as error:
            try:
                return self.look_up()
            except NameNotFoundError as nothing:
                raise NameNotFoundError(f"{nothing} here, and {error}") from None
        return self.look_up()

    async def wait_other(self, known: Ticket | Cid) -> Ticket | Cid:
        """Wait until it leads elsewhere, however long it takes."""
        with self._document.changes() as changes:
            async for _ in _now_and(changes):
                try:
                    found = self.look_up()
                except NameNotFoundError as error:
                    logger.info("%s", error)
                    continue
                if named_by(found)[0] != named_by(known)[0]:
                    return found
        raise LocalProtocolError("the document was closed")

    async def again(self, known: Ticket | Cid) -> Ticket | Cid:
        """What it leads to after a while, or as soon as it leads elsewhere."""
        with trio.move_on_after(_AGAIN):
            return await self.wait_other(known)
        return known

    def publish(self, cid: Cid) -> str:
        """Have it lead to this from now on; returns the version. By default that is named after
        the content.

        Raises :class:`~lattica.errors.LocalProtocolError`: the version has other content, or this
        peer has no right to write there.
        """
        version = self._ref.version or str(cid)[7:19]
        self._registry.publish(self._ref.model, version, str(cid))
        self._registry.promote(self._ref.model, version)
        return version


async def _now_and(changes: AsyncIterator[object]) -> AsyncIterator[object]:
    """Once at the beginning, and at each change."""
    yield None
    async for change in changes:
        yield change


@asynccontextmanager
async def open_registry(node: Node, ref: RegistryRef) -> AsyncIterator[RegistryName]:
    """Open the document of a name; it is closed again where nobody else has it open.

    Raises:
        NameNotFoundError: no peer has it.
        LatticaError: it cannot be opened.
    """
    async with AsyncExitStack() as stack:
        try:
            borrowed = node.store.borrowed(ref.document, timeout=_TIMEOUT)
            document = await stack.enter_async_context(borrowed)
        except TimeoutError as error:
            raise NameNotFoundError(f"the name {ref} leads nowhere: {error}") from None
        yield RegistryName(node, ref, document)
