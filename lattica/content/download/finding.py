"""From a ticket or content id to the manifest, and to those who may have the rest."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import trio

from lattica.content.download.lists import ListSource
from lattica.content.download.options import FetchOptions
from lattica.content.download.providers.contact import Contact, Retries
from lattica.content.download.providers.link import RETRIED, Link
from lattica.content.download.providers.staggered import STAGGER, ask_staggered
from lattica.content.errors import ContentNotFoundError, TicketError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.lists import with_lists
from lattica.content.manifest.manifest import Manifest
from lattica.content.manifest.signing import check_signer
from lattica.content.publish.served import Served
from lattica.content.publish.service import served_here
from lattica.content.swarm.messages import Member
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.limits.pace import Pace
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

SelectLists: TypeAlias = Callable[[Manifest], set[int]]
"""Which lists of chunks of a manifest are needed, by their numbers."""
OnRetry: TypeAlias = Callable[[Exception, float], object]
"""Told of what went wrong, and for how many seconds is waited."""
_CID_START = "bafkrei"
"""Of every content id as text."""
_ENOUGH = 32 * 1024
"""Bytes of a manifest in a second at which nobody else is asked for it."""
_CONNECTED_ASKED = 8
"""Peers that are connected anyway, and are asked where no other provider is known."""


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest with the lists of chunks that were wanted, the bytes of its first level, and whom
    to ask for the rest: who has sent it, before others."""

    manifest: Manifest
    encoded: bytes
    contacts: tuple[Contact, ...]
    here: Served | None = None
    """This node serves it itself."""


def _ignore(error: Exception, pause: float) -> None:
    """For who shows nothing."""


