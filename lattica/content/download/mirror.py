"""A publication that is read before it is here: fetched as far as somebody reads, and kept.

Where :func:`~lattica.content.fetch` gets everything and ends, a mirror goes on: whoever reads a
range of a file causes what is missing of it to be fetched, from all who have some of it, and a
little more ahead. What has come lies in a directory like that of a fetch, is served to others as
long as the mirror runs, and is there the next time.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from lattica.content.download.ledger import Ledger
from lattica.content.download.local.files import LocalChunk
from lattica.content.download.obtaining import Changes, Obtaining, Surroundings
from lattica.content.download.options import FetchOptions
from lattica.content.download.partial.journaled import count_journaled
from lattica.content.download.partial.partial_files import PartialFiles
from lattica.content.download.plan import Plan
from lattica.content.download.providers.contact import Contact, Retries
from lattica.content.download.shared import SharedFetch
from lattica.content.errors import ContentError, ContentNotFoundError, IntegrityError
from lattica.content.manifest.chunking import FileState
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import Manifest
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.publish.served import NotHereError
from lattica.content.swarm.providers import ProviderFinder
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.limits.pace import Pace
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_READ_AHEAD = 64 * 1024 * 1024
"""Bytes that are fetched beyond what is being read, where so much is to be read."""
_ASKED_AT_ONCE = _READ_AHEAD // 4
_HURRY_AFTER = 2.0
"""Seconds that a reader waits for a chunk before it is asked for ahead of others."""


class Mirror:
    """One publication, read from as many tasks as there are while :meth:`run` runs.

    Args:
        encoded: the bytes of the manifest, for others who ask for it.
        directory: where its files are, and its unfinished ones; of no other fetch meanwhile.
        contacts: who is asked first; made for this mirror.
        elsewhere: by digest, where on this disk chunks lie that need not be fetched; they are
            compared with their hashes when they are copied.
    """

    def __init__(
        self,
        node: Host,
        cid: Cid,
        manifest: Manifest,
        encoded: bytes,
        directory: Path,
        contacts: Sequence[Contact],
        options: FetchOptions | None = None,
        finder: ProviderFinder | None = None,
        elsewhere: Mapping[bytes, LocalChunk] | None = None,
    ) -> None:
        self._node = node
        self._options = options or FetchOptions()
        self._finder = finder
        self._contacts = contacts
        self._elsewhere = dict(elsewhere or {})
        self._copying: set[int] = set()
        self._plan = Plan(cid, manifest)
        self._files = PartialFiles(self._plan, directory)
        self._shared = SharedFetch(self._plan, self._files, encoded)
        self._index = {file.path: index for index, file in enumerate(manifest.files)}
        self._obtaining: Obtaining | None = None
        self._changes = Changes()
        self._scope = trio.CancelScope()
        self.failure: LatticaError | None = None
        """Why it has ended; whoever reads has this raised."""

    def __repr__(self) -> str:
        return f"<Mirror of {self._plan.manifest.name!r}>"

    async def run(self) -> None:
        """Look at what is here, then obtain and serve until it is cancelled.

        Returns when nobody is left to ask, or the disk refuses: :attr:`failure` says what it was.
        """
        try:
            with self._scope, self._files, ExitStack() as stack:
                await self._run(stack)
        except LatticaError as error:
            self.failure = error
        except OSError as error:  # a provider that does not answer in time, for one
            self.failure = ContentError(str(error) or type(error).__name__)
        finally:
            self.failure = self.failure or ContentError("it is mirrored no more")
            self._changes.tell()

    async def _run(self, stack: ExitStack) -> None:
        plan, shared = self._plan, self._shared
        self._files.verified = await trio.to_thread.run_sync(self._find_files)
        complete = frozenset(self._files.verified)
        ledger = await trio.to_thread.run_sync(Ledger, plan, complete)

        def ignore(*_: object) -> None:
            """Nobody is told."""

        await count_journaled(plan, self._files, ledger, ignore)
        shared.add_counted(ledger)
        service = shared.serve(self._node, stack)

        def on_chunks() -> None:
            self._changes.tell()
            if service is not None:
                service.tell()

        around = Surroundings(
            self._node,
            self._options,
            Retries(self._options),
            Pace(self._options.rate),
            self._finder,
            service is not None,
            on_chunks,
            ignore,
            ignore,
        )
        self._obtaining = Obtaining(around, plan, ledger, self._files, shared, on_demand=True)
        self._changes.tell()
        await self._obtaining.run(self._contacts)

    def _find_files(self) -> dict[int, FileState]:
        """Files that lie here and may be what they are called; blocking. Each chunk of them is
        hashed when it is read."""
        found = {}
        for index, output in enumerate(self._plan.outputs):
            try:
                status = os.stat(self._files.target(index), follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size == output.size:
                found[index] = FileState.of(status)
        return found

    def size(self, path: str) -> int:
        """Bytes of a file. Raises :class:`~lattica.errors.ContentNotFoundError`: there is none."""
        index = self._index.get(path)
        if index is None:
            raise ContentNotFoundError(f"{self._plan.manifest.name!r} has no file {path!r}")
        return self._plan.manifest.files[index].size

    async def read(self, path: str, start: int, end: int) -> AsyncGenerator[memoryview, None]:
        """The bytes from `start` to `end` (exclusive) of a file, in parts of at most 1 MiB.

        Every byte has been compared with its hash after it was read from disk. What is fetched is
        never more than 64 MiB ahead of what was taken from here.

        Raises:
            ContentNotFoundError: there is no such file, or nobody has what is missing.
            ContentError: it cannot be had; of the fault's kind.
        """
        manifest = self._plan.manifest
        end = min(end, self.size(path))
        if start >= end:
            return
        obtaining = await self._begun()
        table = manifest.files[self._index[path]].chunks
        base = manifest.first_chunk(self._index[path])
        index, stop = table.index_at(start), table.index_at(end - 1) + 1
        asked = index
        while index < stop:
            offset = table[index].offset
            if asked < stop and table[asked].offset < offset + _READ_AHEAD - _ASKED_AT_ONCE:
                until = min(stop, table.index_at(offset + _READ_AHEAD))
                self._ask(obtaining, base + asked, base + until)
                asked = until
            await self._wait(obtaining, base + index)
            count, size = 1, table[index].length
            while (
                index + count < stop
                and base + index + count in self._shared.holdings
                and size + table[index + count].length <= MAX_SPAN_BYTES
            ):
                size += table[index + count].length
                count += 1
            data = memoryview(await self._read_span(base + index, count))
            yield data[max(0, start - offset) : end - offset]
            index += count

    async def _begun(self) -> Obtaining:
        """Wait until it is known what is here."""
        while self._obtaining is None:
            if self.failure is not None:
                raise self.failure
            await self._changes.wait(math.inf)
        return self._obtaining

    def _ask(self, obtaining: Obtaining, first: int, last: int) -> None:
        wanted = {self._known(n) for n in range(first, last) if not self._is_elsewhere(n)}
        obtaining.ask(wanted - self._copying)

    def _known(self, number: int) -> int:
        """The first chunk with the same bytes, which is the one to obtain."""
        known = self._plan.number_of(self._plan.manifest.chunk(number).digest)
        assert known is not None, "a plan of everything has every chunk"
        return known

    def _is_elsewhere(self, number: int) -> bool:
        """Whether a chunk lies elsewhere on this disk, as far as is known."""
        return self._plan.manifest.chunk(number).digest in self._elsewhere

    async def _copy(self, number: int, obtaining: Obtaining) -> None:
        """Copy a chunk that lies elsewhere on this disk."""
        local = self._elsewhere.pop(self._plan.manifest.chunk(number).digest)
        known = self._known(number)
        self._copying.add(known)
        try:
            data = await trio.to_thread.run_sync(local.read)
            await trio.to_thread.run_sync(self._files.write, known, 1, data, "this disk")
            obtaining.copied([known])
        except IntegrityError:
            logger.info("%s has changed; the chunk is fetched", local.path)
        finally:
            self._copying.discard(known)
            self._changes.tell()

    async def _wait(self, obtaining: Obtaining, number: int) -> None:
        """Until a chunk is here."""
        hurried = False
        began = trio.current_time()
        while number not in self._shared.holdings:
            if self.failure is not None:
                raise self.failure
            if self._is_elsewhere(number):
                await self._copy(number, obtaining)
                continue
            self._ask(obtaining, number, number + 1)
            if not hurried and trio.current_time() - began > _HURRY_AFTER:
                obtaining.hurry(self._known(number))
                hurried = True
            await self._changes.wait(_HURRY_AFTER)

    async def _read_span(self, first: int, count: int) -> bytes:
        try:
            return await trio.to_thread.run_sync(self._shared.read_span, first, count)
        except NotHereError:
            # Whoever comes next has it fetched again: what is here then is looked at anew.
            path = self._files.target(self._plan.manifest.locate(first)[0])
            logger.warning("%s is not any more what was fetched; it is removed", path)
            await trio.to_thread.run_sync(lambda: path.unlink(missing_ok=True))
            self.failure = ContentError(f"{path} is not any more what was fetched")
            self._scope.cancel()
            raise self.failure from None
