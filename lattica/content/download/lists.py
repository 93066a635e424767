"""Getting the lists of chunks that a manifest refers to, from whoever sends them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import trio

from lattica.content.download.options import FetchOptions
from lattica.content.download.providers.contact import Contact, Retries
from lattica.content.download.providers.link import RETRIED, Link
from lattica.content.download.providers.staggered import ask_staggered
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.lists import NumberedList, lists_in, with_lists
from lattica.content.manifest.manifest import Manifest
from lattica.nat.base.limits.pace import Pace

logger = logging.getLogger(__name__)

_STARTS = (0.0, 0.5, 0.25, 0.75)
"""Where among the lists one begins, and the next ones, so that they bring different ones."""


@dataclass(frozen=True, slots=True)
class ListSource:
    """How lists are got: of one publication, by one fetch."""

    cid: Cid
    options: FetchOptions
    pace: Pace
    retries: Retries
    on_retry: Callable[[Exception, float], object]
    """A provider was lost, and is tried again after so many seconds."""

    async def load(
        self, manifest: Manifest, numbers: set[int], contacts: AsyncGenerator[Contact, None]
    ) -> Manifest:
        """The manifest with these lists. As long as some are missing, every few seconds another
        provider is asked for them, too.

        Raises:
            RemoteProtocolError: a list is not what the manifest says of it.
            LatticaError: nobody sends them; what was the matter with the first.
        """
        missing = {one.number: one for one in lists_in(manifest) if one.number in numbers}
        got: dict[int, bytes] = {}
        starts = cycle(_STARTS)
        failures: list[Exception] = []

        async def ask(contact: Contact) -> None:
            await self._ask(contact, missing, got, next(starts))

        def failed(contact: Contact, error: Exception) -> None:
            logger.info("no lists of chunks from %s: %s", contact.peer_id, error)
            failures.append(error)

        if not await ask_staggered(contacts, ask, failed):
            raise failures[0] if failures else ContentError("nobody sends the lists of chunks")
        return await trio.to_thread.run_sync(with_lists, manifest, got)

    async def _ask(
        self,
        contact: Contact,
        missing: dict[int, NumberedList],
        got: dict[int, bytes],
        start: float,
    ) -> None:
        """Get what is missing from one peer, again and again while connections get lost."""
        order = sorted(missing)
        middle = int(start * len(order))
        order = order[middle:] + order[:middle]

        def left() -> Iterator[NumberedList]:
            return (missing[number] for number in order if number not in got)

        while len(got) < len(missing):
            before = len(got)
            try:
                async with await contact.open() as stream:
                    link = Link(stream, self.cid, self.options, contact.kept, self.pace)
                    await link.lists(left(), got)
            except RETRIED as error:
                gained = len(got) > before
                if gained:
                    self.retries.last_gain = trio.current_time()
                pause = self.retries.pause(contact, error, gained=gained)
                self.on_retry(error, pause)
                await trio.sleep(pause)
        contact.failures = 0
