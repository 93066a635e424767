"""Getting the lists of chunks that a manifest refers to, from one provider after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from lattica.content.download.contact import Contact, Retries
from lattica.content.download.link import RETRIED, Link
from lattica.content.download.options import FetchOptions
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.lists import NumberedList, lists_in, with_lists
from lattica.content.manifest.manifest import Manifest
from lattica.content.pace import Pace
from lattica.nat.base.errors import LatticaError

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""In a row without a list, at a provider that is not the last one."""


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
        self, manifest: Manifest, numbers: set[int], contacts: Sequence[Contact]
    ) -> Manifest:
        """The manifest with these lists.

        Raises:
            RemoteProtocolError: a list is not what the manifest says of it.
            LatticaError: nobody sends them; what was the matter with the first.
        """
        left = {one.number: one for one in lists_in(manifest) if one.number in numbers}
        got: dict[int, bytes] = {}
        failed: Exception | None = None
        for index, contact in enumerate(contacts):
            try:
                await self._ask(contact, left, got, is_last=index == len(contacts) - 1)
            except (LatticaError, TimeoutError) as error:
                logger.info("no lists of chunks from %s: %s", contact.peer_id, error)
                failed = failed or error
            if not left:
                return await trio.to_thread.run_sync(with_lists, manifest, got)
        raise failed or ContentError("nobody sends the lists of chunks")

    async def _ask(
        self,
        contact: Contact,
        left: dict[int, NumberedList],
        got: dict[int, bytes],
        *,
        is_last: bool,
    ) -> None:
        """Get what is left from one peer, again and again while connections get lost."""
        while left:
            before = len(got)
            try:
                async with await contact.open() as stream:
                    link = Link(stream, self.cid, self.options, contact.kept, self.pace)
                    try:
                        await link.lists(list(left.values()), got)
                    finally:
                        for number in got.keys() & left.keys():
                            del left[number]
            except RETRIED as error:
                gained = len(got) > before
                if not is_last and not gained and contact.failures >= _ATTEMPTS:
                    raise
                pause = self.retries.pause(contact, error, gained=gained)
                self.on_retry(error, pause)
                await trio.sleep(pause)
        contact.failures = 0