class ManifestSource:
    """Finds the manifest of one content id.

    Args:
        named: those that are asked first.
        reads_here: what this node serves itself is read, and nobody is asked for it.
        pace, retries: of the fetch that it is for.
    """

    def __init__(
        self,
        node: Host,
        cid: Cid,
        named: Sequence[Member],
        options: FetchOptions,
        finder: ProviderFinder | None,
        *,
        reads_here: bool = True,
        pace: Pace | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._node = node
        self._cid = cid
        self.here = served_here(node, cid) if reads_here else None
        """What this node serves itself."""
        self._named = named
        if self.here is not None:
            self._named = [member for member in named if member.peer_id != node.peer_id]
        self._options = options
        self._finder = finder
        self._pace = pace or Pace(options.rate)
        self._retries = retries or Retries(options)

    async def find(self, select: SelectLists, on_retry: OnRetry = _ignore) -> FoundManifest:
        """Those that were named are asked before others, and nobody is waited for alone. Lists of
        chunks are loaded as selected."""
        here = self.here
        contacts: tuple[Contact, ...] = ()
        if here is not None:
            encoded = here.encoded
        else:
            first, encoded = await self._get_manifest(on_retry)
            contacts = (first,)
        known = {contact.peer_id for contact in contacts}
        contacts += tuple(
            Contact(self._node, member.peer_id, member.addrs)
            for member in self._named
            if member.peer_id not in known
        )
        manifest = await trio.to_thread.run_sync(decode_manifest, encoded)
        if self._options.signed_by is not None:
            check_signer(manifest, self._cid, self._options.signed_by)
        numbers = await trio.to_thread.run_sync(select, manifest)
        if numbers and here is not None:
            read = here.chunk_list
            manifest = await trio.to_thread.run_sync(
                lambda: with_lists(manifest, {number: read(number) for number in numbers})
            )
        elif numbers:
            retries = self._retries
            source = ListSource(self._cid, self._options, self._pace, retries, on_retry)
            manifest = await source.load(manifest, numbers, self._for_lists(contacts))
        return FoundManifest(manifest, encoded, contacts, here)

    async def _for_lists(self, contacts: tuple[Contact, ...]) -> AsyncGenerator[Contact, None]:
        """Whom to ask for lists of chunks: those that are known, and then others."""
        known = {contact.peer_id for contact in contacts}
        for contact in contacts:
            yield contact
        for member in await self.find_unnamed():
            if member.peer_id not in known:
                yield Contact(self._node, member.peer_id, member.addrs)

    async def _get_manifest(self, on_retry: OnRetry) -> tuple[Contact, bytes]:
        """The bytes of the manifest, and who has sent them."""
        found: list[tuple[Contact, bytes]] = []
        failures: list[Exception] = []

        async def ask(member: Member) -> None:
            found.append(await self._manifest_from(member, on_retry))

        def failed(member: Member, error: Exception) -> None:
            logger.debug("no manifest from %s: %s", member.peer_id, error)
            if member in self._named:
                failures.append(error)

        async def members() -> AsyncGenerator[Member, None]:
            for member in self._named:
                yield member
            for member in await self.find_unnamed():
                yield member

        passed = self._pace.passed

        def is_enough() -> bool:
            """Two that bring the same have half of a slow link each."""
            nonlocal passed
            came, passed = self._pace.passed - passed, self._pace.passed
            return came >= min(_ENOUGH, self._pace.rate / 2) * STAGGER

        if await ask_staggered(members(), ask, failed, is_enough):
            return found[0]
        if failures:
            raise failures[0]
        raise ContentNotFoundError(
            f"nobody is known who serves {self._cid}; give a ticket, or connect to a peer that has "
            "it"
        )

    async def find_unnamed(self) -> list[Member]:
        """Others who may have it, where those that were named have failed."""
        known = {member.peer_id for member in self._named} | {self._node.peer_id}
        found: list[Member] = []
        if self._finder is not None:
            try:
                found += await self._finder.find_providers(self._cid)
            except LatticaError as error:
                logger.info("no providers were found: %s", error)
        if self._options.share:
            found += [Member(s.peer_id, ()) for s in self._node.peers()[:_CONNECTED_ASKED]]
        return [member for member in found if member.peer_id not in known]

    async def _manifest_from(self, member: Member, on_retry: OnRetry) -> tuple[Contact, bytes]:
        """Get it from one peer, again and again while connections get lost.

        The first connection is tried once: a wrong address should not be waited for.
        """
        contact = Contact(self._node, member.peer_id, member.addrs, is_first=True)
        while True:
            gained = False
            try:
                async with await contact.open() as stream:
                    link = Link(stream, self._cid, self._options, contact.kept, self._pace)
                    return contact, await link.manifest()
            except RETRIED as error:
                if not contact.is_connected:
                    raise
                pause = self._retries.pause(contact, error, gained=gained)
                logger.info("lost the provider: %s; trying again in %.1f s", error, pause)
                on_retry(error, pause)
            await trio.sleep(pause)


def _all_lists(manifest: Manifest) -> set[int]:
    return set(range(manifest.list_count))


async def find_manifest(
    node: Host,
    cid: Cid,
    named: Sequence[Member],
    *,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
    select: SelectLists = _all_lists,
    reads_here: bool = False,
) -> FoundManifest:
    """Get a manifest from one of those that are named, or from others who have it.

    `reads_here`: where this node serves it itself, it comes from there (`FoundManifest.here`).

    `select` says which lists of chunks are loaded with it, by their numbers; by default all are.

    Raises what :func:`fetch` does.
    """
    options = options or FetchOptions()
    source = ManifestSource(node, cid, named, options, finder, reads_here=reads_here)
    return await source.find(select)


async def find_others(
    node: Host,
    cid: Cid,
    named: Sequence[Member],
    *,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> list[Member]:
    """Who may have something, beside those that are named: connected peers, and who is found."""
    source = ManifestSource(node, cid, named, options or FetchOptions(), finder)
    return await source.find_unnamed()


async def fetch_manifest(
    node: Host,
    ref: Ticket | Cid | str,
    *,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> Manifest:
    """What a ticket, or a content id, names: files, chunks and tensors, and none of their bytes.

    Raises what :func:`fetch` does.
    """
    cid, named = named_by(ref)
    found = await find_manifest(node, cid, named, options=options, finder=finder, reads_here=True)
    return found.manifest


def named_by(ref: Ticket | Cid | str) -> tuple[Cid, list[Member]]:
    """What a ticket or content id, or its text, names, and who has it as far as it says.

    Raises :class:`TicketError`: it is none.
    """
    ref = parse_ref(ref) if isinstance(ref, str) else ref
    if not isinstance(ref, Ticket | Cid):
        raise TicketError(f"pass a Ticket or its text, not {ref!r:.100}")
    if isinstance(ref, Cid):
        return ref, []
    return ref.cid, [Member(ref.peer_id, ref.addrs)]


def parse_ref(text: str) -> Ticket | Cid:
    """What a person gave to say what is to be fetched; raises :class:`TicketError`."""
    text = text.strip()
    return Cid.parse(text) if text.startswith(_CID_START) else Ticket.parse(text)
