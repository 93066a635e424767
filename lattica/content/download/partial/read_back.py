"""Reading finished files back: nothing that was written counts until it has been."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from lattica.content.disk import read_exactly
from lattica.content.download.partial.holes import Hole, digests_of_holes, is_hole
from lattica.content.download.partial.seals import Seals
from lattica.content.download.plan import Piece, Placement, Plan
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES

WRITTEN_OUT_FROM = 16 * 1024 * 1024
"""Bytes of a file that is written out as it comes, and is at last compared by two threads while a
third one syncs it."""
_BATCH = 16
"""Chunks that such a thread takes at once."""


def go_on() -> None:
    """The checkpoint of who cannot be cancelled."""


def has(descriptor: int, at: int, data: bytes) -> bool:
    """Whether these bytes are there in a file. Raises :class:`OSError`."""
    found = memoryview(bytearray(len(data)))
    return read_exactly(descriptor, found, at) and found == data


class Written:
    """What was verified before it was written, so that it is known again. For several threads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seals = Seals(plan.manifest.chunk_count)
        self._part_digests: dict[tuple[int, int], bytes] = {}
        """By output and offset: hashes of what is kept of chunks that are not kept whole."""

    def seal(self, number: int, data: memoryview) -> None:
        """These bytes of a chunk have been verified."""
        self._seals.seal(number, data)

    def keep_part(self, place: Placement, part: memoryview) -> None:
        """Of a verified chunk only these bytes are kept."""
        self._part_digests[place.output, place.offset] = hashlib.sha256(part).digest()

    def sync_and_compare(
        self, descriptor: int, output: int, checkpoint: Callable[[], None]
    ) -> list[int]:
        """Sync a file; meanwhile hash it, and return the chunks that are not right in it."""
        item = self._plan.outputs[output]
        if not all(has(descriptor, at, data) for at, data in item.made):
            return [piece.number for piece in self._plan.pieces(output)]
        pieces = self._plan.pieces(output)
        if item.size < WRITTEN_OUT_FROM:
            os.fsync(descriptor)
            return self._compare(descriptor, output, pieces, checkpoint)
        take = threading.Lock()
        stop = threading.Event()

        def batches() -> Iterator[Piece]:
            while not stop.is_set():
                with take:
                    batch = list(islice(pieces, _BATCH))
                if not batch:
                    return
                yield from batch

        with ThreadPoolExecutor(2) as pool:
            syncing = pool.submit(os.fsync, descriptor)
            beside = pool.submit(self._compare, descriptor, output, batches(), go_on)
            try:
                lost = self._compare(descriptor, output, batches(), checkpoint)
            finally:
                stop.set()
            syncing.result()
            return lost + beside.result()

    def _compare(
        self,
        descriptor: int,
        output: int,
        pieces: Iterable[Piece],
        checkpoint: Callable[[], None],
    ) -> list[int]:
        buffer = memoryview(bytearray(min(MAX_CHUNK_BYTES, self._plan.outputs[output].size)))
        lost = []
        for piece in pieces:
            checkpoint()
            if piece.digest in digests_of_holes() and is_hole(
                descriptor, Hole(output, piece.offset, piece.length)
            ):
                continue
            data = buffer[: piece.length]
            if not read_exactly(descriptor, data, piece.offset) or not self._is(
                output, piece, data
            ):
                lost.append(piece.number)
        return lost

    def _is(self, output: int, piece: Piece, data: memoryview) -> bool:
        """Whether these bytes are a piece of an output."""
        digest = piece.digest
        if digest is None:
            digest = self._part_digests.get((output, piece.offset))
        elif (fits := self._seals.fits(piece.number, data)) is not None:
            return fits
        return hashlib.sha256(data).digest() == digest
