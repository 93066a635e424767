"""What a fetch has so far, served to others who fetch the same."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from lattica.content.download.ledger import Ledger
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan
from lattica.content.manifest.lists import encode_list
from lattica.content.manifest.manifest import ListNotLoadedError
from lattica.content.publish.served import NotHereError, check_span
from lattica.content.publish.service import ContentService, serving
from lattica.content.swarm.holdings import Holdings
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)


class SharedFetch:
    """The chunks that are on disk; see :class:`~lattica.content.publish.served.Served`.

    Each is hashed again before it is sent: others may write to the files, too.
    """

    def __init__(self, plan: Plan, files: PartialFiles, encoded: bytes) -> None:
        self._plan = plan
        self._files = files
        self.encoded = encoded
        self.holdings = Holdings(plan.manifest.chunk_count)

    def serve(self, node: Host, stack: ExitStack) -> ContentService | None:
        """Serve this to others until `stack` ends; None where that cannot be."""
        try:
            return stack.enter_context(serving(node, {self._plan.cid: self}.get))
        except LocalProtocolError as error:  # the application serves the protocol itself
            logger.info("what is fetched is not shared: %s", error)
            return None

    @property
    def name(self) -> str:
        """The publication's."""
        return self._plan.manifest.name

    @property
    def chunk_count(self) -> int:
        """How many chunks the manifest has."""
        return self._plan.manifest.chunk_count

    def add(self, number: int) -> None:
        """One of the plan's chunks is on disk, and with it all that are the same."""
        if self._plan.keeps_whole(number):
            self.holdings.add(self._plan.same_as(number))

    def add_counted(self, ledger: Ledger) -> None:
        """All of the plan's chunks that are on disk as the ledger says."""
        for number in self._plan.chunks:
            if not ledger.lacks(number):
                self.add(number)

    def chunk_list(self, number: int) -> bytes:
        """A list of chunks, where it was loaded. Raises as `Served` says."""
        try:
            return encode_list(self._plan.manifest, number)
        except ListNotLoadedError:
            raise NotHereError("this list of chunks is not here") from None

    def check_span(self, first: int, count: int, offset: int = 0) -> None:
        """Check a request; raises as :class:`~lattica.content.publish.served.Served` says."""
        try:
            check_span(self._plan.manifest, first, count, offset)
        except ListNotLoadedError:
            raise NotHereError("these chunks are not here") from None

    def read_span(self, first: int, count: int) -> bytes:
        """Read chunks; blocking. Raises :class:`NotHereError`, and :class:`OSError`."""
        parts = []
        for number in range(first, first + count):
            data = None
            if number in self.holdings:
                digest = self._plan.manifest.chunk(number).digest
                known = self._plan.number_of(digest)
                data = None if known is None else self._files.read(known)
            if data is None:
                raise NotHereError("a chunk is not here, or not yet")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)
