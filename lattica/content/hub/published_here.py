"""What a node publishes itself, for its own door: read where it lies, and copied nowhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from lattica.content.errors import ContentError, ContentNotFoundError
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.lists import with_lists
from lattica.content.manifest.verifying import verified_chunks
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.publish.served import Served


class PublishedHere:
    """One publication of this node's own, read like a :class:`Mirror` and by as many tasks.

    Made in a thread: the manifest is read.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        manifest = decode_manifest(served.encoded)
        lists = {number: served.chunk_list(number) for number in range(manifest.list_count)}
        self._manifest = manifest = with_lists(manifest, lists)
        self._index = {file.path: index for index, file in enumerate(manifest.files)}
        self.failure: ContentError | None = None
        """Why it can be read here no more, once it was found."""

    def size(self, path: str) -> int:
        """Bytes of a file. Raises :class:`~lattica.errors.ContentNotFoundError`: there is none."""
        index = self._index.get(path)
        if index is None:
            raise ContentNotFoundError(f"{self._manifest.name!r} has no file {path!r}")
        return self._manifest.files[index].size

    async def read(self, path: str, start: int, end: int) -> AsyncGenerator[memoryview, None]:
        """The bytes from `start` to `end` (exclusive) of a file, in parts of at most 1 MiB.

        Raises:
            ContentNotFoundError: there is no such file.
            ContentError: it is not any more what was published, or cannot be read; then
                :attr:`failure` says so, too.
        """
        end = min(end, self.size(path))
        if start >= end:
            return
        table = self._manifest.files[self._index[path]].chunks
        base = self._manifest.first_chunk(self._index[path])
        index, stop = table.index_at(start), table.index_at(end - 1) + 1
        while index < stop:
            offset = table[index].offset
            count, size = 1, table[index].length
            while index + count < stop and size + table[index + count].length <= MAX_SPAN_BYTES:
                size += table[index + count].length
                count += 1
            data = memoryview(await trio.to_thread.run_sync(self._read_span, base + index, count))
            yield data[max(0, start - offset) : end - offset]
            index += count

    def _read_span(self, first: int, count: int) -> bytes:
        try:
            data = self.served.read_span(first, count)
            for _ in verified_chunks(self._manifest, first, count, data, "this node"):
                pass
        except ContentError as error:
            self.failure = error
            raise
        except OSError as error:
            self.failure = ContentError(f"what is published here cannot be read: {error}")
            raise self.failure from None
        return data
